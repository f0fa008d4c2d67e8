"""``extensionProviders`` of the mesh: where access logs, spans and questions of access go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar

from meshlib.controlplane.documents.fields import Count, Duration, Key, Message, Name, Port, anything, one_of
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
class Service(Message):
    """A service of the mesh that a provider calls: ``[namespace/]host`` and its port."""

    OPEN: ClassVar[bool] = True

    service: Name
    port: Port

    @property
    def host(self) -> str:
        """The host alone."""
        return self.service.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpHeader(Message):
    """``HttpHeader``, with a value of its own."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"envName"})

    name: Name
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpExport(Message):
    """``HttpService``: OTLP over HTTP."""

    path: str = ""
    timeout: Duration | None = None
    headers: tuple[HttpHeader, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcExport(Message):
    """``GrpcService``: OTLP over gRPC."""

    timeout: Duration | None = None
    initial_metadata: tuple[HttpHeader, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing(Message):
    """A message that is there or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceDetectors(Message):
    """``ResourceDetectors``."""

    environment: Nothing | None = None
    dynatrace: Nothing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTelemetry(Service):
    """``OpenTelemetryTracingProvider``."""

    OPEN: ClassVar[bool] = False
    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"dynatraceSampler", "serviceAttributeEnrichment"})

    max_tag_length: Count = 0
    http: HttpExport | None = None
    grpc: GrpcExport | None = None
    resource_detectors: ResourceDetectors | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Zipkin(Service):
    """``ZipkinTracingProvider``."""

    OPEN: ClassVar[bool] = False

    max_tag_length: Count = 0
    enable64bit_trace_id: Annotated[bool, Key("enable64bitTraceId")] = False
    path: str = "/api/v2/spans"
    trace_context_option: Annotated[str, one_of("USE_B3", "USE_B3_WITH_W3C_PROPAGATION")] = "USE_B3"
    timeout: Duration | None = None
    headers: tuple[HttpHeader, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Datadog(Service):
    """``DatadogTracingProvider``."""

    OPEN: ClassVar[bool] = False

    max_tag_length: Count = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyWalking(Service):
    """``SkyWalkingTracingProvider``."""

    OPEN: ClassVar[bool] = False
    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"accessToken"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OtelAccessLog(Service):
    """``EnvoyOpenTelemetryLogProvider``."""

    OPEN: ClassVar[bool] = False

    log_name: str = ""
    log_format: LogFormat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpGrpcAccessLog(Service):
    """``EnvoyTcpGrpcV3LogProvider``."""

    OPEN: ClassVar[bool] = False

    log_name: str = ""
    filter_state_objects_to_log: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpGrpcAccessLog(TcpGrpcAccessLog):
    """``EnvoyHttpGrpcV3LogProvider``."""

    additional_request_headers_to_log: tuple[Name, ...] = ()
    additional_response_headers_to_log: tuple[Name, ...] = ()
    additional_response_trailers_to_log: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBody(Message):
    """``EnvoyExternalAuthorizationRequestBody``."""

    max_request_bytes: Count = 0
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtAuthz(Message):
    """``EnvoyExternalAuthorization...Provider``, HTTP or gRPC."""

    OPEN: ClassVar[bool] = True

    service: Name
    port: Port
    timeout: Duration | None = None
    include_request_body_in_check: RequestBody | None = None
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

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"lightstep", "opencensus", "sds", "stackdriver"})

    name: Name
    envoy_file_access_log: FileAccessLog | None = None
    envoy_otel_als: OtelAccessLog | None = None
    envoy_http_als: HttpGrpcAccessLog | None = None
    envoy_tcp_als: TcpGrpcAccessLog | None = None
    prometheus: Prometheus | None = None
    opentelemetry: OpenTelemetry | None = None
    zipkin: Zipkin | None = None
    datadog: Datadog | None = None
    skywalking: SkyWalking | None = None
    envoy_ext_authz_http: ExtAuthz | None = None
    envoy_ext_authz_grpc: ExtAuthz | None = None

    def check(self, report: Report) -> None:
        """One kind, no more."""
        kinds = [item.name for item in fields(self) if item.name not in ("at", "name") and getattr(self, item.name)]
        if len(kinds) > 1:
            report.error(self.at, f"expected one kind of provider, got {' and '.join(kinds)}")
