"""What a proxyless gRPC node is served: API listeners by ``host:port``, as istiod's gRPC generator.

Of a DestinationRule gRPC gets subsets, LEAST_REQUEST, ``http2MaxRequests`` and TLS; the rest
does not reach it, as with istiod. Services by DNS name have no endpoints here, as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from envoy.config.route.v3 import route_pb2 as table_pb2

from meshlib.controlplane import clusters, hosts, listeners
from meshlib.controlplane.documents.virtual_service import MESH
from meshlib.controlplane.endpoints import assignment
from meshlib.controlplane.precedence import Routing
from meshlib.controlplane.resources import Resources
from meshlib.controlplane.routes import default_route, routes, virtual_host
from meshlib.controlplane.services import Port, Protocol, Resolution, Service, cluster_name
from meshlib.controlplane.view import View


def resources(view: View) -> Resources:
    """Return the resources of a gRPC client."""
    made = list(clusters.targets(view.services))
    return Resources.build(
        listeners=_listeners(view),
        routes=_tables(view),
        clusters=[clusters.proxyless_cluster(*target, view) for target in made],
        endpoints=[assignment(*_reachable(target), view.options) for target in made],
    )


def listener_names(service: Service, port: Port, view: View) -> list[str]:
    """Return every name that a client of this node may ask for: all forms of the host with the port."""
    forms = hosts.domains(service.host, view.node.namespace, view.options.domain)
    return [f"{form}:{port.number}" for form in forms if not form.endswith(".")]


def _ports(view: View) -> Iterator[tuple[Service, Port]]:
    for service, _ in view.services:
        for port in service.ports:
            if port.protocol is not Protocol.UDP:
                yield service, port


def _listeners(view: View) -> Iterator[Any]:
    for service, port in _ports(view):
        for name in listener_names(service, port, view):
            route_name = cluster_name(service.host, port.number)
            yield listeners.api_listener(name, service.vip or "0.0.0.0", port.number, route_name)


def _tables(view: View) -> Iterator[Any]:
    mesh = view.routing()
    for service, port in _ports(view):
        message = table_pb2.RouteConfiguration(name=cluster_name(service.host, port.number))
        if port.protocol.is_http or port.protocol is Protocol.SNIFFED:
            message.virtual_hosts.append(_virtual_host(view, mesh, service, port))
        yield message


def _virtual_host(view: View, mesh: Routing, service: Service, port: Port) -> Any:
    scope = view.scope(frozenset({MESH}), port.number)
    document = mesh.of(service.host)
    if document is None or not document.spec.http:
        made = [default_route(service, port.number, view.rules[service.host])]
    else:
        made = routes(document, scope)
    forms = [*hosts.domains(service.host, view.node.namespace, view.options.domain), *service.addresses]
    names = [name for form in forms for name in (form, f"{form}:{port.number}")]
    return virtual_host(f"{service.host}:{port.number}", names, made)


def _reachable(target: tuple[Service, Port, Any, str]) -> tuple[Service, Port, Any, str]:
    service, port, rule, subset = target
    if service.resolution is Resolution.STATIC:
        return target
    return service, Port(port.number, port.name, port.protocol, port.target), rule, subset
