"""Istio's standard metrics, as plain cells on the hot path.

A call adds to one cell, found by a tuple of what it met; names and label texts are made once a
cell. :mod:`meshlib.telemetry.prometheus` reads the cells when it is scraped. An OpenTelemetry
instrument call with these labels would cost 8-15 µs a request, a cell about one.

Istio's definitions: https://istio.io/latest/docs/reference/config/metrics/. Two differences: bytes
are those of the body (a sidecar counts the head too), and ``destination_app`` and
``destination_version`` are the canonical service and revision (a sidecar learns the labels from
the peer's sidecar, and endpoint metadata does not carry them).
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_left
from collections.abc import Iterator
from threading import Lock
from weakref import WeakSet

from meshlib.model.cluster import ServiceRef
from meshlib.model.endpoint import Workload
from meshlib.policy import flags
from meshlib.policy.events import NullObserver
from meshlib.policy.record import CallRecord
from meshlib.settings import Identity
from meshlib.telemetry.canonical import canonical_revision, canonical_service

_log = logging.getLogger("meshlib.telemetry")

UNKNOWN = "unknown"

# Envoy's default histogram buckets (HistogramSettingsImpl), for milliseconds and for bytes alike.
BUCKETS: tuple[float, ...] = (
    0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000,
    300000, 600000, 1800000, 3600000,
)  # fmt: skip

# In the order in which a sidecar prints them.
LABELS: tuple[str, ...] = (
    "reporter",
    "source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
    "source_principal", "source_app", "source_version", "source_cluster",
    "destination_workload", "destination_workload_namespace", "destination_principal",
    "destination_app", "destination_version", "destination_service",
    "destination_canonical_service", "destination_canonical_revision",
    "destination_service_name", "destination_service_namespace", "destination_cluster",
    "request_protocol", "response_code", "grpc_response_status", "response_flags", "connection_security_policy",
)  # fmt: skip

# Istio's route names of outboundTrafficPolicy -> what a sidecar reports as the service.
OUTSIDE_ROUTES = {"allow_any": "PassthroughCluster", "block_all": "BlackHoleCluster"}

NO_SERVICE = ServiceRef()
NO_WORKLOAD = Workload()

# service, workload, cluster name, protocol, status, gRPC status, flags
Key = tuple[ServiceRef, Workload, str, str, int | None, int | None, int]


class Histogram:
    """Counts by :data:`BUCKETS` and a sum; guarded by its cell's lock."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count ``value``; a bucket's bound belongs to it (Prometheus ``le``)."""
        self.counts[bisect_left(BUCKETS, value)] += 1
        self.sum += value

    def copy(self) -> Histogram:
        """Return a copy that no longer changes."""
        other = Histogram()
        other.counts, other.sum = list(self.counts), self.sum
        return other


class Cell:
    """What was counted for one label set.

    A lock a cell, not a cell a thread: one uncontended acquisition costs 0.1 µs of a call of 50,
    the count is right on free-threaded builds, a reader sees the four metrics of a call together,
    and nothing has to be merged or outlives its thread.
    """

    __slots__ = ("attempts", "duration", "labels", "lock", "request_bytes", "requests", "response_bytes", "retries")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.lock = Lock()
        # Guarded by `lock`.
        self.requests = 0
        self.attempts = 0
        self.retries = 0
        self.duration = Histogram()
        self.request_bytes = Histogram()
        self.response_bytes = Histogram()

    def add(self, record: CallRecord) -> None:
        """Count one call."""
        milliseconds = (record.ended - record.started) * 1000.0
        attempts = len(record.attempts)
        with self.lock:
            self.requests += 1
            self.attempts += attempts
            if attempts > 1:
                self.retries += attempts - 1
            self.duration.add(milliseconds)
            self.request_bytes.add(record.bytes_sent)
            self.response_bytes.add(record.bytes_received)

    def copy(self) -> Cell:
        """Return a consistent copy that no longer changes."""
        other = Cell(self.labels)
        with self.lock:
            other.requests, other.attempts, other.retries = self.requests, self.attempts, self.retries
            other.duration = self.duration.copy()
            other.request_bytes = self.request_bytes.copy()
            other.response_bytes = self.response_bytes.copy()
        return other


class IstioMetrics(NullObserver):
    """``istio_requests_total``, ``istio_request_duration_milliseconds`` and the byte histograms.

    Thread-safe; a forked child starts at zero. Memory is bounded: beyond ``max_label_sets`` a
    call keeps its protocol and code alone, the destination becomes ``unknown``, one warning says
    so and :attr:`folded` counts it; hosts that no configuration names, which the application may
    draw from anywhere, become ``unknown`` beyond ``max_outside_hosts``.

    Args:
        identity: the source side of every label set.
        max_label_sets: each becomes 1 + 3 × 22 time series.
        max_outside_hosts: distinct ``destination_service`` values that no configuration names.
    """

    def __init__(self, identity: Identity, *, max_label_sets: int = 1000, max_outside_hosts: int = 100) -> None:
        self._source = _source_labels(identity)
        self._max_label_sets = max_label_sets
        self._max_outside_hosts = max_outside_hosts
        self.forked()
        _forkable.add(self)

    def forked(self) -> None:
        """Start at zero, as a new process does: the parent counts its own, and its locks may be held."""
        # Read without the lock, written under it.
        self._lock = Lock()
        self._cells: dict[Key, Cell] = {}
        self._outside_hosts: set[str] = set()
        self._folded = 0

    def call_ended(self, record: CallRecord) -> None:
        """Count the call under the labels of its last attempt, as Istio's source reporter does."""
        cluster, attempts = record.cluster, record.attempts
        service = cluster.service if cluster is not None else NO_SERVICE
        if service.host == UNKNOWN:
            service = self._outside(record)
        key = (
            service,
            attempts[-1].endpoint.workload if attempts else NO_WORKLOAD,
            record.cluster_name,
            record.protocol,
            record.status,
            record.grpc_status if record.protocol == "grpc" else None,
            record.flags,
        )
        cell = self._cells.get(key) or self._cell(key)
        cell.add(record)

    @property
    def folded(self) -> int:
        """Calls counted without their labels, because ``max_label_sets`` was reached."""
        return self._folded

    def cells(self) -> Iterator[tuple[str, Cell]]:
        """Yield the cluster name and a consistent copy of every cell."""
        with self._lock:
            cells = list(self._cells.items())
        for key, cell in cells:
            yield key[2], cell.copy()

    def _outside(self, record: CallRecord) -> ServiceRef:
        """Name a destination that no service stands behind, as istio_stats.cc does: by its Host header."""
        host = record.request.authority.lower()
        if host not in self._outside_hosts:
            with self._lock:
                if len(self._outside_hosts) < self._max_outside_hosts:
                    self._outside_hosts.add(host)
                else:
                    host = UNKNOWN
        name = OUTSIDE_ROUTES.get(record.route) or (
            record.cluster_name if record.cluster_name in OUTSIDE_ROUTES.values() else host
        )
        return ServiceRef(host=host, name=name)

    def _cell(self, key: Key) -> Cell:
        with self._lock:
            if key not in self._cells and len(self._cells) >= self._max_label_sets:
                if not self._folded:
                    _log.warning("max_label_sets=%d reached; further calls count as unknown", self._max_label_sets)
                self._folded += 1
                key = (NO_SERVICE, NO_WORKLOAD, UNKNOWN, key[3], key[4], None, 0)
            cell = self._cells.get(key)
            if cell is None:
                cell = self._cells[key] = Cell(("source", *self._source, *_destination_labels(key)))
            return cell


def _source_labels(identity: Identity) -> tuple[str, ...]:
    """Return the ``source_*`` values, in the order of :data:`LABELS`."""
    return (
        identity.workload,
        canonical_service(identity),
        canonical_revision(identity),
        identity.namespace,
        UNKNOWN,
        identity.app,
        identity.labels.get("version") or UNKNOWN,
        identity.cluster_id,
    )


def _destination_labels(key: Key) -> tuple[str, ...]:
    """Return the values from ``destination_workload`` on, in the order of :data:`LABELS`."""
    service, workload, _, protocol, status, grpc_status, bits = key
    name = service.name if service.name != UNKNOWN else service.host.partition(".")[0]
    return (
        workload.name,
        workload.namespace,
        UNKNOWN,
        workload.app,
        workload.version,
        service.host,
        workload.app,
        workload.version if workload.version != UNKNOWN else "latest",
        name,
        service.namespace,
        workload.cluster,
        protocol,
        str(status or 0),
        "" if grpc_status is None else str(grpc_status),
        flags.names(bits),
        UNKNOWN,
    )


_forkable: WeakSet[IstioMetrics] = WeakSet()


def _after_fork_in_child() -> None:
    for metrics in list(_forkable):
        metrics.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
