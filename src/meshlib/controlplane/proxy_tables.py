"""``istioctl proxy-config``'s tables: clusters, listeners, routes and endpoints in columns, filtered.

Columns, order and words are istioctl's; the texts of filters are compared as it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import health_check_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from meshlib.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resources

_HTTP = "envoy.filters.network.http_connection_manager"
_TCP = "envoy.filters.network.tcp_proxy"
_PASSTHROUGH, _BLACK_HOLE = "PassthroughCluster", "BlackHoleCluster"


@dataclass(frozen=True, slots=True)
class Filter:
    """What is shown; everything that is set must hold.

    Attributes:
        fqdn, subset, direction: part of a cluster's name.
        port: of a cluster, listener or endpoint; 0 for any.
        address: of a listener; ``address:port`` of an endpoint.
        type: HTTP, TCP, HTTP+TCP or UNKNOWN, of a listener.
        name: of a route table.
        cluster: of endpoints.
        status: of endpoints, ``healthy``.
    """

    fqdn: str = ""
    subset: str = ""
    direction: str = ""
    port: int = 0
    address: str = ""
    type: str = ""
    name: str = ""
    cluster: str = ""
    status: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows; ``gap`` is the blanks between columns."""

    columns: tuple[str, ...]
    rows: list[list[str]]
    gap: int = 5


@dataclass(frozen=True, slots=True)
class Section:
    """One kind of resource: how it is chosen, ordered and shown."""

    url: str
    choose: Callable[[Any, Filter], Any]
    order: Callable[[Any], Any]
    table: Callable[[Sequence[Any], bool, str], Table]

    def messages(self, resources: Resources, chosen: Filter) -> list[Any]:
        """Return the resources that the filter lets through, in order."""
        found = (self.choose(message, chosen) for message in resources.by_type[self.url].values())
        return sorted((message for message in found if message is not None), key=self.order)


# ---------------------------------------------------------------- clusters


def _cluster(message: Any, chosen: Filter) -> Any:
    name = message.name
    parts = [chosen.fqdn, chosen.direction, chosen.subset, f"|{chosen.port}|" if chosen.port else ""]
    return message if all(part in name for part in parts) else None


def _subset_key(name: str) -> tuple[str, str, int, str]:
    """Return FQDN, subset, port and direction: the order of clusters."""
    parts = name.split("|")
    if len(parts) < 4:
        return name, "", 0, ""
    return parts[3], parts[2], int(parts[1]) if parts[1].isdigit() else 0, parts[0]


def _clusters(messages: Sequence[Any], _: bool, prefix: str) -> Table:
    rows = []
    for message in messages:
        fqdn, subset, port, direction = _subset_key(message.name)
        whole = "|" not in message.name
        kind = cluster_pb2.Cluster.DiscoveryType.Name(message.type)
        who = [fqdn, "-", "-", "-"] if whole else [fqdn, str(port), subset or "-", direction]
        named = [f"{prefix}/{message.name}"] if prefix else []
        if prefix and whole:
            who[0] = named[0]
        rows.append([*named, *who, kind, _management(message.metadata)])
    columns = ("SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE")
    return Table((*(("NAME",) if prefix else ()), *columns), rows)


def _management(metadata: Any) -> str:
    """Return ``name.namespace`` of the Istio resource behind something."""
    if "istio" not in metadata.filter_metadata or "config" not in metadata.filter_metadata["istio"].fields:
        return ""
    parts = metadata.filter_metadata["istio"].fields["config"].string_value.split("/")
    if parts[1:3] != ["apis", "networking.istio.io"]:
        return "<unknown>"
    return f"{parts[7]}.{parts[5]}" if len(parts) == 8 else ""


# ---------------------------------------------------------------- listeners


def _listener(message: Any, chosen: Filter) -> Any:
    if chosen.address and chosen.address.lower() not in map(str.lower, _addresses(message)):
        return None
    if chosen.port and message.address.socket_address.port_value != chosen.port:
        return None
    return None if chosen.type and _listener_type(message).lower() != chosen.type.lower() else message


def _addresses(message: Any) -> list[str]:
    more = [item.address.socket_address.address for item in message.additional_addresses]
    return [message.address.socket_address.address or message.address.pipe.path, *more]


def _chains(message: Any) -> Iterator[Any]:
    yield from message.filter_chains
    if message.HasField("default_filter_chain"):
        yield message.default_filter_chain


