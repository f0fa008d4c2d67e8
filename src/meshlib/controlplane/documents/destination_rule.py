"""DestinationRule: how a service is called, and its subsets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isqrt
from typing import Annotated, ClassVar

from meshlib.controlplane.documents.destinations import PortSelector
from meshlib.controlplane.documents.fields import (
    Count,
    Duration,
    Labels,
    Message,
    Name,
    Percent,
    Port,
    Share,
    duration,
    number,
    one_of,
)
from meshlib.controlplane.documents.locality import LocalityLb
from meshlib.controlplane.documents.place import Report
from meshlib.controlplane.documents.resource import Resource

LARGEST_TABLE = 5_000_011  # Envoy's bound of a Maglev table
SIMPLE = ("ROUND_ROBIN", "LEAST_REQUEST", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "UNSPECIFIED")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCookie(Message):
    """``ConsistentHashLB.HTTPCookie``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"attributes"})

    name: Name
    path: str = ""
    ttl: Annotated[float, duration] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RingHash(Message):
    """``ConsistentHashLB.RingHash``; 0 is Istio's default of 1024."""

    minimum_ring_size: Count = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Maglev(Message):
    """``ConsistentHashLB.MagLev``; 0 is Envoy's default of 65537."""

    table_size: Count = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistentHash(Message):
    """``ConsistentHashLB``: what is hashed, and by which algorithm."""

    http_header_name: str = ""
    http_cookie: HttpCookie | None = None
    use_source_ip: bool = False
    http_query_parameter_name: str = ""
    ring_hash: RingHash | None = None
    maglev: Maglev | None = None
    minimum_ring_size: Count = 0

    def check(self, report: Report) -> None:
        """One thing to hash and one algorithm; Envoy's rule for Maglev tables."""
        keys = ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName")
        written = [key for key in keys if self.at.has(key)]
        if len(written) != 1:
            got = " and ".join(written) or "none of them"
            report.error(self.at, f"expected one of {', '.join(keys)}, got {got}")
        if self.ring_hash is not None and self.maglev is not None:
            report.error(self.at, "expected one of ringHash, maglev, got both")
        size = self.maglev.table_size if self.maglev else 0
        if self.maglev is not None and (size == 1 or any(size % n == 0 for n in range(2, isqrt(size) + 1))):
            report.error(self.maglev.at.child("tableSize"), f"expected a prime number, got {size}")
        if size > LARGEST_TABLE:
            report.error(self.at.child("maglev"), f"expected a tableSize of at most {LARGEST_TABLE}, got {size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmup(Message):
    """``WarmupConfiguration``: how the share of a new endpoint grows."""

    duration: Duration
    minimum_percent: Percent | None = None
    aggression: Annotated[float, number(1)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancer(Message):
    """``LoadBalancerSettings``."""

    simple: Annotated[str, one_of(*SIMPLE)] = "UNSPECIFIED"
    consistent_hash: ConsistentHash | None = None
    locality_lb_setting: LocalityLb | None = None
    warmup: Warmup | None = None
    warmup_duration_secs: Duration | None = None

    def check(self, report: Report) -> None:
        """One policy."""
        if self.consistent_hash is not None and self.at.has("simple"):
            report.error(self.at, "expected one of simple, consistentHash, got both")
        if self.warmup is not None and self.warmup_duration_secs is not None:
            report.error(self.at, "expected one of warmup, warmupDurationSecs, got both")


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpKeepalive(Message):
    """``ConnectionPoolSettings.TCPSettings.TcpKeepalive``."""

    probes: Count | None = None
    time: Duration | None = None
    interval: Duration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSettings(Message):
    """``ConnectionPoolSettings.TCPSettings``."""

    max_connections: Count | None = None
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: Duration | None = None
    idle_timeout: Duration | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings(Message):
    """``ConnectionPoolSettings.HTTPSettings``. 0 means Istio's default, as there."""

    http1_max_pending_requests: Count = 0
    http2_max_requests: Count = 0
    max_requests_per_connection: Count = 0
    max_retries: Count = 0
    idle_timeout: Duration | None = None
    h2_upgrade_policy: Annotated[str, one_of("DEFAULT", "DO_NOT_UPGRADE", "UPGRADE")] = "DEFAULT"
    use_client_protocol: bool = False
    max_concurrent_streams: Count = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionPool(Message):
    """``ConnectionPoolSettings``."""

    tcp: TcpSettings | None = None
    http: HttpSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDetection(Message):
    """``OutlierDetection``; what is not written is Envoy's default."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"consecutiveErrors"})  # deprecated; Istio drops it too

    consecutive_5xx_errors: Count | None = None
    consecutive_gateway_errors: Count | None = None
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: Count | None = None
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: Share = 0
    min_health_percent: Share = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls(Message):
    """``ClientTLSSettings``."""

    mode: Annotated[str, one_of("DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL")] = "DISABLE"
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    subject_alt_names: tuple[Name, ...] = ()
    sni: str = ""
    insecure_skip_verify: bool = False

    def check(self, report: Report) -> None:
        """Istio's rules between mode and files."""
        files = bool(self.client_certificate and self.private_key)
        if self.mode == "MUTUAL" and not files and not self.credential_name:
            report.error(self.at, "expected clientCertificate and privateKey, or credentialName, with mode MUTUAL")
        if self.mode == "ISTIO_MUTUAL" and (self.client_certificate or self.ca_certificates or self.credential_name):
            report.error(self.at, "expected no files with mode ISTIO_MUTUAL: the mesh brings its own certificates")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget(Message):
    """``TrafficPolicy.RetryBudget``: concurrent retries as a percentage of the requests under way."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"budgetInterval"})

    percent: Percent | None = None
    min_retry_concurrency: Count = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PortPolicy(Message):
    """``TrafficPolicy.PortTrafficPolicy``."""

    port: PortSelector
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel(Message):
    """``TrafficPolicy.TunnelSettings``: TCP through a proxy that takes CONNECT."""

    protocol: Annotated[str, one_of("CONNECT", "POST")] = "CONNECT"
    target_host: Name
    target_port: Port


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPolicy(Message):
    """``TrafficPolicy``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"proxyProtocol"})

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None
    tunnel: Tunnel | None = None
    retry_budget: RetryBudget | None = None
    port_level_settings: tuple[PortPolicy, ...] = ()

    def over(self, parent: TrafficPolicy | None, port: int) -> TrafficPolicy:
        """Return the policy in force on ``port``, with ``parent`` the one this refines.

        A subset's setting replaces the parent's of that name; a setting of the port replaces
        them all, and what it leaves out is Istio's default again, not the parent's.
        """
        for item in self.port_level_settings:
            if item.port.number == port:
                return TrafficPolicy(
                    at=item.at,
                    load_balancer=item.load_balancer,
                    connection_pool=item.connection_pool,
                    outlier_detection=item.outlier_detection,
                    tls=item.tls,
                    tunnel=parent.tunnel if parent else None,
                    retry_budget=parent.retry_budget if parent else None,
                )
        if parent is None:
            return self
        return replace(
            self,
            load_balancer=self.load_balancer or parent.load_balancer,
            connection_pool=self.connection_pool or parent.connection_pool,
            outlier_detection=self.outlier_detection or parent.outlier_detection,
            tls=self.tls or parent.tls,
            tunnel=self.tunnel or parent.tunnel,
            retry_budget=self.retry_budget or parent.retry_budget,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset(Message):
    """``Subset``: the endpoints with these labels, under a name."""

    name: Name
    labels: Labels = field(default_factory=dict)
    traffic_policy: TrafficPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector(Message):
    """``workloadSelector``: the clients that a rule is for."""

    match_labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationRuleSpec(Message):
    """``DestinationRule.spec``."""

    host: Name
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[Name, ...] = ()
    workload_selector: Selector | None = None

    def check(self, report: Report) -> None:
        """Subsets have names of their own."""
        names = [subset.name for subset in self.subsets]
        for index, subset in enumerate(self.subsets):
            if subset.name in names[:index]:
                report.error(subset.at.child("name"), f"duplicate subset {subset.name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationRule(Resource):
    """An Istio DestinationRule."""

    spec: DestinationRuleSpec

    @property
    def labels_chosen(self) -> Mapping[str, str]:
        """The labels of the clients it is for; none for all."""
        return self.spec.workload_selector.match_labels if self.spec.workload_selector else {}
