"""How a cluster's load is shared out now, as a value: for ``explain``, the decision trace and admin pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import HealthStatus, Locality
from meshlib.model.metadata import Criteria
from meshlib.policy.balancing.hashing import HashBalancer
from meshlib.policy.balancing.hosts import Group, HostSet
from meshlib.policy.balancing.sources import SourceBalancer, effective_weight
from meshlib.policy.balancing.subsets import SubsetBalancer

if TYPE_CHECKING:
    from meshlib.policy.balancing.building import ClusterBalancer
    from meshlib.policy.cluster_state import EndpointState


@dataclass(frozen=True, slots=True)
class LocalityView:
    """One locality of a priority.

    Attributes:
        locality: where.
        weight: as configured.
        effective_weight: less where fewer of its endpoints are healthy.
        endpoints, healthy, degraded: how many.
    """

    locality: Locality
    weight: int
    effective_weight: float
    endpoints: int
    healthy: int
    degraded: int


@dataclass(frozen=True, slots=True)
class PriorityView:
    """One row of the load table; shares in percent.

    Attributes:
        priority: its number.
        endpoints, healthy, degraded: how many.
        health: how much its healthy endpoints could take, after overprovisioning.
        load, degraded_load: how much its healthy and its degraded endpoints get.
        panic: whether all its endpoints are used, whatever their health.
        localities: the caller's own first.
    """

    priority: int
    endpoints: int
    healthy: int
    degraded: int
    health: int
    load: int
    degraded_load: int
    panic: bool
    localities: tuple[LocalityView, ...]


@dataclass(frozen=True, slots=True)
class ExcludedEndpoint:
    """An endpoint that is not healthy, and why."""

    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class BalancingView:
    """How load is shared out.

    Attributes:
        policy: the policy's name.
        locality_weighted: whether localities share the load by their effective weights.
        subset: what was asked of endpoints, empty without subsets.
        priorities: the load table.
        excluded: endpoints that take no load, or only in panic.
    """

    policy: str
    locality_weighted: bool
    subset: Criteria
    priorities: tuple[PriorityView, ...]
    excluded: tuple[ExcludedEndpoint, ...]


def view_of(config: Cluster, balancer: ClusterBalancer, subset: Criteria) -> BalancingView:
    """Return what ``balancer`` goes by, for a subset what is first asked for it; under the cluster's lock."""
    if isinstance(balancer, SubsetBalancer):
        serving = balancer.serving(subset)
        if serving and isinstance(serving[0], SourceBalancer | HashBalancer):
            balancer = serving[0]
    loads = balancer.loads
    rows = tuple(
        PriorityView(
            priority=hosts.priority,
            endpoints=len(hosts.whole.hosts),
            healthy=len(hosts.whole.healthy),
            degraded=len(hosts.whole.degraded),
            health=loads.availability[hosts.priority].healthy,
            load=loads.healthy[hosts.priority],
            degraded_load=loads.degraded[hosts.priority],
            panic=loads.panic[hosts.priority],
            localities=tuple(_locality(hosts, group) for group in hosts.groups),
        )
        for hosts in balancer.sets
    )
    states = [state for hosts in balancer.sets for state in hosts.whole.hosts]
    reasons = ((state, _reason(state)) for state in states)
    return BalancingView(
        policy=config.lb_policy.value,
        locality_weighted=config.balancing.locality_weighted,
        subset=subset,
        priorities=rows,
        excluded=tuple(ExcludedEndpoint(str(state.endpoint), reason) for state, reason in reasons if reason),
    )


def _locality(hosts: HostSet, group: Group) -> LocalityView:
    return LocalityView(
        locality=group.locality,
        weight=group.weight,
        effective_weight=effective_weight(group, group.healthy, hosts.factor),
        endpoints=len(group.hosts),
        healthy=len(group.healthy),
        degraded=len(group.degraded),
    )


def _reason(state: EndpointState) -> str:
    """Return why an endpoint is not healthy, empty for one that is."""
    if state.health is HealthStatus.HEALTHY:
        return ""
    if state.ejected:
        return f"ejected by outlier detection ({state.times_ejected} times by now)"
    if state.endpoint.health not in (HealthStatus.UNKNOWN, HealthStatus.HEALTHY):
        return f"EDS says {state.endpoint.health.name}"
    return "not probed yet" if state.probe is HealthStatus.UNKNOWN else "fails active health checks"
