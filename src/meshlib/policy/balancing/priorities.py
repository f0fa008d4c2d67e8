"""Which priority an attempt goes to, and over which of its endpoints (semantics 4.10, 4.13).

A priority's health is min(100, healthy % × overprovisioning factor); load spills to the next
one when that is below 100, and to DEGRADED endpoints once no priority has healthy ones left for
it. Panic is judged per priority once the summed health is below 100: a priority with less than
``panic_threshold`` percent available uses all its endpoints. When every priority panics, load
goes by their number of endpoints.
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
    from meshlib.policy.cluster_state import EndpointState

HEALTHY = frozenset({HealthStatus.UNKNOWN, HealthStatus.HEALTHY})
DEGRADED = frozenset({HealthStatus.DEGRADED})

Group = Sequence["EndpointState"]
Share = tuple[float, Group]  # percent of the load, and who takes it


class PriorityPicker:
    """Draws a share of the load, then picks among its endpoints."""

    __slots__ = ("_loads", "_pickers")

    def __init__(self, loads: Sequence[float], pickers: Sequence[Picker]) -> None:
        self._loads = list(accumulate(loads))
        self._pickers = pickers

    def pick(self, chance: Randomness, key: int | None = None, turn: int = 0) -> EndpointState:
        """Return the endpoint for the next attempt; a key decides the share as well."""
        if len(self._pickers) == 1:
            return self._pickers[0].pick(chance, key, turn)
        percent = 100.0 * chance.random() if key is None else key % 100
        index = bisect_right(self._loads, percent * self._loads[-1] / 100.0)
        return self._pickers[min(index, len(self._pickers) - 1)].pick(chance, key, turn)


def build(cluster: Cluster, groups: Sequence[Group], chance: Randomness) -> Picker | None:
    """Return the picker over the endpoints of each priority, or None when nothing can be picked."""
    live = [(load, hosts) for load, hosts in shares(cluster, groups) if load > 0.0 and hosts]
    if not live:
        return None
    pickers = [
        policies.build(cluster.lb_policy, hosts, chance, choice_count=cluster.choice_count, hashing=cluster.hashing)
        for _, hosts in live
    ]
    return PriorityPicker([load for load, _ in live], pickers)


def shares(cluster: Cluster, groups: Sequence[Group]) -> list[Share]:
    """Return how the load is shared out, in percent."""
    factor = cluster.assignment.overprovisioning_factor if cluster.assignment else 140
    healthy = [_usable(group, HEALTHY) for group in groups]
    degraded = [_usable(group, DEGRADED) for group in groups]
    scores = [
        min(100.0, factor * len(up) / len(group)) if group else 0.0
        for ups in (healthy, degraded)
        for up, group in zip(ups, groups, strict=True)
    ]
    total = min(100.0, sum(scores))
    if total >= 100.0:
        return list(zip(_loads(scores, total), [*healthy, *degraded], strict=True))
    panics = [
        _percent(up, group) + _percent(down, group) < cluster.panic_threshold
        for up, down, group in zip(healthy, degraded, groups, strict=True)
    ]
    if all(panics):
        return [(float(len(group)), group) for group in groups]
    takers = [
        group if panic else up
        for ups in (healthy, degraded)
        for up, group, panic in zip(ups, groups, panics, strict=True)
    ]
    return list(zip(_loads(scores, total), takers, strict=True))


def _usable(group: Group, healths: frozenset[HealthStatus]) -> Group:
    return [state for state in group if state.endpoint.health in healths and not state.ejected]


def _percent(up: Group, group: Group) -> float:
    return 100.0 * len(up) / len(group) if group else 0.0


def _loads(scores: Sequence[float], total: float) -> list[float]:
    loads: list[float] = []
    left = 100.0
    for score in scores:
        share = min(left, score * 100.0 / total) if total else 0.0
        loads.append(share)
        left -= share
    return loads
