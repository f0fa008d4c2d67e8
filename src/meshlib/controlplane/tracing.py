"""Tracing of Envoys: spans over OTLP to a collector of ours, or as the mesh's Telemetry says."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.trace.v3 import opentelemetry_pb2

from meshlib.controlplane import trace_exporters
from meshlib.controlplane.documents.providers import ExtensionProvider
from meshlib.controlplane.documents.telemetry import BOTH, CustomTag
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.protobuf import duration, socket_address
from meshlib.controlplane.telemetry import Reporter
from meshlib.controlplane.view import View

CLUSTER = "otlp"
_TIMEOUT = 5.0  # of one export
_SAMPLED = 1.0  # percent, istiod's default


@dataclass(slots=True)
class _Spans:
    """What counts of the Telemetry resources, for one side of the calls."""

    provider: ExtensionProvider | None = None
    disabled: bool = False
    sampled: float | None = None
    tags: Mapping[str, CustomTag] | None = None
    istio_tags: bool = True
    by_request_id: bool = True


def trace(manager: Any, view: View, reporter: Reporter) -> bool:
    """Make an HttpConnectionManager report spans; return whether its request ids decide what is sampled."""
    by_request_id = _istio(manager.tracing, view, reporter) if view.options.managed else True
    if view.options.otlp is not None:
        _ours(manager.tracing, view.node, view.options)
    elif not manager.tracing.ListFields():
        manager.ClearField("tracing")
    return by_request_id


def _ours(tracing: Any, node: Node, options: MeshOptions) -> None:
    """Send every span to the collector that meshlib was given."""
    config = opentelemetry_pb2.OpenTelemetryConfig(service_name=_service_name(node))
    uri = config.http_service.http_uri
    uri.uri = f"http://{options.otlp}/v1/traces"
    uri.cluster = CLUSTER
    uri.timeout.CopyFrom(duration(_TIMEOUT))
    _sampling(tracing, 100)
    tracing.spawn_upstream_span.value = True
    tracing.provider.CopyFrom(trace_exporters.named("envoy.tracers.opentelemetry", config))


# ---------------------------------------------------------------- Istio's


def _istio(tracing: Any, view: View, reporter: Reporter) -> bool:
    """Set tracing as istiod does; return whether the request id decides what is sampled."""
    spoken = view.telemetry.tracing
    mesh = view.options.mesh
    default = mesh.default_providers.tracing if mesh and mesh.default_providers else ()
    if not spoken and not default:
        if mesh and mesh.enable_tracing:
            _sampling(tracing, _proxy_sampling(view.node))
            _tags(tracing, view, _Spans())
        return True
    spans = _merged(view, reporter, default)
    if spans.provider is None or spans.disabled:
        return True
    if not _configured(tracing, spans.provider, view):
        return True
    _sampling(tracing, _proxy_sampling(view.node) if spans.sampled is None else spans.sampled)
    _tags(tracing, view, spans)
    return spans.by_request_id


def _merged(view: View, reporter: Reporter, default: tuple[str, ...]) -> _Spans:
    spans = _Spans(view.telemetry.provider(default[0]) if default else None)
    for item in view.telemetry.tracing:
        if item.match and item.match.mode not in (BOTH, reporter.mode):
            continue
        if item.providers:
            spans.provider = view.telemetry.provider(item.providers[0].name)
        if item.disable_span_reporting is not None:
            spans.disabled = item.disable_span_reporting
        if item.custom_tags is not None:
            spans.tags = item.custom_tags
        if item.random_sampling_percentage is not None:
            spans.sampled = item.random_sampling_percentage
        if item.use_request_id_for_trace_sampling is not None:
            spans.by_request_id = item.use_request_id_for_trace_sampling
        if item.enable_istio_tags is not None:
            spans.istio_tags = item.enable_istio_tags
    return spans


def _configured(tracing: Any, provider: ExtensionProvider, view: View) -> bool:
    """Set where spans go; tell whether the provider takes any."""
    exporter = trace_exporters.of_provider(provider, view.node)
    if exporter is None:
        return False
    tracing.provider.CopyFrom(exporter.message)
    if view.node.kind is NodeKind.ROUTER or exporter.spans_upstream:
        tracing.spawn_upstream_span.value = True
    if exporter.max_tag_length:
        tracing.max_path_tag_length.value = exporter.max_tag_length
    return True


def _sampling(tracing: Any, percent: float) -> None:
    tracing.client_sampling.value = 100
    tracing.random_sampling.value = percent
    tracing.overall_sampling.value = 100


def _proxy_sampling(node: Node) -> float:
    """Return what the node's ProxyConfig says of sampling, else istiod's default."""
    config = node.metadata.get("PROXY_CONFIG")
    tracing = config.get("tracing") if isinstance(config, dict) else None
    sampled = tracing.get("sampling") if isinstance(tracing, dict) else None
    return float(sampled) if isinstance(sampled, int | float) and 0 < sampled <= 100 else _SAMPLED


def _tags(tracing: Any, view: View, spans: _Spans) -> None:
    if spans.istio_tags:
        _policy_tags(tracing)
        for name, value in _literals(view.node, view.options).items():
            tracing.custom_tags.add(tag=f"istio.{name}").literal.value = value
    for name, written in (spans.tags or {}).items():
        tag = tracing.custom_tags.add(tag=name)
        if written.literal is not None:
            tag.literal.value = written.literal.value
        elif written.environment is not None:
            tag.environment.name = written.environment.name
            tag.environment.default_value = written.environment.default_value
        elif written.header is not None:
            tag.request_header.name = written.header.name
            tag.request_header.default_value = written.header.default_value
        elif written.formatter is not None:
            tag.value = written.formatter.value
    ordered = sorted(tracing.custom_tags, key=lambda tag: tag.tag)
    del tracing.custom_tags[:]
    tracing.custom_tags.extend(ordered)


def _policy_tags(tracing: Any) -> None:
    for action in ("allow", "deny"):
        for field, key in (("name", "effective_policy_id"), ("result", "engine_result")):
            tag = tracing.custom_tags.add(tag=f"istio.authorization.dry_run.{action}_policy.{field}")
            tag.metadata.kind.request.SetInParent()
            tag.metadata.metadata_key.key = "envoy.filters.http.rbac"
            tag.metadata.metadata_key.path.add(key=f"istio_dry_run_{action}_shadow_{key}")


def _literals(node: Node, options: MeshOptions) -> Mapping[str, str]:
    labels = node.labels
    return {
        "canonical_revision": labels.get("service.istio.io/canonical-revision", "latest"),
        "canonical_service": labels.get("service.istio.io/canonical-name", "unknown"),
        "cluster_id": options.cluster_id,
        "mesh_id": str(node.metadata.get("MESH_ID") or "unknown"),
        "namespace": node.namespace,
    }


# ---------------------------------------------------------------- our collector


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
