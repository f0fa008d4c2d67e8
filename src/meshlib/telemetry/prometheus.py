"""The Prometheus side of the metrics: a collector that reads the cells, and an endpoint."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, chain
from threading import Thread
from typing import TYPE_CHECKING, Self
from weakref import WeakSet
from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from meshlib.telemetry.metrics import BUCKETS, LABELS, Cell, Histogram, IstioMetrics
from meshlib.telemetry.xds_metrics import XdsFamilies

if TYPE_CHECKING:
    from meshlib.xds.inventory import Inventory

# As Envoy prints them ("1", not "1.0"), so that `sum by (le)` joins our series with a sidecar's.
BOUNDS: tuple[str, ...] = (*(f"{bound:.10g}" for bound in BUCKETS), "+Inf")


class IstioCollector(Collector):
    """Gives the cells of one :class:`IstioMetrics`, and the xDS client's metrics, to a registry; costs calls nothing.

    Thread-safe. Registering two of them in one registry is refused by prometheus_client
    (duplicated time series).

    Args:
        metrics: the cells.
        is_stale: tells whether what is in force is from the last-known-good file.
        look: returns what the xDS client knows; None leaves its metrics out.
    """

    def __init__(
        self,
        metrics: IstioMetrics,
        is_stale: Callable[[], bool] = lambda: False,
        look: Callable[[], Inventory] | None = None,
    ) -> None:
        self._metrics = metrics
        self._is_stale = is_stale
        self._look = look

    def collect(self) -> Iterable[Metric]:
        """Return every metric family with what has been counted so far."""
        families = _Families()
        attempts: Counter[str] = Counter()
        retries: Counter[str] = Counter()
        for cluster, cell in self._metrics.cells():
            families.requests.add_metric(cell.labels, cell.requests)
            _add(families.duration, cell, cell.duration)
            _add(families.request_bytes, cell, cell.request_bytes)
            _add(families.response_bytes, cell, cell.response_bytes)
            attempts[cluster] += cell.attempts
            retries[cluster] += cell.retries
        for cluster, count in attempts.items():
            if count:
                families.attempts.add_metric((cluster,), count)
                families.retries.add_metric((cluster,), retries[cluster])
        families.folded.add_metric((), self._metrics.folded)
        families.stale.add_metric((), self._is_stale())
        if self._look is None:
            return families
        xds = XdsFamilies()
        xds.take(self._look)
        return chain(families, xds)

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples: what a registry checks names against."""
        return chain(_Families(), () if self._look is None else XdsFamilies())


class _Families:
    """One scrape's metric families, in the order they are exposed."""

    def __init__(self) -> None:
        cluster = ("cluster_name",)
        self.requests = CounterMetricFamily("istio_requests", "Calls.", labels=LABELS)
        self.duration = HistogramMetricFamily(
            "istio_request_duration_milliseconds", "From the call's start to the end of its body.", labels=LABELS
        )
        self.request_bytes = HistogramMetricFamily("istio_request_bytes", "Request body bytes.", labels=LABELS)
        self.response_bytes = HistogramMetricFamily("istio_response_bytes", "Response body bytes.", labels=LABELS)
        self.attempts = CounterMetricFamily("envoy_cluster_upstream_rq", "Attempts, retries included.", labels=cluster)
        self.retries = CounterMetricFamily("envoy_cluster_upstream_rq_retry", "Retries.", labels=cluster)
        self.stale = GaugeMetricFamily("meshlib_xds_stale", "1 while the last-known-good file is in force.")
        self.folded = CounterMetricFamily("meshlib_metrics_folded_requests", "Calls counted without their labels.")

    def __iter__(self) -> Iterator[Metric]:
        return iter(vars(self).values())


def _add(family: HistogramMetricFamily, cell: Cell, histogram: Histogram) -> None:
    cumulative = list(zip(BOUNDS, map(float, accumulate(histogram.counts)), strict=True))
    family.add_metric(cell.labels, buckets=cumulative, sum_value=histogram.sum)


class MetricsServer:
    """A running Prometheus endpoint; :meth:`close` it, or use it in ``with``.

    Attributes:
        host, port: where it listens; ``port`` is the real one where 0 was asked for.
    """

    __slots__ = ("_server", "_thread", "host", "port")

    def __init__(self, host: str, server: WSGIServer, thread: Thread) -> None:
        self.host = host
        self.port: int = server.server_port
        self._server = server
        self._thread = thread

    @property
    def url(self) -> str:
        """Where Prometheus should scrape."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def close(self) -> None:
        """Stop listening and end the thread; idempotent."""
        if self._thread.is_alive():  # not in a forked child, where shutdown() would wait for ever
            self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<metrics {self.url}>"


def serve(host: str, port: int, registry: CollectorRegistry) -> MetricsServer:
    """Serve ``registry`` by prometheus_client's own HTTP server, in a daemon thread.

    Args:
        host: the address to listen on; there is no authentication, so loopback unless a network
            policy stands in front.
        port: the port, 0 for a free one.
        registry: what to expose.

    Raises:
        OSError: the address cannot be bound; the message names it.
    """
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise OSError(error.errno, f"metrics cannot be served on {host}:{port}: {error.strerror or error}") from error
    _listening.add(server)
    return MetricsServer(host, server, thread)


_listening: WeakSet[WSGIServer] = WeakSet()


def _after_fork_in_child() -> None:
    # Nobody accepts here, and the port would stay taken when the parent is gone.
    for server in list(_listening):
        server.socket.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
