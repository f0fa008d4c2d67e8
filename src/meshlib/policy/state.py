"""Live state: counts, ejections and pickers. It outlives every configuration swap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, overload

from meshlib.clock import Clock, Randomness
from meshlib.model.balancing import PeakEwma
from meshlib.model.cluster import Cluster
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import ClusterLoadAssignment, HealthStatus
from meshlib.model.snapshot import Snapshot
from meshlib.policy.balancing.hosts import HostSet, host_sets
from meshlib.policy.breaker import ClusterBreaker
from meshlib.policy.cluster_state import ClusterState, EndpointState, Surroundings
from meshlib.policy.faults import ActiveFaults
from meshlib.policy.limits import mutex
from meshlib.policy.ratelimit import RateLimits
from meshlib.policy.upkeep import Keeping, no_upkeep

_Default = TypeVar("_Default")


class LiveClusters(Mapping[str, ClusterState]):
    """The live state of the clusters of one snapshot, made when a call first needs it. Thread-safe."""

    __slots__ = ("_configs", "_mesh", "_snapshot", "_states")

    def __init__(self, snapshot: Snapshot, mesh: MeshState, states: dict[str, ClusterState]) -> None:
        self._snapshot = snapshot
        self._configs = snapshot.clusters
        self._mesh = mesh
        self._states = states

    @overload
    def get(self, name: str, /) -> ClusterState | None: ...
    @overload
    def get(self, name: str, /, default: ClusterState | _Default) -> ClusterState | _Default: ...
    def get(self, name: str, /, default: ClusterState | _Default | None = None) -> ClusterState | _Default | None:
        """Return the state of a cluster, ``default`` where there is no such cluster."""
        if name not in self._configs:
            return default
        return self._states.get(name) or self._mesh.state(self._snapshot, name)

    def peek(self, name: str) -> ClusterState | None:
        """Return the state of a cluster that has been used, None for any other."""
        return self._states.get(name) if name in self._configs else None

    def __getitem__(self, name: str) -> ClusterState:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._configs

    def __iter__(self) -> Iterator[str]:
        return iter(self._configs)

    def __len__(self) -> int:
        return len(self._configs)


@dataclass(frozen=True, slots=True)
class LiveSnapshot:
    """A snapshot bound to live state: what a call reads, once.

    Attributes:
        snapshot: the configuration.
        clusters: live state by cluster name.
        rate_limits: the token buckets of local rate limits.
        faults: calls with a fault injected.
    """

    snapshot: Snapshot
    clusters: LiveClusters
    rate_limits: RateLimits
    faults: ActiveFaults = field(default_factory=ActiveFaults)

    def has_endpoint(self, cluster: str, address: tuple[str, int]) -> bool:
        """Tell whether connections to ``address`` for ``cluster`` still have a use."""
        state = self.clusters.peek(cluster)
        if state is None or state.config.discovery is Discovery.ORIGINAL_DST:
            return state is not None
        endpoint = state.endpoints.get(address)
        # As Envoy, which closes the connections of an endpoint that fails its checks.
        return endpoint is not None and endpoint.probe is not HealthStatus.UNHEALTHY


class MeshState:
    """The live state of a mesh's clusters; binds each new snapshot to it. Thread-safe.

    A cluster gets state when a call first needs it, so that a mesh of thousands costs what it uses.
    """

    def __init__(
        self,
        clock: Clock,
        chance: Randomness,
        breaker: Callable[[str], ClusterBreaker | None] | None = None,
        keeping: Keeping = no_upkeep,
        *,
        peak_ewma: Callable[[str], PeakEwma | None] | None = None,
    ) -> None:
        self.clock = clock
        self.chance = chance
        self._keeping = keeping
        self._breaker = breaker or (lambda _name: None)
        self._rate_limits = RateLimits(clock)
        self._peak_ewma = peak_ewma or (lambda _name: None)
        self.forked()

    def forked(self) -> None:
        """Forget all live state: in a forked child it counts the parent's calls, and may be locked by them."""
        # Guards the rest but for reading _states, which is one look-up.
        self._lock = mutex()
        self._rate_limits.forked()
        self._states: dict[str, ClusterState] = {}
        self._by_assignment: dict[str, set[str]] = {}  # EDS name -> clusters that have state
        self._faults = ActiveFaults()
        self._snapshot: Snapshot | None = None
        self._known_callers: tuple[ClusterLoadAssignment | None, HostSet | None] = None, None

    def bind(self, snapshot: Snapshot) -> LiveSnapshot:
        """Return ``snapshot`` over live state; clusters that are gone lose theirs.

        Called with each snapshot in turn, by one thread at a time.
        """
        with self._lock:
            before, self._snapshot = self._snapshot, snapshot
            for name in self._affected(before, snapshot):
                config = snapshot.clusters.get(name)
                if config is None:
                    gone = self._states.pop(name)
                    if gone.upkeep is not None:
                        gone.upkeep.close()
                    self._by_assignment.get(gone.config.eds_name, set()).discard(name)
                else:
                    self._states[name].configure(config)
            if before is not None and _local_cluster(before) is not _local_cluster(snapshot):
                for state in self._states.values():
                    state.refresh()
        return LiveSnapshot(snapshot, LiveClusters(snapshot, self, self._states), self._rate_limits, self._faults)

    def _affected(self, before: Snapshot | None, snapshot: Snapshot) -> list[str]:
        """Return the clusters with state whose configuration may have changed."""
        if snapshot.changed is None or before is None:
            return list(self._states)
        clusters, assignments = snapshot.changed
        names = {name for name in clusters if name in self._states}
        for assignment in assignments:
            names |= {name for name in self._by_assignment.get(assignment, ()) if name in self._states}
        return list(names)

    def state(self, snapshot: Snapshot, name: str) -> ClusterState | None:
        """Return the state of a cluster of ``snapshot``, made where there is none."""
        with self._lock:
            state = self._states.get(name)
            if state is not None:
                return state
            current = self._snapshot or snapshot
            config = current.clusters.get(name)
            if config is not None:
                state = self._states[name] = self._made(config, current)
                if config.eds_name:
                    self._by_assignment.setdefault(config.eds_name, set()).add(name)
                return state
            # Gone meanwhile: a call that began before still goes where its snapshot says.
            config = snapshot.clusters.get(name)
            return None if config is None else self._made(config, snapshot)

    def _made(self, config: Cluster, snapshot: Snapshot) -> ClusterState:
        around = Surroundings(snapshot.home.locality, self._callers, self._peak_ewma(config.name))
        return ClusterState(
            config,
            self.chance,
            self._breaker(config.name),
            clock=self.clock,
            surroundings=around,
            keeping=self._keeping,
        )

    def _callers(self) -> HostSet | None:
        """Return the first priority of the local cluster, None where there is none; as EDS tells of it."""
        snapshot = self._snapshot
        local = _local_cluster(snapshot) if snapshot is not None else None
        if snapshot is None or local is None:
            return None
        of, callers = self._known_callers
        if of is not local:
            endpoints = (endpoint for locality in local.localities for endpoint in locality.endpoints)
            states = {endpoint.key: EndpointState(endpoint) for endpoint in endpoints}
            callers = host_sets(local, states, snapshot.home.locality)[0]
            self._known_callers = local, callers
        return callers

    def used(self) -> frozenset[str]:
        """Return the clusters that calls used since this was last asked, or use now."""
        with self._lock:
            states = list(self._states.items())
        # Every pick of a zone-aware cluster goes by the local cluster.
        snapshot = self._snapshot
        names = {snapshot.home.cluster} if snapshot is not None and snapshot.home.cluster else set()
        for name, state in states:
            with state.limits.lock:
                if state.touched or any(each.requests or each.pending for each in (state.limits, state.high)):
                    names.add(name)
                state.touched = False
        return frozenset(names)


def _local_cluster(snapshot: Snapshot) -> ClusterLoadAssignment | None:
    """Return the endpoints of the local cluster, None where there is none or it is not there yet."""
    name = snapshot.home.cluster
    config = snapshot.clusters.get(name) if name else None
    return config.assignment if config is not None else None
