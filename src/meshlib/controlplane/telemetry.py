"""Which logs and metrics a node has: its Telemetry resources and the mesh's providers, as istiod merges them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from meshlib.controlplane import access_logs
from meshlib.controlplane.documents import Documents
from meshlib.controlplane.documents.providers import ExtensionProvider
from meshlib.controlplane.documents.telemetry import (
    BOTH,
    CLIENT,
    METRICS,
    SERVER,
    AccessLogging,
    LogFilter,
    Metrics,
    ProviderRef,
    TagOverride,
    Telemetry,
    Tracing,
)
from meshlib.controlplane.node import Node
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.workloads import selects

_PROMETHEUS = {
    "REQUEST_COUNT": "requests_total",
    "REQUEST_DURATION": "request_duration_milliseconds",
    "REQUEST_SIZE": "request_bytes",
    "RESPONSE_SIZE": "response_bytes",
    "TCP_OPENED_CONNECTIONS": "tcp_connections_opened_total",
    "TCP_CLOSED_CONNECTIONS": "tcp_connections_closed_total",
    "TCP_SENT_BYTES": "tcp_sent_bytes_total",
    "TCP_RECEIVED_BYTES": "tcp_received_bytes_total",
    "GRPC_REQUEST_MESSAGES": "request_messages_total",
    "GRPC_RESPONSE_MESSAGES": "response_messages_total",
}


class Reporter(Enum):
    """Whose listener it is that reports: Istio's listener classes."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"
    GATEWAY = "gateway"

    @property
    def mode(self) -> str:
        """Istio's workload mode: a gateway reports as a client."""
        return SERVER if self is Reporter.INBOUND else CLIENT


OUTBOUND, INBOUND, GATEWAY = Reporter.OUTBOUND, Reporter.INBOUND, Reporter.GATEWAY


@dataclass(frozen=True, slots=True)
class MetricChange:
    """What a Telemetry changes about one metric."""

    name: str
    dropped: bool
    dimensions: Mapping[str, str]
    removed: tuple[str, ...]


