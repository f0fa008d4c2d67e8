"""Where Istio's Envoys send their spans: the mesh's tracing providers, as istiod configures them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.config.trace.v3 import datadog_pb2, http_tracer_pb2, opentelemetry_pb2, skywalking_pb2, zipkin_pb2
from envoy.extensions.tracers.opentelemetry.resource_detectors.v3 import (
    dynatrace_resource_detector_pb2,
    environment_resource_detector_pb2,
)

from meshlib.controlplane.documents.providers import ExtensionProvider, HttpHeader, OpenTelemetry, Service, Zipkin
from meshlib.controlplane.node import Node
from meshlib.controlplane.protobuf import duration, pack
from meshlib.controlplane.services import cluster_name

_TIMEOUT = 5.0  # of one export to Zipkin
_DETECTORS = "envoy.tracers.opentelemetry.resource_detectors"


@dataclass(frozen=True, slots=True)
class Exporter:
    """A provider's message, and what it wants of the tracing around it."""

    message: Any
    max_tag_length: int = 0
    spans_upstream: bool = False


def of_provider(provider: ExtensionProvider, node: Node) -> Exporter | None:
    """Return where a provider's spans go; None for one that takes none."""
    if (otel := provider.opentelemetry) is not None:
        config = _opentelemetry(otel, node)
        return Exporter(named("envoy.tracers.opentelemetry", config), otel.max_tag_length)
    if (zipkin := provider.zipkin) is not None:
        return Exporter(named("envoy.tracers.zipkin", _zipkin(zipkin)), zipkin.max_tag_length)
    if (datadog := provider.datadog) is not None:
        config = datadog_pb2.DatadogConfig(
            collector_cluster=cluster_name(datadog.host, datadog.port),
            service_name=node.cluster,
            collector_hostname=datadog.host,
        )
        return Exporter(named("envoy.tracers.datadog", config), datadog.max_tag_length)
    if (skywalking := provider.skywalking) is not None:
        config = skywalking_pb2.SkyWalkingConfig()
        call(config.grpc_service, skywalking)
        return Exporter(named("envoy.tracers.skywalking", config), spans_upstream=True)
    return None


def named(name: str, config: Any) -> Any:
    """Return a tracing provider."""
    return http_tracer_pb2.Tracing.Http(name=name, typed_config=pack(config))


def call(grpc_service: Any, written: Service) -> None:
    """Make a GrpcService call a service of the mesh."""
    grpc_service.envoy_grpc.cluster_name = cluster_name(written.host, written.port)
    grpc_service.envoy_grpc.authority = written.host


def _opentelemetry(written: OpenTelemetry, node: Node) -> Any:
    config = opentelemetry_pb2.OpenTelemetryConfig(service_name=node.cluster)
    if written.http is None:
        call(config.grpc_service, written)
        if written.grpc is not None:
            if written.grpc.timeout is not None:
                config.grpc_service.timeout.CopyFrom(duration(written.grpc.timeout))
            for header in written.grpc.initial_metadata:
                config.grpc_service.initial_metadata.add(key=header.name, value=header.value)
    else:
        uri = config.http_service.http_uri
        uri.uri = f"{written.host}/{written.http.path.lstrip('/')}"
        uri.cluster = cluster_name(written.host, written.port)
        if written.http.timeout is not None:
            uri.timeout.CopyFrom(duration(written.http.timeout))
        _headers(config.http_service, written.http.headers)
    if detectors := written.resource_detectors:
        if detectors.environment is not None:
            found = environment_resource_detector_pb2.EnvironmentResourceDetectorConfig()
            config.resource_detectors.append(_extension(f"{_DETECTORS}.environment", found))
        if detectors.dynatrace is not None:
            found = dynatrace_resource_detector_pb2.DynatraceResourceDetectorConfig()
            config.resource_detectors.append(_extension(f"{_DETECTORS}.dynatrace", found))
    return config


def _zipkin(written: Zipkin) -> Any:
    config = zipkin_pb2.ZipkinConfig(
        collector_endpoint_version=zipkin_pb2.ZipkinConfig.HTTP_JSON, trace_id_128bit=not written.enable64bit_trace_id
    )
    config.shared_span_context.value = False
    config.trace_context_option = zipkin_pb2.ZipkinConfig.TraceContextOption.Value(written.trace_context_option)
    uri = config.collector_service.http_uri
    uri.uri = f"http://{written.host}{written.path}"
    uri.cluster = cluster_name(written.host, written.port)
    uri.timeout.CopyFrom(duration(_TIMEOUT if written.timeout is None else written.timeout))
    _headers(config.collector_service, written.headers)
    return config


def _headers(http_service: Any, headers: Iterable[HttpHeader]) -> None:
    overwrite = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    for header in headers:
        option = http_service.request_headers_to_add.add(append_action=overwrite)
        option.header.key, option.header.value = header.name, header.value


def _extension(name: str, config: Any) -> Any:
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(config))
