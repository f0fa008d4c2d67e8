"""The published whole: everything a call reads, immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

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
        addresses: lower-case host -> service address (VIP), for listeners named ``VIP_port``.
        listener: the listener to use whatever the port (``listener=`` of a static bootstrap).
    """

    version: str = ""
    style: Style = Style.SIDECAR
    listeners: Mapping[str, Listener] = field(default_factory=dict)
    routes: Mapping[str, RouteConfiguration] = field(default_factory=dict)
    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    listener: str = ""

    def find_listener(self, host: str, port: int) -> Listener | None:
        """Return the outbound listener that Envoy would take for ``host:port``, or None."""
        if self.style is Style.GRPC:
            return self.listeners.get(f"{host}:{port}")
        if self.style is Style.STATIC:
            return self._static_listener(port)
        address = self.addresses.get(host, host)
        for name in (f"{address}_{port}", f"0.0.0.0_{port}", f"127.0.0.1_{port}", "virtualOutbound"):
            found = self.listeners.get(name)
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
        chain = _choose_chain(listener, host, tls=tls)
        if chain is None:
            return None
        if chain.http is not None and not tls:
            return self._http(listener, chain.http)
        return Destination(listener.name, tcp_cluster=chain.tcp.cluster) if chain.tcp else None

    def _http(self, listener: Listener, http: HttpConnectionManager) -> Destination:
        inline = http.route_config
        table = inline if inline is not None else self.routes.get(http.route_name, NO_ROUTES)
        return Destination(listener.name, routes=table, http=http)


def _choose_chain(listener: Listener, host: str, *, tls: bool) -> FilterChain | None:
    """Choose as Envoy's filter chain match does: server name first, then transport protocol."""
    wanted = "tls" if tls else "raw_buffer"
    best: tuple[int, FilterChain] | None = None
    for chain in listener.chains:
        if chain.transport_protocol not in ("", wanted):
            continue
        if tls and chain.http is not None and chain.transport_protocol == "":
            continue
        if chain.server_names and not (tls and _sni_matches(chain.server_names, host)):
            continue
        score = 4 * bool(chain.server_names) + 2 * bool(chain.transport_protocol) + bool(chain.application_protocols)
        if best is None or score > best[0]:
            best = (score, chain)
    return best[1] if best is not None else listener.default_chain


def _sni_matches(names: tuple[str, ...], host: str) -> bool:
    return any(host == name or (name[:2] == "*." and host.endswith(name[1:])) for name in names)
