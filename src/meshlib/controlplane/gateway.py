"""What a gateway node is served: a listener for each Gateway port, route tables, all clusters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from meshlib.controlplane import clusters, hosts, istio_filters, listeners, managers, network, tracing
from meshlib.controlplane.chains import ISTIO_ALPN, Chain
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


def resources(view: View) -> Resources:
    """Return the resources of a gateway: none but clusters while no Gateway selects the node."""
    servers = servers_of(view)
    made = clusters.made(view)
    made += _by_server_name_clusters(view, servers)
    kind = view.node.kind
    patches = replace(view.patches, ports=_service_ports(servers))
    every = [*(message for *_, message in made), clusters.black_hole(view.options), *tracing.clusters(view.options)]
    return Resources.build(
        listeners=patches.listeners(_listeners(view, servers), kind),
        routes=patches.tables(_tables(view, servers), kind),
        clusters=patches.clusters(every, kind),
        endpoints=[
            assignment(service, port, rule, subset, view, str(message.name))
            for service, port, rule, subset, message in made
            if message.HasField("eds_cluster_config")
        ],
    )


def _by_server_name_clusters(view: View, servers: list[Bound]) -> list[Any]:
    """Return the clusters that TLS passes to by Istio's server names (AUTO_PASSTHROUGH); none without such a server."""
    if not any(item.server.tls and item.server.tls.mode == "AUTO_PASSTHROUGH" for item in servers):
        return []
    inside = (target for target in clusters.targets(view.concrete()) if not target[0].external)
    return [(*target, clusters.cluster(*target, view, passed=True)) for target in inside]


def _service_ports(servers: list[Bound]) -> dict[int, frozenset[int]]:
    """Return the ports of Gateways behind each port that is listened on: EnvoyFilters name those."""
    found: dict[int, set[int]] = {}
    for item in servers:
        found.setdefault(item.port, set()).add(item.server.port.number)
    return {port: frozenset(numbers) for port, numbers in found.items()}


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
    if tls is not None and tls.mode == "ISTIO_MUTUAL":
        filters = (*istio_filters.tcp_exchange(view.options), *filters)
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
            made.append(Chain(filters, server_names=(name,), application_protocols=ISTIO_ALPN))
    return made
