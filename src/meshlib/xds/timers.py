"""Timers of one thread: what is due runs when that thread comes to look."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from meshlib.clock import Clock


@dataclass(slots=True)
class _Timer:
    """What waits; found in the queue at ``queued``, due perhaps later."""

    queued: float
    due: float
    action: Callable[[], None] | None  # None: another took its place
    key: Hashable


class Timers:
    """Not thread-safe: one thread owns them.

    A timer that is set again and again, as a TTL is by heartbeats, is one entry in the queue.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queue: list[tuple[float, int, _Timer]] = []
        self._count = 0
        self._keyed: dict[Hashable, _Timer] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def later(self, seconds: float, action: Callable[[], None], key: Hashable = None) -> None:
        """Run ``action`` after ``seconds``; where ``key`` is given, in place of what waits under it."""
        due = self._clock() + seconds
        waiting = self._keyed.get(key) if key is not None else None
        if waiting is not None and due >= waiting.queued:
            waiting.due, waiting.action = due, action  # seen to when it is found
            return
        if waiting is not None:
            waiting.action = None
        timer = _Timer(due, due, action, key)
        if key is not None:
            self._keyed[key] = timer
        self._put(timer)

    def until_next(self) -> float | None:
        """Return the seconds until :meth:`fire` is to be called, None where nothing waits."""
        return max(0.0, self._queue[0][0] - self._clock()) if self._queue else None

    def fire(self) -> None:
        """Run what is due."""
        while self._queue and self._queue[0][0] <= self._clock():
            timer = heapq.heappop(self._queue)[2]
            if timer.action is None:
                continue
            if timer.due > self._clock():
                self._put(timer)
                continue
            if timer.key is not None:
                del self._keyed[timer.key]
            timer.action()

    def _put(self, timer: _Timer) -> None:
        self._count += 1
        timer.queued = timer.due
        heapq.heappush(self._queue, (timer.queued, self._count, timer))
