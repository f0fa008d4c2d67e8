"""Metrics, traces and the access log, hung on the engine's events.

::

    context.py      what the observers of one call share: its request id, its span
    metrics.py      Istio's metrics as plain cells; prometheus.py reads them at scrape time
    tracing.py      OpenTelemetry spans and propagation; imports opentelemetry, so import it late
    request_id.py   x-request-id for calls that have none
    access_log.py   Envoy format strings, Istio's default line

Each is a :class:`~meshlib.policy.events.Observer`; :class:`Telemetry` makes one of several.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from meshlib.policy.events import NO_HEADERS, Observer
from meshlib.policy.record import AttemptRecord, CallRecord

_log = logging.getLogger("meshlib.telemetry")


class Telemetry:
    """Several observers as one. Telemetry never fails a call.

    Events reach the observers in the order given; headers they return are joined in that order.
    An exception of one is logged once for each observer and event, and hides nothing from the
    others. Thread-safe where the observers are.

    Args:
        observers: the observers, in order.
    """

    __slots__ = ("_failed", "observers")

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers
        self._failed: set[tuple[str, str]] = set()

    def call_started(self, record: CallRecord) -> None:
        """A call begins."""
        for observer in self.observers:
            try:
                observer.call_started(record)
            except Exception as error:  # noqa: BLE001  telemetry never fails a call; logged by _failure
                self._failure(observer, "call_started", error)

    def attempt_started(self, record: CallRecord, attempt: AttemptRecord) -> Sequence[tuple[str, str]]:
        """An attempt begins; returns the headers of every observer."""
        headers: Sequence[tuple[str, str]] = NO_HEADERS
        for observer in self.observers:
            try:
                added = observer.attempt_started(record, attempt)
            except Exception as error:  # noqa: BLE001  telemetry never fails a call; logged by _failure
                self._failure(observer, "attempt_started", error)
                continue
            if added:
                headers = [*headers, *added]
        return headers

    def attempt_ended(self, record: CallRecord, attempt: AttemptRecord) -> None:
        """An attempt met its response head or failed."""
        for observer in self.observers:
            try:
                observer.attempt_ended(record, attempt)
            except Exception as error:  # noqa: BLE001  telemetry never fails a call; logged by _failure
                self._failure(observer, "attempt_ended", error)

    def call_ended(self, record: CallRecord) -> None:
        """The call is over."""
        for observer in self.observers:
            try:
                observer.call_ended(record)
            except Exception as error:  # noqa: BLE001  telemetry never fails a call; logged by _failure
                self._failure(observer, "call_ended", error)

    def mirror_ended(self, record: CallRecord) -> None:
        """A copy of a request is over."""
        for observer in self.observers:
            try:
                observer.mirror_ended(record)
            except Exception as error:  # noqa: BLE001  telemetry never fails a call; logged by _failure
                self._failure(observer, "mirror_ended", error)

    def _failure(self, observer: Observer, event: str, error: Exception) -> None:
        key = (type(observer).__qualname__, event)
        if key not in self._failed:
            self._failed.add(key)
            _log.error("%s failed at %s; the call goes on, later failures stay silent", *key, exc_info=error)
