"""References that lead nowhere are named, with what was probably meant, and the rest applies."""

import pytest

from meshlib.controlplane.faults import ERROR
from meshlib.controlplane.validate import validate

BASE = """
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {selector: {app: catalog}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: catalog-v1, namespace: shop}
spec: {address: 127.0.0.1, labels: {app: catalog, version: v1}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: catalog, namespace: shop}
spec: {host: catalog, subsets: [{name: version-v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: outfitters, namespace: shop}
spec: {servers: [{port: {number: 80, protocol: HTTP}, hosts: ["*"]}]}
"""
HEAD = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x, namespace: shop}\n"
VS = "VirtualService shop/x: spec.http[0].route[0].destination"


def virtual_service(destination, gateways=""):
    return f"{HEAD}spec:\n  hosts: [catalog]\n{gateways}  http:\n  - route:\n    - destination: {destination}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (virtual_service("{host: catalog, subset: version-v1, port: {number: 80}}"), []),
        (
            virtual_service("{host: catlog}"),
            [
                f"x.yaml:8:27: error: {VS}.host: no service has the host 'catlog' (catlog.shop.svc.cluster.local) "
                "(did you mean 'catalog'?)"
            ],
        ),
        (
            virtual_service("{host: catalog.shop}"),
            [
                f"x.yaml:8:27: error: {VS}.host: no service has the host 'catalog.shop' "
                "(did you mean 'catalog.shop.svc.cluster.local'?)"
            ],
        ),
        (
            virtual_service("{host: catalog, subset: version-v2}"),
            [
                f"x.yaml:8:44: error: {VS}.subset: catalog.shop.svc.cluster.local has no subset 'version-v2' "
                "(did you mean 'version-v1'?); base.yaml:12 defines: version-v1"
            ],
        ),
        (
            virtual_service("{host: catalog, port: {number: 8080}}"),
            [f"x.yaml:8:51: error: {VS}.port.number: catalog.shop.svc.cluster.local has no port 8080; its ports: 80"],
        ),
        (
            virtual_service("{host: catalog}", "  gateways: [outfiters, mesh]\n"),
            [
                "x.yaml:6:14: error: VirtualService shop/x: spec.gateways[0]: gateway 'shop/outfiters' does not exist, "
                "so nothing is routed there (did you mean 'shop/outfitters'?)"
            ],
        ),
        (
            f"{HEAD.replace('VirtualService', 'DestinationRule')}spec: {{host: catlog, trafficPolicy: {{}}}}",
            [
                "x.yaml:4:14: warning: DestinationRule shop/x: spec.host: no service has the host 'catlog' "
                "(catlog.shop.svc.cluster.local) (did you mean 'catalog'?)"
            ],
        ),
        (
            f"{HEAD.replace('VirtualService', 'DestinationRule')}spec: {{host: catalog, subsets: "
            "[{name: v9, labels: {version: v9}}]}",
            [
                "x.yaml:4:33: warning: DestinationRule shop/x: spec.subsets[0]: "
                "subset 'v9' has no endpoint with its labels"
            ],
        ),
        (
            f"{HEAD.replace('VirtualService', 'DestinationRule')}spec: {{host: catalog, trafficPolicy: "
            "{tls: {mode: ISTIO_MUTUAL}}}",
            [
                "x.yaml:4:51: warning: DestinationRule shop/x: spec.trafficPolicy.tls.mode: the embedded control plane "
                "signs no certificates: calls fail unless the client has its own"
            ],
        ),
    ],
)  # fmt: skip
def test_references(text, expected):
    faults = validate({"base.yaml": BASE.encode(), "x.yaml": text.encode()})
    assert [str(fault) for fault in faults] == expected
    assert all(fault.applies for fault in faults)


def test_a_subset_of_a_host_without_rule():
    base = BASE.partition("---\napiVersion: networking.istio.io/v1\nkind: DestinationRule")[0]
    (fault,) = validate({"base.yaml": base.encode(), "x.yaml": virtual_service("{host: catalog, subset: v1}").encode()})
    assert fault.severity is ERROR
    assert "has no subset 'v1': no DestinationRule is for that host" in fault.message


def test_validate_sorts_by_place():
    bad = virtual_service("{host: nowhere}") + "---\n" + HEAD.replace("name: x", "name: y") + "spec: {hots: []}\n"
    faults = validate({"b.yaml": b"[", "base.yaml": BASE.encode(), "a.yaml": bad.encode()})
    assert [(fault.file, fault.line, fault.applies) for fault in faults] == [
        ("a.yaml", 8, True),
        ("a.yaml", 13, False),
        ("b.yaml", 2, False),
    ]
