"""Name tables: the addresses of the mesh's hosts, as Istio's DNS has them."""

from __future__ import annotations

from typing import Any

from meshlib.model.names import NameTable
from meshlib.model.snapshot import is_ip
from meshlib.xds.scope import Scope


def name_table(scope: Scope, message: Any) -> NameTable:
    """Return an ``istio.networking.nds.v1.NameTable``.

    ``registry``, ``shortname`` and ``namespace`` say which short forms Istio's agent adds; a
    resolver's search list finds these and more (:class:`~meshlib.model.names.NameTable`). As in
    the agent, an address that is none is left out, and a host with nothing else as well.
    """
    scope.audit(message)
    addresses: dict[str, tuple[str, ...]] = {}
    wildcards: dict[str, tuple[str, ...]] = {}
    for host, info in message.table.items():
        place = scope.at("table", host)
        place.audit(info)
        ips = tuple(ip for ip in info.ips if is_ip(ip))
        if len(ips) < len(info.ips):
            place.note("ips", "what is no IP address is left out")
        family = tuple(ip for ip in ips if (":" in ip) == (":" in ips[0]))  # one family, as one DNS question
        for name in (host, *info.alt_hosts):
            lower = name.lower().removesuffix(".")
            if family and lower.startswith("*."):
                wildcards[lower[1:]] = family
            elif family:
                addresses[lower] = family
    return NameTable(addresses, wildcards)
