"""What a sidecar node is served: listeners, route tables by port, clusters, endpoints.

The inbound half (``virtualInbound``) is served to Istio's proxies alone: no workload of a mesh without them is
behind one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.config.route.v3 import route_pb2 as table_pb2

from meshlib.controlplane import clusters, hosts, listeners, precedence, tracing
from meshlib.controlplane.documents.virtual_service import MESH
from meshlib.controlplane.endpoints import assignment
from meshlib.controlplane.inbound import inbound_listeners
from meshlib.controlplane.inbound_clusters import inbound_clusters
from meshlib.controlplane.name_table import name_table
from meshlib.controlplane.outbound import outbound_listeners
from meshlib.controlplane.protobuf import duration
from meshlib.controlplane.recall import RECALL
from meshlib.controlplane.resources import Resources
from meshlib.controlplane.routes import Scope, default_route, distinct, routes, virtual_host
from meshlib.controlplane.scoping import Egress
from meshlib.controlplane.services import Port, Protocol, Resolution, Service
from meshlib.controlplane.view import View


def resources(view: View) -> Resources:
    """Return the resources of a sidecar."""
    made = clusters.made(view)
    kind, patches = view.node.kind, view.patches
    served = [*outbound_listeners(view), *([] if view.node.binds else [listeners.virtual_outbound(view)])]
    inward: list[Any] = []
    if view.options.managed:  # nothing redirects connections to other clients than Istio's proxies
        served += inbound_listeners(view)
        inward = inbound_clusters(view)
    every = [
        *(message for *_, message in made),
        clusters.black_hole(view.options),
        clusters.passthrough(view.options),
        *inward,
        *tracing.clusters(view.options),
    ]
    return Resources.build(
        listeners=patches.listeners(served, kind),
        routes=patches.tables(_tables(view), kind),
        clusters=patches.clusters(every, kind),
        endpoints=[
            RECALL.seen(assignment, view, service, port, rule, subset)
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
    for number in _http_ports(view):
        egress = view.egress_on(number)
        if egress is not None:
            yield table(str(number), distinct(virtual_hosts(view, egress, number)))
    for egress in view.egress:
        if egress.listener and egress.listener.bind.startswith("unix://"):
            yield table(egress.listener.bind, [*_on_socket(view, egress)])
        for service, port in _ports(egress):
            if port.protocol is Protocol.SNIFFED and (service.vip or service.headless):
                name = f"{service.host}:{port.number}"
                made = routes_of(view, egress, service, port)
                yield table(name, [virtual_host(name, ["*"], made)])


def _ports(egress: Egress) -> Iterator[tuple[Service, Port]]:
    for service in egress.services:
        for port in service.ports if service.resolution is not Resolution.ALIAS else ():
            yield service, port


def _http_ports(view: View) -> list[int]:
    """Return the ports that have a table of their number: those with HTTP, or with bytes of hosts without a VIP."""
    shared = {
        egress.port or port.number
        for egress in view.egress
        for service, port in _ports(egress)
        if port.protocol.is_http or (port.protocol is Protocol.SNIFFED and service.shares)
    }
    return sorted(shared)


def _on_socket(view: View, egress: Egress) -> Iterator[Any]:
    """Yield the virtual hosts of a Unix domain socket, which has no port: their names say theirs."""
    for service, port in sorted(_ports(egress), key=lambda item: (item[0].host, item[1].number)):
        if port.protocol.may_be_http:
            forms = hosts.answered(
                service.host, service.aliases, view.node.namespace, view.options.domain, headless=service.headless
            )
            names = [name for form in (*forms, *service.asked_by) for name in (form, f"{form}:{port.number}")]
            made = routes_of(view, egress, service, port)
            yield virtual_host(f"{service.host}:{port.number}", names, made)
    yield _block_all() if view.registry_only else _allow_any()


def virtual_hosts(view: View, egress: Egress, number: int) -> Iterator[Any]:
    """Yield the virtual hosts of a port, by host; the last takes what nobody else does."""
    options, namespace = view.options, view.node.namespace
    found: dict[str, Any] = {}
    for service, port in _ports(egress):
        if port.number == number and port.protocol.may_be_http and service.host not in found:
            made = routes_of(view, egress, service, port)
            forms = hosts.answered(service.host, service.aliases, namespace, options.domain, headless=service.headless)
            found[service.host] = virtual_host(f"{service.host}:{number}", [*forms, *service.asked_by], made)
    if number == 80:
        found |= _unknown_hosts(view, egress, found)
    for host in sorted(found):
        yield found[host]
    yield _block_all() if view.registry_only else _allow_any()


def _unknown_hosts(view: View, egress: Egress, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return virtual hosts for VirtualService hosts that no service of port 80 has: istiod has them there."""
    found: dict[str, Any] = {}
    for document in egress.routing.documents:
        names = precedence.hosts_of(document, view.options)
        if any(hosts.matches(name, host) for name in names for host in known):
            continue
        made = routes(document, view.scope(frozenset({MESH}), 80))
        for host in names:
            if made and host not in found:
                found[host] = virtual_host(f"{host}:80", [host], made)
    return found


def routes_of(view: View, egress: Egress, service: Service, port: Port) -> list[Any]:
    """Return the routes of a service's port: its VirtualService's, else the one to itself."""
    scope: Scope = view.scope(frozenset({MESH}), port.number)
    document = egress.routing.of(service.host)
    made = routes(document, scope) if document else []
    if made:
        return made
    retries = view.options.default_retries
    return [RECALL.made(default_route, service, port.number, view.rules.get(service.host), retries)]


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
