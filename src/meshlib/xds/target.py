"""gRPC targets: what a management server's address means, and what to dial.

The schemes of gRPC's naming document (doc/naming.md): ``host:port``, ``[ipv6]:port``, ``dns:``,
``ipv4:``, ``ipv6:`` and ``unix:``.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from meshlib.errors import BootstrapError

_DEFAULT_PORT = "443"  # where a dns:, ipv4: or ipv6: target names none


@dataclass(frozen=True, slots=True)
class Address:
    """A socket to dial.

    Attributes:
        family: ``socket.AF_INET``, ``AF_INET6`` or ``AF_UNIX``.
        sockaddr: the address in that family.
    """

    family: int
    sockaddr: Any

    @property
    def local(self) -> bool:
        """Whether what is sent there stays on this machine: a unix socket, or loopback."""
        if self.family not in (socket.AF_INET, socket.AF_INET6):
            return True
        found = ipaddress.ip_address(self.sockaddr[0].partition("%")[0])
        mapped = getattr(found, "ipv4_mapped", None)
        return (mapped or found).is_loopback

    def __str__(self) -> str:
        if isinstance(self.sockaddr, str):
            return f"unix:{self.sockaddr}"
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if self.family == socket.AF_INET6 else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Target:
    """What an address names.

    Attributes:
        path: the unix socket; empty for none.
        hosts: host and port, of which ``dns:`` and ``host:port`` have one.
    """

    path: str = ""
    hosts: tuple[tuple[str, int], ...] = ()

    @property
    def authority(self) -> str:
        """The ``:authority`` of requests, unless another is given."""
        if not self.hosts:
            return "localhost"
        host, port = self.hosts[0]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def host(self) -> str:
        """The name that the server's certificate must be for, unless another is given."""
        return self.hosts[0][0] if self.hosts else "localhost"

    def resolve(self) -> list[Address]:
        """Return what to dial, in the order of RFC 6724; blocks for the resolver, raises ``OSError``."""
        if self.path:
            if not hasattr(socket, "AF_UNIX"):
                raise OSError("this system has no unix sockets")
            return [Address(socket.AF_UNIX, self.path)]
        found = (
            Address(family, sockaddr)
            for host, port in self.hosts
            for family, _, _, _, sockaddr in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(found))


def parse_target(address: str) -> Target:
    """Return what ``address`` names; raises ``BootstrapError`` for what cannot be dialled."""
    scheme, colon, rest = address.partition(":")
    if colon and scheme == "unix":
        path = rest.removeprefix("//")
        if not path or (path != rest and not path.startswith("/")):
            raise BootstrapError(f"{address!r} is no address: unix:// needs an absolute path")
        return Target(path=path)
    if colon and scheme == "dns":
        if rest.startswith("//"):
            resolver, _, rest = rest[2:].partition("/")
            if resolver:
                raise BootstrapError(f"{address!r}: a DNS server cannot be named; leave it out: dns:///{rest}")
        return Target(hosts=(_host_port(rest, address, _DEFAULT_PORT),))
    if colon and scheme in ("ipv4", "ipv6"):
        hosts = tuple(_host_port(part, address, _DEFAULT_PORT) for part in rest.split(","))
        for host, _ in hosts:
            _check_ip(host, scheme, address)
        return Target(hosts=hosts)
    return Target(hosts=(_host_port(address, address, ""),))


def _host_port(text: str, address: str, default: str) -> tuple[str, int]:
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        valid = ":" in host and (port.startswith(":") or (not port and bool(default)))
        port = port[1:]
    elif text.count(":") > 1:  # an IPv6 address; without brackets only where no port is due
        host, port, valid = text, "", bool(default)
    else:
        host, colon, port = text.partition(":")
        valid = bool(host) and "/" not in host and bool(colon or default)
    port = port or default
    if not valid or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise BootstrapError(f"{address!r} is no address: expected host:port, [ipv6]:port or unix:///path")
    return host, int(port)


def _check_ip(host: str, scheme: str, address: str) -> None:
    kind = ipaddress.IPv4Address if scheme == "ipv4" else ipaddress.IPv6Address
    try:
        kind(host)
    except ValueError:
        raise BootstrapError(
            f"{address!r} is no address: {host!r} is no {scheme.replace('ip', 'IP')} address"
        ) from None
