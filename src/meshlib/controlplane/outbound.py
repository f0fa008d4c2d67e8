"""A sidecar's outbound listeners: which services share one, and what it takes for which."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from meshlib.controlplane import hosts, listeners, managers
from meshlib.controlplane.chains import HTTP_ALPN, Chain, merged
from meshlib.controlplane.l4 import tcp_chains, tls_chains
from meshlib.controlplane.precedence import Routing
from meshlib.controlplane.scoping import Egress
from meshlib.controlplane.services import Port, Protocol, Resolution, Service, protocol_named
from meshlib.controlplane.view import View

WILDCARD, LOCALHOST = "0.0.0.0", "127.0.0.1"
_SERVER_FIRST = (Protocol.MONGO, Protocol.MYSQL)  # whose bytes cannot be waited for


@dataclass(slots=True)
class _Entry:
    """One listener in the making; ``locked`` when a Sidecar has said all of it."""

    protocol: Protocol
    chains: list[Chain]
    binds: bool
    locked: bool = False


@dataclass(slots=True)
class _Listeners:
    """All listeners in the making, by address and port."""

    view: View
    entries: dict[tuple[str, int], _Entry] = field(default_factory=dict)
    managers: dict[tuple[str, str, Protocol], Any] = field(default_factory=dict)

    def add(
        self, service: Service, port: Port, bind: str, routing: Routing, cidr: tuple[str, ...] = (), *, binds: bool
    ) -> None:
        """Put a service's port where it belongs, beside others or in place of them."""
        key = (bind, port.number)
        entry = self.entries.get(key)
        if entry is not None and entry.locked:
            return
        kind, protocol = _kind(port.protocol), port.protocol
        if entry is not None and kind == _kind(entry.protocol) and kind in ("http", "auto"):
            return  # the listener is there, and its routes tell the services apart
        if kind == "http":
            chains = [self._http(bind, port, None)]
            if bind == WILDCARD:
                protocol = Protocol.SNIFFED  # other bytes pass through
        else:
            chains = self._layer4(service, port, bind, routing, cidr)
            if kind == "auto":
                chains.append(self._http(bind, port, service))
        self._put(key, port.protocol, protocol, kind, chains, binds=binds)

    def _put(
        self,
        key: tuple[str, int],
        incoming: Protocol,
        protocol: Protocol,
        kind: str,
        chains: list[Chain],
        *,
        binds: bool,
    ) -> None:
        entry = self.entries.get(key)
        if entry is None:
            self.entries[key] = _Entry(protocol, chains, binds)
            return
        before = _kind(entry.protocol)
        if incoming is not entry.protocol and (incoming in _SERVER_FIRST or entry.protocol in _SERVER_FIRST):
            return  # looking at the bytes would break a protocol whose server speaks first
        if kind == "auto" and before == "http":
            self.entries[key] = _Entry(protocol, chains, binds)
        elif kind == "http" and before != "tcp":
            return
        else:
            entry.chains = merged(entry.chains, chains)
            if before != "auto" and not (kind == before == "tcp"):
                entry.protocol = Protocol.SNIFFED

    def _http(self, bind: str, port: Port, service: Service | None) -> Chain:
        """Return the chain of HTTP; a service looked at on its own address has a table of its own."""
        own = service is not None and bind != WILDCARD
        route_name = f"{service.host}:{port.number}" if own and service else str(port.number)
        if bind.startswith("unix://"):
            route_name = bind
        key = (f"{bind}_{port.number}", route_name, port.protocol)
        manager = self.managers.get(key)
        if manager is None:  # services that share a listener ask for the same one
            manager = self.managers[key] = managers.sidecar(self.view, *key)
        if service is None and bind != WILDCARD:
            return Chain((manager,))
        return Chain((manager,), transport_protocol="raw_buffer", application_protocols=HTTP_ALPN)

    def _layer4(self, service: Service, port: Port, bind: str, routing: Routing, cidr: tuple[str, ...]) -> list[Chain]:
        if port.protocol is Protocol.TLS:
            wide = bind == WILDCARD and (bool(cidr) or not service.vip)
            names = (service.host, *_alias_names(self.view, service)) if wide else ()
            return tls_chains(self.view, routing, service, port, cidr, names)
        return tcp_chains(self.view, routing, service, port, cidr)


def _kind(protocol: Protocol) -> str:
    return "http" if protocol.is_http else "auto" if protocol is Protocol.SNIFFED else "tcp"


def _alias_names(view: View, service: Service) -> Iterator[str]:
    for alias in service.aliases:
        yield from hosts.domains(alias, view.node.namespace, view.options.domain)


def outbound_listeners(view: View) -> Iterator[Any]:
    """Yield a sidecar's outbound listeners but virtualOutbound."""
    made = _Listeners(view)
    for egress in view.egress:
        if egress.port is None:
            for entry in made.entries.values():
                entry.locked = True
        _egress(view, made, egress)
    for (address, port), entry in sorted(made.entries.items()):
        yield listeners.outbound_listener(view, address, port, entry.chains, binds=entry.binds)


def _egress(view: View, made: _Listeners, egress: Egress) -> None:
    written = egress.listener
    binds = view.node.binds or (written is not None and written.capture_mode == "NONE")
    bind = written.bind if written else ""
    if bind.startswith("unix://"):
        binds = True
    bind = bind or (LOCALHOST if binds else "")
    for service in egress.services:
        if service.resolution is Resolution.ALIAS:
            continue
        for port in service.ports:
            if written is not None and written.port is not None:
                protocol = protocol_named(written.port.protocol)
                port = Port(written.port.number, written.port.name, protocol, None, port.endpoints)
            if port.protocol is Protocol.UDP:
                continue
            for address, cidr in _addresses(view, service, port, bind):
                made.add(service, port, address, egress.routing, cidr, binds=binds)


def _addresses(view: View, service: Service, port: Port, bind: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield where a service's port is listened on, with the CIDR blocks that are taken there."""
    if bind or port.protocol.is_http:
        yield bind or WILDCARD, ()
    elif service.resolution is Resolution.NONE and not service.addresses and (service.kubernetes or service.selector):
        for endpoint in port.endpoints:  # each Pod is called by its own address, but for the one that calls
            if endpoint.address != view.node.ip and _is_address(endpoint.address):
                yield endpoint.address, ()
    elif not service.addresses:
        yield WILDCARD, ()
    for address in service.addresses if not (bind or port.protocol.is_http) else ():
        yield (WILDCARD, (address,)) if "/" in address else (address, ())


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
