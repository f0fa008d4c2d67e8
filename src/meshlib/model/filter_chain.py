"""Filter chains: what a listener does with a connection, and which of them takes it.

The match is that of Envoy's ``FilterChainMatch``: one criterion after the other, in a fixed
order. At each, the chains with the most specific value that fits the connection are kept; where
no value fits, those that do not ask. A choice is never taken back: when nothing is left further
on, the listener's default chain takes the connection, however well another chain would have
fitted (``FilterChainManagerImpl::findFilterChain``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from meshlib.model.filters import Filters
from meshlib.model.headers import FilterMutations
from meshlib.model.route import RouteConfiguration, WeightedCluster
from meshlib.model.traffic import FaultInjection

Network = IPv4Network | IPv6Network

DEFAULT_BODY_LIMIT = 1024 * 1024  # Listener.per_connection_buffer_limit_bytes: "an implementation defined default"


@dataclass(frozen=True, slots=True)
class HttpConnectionManager:
    """``HttpConnectionManager``: a route table by name (RDS) or inline, and the fault filter.

    Attributes:
        route_name: the RDS resource, empty when ``route_config`` is inline.
        route_config: the inline table.
        fault_filter: whether the fault filter is in the chain; per-route faults need it.
        fault: the filter's own fault, for routes that set none.
        header_mutation: the header_mutation filter, None where it is not in the chain.
        filters: the chain of filters that may answer; empty where the fault filter is the only one.
        stream_idle_timeout: seconds that a stream may be silent, 0.0 = off.
        max_stream_duration: seconds of a call, for routes that say nothing; 0.0 = off.
        respect_expected_timeout: whether a request's own ``x-envoy-expected-rq-timeout-ms`` is its route timeout.
        body_limit: bytes of a request that are kept for a retry (``per_connection_buffer_limit_bytes``).
    """

    route_name: str = ""
    route_config: RouteConfiguration | None = None
    fault_filter: bool = False
    fault: FaultInjection | None = None
    header_mutation: FilterMutations | None = None
    filters: Filters = ()
    stream_idle_timeout: float = 0.0
    max_stream_duration: float = 0.0
    respect_expected_timeout: bool = False
    body_limit: int = DEFAULT_BODY_LIMIT


@dataclass(frozen=True, slots=True)
class TcpProxy:
    """``TcpProxy``: bytes to a cluster; HTTP policies do not apply.

    Attributes:
        clusters: the targets with their weights, one of which is drawn for each call.
    """

    clusters: tuple[WeightedCluster, ...]


class SourceType(Enum):
    """``FilterChainMatch.ConnectionSourceType``."""

    ANY = 0
    SAME_IP_OR_LOOPBACK = 1
    EXTERNAL = 2


@dataclass(frozen=True, slots=True)
class FilterChain:
    """One filter chain: its match and what ends it.

    Attributes:
        destination_port: the port asked for, 0 for any.
        prefix_ranges: destination CIDRs, empty for any.
        server_names: SNI names in lower case, ``*.`` before a suffix, empty for any.
        transport_protocol: "raw_buffer", "tls" or "" for any.
        application_protocols: ALPN or sniffed protocols, empty for any.
        direct_source_prefix_ranges: CIDRs of the connection's own peer, empty for any.
        source_type: where the caller is.
        source_prefix_ranges: CIDRs of the caller, empty for any.
        source_ports: of the caller, empty for any.
    """

    http: HttpConnectionManager | None = None
    tcp: TcpProxy | None = None
    name: str = ""
    destination_port: int = 0
    prefix_ranges: tuple[str, ...] = ()
    server_names: tuple[str, ...] = ()
    transport_protocol: str = ""
    application_protocols: tuple[str, ...] = ()
    direct_source_prefix_ranges: tuple[str, ...] = ()
    source_type: SourceType = SourceType.ANY
    source_prefix_ranges: tuple[str, ...] = ()
    source_ports: tuple[int, ...] = ()


# A client in the process has no connection of its own to a proxy. It counts as what it would be
# with a proxy beside it: a process of the same host, on a port that nobody foretells.
SOURCE_ADDRESS = "127.0.0.1"
SOURCE_TYPE = SourceType.SAME_IP_OR_LOOPBACK


class Connection(NamedTuple):
    """What chains are matched on: what an Envoy would know of a connection before reading a request.

    Attributes:
        address: the original destination: an IP, or a host name that nothing resolved.
        port: the original destination's.
        server_name: the SNI, empty where there is none or nobody looked.
        transport: "tls" or "raw_buffer".
        protocols: the application's ALPN, or the protocol that was sniffed.
    """

    address: str
    port: int
    server_name: str = ""
    transport: str = "raw_buffer"
    protocols: tuple[str, ...] = ()


Key = str | int | SourceType | Network
Find = Callable[[Collection[Key], Connection], Key | None]


@dataclass(frozen=True, slots=True)
class _Criterion:
    """One step of the match.

    Attributes:
        keys: what a chain asks for; empty for anything.
        find: of the values asked for, the most specific that fits a connection; None when none does.
    """

    keys: Callable[[FilterChain], Iterable[Key]]
    find: Find


@dataclass(frozen=True, slots=True)
class _Node:
    """A step over the chains that are left: those that ask for something, by what, and the rest."""

    find: Find
    branches: Mapping[Key, _Tree]
    rest: _Tree


_Tree = _Node | FilterChain | None


def _within(address: str, networks: Collection[Key]) -> Key | None:
    """Return the longest network that contains ``address``, None also when that is a name."""
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    found = [network for network in networks if isinstance(network, IPv4Network | IPv6Network) and ip in network]
    return max(found, key=lambda network: network.prefixlen, default=None)


def _server_name(names: Collection[Key], connection: Connection) -> Key | None:
    """Return the name itself, else its longest ``*.`` suffix."""
    name = connection.server_name
    if name in names:
        return name
    at = name.find(".", 1)
    while at != -1:
        wildcard = f"*{name[at:]}"
        if wildcard in names:
            return wildcard
        at = name.find(".", at + 1)
    return None


def _exactly(key: Key, keys: Collection[Key]) -> Key | None:
    return key if key in keys else None


def _ranges(cidrs: Sequence[str]) -> list[Key]:
    return [ip_network(cidr, strict=False) for cidr in cidrs]


# In the order of FilterChainMatch.
_CRITERIA: tuple[_Criterion, ...] = (
    _Criterion(lambda c: (c.destination_port,) if c.destination_port else (), lambda ks, c: _exactly(c.port, ks)),
    _Criterion(lambda c: _ranges(c.prefix_ranges), lambda ks, c: _within(c.address, ks)),
    _Criterion(lambda c: c.server_names, _server_name),
    _Criterion(
        lambda c: (c.transport_protocol,) if c.transport_protocol else (), lambda ks, c: _exactly(c.transport, ks)
    ),
    _Criterion(lambda c: c.application_protocols, lambda ks, c: next((p for p in c.protocols if p in ks), None)),
    _Criterion(lambda c: _ranges(c.direct_source_prefix_ranges), lambda ks, _: _within(SOURCE_ADDRESS, ks)),
    _Criterion(
        lambda c: (c.source_type,) if c.source_type is not SourceType.ANY else (),
        lambda ks, _: _exactly(SOURCE_TYPE, ks),
    ),
    _Criterion(lambda c: _ranges(c.source_prefix_ranges), lambda ks, _: _within(SOURCE_ADDRESS, ks)),
    _Criterion(lambda c: c.source_ports, lambda _ks, _c: None),
)


class OverlappingChains(ValueError):
    """Two chains ask for the same."""


class ChainMatcher:
    """The filter chains of a listener, arranged for the match. Immutable; safe for any thread.

    Args:
        chains: filter chains, in any order.

    Raises:
        OverlappingChains: two of them would take the same connection; an Envoy refuses these, too.
    """

    __slots__ = ("_root", "by_destination")

    def __init__(self, chains: Sequence[FilterChain]) -> None:
        self._root = _arrange(list(enumerate(chains)), _CRITERIA)
        # Whether the destination matters: its port, address or server name, which come first.
        self.by_destination = any(c.destination_port or c.prefix_ranges or c.server_names for c in chains)

    def choose(self, connection: Connection) -> FilterChain | None:
        """Return the chain that takes ``connection``, None for the listener's default."""
        tree = self._root
        while isinstance(tree, _Node):
            key = tree.find(tree.branches, connection)
            tree = tree.branches[key] if key is not None else tree.rest
        return tree


def _arrange(chains: Sequence[tuple[int, FilterChain]], criteria: Sequence[_Criterion]) -> _Tree:
    if not chains:
        return None
    for step, criterion in enumerate(criteria, 1):
        asking: dict[Key, list[tuple[int, FilterChain]]] = {}
        rest = []
        for number, chain in chains:
            keys = tuple(dict.fromkeys(criterion.keys(chain)))
            for key in keys:
                asking.setdefault(key, []).append((number, chain))
            if not keys:
                rest.append((number, chain))
        if asking:
            branches = {key: _arrange(some, criteria[step:]) for key, some in asking.items()}
            return _Node(criterion.find, branches, _arrange(rest, criteria[step:]))
    if len(chains) > 1:
        (first, _), (second, _) = chains[:2]
        raise OverlappingChains(f"filter_chains[{second}] matches what filter_chains[{first}] matches")
    return chains[0][1]
