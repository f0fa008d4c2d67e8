"""From what may be used to the one snapshot that calls read. What did not change stays the same object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TypeVar

from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import ClusterLoadAssignment
from meshlib.model.listener import Listener
from meshlib.model.route import RouteConfiguration
from meshlib.model.snapshot import Snapshot, Style
from meshlib.xds.dependencies import Closure

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class _Joined:
    """A cluster with its endpoints, and what it was made of."""

    cluster: Cluster
    assignment: ClusterLoadAssignment | None
    result: Cluster


class Compiler:
    """Makes snapshots. Not thread-safe: one thread owns it.

    Args:
        style: how destinations are looked up.
        listener: the listener to use whatever the port; see :class:`Snapshot`.
    """

    def __init__(self, style: Style, listener: str = "") -> None:
        self._current = Snapshot(style=style, listener=listener)
        self._made = False
        self._joined: dict[str, _Joined] = {}

    def compile(self, closure: Closure, version: str) -> Snapshot:
        """Return the snapshot of ``closure``: the current one itself when nothing changed.

        ``version`` therefore is that of the update which last changed something.
        """
        current = self._current
        listeners = _kept(closure.listeners(), current.listeners)
        routes = _kept(closure.routes(), current.routes)
        clusters = _kept(self._join(closure.clusters(), closure.assignments()), current.clusters)
        same_lookup = listeners is current.listeners and routes is current.routes
        if same_lookup and clusters is current.clusters and self._made:
            return current
        self._made = True
        self._current = replace(current, version=version, listeners=listeners, routes=routes, clusters=clusters)
        if not same_lookup and current.style is Style.SIDECAR:
            addresses, bound = _addresses(listeners, routes), _bound(listeners)
            self._current = replace(self._current, addresses=addresses, bound=bound)
        return self._current

    def _join(
        self, clusters: Mapping[str, Cluster], assignments: Mapping[str, ClusterLoadAssignment]
    ) -> dict[str, Cluster]:
        """Put endpoints into clusters; a cluster is made anew only when it or they are new."""
        joined: dict[str, _Joined] = {}
        for name, cluster in clusters.items():
            assignment = assignments.get(cluster.eds_name) if cluster.eds_name else None
            old = self._joined.get(name)
            if old is not None and old.cluster is cluster and old.assignment is assignment:
                joined[name] = old
            else:
                result = replace(cluster, assignment=assignment) if cluster.eds_name else cluster
                joined[name] = _Joined(cluster, assignment, result)
        self._joined = joined
        return {name: entry.result for name, entry in joined.items()}


def _kept(new: Mapping[str, _Value], old: Mapping[str, _Value]) -> Mapping[str, _Value]:
    """Return ``old`` when ``new`` holds the same objects under the same names."""
    same = len(new) == len(old) and all(old.get(name) is value for name, value in new.items())
    return old if same else new


def _bound(listeners: Mapping[str, Listener]) -> dict[str, str]:
    """Return the listeners by what they are bound to, where their name does not say it."""
    return {
        key: name
        for name, listener in listeners.items()
        if listener.port and (key := f"{listener.address}_{listener.port}") not in listeners
    }


def _addresses(listeners: Mapping[str, Listener], routes: Mapping[str, RouteConfiguration]) -> dict[str, str]:
    """Return host -> service address, for the addresses that some listener is bound to.

    Istio lists a service's address among the domains of its virtual host, beside its names.
    """
    bound = {listener.address for listener in listeners.values() if listener.address}
    found: dict[str, str] = {}
    for table in routes.values():
        for host in table.virtual_hosts:
            address = next((d.strip("[]") for d in host.domains if d.strip("[]") in bound and _is_ip(d)), None)
            if address is not None:
                for domain in host.domains:
                    if "*" not in domain and not _is_ip(domain):
                        found.setdefault(domain.lower(), address)
    return found


def _is_ip(domain: str) -> bool:
    try:
        ip_address(domain.strip("[]"))
    except ValueError:
        return False
    return True
