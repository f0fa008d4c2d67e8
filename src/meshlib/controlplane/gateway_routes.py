"""The route tables of a gateway: the VirtualServices bound to it, host by host."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as route_pb2

from meshlib.controlplane.gateway_servers import Bound, bound_virtual_services
from meshlib.controlplane.routes import distinct, routes, virtual_host
from meshlib.controlplane.view import View


@dataclass(slots=True)
class _Host:
    """One host in the making: its routes, and whose they are."""

    port: int
    routes: list[Any] = field(default_factory=list)
    owners: list[tuple[str, str]] = field(default_factory=list)
    redirects: bool = False


def virtual_hosts(view: View, servers: list[Bound]) -> list[Any]:
    """Return the virtual hosts of a table; ``blackhole``, a 404, where nothing is routed."""
    found: dict[str, _Host] = {}
    for item in servers:
        _add(view, item, found)
    made = _collapsed(found)
    return made or [route_pb2.VirtualHost(name=f"blackhole:{servers[0].server.port.number}", domains=["*"])]


def _add(view: View, item: Bound, found: dict[str, _Host]) -> None:
    number, tls = item.server.port.number, item.server.tls
    redirects = tls is not None and tls.https_redirect
    scope = replace(view.scope(frozenset({item.gateway.qualified_name}), number), tls=tls is not None)
    for document, common in bound_virtual_services(view, item):
        made = routes(document, scope)
        for host in common if made else ():
            entry = found.setdefault(host.lower(), _Host(number))
            entry.routes += made
            entry.owners.append((item.gateway.qualified_name, f"{document.namespace}/{document.name}"))
            entry.redirects = entry.redirects or redirects
    for host in item.server.hosts if redirects else ():
        found.setdefault(host.lower().removeprefix("./"), _Host(number)).redirects = True


def _collapsed(found: dict[str, _Host]) -> list[Any]:
    """Return one virtual host for all hosts with the same routes, as istiod does."""
    made: dict[tuple[Any, ...], Any] = {}
    for host in sorted(found, key=_specific):
        entry = found[host]
        key = (entry.redirects, *entry.owners) if entry.owners else (host,)
        if key in made:
            made[key].domains.append(host)
            continue
        # Routes of several VirtualServices for one host merge, catch-alls behind the others.
        ordered = sorted(entry.routes, key=_takes_all)
        made[key] = virtual_host(f"{host}:{entry.port}", [host], ordered)
        if entry.redirects:
            made[key].require_tls = route_pb2.VirtualHost.ALL
    return distinct(item for item in sorted(made.values(), key=lambda item: str(item.name)))


def _specific(host: str) -> tuple[bool, int, str]:
    return (host.startswith("*"), -len(host), host)


def _takes_all(route: Any) -> bool:
    match = route.match
    return match.prefix == "/" and not match.headers and not match.query_parameters
