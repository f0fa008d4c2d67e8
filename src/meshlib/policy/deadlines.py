"""Every timeout of a call, and which of them is the next to pass (semantics 4.1).

=====================  ============================  ===========================  ====================
timeout                from                          to                           when it passes
=====================  ============================  ===========================  ====================
route ``timeout``      the request sent in full      the end of the response      504 UT
per try                the same, of each attempt     its response head            retried, else 504 UT
per try idle           the same, and each byte read  the end of the response      retried, else 504 UT
upstream duration      the attempt's begin           the end of the response      retried, else UMSDR
max stream duration    the call's begin              the end of the response      504
stream idle            the request sent in full      the end of the response      504 SI
=====================  ============================  ===========================  ====================

*Upstream duration* is the cluster's ``max_stream_duration``, or what the request says in
``x-envoy-upstream-stream-duration-ms``; *max stream duration* the route's, else the connection
manager's, with gRFC A31's rules for ``grpc-timeout``. 0 is off everywhere. A route with
``max_stream_duration`` has no route timeout; the decoder has taken it away.
"""

from __future__ import annotations

from enum import Enum

from meshlib.model.match import is_grpc
from meshlib.model.request import RequestView
from meshlib.model.route import GrpcTimeout, RouteAction, StreamDuration

_GRPC_UNITS = {"H": 3_600_000.0, "M": 60_000.0, "S": 1000.0, "m": 1.0, "u": 0.001, "n": 0.000001}
_GRPC_DIGITS = 8  # "TimeoutValue: positive integer as ASCII string of at most 8 digits"


class Expiry(Enum):
    """Which timeout passed."""

    ROUTE = "the route's timeout"
    PER_TRY = "per_try_timeout"
    PER_TRY_IDLE = "per_try_idle_timeout"
    UPSTREAM_DURATION = "the upstream's max_stream_duration"
    DURATION = "max_stream_duration"
    IDLE = "the stream's idle_timeout"


# The call is over when one of these passes; an attempt may be made again after the others.
FINAL = frozenset({Expiry.ROUTE, Expiry.DURATION, Expiry.IDLE})
# What Envoy's outlier detection hears of: not of what its connection manager ends.
BLAMED = frozenset({Expiry.ROUTE, Expiry.PER_TRY, Expiry.PER_TRY_IDLE})


