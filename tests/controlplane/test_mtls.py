"""PeerAuthentication, seen from the clients of a workload."""

import pytest

from controlplane.test_mesh_config import NAME, SIDECAR, config_map, served

PEER = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"""


def peer(spec, namespace="shop", name="x"):
    return PEER.format(name=name, namespace=namespace, spec=spec)


def asked(*policies):
    """Tell whether the cluster asks for mTLS, and which endpoints are marked for it."""
    resources, faults = served(SIDECAR, config_map("enableAutoMtls: true"), *policies)
    assert faults == []
    marks = [
        "envoy.transport_socket_match" in endpoint.metadata.filter_metadata
        for endpoint in resources.endpoints[NAME].endpoints[0].lb_endpoints
    ]
    return bool(resources.clusters[NAME].transport_socket_matches), marks


# The service's second endpoint has no proxy beside it, whatever a policy says.
BOTH, NEITHER = (True, [True, False]), (False, [False, False])


@pytest.mark.parametrize(
    ("policies", "wanted"),
    [
        ([], BOTH),
        ([peer("{mtls: {mode: STRICT}}")], BOTH),
        ([peer("{mtls: {mode: DISABLE}}")], NEITHER),
        ([peer("{mtls: {mode: DISABLE}}", "istio-system")], NEITHER),
        ([peer("{mtls: {mode: DISABLE}}", "elsewhere")], BOTH),
        ([peer("{mtls: {mode: DISABLE}}", "istio-system"), peer("{mtls: {mode: PERMISSIVE}}")], BOTH),
        ([peer("{mtls: {mode: UNSET}}"), peer("{mtls: {mode: DISABLE}}", "istio-system")], NEITHER),
        # A workload's policy says nothing of its service; the endpoint is not marked.
        ([peer("{selector: {matchLabels: {app: catalog}}, mtls: {mode: DISABLE}}")], (True, [False, False])),
        ([peer("{selector: {matchLabels: {app: other}}, mtls: {mode: DISABLE}}")], BOTH),
        (
            [peer("{selector: {matchLabels: {app: catalog}}, portLevelMtls: {'3000': {mode: DISABLE}}}")],
            (True, [False, False]),
        ),
        ([peer("{selector: {matchLabels: {app: catalog}}, portLevelMtls: {'3001': {mode: DISABLE}}}")], BOTH),
        ([peer("{mtls: {mode: DISABLE}}", name="a"), peer("{mtls: {mode: STRICT}}", name="b")], NEITHER),
        ([peer("")], BOTH),
    ],
)
def test_modes(policies, wanted):
    assert asked(*policies) == wanted


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{mtls: {mode: strict}}", "spec.mtls.mode: expected one of"),
        ("{portLevelMtls: {'80': {mode: STRICT}}}", "expected a selector with portLevelMtls"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {}}}", "expected the number of a workload's port"),
    ],
)
def test_what_is_wrong_is_told(spec, said):
    _, faults = served(SIDECAR, peer(spec))
    assert any(said in fault and fault.startswith("1.yaml:4:") for fault in faults), faults
