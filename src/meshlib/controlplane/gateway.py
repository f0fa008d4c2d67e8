"""What a gateway node is served: a listener for each Gateway port, route tables, all clusters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshlib.controlplane import clusters, hosts, listeners, managers, network, tracing
from meshlib.controlplane.chains import Chain
from meshlib.controlplane.downstream_tls import transport_socket
from meshlib.controlplane.endpoints import assignment
from meshlib.controlplane.gateway_routes import virtual_hosts
from meshlib.controlplane.gateway_servers import Bound, bound_virtual_services, servers_of
from meshlib.controlplane.l4 import scope_of
from meshlib.controlplane.resources import Resources
from meshlib.controlplane.routes import concerns
from meshlib.controlplane.services import protocol_named, sni_name
from meshlib.controlplane.sidecar import table
from meshlib.controlplane.telemetry import GATEWAY
from meshlib.controlplane.view import View

_MTLS = ("istio-peer-exchange", "istio", "istio-http/1.0", "istio-http/1.1", "istio-h2")  # ALPN within the mesh


def resources(view: View) -> Resources:
    """Return the resources of a gateway: none but clusters while no Gateway selects the node."""
    made = [(*target, clusters.cluster(*target, view)) for target in clusters.targets(view.concrete())]
    servers = servers_of(view)
    return Resources.build(
        listeners=_listeners(view, servers),
        routes=_tables(view, servers),
        clusters=[*(message for *_, message in made), clusters.black_hole(), *tracing.clusters(view.options)],
        endpoints=[
            assignment(service, port, rule, subset, view)
            for service, port, rule, subset, message in made
            if message.HasField("eds_cluster_config")
        ],
    )


def _tables(view: View, servers: list[Bound]) -> Iterator[Any]:
    by_name: dict[str, list[Bound]] = {}
    for item in servers:
        if item.route_name:
            by_name.setdefault(item.route_name, []).append(item)
    for name, members in by_name.items():
        yield table(name, virtual_hosts(view, members))


# ---------------------------------------------------------------- listeners


def _listeners(view: View, servers: list[Bound]) -> Iterator[Any]:
    """Yield the listeners; a port of bytes that nothing is routed from has none."""
    by_address: dict[tuple[str, int], list[Bound]] = {}
    for item in servers:
        by_address.setdefault((item.address, item.port), []).append(item)
    for (address, port), members in by_address.items():
        chains: list[Chain] = []
        for item in members[:1] if members[0].server.is_http else members:
            chains += _chains(view, item, chains)
        if chains:
            yield listeners.gateway_listener(view, address, port, chains)


def _chains(view: View, item: Bound, before: list[Chain]) -> list[Chain]:
    server, tls = item.server, item.server.tls
    name = f"{item.address}_{item.port}"
    if server.is_http:
        protocol = protocol_named(server.port.protocol)
        return [Chain((managers.gateway(view, name, item.route_name, protocol),))]
    if tls is not None and server.is_https:
        manager = managers.gateway(view, name, item.route_name, protocol_named("HTTP"))
        return [Chain((manager,), server_names=item.names, socket=transport_socket(server, tls, view.options))]
    if tls is not None and tls.mode == "AUTO_PASSTHROUGH":
        return _by_cluster(view, item)
    if tls is not None and not tls.terminates:
        return _by_server_name(view, item, before)
    filters = _tcp_route(view, item)
    if not filters:
        return []
    socket = None if tls is None else transport_socket(server, tls, view.options)
    return [Chain(filters, server_names=item.names if tls else (), socket=socket)]


def _tcp_route(view: View, item: Bound) -> tuple[Any, ...]:
    """Return the filters of the first TCP route for the server, none where there is no route."""
    protocol = protocol_named(item.server.port.protocol)
    scope = scope_of(view, frozenset({item.gateway.qualified_name}), item.server.port.number)
    for document, _ in bound_virtual_services(view, item):
        for tcp in document.spec.tcp:
            if not tcp.match or any(concerns(match, document.namespace, scope) for match in tcp.match):
                return network.to_destinations(
                    view, tcp.route, document.namespace, document.name, scope, protocol, reporter=GATEWAY
                )
    return ()


def _by_server_name(view: View, item: Bound, before: list[Chain]) -> list[Chain]:
    """Return a chain for each TLS route; TLS passes through, so that the handshake's name is all there is."""
    made: list[Chain] = []
    protocol = protocol_named(item.server.port.protocol)
    scope = scope_of(view, frozenset({item.gateway.qualified_name}), item.server.port.number)
    for document, _ in bound_virtual_services(view, item):
        for tls in document.spec.tls:
            for match in tls.match:
                taken = {name for chain in (*before, *made) for name in chain.server_names}
                if concerns(match, document.namespace, scope) and not taken & {*match.sni_hosts}:
                    filters = network.to_destinations(
                        view, tls.route, document.namespace, document.name, scope, protocol, reporter=GATEWAY
                    )
                    made.append(Chain(filters, server_names=match.sni_hosts))
    return made


def _by_cluster(view: View, item: Bound) -> list[Chain]:
    """Return a chain for each cluster of the mesh, found by Istio's server name for it (AUTO_PASSTHROUGH)."""
    made = []
    for service, port, rule, subset in clusters.targets(view.concrete()):
        if not service.external and any(hosts.matches(name, service.host) for name in item.names):
            name = sni_name(service.host, port.number, subset)
            filters = network.to_cluster(view, name, port.protocol, rule, subset, reporter=GATEWAY)
            made.append(Chain(filters, server_names=(name,), application_protocols=_MTLS))
    return made
