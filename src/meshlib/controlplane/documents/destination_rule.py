"""DestinationRule: how a service is called, and its subsets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

from meshlib.controlplane.documents.fields import Count, Duration, Labels, Message, Name, Share, one_of
from meshlib.controlplane.documents.place import Report
from meshlib.controlplane.documents.resource import Resource
from meshlib.controlplane.documents.virtual_service import PortSelector

SIMPLE = ("ROUND_ROBIN", "LEAST_REQUEST", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "UNSPECIFIED")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancer(Message):
    """``LoadBalancerSettings``, of which ``simple`` is obeyed."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset(
        {"consistentHash", "localityLbSetting", "warmup", "warmupDurationSecs"}
    )

    simple: Annotated[str, one_of(*SIMPLE)] = "UNSPECIFIED"


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
class PortPolicy(Message):
    """``TrafficPolicy.PortTrafficPolicy``."""

    port: PortSelector
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPolicy(Message):
    """``TrafficPolicy``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"proxyProtocol", "retryBudget", "tunnel"})

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None
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
                )
        if parent is None:
            return self
        return replace(
            self,
            load_balancer=self.load_balancer or parent.load_balancer,
            connection_pool=self.connection_pool or parent.connection_pool,
            outlier_detection=self.outlier_detection or parent.outlier_detection,
            tls=self.tls or parent.tls,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset(Message):
    """``Subset``: the endpoints with these labels, under a name."""

    name: Name
    labels: Labels = field(default_factory=dict)
    traffic_policy: TrafficPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationRuleSpec(Message):
    """``DestinationRule.spec``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"workloadSelector"})

    host: Name
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[Name, ...] = ()

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
