"""What a decoded value names: the arrows of LDS → RDS → CDS → EDS."""

from __future__ import annotations

from collections.abc import Iterable

from meshlib.model.cluster import Cluster
from meshlib.model.filter_chain import HttpConnectionManager
from meshlib.model.listener import Listener
from meshlib.model.route import RouteAction, RouteConfiguration
from meshlib.xds.resource import Reference, Value
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, ROUTE


def references(value: Value) -> tuple[Reference, ...]:
    """Return what a value names, without repeats, in the order found."""
    found: dict[Reference, None] = {}
    if isinstance(value, RouteConfiguration):
        found = dict.fromkeys(_table_references(value))
    elif isinstance(value, Cluster) and value.eds_name:
        found = {(ENDPOINT, value.eds_name): None}
    elif isinstance(value, Listener) and not value.inbound:
        found = dict.fromkeys(_listener_references(value))
    return tuple(found)


def _table_references(table: RouteConfiguration) -> Iterable[Reference]:
    for host in table.virtual_hosts:
        for route in host.routes:
            if isinstance(route.action, RouteAction):
                for target in route.action.clusters:
                    if target.name:  # else a header names it
                        yield CLUSTER, target.name
                for mirror in route.action.mirrors:
                    if mirror.cluster:
                        yield CLUSTER, mirror.cluster


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
