"""What a decoded value names: the arrows of LDS → RDS → CDS → EDS and SDS."""

from __future__ import annotations

from collections.abc import Iterable

from meshlib.model.cluster import Cluster
from meshlib.model.filter_chain import HttpConnectionManager
from meshlib.model.listener import Listener
from meshlib.model.route import Route, RouteAction, RouteConfiguration
from meshlib.xds.resource import Reference, Value
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, ROUTE, SECRET


def references(value: Value) -> tuple[Reference, ...]:
    """Return what a value names, without repeats, in the order found."""
    found: dict[Reference, None] = {}
    if isinstance(value, RouteConfiguration):
        found = dict.fromkeys(_table_references(value))
    elif isinstance(value, Cluster):
        found = dict.fromkeys(_cluster_references(value))
    elif isinstance(value, Listener) and not value.inbound:
        found = dict.fromkeys(_listener_references(value))
    return tuple(found)


def _table_references(table: RouteConfiguration) -> Iterable[Reference]:
    for host in table.virtual_hosts:
        yield from route_references(host.routes)


def route_references(routes: Iterable[Route]) -> Iterable[Reference]:
    """Yield what routes name: clusters, but for those that a header names."""
    for route in routes:
        if isinstance(route.action, RouteAction):
            for name in (
                *(target.name for target in route.action.clusters),
                *(mirror.cluster for mirror in route.action.mirrors),
            ):
                if name:
                    yield CLUSTER, name


def _cluster_references(cluster: Cluster) -> Iterable[Reference]:
    if cluster.eds_name:
        yield ENDPOINT, cluster.eds_name
    for member in cluster.members:
        yield CLUSTER, member
    for socket in (cluster.transport_socket, *(match.socket for match in cluster.transport_socket_matches)):
        for secret in socket.tls.references if socket is not None and socket.tls is not None else ():
            if secret.resource:
                yield SECRET, secret.resource


def _listener_references(listener: Listener) -> Iterable[Reference]:
    if listener.api is not None:
        yield from _http_references(listener.api)
    for chain in (*listener.chains, *([listener.default_chain] if listener.default_chain else ())):
        if chain.http is not None:
            yield from _http_references(chain.http)
        if chain.tcp is not None:
            for target in chain.tcp.clusters:
                yield CLUSTER, target.name


def _http_references(http: HttpConnectionManager) -> Iterable[Reference]:
    if http.route_config is not None:
        yield from _table_references(http.route_config)
    else:
        yield ROUTE, http.route_name
