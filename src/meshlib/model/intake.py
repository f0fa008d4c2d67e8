"""What a connection manager does to a request before it looks for a route."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class EscapedSlashes(Enum):
    """``PathWithEscapedSlashesAction``: what becomes of ``%2F`` and ``%5C`` in a path."""

    KEEP = 0
    REJECT = 1
    REDIRECT = 2
    FORWARD = 3


@dataclass(frozen=True, slots=True)
class Intake:
    """The fields of ``HttpConnectionManager`` that change path and authority.

    Attributes:
        normalize_path: dot segments go, what need not be escaped is not (RFC 3986).
        merge_slashes: of slashes in a row, one stays.
        escaped_slashes: what becomes of slashes that are escaped.
        strip_port: "any" port of the authority goes, or the "matching" one, which is the port asked for; "" for none.
        strip_trailing_dot: the dot at the end of a host name goes.
    """

    normalize_path: bool = False
    merge_slashes: bool = False
    escaped_slashes: EscapedSlashes = EscapedSlashes.KEEP
    strip_port: str = ""
    strip_trailing_dot: bool = False


AS_IT_IS = Intake()
