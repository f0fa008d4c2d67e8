"""Listeners: how a destination finds its route table."""

from __future__ import annotations

from dataclasses import dataclass

from meshlib.model.headers import FilterMutations
from meshlib.model.route import RouteConfiguration
from meshlib.model.traffic import FaultInjection


@dataclass(frozen=True, slots=True)
class HttpConnectionManager:
    """``HttpConnectionManager``: a route table by name (RDS) or inline, and the fault filter.

    Attributes:
        route_name: the RDS resource, empty when ``route_config`` is inline.
        route_config: the inline table.
        fault_filter: whether the fault filter is in the chain; per-route faults need it.
        fault: the filter's own fault, for routes that set none.
        header_mutation: the header_mutation filter, None where it is not in the chain.
    """

    route_name: str = ""
    route_config: RouteConfiguration | None = None
    fault_filter: bool = False
    fault: FaultInjection | None = None
    header_mutation: FilterMutations | None = None


@dataclass(frozen=True, slots=True)
class TcpProxy:
    """``TcpProxy``: bytes to a cluster; HTTP policies do not apply."""

    cluster: str


@dataclass(frozen=True, slots=True)
class FilterChain:
    """One filter chain: its match and what ends it.

    Attributes:
        transport_protocol: "raw_buffer", "tls" or "" for any.
        application_protocols: ALPN or sniffed protocols, empty for any.
        server_names: SNI names, empty for any.
        prefix_ranges: destination CIDRs, empty for any.
        destination_port: the port asked for, 0 for any.
    """

    http: HttpConnectionManager | None = None
    tcp: TcpProxy | None = None
    name: str = ""
    transport_protocol: str = ""
    application_protocols: tuple[str, ...] = ()
    server_names: tuple[str, ...] = ()
    prefix_ranges: tuple[str, ...] = ()
    destination_port: int = 0


@dataclass(frozen=True, slots=True)
class Listener:
    """One listener.

    Attributes:
        name: its resource name (``0.0.0.0_80``, ``catalog:80``).
        address: bound address, empty for an API listener.
        port: bound port, 0 for an API listener.
        api: the connection manager of an ``api_listener`` (gRPC style).
        chains: filter chains, in order.
        default_chain: taken when no chain matches.
        inbound: whether ``traffic_direction`` is INBOUND; never used for outbound calls.
    """

    name: str
    address: str = ""
    port: int = 0
    api: HttpConnectionManager | None = None
    chains: tuple[FilterChain, ...] = ()
    default_chain: FilterChain | None = None
    inbound: bool = False
