"""TCP and TLS routes of VirtualServices to the chains of a sidecar's listener."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from meshlib.controlplane import network
from meshlib.controlplane.chains import Chain
from meshlib.controlplane.documents.destinations import L4Destination
from meshlib.controlplane.documents.virtual_service import MESH, VirtualService
from meshlib.controlplane.precedence import Routing
from meshlib.controlplane.routes import Scope, concerns, config_path
from meshlib.controlplane.services import Port, Service
from meshlib.controlplane.view import View


def scope_of(view: View, gateways: frozenset[str], port: int) -> Scope:
    """Return where layer 4 routes are made for."""
    return replace(view.scope(gateways, port), layer4=True)


def tls_chains(
    view: View, routing: Routing, service: Service, port: Port, cidr: tuple[str, ...], names: tuple[str, ...]
) -> list[Chain]:
    """Return the chains of a service's TLS port: by server name where a VirtualService says so.

    ``names`` are the server names of the service itself where several share the listener.
    """
    scope = scope_of(view, frozenset({MESH}), port.number)
    made: list[Chain] = []
    seen: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
    for document in routing.layer4(service.host):
        for tls in document.spec.tls:
            for match in tls.match:
                if not concerns(match, document.namespace, scope):
                    continue
                key = (match.sni_hosts, match.destination_subnets)
                if key not in seen:
                    taken = match.destination_subnets or cidr
                    made.append(_chain(view, document, tls.route, scope, port, match.sni_hosts, taken))
                seen.add(key)
    return made or [Chain(_to_service(view, service, port), server_names=names, destinations=cidr)]


def tcp_chains(view: View, routing: Routing, service: Service, port: Port, cidr: tuple[str, ...]) -> list[Chain]:
    """Return the chains of a service's TCP port: a VirtualService's routes by subnet, then its own."""
    scope = scope_of(view, frozenset({MESH}), port.number)
    made: list[Chain] = []
    replaced = False
    for document in routing.layer4(service.host):
        for tcp in document.spec.tcp:
            held = [match for match in tcp.match if concerns(match, document.namespace, scope)]
            if not tcp.match or any(not match.destination_subnets for match in held):
                return [*made, _chain(view, document, tcp.route, scope, port, (), cidr)]
            subnets = tuple(subnet for match in held for subnet in match.destination_subnets)
            if subnets:
                made.append(replace(_chain(view, document, tcp.route, scope, port, (), subnets), source=""))
                replaced = replaced or sorted(subnets) == sorted(cidr)
    if not replaced:
        made.append(Chain(_to_service(view, service, port), destinations=cidr))
    return made


def _chain(
    view: View, document: VirtualService, route: Sequence[L4Destination], scope: Scope, port: Port,
    names: tuple[str, ...], destinations: tuple[str, ...],
) -> Chain:  # fmt: skip
    filters = network.to_destinations(view, route, document.namespace, document.name, scope, port.protocol)
    return Chain(filters, server_names=names, destinations=destinations, source=config_path(document))


def _to_service(view: View, service: Service, port: Port) -> tuple[Any, ...]:
    """Return the filters that lead to the service: to its only port, else to that of the listener."""
    full = view.registry.services.get(service.host, service)
    number = full.ports[0].number if len(full.ports) == 1 else port.number
    return network.to_service(view, service.host, number, port.protocol)
