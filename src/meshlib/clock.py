"""Time and chance as arguments, so that policy can be tested as a table."""

from __future__ import annotations

import random
import time
from typing import Protocol


class Clock(Protocol):
    """Where durations come from. Monotonic seconds; a wall-clock jump never shows here."""

    def __call__(self) -> float:
        """Return monotonic seconds."""
        ...


class Randomness(Protocol):
    """Where chance comes from; :class:`random.Random` satisfies it."""

    def random(self) -> float:
        """Return a uniform float in [0, 1)."""
        ...


system_clock: Clock = time.monotonic
wall_clock: Clock = time.time  # Unix time, for headers that name a moment; no duration is measured by it


def system_randomness() -> Randomness:
    """Return an unseeded source; safe to share between threads (one C call each draw)."""
    return random.Random()
