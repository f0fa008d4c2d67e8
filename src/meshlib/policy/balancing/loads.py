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

from meshlib.policy.balancing.hosts import Group, HostSet, States


@dataclass(frozen=True, slots=True)
class Loads:
    """The load table of a cluster; each field by priority.

    Attributes:
        health, degraded_health: how much of the load the healthy or the degraded could take, percent.
        healthy, degraded: how much they get, percent; both together make 100.
        panic: whether all endpoints of the priority are used, whatever their health.
    """

    health: tuple[int, ...]
    degraded_health: tuple[int, ...]
    healthy: tuple[int, ...]
    degraded: tuple[int, ...]
    panic: tuple[bool, ...]

    def choose(self, draw: int) -> tuple[int, bool]:
        """Return the priority that ``draw`` falls to, a random number or a hash, and whether its degraded are meant."""
        draw = draw % 100 + 1
        for degraded, loads in ((False, self.healthy), (True, self.degraded)):
            for priority, load in enumerate(loads):
                if draw <= load:
                    return priority, degraded
                draw -= load
        return 0, False

    def without(self, priorities: AbstractSet[int]) -> Loads:
        """Return the table for a retry that avoids ``priorities``; this one where nothing is left then."""
        health = tuple(0 if p in priorities else own for p, own in enumerate(self.health))
        degraded = tuple(0 if p in priorities else own for p, own in enumerate(self.degraded_health))
        if not sum(health) + sum(degraded):
            return self
        loads = _distribute(health, degraded)
        return replace(self, healthy=loads[0], degraded=loads[1])


def load_table(sets: Sequence[HostSet], panic_threshold: int) -> Loads:
    """Return how the load is shared out among priorities.

    Args:
        sets: the endpoints of each priority.
        panic_threshold: percent of healthy endpoints below which all are used, 0 = never.
    """
    health = tuple(_availability(each, each.whole.healthy) for each in sets)
    degraded = tuple(_availability(each, each.whole.degraded) for each in sets)
    available = min(100, sum(health) + sum(degraded))
    panic = tuple(available < 100 and panics(each.whole, panic_threshold) for each in sets)
    nothing = (0,) * len(sets)
    if all(panic):
        return Loads(health, degraded, _by_size(sets), nothing, panic)
    if not available:  # and panic is off: nobody serves, wherever the load goes
        return Loads(health, degraded, (100, *nothing[1:]), nothing, panic)
    return Loads(health, degraded, *_distribute(health, degraded), panic)


def _availability(hosts: HostSet, good: States) -> int:
    whole = hosts.whole
    if hosts.by_weight:
        share = _weight(good)
        total = _weight(whole.hosts) - _weight(whole.excluded)
    else:
        share = len(good)
        total = len(whole.hosts) - len(whole.excluded)
    return min(100, hosts.factor * share // total) if total > 0 else 0


def _weight(states: States) -> int:
    return sum(state.weight for state in states)


def panics(whole: Group, threshold: int) -> bool:
    """Tell whether too few of a priority's endpoints are available."""
    total = len(whole.hosts) - len(whole.excluded)
    percent = 100.0 * (len(whole.healthy) + len(whole.degraded)) / total if total > 0 else 0.0
    return percent < threshold


def _by_size(sets: Sequence[HostSet]) -> tuple[int, ...]:
    sizes = [len(each.whole.hosts) for each in sets]
    if not any(sizes):
        return (100, *(0 for _ in sizes[1:]))
    loads = [100 * size // sum(sizes) for size in sizes]
    loads[next(p for p, size in enumerate(sizes) if size)] += 100 - sum(loads)
    return tuple(loads)


def _distribute(health: Sequence[int], degraded: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    available = min(100, sum(health) + sum(degraded))
    left = 100
    loads: list[int] = []
    scores = [*health, *degraded]
    for score in scores:
        loads.append(min(left, score * 100 // available))
        left -= loads[-1]
    # The rest of the divisions goes to the first priority that can take it.
    loads[next(i for i, score in enumerate(scores) if score)] += left
    return tuple(loads[: len(health)]), tuple(loads[len(health) :])
