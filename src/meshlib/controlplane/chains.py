"""Filter chains: what takes a connection, and which filters it then goes through."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2

from meshlib.controlplane.protobuf import duration, metadata

HTTP_ALPN = ("http/1.1", "h2c")
ISTIO_HTTP_ALPN = ("istio-http/1.0", "istio-http/1.1", "istio-h2")  # HTTP within the mesh's mTLS
ISTIO_ALPN = ("istio", "istio-peer-exchange", *ISTIO_HTTP_ALPN)  # anything within it
_HANDSHAKE = 15.0  # seconds


@dataclass(frozen=True, slots=True)
class Chain:
    """A FilterChain in the making.

    Attributes:
        filters: its network filters.
        server_names: TLS server names it takes; none for any.
        destinations: addresses or CIDR blocks it takes.
        transport_protocol, application_protocols: what the inspectors must have found.
        source: path of the resource behind it, for Istio's metadata.
        socket: how TLS is ended here, None for not at all.
        port: the original port that it takes, 0 for any.
        name: its own, perhaps empty.
        guarded: whether a handshake may not take long.
    """

    filters: tuple[Any, ...]
    server_names: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    transport_protocol: str = ""
    application_protocols: tuple[str, ...] = ()
    source: str = ""
    socket: Any | None = None
    port: int = 0
    name: str = ""
    guarded: bool = True

    @property
    def takes_all(self) -> bool:
        """Whether it takes every connection."""
        return self._key == (0, "", (), frozenset(), frozenset())

    @property
    def _key(self) -> tuple[Any, ...]:
        names = frozenset() if "*" in self.server_names else frozenset(self.server_names)
        return (self.port, self.transport_protocol, self.application_protocols, names, frozenset(self.destinations))

    def conflicts(self, other: Chain) -> bool:
        """Tell whether both take the same; Envoy refuses a listener with two such chains."""
        return self._key == other._key

    def message(self) -> Any:
        """Return the FilterChain."""
        chain = listener_components_pb2.FilterChain(name=self.name, filters=self.filters)
        if self.guarded:
            chain.transport_socket_connect_timeout.CopyFrom(duration(_HANDSHAKE))
        if not self.takes_all:
            self._match(chain.filter_chain_match)
        if self.source:
            chain.metadata.CopyFrom(metadata(istio={"config": self.source}))
        if self.socket is not None:
            chain.transport_socket.CopyFrom(self.socket)
        return chain

    def _match(self, match: Any) -> None:
        if self.port:
            match.destination_port.value = self.port
        if "*" not in self.server_names:
            match.server_names.extend(sorted(self.server_names))
        match.prefix_ranges.extend(cidr_range(item) for item in self.destinations)
        match.transport_protocol = self.transport_protocol
        match.application_protocols.extend(self.application_protocols)


def cidr_range(written: str) -> Any:
    """Return a CidrRange for an address or a CIDR block."""
    network = ipaddress.ip_network(written, strict=False)
    message = address_pb2.CidrRange(address_prefix=written.partition("/")[0])
    message.prefix_len.value = network.prefixlen
    return message


def merged(chains: Sequence[Chain], more: Sequence[Chain]) -> list[Chain]:
    """Return the chains with those of ``more`` that take something else than each before."""
    found = list(chains)
    for chain in more:
        if not any(chain.conflicts(known) for known in found):
            found.append(chain)
    return found
