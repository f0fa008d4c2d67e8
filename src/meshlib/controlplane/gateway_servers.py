"""The servers of the Gateways that select a node: where each listens, and which are left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from meshlib.controlplane import hosts, precedence
from meshlib.controlplane.documents.gateway import Gateway, Server
from meshlib.controlplane.documents.virtual_service import VirtualService
from meshlib.controlplane.view import View
from meshlib.controlplane.workloads import selects

WILDCARD = "0.0.0.0"
_PRIVILEGED = 1024


@dataclass(frozen=True, slots=True)
class Bound:
    """A server of a Gateway, on the port where it listens."""

    gateway: Gateway
    server: Server
    port: int

    @property
    def address(self) -> str:
        """The address it listens on."""
        return self.server.bind or WILDCARD

    @property
    def route_name(self) -> str:
        """Istio's name of its route table, nothing where bytes are passed on.

        ``http.8080``, ``http.8080.127.0.0.1``, ``https.443.https.coolstore-gateway.istioinaction``.
        """
        bind = f".{self.server.bind}" if self.server.bind else ""
        if self.server.is_http:
            return f"http.{self.port}{bind}"
        if self.server.is_https:
            port, gateway = self.server.port, self.gateway
            return f"https.{port.number}.{port.name}.{gateway.name}.{gateway.namespace}{bind}"
        return ""

    @property
    def names(self) -> tuple[str, ...]:
        """The server names that it takes."""
        return tuple(sorted({host.rpartition("/")[2] for host in self.server.hosts}))


def servers_of(view: View) -> list[Bound]:
    """Return the servers of a node, the older Gateways first.

    Of several on one port, plain HTTP joins plain HTTP and TLS joins TLS with other hosts; what
    fits neither is left out (Istio's rule).
    """
    found: list[Bound] = []
    for gateway in sorted(view.documents.gateways, key=lambda item: item.age):
        if selects(gateway.spec.selector, view.node.labels):
            for server in gateway.spec.servers:
                item = Bound(gateway, server, _listening_port(view, server.port.number))
                if not _forbidden(view, item) and _fits(item, found):
                    found.append(item)
    return found


def _forbidden(view: View, item: Bound) -> bool:
    return str(view.node.metadata.get("UNPRIVILEGED_POD")).lower() == "true" and item.port < _PRIVILEGED


def _fits(item: Bound, found: list[Bound]) -> bool:
    beside = [other for other in found if (other.address, other.port) == (item.address, item.port)]
    if not beside:
        return True
    tls = item.server.tls
    if item.server.is_http or beside[0].server.is_http:
        return item.server.is_http and beside[0].server.is_http
    if tls is None or beside[0].server.tls is None:
        return False
    taken = {host for other in beside for host in other.server.hosts}
    named = {other.route_name for other in beside if other.route_name}
    return not taken & {*item.server.hosts} and item.route_name not in named


def _listening_port(view: View, number: int) -> int:
    """Return the port behind ``number`` of the Service in front of this gateway, else ``number``."""
    for service in view.registry.selecting(view.node.namespace, view.node.labels):
        port = service.port(number)
        if port is not None:
            own = [endpoint.port for endpoint in port.endpoints if endpoint.address == view.node.ip]
            return own[0] if own else (port.target if isinstance(port.target, int) else number)
    return number


def bound_virtual_services(view: View, item: Bound) -> Iterator[tuple[VirtualService, list[str]]]:
    """Yield the VirtualServices of the server's gateway, each with the hosts that both have."""
    names = frozenset({item.gateway.qualified_name})
    for document in precedence.virtual_services(view.virtual_services, view.node.namespace, names, view.options):
        common: list[str] = []
        for host in precedence.hosts_of(document, view.options):
            met = (_meet(taken, host, item.gateway, document) for taken in item.server.hosts)
            narrowest = [one for one in met if one]
            if narrowest:
                common.append(max(narrowest, key=len))
        if common:
            yield document, common


def _meet(taken: str, host: str, gateway: Gateway, document: VirtualService) -> str | None:
    """Return what a server's host (``host``, ``namespace/host``, ``./host``) and a route's have in common."""
    namespace, _, pattern = taken.rpartition("/")
    wanted = gateway.namespace if namespace == "." else namespace
    return hosts.meet(pattern, host) if wanted in ("", "*", document.namespace) else None
