"""Live state of one cluster and its endpoints: counts, ejections, the picker. Written under the cluster's lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from meshlib.clock import Randomness
from meshlib.model.cluster import Cluster, TransportSocket
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint, HealthStatus
from meshlib.policy.balancing import priorities
from meshlib.policy.balancing.priorities import Availability, Place
from meshlib.policy.breaker import ClusterBreaker
from meshlib.policy.limits import Limits
from meshlib.policy.names import Answers, resolved
from meshlib.policy.outlier import OutlierDetector, Tally, Verdict
from meshlib.policy.upkeep import Keeping, Upkeep, no_upkeep

_PASSING = frozenset({HealthStatus.HEALTHY, HealthStatus.DEGRADED})
_DYNAMIC = (Discovery.EDS, Discovery.STRICT_DNS)
_DOWN = frozenset({HealthStatus.UNHEALTHY, HealthStatus.DRAINING, HealthStatus.TIMEOUT})


class EndpointState:
    """What is known of one endpoint now. Written under its cluster's lock.

    Attributes:
        cluster: whose it is.
        endpoint: its configuration; replaced by updates that keep its address.
        active: attempts in flight.
        connections: attempts that hold or were granted a connection.
        ejected: whether outlier detection has taken it out.
        probe: what active health checks say: HEALTHY where there are none, UNKNOWN before the first.
        excluded: whether it counts, in the reckoning of its priority's health, as if it were not there.
        ejected_at: clock seconds of the last ejection.
        times_ejected: multiplies the ejection time.
        ejection_jitter: seconds added to this ejection.
        consecutive_5xx, consecutive_gateway, consecutive_local: failures in a row.
        answers, connects: results of the interval that runs; the latter when local errors count apart.
    """

    __slots__ = (
        "active",
        "answers",
        "cluster",
        "connections",
        "connects",
        "consecutive_5xx",
        "consecutive_gateway",
        "consecutive_local",
        "ejected",
        "ejected_at",
        "ejection_jitter",
        "endpoint",
        "excluded",
        "probe",
        "times_ejected",
    )

    cluster: ClusterState  # set by it

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.probe = HealthStatus.HEALTHY
        self.excluded = False
        self.active = 0
        self.connections = 0
        self.ejected = False
        self.ejected_at = self.ejection_jitter = 0.0
        self.times_ejected = 0
        self.consecutive_5xx = self.consecutive_gateway = self.consecutive_local = 0
        self.answers, self.connects = Tally(), Tally()

    @property
    def health(self) -> HealthStatus:
        """HEALTHY, DEGRADED or UNHEALTHY, by EDS, outlier detection and active health checks together."""
        told = self.endpoint.health
        if self.ejected or told in _DOWN or self.probe in (HealthStatus.UNKNOWN, HealthStatus.UNHEALTHY):
            return HealthStatus.UNHEALTHY
        return HealthStatus.DEGRADED if HealthStatus.DEGRADED in (told, self.probe) else HealthStatus.HEALTHY

    def __repr__(self) -> str:
        return f"<{self.endpoint} active={self.active}{' ejected' if self.ejected else ''}>"


class ClusterState:
    """One cluster, live: limits, outlier detection, endpoints, picker. Thread-safe.

    Attributes:
        config: the cluster as last configured.
        limits: thresholds and counts; its lock guards everything here.
        outliers: the outlier detector.
        breaker: the opt-in pybreaker gate, None unless asked for.
        endpoints: by address.
        touched: whether an endpoint was picked since :meth:`MeshState.used` was last asked.
        upkeep: what looks names up and checks endpoints, None where nothing has to.
        assignment: the endpoints, with names looked up; None while EDS has not answered.
    """

    __slots__ = (
        "_answers",
        "_availability",
        "_chance",
        "_groups",
        "_keeping",
        "_kept",
        "_originals",
        "_picker",
        "assignment",
        "breaker",
        "config",
        "endpoints",
        "limits",
        "outliers",
        "touched",
        "upkeep",
    )

    def __init__(
        self,
        config: Cluster,
        chance: Randomness,
        breaker: ClusterBreaker | None = None,
        keeping: Keeping = no_upkeep,
    ) -> None:
        self.config = config
        self.limits = Limits(config.thresholds)
        self.outliers = OutlierDetector(config.outlier)
        self.breaker = breaker
        self.endpoints: dict[tuple[str, int], EndpointState] = {}
        self._groups: list[list[EndpointState]] = []
        self._originals: dict[tuple[str, int], EndpointState] = {}
        self._chance = chance
        self.touched = True
        self._answers: Answers = {}
        self.assignment: ClusterLoadAssignment | None = None
        self._keeping = keeping
        self.upkeep: Upkeep | None = None
        self._keep()
        self._place(config)

    def configure(self, config: Cluster) -> None:
        """Take a new configuration; counts and ejections of endpoints that stay are kept."""
        if config is self.config:
            return
        with self.limits.lock:
            if config.discovery is not self.config.discovery:
                self._answers = {}
            self.config = config
            self.outliers.config = config.outlier
            self._keep()
            if config.outlier is None:
                self.outliers.reset()
            self._place(config)
        self.limits.configure(config.thresholds)
        if self.upkeep is not None:
            self.upkeep.configured()

    def _keep(self) -> None:
        """Have the cluster kept up if its configuration needs that, and not if it does not."""
        needed = self.config.discovery.by_name or bool(self.config.health_checks)
        if needed and self.upkeep is None:
            self.upkeep = self._keeping(self)
        elif not needed and self.upkeep is not None:
            self.upkeep.close()
            self.upkeep = None

    def resolve(self, answers: Answers) -> None:
        """Take the addresses that names were found to have; counts and ejections of those that stay are kept."""
        with self.limits.lock:
            self._answers = answers
            self._place(self.config)

    def _place(self, config: Cluster) -> None:
        found = resolved(config, self._answers)
        self.assignment = self._with_kept(found) if found is not None else None
        assignment = self.assignment or ClusterLoadAssignment(config.name)
        before, self.endpoints = self.endpoints, {}
        groups: dict[int, list[EndpointState]] = {}
        for locality in assignment.localities:
            group = groups.setdefault(locality.priority, [])
            for endpoint in locality.endpoints:
                state = before.pop(endpoint.key, None)
                if state is None:
                    state = EndpointState(endpoint)
                    state.probe = HealthStatus.UNKNOWN
                state.endpoint, state.cluster = endpoint, self
                if not self.checks(state):
                    state.probe, state.excluded = HealthStatus.HEALTHY, False
                elif state.probe is HealthStatus.UNKNOWN:
                    state.excluded = config.ignore_new_hosts
                self.endpoints[endpoint.key] = state
                group.append(state)
        for gone in before.values():
            self.outliers.forget(gone)
        self._groups = [groups[priority] for priority in sorted(groups)]
        self._rebuild()

    def _with_kept(self, assignment: ClusterLoadAssignment) -> ClusterLoadAssignment:
        """Add the endpoints that discovery took away, and that checks still find healthy.

        Envoy trusts checks over discovery, which is only eventually consistent; an endpoint that is
        gone leaves when a check of it fails, or at once with ``ignore_health_on_host_removal``.
        """
        self._kept: frozenset[tuple[str, int]] = frozenset()
        config = self.config
        if self.assignment is None or config.discovery not in _DYNAMIC or config.ignore_health_on_removal:
            return assignment
        there = {endpoint.key for locality in assignment.localities for endpoint in locality.endpoints}
        kept = []
        for locality in self.assignment.localities:
            stay = tuple(e for e in locality.endpoints if e.key not in there and self._stays(e))
            if stay:
                kept.append(replace(locality, endpoints=stay))
        self._kept = frozenset(endpoint.key for locality in kept for endpoint in locality.endpoints)
        return replace(assignment, localities=(*assignment.localities, *kept)) if kept else assignment

    def _stays(self, endpoint: Endpoint) -> bool:
        state = self.endpoints.get(endpoint.key)
        return state is not None and self.checks(state) and state.probe in _PASSING and endpoint.health not in _DOWN

    def checks(self, state: EndpointState) -> bool:
        """Tell whether active health checks decide on an endpoint."""
        return self.upkeep is not None and bool(self.config.health_checks) and not state.endpoint.check.disabled

    def probed(self, state: EndpointState, health: HealthStatus, *, excluded: bool, success: bool) -> None:
        """Take what active health checks make of an endpoint; ``success`` tells of the last one."""
        with self.limits.lock:
            if self.endpoints.get(state.endpoint.key) is not state:
                return
            changed = health is not state.probe or excluded is not state.excluded
            state.probe, state.excluded = health, excluded
            config = self.outliers.config
            if success and config is not None and config.unejected_by_check and state.ejected:
                self.outliers.forget(state)
                changed = True
            if state.endpoint.key in self._kept and not self._stays(state.endpoint):
                self._place(self.config)
            elif changed:
                self._rebuild()

    def _rebuild(self) -> None:
        self._picker = priorities.build(self.config, self._groups, self._chance)
        self._availability = priorities.availability(self.config, self._groups)

    def availability_at(self, now: float) -> Sequence[Availability]:
        """Return how available each priority is, for an aggregate cluster; endpoints whose time is over come back."""
        if self.outliers.due(now):
            self.sweep(now)
        return self._availability

    def pick(
        self,
        now: float,
        avoid: Callable[[EndpointState], bool] | None = None,
        tries: int = 1,
        key: int | None = None,
        place: Place | None = None,
    ) -> EndpointState | None:
        """Return an endpoint for an attempt, None when there is none to offer.

        Args:
            now: clock seconds, for the sweep of ejections.
            avoid: ``retry_host_predicate``: tells whether another should be picked.
            tries: further picks before an endpoint to avoid is taken all the same
                (``host_selection_retry_max_attempts``).
            key: the request's hash, for RING_HASH and MAGLEV; None = at random.
            place: the priority that an aggregate cluster chose; None leaves the choice to this one.
        """
        with self.limits.lock:
            self.touched = True
            if self.outliers.due(now) and self._sweep(now):
                self._rebuild()
            state = self._draw(key, 0, place)
            if avoid is not None:
                for turn in range(1, tries + 1):
                    if state is None or not avoid(state):
                        break
                    state = self._draw(key, turn, place)
            return state

    def _draw(self, key: int | None, turn: int, place: Place | None) -> EndpointState | None:
        if place is not None:
            return self._picker.pick_at(place, self._chance, key, turn)
        return self._picker.pick(self._chance, key, turn)

    def original(self, host: str, port: int) -> EndpointState:
        """Return the address the caller named (ORIGINAL_DST), one state as long as attempts hold it."""
        key = (host, port)
        with self.limits.lock:
            self.touched = True
            state = self._originals.get(key)
            if state is None:
                self._originals = {k: s for k, s in self._originals.items() if s.active or s.connections}
                state = self._originals[key] = EndpointState(Endpoint(host, port))
                state.cluster = self
            return state

    def offers(self, state: EndpointState) -> bool:
        """Tell whether an endpoint picked earlier is still one of the cluster's."""
        return self.config.discovery is Discovery.ORIGINAL_DST or self.endpoints.get(state.endpoint.key) is state

    def begin(self, state: EndpointState) -> bool:
        """Count an attempt in; False when ``max_requests`` are in flight. :meth:`end` counts it out."""
        limits = self.limits
        with limits.lock:
            if limits.requests >= limits.thresholds.max_requests:
                return False
            limits.requests += 1
            state.active += 1
            return True

    def end(self, state: EndpointState) -> None:
        """Count an attempt out."""
        with self.limits.lock:
            self.limits.requests -= 1
            state.active -= 1

    def observe(self, state: EndpointState, verdict: Verdict, now: float) -> bool:
        """Tell outlier detection what an attempt met; returns whether it ejected the endpoint."""
        if self.outliers.config is None:
            return False
        with self.limits.lock:
            if self.endpoints.get(state.endpoint.key) is not state:
                return False  # it left the cluster meanwhile
            ejected = self.outliers.observe(state, verdict, len(self.endpoints), now, self._chance)
            if ejected:
                self._rebuild()
            return ejected

    def sweep(self, now: float) -> None:
        """Let endpoints back whose ejection is over; for readers of an idle mesh."""
        with self.limits.lock:
            if self.outliers.due(now) and self._sweep(now):
                self._rebuild()

    def _sweep(self, now: float) -> bool:
        return self.outliers.sweep(tuple(self.endpoints.values()), now, self._chance)

    def transport_socket(
        self, endpoint: Endpoint, criteria: Mapping[str, object] | None = None
    ) -> TransportSocket | None:
        """Return the transport socket in force for ``endpoint``, None for plaintext.

        ``criteria`` stand in for its metadata (``transport_socket_match_criteria`` of health checks).

        ``transport_socket_matches``: the first whose criteria all equal the endpoint's
        ``envoy.transport_socket_match`` metadata, else the cluster's own socket.
        """
        config = self.config
        if config.transport_socket_matches:
            metadata = endpoint.metadata.get("envoy.transport_socket_match", {}) if criteria is None else criteria
            for match in config.transport_socket_matches:
                if all(metadata.get(key) == value for key, value in match.criteria):
                    return match.socket
        return config.transport_socket
