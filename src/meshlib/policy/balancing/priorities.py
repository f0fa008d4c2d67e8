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
from typing import TYPE_CHECKING, NamedTuple, Protocol

from meshlib.clock import Randomness
from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import HealthStatus
from meshlib.policy.balancing import policies
from meshlib.policy.balancing.picker import Picker

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState

HEALTHY, DEGRADED = HealthStatus.HEALTHY, HealthStatus.DEGRADED

Group = Sequence["EndpointState"]
Share = tuple[float, Group]  # percent of the load, and who takes it
Place = tuple[int, bool]  # index of a priority, and whether its DEGRADED endpoints are meant


class Availability(NamedTuple):
    """How available one priority is.

    Attributes:
        healthy, degraded: the score of its endpoints of that health, 0 to 100, overprovisioning counted in.
        percent: of its endpoints that are either.
        hosts: how many endpoints it has.
    """

    healthy: float
    degraded: float
    percent: float
    hosts: int


class PriorityPicker:
    """Draws a share of the load, then picks among its endpoints."""

    __slots__ = ("_build", "_forced", "_loads", "_pickers", "_takers")

    def __init__(
        self,
        loads: Sequence[float],
        takers: Sequence[Group],
        build: Builder,
        chance: Randomness,
    ) -> None:
        live = [(load, group) for load, group in zip(loads, takers, strict=True) if load > 0.0 and group]
        self._loads = list(accumulate(load for load, _ in live))
        self._pickers = [build(group, chance) for _, group in live]
        self._takers = takers
        self._build = build
        self._forced: dict[int, Picker] = {}

    def pick(self, chance: Randomness, key: int | None = None, turn: int = 0) -> EndpointState | None:
        """Return the endpoint for the next attempt, None when there is none; a key decides the share as well."""
        if len(self._pickers) == 1:
            return self._pickers[0].pick(chance, key, turn)
        if not self._pickers:
            return None
        percent = 100.0 * chance.random() if key is None else key % 100
        index = bisect_right(self._loads, percent * self._loads[-1] / 100.0)
        return self._pickers[min(index, len(self._pickers) - 1)].pick(chance, key, turn)

    def pick_at(self, place: Place, chance: Randomness, key: int | None = None, turn: int = 0) -> EndpointState | None:
        """Return an endpoint of the priority that an aggregate cluster chose, whatever the load it would get here."""
        index, degraded = place
        taker = index + (len(self._takers) // 2 if degraded else 0)
        if not self._takers[taker]:
            return None
        picker = self._forced.get(taker)
        if picker is None:
            picker = self._forced[taker] = self._build(self._takers[taker], chance)
        return picker.pick(chance, key, turn)


class Builder(Protocol):
    """Makes the picker over some endpoints of a cluster."""

    def __call__(self, hosts: Group, chance: Randomness, /) -> Picker:
        """Return the picker."""
        ...


def build(cluster: Cluster, groups: Sequence[Group], chance: Randomness) -> PriorityPicker:
    """Return the picker over the endpoints of each priority."""

    def over(hosts: Group, chance: Randomness) -> Picker:
        return policies.build(
            cluster.lb_policy, hosts, chance, choice_count=cluster.choice_count, hashing=cluster.hashing
        )

    split = shares(cluster, groups)
    return PriorityPicker([load for load, _ in split], [taker for _, taker in split], over, chance)


def shares(cluster: Cluster, groups: Sequence[Group]) -> list[Share]:
    """Return how the load is shared out, in percent: the healthy of each priority, then the degraded of each."""
    loads, panics = distribute(availability(cluster, groups), cluster.panic_threshold)
    takers = [
        group if panic else usable(group, health)
        for health in (HEALTHY, DEGRADED)
        for group, panic in zip(groups, panics, strict=True)
    ]
    return list(zip(loads, takers, strict=True))


def availability(cluster: Cluster, groups: Sequence[Group]) -> list[Availability]:
    """Return how available each priority is."""
    factor = cluster.assignment.overprovisioning_factor if cluster.assignment else 140
    found = []
    for group in groups:
        up, down = len(usable(group, HEALTHY)), len(usable(group, DEGRADED))
        size = max(1, len(group) - sum(state.excluded for state in group))
        healthy, degraded = (min(100.0, factor * count / size) for count in (up, down))
        found.append(Availability(healthy, degraded, 100.0 * (up + down) / size, len(group)))
    return found


def distribute(priorities: Sequence[Availability], panic_threshold: float) -> tuple[list[float], list[bool]]:
    """Return the load of each priority's healthy endpoints, then of the degraded, in percent; and which panic."""
    scores = [each.healthy for each in priorities] + [each.degraded for each in priorities]
    total = min(100.0, sum(scores))
    if total >= 100.0:
        return _loads(scores, total), [False] * len(priorities)
    if not total and not panic_threshold:
        # Measured: without panic and without anybody to take it, all load is the first priority's.
        return [100.0, *[0.0] * (len(scores) - 1)][: len(scores)], [False] * len(priorities)
    panics = [each.percent < panic_threshold for each in priorities]
    if all(panics):
        hosts = [float(each.hosts) for each in priorities]
        return [*hosts, *[0.0] * len(hosts)], panics
    return _loads(scores, total), panics


def usable(group: Group, health: HealthStatus) -> Group:
    """Return the endpoints of a health."""
    return [state for state in group if state.health is health]


def _loads(scores: Sequence[float], total: float) -> list[float]:
    loads: list[float] = []
    left = 100.0
    for score in scores:
        share = min(left, score * 100.0 / total) if total else 0.0
        loads.append(share)
        left -= share
    return loads
