"""Services as the mesh knows them: host, ports, endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from meshlib.controlplane.documents.place import Place


class Protocol(Enum):
    """What is spoken on a port, as far as translation depends on it."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "gRPC"
    GRPC_WEB = "gRPC-Web"
    TCP = "TCP"
    MONGO = "Mongo"
    MYSQL = "MySQL"
    REDIS = "Redis"
    TLS = "TLS"
    SNIFFED = "sniffed"
    UDP = "UDP"

    @property
    def is_http(self) -> bool:
        """Whether HTTP routing applies without looking at the bytes."""
        return self is Protocol.HTTP or self.is_http2

    @property
    def is_http2(self) -> bool:
        """Whether it is HTTP/2 in any dress."""
        return self is Protocol.HTTP2 or self.is_grpc

    @property
    def is_grpc(self) -> bool:
        """Whether it is gRPC."""
        return self in (Protocol.GRPC, Protocol.GRPC_WEB)

    @property
    def may_be_http(self) -> bool:
        """Whether HTTP routes count: it is HTTP, or may turn out to be."""
        return self.is_http or self is Protocol.SNIFFED


_PROTOCOLS = {
    "http": Protocol.HTTP,
    "http-proxy": Protocol.HTTP,
    "kubernetes.io/ws": Protocol.HTTP,
    "http2": Protocol.HTTP2,
    "grpc": Protocol.GRPC,
    "grpc-web": Protocol.GRPC_WEB,
    "kubernetes.io/h2c": Protocol.HTTP2,
    "tcp": Protocol.TCP,
    "mongo": Protocol.MONGO,
    "mysql": Protocol.MYSQL,
    "redis": Protocol.REDIS,
    "tls": Protocol.TLS,
    "https": Protocol.TLS,
    "kubernetes.io/wss": Protocol.TLS,
    "udp": Protocol.UDP,
}

# Server-first protocols, which cannot be sniffed: SMTP, DNS, MySQL, MongoDB.
_WELL_KNOWN = frozenset({25, 53, 3306, 27017})


def protocol_named(text: str) -> Protocol:
    """Return the protocol of that name (``HTTP``, ``grpc``); an unknown or empty one is sniffed."""
    return _PROTOCOLS.get(text.lower().replace("_", "-"), Protocol.SNIFFED)


def protocol_of_port(number: int, name: str, transport: str, app_protocol: str) -> Protocol:
    """Return what a Kubernetes port speaks: ``appProtocol``, else the prefix of its name."""
    if transport != "TCP":
        return Protocol.UDP
    if app_protocol:
        return protocol_named(app_protocol)
    prefix = "grpc-web" if name.startswith("grpc-web") else name.partition("-")[0]
    protocol = protocol_named(prefix)
    return Protocol.TCP if protocol is Protocol.SNIFFED and number in _WELL_KNOWN else protocol


class Resolution(Enum):
    """How a service's endpoints become addresses (``ServiceEntry.resolution``)."""

    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    NONE = "NONE"
    ALIAS = "ALIAS"  # an ExternalName Service


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address behind one port of a service.

    Attributes:
        address: IP, host name (DNS services) or ``unix://`` path.
        labels: of the workload; subsets look at them.
        locality: ``region/zone/subzone``.
        workload: Istio's ``name;namespace;app;version;cluster``.
        healthy: None where nobody says.
        namespace, service_account: of the workload; its SPIFFE identity.
        tls_mode: ``istio`` where a proxy beside it takes Istio's mTLS.
        plain: whether a PeerAuthentication has no mTLS on the port.
        hostname: its own name within a headless service.
        node: the name of the machine it runs on.
        network: of Istio's, where it is in one.
    """

    address: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    weight: int = 1
    locality: str = ""
    workload: str = ""
    healthy: bool | None = None
    namespace: str = ""
    service_account: str = ""
    tls_mode: str = ""
    plain: bool = False
    hostname: str = ""
    node: str = ""
    network: str = ""


@dataclass(frozen=True, slots=True)
class Port:
    """One port of a service."""

    number: int
    name: str
    protocol: Protocol
    target: int | str | None
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """One host with its ports.

    Attributes:
        host: full name.
        name: what istiod calls it in metadata: the Service's name, the ServiceEntry's host.
        addresses: its VIPs or CIDR blocks.
        external: whether it is outside the mesh (``location: MESH_EXTERNAL``).
        selector: labels of its workloads; empty for none.
        at: where it was written.
        mtls: whether its namespace takes mTLS, by PeerAuthentication.
        kubernetes: whether it is a Kubernetes Service, not a ServiceEntry.
        created: its creationTimestamp, perhaps empty.
        external_name: what an ExternalName Service stands for.
        aliases: hosts of the ExternalName Services that stand for this one.
        distribution: ``trafficDistribution`` (``PreferClose``), or nothing.
    """

    host: str
    name: str
    namespace: str
    ports: tuple[Port, ...]
    addresses: tuple[str, ...]
    resolution: Resolution
    external: bool
    export_to: tuple[str, ...]
    subject_alt_names: tuple[str, ...]
    selector: Mapping[str, str]
    at: Place
    mtls: bool = True
    kubernetes: bool = False
    created: str = ""
    external_name: str = ""
    aliases: tuple[str, ...] = ()
    distribution: str = ""

    @property
    def age(self) -> tuple[str, str, str]:
        """A key that sorts older services first, those of one age by name (Istio's order)."""
        return (self.created, self.name, self.namespace)

    @property
    def headless(self) -> bool:
        """Whether it is a Kubernetes Service without an address, whose Pods are called one by one."""
        return self.kubernetes and self.resolution is Resolution.NONE

    @property
    def vip(self) -> str:
        """The address that a listener is named after; a CIDR block is none."""
        return min((address for address in self.addresses if "/" not in address), default="")

    @property
    def asked_by(self) -> tuple[str, ...]:
        """The address by which HTTP clients may ask for it: of several, to istiod services of their own, the last."""
        return tuple(f"[{item}]" if ":" in item else item for item in sorted(self.addresses)[-1:])

    @property
    def shares(self) -> bool:
        """Whether a listener of its own cannot tell all of its calls: it has no address, or a CIDR block."""
        return not self.addresses or any("/" in address for address in self.addresses)

    def port(self, number: int) -> Port | None:
        """Return the port of that number, or None."""
        return next((port for port in self.ports if port.number == number), None)


def cluster_name(host: str, port: int, subset: str = "") -> str:
    """Return Istio's name of a cluster: ``outbound|80|v1|catalog.shop.svc.cluster.local``."""
    return f"outbound|{port}|{subset}|{host}"


def sni_name(host: str, port: int, subset: str = "") -> str:
    """Return Istio's server name of a cluster: ``outbound_.80_.v1_.catalog.shop.svc.cluster.local``."""
    return f"outbound_.{port}_.{subset}_.{host}"
