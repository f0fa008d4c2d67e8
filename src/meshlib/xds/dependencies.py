"""The closure LDS → RDS → CDS → EDS: what to ask for next, and what may be used now.

A resource is *ready* when everything it names is settled, all the way down: a value, a refused
update, or nothing by that name. What is not ready yet is not used yet: the version in use stays
in use until then, as in Envoy's warming, so that a call sees old or new and never half of each
(gRFC A74), and nothing else has to wait for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import ClusterLoadAssignment
from meshlib.model.listener import Listener
from meshlib.model.names import NameTable
from meshlib.model.route import RouteConfiguration
from meshlib.xds.cache import Reference, ResourceCache, Value, references
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER, NAME_TABLE, ROUTE, SINGLETON, WILDCARD

# From what is named to what names it: readiness is worked out in this order.
_ORDER = (NAME_TABLE, ENDPOINT, CLUSTER, ROUTE, LISTENER)

NO_NAMES = NameTable()


@dataclass(frozen=True, slots=True)
class Closure:
    """What one look at the cache came to.

    Attributes:
        wanted: names to be subscribed to, by type URL.
        usable: values that may be used now, by type URL and name.
        waiting: names asked for, or to be asked for, that are not settled.
    """

    wanted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    usable: Mapping[str, Mapping[str, Value]] = field(default_factory=lambda: {url: {} for url in _ORDER})
    waiting: tuple[Reference, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing is awaited."""
        return not self.waiting

    def listeners(self) -> Mapping[str, Listener]:
        """Return the usable listeners."""
        return {name: v for name, v in self.usable[LISTENER].items() if isinstance(v, Listener)}

    def routes(self) -> Mapping[str, RouteConfiguration]:
        """Return the usable route tables."""
        return {name: v for name, v in self.usable[ROUTE].items() if isinstance(v, RouteConfiguration)}

    def clusters(self) -> Mapping[str, Cluster]:
        """Return the usable clusters, without the endpoints of EDS."""
        return {name: v for name, v in self.usable[CLUSTER].items() if isinstance(v, Cluster)}

    def assignments(self) -> Mapping[str, ClusterLoadAssignment]:
        """Return the usable endpoints, by EDS name."""
        return {name: v for name, v in self.usable[ENDPOINT].items() if isinstance(v, ClusterLoadAssignment)}

    def names(self) -> NameTable:
        """Return the usable name table, an empty one where there is none."""
        found = self.usable[NAME_TABLE].get(SINGLETON)
        return found if isinstance(found, NameTable) else NO_NAMES


def resolve(cache: ResourceCache, *, wildcards: Collection[str], roots: Collection[str], previous: Closure) -> Closure:
    """Follow the references from the roots down.

    Args:
        cache: what is known.
        wildcards: the types that are asked for whole.
        roots: the listeners in demand, where listeners are asked for by name.
        previous: what was in use, for what is not ready yet.
    """
    ready = _ready(cache)
    wanted = _wanted(cache, wildcards, roots, ready, previous)
    usable: dict[str, dict[str, Value]] = {url: {} for url in _ORDER}
    for url in _ORDER:
        before, whole = previous.usable[url], url in wildcards
        for name, entry in cache.entries(url).items():
            if not whole and name not in wanted[url]:
                continue
            value = entry.value if (url, name) in ready else before.get(name)
            if value is not None:
                usable[url][name] = value
    waiting = [(url, name) for url in _ORDER for name in sorted(wanted[url])]
    return Closure(wanted, usable, tuple(reference for reference in waiting if not _is_settled(cache, reference)))


def _is_settled(cache: ResourceCache, reference: Reference) -> bool:
    url, name = reference
    return cache.answered(url) if name == WILDCARD else cache.settled(url, name)


def _ready(cache: ResourceCache) -> set[Reference]:
    """Return every resource that may be used as it is in the cache."""
    ready: set[Reference] = set()
    for url in _ORDER:
        for name, entry in cache.entries(url).items():
            # A name without an entry counts when its type was answered whole: there is none.
            if all(
                target in ready or (cache.entry(*target) is None and cache.settled(*target))
                for target in entry.references
            ):
                ready.add((url, name))
    return ready


def _wanted(
    cache: ResourceCache,
    wildcards: Collection[str],
    roots: Collection[str],
    ready: set[Reference],
    previous: Closure,
) -> dict[str, frozenset[str]]:
    """Return the names to subscribe to: of a wildcard type ``*``, of the others what is referred to.

    What stands in for a resource that is not ready needs what it names, too: nothing is given
    up before its successor is there.
    """
    named: dict[str, set[str]] = {url: set() for url in _ORDER}
    named[LISTENER] |= set(roots)
    for url in reversed(_ORDER):
        before = previous.usable[url]
        for name, entry in cache.entries(url).items():
            if url not in wildcards and name not in named[url]:
                continue
            needed = list(entry.references)
            if (url, name) not in ready and name in before:
                needed += references(before[name])
            for kind, target in needed:
                named[kind].add(target)
    return {url: frozenset({WILDCARD}) if url in wildcards else frozenset(named[url]) for url in _ORDER}
