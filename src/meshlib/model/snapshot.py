"""The published whole: everything a call reads, immutable."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address, ip_network

from meshlib.model.cluster import Cluster
from meshlib.model.listener import FilterChain, HttpConnectionManager, Listener
from meshlib.model.route import RouteConfiguration

NO_ROUTES: RouteConfiguration = RouteConfiguration(name="", virtual_hosts=())


class Style(Enum):
    """How a destination finds its listener."""

    SIDECAR = "sidecar"  # VIP_port, 0.0.0.0_port, virtualOutbound
    GRPC = "grpc"  # host:port API listeners
    STATIC = "static"  # an Envoy bootstrap: by port, else the only one


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a host and port lead: a listener and an HTTP route table, or a TCP cluster.

    Attributes:
        listener: the listener's name.
        routes: its route table; None for a TCP chain.
        http: the connection manager; None for a TCP chain.
        tcp_cluster: the cluster of a TCP chain, else empty.
    """

    listener: str
    routes: RouteConfiguration | None = None
    http: HttpConnectionManager | None = None
    tcp_cluster: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent configuration (gRFC A74). A call reads it once and never looks again.

    Attributes:
        version: what the source calls it; for logs and ``explain``.
        style: how destinations are looked up.
        listeners: by name.
        routes: RDS tables by name.
        clusters: by name, endpoints included.
        addresses: lower-case host -> service address (VIP), for listeners bound to ``VIP:port``.
        bound: ``address_port`` -> listener, for those that are not named so.
        listener: the listener to use whatever the port (``listener=`` of a static bootstrap).
        dormant: clusters that exist and whose endpoints are asked for when a call first needs them.
        changed: clusters, and names of endpoint assignments, that differ from the snapshot before;
            None where that is not known.
    """

    version: str = ""
    style: Style = Style.SIDECAR
    listeners: Mapping[str, Listener] = field(default_factory=dict)
    routes: Mapping[str, RouteConfiguration] = field(default_factory=dict)
    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    bound: Mapping[str, str] = field(default_factory=dict)
    listener: str = ""
    dormant: Container[str] = ()
    changed: tuple[frozenset[str], frozenset[str]] | None = field(default=None, compare=False, repr=False)

    def find_listener(self, host: str, port: int) -> Listener | None:
        """Return the outbound listener that Envoy would take for ``host:port``, or None."""
        if self.style is Style.GRPC:
            return self.listeners.get(f"{host}:{port}")
        if self.style is Style.STATIC:
            return self._static_listener(port)
        address = self.addresses.get(host, host)
        for name in (f"{address}_{port}", f"0.0.0.0_{port}", f"127.0.0.1_{port}", "virtualOutbound"):
            found = self.listeners.get(self.bound.get(name, name))
            if found is not None and not found.inbound:
                return found
        return None

    def _static_listener(self, port: int) -> Listener | None:
        if self.listener:
            return self.listeners.get(self.listener)
        outbound = [listener for listener in self.listeners.values() if not listener.inbound]
        if len(outbound) == 1:
            return outbound[0]
        return next((listener for listener in outbound if listener.port == port), None)

    def destination(self, host: str, port: int, *, tls: bool = False) -> Destination | None:
        """Return where ``host:port`` leads, or None when no listener takes it.

        ``tls`` says that the application speaks TLS itself: HTTP policies do not apply then
        and the chain is chosen by SNI.
        """
        listener = self.find_listener(host, port)
        if listener is None:
            return None
        if listener.api is not None:
            return self._http(listener, listener.api)
        chain = _choose_chain(listener, host, port, self.addresses.get(host, host), tls=tls)
        if chain is None:
            return None
        if chain.http is not None and not tls:
            return self._http(listener, chain.http)
        return Destination(listener.name, tcp_cluster=chain.tcp.cluster) if chain.tcp else None

    def _http(self, listener: Listener, http: HttpConnectionManager) -> Destination:
        inline = http.route_config
        table = inline if inline is not None else self.routes.get(http.route_name, NO_ROUTES)
        return Destination(listener.name, routes=table, http=http)


_HTTP_PROTOCOLS = frozenset({"http/1.0", "http/1.1", "h2c", "h2"})


def _choose_chain(listener: Listener, host: str, port: int, address: str, *, tls: bool) -> FilterChain | None:
    """Choose as Envoy's filter chain match does: the most specific chain that takes the connection."""
    best: FilterChain | None = None
    best_rank: tuple[int, ...] = ()
    for chain in listener.chains:
        rank = _rank(chain, host, port, address, tls)
        if rank is not None and (best is None or rank > best_rank):
            best, best_rank = chain, rank
    return best if best is not None else listener.default_chain


def _rank(chain: FilterChain, host: str, port: int, address: str, tls: bool) -> tuple[int, ...] | None:
    """Return how specific a chain's match is, None when it does not match.

    In the order of ``FilterChainMatch``: port, address, server name, transport protocol,
    application protocols.
    """
    if chain.destination_port not in (0, port):
        return None
    if chain.transport_protocol not in ("", "tls" if tls else "raw_buffer"):
        return None
    if tls and chain.http is not None and not chain.transport_protocol:
        return None  # an HTTP chain cannot read the application's own TLS
    if chain.application_protocols and not _HTTP_PROTOCOLS.intersection(chain.application_protocols):
        return None
    prefix = _longest_prefix(chain.prefix_ranges, address) if chain.prefix_ranges else 0
    name = _longest_name(chain.server_names, host) if tls else 0
    if prefix is None or name is None or (chain.server_names and not tls):
        return None
    named = bool(chain.destination_port), prefix, name
    return (*named, bool(chain.transport_protocol), bool(chain.application_protocols))


def _longest_prefix(ranges: tuple[str, ...], address: str) -> int | None:
    """Return the length of the longest range that contains ``address`` (plus one), else None."""
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    networks = (ip_network(cidr, strict=False) for cidr in ranges)
    return max((network.prefixlen + 1 for network in networks if ip in network), default=None)


def _longest_name(names: tuple[str, ...], host: str) -> int | None:
    """Return how closely a server name takes ``host``: the whole of it, or a ``*.`` suffix."""
    if not names:
        return 0
    if host in names:
        return len(host) + 1
    return max((len(n) - 1 for n in names if n[:2] == "*." and host.endswith(n[1:])), default=None)
