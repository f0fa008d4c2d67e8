"""The clock of one attempt: until when its response head may take, and its body after that."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar

# uvloop counts time in whole milliseconds and reads it once a turn: its timers fire up to so many seconds early.
_EARLY = 0.002


class AttemptClock:
    """Bounds the network operations of one attempt. Used by one task or thread at a time.

    Args:
        timeout: seconds from the request sent in full to the response head, None = no bound.
        application_timeout: the application's own, in the same way.
        body_pending: whether the request's body is still to be produced by the application; the
            timeouts then start when it has been (Envoy: "once the entire request is received").

    Attributes:
        deadline: monotonic second of the mesh's timeout, None while it does not run.
        application_deadline: monotonic second of the application's.
        sent: whether any byte went out on a connection.
        upload: seconds that the application took to produce the request's body, once it has.
        connecting: seconds spent connecting.
        ended: whether the peer closed the connection.
        on_change: called when the deadlines change; async drivers move their cancel scope.
        cancelled: whether the attempt was given up; see :meth:`cancel`.
        on_sent: called when a streamed body has been produced.
        on_cancel: ends what the attempt waits for just now; called by another thread.
    """

    __slots__ = (
        "_application_timeout",
        "_began",
        "_gap",
        "_timeout",
        "application_deadline",
        "cancelled",
        "connecting",
        "deadline",
        "ended",
        "on_cancel",
        "on_change",
        "on_sent",
        "sent",
        "upload",
    )

    def __init__(self, timeout: float | None, application_timeout: float | None, *, body_pending: bool) -> None:
        self._timeout = timeout
        self._application_timeout = application_timeout
        self.deadline: float | None = None
        self.application_deadline: float | None = None
        self.sent = False
        self.ended = False
        self.upload = self.connecting = 0.0
        self.on_change: Callable[[], None] | None = None
        self.on_sent: Callable[[], None] | None = None
        self.cancelled = False
        self.on_cancel: Callable[[], None] | None = None
        self._gap: float | None = None
        self._began = time.monotonic()
        if not body_pending:
            self._start(self._began)

    def start(self) -> None:
        """Start the timeouts: the request's body has been produced."""
        now = time.monotonic()
        self.upload = now - self._began
        self._start(now)
        if self.on_sent is not None:
            self.on_sent()

    def _start(self, now: float) -> None:
        self.deadline = None if self._timeout is None else now + self._timeout
        self.application_deadline = None if self._application_timeout is None else now + self._application_timeout
        if self.on_change is not None:
            self.on_change()

    def turn_to_body(self, timeout: float | None, application_deadline: float | None, gap: float | None = None) -> None:
        """Bound the response body from now on.

        Args:
            timeout: seconds left of the mesh's timeouts, None = no bound.
            application_deadline: monotonic second of the application's total deadline, if any.
            gap: seconds that the mesh lets each wait for a part last, None = no bound.
        """
        self._timeout = None if timeout is None else time.monotonic() + timeout
        self.deadline = self._timeout
        self.application_deadline = application_deadline
        self._gap = gap

    def next_part(self) -> None:
        """Bound the wait for the body's next part, which begins."""
        if self._gap is not None:
            silent = time.monotonic() + self._gap
            self.deadline = silent if self._timeout is None else min(silent, self._timeout)

    def cancel(self) -> None:
        """Give the attempt up, from any thread: what it waits for fails at once, or at its next step."""
        self.cancelled = True
        self.deadline = time.monotonic()
        if self.on_cancel is not None:
            self.on_cancel()

    @property
    def next_deadline(self) -> float | None:
        """The earlier of both deadlines, None for none."""
        if self.deadline is None:
            return self.application_deadline
        if self.application_deadline is None:
            return self.deadline
        return min(self.deadline, self.application_deadline)

    def left(self) -> float | None:
        """Return the seconds to the earlier deadline, not below 0; None for none."""
        deadline = self.next_deadline
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def bound(self, timeout: float | None) -> float | None:
        """Return ``timeout`` cut to what the deadlines leave, not below 0."""
        left = self.left()
        if left is None or timeout is None:
            return timeout if left is None else left
        return min(timeout, left)

    @property
    def mesh_expired(self) -> bool:
        """Whether the mesh's timeout has passed."""
        return self.deadline is not None and time.monotonic() + _EARLY >= self.deadline

    @property
    def application_expired(self) -> bool:
        """Whether the application's timeout has passed."""
        return self.application_deadline is not None and time.monotonic() + _EARLY >= self.application_deadline


# Which attempt the current task or thread is making: httpcore's network streams read it.
attempt_clock: ContextVar[AttemptClock | None] = ContextVar("meshlib_attempt_clock", default=None)
