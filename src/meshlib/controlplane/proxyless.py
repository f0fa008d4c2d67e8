"""What a proxyless gRPC node is served: API listeners by ``host:port``, as istiod's gRPC generator.

Of a DestinationRule gRPC gets subsets, LEAST_REQUEST, ``http2MaxRequests`` and TLS; the rest
does not reach it, as with istiod. Services by DNS name have no endpoints here, as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from envoy.config.route.v3 import route_pb2 as table_pb2

from meshlib.controlplane import clusters, hosts, listeners
from meshlib.controlplane.endpoints import assignment
from meshlib.controlplane.inbound import server_listeners
from meshlib.controlplane.recall import RECALL
from meshlib.controlplane.resources import Resources
from meshlib.controlplane.routes import virtual_host
from meshlib.controlplane.scoping import Egress
from meshlib.controlplane.services import Port, Resolution, Service, cluster_name
from meshlib.controlplane.sidecar import routes_of
from meshlib.controlplane.view import View


def resources(view: View) -> Resources:
    """Return the resources of a gRPC client."""
    made = list(clusters.targets(view.concrete()))
    return Resources.build(
        listeners=[*_listeners(view), *server_listeners(view)],
        routes=_tables(view),
        clusters=[RECALL.seen(clusters.proxyless_cluster, view, *target) for target in made],
        endpoints=[RECALL.seen(assignment, view, *_reachable(target)) for target in made],
    )


def listener_names(service: Service, port: Port, view: View) -> list[str]:
    """Return every name that a client of this node may ask for: all forms of the host with the port."""
    forms = hosts.domains(service.host, view.node.namespace, view.options.domain)
    return [f"{form}:{port.number}" for form in forms if not form.endswith(".")]


def _ports(view: View) -> Iterator[tuple[Service, Port]]:
    for service, _ in view.services:
        for port in service.ports:
            yield service, port


def _listeners(view: View) -> Iterator[Any]:
    for service, port in _ports(view):
        for name in listener_names(service, port, view):
            route_name = cluster_name(service.host, port.number)
            yield listeners.api_listener(name, min(service.addresses, default="0.0.0.0"), port.number, route_name)


def _tables(view: View) -> Iterator[Any]:
    for service, port in _ports(view):
        message = table_pb2.RouteConfiguration(name=cluster_name(service.host, port.number))
        target = _called(view, service, port)
        if target is not None:
            message.virtual_hosts.append(_virtual_host(view, *target))
        yield message


def _called(view: View, service: Service, port: Port) -> tuple[Egress, Service, Port] | None:
    """Return what a name leads to on a port, None where no HTTP is routed: bytes, or a host outside the mesh."""
    target = view.registry.concrete(service)
    egress = view.egress_on(port.number)
    if target is None or egress is None:
        return None
    found = next((item for item in egress.services if item.host == target.host), None)
    there = found.port(port.number) if found else None
    return (egress, found, there) if found and there and there.protocol.may_be_http else None


def _virtual_host(view: View, egress: Egress, service: Service, port: Port) -> Any:
    made = routes_of(view, egress, service, port)
    forms = hosts.answered(
        service.host, service.aliases, view.node.namespace, view.options.domain, headless=service.headless
    )
    names = [name for form in (*forms, *service.asked_by) for name in (form, f"{form}:{port.number}")]
    return virtual_host(f"{service.host}:{port.number}", names, made)


def _reachable(target: tuple[Service, Port, Any, str]) -> tuple[Service, Port, Any, str]:
    service, port, rule, subset = target
    if service.resolution in (Resolution.STATIC, Resolution.NONE):
        return target
    return service, Port(port.number, port.name, port.protocol, port.target), rule, subset
