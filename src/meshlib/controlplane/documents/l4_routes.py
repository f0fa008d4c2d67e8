"""TCP and TLS routes of a VirtualService: where bytes go whose content is not looked at."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from meshlib.controlplane.documents.destinations import Host, L4Destination
from meshlib.controlplane.documents.fields import NOT_EMPTY, Labels, Message, Name, Port, text
from meshlib.controlplane.documents.place import Misfit, Place, Report


def subnet(place: Place, report: Report) -> str:
    """Read an IP address or a CIDR block."""
    value = text(place, report)
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise Misfit(place, f"expected an IP address or a CIDR block, got {value!r}") from None
    return value


Subnet = Annotated[str, subnet]


@dataclass(frozen=True, slots=True, kw_only=True)
class L4Match(Message):
    """``L4MatchAttributes``: all of it must hold."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"sourceSubnet"})  # Istio reads it over too

    destination_subnets: tuple[Subnet, ...] = ()
    port: Port | None = None
    source_labels: Labels = field(default_factory=dict)
    source_namespace: str = ""
    gateways: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSMatch(Message):
    """``TLSMatchAttributes``: a server name of the handshake, and what :class:`L4Match` has."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"sourceSubnet"})

    sni_hosts: Annotated[tuple[Host, ...], NOT_EMPTY]
    destination_subnets: tuple[Subnet, ...] = ()
    port: Port | None = None
    source_labels: Labels = field(default_factory=dict)
    source_namespace: str = ""
    gateways: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TCPRoute(Message):
    """``TCPRoute``: the first whose match holds takes the connection."""

    match: tuple[L4Match, ...] = ()
    route: Annotated[tuple[L4Destination, ...], NOT_EMPTY]

    def check(self, report: Report) -> None:
        """Weights that add up to something."""
        _check_weights(self.at, self.route, report)


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSRoute(Message):
    """``TLSRoute``: passes TLS on by its server name, without looking inside."""

    match: Annotated[tuple[TLSMatch, ...], NOT_EMPTY]
    route: Annotated[tuple[L4Destination, ...], NOT_EMPTY]

    def check(self, report: Report) -> None:
        """Weights that add up to something."""
        _check_weights(self.at, self.route, report)


def _check_weights(place: Place, route: Sequence[L4Destination], report: Report) -> None:
    if len(route) > 1 and sum(item.weight for item in route) == 0:
        report.error(place.child("route"), "expected weights: with several destinations their sum must not be 0")
