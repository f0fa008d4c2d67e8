"""Service addresses where no name table says them: what Istio's listeners and route tables give away."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address

from meshlib.model.listener import Listener
from meshlib.model.names import NameTable
from meshlib.model.route import RouteConfiguration
from meshlib.model.snapshot import is_ip


def infer(listeners: Mapping[str, Listener], routes: Mapping[str, RouteConfiguration], names: NameTable) -> NameTable:
    """Return the addresses of hosts that ``names`` lacks.

    - Istio lists a service's address among the domains of its virtual host, beside its names.
    - A listener on a service's own address (TCP, TLS and sniffed ports; of a headless service one
      a Pod) leads to clusters ``outbound|port|subset|host``, or to the table ``host:port``. A name
      table holds all of these.
    """
    own = {address for listener in listeners.values() for address in _own_addresses(listener)}
    if not own:
        return replace(names, addresses={}, wildcards={})
    found: dict[str, tuple[str, ...]] = {}
    for host, address in _of_virtual_hosts(routes, own):
        if host not in found and not names.lookup(host):
            found[host] = (address,)
    told = frozenset(found)
    for listener in listeners.values() if not names.addresses else ():
        hosts = _hosts(listener)
        for address in _own_addresses(listener):
            for host in hosts if len(hosts) == 1 else ():
                if host not in told and not names.lookup(host) and address not in found.get(host, ()):
                    found[host] = (*found.get(host, ()), address)
    return replace(names, addresses=found, wildcards={})


def _own_addresses(listener: Listener) -> Iterator[str]:
    """Yield the addresses of one service that a listener is bound to."""
    for address, _ in listener.bound:
        if not listener.inbound and is_ip(address):
            ip = ip_address(address)
            if not ip.is_unspecified and not ip.is_loopback:
                yield str(ip)


def _of_virtual_hosts(routes: Mapping[str, RouteConfiguration], own: Collection[str]) -> Iterator[tuple[str, str]]:
    for table in routes.values():
        for host in table.virtual_hosts:
            bare = [domain.strip("[]") for domain in host.domains]
            address = next((each for each in bare if each in own), "")
            if address:
                yield from ((d.lower(), address) for d in host.domains if "*" not in d and not is_ip(d.strip("[]")))


def _hosts(listener: Listener) -> set[str]:
    """Return the hosts whose listener it is; more than one where a VirtualService sends some elsewhere."""
    hosts = set()
    for chain in (*listener.chains, *((listener.default_chain,) if listener.default_chain else ())):
        if chain.http is not None:
            hosts.add(chain.http.route_name.rpartition(":")[0])
        for target in chain.tcp.clusters if chain.tcp else ():
            hosts.add(target.name.rpartition("|")[2] if target.name.startswith("outbound|") else "")
    return {host.lower() for host in hosts if host}
