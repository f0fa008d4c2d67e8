"""What a workload is called on: its services' ports, or what its Sidecar says."""

from __future__ import annotations

from dataclasses import dataclass

from meshlib.controlplane.documents.destination_rule import ConnectionPool
from meshlib.controlplane.documents.sidecar import IngressListener
from meshlib.controlplane.services import Port, Protocol, Resolution, Service, protocol_named
from meshlib.controlplane.view import View


@dataclass(frozen=True, slots=True)
class Target:
    """One port that a workload is called on.

    Attributes:
        number: the port it listens on.
        port: the service's port, or the Sidecar's.
        called: the host that its traces name, with the service's port.
        services: the services behind whose ports it is, the older first.
        ingress: what a Sidecar says of it.
    """

    number: int
    port: Port
    called: str
    services: tuple[Service, ...] = ()
    ingress: IngressListener | None = None

    @property
    def cluster(self) -> str:
        """Istio's name of its cluster."""
        return f"inbound|{self.number}||"

    @property
    def address(self) -> str:
        """The address of its listener, where it has its own."""
        return self.ingress.bind if self.ingress and self.ingress.bind else "0.0.0.0"

    def pool(self, view: View) -> ConnectionPool | None:
        """Return the connection pool that the Sidecar gives it."""
        own = self.ingress.connection_pool if self.ingress else None
        return own or (view.sidecar.spec.inbound_connection_pool if view.sidecar else None)


def of_services(view: View) -> list[Target]:
    """Return the ports on which services lead to the node, by number; of two services the older one's port counts."""
    found: dict[int, tuple[Port, list[Service]]] = {}
    for service in view.registry.services.values():
        for port in service.ports if service.resolution is not Resolution.ALIAS else ():
            numbers = {endpoint.port for endpoint in port.endpoints if endpoint.address == view.node.ip}
            for number in numbers if port.protocol is not Protocol.UDP else ():
                _, services = found.setdefault(number, (port, []))
                if service not in services:
                    services.append(service)
    return [
        Target(number, port, f"{services[0].host}:{port.number}", tuple(services))
        for number, (port, services) in sorted(found.items())
    ]


def of_node(view: View) -> list[Target]:
    """Return what a sidecar takes connections for."""
    sidecar = view.sidecar
    if sidecar is None or not sidecar.spec.ingress:
        return [] if view.node.binds else of_services(view)
    # A Sidecar of the root namespace takes effect in the node's.
    name = f"{sidecar.name}.{view.node.namespace}"
    led = {target.number: target.services for target in of_services(view)}
    return [
        Target(
            item.port.number,
            Port(item.port.number, item.port.name, protocol_named(item.port.protocol), None),
            f"{name}:{item.port.number}",
            led.get(item.port.number, ()),
            ingress=item,
        )
        for item in sorted(sidecar.spec.ingress, key=lambda item: item.port.number)
    ]
