"""Telemetry: which logs, spans and metrics workloads have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from meshlib.controlplane.documents.fields import Duration, Message, Name, Percent, one_of
from meshlib.controlplane.documents.place import Report
from meshlib.controlplane.documents.resource import Resource
from meshlib.controlplane.documents.security import Selector

CLIENT, SERVER, BOTH = "CLIENT", "SERVER", "CLIENT_AND_SERVER"
Mode = Annotated[str, one_of(BOTH, CLIENT, SERVER)]
METRICS = (
    "ALL_METRICS", "REQUEST_COUNT", "REQUEST_DURATION", "REQUEST_SIZE", "RESPONSE_SIZE", "TCP_OPENED_CONNECTIONS",
    "TCP_CLOSED_CONNECTIONS", "TCP_SENT_BYTES", "TCP_RECEIVED_BYTES", "GRPC_REQUEST_MESSAGES", "GRPC_RESPONSE_MESSAGES",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRef(Message):
    """``ProviderRef``: the name of one of the mesh's extensionProviders."""

    name: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSelector(Message):
    """``match: {mode: SERVER}`` of logs and spans."""

    mode: Mode = BOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter(Message):
    """``AccessLogging.Filter``: a CEL expression."""

    expression: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLogging(Message):
    """``AccessLogging``."""

    match: ModeSelector | None = None
    providers: tuple[ProviderRef, ...] = ()
    disabled: bool | None = None
    filter: LogFilter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteralTag(Message):
    """``Tracing.Literal``."""

    value: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentTag(Message):
    """``Tracing.Environment`` and ``Tracing.RequestHeader``."""

    name: Name
    default_value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatterTag(Message):
    """``Tracing.Formatter``."""

    value: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomTag(Message):
    """``Tracing.CustomTag``: one kind of value."""

    literal: LiteralTag | None = None
    environment: EnvironmentTag | None = None
    header: EnvironmentTag | None = None
    formatter: FormatterTag | None = None

    def check(self, report: Report) -> None:
        """One kind."""
        if sum(item is not None for item in (self.literal, self.environment, self.header, self.formatter)) != 1:
            report.error(self.at, "expected one of literal, environment, header, formatter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing(Message):
    """``Tracing``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"disableContextPropagation"})

    match: ModeSelector | None = None
    providers: tuple[ProviderRef, ...] = ()
    random_sampling_percentage: Percent | None = None
    disable_span_reporting: bool | None = None
    custom_tags: Mapping[str, CustomTag] | None = None
    use_request_id_for_trace_sampling: bool | None = None
    enable_istio_tags: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSelector(Message):
    """``MetricSelector``: Istio's metric by name, or another one."""

    metric: Annotated[str, one_of(*METRICS)] = ""
    custom_metric: str = ""
    mode: Mode = BOTH

    def check(self, report: Report) -> None:
        """One of the two."""
        if self.metric and self.custom_metric:
            report.error(self.at, "expected one of metric and customMetric, got both")


@dataclass(frozen=True, slots=True, kw_only=True)
class TagOverride(Message):
    """``MetricsOverrides.TagOverride``."""

    operation: Annotated[str, one_of("UPSERT", "REMOVE")] = "UPSERT"
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsOverride(Message):
    """``MetricsOverrides``."""

    match: MetricSelector | None = None
    disabled: bool | None = None
    tag_overrides: Mapping[str, TagOverride] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics(Message):
    """``Metrics``."""

    providers: tuple[ProviderRef, ...] = ()
    overrides: tuple[MetricsOverride, ...] = ()
    reporting_interval: Duration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySpec(Message):
    """``Telemetry.spec``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"targetRef", "targetRefs"})

    selector: Selector | None = None
    access_logging: tuple[AccessLogging, ...] = ()
    tracing: tuple[Tracing, ...] = ()
    metrics: tuple[Metrics, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry(Resource):
    """An Istio Telemetry."""

    spec: TelemetrySpec

    @property
    def labels_chosen(self) -> Mapping[str, str]:
        """The labels of the workloads it is for; none for all of the namespace."""
        return self.spec.selector.match_labels if self.spec.selector else {}
