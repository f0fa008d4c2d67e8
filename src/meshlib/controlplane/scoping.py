"""What a Sidecar resource lets a workload see: services and VirtualServices, by egress listener."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from meshlib.controlplane import hosts, precedence
from meshlib.controlplane.documents import Documents
from meshlib.controlplane.documents.sidecar import EgressListener, Sidecar
from meshlib.controlplane.documents.virtual_service import MESH, VirtualService
from meshlib.controlplane.node import Node
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.precedence import Routing
from meshlib.controlplane.registry import Registry
from meshlib.controlplane.services import Service
from meshlib.controlplane.visibility import visible
from meshlib.controlplane.workloads import selects


@dataclass(frozen=True, slots=True)
class Egress:
    """One egress listener.

    Attributes:
        listener: as written; None where no Sidecar says anything.
        services: what is called there, the older first.
        routing: the VirtualServices that count there.
    """

    listener: EgressListener | None
    services: tuple[Service, ...]
    routing: Routing

    @property
    def port(self) -> int | None:
        """The port that it is for; None for all that no other is for."""
        return self.listener.port.number if self.listener and self.listener.port else None


def sidecar_of(documents: Documents, node: Node, options: MeshOptions) -> Sidecar | None:
    """Return the Sidecar in force: for chosen workloads, for the namespace, for the mesh; the older of several."""
    ordered = sorted(documents.sidecars, key=lambda item: item.age)
    own = [item for item in ordered if item.namespace == node.namespace]
    root = [item for item in ordered if item.namespace == options.root_namespace and not item.labels_chosen]
    chosen = [item for item in own if item.labels_chosen and selects(item.labels_chosen, node.labels)]
    return next(iter([*chosen, *(item for item in own if not item.labels_chosen), *root]), None)


def egress(
    sidecar: Sidecar | None,
    virtual_services: Sequence[VirtualService],
    registry: Registry,
    node: Node,
    options: MeshOptions,
) -> tuple[Egress, ...]:
    """Return the egress listeners of a node; one for everything it sees where no Sidecar says more."""
    seen = tuple(service for service in registry.services.values() if sees(service, node, options))
    routing = precedence.virtual_services(virtual_services, node.namespace, frozenset({MESH}), options)
    if sidecar is None or not sidecar.spec.egress:
        return (Egress(None, seen, Routing(routing, options)),)
    return tuple(_listener(item, seen, routing, node, options) for item in sidecar.spec.egress)


def sees(service: Service, node: Node, options: MeshOptions) -> bool:
    """Tell whether a service is exported to the node's namespace."""
    return visible(service.export_to or options.export_services, service.namespace, node.namespace)


def imported(listeners: Iterable[Egress], registry: Registry, node: Node, options: MeshOptions) -> tuple[Service, ...]:
    """Return all services of the listeners, and those that their VirtualServices lead to."""
    found: dict[str, Service] = {}
    for item in listeners:
        for service in item.services:
            _add(found, service)
        for host, ports in _destinations(item.routing.documents, node, options):
            target = registry.services.get(host)
            if target is None or not (target.namespace == node.namespace or sees(target, node, options)):
                continue
            wanted = {item.port} if item.port else ports
            kept = target.ports if None in wanted else tuple(port for port in target.ports if port.number in wanted)
            if kept and host not in found:
                _add(found, replace(target, ports=kept))
    return tuple(found.values())


def _add(found: dict[str, Service], service: Service) -> None:
    first = found.setdefault(service.host, service)
    more = tuple(port for port in service.ports if first.port(port.number) is None)
    if more:
        found[service.host] = replace(first, ports=first.ports + more)


def _destinations(
    documents: Iterable[VirtualService], node: Node, options: MeshOptions
) -> Iterator[tuple[str, set[int | None]]]:
    """Yield the hosts that VirtualServices lead to, with the ports; None among them for all."""
    found: dict[str, set[int | None]] = {}
    for document in documents:
        for match, destination in document.destinations:
            sources = {item.source_namespace for item in match}
            if not match or sources & {"", node.namespace}:
                host = hosts.qualify(destination.host, document.namespace, options.domain)
                found.setdefault(host, set()).add(destination.port.number if destination.port else None)
    yield from found.items()


# ---------------------------------------------------------------- hosts of a listener


class _Hosts:
    """``namespace/host`` patterns of an egress listener."""

    def __init__(self, written: Iterable[str], namespace: str) -> None:
        self._taken: list[tuple[str, str]] = []
        self._refused: list[tuple[str, str]] = []
        for item in written:
            owner, _, host = item.partition("/")
            refused = owner.startswith("~")
            owner = owner.removeprefix("~") or "*"
            (self._refused if refused else self._taken).append((namespace if owner == "." else owner, host))

    def take(self, host: str, owner: str) -> bool:
        """Tell whether a host of a namespace is imported."""
        return _within(self._taken, host, owner) and not _within(self._refused, host, owner)

    def touch(self, host: str, owner: str) -> bool:
        """Tell whether a VirtualService's host overlaps what is imported."""
        overlap = any(space in ("*", owner) and hosts.meet(pattern, host) is not None for space, pattern in self._taken)
        return overlap and not _within(self._refused, host, owner)


def _within(patterns: Iterable[tuple[str, str]], host: str, owner: str) -> bool:
    return any(space in ("*", owner) and hosts.matches(pattern, host) for space, pattern in patterns)


def _listener(
    item: EgressListener,
    seen: Iterable[Service],
    routing: Iterable[VirtualService],
    node: Node,
    options: MeshOptions,
) -> Egress:
    wanted = _Hosts(item.hosts, node.namespace)
    port = item.port.number if item.port and item.port.protocol != "HTTP_PROXY" else 0
    services = []
    for service in seen:
        if not wanted.take(service.host, service.namespace):
            continue
        if port:
            found = service.port(port)
            if found is None:
                continue
            service = replace(service, ports=(found,))
        aliases = tuple(alias for alias in service.aliases if wanted.take(alias, service.namespace))
        services.append(replace(service, aliases=aliases) if aliases != service.aliases else service)
    documents = [
        document
        for document in routing
        if any(wanted.touch(host, document.namespace) for host in precedence.hosts_of(document, options))
    ]
    return Egress(item, tuple(services), Routing(documents, options))
