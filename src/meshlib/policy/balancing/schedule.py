"""Earliest deadline first: weighted turns, as Envoy's EDF scheduler takes them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Entry = TypeVar("Entry")

_MOST_PICKS = 429496729


class Schedule(Generic[Entry]):
    """Each entry comes back 1 / weight after it was picked; of equal deadlines the older goes first.

    Starts as if ``seed`` picks had been made, so that clients do not march in step. Deadlines are
    reckoned from the number of picks and not summed up, so that those which ought to be equal are.

    Args:
        entries: what is scheduled, in order; at least one.
        weight: of an entry at a moment (clock seconds), more than 0; asked for at every pick.
        seed: any number of picks.
        now: clock seconds.
    """

    __slots__ = ("_heap", "_order", "_weight")

    def __init__(
        self, entries: Sequence[Entry], weight: Callable[[Entry, float], float], seed: int, now: float
    ) -> None:
        self._weight = weight
        self._order = len(entries)
        weights = [weight(entry, now) for entry in entries]
        per_weight = seed % _MOST_PICKS / sum(weights)
        # What divides without a rest is reckoned, so that this takes one step an entry and not one a pick.
        done = [int(per_weight * own) for own in weights]
        turns = (_Turn(entry, own, count + 1) for entry, own, count in zip(entries, weights, done, strict=True))
        self._heap = [(turn.count / turn.weight, order, turn) for order, turn in enumerate(turns)]
        heapq.heapify(self._heap)
        for _ in range(seed % _MOST_PICKS - sum(done)):
            self.pick(now)

    def pick(self, now: float) -> Entry:
        """Return the entry with the earliest deadline and schedule it anew."""
        deadline, _, turn = self._heap[0]
        weight = self._weight(turn.entry, now)
        if weight == turn.weight:
            turn.count += 1
        else:
            turn.since, turn.weight, turn.count = deadline, weight, 1
        self._order += 1
        heapq.heapreplace(self._heap, (turn.since + turn.count / weight, self._order, turn))
        return turn.entry


class _Turn(Generic[Entry]):
    """An entry with the picks it had of one weight, ``count``, the next one included."""

    __slots__ = ("count", "entry", "since", "weight")

    def __init__(self, entry: Entry, weight: float, count: int) -> None:
        self.entry = entry
        self.weight = weight
        self.count = count
        self.since = 0.0  # the deadline at which it came to weigh that
