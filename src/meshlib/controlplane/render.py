"""Which node a workload of a folder would be."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.controlplane.documents import Documents
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.workloads import Workloads

_KINDS = {NodeKind.SIDECAR: "sidecar", NodeKind.GRPC: "sidecar", NodeKind.ROUTER: "router"}


def node_of(
    documents: Documents, kind: NodeKind, name: str, namespace: str, labels: Mapping[str, str] | None = None
) -> Node:
    """Return the node that a workload would say it is; labels and address from the documents where none are given."""
    workload = Workloads.of(documents).named(name, namespace)
    ip = workload.address if workload else "127.0.0.1"
    domain = f"{namespace}.svc.cluster.local"
    found = dict(workload.labels) if workload else {}
    metadata = {"GENERATOR": "grpc"} if kind is NodeKind.GRPC else {}
    return Node(
        kind=kind,
        id=f"{_KINDS[kind]}~{ip}~{name}.{namespace}~{domain}",
        namespace=namespace,
        workload=name,
        ip=ip,
        labels=found if labels is None else dict(labels),
        metadata={"NAMESPACE": namespace, **metadata},
        cluster=f"{name}.{namespace}",
    )
