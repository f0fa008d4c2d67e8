"""Listeners: where connections go by their destination."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshlib.model.filter_chain import ChainMatcher, Connection, FilterChain, HttpConnectionManager

_EITHER = (False, True)


@dataclass(frozen=True, slots=True)
class Listener:
    """One listener.

    Attributes:
        name: its resource name (``0.0.0.0_80``, ``catalog:80``).
        address: bound address, empty for an API listener.
        port: bound port, 0 for an API listener.
        additional: further addresses and ports it is bound to (``additional_addresses``); with
            ``ipv4_compat`` also the IPv4 form of an IPv6 one.
        api: the connection manager of an ``api_listener`` (gRPC style).
        chains: filter chains, in order; no two may match the same (``OverlappingChains``).
        default_chain: taken when no chain matches.
        inbound: whether ``traffic_direction`` is INBOUND; never used for outbound calls.
        use_original_dst: hands connections to the listener of their destination and keeps those
            that none has.
        sniffs_http: whether an HTTP inspector tells the protocol of plaintext.
        sniffs_tls: whether a TLS inspector tells TLS, its server name and its ALPN.
    """

    name: str
    address: str = ""
    port: int = 0
    additional: tuple[tuple[str, int], ...] = ()
    api: HttpConnectionManager | None = None
    chains: tuple[FilterChain, ...] = ()
    default_chain: FilterChain | None = None
    inbound: bool = False
    use_original_dst: bool = False
    sniffs_http: bool = True
    sniffs_tls: bool = True
    _matcher: ChainMatcher = field(init=False, repr=False, compare=False)
    # (tls, http2) -> chain, for listeners whose chains do not ask for the destination: nearly all.
    _always: Mapping[tuple[bool, bool], FilterChain | None] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_matcher", ChainMatcher(self.chains))
        always = None
        if not self._matcher.by_destination:
            always = {(tls, http2): self._choose("", 0, "", tls, http2) for tls in _EITHER for http2 in _EITHER}
        object.__setattr__(self, "_always", always)

    @property
    def bound(self) -> tuple[tuple[str, int], ...]:
        """Every address and port it is bound to."""
        return ((self.address, self.port), *self.additional) if self.port else self.additional

    def choose(self, address: str, port: int, host: str, *, tls: bool, http2: bool = False) -> FilterChain | None:
        """Return the chain for a call from this process, None when none takes it.

        Args:
            address: the destination, an IP or a name that nothing resolved.
            port: the destination's port.
            host: the server name that the application's own TLS asks for.
            tls: whether the application speaks TLS itself.
            http2: whether it speaks HTTP/2: prior knowledge in plaintext, else ALPN.
        """
        if self._always is not None:
            return self._always[tls, http2]
        return self._choose(address, port, host, tls, http2)

    def _choose(self, address: str, port: int, host: str, tls: bool, http2: bool) -> FilterChain | None:
        if tls and self.sniffs_tls:
            protocols = ("h2",) if http2 else ("http/1.1",)
            connection = Connection(address, port, host, "tls", protocols)
        elif not tls and self.sniffs_http:
            connection = Connection(address, port, protocols=("h2c",) if http2 else ("http/1.1",))
        else:
            connection = Connection(address, port)  # an Envoy that does not look calls it raw_buffer
        return self._matcher.choose(connection) or self.default_chain
