"""What a gateway node is served: a listener for each Gateway port, route tables, all clusters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as route_pb2

from meshlib.controlplane import clusters, hosts, listeners, precedence, tracing
from meshlib.controlplane.documents.gateway import Gateway, Server
from meshlib.controlplane.documents.virtual_service import VirtualService
from meshlib.controlplane.endpoints import assignment
from meshlib.controlplane.registry import selects
from meshlib.controlplane.resources import Resources
from meshlib.controlplane.routes import distinct, routes, virtual_host
from meshlib.controlplane.sidecar import WILDCARD, table
from meshlib.controlplane.view import View


@dataclass(frozen=True, slots=True)
class _Bind:
    """Where a listener is bound."""

    address: str
    port: int

    @property
    def route_name(self) -> str:
        """Istio's name of its route table: ``http.8080``, ``http.8080.127.0.0.1``."""
        return f"http.{self.port}" + ("" if self.address == WILDCARD else f".{self.address}")


def resources(view: View) -> Resources:
    """Return the resources of a gateway: none but clusters while no Gateway selects the node."""
    made = [(*target, clusters.cluster(*target, view)) for target in clusters.targets(view.services)]
    servers = _servers(view)
    return Resources.build(
        listeners=[
            listeners.gateway_listener(bind.address, bind.port, bind.route_name, view.node, view.options)
            for bind in servers
        ],
        routes=[table(bind.route_name, _virtual_hosts(view, members)) for bind, members in servers.items()],
        clusters=[*(message for *_, message in made), clusters.black_hole(), *tracing.clusters(view.options)],
        endpoints=[
            assignment(service, port, rule, subset, view.options)
            for service, port, rule, subset, message in made
            if message.HasField("eds_cluster_config")
        ],
    )


def _servers(view: View) -> Mapping[_Bind, list[tuple[Gateway, Server]]]:
    """Return the HTTP servers of the Gateways that select this node, by where they listen."""
    found: dict[_Bind, list[tuple[Gateway, Server]]] = defaultdict(list)
    for gateway in sorted(view.documents.gateways, key=lambda item: item.age):
        if selects(gateway.spec.selector, view.node.labels):
            for server in gateway.spec.servers:
                if server.is_http:
                    bind = _Bind(server.bind or WILDCARD, _listening_port(view, server.port.number))
                    found[bind].append((gateway, server))
    return found


def _listening_port(view: View, number: int) -> int:
    """Return the port behind ``number`` of the Service in front of this gateway, else ``number``."""
    for service in view.registry.selecting(view.node.namespace, view.node.labels):
        port = service.port(number)
        if port is not None:
            own = [endpoint.port for endpoint in port.endpoints if endpoint.address == view.node.ip]
            return own[0] if own else (port.target if isinstance(port.target, int) else number)
    return number


# ---------------------------------------------------------------- virtual hosts


def _virtual_hosts(view: View, servers: list[tuple[Gateway, Server]]) -> list[Any]:
    """Return the virtual hosts of a listener; ``blackhole``, a 404, where nothing is routed."""
    found: dict[str, Any] = {}
    catch_all: dict[str, list[Any]] = defaultdict(list)
    for gateway, server in servers:
        for host, document in _bound(view, gateway, server):
            scope = view.scope(frozenset({gateway.qualified_name}), server.port.number)
            if host not in found:
                found[host] = virtual_host(f"{host}:{server.port.number}", [host], [])
                if server.tls and server.tls.https_redirect:
                    found[host].require_tls = route_pb2.VirtualHost.ALL
            for route in routes(document, scope):
                # Routes of several VirtualServices for one host merge, catch-alls behind the others.
                (catch_all[host] if _takes_all(route) else found[host].routes).append(route)
    for host, made in catch_all.items():
        found[host].routes.extend(made)
    kept = distinct(found[host] for host in sorted(found) if found[host].routes)
    return kept or [route_pb2.VirtualHost(name=f"blackhole:{servers[0][1].port.number}", domains=["*"])]


def _bound(view: View, gateway: Gateway, server: Server) -> Iterator[tuple[str, VirtualService]]:
    """Yield the hosts that the server takes and a VirtualService of this gateway routes."""
    name = gateway.qualified_name
    bound = precedence.virtual_services(view.documents.virtual_services, view.node.namespace, frozenset({name}))
    for document in bound:
        for host in precedence.hosts_of(document, view.options):
            narrowest = [common for taken in server.hosts if (common := _meet(taken, host, gateway, document))]
            if narrowest:
                yield max(narrowest, key=len), document


def _meet(taken: str, host: str, gateway: Gateway, document: VirtualService) -> str | None:
    """Return what a server's host (``host``, ``namespace/host``, ``./host``) and a route's have in common."""
    namespace, _, pattern = taken.rpartition("/")
    wanted = gateway.namespace if namespace == "." else namespace
    return hosts.meet(pattern, host) if wanted in ("", "*", document.namespace) else None


def _takes_all(route: Any) -> bool:
    match = route.match
    return match.prefix == "/" and not match.headers and not match.query_parameters
