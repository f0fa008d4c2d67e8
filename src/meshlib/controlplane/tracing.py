"""Tracing of Envoys over OTLP/HTTP."""

from __future__ import annotations

import ipaddress
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.trace.v3 import http_tracer_pb2, opentelemetry_pb2

from meshlib.controlplane.node import Node
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.protobuf import duration, pack, socket_address

CLUSTER = "otlp"
_TIMEOUT = 5.0  # of one export


def trace(manager: Any, node: Node, options: MeshOptions) -> None:
    """Make an HttpConnectionManager report every span; without ``options.otlp`` only say how, as istiod does."""
    if options.managed:
        _istio(manager.tracing, node, options)
    if options.otlp is None:
        return
    config = opentelemetry_pb2.OpenTelemetryConfig(service_name=_service_name(node))
    uri = config.http_service.http_uri
    uri.uri = f"http://{options.otlp}/v1/traces"
    uri.cluster = CLUSTER
    uri.timeout.CopyFrom(duration(_TIMEOUT))
    tracing = manager.tracing
    tracing.client_sampling.value = 100
    tracing.random_sampling.value = 100
    tracing.overall_sampling.value = 100
    tracing.spawn_upstream_span.value = True
    tracing.provider.CopyFrom(
        http_tracer_pb2.Tracing.Http(name="envoy.tracers.opentelemetry", typed_config=pack(config))
    )


def _istio(tracing: Any, node: Node, options: MeshOptions) -> None:
    """Set Istio's sampling and tags."""
    tracing.client_sampling.value = 100
    tracing.random_sampling.value = 1
    tracing.overall_sampling.value = 100
    for action in ("allow", "deny"):
        for field, key in (("name", "effective_policy_id"), ("result", "engine_result")):
            tag = tracing.custom_tags.add(tag=f"istio.authorization.dry_run.{action}_policy.{field}")
            tag.metadata.kind.request.SetInParent()
            tag.metadata.metadata_key.key = "envoy.filters.http.rbac"
            tag.metadata.metadata_key.path.add(key=f"istio_dry_run_{action}_shadow_{key}")
    labels = node.labels
    literals = {
        "canonical_revision": labels.get("service.istio.io/canonical-revision", "latest"),
        "canonical_service": labels.get("service.istio.io/canonical-name", "unknown"),
        "cluster_id": options.cluster_id,
        "mesh_id": str(node.metadata.get("MESH_ID") or "unknown"),
        "namespace": node.namespace,
    }
    for name, value in literals.items():
        tracing.custom_tags.add(tag=f"istio.{name}").literal.value = value


def clusters(options: MeshOptions) -> list[Any]:
    """Return the cluster of the collector, if there is one."""
    if options.otlp is None:
        return []
    host, _, port = options.otlp.rpartition(":")
    host = host.strip("[]")
    message = cluster_pb2.Cluster(name=CLUSTER, type=_discovery(host))
    message.connect_timeout.CopyFrom(duration(1))
    message.load_assignment.cluster_name = CLUSTER
    endpoint = message.load_assignment.endpoints.add().lb_endpoints.add().endpoint
    endpoint.address.CopyFrom(socket_address(host, int(port)))
    return [message]


def _discovery(host: str) -> Any:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return cluster_pb2.Cluster.STRICT_DNS
    return cluster_pb2.Cluster.STATIC


def _service_name(node: Node) -> str:
    """Return ``app.namespace``, as istiod calls a workload in traces."""
    return f"{node.labels.get('app') or node.workload or 'unknown'}.{node.namespace}"
