"""Route timeout and per-try timeout (semantics 4.1)."""

from __future__ import annotations

from meshlib.model.route import RouteAction


class Deadlines:
    """The clocks of one call over a route.

    The route's timeout runs from the request sent in full to the end of the response, over all
    attempts and back-offs; 0 = off. ``per_try_timeout`` covers each attempt, the first too, up
    to its response head, and is ignored when not below a non-zero route timeout (measured).

    Attributes:
        route: seconds of the route timeout, 0.0 = off.
        per_try: seconds of each attempt, 0.0 = off.
        started: clock seconds from which the route timeout counts; see :meth:`uploaded`.
    """

    __slots__ = ("per_try", "route", "started")

    def __init__(self, action: RouteAction, started: float) -> None:
        self.route = action.timeout
        per_try = action.retry.per_try_timeout if action.retry else 0.0
        self.per_try = 0.0 if self.route and per_try >= self.route else per_try
        self.started = started

    @property
    def configured(self) -> float | None:
        """What a first attempt may take to its response head: what it tells upstream."""
        return self.per_try or self.route or None

    def uploaded(self, seconds: float) -> None:
        """Start the route's timeout ``seconds`` later: that long the application took to give the whole request."""
        self.started += seconds

    def remaining(self, now: float) -> float | None:
        """Return the seconds left of the route timeout (not below 0), None where there is none."""
        return max(0.0, self.route - (now - self.started)) if self.route else None

    def attempt_timeout(self, now: float) -> float | None:
        """Return the seconds an attempt starting now may take to its response head."""
        remaining = self.remaining(now)
        if not self.per_try:
            return remaining
        return self.per_try if remaining is None else min(self.per_try, remaining)

    def expired(self, now: float) -> bool:
        """Tell whether the route timeout has passed."""
        return self.remaining(now) == 0.0

    def route_fired(self, now: float) -> bool:
        """Tell, of an attempt that timed out, whether it was the route's timeout."""
        remaining = self.remaining(now)
        # A timer never fires early; a millisecond of slack covers clock granularity.
        return remaining is not None and (not self.per_try or remaining <= 0.001)
