"""The TTL of a name, which ``getaddrinfo`` does not tell: one question to a nameserver (RFC 1035)."""

from __future__ import annotations

import secrets
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

Server = tuple[str, int]

_PATIENCE = 0.5  # seconds for all servers together: the addresses are known, this is a courtesy
_A, _CNAME, _AAAA, _IN = 1, 5, 28, 1
_RECURSION_DESIRED, _RESPONSE, _RCODE = 0x0100, 0x8000, 0x000F
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")  # type, class, TTL, length of the data
_LONGEST_LABEL = 63


def nameservers(path: str = "/etc/resolv.conf") -> list[Server]:
    """Return the nameservers that the system asks; none where the file cannot be read."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    return [(each[1], 53) for each in words if len(each) >= 2 and each[0] == "nameserver"]


def ttl_of(name: str, *, v6: bool, servers: Sequence[Server] | None = None) -> float | None:
    """Return the seconds that the addresses of a name hold, None where no server tells.

    Args:
        name: the name.
        v6: whether its IPv6 addresses are meant.
        servers: whom to ask, by default :func:`nameservers`.
    """
    until = time.monotonic() + _PATIENCE
    try:
        number = secrets.randbelow(1 << 16)
        question = query(number, name, v6=v6)
    except ValueError:
        return None
    for server in nameservers() if servers is None else servers:
        left = until - time.monotonic()
        if left <= 0.0:
            return None
        found = _ask(server, question, number, left)
        if found is not None:
            return found
    return None


def _ask(server: Server, question: bytes, number: int, timeout: float) -> float | None:
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            sock.connect(server)  # so that only its answer is received
            sock.send(question)
            return ttl_in(sock.recv(65535), number)
    except OSError:
        return None


def query(number: int, name: str, *, v6: bool) -> bytes:
    """Return a question for the addresses of a name; raises ``ValueError`` for what cannot be one."""
    labels = [label.encode("idna") for label in name.rstrip(".").split(".")]  # UnicodeError is a ValueError
    if not all(0 < len(label) <= _LONGEST_LABEL for label in labels):
        raise ValueError(f"{name!r} has a label of no or too many characters")
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    kind = _AAAA if v6 else _A
    return _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0) + encoded + struct.pack("!HH", kind, _IN)


def ttl_in(message: bytes, number: int) -> float | None:
    """Return the least TTL of the addresses, and of the names they go by, in an answer; None for none."""
    try:
        found, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
        if found != number or not flags & _RESPONSE or flags & _RCODE:
            return None
        at = _HEADER.size
        for _ in range(questions):
            at = _past_name(message, at) + 4
        ttls, addresses = [], 0
        for _ in range(answers):
            at = _past_name(message, at)
            kind, _, ttl, length = _RECORD.unpack_from(message, at)
            at += _RECORD.size + length
            if kind in (_A, _AAAA, _CNAME):
                ttls.append(ttl)
                addresses += kind != _CNAME
    except (struct.error, IndexError):
        return None
    return float(min(ttls)) if addresses else None


def _past_name(message: bytes, at: int) -> int:
    while size := message[at]:
        if size > _LONGEST_LABEL:
            return at + 2  # a pointer ends it
        at += 1 + size
    return at + 1
