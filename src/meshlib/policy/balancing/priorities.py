"""Which priority an attempt goes to (semantics 4.10, 4.13), in whole percent as Envoy reckons it.

A priority's health is healthy % × overprovisioning factor, at most 100; load spills to the next
one where that is below 100, and to DEGRADED endpoints once no priority has healthy ones left for
it. Panic is judged per priority once the summed health is below 100: a priority with less than
``panic_threshold`` percent available uses all its endpoints. When every priority panics, load
goes by their number of endpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import NamedTuple

from meshlib.policy.balancing.hosts import HostSet, States
from meshlib.policy.balancing.picker import Place


class Availability(NamedTuple):
    """How available one priority is.

    Attributes:
        healthy, degraded: how much its endpoints of that health could take, 0 to 100, after overprovisioning.
        percent: of its endpoints that are either.
        hosts: how many endpoints it has.
    """

    healthy: int
    degraded: int
    percent: float
    hosts: int


@dataclass(frozen=True, slots=True)
class Loads:
    """The load table of a cluster; each field by priority.

    Attributes:
        availability: what each could take.
        healthy, degraded: what its healthy and its degraded endpoints get, percent; all together make 100.
        panic: whether all endpoints of the priority are used, whatever their health.
    """

    availability: tuple[Availability, ...]
    healthy: tuple[int, ...]
    degraded: tuple[int, ...]
    panic: tuple[bool, ...]

    def choose(self, draw: int) -> Place:
        """Return where ``draw`` falls to, a random number or a hash."""
        draw = draw % 100 + 1
        for degraded, loads in ((False, self.healthy), (True, self.degraded)):
            for priority, load in enumerate(loads):
                if draw <= load:
                    return priority, degraded
                draw -= load
        return 0, False

    def without(self, priorities: AbstractSet[int]) -> Loads:
        """Return the table for a retry that avoids ``priorities``; this one where nothing is left then."""
        scores = _scores(self.availability)
        size = len(self.availability)
        scores = [0 if index % size in priorities else score for index, score in enumerate(scores)]
        if not any(scores):
            return self
        loads = _loads(scores)
        return replace(self, healthy=tuple(loads[:size]), degraded=tuple(loads[size:]))


def load_table(sets: Sequence[HostSet], panic_threshold: int) -> Loads:
    """Return how the load is shared out among priorities.

    Args:
        sets: the endpoints of each priority.
        panic_threshold: percent of healthy endpoints below which all are used, 0 = never.
    """
    found = tuple(map(availability, sets))
    loads, panic = distribute(found, panic_threshold)
    return Loads(found, tuple(loads[: len(found)]), tuple(loads[len(found) :]), tuple(panic))


def distribute(priorities: Sequence[Availability], panic_threshold: float) -> tuple[list[int], list[bool]]:
    """Return the load of each priority's healthy endpoints, then of the degraded, in percent; and which panic."""
    size = len(priorities)
    scores = _scores(priorities)
    available = min(100, sum(scores))
    panics = [available < 100 and each.percent < panic_threshold for each in priorities]
    if all(panics):
        return [*_by_size([each.hosts for each in priorities]), *[0] * size], panics
    if not available:  # and panic is off: nobody serves, wherever the load goes
        return [100, *[0] * (2 * size - 1)], panics
    return _loads(scores), panics


def availability(hosts: HostSet) -> Availability:
    """Return how available a priority is."""
    whole = hosts.whole
    count = len(whole.hosts) - len(whole.excluded)
    if hosts.by_weight:
        healthy, degraded = _weight(whole.healthy), _weight(whole.degraded)
        total = _weight(whole.hosts) - _weight(whole.excluded)
    else:
        healthy, degraded, total = len(whole.healthy), len(whole.degraded), count
    if total <= 0:
        return Availability(0, 0, 0.0, len(whole.hosts))
    healthy, degraded = (min(100, hosts.factor * share // total) for share in (healthy, degraded))
    percent = 100.0 * (len(whole.healthy) + len(whole.degraded)) / count
    return Availability(healthy, degraded, percent, len(whole.hosts))


def _scores(priorities: Sequence[Availability]) -> list[int]:
    return [each.healthy for each in priorities] + [each.degraded for each in priorities]


def _weight(states: States) -> int:
    return sum(state.weight for state in states)


def _by_size(sizes: Sequence[int]) -> list[int]:
    if not any(sizes):
        return [100, *(0 for _ in sizes[1:])]
    loads = [100 * size // sum(sizes) for size in sizes]
    loads[next(index for index, size in enumerate(sizes) if size)] += 100 - sum(loads)
    return loads


def _loads(scores: Sequence[int]) -> list[int]:
    available = min(100, sum(scores))
    left = 100
    loads: list[int] = []
    for score in scores:
        loads.append(min(left, score * 100 // available))
        left -= loads[-1]
    # The rest of the divisions goes to the first priority that can take it.
    loads[next(index for index, score in enumerate(scores) if score)] += left
    return loads
