"""The application's own timeouts over a whole call, and the call as httpx drivers see it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from meshlib.policy.call import Call
from meshlib.policy.effects import Attempt
from meshlib.policy.record import CallRecord
from meshlib.runtime.runtime import FIRST_CONFIGURATION_TIMEOUT
from meshlib.upstream.clock import AttemptClock

ErrorT = TypeVar("ErrorT", bound=httpx.RequestError)


class Timeouts:
    """The application's own timeouts, spanning the whole call (design.md, Timeouts).

    ``read`` bounds the wait for the response head over all attempts and back-offs, then the gap
    between body reads; ``connect`` and ``pool`` likewise span the call. An expiry ends the call,
    is never retried and never counts against an endpoint. ``deadline`` (seconds, in
    ``extensions={"meshlib": {"deadline": s}}``) bounds everything, the body too.
    """

    __slots__ = ("connect", "pool", "read", "started", "total", "write")

    def __init__(self, request: httpx.Request) -> None:
        given: dict[str, float | None] = request.extensions.get("timeout", {})
        self.connect = given.get("connect")
        self.read = given.get("read")
        self.write = given.get("write")
        self.pool = given.get("pool")
        own: dict[str, Any] = request.extensions.get("meshlib") or {}
        self.total: float | None = own.get("deadline")
        self.started = time.monotonic()

    def left_for_head(self) -> float | None:
        """Return the seconds left to wait for the response head, not below 0; None = no bound."""
        bounds = [bound for bound in (self.read, self.total) if bound is not None]
        return max(0.0, min(bounds) - (time.monotonic() - self.started)) if bounds else None

    def left_to_connect(self) -> float | None:
        """Return the seconds left of the application's connect timeout."""
        return None if self.connect is None else max(0.0, self.connect - (time.monotonic() - self.started))

    @property
    def total_deadline(self) -> float | None:
        """The monotonic second at which the whole call must be over, None = no bound."""
        return None if self.total is None else self.started + self.total

    def for_attempt(self, effect: Attempt) -> dict[str, float | None]:
        """Return httpcore's timeouts of one attempt; the cluster's connect_timeout joins the application's."""
        own = self.left_to_connect()
        connect = effect.cluster.connect_timeout
        return {
            "connect": connect if own is None else min(connect, own),
            "read": self.read,
            "write": self.write,
            "pool": self.pool,
        }

    def for_configuration(self) -> float:
        """Return the seconds to wait for the first configuration: the call's own timeout, at most 15."""
        left = self.left_for_head()
        return FIRST_CONFIGURATION_TIMEOUT if left is None else min(left, FIRST_CONFIGURATION_TIMEOUT)

    def park(self, timeout: float | None) -> float | None:
        """Return how long to wait for a connection slot: the route's time, the pool timeout, the head's."""
        bounds = [bound for bound in (timeout, self.pool, self.left_for_head()) if bound is not None]
        return min(bounds) if bounds else None


@dataclass(slots=True)
class Exchange:
    """One call as an httpx driver sees it."""

    call: Call
    request: httpx.Request
    timeouts: Timeouts

    def clock(self, effect: Attempt) -> AttemptClock:
        """Return the clock of an attempt; a streamed body starts it once it has been produced."""
        pending = not self.call.view.replayable
        return AttemptClock(effect.timeout, self.timeouts.left_for_head(), body_pending=pending)

    def raise_parked(self) -> None:
        """Raise if it was the application's timeout that ended the wait for a connection slot."""
        timeouts = self.timeouts
        if timeouts.left_for_head() == 0.0:
            raise self.expired()
        if timeouts.pool is not None and time.monotonic() - timeouts.started >= timeouts.pool:
            cluster = self.call.record.cluster_name
            raise with_record(
                httpx.PoolTimeout(f"no connection slot of {cluster!r} within the pool timeout of {timeouts.pool:g}s"),
                self.call.record,
                self.request,
            )

    def expired(self) -> httpx.ReadTimeout:
        """Return the error of an application timeout that passed between attempts."""
        timeouts, attempts = self.timeouts, len(self.call.record.attempts)
        name, seconds = ("read", timeouts.read) if timeouts.total is None else ("deadline", timeouts.total)
        error = httpx.ReadTimeout(
            f"the application's {name} timeout of {seconds:g}s passed after {attempts} attempt(s)"
        )
        return with_record(error, self.call.record, self.request)


def with_record(error: ErrorT, record: CallRecord, request: httpx.Request | None = None) -> ErrorT:
    """Attach the call's record (and request) to an error of httpx's own."""
    error.__dict__["record"] = record
    if request is not None:
        error.request = request
    return error
