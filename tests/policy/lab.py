"""Clusters for balancing by hand: endpoints with weights, health and metadata, and what is picked of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from meshlib.model.balancing import Balancing
from meshlib.model.cluster import Cluster
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint, HealthStatus, Locality, LocalityEndpoints
from meshlib.policy.cluster_state import ALONE, ClusterState, Surroundings
from policy.driving import ManualClock


def hosts(name: str, weights: Sequence[int] = (1,), health: HealthStatus = HealthStatus.UNKNOWN) -> list[Endpoint]:
    return [Endpoint(f"{name}{n}", 80, weight=weight, health=health) for n, weight in enumerate(weights)]


def tagged(name: str, **metadata: object) -> Endpoint:
    return Endpoint(name, 80, metadata={"envoy.lb": metadata})


def zone(name: str, endpoints: Iterable[Endpoint], weight: int = 0, priority: int = 0) -> LocalityEndpoints:
    return LocalityEndpoints(tuple(endpoints), Locality("r", name), weight, priority)


def state_of(
    *localities: LocalityEndpoints,
    balancing: Balancing = Balancing(),  # noqa: B008  a frozen value
    clock: ManualClock | None = None,
    around: Surroundings = ALONE,
    chance: object = None,
    factor: int = 140,
    **fields: Any,
) -> ClusterState:
    assignment = ClusterLoadAssignment("c", localities, factor)
    config = Cluster("c", Discovery.EDS, assignment, balancing=balancing, **fields)
    return ClusterState(config, chance or random.Random(1), clock=clock or ManualClock(), surroundings=around)


def one(*endpoints: Endpoint, **fields: Any) -> ClusterState:
    return state_of(LocalityEndpoints(tuple(endpoints)), **fields)


def picks(state: ClusterState, count: int, now: float = 1000.0, **ask: Any) -> list[str | None]:
    found = [state.pick(now, **ask) for _ in range(count)]
    return [None if each is None else each.endpoint.address for each in found]


def counts(state: ClusterState, count: int = 4000, now: float = 1000.0, **ask: Any) -> Counter[str | None]:
    return Counter(picks(state, count, now, **ask))


def near(count: int, share: float, total: int) -> bool:
    """Within 5 sigma of a binomial."""
    return abs(count - total * share) <= 5 * (total * share * (1 - share)) ** 0.5 + 1
