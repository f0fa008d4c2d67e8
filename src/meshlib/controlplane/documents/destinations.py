"""Where a VirtualService leads to: hosts, and the destinations of its routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from meshlib.controlplane.documents.fields import Count, Message, Name, Port, name
from meshlib.controlplane.documents.place import Misfit, Place, Report


def host(place: Place, report: Report) -> str:
    """Read a host name, or one with a wildcard first label."""
    value = name(place, report)
    if "*" in value[1:] or (value[0] == "*" and value != "*" and not value.startswith("*.")):
        raise Misfit(place, f"expected a host name, '*' or '*.domain', got {value!r}")
    return value


Host = Annotated[str, host]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSelector(Message):
    """``port: {number: 80}``."""

    number: Port


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination(Message):
    """``Destination``."""

    host: Name
    subset: str = ""
    port: PortSelector | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class L4Destination(Message):
    """``RouteDestination``, of TCP and TLS routes."""

    destination: Destination
    weight: Count = 0
