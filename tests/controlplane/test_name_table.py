"""The name table: what istiod's DNS would answer, served to sidecars that ask."""

import json

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from controlplane import captures
from meshlib.controlplane.ads import AdsSession
from meshlib.controlplane.documents import read
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.resources import NAME_TABLE
from meshlib.controlplane.snapshot import Snapshot
from meshlib.controlplane.translate import translate
from meshlib.nds import NameTable

YAML = """
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, ports: [{name: tcp, port: 7001}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: shop}
spec:
  hosts: [db.example.com]
  addresses: [10.96.0.20, 10.97.0.0/16, 10.96.0.21]
  resolution: STATIC
  ports: [{number: 5432, name: tcp, protocol: TCP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: hidden, namespace: other}
spec: {hosts: [hidden.example.com], addresses: [10.96.0.30], exportTo: ["."], ports: [{number: 80, name: http}]}
"""
SIDECAR = Node(kind=NodeKind.SIDECAR, namespace="shop")


def translated(text, node=SIDECAR):
    documents, faults = read({"mesh.yaml": text.encode()})
    assert [str(fault) for fault in faults] == []
    return translate(documents, node)[0]


def table(resources):
    (message,) = resources.by_type[NAME_TABLE].values()
    return {host: (tuple(info.ips), info.registry, info.shortname) for host, info in message.table.items()}


def test_the_addresses_of_what_the_node_sees():
    assert table(translated(YAML)) == {
        "catalog.shop.svc.cluster.local": (("10.96.0.10",), "Kubernetes", "catalog"),
        "db.example.com": (("10.96.0.20", "10.96.0.21"), "External", ""),
    }


@pytest.mark.parametrize("kind", [NodeKind.GRPC, NodeKind.ROUTER])
def test_other_nodes_have_none(kind):
    assert translated(YAML, Node(kind=kind, namespace="shop")).by_type[NAME_TABLE] == {}


def test_served_when_asked_and_pushed_when_changed():
    session = AdsSession(SIDECAR, Snapshot(translated(YAML), "1"))
    (data,) = session.on_request(discovery_pb2.DiscoveryRequest(type_url=NAME_TABLE))
    response = discovery_pb2.DiscoveryResponse.FromString(data)
    message = NameTable.FromString(response.resources[0].value)
    assert message.table["catalog.shop.svc.cluster.local"].ips == ["10.96.0.10"]
    ack = discovery_pb2.DiscoveryRequest(type_url=NAME_TABLE, response_nonce=response.nonce, version_info="1")
    assert session.on_request(ack) == []
    assert list(session.on_update(Snapshot(translated(YAML), "2"))) == []
    (data,) = session.on_update(Snapshot(translated(YAML.replace("10.96.0.10", "10.96.0.11")), "3"))
    response = discovery_pb2.DiscoveryResponse.FromString(data)
    assert response.type_url == NAME_TABLE
    message = NameTable.FromString(response.resources[0].value)
    assert message.table["catalog.shop.svc.cluster.local"].ips == ["10.96.0.11"]


def test_istiod_says_the_same():
    paths = [path for path in captures.find("istiod/default", "sidecar-webapp") if "NameTable" in path.read_text()]
    if not paths:
        pytest.skip("no capture with a name table stands beside the checkout")
    (path,) = paths
    rows = map(json.loads, path.read_text().splitlines())
    theirs = next(row for row in rows if row["dir"] == "received" and row["type"] == "NDS")["message"]["resources"][0]
    capture = captures.load(path)
    documents, _ = read(capture.files)
    ours = translate(documents, capture.node)[0].by_type[NAME_TABLE]["nds"]
    assert captures.plain(ours)["table"] == theirs["table"]


def test_a_headless_service_of_istios_mesh_is_its_ready_pods_and_each_by_name():
    pods = "".join(
        f"""
apiVersion: v1
kind: Pod
metadata: {{name: db-{index}, namespace: shop, labels: {{app: db}}}}
spec: {{hostname: db-{index}, subdomain: db}}
status: {{podIP: 10.0.0.{index}, conditions: [{{type: Ready, status: "{ready}"}}]}}
---"""
        for index, ready in ((1, "True"), (2, "False"))
    )
    service = """
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 5432}]}
"""
    mesh = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: ''}\n"
    documents, _ = read({"a.yaml": pods.encode(), "b.yaml": service.encode(), "mesh.yaml": mesh.encode()})
    resources, _ = translate(documents, Node(kind=NodeKind.SIDECAR, namespace="shop"))
    (names,) = resources.by_type[NAME_TABLE].values()
    assert {host: list(info.ips) for host, info in names.table.items()} == {
        "db.shop.svc.cluster.local": ["10.0.0.1"],
        "db-1.db.shop.svc.cluster.local": ["10.0.0.1"],
    }
    assert names.table["db-1.db.shop.svc.cluster.local"].shortname == "db-1.db"
