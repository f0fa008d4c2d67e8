"""Sidecar: what a workload's proxy sees of the mesh, and what it listens on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from meshlib.controlplane.documents.destination_rule import ConnectionPool
from meshlib.controlplane.documents.fields import Labels, Message, integer, one_of, text
from meshlib.controlplane.documents.mesh_config import OutboundTrafficPolicy
from meshlib.controlplane.documents.place import Misfit, Place, Report
from meshlib.controlplane.documents.resource import Resource

_PROTOCOLS = ("HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "MYSQL", "REDIS", "TCP", "TLS", "HTTP_PROXY")


def protocol(place: Place, report: Report) -> str:
    """Read a protocol, in any case; none means that the bytes are looked at."""
    value = text(place, report)
    if value and value.upper() not in _PROTOCOLS:
        raise Misfit(place, f"expected one of {', '.join(_PROTOCOLS)}, got {value!r}")
    return value.upper()


def imported(place: Place, report: Report) -> str:
    """Read ``namespace/host``, with ``.``, ``~`` or ``*`` for the namespace."""
    value = text(place, report)
    namespace, _, host = value.partition("/")
    if not namespace or not host or "/" in host:
        raise Misfit(place, f"expected namespace/host like './catalog.shop.svc.cluster.local' or '*/*', got {value!r}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarPort(Message):
    """``SidecarPort``; number 0 is that of a Unix domain socket."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"targetPort"})

    number: Annotated[int, integer(0, 65535)] = 0
    name: str = ""
    protocol: Annotated[str, protocol] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressListener(Message):
    """``IstioEgressListener``: which services are called on a port; without a port, on all others."""

    port: SidecarPort | None = None
    bind: str = ""
    capture_mode: Annotated[str, one_of("DEFAULT", "IPTABLES", "NONE")] = "DEFAULT"
    hosts: tuple[Annotated[str, imported], ...] = ()

    def check(self, report: Report) -> None:
        """Istio's rules: something to call, and a Unix socket where a path is bound."""
        if not self.hosts:
            report.error(self.at, "expected a field 'hosts' with at least one namespace/host")
        if self.bind.startswith("unix://") and (self.port is None or self.port.number != 0):
            report.error(self.at.child("bind"), "expected port number 0 with a Unix domain socket")


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressListener(Message):
    """``IstioIngressListener``: what the workload is called on."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"tls"})  # nor by istiod, unless a feature is on

    port: SidecarPort
    bind: str = ""
    capture_mode: Annotated[str, one_of("DEFAULT", "IPTABLES", "NONE")] = "DEFAULT"
    default_endpoint: str = ""
    connection_pool: ConnectionPool | None = None

    def check(self, report: Report) -> None:
        """Istio's forms of an endpoint."""
        host, _, port = self.default_endpoint.rpartition(":")
        if not self.default_endpoint or self.default_endpoint.startswith("unix://"):
            return
        if host not in ("127.0.0.1", "0.0.0.0", "[::1]", "[::]") or not port.isdecimal():
            report.error(
                self.at.child("defaultEndpoint"),
                f"expected 127.0.0.1:PORT, 0.0.0.0:PORT or unix:///path, got {self.default_endpoint!r}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSelector(Message):
    """``WorkloadSelector`` of Istio's networking kinds."""

    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarSpec(Message):
    """``Sidecar.spec``."""

    workload_selector: WorkloadSelector | None = None
    ingress: tuple[IngressListener, ...] = ()
    egress: tuple[EgressListener, ...] = ()
    inbound_connection_pool: ConnectionPool | None = None
    outbound_traffic_policy: OutboundTrafficPolicy | None = None

    def check(self, report: Report) -> None:
        """The listener without a port comes last (Istio's rule)."""
        for listener in self.egress[:-1]:
            if listener.port is None:
                report.error(listener.at, "expected a port: only the last egress listener may be for all others")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar(Resource):
    """An Istio Sidecar."""

    spec: SidecarSpec

    @property
    def labels_chosen(self) -> Labels:
        """The labels of the workloads it is for; none for all of the namespace."""
        return self.spec.workload_selector.labels if self.spec.workload_selector else {}
