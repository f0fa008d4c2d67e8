"""``retry_safety="strict"``: retries that can do no harm (design.md, decision 13).

Envoy retries whatever ``retry_on`` covers. In strict mode a request is sent again only where that
is safe: its method is idempotent (RFC 9110 §9.2.2), it carries an ``Idempotency-Key``, or nothing
of it reached an endpoint that began on it. Retries stay under a budget of a fifth of the requests,
and a server's ``Retry-After`` is waited for, or the retry left out.
"""

from __future__ import annotations

from collections import deque
from email.utils import parsedate_to_datetime
from enum import Enum

from meshlib.clock import Clock, wall_clock
from meshlib.model.request import RequestView
from meshlib.policy.effects import ErrorKind, HeaderLookup, Outcome

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
STRICT_RETRY_AFTER_MAX = 300.0  # as RateLimitedRetryBackOff.max_interval: "the default is 300 seconds"
_SHARE = 0.2
_FLOOR = 10  # retries a second that are allowed however few the requests
_WINDOW = 10  # seconds over which requests and retries are counted


class RetrySafety(Enum):
    """Which of the retries that the configuration asks for are made."""

    ENVOY = "envoy"
    STRICT = "strict"


def risk(view: RequestView, outcome: Outcome) -> str:
    """Return why sending a request again could do harm, empty where it cannot."""
    if view.method in IDEMPOTENT or not outcome.written or outcome.error is ErrorKind.REFUSED:
        return ""
    if view.header("idempotency-key"):
        return ""
    return f"{view.method} is not idempotent and may have been done; send an Idempotency-Key"


def retry_after(headers: HeaderLookup, wall: Clock = wall_clock) -> float:
    """Return the seconds that ``Retry-After`` asks to wait (RFC 9110 §10.2.3), 0.0 where it says nothing valid."""
    text = (headers.get("retry-after") or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall()) if text else 0.0
    except ValueError:
        return 0.0


class RetryRate:
    """The strict budget of one cluster: retries of the last seconds against requests. Called under a lock.

    At most a fifth of the requests of the last ten seconds, and at least ten retries a second, as
    in Finagle's ``RetryBudget``.
    """

    __slots__ = ("_requests", "_retries", "_seconds")

    def __init__(self) -> None:
        self._seconds: deque[list[float]] = deque()  # [second, requests, retries] of each second, oldest first
        self._requests = self._retries = 0.0

    def deposit(self, now: float) -> None:
        """Count a request in."""
        self._second(now)[1] += 1
        self._requests += 1

    def withdraw(self, now: float) -> bool:
        """Take a retry; False when the budget is spent."""
        second = self._second(now)
        if second[2] >= _FLOOR and self._retries + 1 > _SHARE * self._requests:
            return False
        second[2] += 1
        self._retries += 1
        return True

    def _second(self, now: float) -> list[float]:
        second = now // 1.0
        while self._seconds and self._seconds[0][0] <= second - _WINDOW:
            _, requests, retries = self._seconds.popleft()
            self._requests -= requests
            self._retries -= retries
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        return self._seconds[-1]
