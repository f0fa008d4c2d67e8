"""Idling: what was asked for on demand and is not used any more is given up."""

from __future__ import annotations

from collections.abc import Callable, Collection

from meshlib.xds.assembly import Assembly
from meshlib.xds.resource import Reference
from meshlib.xds.type_urls import CLUSTER, LISTENER


class Idling:
    """Remembers what is in use. The client's thread owns it.

    Something is given up when two sweeps in a row found no use of it, so that it lives at least
    one period and at most two.

    Args:
        assembly: what is known, and where names are given up.
        usage: returns the clusters used since it was last asked; None gives nothing up.
    """

    def __init__(self, assembly: Assembly, usage: Callable[[], Collection[str]] | None) -> None:
        self._assembly = assembly
        self._usage = usage
        self._fresh: set[Reference] = set()  # asked for since the last sweep, or used in it
        self._known: set[Reference] = set()

    @property
    def in_use(self) -> frozenset[Reference]:
        """What was asked for on demand, and is not given up."""
        return frozenset(self._known) | {(CLUSTER, name) for name in self._assembly.dependencies.awake}

    def woken(self, cluster: str) -> None:
        """A call needs a cluster."""
        self._fresh.add((CLUSTER, cluster))
        self._known.add((CLUSTER, cluster))

    def demanded(self, listener: str) -> None:
        """A call needs a listener."""
        self._fresh.add((LISTENER, listener))
        self._known.add((LISTENER, listener))

    def sweep(self) -> bool:
        """Give up what was not used; tells whether anything was."""
        if self._usage is None:
            return False
        used = frozenset(self._usage())
        dependencies = self._assembly.dependencies
        candidates = self.in_use
        idle = {ref for ref in candidates - self._fresh if not self._in_use(ref, used)}
        self._fresh = {ref for ref in candidates if self._in_use(ref, used)}
        self._known -= idle
        for url, name in idle:
            if url == LISTENER:
                self._assembly.undemand(name)
            elif dependencies.on_demand:
                dependencies.sleep(name)
            else:
                dependencies.unroot(CLUSTER, name)
        return bool(idle)

    def _in_use(self, reference: Reference, used: frozenset[str]) -> bool:
        url, name = reference
        return name in used if url == CLUSTER else not used.isdisjoint(self._assembly.clusters_of(name))