def _listener_type(message: Any) -> str:
    filters = [item for chain in _chains(message) for item in chain.filters]
    http = any(item.name == _HTTP for item in filters)
    tcp = any(item.name == _TCP and _BLACK_HOLE.encode() not in item.typed_config.value for item in filters)
    return {(True, True): "HTTP+TCP", (True, False): "HTTP", (False, True): "TCP"}.get((http, tcp), "UNKNOWN")


def _listener_order(message: Any) -> tuple[int, str, str]:
    return message.address.socket_address.port_value, _addresses(message)[0], _listener_type(message)


def _listeners(messages: Sequence[Any], verbose: bool, prefix: str) -> Table:
    rows = []
    for message in messages:
        named = [f"{prefix}/{message.name}"] if prefix else []
        where = [*named, ",".join(_addresses(message)), str(message.address.socket_address.port_value)]
        if not verbose:
            rows.append([*where, _listener_type(message)])
            continue
        found = [(_destination(chain.filters), _match(chain.filter_chain_match)) for chain in _chains(message)]
        rows += [[*where, match, target] for target, match in sorted(found, key=lambda item: item[0], reverse=True)]
    columns = ("ADDRESSES", "PORT", *(("MATCH", "DESTINATION") if verbose else ("TYPE",)))
    return Table((*(("NAME",) if prefix else ()), *columns), rows, gap=1)


_APPLICATIONS: Mapping[tuple[str, ...], str] = {
    ("http/1.0", "http/1.1", "h2c"): "HTTP",
    ("istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"): "Istio HTTP Plain",
    ("http/1.0", "http/1.1", "h2c", "istio-http/1.0", "istio-http/1.1", "istio-h2"): "HTTP TLS",
    ("istio-peer-exchange", "istio"): "TCP TLS",
}


def _match(match: Any) -> str:
    said = []
    if match.server_names:
        said.append(f"SNI: {','.join(match.server_names)}")
    if match.transport_protocol:
        said.append(f"Trans: {match.transport_protocol}")
    if match.application_protocols:
        protocols = tuple(match.application_protocols)
        said.append(f"App: {_APPLICATIONS.get(protocols, ','.join(protocols))}")
    port = f":{match.destination_port.value}" if match.HasField("destination_port") else ""
    ranges = ",".join(f"{item.address_prefix}/{item.prefix_len.value}" for item in match.prefix_ranges)
    if ranges or port:
        said.append(f"Addr: {ranges or '*'}{port}")
    return "; ".join(said) or "ALL"


def _destination(filters: Iterable[Any]) -> str:
    for item in filters:
        if item.name == _HTTP:
            manager = http_connection_manager_pb2.HttpConnectionManager.FromString(item.typed_config.value)
            if manager.HasField("route_config"):
                return _inline(manager.route_config)
            return f"Route: {manager.rds.route_config_name}" if manager.rds.route_config_name else "HTTP"
        if item.name == _TCP and _BLACK_HOLE.encode() not in item.typed_config.value:
            return _to_cluster(tcp_proxy_pb2.TcpProxy.FromString(item.typed_config.value).cluster)
    return "Non-HTTP/Non-TCP"


def _to_cluster(name: str) -> str:
    return name if "Cluster" in name else f"Cluster: {name}"


def _inline(table: Any) -> str:
    hosts = table.virtual_hosts
    if len(hosts) == 1 and list(hosts[0].domains) == ["*"] and len(hosts[0].routes) == 1:
        (route,) = hosts[0].routes
        if route.match.prefix == "/" and route.route.WhichOneof("cluster_specifier") == "cluster":
            return _to_cluster(route.route.cluster)
    said = []
    for host in hosts:
        domains = "" if list(host.domains) == ["*"] else "/".join(host.domains)
        routes = ", ".join(_route_match(route.match) for route in host.routes)
        said.append(f"{domains} {routes}" if domains else routes)
    return f"Inline Route: {'; '.join(said)}"


# ---------------------------------------------------------------- routes


def _route(message: Any, chosen: Filter) -> Any:
    return message if chosen.name in ("", message.name) else None


def _route_order(message: Any) -> tuple[int, int]:
    return (0, int(message.name)) if message.name.isdigit() else (1, 0)


