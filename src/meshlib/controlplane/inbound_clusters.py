"""Clusters of a sidecar that lead to the workload beside it."""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2

from meshlib.controlplane import clusters
from meshlib.controlplane.documents.destination_rule import TrafficPolicy
from meshlib.controlplane.protobuf import duration, metadata, socket_address
from meshlib.controlplane.routes import config_path
from meshlib.controlplane.targets import Target, of_node
from meshlib.controlplane.view import View

INBOUND_PASSTHROUGH = "InboundPassthroughCluster"
_LOCALHOST = "127.0.0.1"
_SOURCE = "127.0.0.6"  # so that the redirection knows these connections, and lets them through
_NEVER = 9223372035  # seconds after which istiod has unused addresses forgotten


def inbound_clusters(view: View) -> list[Any]:
    """Return the clusters of the ports that the workload is called on, and that of all others."""
    passthrough = clusters.passthrough(view.options, INBOUND_PASSTHROUGH)
    del passthrough.filters[:]
    _bind(passthrough)
    return [*(_cluster(view, target) for target in of_node(view)), passthrough]


def _bind(message: Any) -> None:
    message.upstream_bind_config.source_address.address = _SOURCE
    message.upstream_bind_config.source_address.port_value = 0


def _cluster(view: View, target: Target) -> Any:
    name = target.cluster
    message = cluster_pb2.Cluster(name=name, alt_stat_name=f"{name};")
    message.connect_timeout.CopyFrom(duration(view.options.connect_timeout))
    message.common_lb_config.SetInParent()
    endpoint = _endpoint(view, target)
    if endpoint is None:
        message.type = cluster_pb2.Cluster.ORIGINAL_DST
        message.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
        message.cleanup_interval.seconds = _NEVER
    else:
        message.type = cluster_pb2.Cluster.STATIC
        message.load_assignment.cluster_name = name
        place = message.load_assignment.endpoints.add().lb_endpoints.add().endpoint.address
        place.CopyFrom(socket_address(*endpoint))
    if endpoint is None or endpoint[0] != _LOCALHOST:
        _bind(message)
    clusters.receive(message, target.port, _policy(view, target), view)
    _describe(message, view, target)
    return message


def _endpoint(view: View, target: Target) -> tuple[str, int] | None:
    """Return where a Sidecar sends what comes in, None for where it was going."""
    written = target.ingress.default_endpoint if target.ingress else ""
    if not written:
        return None
    if written.startswith("unix://"):
        return written, 0
    host, _, port = written.rpartition(":")
    return (view.node.ip if host in ("0.0.0.0", "[::]") else _LOCALHOST), int(port)


def _policy(view: View, target: Target) -> TrafficPolicy | None:
    """Return what counts for connections to the workload: its services' DestinationRule, then its Sidecar."""
    rule = view.rules.get(target.services[0].host) if target.services else None
    own = rule.policy_on(target.port.number) if rule and not rule.document.labels_chosen else None
    pool = target.pool(view)
    if pool is None:
        return own
    return TrafficPolicy(at=pool.at, connection_pool=pool)


def _describe(message: Any, view: View, target: Target) -> None:
    if not target.services:
        return
    istio: dict[str, Any] = {
        "services": [
            {"host": service.host, "name": service.name, "namespace": service.namespace} for service in target.services
        ]
    }
    rule = view.rules.get(target.services[0].host)
    if rule and rule.policy is not None:
        istio["config"] = config_path(rule.document)
    message.metadata.CopyFrom(metadata(istio=istio))
