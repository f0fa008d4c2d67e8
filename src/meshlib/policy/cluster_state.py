"""Live state of one cluster and its endpoints: counts, ejections, the picker. Written under the cluster's lock."""

from __future__ import annotations

from collections.abc import Callable

from meshlib.clock import Randomness
from meshlib.model.cluster import Cluster, Discovery, TransportSocket
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint
from meshlib.policy.balancing import priorities
from meshlib.policy.balancing.picker import Picker
from meshlib.policy.breaker import ClusterBreaker
from meshlib.policy.limits import Limits
from meshlib.policy.outlier import OutlierDetector, Tally, Verdict


class EndpointState:
    """What is known of one endpoint now. Written under its cluster's lock.

    Attributes:
        endpoint: its configuration; replaced by updates that keep its address.
        active: attempts in flight.
        connections: attempts that hold or were granted a connection.
        ejected: whether outlier detection has taken it out.
        ejected_at: clock seconds of the last ejection.
        times_ejected: multiplies the ejection time.
        ejection_jitter: seconds added to this ejection.
        consecutive_5xx, consecutive_gateway, consecutive_local: failures in a row.
        answers, connects: results of the interval that runs; the latter when local errors count apart.
    """

    __slots__ = (
        "active",
        "answers",
        "connections",
        "connects",
        "consecutive_5xx",
        "consecutive_gateway",
        "consecutive_local",
        "ejected",
        "ejected_at",
        "ejection_jitter",
        "endpoint",
        "times_ejected",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.active = 0
        self.connections = 0
        self.ejected = False
        self.ejected_at = self.ejection_jitter = 0.0
        self.times_ejected = 0
        self.consecutive_5xx = self.consecutive_gateway = self.consecutive_local = 0
        self.answers, self.connects = Tally(), Tally()

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
    """

    __slots__ = (
        "_chance",
        "_groups",
        "_originals",
        "_picker",
        "breaker",
        "config",
        "endpoints",
        "limits",
        "outliers",
        "touched",
    )

    def __init__(self, config: Cluster, chance: Randomness, breaker: ClusterBreaker | None = None) -> None:
        self.config = config
        self.limits = Limits(config.thresholds)
        self.outliers = OutlierDetector(config.outlier)
        self.breaker = breaker
        self.endpoints: dict[tuple[str, int], EndpointState] = {}
        self._groups: list[list[EndpointState]] = []
        self._originals: dict[tuple[str, int], EndpointState] = {}
        self._picker: Picker | None = None
        self._chance = chance
        self.touched = True
        self._place(config)

    def configure(self, config: Cluster) -> None:
        """Take a new configuration; counts and ejections of endpoints that stay are kept."""
        if config is self.config:
            return
        with self.limits.lock:
            self.config = config
            self.outliers.config = config.outlier
            if config.outlier is None:
                self.outliers.reset()
            self._place(config)
        self.limits.configure(config.thresholds)

    def _place(self, config: Cluster) -> None:
        assignment = config.assignment or ClusterLoadAssignment(config.name)
        before, self.endpoints = self.endpoints, {}
        groups: dict[int, list[EndpointState]] = {}
        for locality in assignment.localities:
            group = groups.setdefault(locality.priority, [])
            for endpoint in locality.endpoints:
                state = before.pop(endpoint.key, None) or EndpointState(endpoint)
                state.endpoint = endpoint
                self.endpoints[endpoint.key] = state
                group.append(state)
        for gone in before.values():
            self.outliers.forget(gone)
        self._groups = [groups[priority] for priority in sorted(groups)]
        self._rebuild()

    def _rebuild(self) -> None:
        self._picker = priorities.build(self.config, self._groups, self._chance)

    def pick(
        self, now: float, avoid: Callable[[EndpointState], bool] | None = None, tries: int = 1, key: int | None = None
    ) -> EndpointState | None:
        """Return an endpoint for an attempt, None when there is none to offer.

        Args:
            now: clock seconds, for the sweep of ejections.
            avoid: ``retry_host_predicate``: tells whether another should be picked.
            tries: further picks before an endpoint to avoid is taken all the same
                (``host_selection_retry_max_attempts``).
            key: the request's hash, for RING_HASH and MAGLEV; None = at random.
        """
        with self.limits.lock:
            self.touched = True
            if self.outliers.due(now) and self._sweep(now):
                self._rebuild()
            if self._picker is None:
                return None
            state = self._picker.pick(self._chance, key)
            if avoid is not None:
                for turn in range(1, tries + 1):
                    if not avoid(state):
                        break
                    state = self._picker.pick(self._chance, key, turn)
            return state

    def original(self, host: str, port: int) -> EndpointState:
        """Return the address the caller named (ORIGINAL_DST), one state as long as attempts hold it."""
        key = (host, port)
        with self.limits.lock:
            self.touched = True
            state = self._originals.get(key)
            if state is None:
                self._originals = {k: s for k, s in self._originals.items() if s.active or s.connections}
                state = self._originals[key] = EndpointState(Endpoint(host, port))
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

    def transport_socket(self, endpoint: Endpoint) -> TransportSocket | None:
        """Return the transport socket in force for ``endpoint``, None for plaintext.

        ``transport_socket_matches``: the first whose criteria all equal the endpoint's
        ``envoy.transport_socket_match`` metadata, else the cluster's own socket.
        """
        config = self.config
        if config.transport_socket_matches:
            metadata = endpoint.metadata.get("envoy.transport_socket_match", {})
            for match in config.transport_socket_matches:
                if all(metadata.get(key) == value for key, value in match.criteria):
                    return match.socket
        return config.transport_socket
