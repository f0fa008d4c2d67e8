"""Which priority an attempt goes to, and over which of its endpoints (semantics 4.10).

A priority's health is min(100, healthy % × overprovisioning factor); load spills to the next
one when that is below 100. Panic is judged per priority once the summed health is below 100:
a priority with less than ``panic_threshold`` percent healthy uses all its endpoints.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from meshlib.clock import Randomness
from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import HealthStatus
from meshlib.policy.balancing import policies
from meshlib.policy.balancing.picker import Picker

if TYPE_CHECKING:
    from meshlib.policy.state import EndpointState

HEALTHY = frozenset({HealthStatus.UNKNOWN, HealthStatus.HEALTHY})


class PriorityPicker:
    """Draws a priority by load, then picks within it."""

    __slots__ = ("_loads", "_pickers")

    def __init__(self, loads: Sequence[float], pickers: Sequence[Picker]) -> None:
        self._loads = list(accumulate(loads))
        self._pickers = pickers

    def pick(self, chance: Randomness) -> EndpointState:
        """Return the endpoint for the next attempt."""
        if len(self._pickers) == 1:
            return self._pickers[0].pick(chance)
        index = bisect_right(self._loads, chance.random() * self._loads[-1])
        return self._pickers[min(index, len(self._pickers) - 1)].pick(chance)


def build(cluster: Cluster, groups: Sequence[Sequence[EndpointState]], chance: Randomness) -> Picker | None:
    """Return the picker over the endpoints of each priority, or None when nothing can be picked."""
    factor = cluster.assignment.overprovisioning_factor / 100.0 if cluster.assignment else 1.4
    usable = [[s for s in group if s.endpoint.health in HEALTHY and not s.ejected] for group in groups]
    scores = [min(100.0, factor * _percent(up, group)) for up, group in zip(usable, groups, strict=True)]
    total = min(100.0, sum(scores))
    chosen: list[Sequence[EndpointState]] = []
    for up, group in zip(usable, groups, strict=True):
        panic = total < 100.0 and _percent(up, group) < cluster.panic_threshold
        chosen.append(group if panic else up)
    loads = _loads(scores, total, chosen)
    live = [(load, hosts) for load, hosts in zip(loads, chosen, strict=True) if load > 0.0 and hosts]
    if not live:
        return None
    pickers = [policies.build(cluster.lb_policy, h, chance, choice_count=cluster.choice_count) for _, h in live]
    return PriorityPicker([load for load, _ in live], pickers)


def _percent(up: Sequence[EndpointState], group: Sequence[EndpointState]) -> float:
    return 100.0 * len(up) / len(group) if group else 0.0


def _loads(scores: Sequence[float], total: float, chosen: Sequence[Sequence[EndpointState]]) -> list[float]:
    if total <= 0.0:  # nothing is healthy: the first priority that panics takes it all
        first = next((index for index, hosts in enumerate(chosen) if hosts), 0)
        return [100.0 if index == first else 0.0 for index in range(len(chosen))]
    loads: list[float] = []
    left = 100.0
    for score in scores:
        share = min(left, score * 100.0 / total)
        loads.append(share)
        left -= share
    return loads
