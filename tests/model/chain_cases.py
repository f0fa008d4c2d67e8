"""Which filter chain takes a connection: one table for the model and for the real Envoy.

Each case: the matches of a listener's chains, its default chain's presence, a connection, and
the number of the chain that takes it: ``DEFAULT``, or ``NONE`` when Envoy closes the connection.
A connection is (destination IP, port) and what the application speaks: "http", "tls" with a
server name, or "bytes", which no inspector knows.
"""

from __future__ import annotations

from typing import NamedTuple

DEFAULT = -1
NONE = None


class Case(NamedTuple):
    """One case; see the module."""

    name: str
    matches: list[dict[str, object]]
    speaks: str
    server_name: str
    chain: int | None
    default: bool = True
    port: int = 1
    inspectors: tuple[str, ...] = ("http", "tls")


def net(*cidrs: str) -> list[dict[str, object]]:
    return [{"address_prefix": c.partition("/")[0], "prefix_len": int(c.partition("/")[2])} for c in cidrs]


HTTP = {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]}
NAMED = {"server_names": ["a.b.test"]}
SUFFIX = {"server_names": ["*.b.test"]}
WIDER = {"server_names": ["*.test"]}
TLS = {"transport_protocol": "tls"}
NEAR = {"prefix_ranges": net("127.0.0.0/8")}
NEARER = {"prefix_ranges": net("127.0.0.0/30")}
ELSEWHERE = {"prefix_ranges": net("10.0.0.0/8")}
PORT = {"destination_port": 1}  # the port of the case, whatever it is in truth
OTHER_PORT = {"destination_port": 2}

CASES = [
    Case("one chain takes all", [{}], "http", "", 0),
    Case("no chain fits, the default does", [HTTP], "bytes", "", DEFAULT),
    Case("no chain fits, none is the default", [HTTP], "bytes", "", NONE, default=False),
    Case("sniffed http", [HTTP], "http", "", 0),
    Case("http is not sniffed without an inspector", [HTTP], "http", "", DEFAULT, inspectors=()),
    Case("http is not sniffed by the TLS inspector", [HTTP], "http", "", DEFAULT, inspectors=("tls",)),
    Case("http beside tls", [HTTP, TLS], "http", "", 0),
    Case("tls beside http", [HTTP, TLS], "tls", "a.b.test", 1),
    Case("a name before its suffixes", [WIDER, SUFFIX, NAMED], "tls", "a.b.test", 2),
    Case("the longest suffix", [WIDER, SUFFIX, NAMED], "tls", "c.b.test", 1),
    Case("a shorter suffix", [WIDER, SUFFIX, NAMED], "tls", "c.test", 0),
    Case("a suffix is not the name itself", [SUFFIX], "tls", "b.test", DEFAULT),
    Case("a suffix takes deeper names", [WIDER], "tls", "x.y.z.test", 0),
    Case("no name fits, the chain without does", [NAMED, {}], "tls", "other", 1),
    Case("plaintext has no name", [NAMED, {}], "http", "", 1),
    Case("a name in capitals", [{"server_names": ["A.b.test"]}], "tls", "a.b.test", 0),
    Case("no TLS inspector: no name", [NAMED, {}], "tls", "a.b.test", 1, inspectors=()),
    Case("no TLS inspector: no tls", [TLS, {}], "tls", "a.b.test", 1, inspectors=("http",)),
    Case("no TLS inspector: raw_buffer", [HTTP, {"transport_protocol": "raw_buffer"}], "tls", "a", 1, inspectors=()),
    Case("the port first", [{**NAMED}, {**PORT}], "tls", "a.b.test", 1),
    Case("another port", [{**OTHER_PORT}, {**NAMED}], "tls", "a.b.test", 1),
    Case("the port, and no way back", [{}, {**PORT, **NAMED}], "tls", "other", DEFAULT),
    Case("the address before the name", [NAMED, NEAR], "tls", "a.b.test", 1),
    Case("the narrowest address", [NEAR, NEARER, {}], "http", "", 1),
    Case("another address", [ELSEWHERE, {}], "http", "", 1),
    Case("the narrowest address, and no way back", [NEAR, {**NEARER, **NAMED}], "tls", "other", DEFAULT),
    Case("the name, and no way back", [WIDER, {**SUFFIX, **HTTP}], "tls", "a.b.test", DEFAULT),
    Case("the name before the transport", [TLS, {**NAMED}], "tls", "a.b.test", 1),
    Case("the transport before the protocol", [TLS, {"application_protocols": ["http/1.1"]}], "tls", "x", 0),
    Case("the protocol, and no way back", [{**TLS}, {**TLS, "application_protocols": ["other"]}], "tls", "x", 0),
    Case("the application's ALPN", [{**TLS, "application_protocols": ["http/1.1"]}, TLS], "tls", "x", 0),
    Case("the caller is near", [{"source_type": "SAME_IP_OR_LOOPBACK"}, {"source_type": "EXTERNAL"}], "http", "", 0),
    Case("the caller is not far", [{"source_type": "EXTERNAL"}], "http", "", DEFAULT),
    Case("the caller's address", [{"source_prefix_ranges": net("127.0.0.0/8")}, {}], "http", "", 0),
    Case("another caller's address", [{"source_prefix_ranges": net("10.0.0.0/8")}, {}], "http", "", 1),
    Case("the peer's address", [{"direct_source_prefix_ranges": net("127.0.0.0/8")}, {}], "http", "", 0),
    Case("the peer before the type", [{"source_type": "SAME_IP_OR_LOOPBACK"},
         {"direct_source_prefix_ranges": net("127.0.0.1/32")}], "http", "", 1),
    Case("the caller's port", [{"source_ports": [1]}, {}], "http", "", 1),
    Case("http before the caller", [{"source_prefix_ranges": net("127.0.0.0/8")}, HTTP], "http", "", 1),
]  # fmt: skip
