"""The published whole: everything a call reads, immutable."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple

from meshlib.clock import Randomness
from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import NOWHERE, Locality
from meshlib.model.filter_chain import HttpConnectionManager, TcpProxy
from meshlib.model.listener import Listener
from meshlib.model.names import NameTable, listener_name
from meshlib.model.route import RouteConfiguration

NO_ROUTES: RouteConfiguration = RouteConfiguration(name="", virtual_hosts=())


class Style(Enum):
    """How a destination finds its listener."""

    SIDECAR = "sidecar"  # by service address, as behind an Envoy that takes every connection
    GRPC = "grpc"  # host:port API listeners
    STATIC = "static"  # an Envoy bootstrap: by port, else the only one


class Destination(NamedTuple):
    """Where a host and port lead: a listener and an HTTP route table, or TCP clusters.

    With neither, the filter chain cannot take the call: it reads HTTP and the application speaks
    TLS, or it ends in a filter that is not run here.

    Attributes:
        listener: the listener's name.
        address: where the call would go without the mesh: the service address, or the host as it
            was written where no name table knows it. ORIGINAL_DST clusters dial it.
        chain: the filter chain's name, empty for most.
        routes: its route table; None for a TCP chain.
        http: the connection manager; None for a TCP chain.
        tcp: the clusters of a TCP chain, else None.
    """

    listener: str
    address: str
    chain: str = ""
    routes: RouteConfiguration | None = None
    http: HttpConnectionManager | None = None
    tcp: TcpProxy | None = None


@dataclass(frozen=True, slots=True)
class Bindings:
    """The outbound listeners by what they are bound to, as an Envoy looks them up.

    Attributes:
        names: (address, port) -> listener; IPv6 addresses in their short form.
        original_dst: the listener that takes all connections first and keeps those that no other
            is bound for (``use_original_dst``); empty where there is none.
    """

    names: Mapping[tuple[str, int], str] = field(default_factory=dict)
    original_dst: str = ""

    @classmethod
    def of(cls, listeners: Mapping[str, Listener]) -> Bindings:
        """Return the bindings of ``listeners``; the first of an address wins."""
        names: dict[tuple[str, int], str] = {}
        original_dst = ""
        for name, listener in listeners.items():
            if listener.inbound:
                continue
            for address, port in listener.bound:
                names.setdefault((_short(address), port), name)
            if listener.use_original_dst and not original_dst:
                original_dst = name
        return cls(names, original_dst)

    def find(self, address: str, port: int) -> str:
        """Return the listener that takes connections to ``address:port``, empty for none.

        As Envoy: the one bound to the very address, else to the wildcard of its family, else the
        one that takes all. Where none does, the application of a sidecar has to call the
        sidecar's own address instead; here that is done for it (``127.0.0.1``, ``::1``).
        """
        names = self.names
        found = names.get((_short(address), port)) or names.get(("::" if ":" in address else "0.0.0.0", port))
        if found is None and ":" not in address and not is_ip(address):
            found = names.get(("::", port))  # a name that nothing resolved may be of either family
        return found or self.original_dst or names.get(("127.0.0.1", port)) or names.get(("::1", port)) or ""


_DESTINATIONS_KEPT = 4096  # hosts that a wildcard takes may be without number


@dataclass(frozen=True, slots=True)
class Home:
    """Where this process is, by its node.

    Attributes:
        locality: empty = unknown.
        cluster: the local cluster, whose endpoints this process is one of
            (``cluster_manager.local_cluster_name``); empty = none.
    """

    locality: Locality = NOWHERE
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent configuration (gRFC A74). A call reads it once and never looks again.

    Attributes:
        version: what the source calls it; for logs and ``explain``.
        style: how destinations are looked up.
        listeners: by name.
        routes: RDS tables by name.
        clusters: by name, endpoints included.
        names: host -> addresses, as the control plane's DNS has them.
        inferred: the same for hosts that ``names`` lacks, as far as listeners and virtual hosts tell.
        bindings: the listeners by address.
        listener: the listener to use whatever the port (``listener=`` of a static bootstrap); in gRPC
            style the template of listeners' names (gRFC A47), empty for ``host:port`` itself.
        dormant: clusters that exist and whose endpoints are asked for when a call first needs them.
        home: where this process is.
        changed: clusters, and names of endpoint assignments, that differ from the snapshot before;
            None where that is not known.
    """

    version: str = ""
    style: Style = Style.SIDECAR
    listeners: Mapping[str, Listener] = field(default_factory=dict)
    routes: Mapping[str, RouteConfiguration] = field(default_factory=dict)
    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    names: NameTable = field(default_factory=NameTable)
    inferred: NameTable = field(default_factory=NameTable)
    bindings: Bindings = field(default_factory=Bindings)
    listener: str = ""
    dormant: Container[str] = ()
    home: Home = Home()
    changed: tuple[frozenset[str], frozenset[str]] | None = field(default=None, compare=False, repr=False)
    # Where (host, port, TLS, HTTP/2) led before: a value of the snapshot, found by look-up.
    _destinations: dict[tuple[str, int, bool, bool], Destination] = field(
        init=False, compare=False, repr=False, default_factory=dict
    )

    def resolve(self, host: str) -> tuple[str, ...]:
        """Return the addresses a lower-case host stands for: the host itself where nothing says."""
        if self.style is not Style.SIDECAR:
            return (host,)
        return self.names.lookup(host) or self.inferred.lookup(host) or (host,)

    def find_listener(self, address: str, port: int) -> Listener | None:
        """Return the outbound listener that Envoy would take for ``address:port``, or None.

        Args:
            address: one of :meth:`resolve`; the host itself in gRPC style.
            port: the URL's.
        """
        if self.style is Style.GRPC:
            return self.listeners.get(listener_name(self.listener or "%s", f"{address}:{port}"))
        if self.style is Style.STATIC:
            return self._static_listener(port)
        return self.listeners.get(self.bindings.find(address, port))

    def _static_listener(self, port: int) -> Listener | None:
        if self.listener:
            return self.listeners.get(self.listener)
        outbound = [listener for listener in self.listeners.values() if not listener.inbound]
        if len(outbound) == 1:
            return outbound[0]
        return next((listener for listener in outbound if any(port == bound for _, bound in listener.bound)), None)

    def destination(
        self, host: str, port: int, *, tls: bool = False, http2: bool = False, chance: Randomness | None = None
    ) -> Destination | None:
        """Return where ``host:port`` leads, or None when no listener takes it.

        Args:
            host: lower case, without port and brackets.
            port: the URL's.
            tls: whether the application speaks TLS itself: the chain is chosen by SNI, and HTTP
                policies do not apply.
            http2: whether the call is known to be HTTP/2.
            chance: draws one address where the host has several (headless services), as DNS
                clients do; without it the first counts.
        """
        known = self._destinations.get((host, port, tls, http2))
        if known is not None:
            return known
        addresses = self.resolve(host)
        address = addresses[0]
        if len(addresses) > 1:
            if chance is not None:
                address = addresses[int(chance.random() * len(addresses))]
            return self._destination(address, host, port, tls, http2)
        found = self._destination(address, host, port, tls, http2)
        if found is not None:
            if len(self._destinations) >= _DESTINATIONS_KEPT:
                self._destinations.clear()
            self._destinations[host, port, tls, http2] = found
        return found

    def _destination(self, address: str, host: str, port: int, tls: bool, http2: bool) -> Destination | None:
        listener = self.find_listener(address, port)
        if listener is None:
            return None
        if listener.api is not None:
            return self._http(listener, address, "", listener.api)
        chain = listener.choose(address, port, host, tls=tls, http2=http2)
        if chain is None:
            return None
        if chain.http is not None and not tls:
            return self._http(listener, address, chain.name, chain.http)
        return Destination(listener.name, address, chain.name, tcp=chain.tcp)

    def _http(self, listener: Listener, address: str, chain: str, http: HttpConnectionManager) -> Destination:
        inline = http.route_config
        table = inline if inline is not None else self.routes.get(http.route_name, NO_ROUTES)
        return Destination(listener.name, address, chain, routes=table, http=http)


def is_ip(text: str) -> bool:
    """Tell whether ``text`` is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _short(address: str) -> str:
    """Return an IPv6 address in the one form it is looked up by; anything else as it is."""
    if ":" not in address:
        return address
    try:
        return str(ip_address(address))
    except ValueError:
        return address
