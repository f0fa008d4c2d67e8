"""The kinds of Istio that say more than routes: what is wrong in them is told, and what a mesh without Istio has."""

import json
import textwrap

import pytest

from controlplane.captures import TYPES, plain
from meshlib.controlplane.documents import read
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.translate import translate

SERVICES = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: catalog, namespace: shop}
spec:
  hosts: [catalog.shop.svc.cluster.local]
  addresses: [10.96.0.10]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 3000}]
  endpoints: [{address: 127.0.0.11, labels: {app: catalog}, serviceAccount: catalog}]
"""
POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec: {}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: logs, namespace: shop}
spec: {accessLogging: [{providers: [{name: envoy}]}], tracing: [{randomSamplingPercentage: 5}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
"""
MESH = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
"""


def written(kind, spec, group="networking.istio.io", version="v1"):
    body = textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ")
    return (
        f"apiVersion: {group}/{version}\nkind: {kind}\nmetadata: {{name: it, namespace: shop}}\nspec:\n{body}\n"
    ).encode()


def faults(content):
    documents, found = read({"it.yaml": content})
    return documents, [f"{fault.line}:{fault.column}: {fault.message}" for fault in found]


@pytest.mark.parametrize(
    ("kind", "group", "spec", "where", "what"),
    [
        ("Sidecar", "networking", "egress: [{hosts: [catalog]}]", "5:21", "expected namespace/host"),
        ("Sidecar", "networking", "egress: [{hosts: []}]", "5:12", "with at least one namespace/host"),
        ("Sidecar", "networking", "egress:\n- {hosts: ['*/*']}\n- {hosts: ['./*']}", "6:5", "expected a port"),
        (
            "Sidecar",
            "networking",
            "ingress: [{port: {number: 80, protocol: HTTP, name: http}, defaultEndpoint: '10.0.0.1:80'}]",
            "5:",
            "expected 127.0.0.1:PORT",
        ),
        ("AuthorizationPolicy", "security", "action: ALOW", "5:11", "ALLOW"),
        ("AuthorizationPolicy", "security", "rules: [{when: [{key: source.ipp, values: [a]}]}]", "5:", "source.ip"),
        ("Telemetry", "telemetry", "tracing: [{randomSamplingPercentage: 101}]", "5:", "100"),
        ("Telemetry", "telemetry", "metrics: [{overrides: [{match: {metric: REQUESTS}}]}]", "5:", "REQUEST_COUNT"),
        ("RequestAuthentication", "security", "jwtRules: [{jwks: '{}'}]", "5:", "issuer"),
        ("WorkloadGroup", "networking", "template: {address: 10.0.0.1}", "5:", "address"),
        ("DestinationRule", "networking", "host: a\ntrafficPolicy: {tunnel: {targetPort: 1}}", "6:", "targetHost"),
    ],
)
def test_a_fault_is_told_with_its_place(kind, group, spec, where, what):
    documents, found = faults(written(kind, spec, f"{group}.istio.io"))
    assert len(found) == 1
    assert found[0].startswith(where)
    assert what in found[0]
    assert not any(getattr(documents, field) for field in documents.__dataclass_fields__)


def test_a_workload_group_is_read():
    documents, found = faults(
        written(
            "WorkloadGroup",
            """
            metadata: {labels: {app: vm}}
            template: {ports: {http: 80}, serviceAccount: vm, network: n}
            probe: {httpGet: {port: 80}}
            """,
        )
    )
    assert found == []
    assert documents.workload_groups[0].spec.template.ports == {"http": 80}


def test_a_value_of_an_envoy_filter_is_checked():
    spec = """
    configPatches:
    - applyTo: CLUSTER
      patch: {operation: MERGE, value: {connect_timeouts: 1s}}
    """
    documents, found = faults(written("EnvoyFilter", spec, version="v1alpha3"))
    assert found == []  # the reader leaves messages to the translation, as it does hosts
    _, told = translate(documents, sidecar())
    assert ["connect_timeouts" in fault.message for fault in told] == [True]


def sidecar():
    return Node(
        id="sidecar~127.0.0.21~web.shop~shop.svc.cluster.local", kind=NodeKind.SIDECAR, namespace="shop",
        metadata={"LABELS": {"app": "web"}},
    )  # fmt: skip


def served(*texts):
    documents, found = read({f"{index}.yaml": text.encode() for index, text in enumerate(texts)}, namespace="shop")
    assert not found
    resources, _ = translate(documents, sidecar())
    return {
        short: {name: plain(message) for name, message in resources.by_type[url].items()}
        for short, url in TYPES.items()
    }


def test_a_mesh_without_settings_has_nothing_of_istios_own():
    made = json.dumps(served(SERVICES, POLICIES))
    for mark in (
        "istio.stats",
        "istio.alpn",
        "metadata_exchange",
        "tlsMode",
        "virtualInbound",
        "inbound|",
        "access_log",
    ):
        assert mark not in made


def test_a_mesh_with_settings_is_istios():
    made = served(SERVICES, POLICIES, MESH)
    whole = json.dumps(made)
    for mark in ("istio.alpn", "tlsMode", "virtualInbound", "access_log"):
        assert mark in whole
    rules = json.dumps(made["LDS"]["virtualInbound"])
    assert "ns[shop]-policy[nobody]-rule[0]" in rules
