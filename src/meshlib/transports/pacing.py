"""Slows a response body down, as Envoy's fault filter does: a token bucket, filled twenty times a second."""

from __future__ import annotations

import time
from collections.abc import Iterator

_FILLS = 20  # a second: Envoy's StreamRateLimiter


class Pace:
    """The pace of one body. Used by one task or thread.

    Args:
        rate: bytes a second, more than 0.
    """

    __slots__ = ("_due", "_piece", "_rate")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._piece = max(1, int(rate / _FILLS))
        self._due = time.monotonic()

    def pieces(self, part: bytes) -> Iterator[tuple[float, bytes]]:
        """Yield a part in pieces, each with the seconds to wait before it is given on."""
        for at in range(0, len(part), self._piece):
            piece = part[at : at + self._piece]
            now = time.monotonic()
            wait = max(0.0, self._due - now)
            self._due = max(self._due, now) + len(piece) / self._rate
            yield wait, piece
