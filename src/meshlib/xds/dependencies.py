"""What to ask for next, and what may be used: LDS → RDS → CDS → EDS, followed as updates come.

A resource is *ready* when everything it names is settled, all the way down: in use, refused with
nothing before it, or known not to exist. What is not ready is not used: the version in use stays
in use until then, as in Envoy's warming, so that a call sees old or new and never half of each
(gRFC A74), and nothing else has to wait for it. The order of a push does not show in the result.

Every input costs what it changes, whatever the size of the mesh: names are counted, and who
waits is found by what it waits for.

With ``on_demand`` the clusters of a mesh are known by name, and only those in use have their
endpoints asked for and are used; the others are *dormant*. An aggregate cluster wakes its members.
A route table may be used while the clusters it names sleep. Where a virtual host sends calls to a
cluster in use, the other clusters it names are woken with it, before a table that names them is used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from meshlib.xds.cache import Entry, ResourceCache, State
from meshlib.xds.resource import Reference, Resource
from meshlib.xds.type_urls import ALL_TYPE_URLS, CLUSTER, NAME_TABLE, ROUTE, WILDCARD

Names = dict[str, set[str]]  # by type URL


def _no_names() -> Names:
    return {url: set() for url in ALL_TYPE_URLS}


@dataclass(slots=True)
class _Warming:
    """A version that is not in use yet, and how much of what it names is not ready."""

    reference: Reference
    entry: Entry
    missing: int


class Dependencies:
    """Follows references. Not thread-safe: one thread owns it.

    Args:
        cache: what is known; entries that nothing names any more are forgotten in it.
        wildcards: the types that are asked for whole.
        on_demand: whether the endpoints of a cluster are asked for only when it is in use; for
            clusters that are asked for whole.
    """

    def __init__(self, cache: ResourceCache, wildcards: Collection[str], *, on_demand: bool = False) -> None:
        self._cache = cache
        self._wildcards = frozenset(wildcards)
        self.on_demand = on_demand and CLUSTER in self._wildcards
        self._counts: dict[str, dict[str, int]] = {url: {} for url in ALL_TYPE_URLS}
        self._dropped = _no_names()
        self._waiters: dict[Reference, list[_Warming]] = {}
        self._warming: dict[Reference, _Warming] = {}
        self._roots: set[Reference] = set()
        self._added = _no_names()
        self._gone = _no_names()
        self._changed = _no_names()
        self.awake: set[str] = set()
        """The clusters in use, with ``on_demand``."""
        self.patience: dict[Reference, float] = {}
        """Seconds to wait for a name, where its ConfigSource says so (``initial_fetch_timeout``); 0 is for ever."""
        # What is not used any more but still subscribed to: the server will not send it again.
        self._shelf: dict[Reference, Entry] = {}
        for url in self._wildcards:
            self._added[url].add(WILDCARD)

    # Inputs.

    def accepted(self, type_url: str, entry: Entry, before: Resource | None) -> None:
        """A good version came; ``before`` is the last good one before it, in use or not."""
        resource = entry.resource
        assert resource is not None
        if self.on_demand and type_url == ROUTE:
            self._wake_together(resource)
        elif self.on_demand and type_url == CLUSTER:
            self._wake_members(resource)
        if resource.references:
            self._hold(type_url, resource)
        if before is not None and before is not entry.used:
            self._release(type_url, before)
        self._settle((type_url, entry.name), entry)

    def rejected(self, type_url: str, entry: Entry) -> None:
        """A faulty update came; where nothing came before it, that settles the name."""
        if entry.resource is None:
            self._notify((type_url, entry.name))

    def absent(self, type_url: str, name: str) -> None:
        """A name does not exist (any more)."""
        entry = self._cache.entry(type_url, name)
        self._shelf.pop((type_url, name), None)
        if name != WILDCARD and not (entry is not None and entry.state is State.MISSING):
            self._unuse(type_url, name, entry)
            self._changed[type_url].add(name)  # who waits for it is to look again
            if type_url in self._wildcards:
                self._cache.forget(type_url, name)
            else:
                self._cache.missing(type_url, name)
        elif name == WILDCARD:
            self._cache.missing(type_url, name)
            self.answered(type_url)
        self._notify((type_url, name))

    def answered(self, type_url: str) -> None:
        """The whole state of a wildcard type has come: names without an entry do not exist."""
        waited = [ref for ref in self._waiters if ref[0] == type_url and self._cache.entry(*ref) is None]
        for reference in waited:
            self._notify(reference)

    def root(self, type_url: str, name: str) -> bool:
        """Ask for a name whatever refers to it; tells whether that is new."""
        reference = (type_url, name)
        if reference in self._roots:
            return False
        self._roots.add(reference)
        self._acquire(reference)
        return True

    def unroot(self, type_url: str, name: str) -> None:
        """Take :meth:`root` back."""
        reference = (type_url, name)
        if reference in self._roots:
            self._roots.remove(reference)
            self._drop(reference)

    def wake(self, cluster: str) -> bool:
        """A cluster is in use: ask for its endpoints; tells whether that is new."""
        if not self.on_demand or cluster in self.awake:
            return False
        entry = self._cache.entry(CLUSTER, cluster)
        self.awake.add(cluster)
        if entry is not None and entry.resource is not None:
            self._wake_members(entry.resource)
            self._hold(CLUSTER, entry.resource)
            entry.used = None
            self._settle((CLUSTER, cluster), entry)
        return True

    def sleep(self, cluster: str) -> None:
        """A cluster is not in use any more."""
        if cluster not in self.awake:
            return
        entry = self._cache.entry(CLUSTER, cluster)
        if entry is not None and entry.resource is not None:
            for resource in {id(r): r for r in (entry.resource, entry.used) if r is not None}.values():
                self._release(CLUSTER, resource)
            self.awake.discard(cluster)
            self._warming.pop((CLUSTER, cluster), None)
            entry.used = entry.resource
            self._changed[CLUSTER].add(cluster)
            self._notify((CLUSTER, cluster))
        self.awake.discard(cluster)

    def unsubscribed(self, type_url: str, names: Collection[str]) -> None:
        """Names are not subscribed to any more: asked for again, they come again."""
        for name in names:
            self._shelf.pop((type_url, name), None)

    def unasked(self, type_url: str, resource: Resource, version: str, at: float) -> None:
        """A version came of what is not used any more; kept where it is still subscribed to."""
        entry = self._shelf.get((type_url, resource.name))
        if entry is not None:
            entry.resource, entry.version, entry.at = resource, version, at

    # Outputs.

    def take_names(self) -> tuple[Names, Names]:
        """Return the names to subscribe to, and those to unsubscribe from, since the last time."""
        self._forget_dropped()
        names = self._added, self._gone
        self._added, self._gone = _no_names(), _no_names()
        return names

    def take_changed(self) -> Names:
        """Return the names whose version in use is another one, or none any more, since the last time."""
        self._forget_dropped()
        changed, self._changed = self._changed, _no_names()
        return changed

    def _forget_dropped(self) -> None:
        while any(self._dropped.values()):
            dropped, self._dropped = self._dropped, _no_names()
            for url, names in dropped.items():
                for name in names:
                    self._forget(url, name)

    def wants(self, type_url: str, name: str) -> bool:
        """Tell whether a name is asked for, by itself or as one of all."""
        return type_url in self._wildcards or name in self._counts[type_url]

    def waiting(self) -> Iterator[Reference]:
        """Yield the names asked for that are not settled."""
        for url in ALL_TYPE_URLS:
            if url in self._wildcards - {NAME_TABLE} and not self._cache.answered(url):
                yield url, WILDCARD
        for url in ALL_TYPE_URLS:
            if url not in self._wildcards:
                entries = self._cache.entries(url)
                for name in self._counts[url]:
                    if name not in entries:
                        yield url, name

    @property
    def whole(self) -> bool:
        """Whether nothing is awaited; the cheap question.

        The name table, which only Istio has, is not waited for.
        """
        if not all(self._cache.answered(url) or url == NAME_TABLE for url in self._wildcards):
            return False
        named = (url for url in ALL_TYPE_URLS if url not in self._wildcards)
        return all(len(self._counts[url]) <= len(self._cache.entries(url)) for url in named) and not self._warming

    def ready(self, reference: Reference) -> bool:
        """Tell whether what a name stands for may be used now, or is known to be nothing."""
        url, name = reference
        if name in self._cache.entries(url):
            return reference not in self._warming
        return url in self._wildcards and self._cache.answered(url)

    # How.

    def _references(self, type_url: str, resource: Resource) -> tuple[Reference, ...]:
        if self.on_demand and type_url == CLUSTER and resource.name not in self.awake:
            return ()
        return resource.references

    def _hold(self, type_url: str, resource: Resource) -> None:
        patience = resource.patience
        for reference in self._references(type_url, resource):
            if patience is not None:
                self.patience[reference] = patience
            if reference[0] not in self._wildcards:
                self._acquire(reference)

    def _release(self, type_url: str, resource: Resource) -> None:
        for reference in self._references(type_url, resource):
            self._drop(reference)

    def _acquire(self, reference: Reference) -> None:
        url, name = reference
        if url in self._wildcards:
            return
        counts = self._counts[url]
        count = counts[name] = counts.get(name, 0) + 1
        if count > 1:
            return
        if name in self._dropped[url]:
            self._dropped[url].remove(name)
            return
        self._added[url].add(name)
        kept = self._shelf.pop(reference, None)
        if kept is not None and kept.resource is not None:
            self.accepted(url, self._cache.accept(url, kept.resource, kept.version, kept.at), None)

    def _drop(self, reference: Reference) -> None:
        url, name = reference
        if url in self._wildcards:
            return
        counts = self._counts[url]
        counts[name] -= 1
        if not counts[name]:
            del counts[name]
            self._dropped[url].add(name)

    def _forget(self, type_url: str, name: str) -> None:
        if name in self._added[type_url]:
            self._added[type_url].remove(name)
        else:
            self._gone[type_url].add(name)
        entry = self._cache.entry(type_url, name)
        self._unuse(type_url, name, entry)
        self._cache.forget(type_url, name)
        self.patience.pop((type_url, name), None)
        if entry is not None:
            self._shelf[type_url, name] = entry  # until it is unsubscribed from

    def _unuse(self, type_url: str, name: str, entry: Entry | None) -> None:
        """Let go of all versions of a resource."""
        self._warming.pop((type_url, name), None)
        if entry is None:
            return
        if entry.used is not None:
            self._changed[type_url].add(name)
            self._release(type_url, entry.used)
        if entry.resource is not None and entry.resource is not entry.used:
            self._release(type_url, entry.resource)

    def _settle(self, reference: Reference, entry: Entry) -> None:
        """Use the last good version as soon as all it names is ready."""
        resource = entry.resource
        assert resource is not None
        self._warming.pop(reference, None)
        references = resource.references and self._references(reference[0], resource)
        unready = [ref for ref in references if not self.ready(ref) and not self._awaits(ref, reference, set())]
        if not unready:
            self._use(reference, entry)
            return
        warming = self._warming[reference] = _Warming(reference, entry, len(unready))
        for ref in unready:
            self._waiters.setdefault(ref, []).append(warming)

    def _awaits(self, reference: Reference, what: Reference, seen: set[Reference]) -> bool:
        """Tell whether a version that is not in use waits for ``what``: aggregate clusters may name each other."""
        warming = self._warming.get(reference)
        named = warming.entry.resource if warming is not None else None
        if named is None or reference[0] != CLUSTER or reference in seen:
            return False
        seen.add(reference)
        return what in named.references or any(self._awaits(each, what, seen) for each in named.references)

    def _use(self, reference: Reference, entry: Entry) -> None:
        """Use the last good version, which is not warming any more."""
        before, entry.used = entry.used, entry.resource
        self._changed[reference[0]].add(reference[1])
        if before is not None and before is not entry.used:
            self._release(reference[0], before)
        self._notify(reference)

    def _notify(self, reference: Reference) -> None:
        """Something became ready: who waits for it may be, too."""
        for warming in self._waiters.pop(reference, ()):
            waiter = warming.reference
            if self._warming.get(waiter) is not warming:
                continue  # another version came meanwhile
            warming.missing -= 1
            if not warming.missing:
                del self._warming[waiter]
                self._use(waiter, warming.entry)

    def _wake_members(self, cluster: Resource) -> None:
        """Wake what an aggregate cluster in use is made of."""
        for url, name in self._references(CLUSTER, cluster):
            if url == CLUSTER:
                self.wake(name)

    def _wake_together(self, table: Resource) -> None:
        for group in table.groups:
            if not self.awake.isdisjoint(group):
                for cluster in group:
                    self.wake(cluster)
