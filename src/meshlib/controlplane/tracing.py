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
    """Make an HttpConnectionManager report every span; without ``options.otlp`` do nothing."""
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
