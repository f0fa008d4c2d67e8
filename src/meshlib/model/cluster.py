"""Clusters as CDS gives them, with their endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshlib.model.balancing import ROUND_ROBIN, Balancing, LbPolicy
from meshlib.model.discovery import Discovery, Dns, OriginalDst
from meshlib.model.endpoint import ClusterLoadAssignment
from meshlib.model.health_check import HealthCheck
from meshlib.model.tls import UpstreamTls

UINT32_MAX = 4294967295
_DNS = Dns()
_ORIGINAL_DST = OriginalDst()


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """``Thresholds.RetryBudget``: concurrent retries as a share of the requests under way.

    Attributes:
        percent: of active and pending requests, 0 to 100.
        min_concurrency: retries that may run at once however small that share is.
    """

    percent: float = 20.0
    min_concurrency: int = 3


@dataclass(frozen=True, slots=True)
class Thresholds:
    """``CircuitBreakers.Thresholds`` of one priority, with Envoy's defaults.

    Attributes:
        max_connections: connections at once.
        max_pending_requests: requests that wait for a connection at once.
        max_requests: requests at once.
        max_retries: retries at once, unless there is a ``retry_budget``.
        retry_budget: takes the place of ``max_retries``.
        max_connections_per_host: of ``per_host_thresholds``: connections to one endpoint at once.
    """

    max_connections: int = 1024
    max_pending_requests: int = 1024
    max_requests: int = 1024
    max_retries: int = 3
    retry_budget: RetryBudget | None = None
    max_connections_per_host: int = UINT32_MAX


@dataclass(frozen=True, slots=True)
class ConnectionLife:
    """Of ``HttpProtocolOptions``: when a connection is not used again; None = no bound.

    Attributes:
        idle_timeout: seconds without a request.
        longest: seconds since it was made (``max_connection_duration``).
        requests: requests on it (``max_requests_per_connection``).
    """

    idle_timeout: float | None = None
    longest: float | None = None
    requests: int | None = None


NO_BOUNDS = ConnectionLife()


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """``envoy.config.cluster.v3.OutlierDetection``, with Envoy's defaults; times in seconds.

    Attributes:
        consecutive_5xx: errors in a row that eject, 0 = off.
        enforcing_consecutive_5xx: percent of detections that eject, 0 = detector off.
        consecutive_gateway_failure: 502, 503, 504 and local errors in a row.
        enforcing_consecutive_gateway_failure: percent, default 0.
        split_external_local_origin_errors: whether connect errors count apart.
        consecutive_local_origin_failure: local errors in a row, when split.
        enforcing_consecutive_local_origin_failure: percent.
        interval: seconds between sweeps; an ejection ends at a sweep.
        base_ejection_time: an ejection lasts base times the times ejected.
        max_ejection_time: upper bound of one ejection.
        max_ejection_percent: strict (Envoy ≥ 1.29): 1 bad of 3 is not ejected at 10 %.
        always_eject_one_host: the old rule, one host regardless.
        max_ejection_time_jitter: an ejection lasts up to so much longer, drawn at random.
        enforcing_success_rate: percent of detections that eject an endpoint whose share of successes
            in an interval is an outlier among its peers'.
        enforcing_local_origin_success_rate: the same of local successes, when split.
        success_rate_minimum_hosts: endpoints with enough requests for there to be a comparison.
        success_rate_request_volume: requests in an interval that are enough.
        success_rate_stdev_factor: thousandths of a standard deviation below the mean that are too far.
        enforcing_failure_percentage: percent of detections that eject an endpoint which fails too
            large a share of its requests in an interval; 0 = detector off.
        enforcing_failure_percentage_local_origin: the same of local failures, when split.
        failure_percentage_threshold: the percentage of failures that is too large.
        failure_percentage_minimum_hosts: endpoints with enough requests for it to be asked.
        failure_percentage_request_volume: requests in an interval that are enough.
        unejected_by_check: whether an active health check that succeeds ends an ejection.
        compares: whether any of the detectors that look at a whole interval is on.
    """

    consecutive_5xx: int = 5
    enforcing_consecutive_5xx: int = 100
    consecutive_gateway_failure: int = 5
    enforcing_consecutive_gateway_failure: int = 0
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failure: int = 5
    enforcing_consecutive_local_origin_failure: int = 100
    interval: float = 10.0
    base_ejection_time: float = 30.0
    max_ejection_time: float = 300.0
    max_ejection_percent: int = 10
    always_eject_one_host: bool = False
    max_ejection_time_jitter: float = 0.0
    enforcing_success_rate: int = 100
    enforcing_local_origin_success_rate: int = 100
    success_rate_minimum_hosts: int = 5
    success_rate_request_volume: int = 100
    success_rate_stdev_factor: int = 1900
    enforcing_failure_percentage: int = 0
    enforcing_failure_percentage_local_origin: int = 0
    failure_percentage_threshold: int = 85
    failure_percentage_minimum_hosts: int = 5
    failure_percentage_request_volume: int = 50
    unejected_by_check: bool = True
    compares: bool = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        shares = (self.enforcing_success_rate, self.enforcing_failure_percentage)
        local = (self.enforcing_local_origin_success_rate, self.enforcing_failure_percentage_local_origin)
        split = self.split_external_local_origin_errors
        object.__setattr__(self, "compares", any(shares) or (split and any(local)))


@dataclass(frozen=True, slots=True)
class TransportSocket:
    """What a ``transport_socket`` asks for.

    Attributes:
        name: the socket's name in the configuration.
        secure: whether it asks for TLS; False is ``raw_buffer``.
        detail: what it asks for, in words, for errors and ``explain``.
        tls: how TLS is to be spoken; None where it is not known how, and no connection is made.
    """

    name: str
    secure: bool
    detail: str = ""
    tls: UpstreamTls | None = None

    @property
    def refusal(self) -> str:
        """Why no connection can be made by it, empty where one can."""
        if not self.secure:
            return ""
        return f"{self.detail or 'TLS'} cannot be spoken" if self.tls is None else self.tls.refusal


@dataclass(frozen=True, slots=True)
class TransportSocketMatch:
    """One of ``transport_socket_matches``: first whose ``criteria`` equal the endpoint's
    ``envoy.transport_socket_match`` metadata wins.
    """

    name: str
    criteria: tuple[tuple[str, object], ...]
    socket: TransportSocket


@dataclass(frozen=True, slots=True)
class UpstreamHttpProtocolOptions:
    """``core.v3.UpstreamHttpProtocolOptions``: TLS names after the request's own host.

    Attributes:
        auto_sni: whether the server name sent is the request's host, where that is no IP address.
        auto_san_validation: whether the certificate must be for the request's host.
        header: the request header whose value is taken for the host, where it is there.
    """

    auto_sni: bool = False
    auto_san_validation: bool = False
    header: str = ""


@dataclass(frozen=True, slots=True)
class ServiceRef:
    """The service behind a cluster, for metrics: metadata ``istio.services[0]``."""

    host: str = "unknown"
    name: str = "unknown"
    namespace: str = "unknown"


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster with everything a call needs of it.

    Attributes:
        name: its name, for Istio ``outbound|port|subset|host``.
        discovery: where its endpoints come from.
        assignment: its endpoints; None while EDS has not answered.
        balancing: how one is chosen.
        connect_timeout: seconds, Envoy's default 5.
        thresholds: circuit breakers of the DEFAULT priority.
        high_thresholds: those of the HIGH priority, for routes that ask for it.
        outlier: outlier detection, None = off.
        panic_threshold: percent of healthy hosts below which all are used, 0 = never.
        http2: whether ``http2_protocol_options`` ask for HTTP/2.
        max_stream_duration: seconds of an attempt to the end of its response, 0.0 = off.
        connections: how long connections are kept, and for how many requests.
        transport_socket: what endpoints without a match use; None is plaintext.
        transport_socket_matches: per-endpoint choices, in order.
        upstream_http: what TLS takes from the request.
        eds_name: the EDS resource to ask for.
        members: of an AGGREGATE cluster, the clusters that it is made of, in order.
        dns: how names are looked up, of STRICT_DNS and LOGICAL_DNS clusters.
        original_dst: what stands in for the caller's address, of ORIGINAL_DST clusters.
        health_checks: how endpoints are checked while calls use them; one has to pass all of them.
        ignore_new_hosts: ``ignore_new_hosts_until_first_hc``: an endpoint not checked yet counts as not there.
        ignore_health_on_removal: whether an endpoint that discovery takes away goes at once, though
            checks find it healthy.
        service: the service it belongs to.
        source: where its policy was configured (``dr.yaml:3``), for ``explain``.
        metadata: as configured, for commands in headers.
    """

    name: str
    discovery: Discovery
    assignment: ClusterLoadAssignment | None = None
    balancing: Balancing = ROUND_ROBIN
    connect_timeout: float = 5.0
    thresholds: Thresholds = Thresholds()
    high_thresholds: Thresholds = Thresholds()
    outlier: OutlierDetection | None = None
    panic_threshold: float = 50.0
    http2: bool = False
    max_stream_duration: float = 0.0
    connections: ConnectionLife = NO_BOUNDS
    transport_socket: TransportSocket | None = None
    transport_socket_matches: tuple[TransportSocketMatch, ...] = ()
    upstream_http: UpstreamHttpProtocolOptions = UpstreamHttpProtocolOptions()
    eds_name: str = ""
    members: tuple[str, ...] = ()
    dns: Dns = _DNS
    original_dst: OriginalDst = _ORIGINAL_DST
    health_checks: tuple[HealthCheck, ...] = ()
    ignore_new_hosts: bool = False
    ignore_health_on_removal: bool = False
    service: ServiceRef = ServiceRef()
    source: str = ""
    metadata: Mapping[str, Mapping[str, object]] = field(default_factory=dict, hash=False)

    @property
    def lb_policy(self) -> LbPolicy:
        """How one of several endpoints is chosen."""
        return self.balancing.policy
