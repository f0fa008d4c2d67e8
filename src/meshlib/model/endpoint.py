"""Endpoints as EDS gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class HealthStatus(Enum):
    """``envoy.config.core.v3.HealthStatus``; UNKNOWN counts as healthy (gRFC A27)."""

    UNKNOWN = 0
    HEALTHY = 1
    UNHEALTHY = 2
    DRAINING = 3
    TIMEOUT = 4
    DEGRADED = 5


@dataclass(frozen=True, slots=True, order=True)
class Locality:
    """``envoy.config.core.v3.Locality``."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


NOWHERE = Locality()


@dataclass(frozen=True, slots=True)
class Workload:
    """The workload behind an endpoint: metadata ``istio.workload``, "name;namespace;app;version;cluster"."""

    name: str = "unknown"
    namespace: str = "unknown"
    app: str = "unknown"
    version: str = "unknown"
    cluster: str = "unknown"


@dataclass(frozen=True, slots=True)
class EndpointCheck:
    """``Endpoint.HealthCheckConfig``: what checks of one endpoint go by.

    Attributes:
        disabled: whether it is not checked, and counts as healthy.
        port: the port to check, 0 for the check's or the endpoint's own.
        host: the Host header or authority, empty for the check's.
        address: the address to check, None for the endpoint's own.
    """

    disabled: bool = False
    port: int = 0
    host: str = ""
    address: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One ``LbEndpoint``.

    Attributes:
        address: IP, host name (DNS clusters), or the path of a unix socket (port 0).
        port: TCP port.
        weight: ``load_balancing_weight``, default 1.
        health: ``health_status`` of EDS.
        hostname: ``Endpoint.hostname``, for auto_host_rewrite.
        metadata: ``filter_metadata`` as plain dicts.
        workload: who answers there, for metrics and spans.
        check: what active health checks of it go by.
        resolved: the address to dial where ``address`` is a name that stands for its endpoint
            (LOGICAL_DNS); empty: ``address`` is dialled.
    """

    address: str
    port: int
    weight: int = 1
    health: HealthStatus = HealthStatus.UNKNOWN
    hostname: str = ""
    metadata: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    workload: Workload = Workload()
    check: EndpointCheck = EndpointCheck()
    resolved: str = ""

    @property
    def host(self) -> str:
        """The address to dial."""
        return self.resolved or self.address

    @property
    def key(self) -> tuple[str, int]:
        """What identifies an endpoint over updates: its address."""
        return (self.address, self.port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True)
class LocalityEndpoints:
    """``LocalityLbEndpoints``: the endpoints of one locality at one priority.

    Attributes:
        endpoints: in the order received.
        locality: where they are.
        weight: ``load_balancing_weight``, for balancing by locality; unset is 0, which takes nothing.
        priority: 0 is the first.
    """

    endpoints: tuple[Endpoint, ...]
    locality: Locality = NOWHERE
    weight: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class ClusterLoadAssignment:
    """``ClusterLoadAssignment``: all endpoints of a cluster.

    Attributes:
        name: ``cluster_name``.
        localities: in the order received; the number, not the order, is the priority.
        overprovisioning_factor: percent, default 140.
        weighted_priority_health: whether endpoints count by their weight for the health of a priority.
        drop_percentage: percent of calls answered with 503 before they are sent (``drop_overloads``).
    """

    name: str
    localities: tuple[LocalityEndpoints, ...] = ()
    overprovisioning_factor: int = 140
    weighted_priority_health: bool = False
    drop_percentage: float = 0.0
