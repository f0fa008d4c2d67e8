"""The mesh's own settings: a ConfigMap ``istio`` as a cluster has it."""

import pytest
from google.protobuf import json_format

from controlplane import captures
from meshlib.controlplane.documents import read
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.translate import translate

SIDECAR = Node(kind=NodeKind.SIDECAR, namespace="shop", labels={"app": "webapp"}, metadata={"MESH_ID": "mesh-1"})
ROUTER = Node(kind=NodeKind.ROUTER, namespace="shop", labels={"istio": "ingressgateway"})
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {selector: {app: catalog}, ports: [{name: http, port: 80, targetPort: 3000}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: catalog-v1, namespace: shop}
spec: {address: 127.0.0.1, labels: {app: catalog}, serviceAccount: catalog}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: catalog-v2, namespace: shop}
spec: {address: 127.0.0.2, labels: {app: catalog, security.istio.io/tlsMode: disabled}, serviceAccount: catalog}
"""
NAME = "outbound|80||catalog.shop.svc.cluster.local"
MESH = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  meshNetworks: "networks: {}"
  mesh: |
    trustDomain: shop.example
"""


def config_map(*lines):
    return MESH + "".join(f"    {line}\n" for line in lines)


def served(node, *texts):
    documents, faults = read({f"{index}.yaml": text.encode() for index, text in enumerate((SERVICE, *texts))})
    return translate(documents, node)[0], [str(fault) for fault in faults]


def plain(message):
    return captures.plain(message)


def test_without_one_nobody_is_asked_for_mtls_and_stock_envoys_can_take_all():
    resources, _ = served(SIDECAR)
    assert "transport_socket_matches" not in plain(resources.clusters[NAME])
    assert "istio." not in json_format.MessageToJson(resources.listeners["0.0.0.0_80"])
    for endpoint in resources.endpoints[NAME].endpoints[0].lb_endpoints:
        assert "envoy.transport_socket_match" not in endpoint.metadata.filter_metadata


def test_with_one_istios_defaults_are_in_force():
    resources, faults = served(SIDECAR, config_map("defaultProviders: {metrics: [prometheus]}"))
    assert faults == []
    cluster = plain(resources.clusters[NAME])
    tls, raw = cluster["transport_socket_matches"]
    assert (tls["match"], raw["match"]) == ({"tlsMode": "istio"}, {})
    context = tls["transport_socket"]["typed_config"]["common_tls_context"]
    names = context["combined_validation_context"]["default_validation_context"]["match_subject_alt_names"]
    assert names == [{"exact": "spiffe://shop.example/ns/shop/sa/catalog"}]
    assert cluster["filters"][0]["name"] == "istio.metadata_exchange"
    marks = [e.metadata.filter_metadata for e in resources.endpoints[NAME].endpoints[0].lb_endpoints]
    assert ["envoy.transport_socket_match" in mark for mark in marks] == [True, False]
    listener = plain(resources.listeners["0.0.0.0_80"])
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert [each["name"] for each in manager["http_filters"]] == [
        "istio.metadata_exchange",
        "envoy.filters.http.grpc_stats",
        "istio.alpn",
        "envoy.filters.http.fault",
        "envoy.filters.http.cors",
        "istio.stats",
        "envoy.filters.http.router",
    ]
    assert {"tag": "istio.mesh_id", "literal": {"value": "mesh-1"}} in manager["tracing"]["custom_tags"]


def test_auto_mtls_can_be_turned_off():
    resources, _ = served(SIDECAR, config_map("enableAutoMtls: false"))
    assert "transport_socket_matches" not in plain(resources.clusters[NAME])
    assert "filters" not in plain(resources.clusters[NAME])


def test_registry_only_refuses_hosts_unknown():
    resources, _ = served(SIDECAR, config_map("outboundTrafficPolicy: {mode: REGISTRY_ONLY}"))
    last = plain(resources.routes["80"].virtual_hosts[-1])
    assert (last["name"], last["routes"][0]["direct_response"]) == ("block_all", {"status": 502})
    catch_all = plain(resources.listeners["virtualOutbound"])["filter_chains"][-1]
    assert catch_all["filters"][0]["typed_config"]["cluster"] == "BlackHoleCluster"


def test_the_connect_timeout_is_every_clusters():
    resources, _ = served(ROUTER, config_map("connectTimeout: 3s"))
    assert plain(resources.clusters[NAME])["connect_timeout"] == "3s"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "connectTimeout: soon",
            "error: ConfigMap istio-system/istio: data.mesh.connectTimeout: expected",
        ),
        ("outboundTrafficPolicy: {mode: DENY}", "expected one of ALLOW_ANY, REGISTRY_ONLY"),
        ("a: b: c", "not valid YAML"),
        ("verifyCertificateAtClient: true", "warning: ConfigMap istio-system/istio: data.mesh.verify"),
    ],
)
def test_what_is_wrong_in_it_is_told_with_its_place(line, said):
    _, faults = served(SIDECAR, config_map(line))
    assert [fault for fault in faults if said in fault and fault.startswith(("1.yaml:8:", "1.yaml:6:"))], faults


def test_other_config_maps_are_read_over():
    other = MESH.replace("name: istio,", "name: app,") + "    connectTimeout: soon\n"
    resources, faults = served(SIDECAR, other)
    assert faults == []
    assert "transport_socket_matches" not in plain(resources.clusters[NAME])
