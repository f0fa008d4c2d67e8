"""What a resolver is, and the system's."""

from __future__ import annotations

import socket
from typing import NamedTuple, Protocol

from meshlib.lookups.ttl import ttl_of
from meshlib.model.discovery import LookupFamily

_NO_SUCH_NAME = frozenset(
    code for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if (code := getattr(socket, name, None)) is not None
)
_V4, _V6 = socket.AF_INET, socket.AF_INET6
# The families to ask for, one after the other until one has addresses.
_TURNS: dict[LookupFamily, tuple[int, ...]] = {
    LookupFamily.V4_ONLY: (_V4,),
    LookupFamily.V6_ONLY: (_V6,),
    LookupFamily.AUTO: (_V6, _V4),
    LookupFamily.V4_PREFERRED: (_V4, _V6),
    LookupFamily.ALL: (socket.AF_UNSPEC,),
}


class Answer(NamedTuple):
    """What a look-up came to.

    Attributes:
        addresses: in the resolver's order; none where the name does not exist.
        ttl: seconds that the answer holds, None where nobody told.
        error: why there is no answer, empty where there is one.
    """

    addresses: tuple[str, ...] = ()
    ttl: float | None = None
    error: str = ""


class Resolver(Protocol):
    """Looks a name up; may block, may be called in several threads, and raises ``OSError`` for a failure."""

    def __call__(self, name: str, family: LookupFamily, ttl: bool, /) -> Answer:
        """Return the addresses of a name, none where it does not exist; ``ttl`` says whether its TTL is wanted."""
        ...


def system_resolver(name: str, family: LookupFamily, ttl: bool) -> Answer:
    """Look a name up by ``getaddrinfo``, as the process's configuration says.

    It does not tell the TTL, which is asked of the nameservers of ``/etc/resolv.conf``; a name
    that they do not know (of ``/etc/hosts``, say) has none.
    """
    for turn in _TURNS[family]:
        addresses = _addresses(name, turn)
        if addresses:
            return Answer(addresses, ttl_of(name, v6=":" in addresses[0]) if ttl else None)
    return Answer()


def _addresses(name: str, family: int) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NO_SUCH_NAME:
            return ()
        raise
    except UnicodeError as error:
        raise OSError(f"{name!r} cannot be a host name: {error}") from None
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))