def _routes(messages: Sequence[Any], verbose: bool, prefix: str) -> Table:
    if not verbose:
        rows = [[_named(prefix, message.name), str(len(message.virtual_hosts))] for message in messages]
        return Table(("NAME", "VIRTUAL HOSTS"), rows)
    rows = []
    for message in messages:
        for host in message.virtual_hosts:
            who = [_named(prefix, message.name), host.name, _domains(list(host.domains))]
            for route in host.routes:
                if route.route.cluster != _PASSTHROUGH:
                    rows.append([*who, _route_match(route.match), _management(route.metadata)])
            if not host.routes:
                rows.append([*who, "/*", "404"])
    return Table(("NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"), rows)


def _named(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def _domains(domains: list[str]) -> str:
    """Return the shortest forms, two at most, of the domains without a port."""
    if len(domains) <= 1:
        return "".join(domains)
    portless = [item for item in domains if ":" not in item or (item.count(":") > 2 and item.endswith("]"))]
    known = set(portless)

    def longer(domain: str) -> bool:
        endings = (".svc.cluster.local", ".svc")
        return any(domain.endswith(ending) and domain.removesuffix(ending) in known for ending in endings)

    kept = [domain for domain in portless if not longer(domain)]
    more = f" + {len(kept) - 2} more..." if len(kept) > 2 else ""
    return ", ".join(kept[:2]) + more


def _route_match(match: Any) -> str:
    said = [
        f"{match.prefix}*" if match.prefix else "",
        f"PathPrefix:{match.path_separated_prefix}" if match.path_separated_prefix else "",
        match.path,
        f"regex {match.safe_regex.regex}" if match.HasField("safe_regex") else "",
    ]
    return " ".join(filter(None, said))


# ---------------------------------------------------------------- endpoints


def _assignment(message: Any, chosen: Filter) -> Any:
    """Return the assignment with the endpoints that are shown; None where there are none."""
    if chosen.cluster and message.cluster_name.lower() != chosen.cluster.lower():
        return None
    kept = type(message)()
    kept.CopyFrom(message)
    for group in kept.endpoints:
        shown = [item for item in group.lb_endpoints if _shown(item, chosen)]
        del group.lb_endpoints[:]
        group.lb_endpoints.extend(shown)
    return kept if any(group.lb_endpoints for group in kept.endpoints) else None


def _shown(item: Any, chosen: Filter) -> bool:
    if chosen.address and chosen.address.lower() not in map(str.lower, _endpoint_addresses(item)):
        return False
    if chosen.port and item.endpoint.address.socket_address.port_value != chosen.port:
        return False
    return not chosen.status or _health(item).lower() == chosen.status.lower()


def _health(item: Any) -> str:
    return str(health_check_pb2.HealthStatus.Name(item.health_status))


def _endpoint_addresses(item: Any) -> list[str]:
    addresses = [item.endpoint.address, *(more.address for more in item.endpoint.additional_addresses)]
    return [_endpoint_address(address) for address in addresses]


def _endpoint_address(address: Any) -> str:
    match address.WhichOneof("address"):
        case "socket_address":
            return f"{address.socket_address.address}:{address.socket_address.port_value}"
        case "pipe":
            return str(address.pipe.path)
        case "envoy_internal_address":
            internal = address.envoy_internal_address
            return f"envoy://{internal.server_listener_name}/{internal.endpoint_id}"
        case _:
            return "unknown"


def _endpoints(messages: Sequence[Any], _: bool, prefix: str) -> Table:
    rows = []
    for message in messages:
        for group in message.endpoints:
            locality = group.locality
            where = "/".join(filter(None, (locality.region, locality.zone, locality.sub_zone)))
            for item in group.lb_endpoints:
                address = _named(prefix, ",".join(_endpoint_addresses(item)))
                rows.append([address, _health(item), where, message.cluster_name])
    return Table(("NAME", "STATUS", "LOCALITY", "CLUSTER"), rows)


# In the order of `istioctl proxy-config all`.
SECTIONS: Mapping[str, Section] = {
    "cluster": Section(CLUSTER, _cluster, lambda message: _subset_key(message.name), _clusters),
    "listener": Section(LISTENER, _listener, _listener_order, _listeners),
    "route": Section(ROUTE, _route, _route_order, _routes),
    "endpoint": Section(ENDPOINT, _assignment, lambda message: _subset_key(message.cluster_name), _endpoints),
}