class Deadlines:
    """The clocks of one call over a route.

    ``per_try_timeout`` is ignored when not below a non-zero route timeout (measured).

    Attributes:
        route: seconds of the route timeout, 0.0 = off.
        per_try: seconds of each attempt, 0.0 = off.
        started: clock seconds from which the route timeout counts; see :meth:`uploaded`.
        expiry: which timeout is the next to pass of the attempt or response under way.
        more: the rarer timeouts, None where none is set.
    """

    __slots__ = ("expiry", "more", "per_try", "route", "started")

    def __init__(self, action: RouteAction, started: float, more: More | None = None) -> None:
        self.route = action.timeout if more is None or more.route is None else more.route
        per_try = action.retry.per_try_timeout if action.retry else 0.0
        self.per_try = 0.0 if self.route and per_try >= self.route else per_try
        self.started = started
        self.expiry = Expiry.ROUTE
        self.more = more

    def told(self, now: float, number: int, *, hedging: bool = False) -> float | None:
        """Return what the upstream is told an attempt may take (``x-envoy-expected-rq-timeout-ms``), None = no bound.

        As Envoy, the first attempt tells what was configured, whatever its wait for a connection
        took; and one that will not be cut at its per-try timeout the route's.
        """
        expected = self.route if hedging or not self.per_try else self.per_try
        if not expected:
            return None
        if number > 1 and self.route:
            expected = max(0.001, min(expected, self.route - (now - self.started)))
        return expected

    def uploaded(self, seconds: float) -> None:
        """Start the route's timeout ``seconds`` later: that long the application took to give the whole request."""
        self.started += seconds

    def remaining(self, now: float) -> float | None:
        """Return the seconds left of what bounds the call as a whole (not below 0), None where nothing does."""
        left = max(0.0, self.route - (now - self.started)) if self.route else None
        if self.more is None:
            return left
        for seconds, _ in self.more.of_call(now, self.started):
            left = seconds if left is None else min(left, seconds)
        return left

    def attempt_timeout(self, now: float, *, soft: bool = False) -> float | None:
        """Return the seconds an attempt starting now may take to its response head; sets :attr:`expiry`.

        Args:
            now: clock seconds.
            soft: leave out what a hedged attempt goes on after.
        """
        timeout: float | None = None
        if self.route:
            timeout = self.route - (now - self.started)
            if timeout < 0.0:
                timeout = 0.0
            self.expiry = Expiry.ROUTE
        if self.per_try and not soft and (timeout is None or self.per_try < timeout):
            timeout = self.per_try
            self.expiry = Expiry.PER_TRY
        if self.more is not None:
            others = [*self.more.of_call(now, self.started), *self.more.of_attempt(soft=soft)]
            for seconds, expiry in others:
                if timeout is None or seconds < timeout:
                    timeout, self.expiry = seconds, expiry
        return timeout

    def body_timeout(
        self, now: float, attempt_started: float, *, soft: bool = False
    ) -> tuple[float | None, float | None]:
        """Return the seconds left for the response's body, and for each wait for a part of it; None = no bound.

        Args:
            now: clock seconds.
            attempt_started: clock second at which its attempt began.
            soft: leave out what a hedged attempt goes on after.
        """
        left = max(0.0, self.route - (now - self.started)) if self.route else None
        self.expiry = Expiry.ROUTE
        if self.more is None:
            return left, None
        for seconds, expiry in self.more.of_body(now, attempt_started):
            if left is None or seconds < left:
                left, self.expiry = seconds, expiry
        if soft:
            return left, self.more.idle or None
        return left, self.more.gap

    def expired(self, now: float) -> bool:
        """Tell whether the call's time is over; :attr:`expiry` says by what."""
        if self.route and now - self.started >= self.route:
            self.expiry = Expiry.ROUTE
            return True
        if self.more is not None:
            for seconds, expiry in self.more.of_call(now, self.started):
                if seconds <= 0.0:
                    self.expiry = expiry
                    return True
        return False

    def seconds(self, expiry: Expiry) -> float:
        """Return what is configured of a timeout."""
        if expiry is Expiry.ROUTE:
            return self.route
        if expiry is Expiry.PER_TRY:
            return self.per_try
        return self.more.seconds(expiry) if self.more is not None else 0.0


