"""From what may be used to the one snapshot that calls read. What did not change stays the same object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import ClusterLoadAssignment
from meshlib.model.names import NameTable
from meshlib.model.snapshot import Bindings, Snapshot, Style
from meshlib.xds.addresses import infer
from meshlib.xds.dependencies import NO_NAMES, Closure

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
        search: the search list of the name table.
    """

    def __init__(self, style: Style, listener: str = "", search: tuple[str, ...] = ()) -> None:
        self._current = Snapshot(style=style, names=NameTable(search=search), listener=listener)
        self._search = search
        self._names = NO_NAMES  # as received, without the search list
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
        received = closure.names()
        same_lookup = listeners is current.listeners and routes is current.routes and received is self._names
        if same_lookup and clusters is current.clusters and self._made:
            return current
        self._made = True
        self._current = replace(current, version=version, listeners=listeners, routes=routes, clusters=clusters)
        if not same_lookup and current.style is Style.SIDECAR:
            names = current.names
            if received is not self._names:
                names = replace(received, search=self._search)
            bindings = current.bindings if listeners is current.listeners else Bindings.of(listeners)
            inferred = infer(listeners, routes, names)
            self._current = replace(self._current, names=names, inferred=inferred, bindings=bindings)
        self._names = received
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
