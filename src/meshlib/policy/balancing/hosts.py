"""The endpoints of a cluster by priority, health and locality: what every balancer looks at."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from meshlib.model.endpoint import NOWHERE, ClusterLoadAssignment, HealthStatus, Locality, LocalityEndpoints

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState

States = Sequence["EndpointState"]

_UNKNOWN, _HEALTHY = HealthStatus.UNKNOWN, HealthStatus.HEALTHY


class Group:
    """The endpoints of one locality at one priority.

    Attributes:
        locality: where they are.
        weight: of the locality, for balancing by it.
        hosts: all of them, in the order received.
        healthy, degraded: those that are.
        excluded: those that are left out of account.
    """

    __slots__ = ("degraded", "excluded", "healthy", "hosts", "locality", "weight")

    def __init__(self, locality: Locality, weight: int, hosts: States) -> None:
        self.locality = locality
        self.weight = weight
        self.hosts = hosts
        self.healthy: list[EndpointState] = []
        self.degraded: list[EndpointState] = []
        self.excluded: list[EndpointState] = []
        healthy = self.healthy.append
        for state in hosts:
            told = state.endpoint.health
            # Nearly all are, and there may be thousands: this spares them the longer way.
            if (told is _UNKNOWN or told is _HEALTHY) and state.probe is _HEALTHY and not state.ejected:
                healthy(state)
            elif state.excluded:
                self.excluded.append(state)
            elif state.health is HealthStatus.DEGRADED:
                self.degraded.append(state)


class HostSet:
    """The endpoints of one priority.

    Attributes:
        priority: its number.
        factor: overprovisioning, percent.
        by_weight: ``weighted_priority_health``.
        whole: all endpoints, in the order received.
        groups: by locality: the caller's own first, the others in order of their names, as in Envoy.
        has_home: whether the first group is the caller's own locality.
    """

    __slots__ = ("by_weight", "factor", "groups", "has_home", "priority", "whole")

    def __init__(
        self, priority: int, factor: int, by_weight: bool, whole: Group, groups: Sequence[Group], has_home: bool
    ) -> None:
        self.priority = priority
        self.factor = factor
        self.by_weight = by_weight
        self.whole = whole
        self.groups = groups
        self.has_home = has_home

    def again(self) -> HostSet:
        """Return the same endpoints by the health they have now."""
        groups = [Group(group.locality, group.weight, group.hosts) for group in self.groups]
        whole = groups[0] if len(groups) == 1 else Group(NOWHERE, 0, self.whole.hosts)
        return HostSet(self.priority, self.factor, self.by_weight, whole, groups, self.has_home)

    def narrowed(self, keep: Container[EndpointState], weight: Callable[[Group, int], int]) -> HostSet:
        """Return this with the endpoints of a subset alone.

        Args:
            keep: the subset.
            weight: gives a locality's weight there, of the group and its number of endpoints in the subset.
        """
        groups = []
        for group in self.groups:
            hosts = [state for state in group.hosts if state in keep]
            groups.append(_part(group, hosts, weight(group, len(hosts))))
        whole = _part(self.whole, [state for state in self.whole.hosts if state in keep], 0)
        return HostSet(self.priority, self.factor, self.by_weight, whole, groups, self.has_home)


def _part(group: Group, hosts: States, weight: int) -> Group:
    part = Group(group.locality, weight, ())
    kept = set(hosts)
    part.hosts = hosts
    part.healthy = [state for state in group.healthy if state in kept]
    part.degraded = [state for state in group.degraded if state in kept]
    part.excluded = [state for state in group.excluded if state in kept]
    return part


def host_sets(
    assignment: ClusterLoadAssignment,
    states: Mapping[tuple[str, int], EndpointState],
    home: Locality = NOWHERE,
    *,
    dedupe: bool = True,
) -> tuple[HostSet, ...]:
    """Return the endpoints of each priority from 0 to the last, with their health now; at least one.

    Args:
        assignment: the endpoints as configured.
        states: their live state, by address.
        home: the caller's own locality; an empty one is none.
        dedupe: whether an address counts once, where it stands first (EDS), or as often as it is listed.
    """
    last = max((locality.priority for locality in assignment.localities), default=0)
    by_priority: list[list[LocalityEndpoints]] = [[] for _ in range(last + 1)]
    for locality in assignment.localities:
        by_priority[locality.priority].append(locality)
    seen: set[tuple[str, int]] = set()

    def live(locality: LocalityEndpoints) -> Iterable[EndpointState]:
        for endpoint in locality.endpoints:
            if dedupe:
                if endpoint.key in seen:
                    continue
                seen.add(endpoint.key)
            yield states[endpoint.key]

    sets = []
    for priority, localities in enumerate(by_priority):
        hosts: dict[Locality, list[EndpointState]] = {}
        weights: dict[Locality, int] = {}
        for locality in localities:
            hosts.setdefault(locality.locality, []).extend(live(locality))
            if locality.weight:
                weights[locality.locality] = locality.weight
        order = sorted(where for where, there in hosts.items() if there)
        has_home = home != NOWHERE and home in order
        if has_home:
            order.remove(home)
            order.insert(0, home)
        groups = [Group(where, weights.get(where, 0), hosts[where]) for where in order]
        whole = groups[0] if len(groups) == 1 else _joined(hosts.values())
        sets.append(
            HostSet(
                priority,
                assignment.overprovisioning_factor,
                assignment.weighted_priority_health,
                whole,
                groups,
                has_home,
            )
        )
    return tuple(sets)


def _joined(groups: Iterable[States]) -> Group:
    return Group(NOWHERE, 0, [state for group in groups for state in group])
