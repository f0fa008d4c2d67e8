"""Who asks: the node of an xDS client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class NodeKind(Enum):
    """What a node is served: Istio's proxy types, and the proxyless one."""

    SIDECAR = "sidecar"
    GRPC = "grpc"
    ROUTER = "router"


@dataclass(frozen=True)
class Node:
    """One xDS client, as far as translation depends on it.

    Attributes:
        kind: sidecar, proxyless gRPC (``metadata.GENERATOR`` is ``grpc``) or gateway.
        id: the whole node id, ``sidecar~127.0.0.1~webapp-1.istioinaction~istioinaction.svc.cluster.local``.
        namespace: where short host names are looked up.
        workload: the pod's name.
        ip: the workload's address.
        labels: the workload's labels: ``sourceLabels`` and Gateway selectors look at them.
        metadata: the rest of what the node says of itself.
        cluster: the service that it says it is of.
        locality: ``region/zone/subzone`` that it says it is in, perhaps empty.
    """

    kind: NodeKind = NodeKind.SIDECAR
    id: str = ""
    namespace: str = "default"
    workload: str = ""
    ip: str = "127.0.0.1"
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    cluster: str = ""
    locality: str = ""

    @property
    def binds(self) -> bool:
        """Whether its listeners bind for real: nothing redirects connections to it (INTERCEPTION_MODE NONE)."""
        return self.metadata.get("INTERCEPTION_MODE") == "NONE"

    @classmethod
    def from_proto(cls, node: Any) -> Node:
        """Read an ``envoy.config.core.v3.Node``.

        Whatever is missing takes its default: istiod, too, lets a node without metadata in.

        Raises:
            ValueError: the id is not ``type~ip~name.namespace~domain``.
        """
        parts = node.id.split("~")
        if len(parts) != 4 or parts[0] not in _KINDS:
            raise ValueError(f"node id {node.id!r} is not of the form sidecar|router~IP~POD.NAMESPACE~DOMAIN")
        metadata = _plain(node.metadata)
        kind = NodeKind.GRPC if metadata.get("GENERATOR") == "grpc" else _KINDS[parts[0]]
        pod, _, namespace = parts[2].rpartition(".") if "." in parts[2] else (parts[2], "", "")
        labels = metadata.get("LABELS")
        return cls(
            kind=kind,
            id=node.id,
            namespace=str(metadata.get("NAMESPACE") or namespace or parts[3].partition(".")[0] or "default"),
            workload=str(metadata.get("NAME") or pod),
            ip=parts[1],
            labels={key: str(value) for key, value in labels.items()} if isinstance(labels, dict) else {},
            metadata=metadata,
            cluster=node.cluster,
            locality="/".join((node.locality.region, node.locality.zone, node.locality.sub_zone)).rstrip("/"),
        )


_KINDS = {"sidecar": NodeKind.SIDECAR, "router": NodeKind.ROUTER}


def _plain(value: Any) -> Any:
    """Turn a protobuf Struct into dicts, lists and scalars."""
    kind = value.DESCRIPTOR.full_name
    if kind == "google.protobuf.Struct":
        return {key: _plain(item) for key, item in value.fields.items()}
    if kind == "google.protobuf.ListValue":
        return [_plain(item) for item in value.values]
    which = value.WhichOneof("kind")
    if which in ("struct_value", "list_value"):
        return _plain(getattr(value, which))
    return None if which in (None, "null_value") else getattr(value, which)
