"""Who asks, read from a Node message."""

import pytest
from envoy.config.core.v3 import base_pb2

from meshlib.controlplane.node import Node


def proto(node_id, **metadata):
    node = base_pb2.Node(id=node_id)
    node.metadata.update(metadata)
    return node


SIDECAR = "sidecar~127.0.0.21~webapp-x.shop~shop.svc.cluster.local"


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (proto(SIDECAR), ("SIDECAR", "shop", "webapp-x", "127.0.0.21", {})),
        (proto(SIDECAR, GENERATOR="grpc"), ("GRPC", "shop", "webapp-x", "127.0.0.21", {})),
        (proto(SIDECAR, GENERATOR="other"), ("SIDECAR", "shop", "webapp-x", "127.0.0.21", {})),
        (
            proto(SIDECAR, LABELS={"app": "webapp"}, NAMESPACE="n", NAME="w"),
            ("SIDECAR", "n", "w", "127.0.0.21", {"app": "webapp"}),
        ),
        (proto(SIDECAR, LABELS=["no", "mapping"]), ("SIDECAR", "shop", "webapp-x", "127.0.0.21", {})),
        (proto("router~10.0.0.1~gw.edge~edge.svc.cluster.local"), ("ROUTER", "edge", "gw", "10.0.0.1", {})),
        (proto("sidecar~~webapp~shop.svc.cluster.local"), ("SIDECAR", "shop", "webapp", "", {})),
    ],
)
def test_from_proto(node, expected):
    read = Node.from_proto(node)
    assert (read.kind.name, read.namespace, read.workload, read.ip, dict(read.labels)) == expected
    assert read.id == node.id


def test_metadata_is_plain():
    node = proto(SIDECAR, PORTS=[1, "x", None, True, {"a": []}])
    assert Node.from_proto(node).metadata == {"PORTS": [1.0, "x", None, True, {"a": []}]}


@pytest.mark.parametrize("node_id", ["", "webapp", "sidecar~1.2.3.4~webapp", "pilot~1~a.b~c", "a~b~c~d~e"])
def test_bad_ids(node_id):
    with pytest.raises(ValueError, match="is not of the form"):
        Node.from_proto(base_pb2.Node(id=node_id))