class More:
    """The rarer timeouts of one call, seconds; 0.0 = off.

    Attributes:
        began: clock seconds at which the call began.
        route: takes the place of the route's timeout, where ``max_grpc_timeout`` says so; None leaves it.
        duration: of the call.
        idle: of the stream.
        per_try_idle, upstream_duration: of each attempt.
        grpc_header: ``grpc-timeout`` to send in place of the request's own; empty leaves that.
    """

    __slots__ = ("began", "duration", "grpc_header", "idle", "per_try_idle", "route", "upstream_duration")

    def __init__(
        self,
        began: float,
        *,
        route: float | None = None,
        duration: float = 0.0,
        idle: float = 0.0,
        per_try_idle: float = 0.0,
        upstream_duration: float = 0.0,
        grpc_header: str = "",
    ) -> None:
        self.began = began
        self.route = route
        self.duration = duration
        self.idle = idle
        self.per_try_idle = per_try_idle
        self.upstream_duration = upstream_duration
        self.grpc_header = grpc_header

    def of_call(self, now: float, started: float) -> list[tuple[float, Expiry]]:
        """Return the seconds left of what bounds the call, before it has a response."""
        left = []
        if self.duration:
            left.append((max(0.0, self.duration - (now - self.began)), Expiry.DURATION))
        if self.idle:
            left.append((max(0.0, self.idle - (now - started)), Expiry.IDLE))
        return left

    def of_attempt(self, *, soft: bool) -> list[tuple[float, Expiry]]:
        """Return what bounds an attempt up to its response head."""
        bounds = []
        if self.per_try_idle and not soft:
            bounds.append((self.per_try_idle, Expiry.PER_TRY_IDLE))
        if self.upstream_duration:
            bounds.append((self.upstream_duration, Expiry.UPSTREAM_DURATION))
        return bounds

    def of_body(self, now: float, attempt_started: float) -> list[tuple[float, Expiry]]:
        """Return the seconds left of what bounds a response to its end."""
        left = []
        if self.duration:
            left.append((max(0.0, self.duration - (now - self.began)), Expiry.DURATION))
        if self.upstream_duration:
            left.append((max(0.0, self.upstream_duration - (now - attempt_started)), Expiry.UPSTREAM_DURATION))
        return left

    @property
    def gap(self) -> float | None:
        """Seconds that a response may be silent, None = no bound."""
        return min((each for each in (self.idle, self.per_try_idle) if each), default=None)

    @property
    def silence(self) -> Expiry:
        """Which timeout a response meets that is silent for so long."""
        return Expiry.IDLE if self.gap == self.idle else Expiry.PER_TRY_IDLE

    def seconds(self, expiry: Expiry) -> float:
        """Return what is configured of a timeout."""
        return {
            Expiry.PER_TRY_IDLE: self.per_try_idle,
            Expiry.UPSTREAM_DURATION: self.upstream_duration,
            Expiry.DURATION: self.duration,
        }.get(expiry, self.idle)


def grpc_timeout(view: RequestView) -> float | None:
    """Return the seconds of the ``grpc-timeout`` header, None where it says none or nothing valid."""
    text = view.header("grpc-timeout") or ""
    digits, unit = text[:-1], text[-1:]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > _GRPC_DIGITS or unit not in _GRPC_UNITS:
        return None
    milliseconds = int(digits) * _GRPC_UNITS[unit]
    return -(-milliseconds // 1) / 1000  # Envoy rounds up to whole milliseconds


def as_grpc_timeout(seconds: float) -> str:
    """Return ``seconds`` as Envoy writes ``grpc-timeout``: in milliseconds, in longer units past eight digits."""
    value = round(seconds * 1000)
    for unit, step in (("m", 1000), ("S", 60), ("M", 60), ("H", 0)):
        if value < 10**_GRPC_DIGITS or not step:
            return f"{min(value, 10**_GRPC_DIGITS - 1)}{unit}"
        value //= step
    raise AssertionError("hours are the last unit")


def stream_duration(limit: StreamDuration | None, manager: float, asked: float | None) -> float | None:
    """Return the seconds of max stream duration that are in force, None for none (gRFC A31 and measured).

    Args:
        limit: the route's.
        manager: the connection manager's, for routes that say nothing.
        asked: what the caller's ``grpc-timeout`` asks for, None where it says nothing.
    """
    if asked is None or limit is None or limit.grpc_header_max is None:
        if limit is None or limit.longest is None:
            return manager or None
        return limit.longest or None
    seconds = asked
    if limit.grpc_header_max:
        seconds = min(seconds, limit.grpc_header_max)
    return max(0.0, seconds - limit.grpc_header_offset) if seconds else seconds


def old_grpc_timeout(limit: GrpcTimeout, view: RequestView) -> float:
    """Return the route timeout of a gRPC request under ``max_grpc_timeout``, 0.0 = off."""
    seconds = grpc_timeout(view) or 0.0
    if limit.offset < seconds:  # "only applied if it does not make the timeout 0 or less"
        seconds -= limit.offset
    if limit.longest and (not seconds or seconds > limit.longest):
        return limit.longest
    return seconds


def is_grpc_call(view: RequestView, protocol: str) -> bool:
    """Tell whether a call is gRPC, by a channel of grpc's or as HTTP."""
    return protocol == "grpc" or is_grpc(view)
