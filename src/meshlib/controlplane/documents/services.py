"""Services: Kubernetes' Service and Istio's ServiceEntry."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from meshlib.controlplane.documents.fields import NOT_EMPTY, Key, Labels, Message, Name, Port, one_of, text
from meshlib.controlplane.documents.place import Misfit, Place, Report
from meshlib.controlplane.documents.resource import Resource
from meshlib.controlplane.documents.tree import Scalar, describe, resolve
from meshlib.controlplane.documents.workloads import WorkloadEntrySpec

PROTOCOLS = ("HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTPS", "TLS", "TCP", "MONGO", "MYSQL", "REDIS", "UDP")


def target_port(place: Place, _: Report) -> int | str:
    """Read a port number or the name of a port."""
    value = resolve(place.tree) if isinstance(place.tree, Scalar) else None
    if isinstance(value, str) and value:
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise Misfit(place, f"expected a port number or a port's name, got {describe(place.tree)}")
    return value


def address(place: Place, report: Report) -> str:
    """Read an IP address or a CIDR block."""
    value = text(place, report)
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise Misfit(place, f"expected an IP address or a CIDR block, got {value!r}") from None
    return value


def protocol(place: Place, report: Report) -> str:
    """Read a ServiceEntry's protocol, in any case; none at all means that the bytes are looked at."""
    value = text(place, report)
    if value.upper() not in PROTOCOLS:
        raise Misfit(place, f"expected one of {', '.join(PROTOCOLS)}, got {value!r}")
    return value.upper()


TargetPort = Annotated[int | str, target_port]
IpOrCidr = Annotated[str, address]
Protocol = Annotated[str, protocol]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort(Message):
    """``Service.spec.ports[]``."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"nodePort"})

    port: Port
    name: str = ""
    target_port: TargetPort | None = None
    protocol: Annotated[str, one_of("TCP", "UDP", "SCTP")] = "TCP"
    app_protocol: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec(Message):
    """``Service.spec``. What concerns kube-proxy or a cloud's load balancer has no bearing here."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset(
        {
            "allocateLoadBalancerNodePorts", "clusterIPs", "externalIPs", "externalTrafficPolicy",
            "healthCheckNodePort", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy",
            "loadBalancerClass", "loadBalancerIP", "loadBalancerSourceRanges",
            "sessionAffinity", "sessionAffinityConfig",
        }
    )  # fmt: skip
    ports: tuple[ServicePort, ...] = ()
    selector: Labels = field(default_factory=dict)
    cluster_ip: Annotated[str, Key("clusterIP")] = ""
    type: Annotated[str, one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")] = "ClusterIP"
    external_name: str = ""
    publish_not_ready_addresses: bool = False
    traffic_distribution: str = ""

    @property
    def headless(self) -> bool:
        """Whether it has no address, but each of its Pods is found by its own."""
        return self.cluster_ip == "None"

    @property
    def vip(self) -> str:
        """The service's address, or nothing where there is none (headless, or left to a cluster)."""
        return "" if self.headless else self.cluster_ip

    def check(self, report: Report) -> None:
        """Every port of several needs a name of its own, an ExternalName its name (Kubernetes' rules)."""
        if self.type == "ExternalName" and not self.external_name:
            report.error(self.at, "expected a field 'externalName' with type ExternalName")
        names = [port.name for port in self.ports]
        for port in self.ports:
            if len(names) > 1 and not port.name:
                report.error(port.at, "expected a field 'name': there is more than one port")
            elif names.count(port.name) > 1:
                report.error(port.at.child("name"), f"duplicate port name {port.name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Resource):
    """A Kubernetes Service."""

    spec: ServiceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntryPort(Message):
    """``ServiceEntry.spec.ports[]``."""

    number: Port
    name: Name
    protocol: Protocol = ""
    target_port: Port | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSelector(Message):
    """``workloadSelector``."""

    labels: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntrySpec(Message):
    """``ServiceEntry.spec``."""

    hosts: Annotated[tuple[Name, ...], NOT_EMPTY]
    addresses: tuple[IpOrCidr, ...] = ()
    ports: tuple[ServiceEntryPort, ...] = ()
    location: Annotated[str, one_of("MESH_EXTERNAL", "MESH_INTERNAL")] = "MESH_EXTERNAL"
    resolution: Annotated[str, one_of("NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN")] = "NONE"
    endpoints: tuple[WorkloadEntrySpec, ...] = ()
    workload_selector: WorkloadSelector | None = None
    export_to: tuple[Name, ...] = ()
    subject_alt_names: tuple[Name, ...] = ()

    def check(self, report: Report) -> None:
        """Istio's own rules between the fields."""
        if self.endpoints and self.workload_selector:
            report.error(self.at.child("workloadSelector"), "expected endpoints or workloadSelector, got both")
        if self.endpoints and self.resolution == "NONE":
            report.error(self.at.child("endpoints"), "expected no endpoints with resolution NONE; write STATIC or DNS")
        names = [port.name for port in self.ports]
        for port in self.ports:
            if names.count(port.name) > 1:
                report.error(port.at.child("name"), f"duplicate port name {port.name!r}")
        if self.resolution == "STATIC":
            for endpoint in self.endpoints:
                _check_static(endpoint, report)


def _check_static(endpoint: WorkloadEntrySpec, report: Report) -> None:
    if endpoint.address.startswith("unix://"):
        return
    try:
        ipaddress.ip_address(endpoint.address)
    except ValueError:
        report.error(
            endpoint.at.child("address"),
            f"expected an IP address with resolution STATIC, got {endpoint.address!r}; names need resolution DNS",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntry(Resource):
    """An Istio ServiceEntry: a service by its host names."""

    spec: ServiceEntrySpec
