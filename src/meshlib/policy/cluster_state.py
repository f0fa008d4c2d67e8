"""Live state of one cluster and its endpoints: counts, ejections, the balancer. Written under the cluster's lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from meshlib.clock import Clock, Randomness
from meshlib.model.balancing import HASHING, LbPolicy, PeakEwma
from meshlib.model.cluster import Cluster, TransportSocket
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import NOWHERE, ClusterLoadAssignment, Endpoint, HealthStatus, Locality
from meshlib.model.metadata import Criteria
from meshlib.policy.balancing import latency, orca
from meshlib.policy.balancing.building import ClusterBalancer, balancer
from meshlib.policy.balancing.context import Context, Memory
from meshlib.policy.balancing.hosts import HostSet, host_sets
from meshlib.policy.balancing.picker import NO_PRIORITIES, NO_WISH, Place, Wish
from meshlib.policy.balancing.priorities import Availability
from meshlib.policy.balancing.subsets import SubsetBalancer
from meshlib.policy.balancing.view import BalancingView, view_of
from meshlib.policy.breaker import ClusterBreaker
from meshlib.policy.effects import HeaderLookup, Outcome
from meshlib.policy.limits import Limits, mutex
from meshlib.policy.names import Answers, resolved
from meshlib.policy.outlier import OutlierDetector, Tally, Verdict
from meshlib.policy.safety import RetryRate
from meshlib.policy.upkeep import Keeping, Upkeep, no_upkeep

_DOWN = frozenset({HealthStatus.UNHEALTHY, HealthStatus.DRAINING, HealthStatus.TIMEOUT})
_PASSING = frozenset({HealthStatus.HEALTHY, HealthStatus.DEGRADED})
_DYNAMIC = (Discovery.EDS, Discovery.STRICT_DNS)
_UNPROVEN = frozenset({HealthStatus.UNKNOWN, HealthStatus.UNHEALTHY})


class EndpointState:
    """What is known of one endpoint now. Written under its cluster's lock.

    Attributes:
        cluster: whose it is.
        endpoint: its configuration; replaced by updates that keep its address.
        key: its address.
        active: attempts in flight.
        connections: attempts that hold or were granted a connection.
        ejected: whether outlier detection has taken it out.
        ejected_at: clock seconds of the last ejection.
        times_ejected: multiplies the ejection time.
        ejection_jitter: seconds added to this ejection.
        consecutive_5xx, consecutive_gateway, consecutive_local: failures in a row.
        answers, connects: results of the interval that runs; the latter when local errors count apart.
        weight: what it weighs now: as configured, or by its load reports.
        since: clock seconds at which it became healthy, for slow start; None where nobody asks.
        probe: what active health checks say: HEALTHY where there are none, UNKNOWN before the first.
        excluded: whether it counts, in the reckoning of its priority's health, as if it were not there.
        reported: what its load reports came to, None before the first.
        latency: its average latency, None where nobody asks or none is known.
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
        "key",
        "latency",
        "probe",
        "reported",
        "since",
        "times_ejected",
        "weight",
    )

    cluster: ClusterState  # set by it

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.key = endpoint.key
        self.active = 0
        self.connections = 0
        self.ejected = False
        self.ejected_at = self.ejection_jitter = 0.0
        self.times_ejected = 0
        self.consecutive_5xx = self.consecutive_gateway = self.consecutive_local = 0
        self.answers, self.connects = Tally(), Tally()
        self.weight = endpoint.weight
        self.since: float | None = None
        self.probe = HealthStatus.HEALTHY
        self.excluded = False
        self.reported: orca.Reported | None = None
        self.latency: latency.Average | None = None

    @property
    def health(self) -> HealthStatus:
        """HEALTHY, DEGRADED or UNHEALTHY, by EDS, outlier detection and active health checks together."""
        told = self.endpoint.health
        if self.ejected or told in _DOWN or self.probe in _UNPROVEN:
            return HealthStatus.UNHEALTHY
        return HealthStatus.DEGRADED if HealthStatus.DEGRADED in (told, self.probe) else HealthStatus.HEALTHY

    def __repr__(self) -> str:
        return f"<{self.endpoint} active={self.active}{' ejected' if self.ejected else ''}>"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a cluster's balancing has to know beyond its own configuration.

    Attributes:
        locality: where this process is; empty = unknown.
        callers: returns the local cluster's first priority, whose endpoints this process is one of;
            None where there is none. For zone-aware routing.
        peak_ewma: balance by latency in place of the policy, except where requests are hashed; None = no.
    """

    locality: Locality = NOWHERE
    callers: Callable[[], HostSet | None] = lambda: None
    peak_ewma: PeakEwma | None = None


ALONE = Surroundings()


class ClusterState:
    """One cluster, live: limits, outlier detection, endpoints, balancer. Thread-safe.

    Attributes:
        config: the cluster as last configured.
        limits: thresholds and counts of the DEFAULT priority; its lock guards everything here.
        high: those of the HIGH priority, for routes that ask for it.
        outliers: the outlier detector.
        breaker: the opt-in pybreaker gate, None unless asked for.
        retry_rate: the budget of ``retry_safety="strict"``.
        endpoints: by address.
        touched: whether an endpoint was picked since :meth:`MeshState.used` was last asked.
        upkeep: what looks names up and checks endpoints, None where nothing has to.
        assignment: the endpoints, with names looked up; None while EDS has not answered.
    """

    __slots__ = (
        "_answers",
        "_balancer",
        "_builds",
        "_chance",
        "_clock",
        "_keeping",
        "_kept",
        "_memory",
        "_newest",
        "_next_weights",
        "_originals",
        "_placing",
        "_surroundings",
        "assignment",
        "breaker",
        "config",
        "endpoints",
        "high",
        "limits",
        "outliers",
        "retry_rate",
        "touched",
        "upkeep",
    )

    def __init__(
        self,
        config: Cluster,
        chance: Randomness,
        breaker: ClusterBreaker | None = None,
        *,
        clock: Clock,
        surroundings: Surroundings = ALONE,
        keeping: Keeping = no_upkeep,
    ) -> None:
        self.config = config
        self.limits = Limits(config.thresholds)
        self.high = Limits(config.high_thresholds, self.limits.lock)
        self.outliers = OutlierDetector(config.outlier)
        self.breaker = breaker
        self.retry_rate = RetryRate()
        self.endpoints: dict[tuple[str, int], EndpointState] = {}
        self._originals: dict[tuple[str, int], EndpointState] = {}
        self._chance = chance
        self._clock = clock
        self._surroundings = surroundings
        self._memory = Memory(chance)
        self._newest = clock()  # as in Envoy, whose window begins with the balancer
        self._next_weights = self._newest + config.balancing.reports.weight_update_period
        self._builds = 0
        self.touched = True
        self._placing = mutex()  # one at a time gives the cluster other endpoints
        self._answers: Answers = {}
        self._kept: frozenset[tuple[str, int]] = frozenset()
        self.assignment: ClusterLoadAssignment | None = None
        self._keeping = keeping
        self.upkeep: Upkeep | None = None
        self._keep(config)
        self.assignment = resolved(config, self._answers)
        self.endpoints = self._states(config, {})
        self._balancer = self._build(config, self._sets(config, self.endpoints), self._newest)

    def configure(self, config: Cluster) -> None:
        """Take a new configuration; counts and ejections of endpoints that stay are kept.

        All that takes time is done before the lock is taken, so that no call waits for it.
        """
        if config is self.config:
            return
        with self._placing:
            if config.discovery is not self.config.discovery:
                self._answers = {}
            self._keep(config)
            self._place(config)
        self.limits.configure(config.thresholds)
        self.high.configure(config.high_thresholds)
        if self.upkeep is not None:
            self.upkeep.configured()

    def resolve(self, answers: Answers) -> None:
        """Take the addresses that names were found to have; counts and ejections of those that stay are kept."""
        with self._placing:
            self._answers = answers
            self._place(self.config)

    def _place(self, config: Cluster) -> None:
        now = self._clock()
        builds, before = self._builds, self.endpoints
        found = resolved(config, self._answers)
        self.assignment = self._with_kept(config, found) if found is not None else None
        endpoints = self._states(config, before)
        fresh = self._build(config, self._sets(config, endpoints), now)
        fresh.warm(self._balancer, now)
        with self.limits.lock:
            self.config = config
            self.outliers.config = config.outlier
            unejected = config.outlier is None and self.outliers.reset()
            for key, state in before.items():
                if endpoints.get(key) is not state:
                    self.outliers.forget(state)
            self.endpoints = endpoints
            self._balancer = fresh
            if self._builds != builds or unejected:  # health changed meanwhile
                self._rebuild(now)

    def _keep(self, config: Cluster) -> None:
        """Have the cluster kept up if its configuration needs that, and not if it does not."""
        needed = config.discovery.by_name or bool(config.health_checks)
        if needed and self.upkeep is None:
            self.upkeep = self._keeping(self)
        elif not needed and self.upkeep is not None:
            self.upkeep.close()
            self.upkeep = None

    def _with_kept(self, config: Cluster, assignment: ClusterLoadAssignment) -> ClusterLoadAssignment:
        """Add the endpoints that discovery took away, and that checks still find healthy.

        Envoy trusts checks over discovery, which is only eventually consistent; an endpoint that is
        gone leaves when a check of it fails, or at once with ``ignore_health_on_host_removal``.
        """
        self._kept = frozenset()
        if self.assignment is None or config.discovery not in _DYNAMIC or config.ignore_health_on_removal:
            return assignment
        there = {endpoint.key for locality in assignment.localities for endpoint in locality.endpoints}
        kept = []
        for locality in self.assignment.localities:
            stay = tuple(e for e in locality.endpoints if e.key not in there and self._stays(config, e))
            if stay:
                kept.append(replace(locality, endpoints=stay))
        self._kept = frozenset(endpoint.key for locality in kept for endpoint in locality.endpoints)
        return replace(assignment, localities=(*assignment.localities, *kept)) if kept else assignment

    def _stays(self, config: Cluster, endpoint: Endpoint) -> bool:
        state = self.endpoints.get(endpoint.key)
        passes = state is not None and state.probe in _PASSING
        return passes and self._checked(config, endpoint) and endpoint.health not in _DOWN

    def _checked(self, config: Cluster, endpoint: Endpoint) -> bool:
        return self.upkeep is not None and bool(config.health_checks) and not endpoint.check.disabled

    def checks(self, state: EndpointState) -> bool:
        """Tell whether active health checks decide on an endpoint."""
        return self._checked(self.config, state.endpoint)

    def probed(self, state: EndpointState, health: HealthStatus, *, excluded: bool, success: bool) -> bool:
        """Take what active health checks make of an endpoint; tells whether that calls for :meth:`refresh`.

        Args:
            state: the endpoint.
            health: HEALTHY, DEGRADED or UNHEALTHY.
            excluded: whether it counts as if it were not there.
            success: whether the last check was one.
        """
        key = state.endpoint.key
        with self.limits.lock:
            if self.endpoints.get(key) is not state:
                return False
            changed = health is not state.probe or excluded is not state.excluded
            state.probe, state.excluded = health, excluded
            config = self.outliers.config
            if success and config is not None and config.unejected_by_check and state.ejected:
                self.outliers.forget(state)
                changed = True
        if key in self._kept and health not in _PASSING:
            with self._placing:
                self._place(self.config)
        return changed

    def refresh(self) -> None:
        """Balance anew: health that is not of this state's own making has changed (probes, the local cluster)."""
        with self.limits.lock:
            self._rebuild(self._clock())

    def _states(
        self, config: Cluster, before: dict[tuple[str, int], EndpointState]
    ) -> dict[tuple[str, int], EndpointState]:
        """Return the state of each endpoint of ``config``: that from before, where its address stays."""
        reported = config.balancing.policy is LbPolicy.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN
        found: dict[tuple[str, int], EndpointState] = {}
        for locality in (self.assignment or ClusterLoadAssignment(config.name)).localities:
            for endpoint in locality.endpoints:
                key = endpoint.key
                if key in found:
                    continue
                state = before.get(key)
                if state is None:
                    state = EndpointState(endpoint)
                    state.cluster = self
                    state.probe = HealthStatus.UNKNOWN if self.upkeep is not None else HealthStatus.HEALTHY
                found[key] = state
                if state.endpoint is not endpoint:
                    state.endpoint = endpoint
                if self.upkeep is None or not self._checked(config, endpoint):
                    state.probe, state.excluded = HealthStatus.HEALTHY, False
                elif state.probe is HealthStatus.UNKNOWN:
                    state.excluded = config.ignore_new_hosts
                if not reported:
                    state.weight = endpoint.weight
        return found

    def _sets(self, config: Cluster, endpoints: dict[tuple[str, int], EndpointState]) -> tuple[HostSet, ...]:
        return host_sets(
            self.assignment or ClusterLoadAssignment(config.name),
            endpoints,
            self._surroundings.locality,
            dedupe=config.discovery is not Discovery.STATIC,
        )

    def _build(self, config: Cluster, sets: tuple[HostSet, ...], now: float) -> ClusterBalancer:
        if config.balancing.slow_start is not None:
            self._note_new(sets, now)
        context = Context(
            config.balancing,
            int(config.panic_threshold),
            self._chance,
            now,
            lambda: self.limits.requests,
            self._newest,
            self._surroundings.callers(),
            self._surroundings.peak_ewma,
        )
        return balancer(context, sets, self._memory)

    def _note_new(self, sets: tuple[HostSet, ...], now: float) -> None:
        """Begin the slow start of endpoints that are healthy for the first time."""
        for hosts in sets:
            for state in hosts.whole.healthy:
                if state.since is None:
                    state.since = now
                self._newest = max(self._newest, state.since)

    def _rebuild(self, now: float) -> None:
        self._builds += 1
        sets = tuple(hosts.again() for hosts in self._balancer.sets)
        fresh = self._build(self.config, sets, now)
        if isinstance(fresh, SubsetBalancer):
            fresh.keep_members(self._balancer)
        self._balancer = fresh  # not made ready: a call may be waiting for the lock

    def pick(
        self,
        now: float,
        avoid: Callable[[EndpointState], bool] | None = None,
        tries: int = 1,
        key: int | None = None,
        *,
        subset: Criteria = (),
        spent: AbstractSet[int] = NO_PRIORITIES,
        place: Place | None = None,
        override: tuple[str, int] | None = None,
        strict: bool = False,
    ) -> EndpointState | None:
        """Return an endpoint for an attempt, None when there is none to offer.

        Args:
            now: clock seconds, for the sweep of ejections.
            avoid: ``retry_host_predicate``: tells whether another should be picked.
            tries: further picks before an endpoint to avoid is taken all the same
                (``host_selection_retry_max_attempts``).
            key: the request's hash, for RING_HASH and MAGLEV; None = at random.
            subset: what the route asks of endpoints (``metadata_match``), for a cluster with subsets.
            spent: priorities to leave out while others can serve (``previous_priorities``).
            place: the priority that an aggregate cluster chose; None leaves the choice to this one.
            override: the endpoint that a session names; taken where its health is one of ``override_host_status``.
            strict: whether nothing else will do where that one cannot be had.
        """
        with self.limits.lock:
            self.touched = True
            if self.outliers.due(now) and self._sweep(now):
                self._rebuild(now)
            if now >= self._next_weights:
                self._weigh(now)
            if override is not None:
                named = self.endpoints.get(override)
                if named is not None and told_health(named) in self.config.balancing.override_statuses:
                    return named
                if strict:
                    return None
            wish = Wish(subset, spent, place) if subset or spent or place is not None else NO_WISH
            state = self._balancer.pick(now, key, wish)
            if avoid is not None:
                for turn in range(1, tries + 1):
                    if state is None or not avoid(state):
                        break
                    state = self._balancer.pick(now, key, Wish(subset, spent, place, turn))
            return state

    def availability_at(self, now: float) -> Sequence[Availability]:
        """Return how available each priority is, for an aggregate cluster; endpoints whose time is over come back."""
        if self.outliers.due(now):
            self.sweep(now)
        return self._balancer.loads.availability

    def named(self, address: str) -> EndpointState | None:
        """Return the endpoint at ``address`` ("10.0.0.1:80") whatever its health, None for none (``override_host``)."""
        host, _, port = address.rpartition(":")
        if not port.isascii() or not port.isdecimal():
            return None
        with self.limits.lock:
            self.touched = True
            return self.endpoints.get((host.removeprefix("[").removesuffix("]"), int(port)))

    def _weigh(self, now: float) -> None:
        """Look at the load reports, once a ``weight_update_period``."""
        config = self.config.balancing
        if config.policy is not LbPolicy.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN:
            self._next_weights = float("inf")
            return
        self._next_weights = now + config.reports.weight_update_period
        changes = [orca.weigh(hosts.whole.hosts, config.reports, now) for hosts in self._balancer.sets]
        if any(changes):
            self._rebuild(now)

    @property
    def learns(self) -> bool:
        """Whether attempts tell the balancer anything: their load reports, or how long they took."""
        reports = self.config.balancing.policy is LbPolicy.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN
        return reports or self._surroundings.peak_ewma is not None

    def learn(self, state: EndpointState, outcome: Outcome, seconds: float, now: float) -> None:
        """Take in what an attempt tells of its endpoint's load: its report and its latency."""
        if self.config.balancing.policy is LbPolicy.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN:
            self.report(state, outcome.headers, now)
        peak_ewma = self._surroundings.peak_ewma
        if peak_ewma is not None:
            cost = latency.cost_of(outcome, seconds, peak_ewma)
            with self.limits.lock:
                if state.latency is None:
                    state.latency = latency.Average(cost, now)
                else:
                    state.latency.observe(cost, now, peak_ewma.decay)

    def report(self, state: EndpointState, headers: HeaderLookup, now: float) -> None:
        """Take in the load report that response headers or trailers carry, where they do."""
        config = self.config.balancing
        if config.policy is not LbPolicy.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN:
            return
        report = orca.report_in(headers)
        weight = orca.weight_of(report, config.reports) if report is not None else None
        if weight is None:
            return
        with self.limits.lock:
            if state.reported is None:
                state.reported = orca.Reported(weight, now)
            else:
                state.reported.update(weight, now)

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
        return self.config.discovery is Discovery.ORIGINAL_DST or self.endpoints.get(state.key) is state

    def begin(self, state: EndpointState, limits: Limits | None = None) -> bool:
        """Count an attempt in; False when ``max_requests`` are in flight. :meth:`end` counts it out.

        Args:
            state: the endpoint.
            limits: :attr:`limits` or :attr:`high`; None is the former.
        """
        if limits is None:
            limits = self.limits
        with limits.lock:
            if limits.requests >= limits.thresholds.max_requests:
                return False
            limits.requests += 1
            state.active += 1
            return True

    def end(self, state: EndpointState, limits: Limits | None = None) -> None:
        """Count an attempt out."""
        if limits is None:
            limits = self.limits
        with limits.lock:
            limits.requests -= 1
            state.active -= 1

    def deposit(self, now: float) -> None:
        """Count a call into the budget of strict retries."""
        with self.limits.lock:
            self.retry_rate.deposit(now)

    def withdraw(self, now: float) -> bool:
        """Take a retry from the budget of strict retries; False when it is spent."""
        with self.limits.lock:
            return self.retry_rate.withdraw(now)

    def priorities(self) -> Sequence[tuple[HostSet, Availability]]:
        """Return each priority's endpoints and what they could take, for ``previous_priorities``."""
        with self.limits.lock:
            balancer = self._balancer
            return list(zip(balancer.sets, balancer.loads.availability, strict=True))

    def observe(self, state: EndpointState, verdict: Verdict, now: float) -> bool:
        """Tell outlier detection what an attempt met; returns whether it ejected the endpoint."""
        if self.outliers.config is None:
            return False
        with self.limits.lock:
            if self.endpoints.get(state.key) is not state:
                return False  # it left the cluster meanwhile
            ejected = self.outliers.observe(state, verdict, len(self.endpoints), now, self._chance)
            if ejected:
                self._rebuild(now)
            return ejected

    def sweep(self, now: float) -> None:
        """Let endpoints back whose ejection is over; for readers of an idle mesh."""
        with self.limits.lock:
            if self.outliers.due(now) and self._sweep(now):
                self._rebuild(now)

    def _sweep(self, now: float) -> bool:
        return self.outliers.sweep(tuple(self.endpoints.values()), now, self._chance)

    def describe(self, subset: Criteria = ()) -> BalancingView:
        """Return how load is shared out now, and who takes none and why; a value, for ``explain`` and traces."""
        with self.limits.lock:
            view = view_of(self.config, self._balancer, subset)
        by_latency = self._surroundings.peak_ewma is not None and self.config.lb_policy not in HASHING
        return replace(view, policy="PEAK_EWMA") if by_latency else view

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


def told_health(state: EndpointState) -> HealthStatus:
    """Return the one health status of an endpoint that ``override_host_status`` is compared with."""
    told = state.endpoint.health
    if state.ejected or state.probe in _UNPROVEN:
        return HealthStatus.UNHEALTHY
    return HealthStatus.DEGRADED if told not in _DOWN and state.probe is HealthStatus.DEGRADED else told
