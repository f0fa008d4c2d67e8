"""``extensionProviders`` of the mesh: where access logs, spans and questions of access go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar

from meshlib.controlplane.documents.fields import Count, Duration, Key, Message, Name, Port, anything
from meshlib.controlplane.documents.place import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFormat(Message):
    """``LogFormat``: a line of text, or labels that make JSON."""

    text: str | None = None
    labels: Annotated[Mapping[str, Any] | None, anything] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileAccessLog(Message):
    """``EnvoyFileAccessLogProvider``."""

    path: str = "/dev/stdout"
    log_format: LogFormat | None = None
    omit_empty_values: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus(Message):
    """``PrometheusMetricsProvider``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpExport(Message):
    """``HttpService``: OTLP over HTTP."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"headers"})

    path: str = ""
    timeout: Duration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTelemetry(Message):
    """``OpenTelemetryTracingProvider``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"dynatraceSampler", "grpc", "resourceDetectors"})

    service: Name
    port: Port
    max_tag_length: Count = 0
    http: HttpExport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Zipkin(Message):
    """``ZipkinTracingProvider``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"headers", "timeout", "traceContextOption"})

    service: Name
    port: Port
    max_tag_length: Count = 0
    enable64bit_trace_id: Annotated[bool, Key("enable64bitTraceId")] = False
    path: str = "/api/v2/spans"


@dataclass(frozen=True, slots=True, kw_only=True)
class OtelAccessLog(Message):
    """``EnvoyOpenTelemetryLogProvider``."""

    service: Name
    port: Port
    log_name: str = ""
    log_format: LogFormat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtAuthz(Message):
    """``EnvoyExternalAuthorization...Provider``, HTTP or gRPC."""

    OPEN: ClassVar[bool] = True

    service: Name
    port: Port
    timeout: Duration | None = None
    path_prefix: str = ""
    status_on_error: str = ""
    fail_open: bool = False
    clear_route_cache: bool = False
    include_request_headers_in_check: tuple[Name, ...] = ()
    include_additional_headers_in_check: Mapping[str, str] = field(default_factory=dict)
    headers_to_upstream_on_allow: tuple[Name, ...] = ()
    headers_to_downstream_on_deny: tuple[Name, ...] = ()
    headers_to_downstream_on_allow: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionProvider(Message):
    """``ExtensionProvider``: a name, and one kind of provider."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset(
        {"datadog", "envoyHttpAls", "envoyTcpAls", "lightstep", "opencensus", "sds", "skywalking", "stackdriver"}
    )

    name: Name
    envoy_file_access_log: FileAccessLog | None = None
    envoy_otel_als: OtelAccessLog | None = None
    prometheus: Prometheus | None = None
    opentelemetry: OpenTelemetry | None = None
    zipkin: Zipkin | None = None
    envoy_ext_authz_http: ExtAuthz | None = None
    envoy_ext_authz_grpc: ExtAuthz | None = None

    def check(self, report: Report) -> None:
        """One kind, no more."""
        kinds = [item.name for item in fields(self) if item.name not in ("at", "name") and getattr(self, item.name)]
        if len(kinds) > 1:
            report.error(self.at, f"expected one kind of provider, got {' and '.join(kinds)}")