@dataclass(slots=True)
class _Override:
    disabled: bool | None = None
    tags: dict[str, TagOverride] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeTelemetry:
    """What counts for one node. Nothing is logged or counted where the mesh's proxies are not Istio's."""

    options: MeshOptions
    applied: tuple[Telemetry, ...]

    @classmethod
    def of(cls, documents: Documents, node: Node, options: MeshOptions) -> NodeTelemetry:
        """Return the Telemetry resources in force, the later the narrower: mesh, namespace, workload."""
        ordered = sorted(documents.telemetries, key=lambda item: item.age)
        found = []
        for namespace in dict.fromkeys((options.root_namespace, node.namespace)):
            wide = (item for item in ordered if item.namespace == namespace and not item.labels_chosen)
            found += [*wide][:1]
        found += [
            item
            for item in ordered
            if item.namespace == node.namespace and item.labels_chosen and selects(item.labels_chosen, node.labels)
        ]
        return cls(options, tuple(found) if options.managed else ())

    @property
    def tracing(self) -> tuple[Tracing, ...]:
        """What is said of spans, the later the narrower."""
        return tuple(item for telemetry in self.applied for item in telemetry.spec.tracing)

    def provider(self, name: str) -> ExtensionProvider | None:
        """Return the provider of that name."""
        known = self.options.mesh.extension_providers if self.options.mesh else ()
        return next((item for item in known if item.name.lower() == name.lower()), None)

    def _defaults(self, kind: str) -> tuple[str, ...]:
        mesh = self.options.mesh
        providers = mesh.default_providers if mesh else None
        return getattr(providers, kind) if providers else ()

    # ------------------------------------------------------------ access logs

    def log_tcp(self, proxy: Any, reporter: Reporter) -> None:
        """Give a TcpProxy or an HttpConnectionManager its access logs."""
        proxy.access_log.extend(self._logs(reporter, listener=False))

    def log_listener(self, listener: Any, reporter: Reporter) -> None:
        """Give a Listener its access logs, of connections that no chain takes."""
        listener.access_log.extend(self._logs(reporter, listener=True))

    def _logs(self, reporter: Reporter, *, listener: bool) -> list[Any]:
        mesh = self.options.mesh
        if mesh is None:
            return []
        made = [
            None if disabled else access_logs.filtered(log, chosen, listener=listener)
            for name, (disabled, chosen) in sorted(self._loggers(reporter.mode).items())
            if (log := access_logs.of_provider(name, self.provider(name), mesh)) is not None
        ]
        if made:
            return [log for log in made if log is not None]
        if not mesh.access_log_file:
            return []
        return [access_logs.filtered(access_logs.of_mesh(mesh.access_log_file, mesh), None, listener=listener)]

    def _loggers(self, mode: str) -> dict[str, tuple[bool, LogFilter | None]]:
        """Return the providers that are spoken of: whether each is off, else what it is asked to log."""
        defaults = self._defaults("access_logging")
        scope = set(defaults)
        filters: dict[str, LogFilter | None] = {}
        for telemetry in self.applied:
            names: list[str] = []
            for item in telemetry.spec.access_logging:
                if _concerns(item, mode):
                    own = _names(item.providers)
                    names += own
                    filters.update(dict.fromkeys(own, item.filter))
            scope = set(names) or scope
        applied = [item for telemetry in self.applied for item in telemetry.spec.access_logging]
        found: dict[str, tuple[bool, LogFilter | None]] = {}
        parent: Sequence[str] = defaults
        for item in applied:
            parent = _names(item.providers) or parent
            for name in parent:
                if name in scope and _concerns(item, mode):
                    found[name] = (True, None) if item.disabled else (False, filters.get(name))
        return found if applied else dict.fromkeys(defaults, (False, None))

    # ------------------------------------------------------------ metrics

    def prometheus(self, reporter: Reporter) -> tuple[bool, tuple[MetricChange, ...], float | None]:
        """Return whether Istio's metrics are counted, what is changed about them, and how often TCP is reported."""
        applied = [item for telemetry in self.applied for item in telemetry.spec.metrics]
        defaults = self._defaults("metrics")
        if not self.options.managed:
            return False, (), None
        if not applied:
            return any(self._is_prometheus(name) for name in defaults), (), None
        scope = set(next((names for item in reversed(applied) if (names := _names(item.providers))), defaults))
        changes: dict[str, _Override] = {}
        parent: Sequence[str] = defaults
        counted, off, interval = False, False, None
        for item in applied:
            parent = _names(item.providers) or parent
            if not any(name in scope and self._is_prometheus(name) for name in parent):
                continue
            counted = True
            interval = item.reporting_interval or interval
            off = _override(item, reporter.mode, changes, off=off)
        return counted and not off, tuple(_changes(changes)), interval

    def _is_prometheus(self, name: str) -> bool:
        provider = self.provider(name)
        return provider.prometheus is not None if provider else name == "prometheus"


def _override(item: Metrics, mode: str, changes: dict[str, _Override], *, off: bool) -> bool:
    """Put what a Telemetry says of metrics over what was said before; return whether all are off."""
    for override in item.overrides:
        match = override.match
        if match and match.mode not in (BOTH, mode):
            continue
        every = match is None or (not match.custom_metric and match.metric in ("", "ALL_METRICS"))
        if every and override.disabled:
            off = True
            continue
        off = False
        names = METRICS[1:] if match is None or every else (match.custom_metric or match.metric,)
        for name in names:
            change = changes.setdefault(name, _Override())
            if override.disabled is not None:
                change.disabled = override.disabled
            change.tags.update(override.tag_overrides)
    return off


def _changes(changes: Mapping[str, _Override]) -> Iterator[MetricChange]:
    for name, change in sorted(changes.items()):
        kept = {tag: item.value for tag, item in sorted(change.tags.items()) if item.operation == "UPSERT"}
        removed = tuple(tag for tag, item in sorted(change.tags.items()) if item.operation == "REMOVE")
        yield MetricChange(_PROMETHEUS.get(name, name), bool(change.disabled), kept, removed)


def _concerns(item: AccessLogging, mode: str) -> bool:
    return item.match is None or item.match.mode in (BOTH, mode)


def _names(providers: Iterable[ProviderRef]) -> list[str]:
    return [item.name for item in providers]
