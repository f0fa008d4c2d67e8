"""What a sidecar node is served: outbound listeners, route tables by port, clusters, endpoints.

The inbound half (``virtualInbound``) is not served: no workload of a mesh without sidecars is
behind one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.config.route.v3 import route_pb2 as table_pb2

from meshlib.controlplane import clusters, hosts, listeners, precedence, tracing
from meshlib.controlplane.documents.virtual_service import MESH
from meshlib.controlplane.endpoints import assignment
from meshlib.controlplane.name_table import name_table
from meshlib.controlplane.precedence import Routing
from meshlib.controlplane.protobuf import duration
from meshlib.controlplane.resources import Resources
from meshlib.controlplane.routes import Scope, default_route, distinct, routes, virtual_host
from meshlib.controlplane.services import Port, Protocol, Service, cluster_name
from meshlib.controlplane.view import View

WILDCARD = "0.0.0.0"


def resources(view: View) -> Resources:
    """Return the resources of a sidecar."""
    made = [(*target, clusters.cluster(*target, view)) for target in clusters.targets(view.services)]
    return Resources.build(
        listeners=[*_listeners(view), listeners.virtual_outbound(view.options)],
        routes=_tables(view),
        clusters=[
            *(message for *_, message in made),
            clusters.black_hole(),
            clusters.passthrough(view.options),
            *tracing.clusters(view.options),
        ],
        endpoints=[
            assignment(service, port, rule, subset, view.options)
            for service, port, rule, subset, message in made
            if message.HasField("eds_cluster_config")
        ],
        names=name_table(view),
    )


def table(name: str, virtual_hosts: list[Any]) -> Any:
    """Return a RouteConfiguration with the settings that istiod gives Envoys."""
    message = table_pb2.RouteConfiguration(name=name, virtual_hosts=virtual_hosts, ignore_port_in_host_matching=True)
    message.validate_clusters.value = False
    message.max_direct_response_body_size_bytes.value = 2**20
    return message


# ---------------------------------------------------------------- route tables


def _tables(view: View) -> Iterator[Any]:
    mesh = view.routing()
    for number in _http_ports(view):
        yield table(str(number), distinct(_virtual_hosts(view, mesh, number)))
    for service, port in _ports(view):
        if port.protocol is Protocol.SNIFFED and service.vip:
            name = f"{service.host}:{port.number}"
            made = _routes(view, mesh, service, port)
            yield table(name, [virtual_host(name, ["*"], made)])


def _ports(view: View) -> Iterator[tuple[Service, Port]]:
    for service, _ in view.services:
        for port in service.ports:
            yield service, port


def _http_ports(view: View) -> list[int]:
    """Return the ports that have a table of their number: those with HTTP, and 80 for hosts unknown."""
    shared = {
        port.number
        for service, port in _ports(view)
        if port.protocol.is_http or (port.protocol is Protocol.SNIFFED and not service.vip)
    }
    return sorted(shared)


def _virtual_hosts(view: View, mesh: Routing, number: int) -> Iterator[Any]:
    options, namespace = view.options, view.node.namespace
    found: dict[str, Any] = {}
    for service, port in _ports(view):
        if port.number == number and (port.protocol.is_http or port.protocol is Protocol.SNIFFED):
            made = _routes(view, mesh, service, port)
            names = [*hosts.domains(service.host, namespace, options.domain), *service.addresses]
            if made:
                found[service.host] = virtual_host(f"{service.host}:{number}", names, made)
    if number == 80:
        found |= _unknown_hosts(view, mesh, found)
    for host in sorted(found):
        yield found[host]
    yield _block_all() if options.registry_only else _allow_any()


def _unknown_hosts(view: View, mesh: Routing, known: dict[str, Any]) -> dict[str, Any]:
    """Return virtual hosts for VirtualService hosts that no HTTP port serves: istiod has them on port 80."""
    found: dict[str, Any] = {}
    served = {service.host for service, port in _ports(view) if port.protocol.is_http}
    for document in mesh.documents:
        made = routes(document, view.scope(frozenset({MESH}), 80))
        for host in precedence.hosts_of(document, view.options):
            unserved = host not in known and not any(hosts.matches(host, name) for name in served)
            if made and unserved and host not in found:
                found[host] = virtual_host(f"{host}:80", [host], made)
    return found


def _routes(view: View, mesh: Routing, service: Service, port: Port) -> list[Any]:
    scope: Scope = view.scope(frozenset({MESH}), port.number)
    document = mesh.of(service.host)
    if document is None or not document.spec.http:
        return [default_route(service, port.number, view.rules[service.host])]
    return routes(document, scope)


def _allow_any() -> Any:
    """Return outboundTrafficPolicy ALLOW_ANY: other hosts are reached as if there were no mesh."""
    message = route_pb2.Route(name="allow_any", match=route_pb2.RouteMatch(prefix="/"))
    message.route.cluster = clusters.PASSTHROUGH
    message.route.timeout.CopyFrom(duration(0))
    message.route.max_grpc_timeout.CopyFrom(duration(0))
    return virtual_host("allow_any", ["*"], [message])


def _block_all() -> Any:
    """Return outboundTrafficPolicy REGISTRY_ONLY: other hosts are refused."""
    message = route_pb2.Route(name="block_all", match=route_pb2.RouteMatch(prefix="/"))
    message.direct_response.status = 502
    return virtual_host("block_all", ["*"], [message])


# ---------------------------------------------------------------- listeners


def _listeners(view: View) -> Iterator[Any]:
    """Yield ``VIP_port`` listeners, and one ``0.0.0.0_port`` for what shares a port."""
    shared: dict[int, list[tuple[Service, Port]]] = defaultdict(list)
    for service, port in _ports(view):
        if port.protocol is Protocol.UDP:
            continue
        if service.vip and not port.protocol.is_http:
            yield _own_listener(view, service, port)
        else:
            shared[port.number].append((service, port))
    for number in sorted(shared):
        yield _shared_listener(view, number, shared[number])


def _own_listener(view: View, service: Service, port: Port) -> Any:
    to_service = listeners.tcp_chain(cluster_name(service.host, port.number), view.options)
    if port.protocol is not Protocol.SNIFFED:
        return listeners.outbound_listener(service.vip, port.number, [to_service], None)
    name = f"{service.vip}_{port.number}"
    http = listeners.http_chain(name, f"{service.host}:{port.number}", view.node, view.options)
    return listeners.outbound_listener(service.vip, port.number, [http], to_service)


def _shared_listener(view: View, number: int, members: list[tuple[Service, Port]]) -> Any:
    """Return the listener of a port that several hosts share, told apart by Host header or SNI.

    Bytes that say neither can lead to one service only: the first TCP one, by host.
    """
    chains = [
        listeners.tcp_chain(cluster_name(service.host, number), view.options, [service.host])
        for service, port in members
        if port.protocol is Protocol.TLS
    ]
    kinds = {port.protocol for _, port in members}
    if any(kind.is_http or kind is Protocol.SNIFFED for kind in kinds):
        chains.append(listeners.http_chain(f"{WILDCARD}_{number}", str(number), view.node, view.options))
    opaque = [service for service, port in members if port.protocol in (Protocol.TCP, Protocol.SNIFFED)]
    plain_http = any(kind.is_http for kind in kinds)
    tcp_only = next((service for service, port in members if port.protocol is Protocol.TCP), None)
    owner = tcp_only or (opaque[0] if opaque and not plain_http else None)
    if owner:
        default = listeners.tcp_chain(cluster_name(owner.host, number), view.options)
    else:
        default = listeners.passthrough_chain(view.options)
    return listeners.outbound_listener(WILDCARD, number, chains or [default], default if chains else None)
