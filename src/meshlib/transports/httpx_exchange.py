"""The application's own timeouts over a whole call, and the call as httpx drivers see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from meshlib.deadlines import current_deadline
from meshlib.policy.call import Call
from meshlib.policy.effects import Attempt, Park
from meshlib.policy.record import CallRecord
from meshlib.runtime.runtime import FIRST_CONFIGURATION_TIMEOUT
from meshlib.transports.mirrors import Tee
from meshlib.upstream.clock import AttemptClock

ErrorT = TypeVar("ErrorT", bound=httpx.RequestError)


class Timeouts:
    """The application's own timeouts, spanning the whole call (design.md, Timeouts).

    ``read`` bounds the wait for the response head over all attempts and back-offs, then the gap
    between body reads. ``connect`` bounds the seconds spent connecting and ``pool`` those spent
    waiting for a connection slot, both summed over all attempts. An expiry ends the call, is
    never retried and never counts against an endpoint. ``deadline`` (seconds, in
    ``extensions={"meshlib": {"deadline": s}}``) bounds everything, the body too, and so does
    :func:`meshlib.deadline`.

    Attributes:
        connecting: seconds spent connecting so far.
        pooling: seconds spent waiting for a slot so far.
        traced: whether the call asks for its decision trace (``extensions={"meshlib": {"trace": True}}``).
    """

    __slots__ = ("connect", "connecting", "pool", "pooling", "read", "started", "total", "traced", "write")

    def __init__(self, request: httpx.Request) -> None:
        given: dict[str, float | None] = request.extensions.get("timeout", {})
        self.connect = given.get("connect")
        self.read = given.get("read")
        self.write = given.get("write")
        self.pool = given.get("pool")
        own: dict[str, Any] = request.extensions.get("meshlib") or {}
        self.total: float | None = own.get("deadline")
        self.traced = bool(own.get("trace"))
        self.started = time.monotonic()
        ambient = current_deadline()
        if ambient is not None:
            left = max(0.0, ambient - self.started)
            self.total = left if self.total is None else min(self.total, left)
        self.connecting = self.pooling = 0.0

    def left_for_head(self) -> float | None:
        """Return the seconds left to wait for the response head, not below 0; None = no bound."""
        bounds = [bound for bound in (self.read, self.total) if bound is not None]
        return max(0.0, min(bounds) - (time.monotonic() - self.started)) if bounds else None

    def left_to_connect(self) -> float | None:
        """Return the seconds left of the application's connect timeout."""
        return None if self.connect is None else max(0.0, self.connect - self.connecting)

    def left_to_wait(self) -> float | None:
        """Return the seconds left of the application's pool timeout."""
        return None if self.pool is None else max(0.0, self.pool - self.pooling)

    @property
    def total_deadline(self) -> float | None:
        """The monotonic second at which the whole call must be over, None = no bound."""
        return None if self.total is None else self.started + self.total

    @property
    def deadline(self) -> float | None:
        """The monotonic second by which the response head must be there, None = no bound."""
        bounds = [bound for bound in (self.read, self.total) if bound is not None]
        return self.started + min(bounds) if bounds else None

    def to_connect(self, effect: Attempt) -> float:
        """Return the seconds an attempt may take to connect: the cluster's, cut to the application's."""
        own = self.left_to_connect()
        connect = effect.cluster.connect_timeout
        return connect if own is None else min(connect, own)

    def for_attempt(self, effect: Attempt) -> dict[str, float | None]:
        """Return the timeouts of one attempt as httpcore takes them."""
        return {
            "connect": self.to_connect(effect),
            "read": self.read,
            "write": self.write,
            "pool": self.left_to_wait(),
        }

    def for_configuration(self) -> float:
        """Return the seconds to wait for the first configuration: the call's own timeout, at most 15."""
        left = self.left_for_head()
        return FIRST_CONFIGURATION_TIMEOUT if left is None else min(left, FIRST_CONFIGURATION_TIMEOUT)


@dataclass(slots=True)
class Exchange:
    """One call as an httpx driver sees it.

    Attributes:
        call: the call, for policy.
        request: the application's.
        timeouts: the application's.
        sent: what attempts are made of: the application's, or what an internal redirect led to.
        tee: keeps a streamed body for copies of the request; None while there are none.
        body: what is left of a streamed request body, None before it is begun.
    """

    call: Call
    request: httpx.Request
    timeouts: Timeouts
    sent: httpx.Request = field(init=False)
    tee: Tee | None = None
    body: Any = None

    def __post_init__(self) -> None:
        self.sent = self.request

    @property
    def tls(self) -> str:
        """Host name of the application's own TLS, empty for plaintext."""
        view = self.call.view
        return view.host if view.tls else ""

    def clock(self, effect: Attempt) -> AttemptClock:
        """Return the clock of an attempt; a streamed body starts it once it has been produced."""
        pending = not self.call.view.replayable
        return AttemptClock(effect.timeout, self.timeouts.left_for_head(), body_pending=pending)

    def patience(self, effect: Park) -> tuple[float | None, Callable[[], httpx.TimeoutException] | None]:
        """Return how long to wait for a ticket, and what to raise when that is the application's limit."""
        timeouts = self.timeouts
        bounds: list[tuple[float | None, Callable[[], httpx.TimeoutException] | None]] = [
            (effect.timeout, None),
            (timeouts.left_to_wait() if effect.pooled else None, self.unpooled),
            (timeouts.left_for_head(), self.expired),
        ]
        return min((b for b in bounds if b[0] is not None), key=lambda b: b[0] or 0.0, default=(None, None))

    def unpooled(self) -> httpx.PoolTimeout:
        """Return the error of a wait for a connection slot that outlasted the application's pool timeout."""
        cluster, seconds = self.call.record.cluster_name, self.timeouts.pool
        error = httpx.PoolTimeout(f"no connection slot of {cluster!r} within the pool timeout of {seconds:g}s")
        return with_record(error, self.call.record, self.request)

    def expired(self) -> httpx.ReadTimeout:
        """Return the error of an application timeout that passed between attempts."""
        timeouts, attempts = self.timeouts, len(self.call.record.attempts)
        bounds = ((timeouts.read, "read"), (timeouts.total, "deadline"))
        seconds, name = min((seconds, name) for seconds, name in bounds if seconds is not None)
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
