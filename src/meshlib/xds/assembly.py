"""Assembly: from received resources to the snapshot, whatever source they came from.

The embedded control plane and static bootstraps call :meth:`Assembly.apply` with everything
there is. The ADS client calls the finer methods below it, one response at a time. Both go
through the same validation, cache, dependencies and compiler.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

from google.protobuf import any_pb2

from meshlib.model.snapshot import Home, Snapshot, Style
from meshlib.xds.cache import Entry, ResourceCache
from meshlib.xds.compiler import Compiler
from meshlib.xds.config_source import elsewhere
from meshlib.xds.dependencies import Dependencies
from meshlib.xds.faults import Fault, Note
from meshlib.xds.resource import Reference, Resource
from meshlib.xds.resource_type import RESOURCE_TYPES, ResourceType
from meshlib.xds.secrets import Providers
from meshlib.xds.type_urls import ALL_TYPE_URLS, CLUSTER, LISTENER, WILDCARD


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of the resources of one response.

    Attributes:
        names: every name that could be read, faulty or not.
        faults: every fault; the resources without one are in force.
        complete: whether every name could be read.
        fresh: the resources that were not known by their bytes, and are good.
    """

    names: Collection[str]
    faults: tuple[Fault, ...]
    complete: bool
    fresh: tuple[Resource, ...]


def _no_pause() -> None:
    """Go on at once."""


class Assembly:
    """Validates, caches, follows and compiles. Not thread-safe: one thread owns it.

    Args:
        style: how destinations are looked up.
        listener: of a static bootstrap, the listener to use whatever the port; in gRPC style the
            template of listeners' names.
        search: suffixes under which short host names are looked up in the name table; see
            :func:`~meshlib.model.names.search_list`.
        home: where this process is, for zone-aware routing.
        wildcards: the types whose whole state is known or asked for; by default all of them,
            as with :meth:`apply`.
        on_demand: whether clusters sleep until they are used; see :mod:`~meshlib.xds.dependencies`.
        pause: called between resources, so that taking many does not hold the GIL.
        clock: wall-clock seconds, for "last updated".
        providers: the bootstrap's certificate providers.
    """

    def __init__(
        self,
        style: Style,
        listener: str = "",
        *,
        search: tuple[str, ...] = (),
        home: Home = Home(),  # noqa: B008  a frozen value, shared safely
        wildcards: Collection[str] = ALL_TYPE_URLS,
        on_demand: bool = False,
        pause: Callable[[], None] = _no_pause,
        clock: Callable[[], float] = time.time,
        providers: Providers = MappingProxyType({}),
    ) -> None:
        self.cache = ResourceCache()
        self.dependencies = Dependencies(self.cache, wildcards, on_demand=on_demand)
        self._compiler = Compiler(style, self.cache, self.dependencies, listener, search, home, providers)
        self._wildcards = frozenset(wildcards)
        self._pause = pause
        self._clock = clock
        self._nameless: dict[str, tuple[Fault, ...]] = {}
        self._version = ""
        self._roots: dict[str, None] = {}

    def apply(
        self,
        version: str,
        resources: Mapping[str, Mapping[str, Any]],
        packed: Mapping[str, Iterable[bytes]] = MappingProxyType({}),
    ) -> tuple[Fault, ...]:
        """Take everything there is, at once.

        Args:
            version: what the source calls it.
            resources: type URL -> name -> protobuf message. A type or name that is not there
                does not exist.
            packed: further resources by type URL, each a serialised ``google.protobuf.Any``.

        Returns:
            Every fault. A resource with one keeps its last good value; the others are in force.
        """
        faults: list[Fault] = []
        for url in ALL_TYPE_URLS:
            messages = [pack(url, message) for message in resources.get(url, {}).values()]
            offered = self.offer(url, version, [*messages, *packed.get(url, ())])
            faults += offered.faults
            if offered.complete:
                for name in [name for name in self.cache.entries(url) if name not in offered.names]:
                    self.absent(url, name)
            self.complete(url)
        return tuple(faults)

    def snapshot(self) -> Snapshot:
        """Return what is in force, compiled; the same object for as long as nothing changes."""
        return self._compiler.compile(self.dependencies.take_changed(), self._version)

    def offer(self, type_url: str, version: str, received: Collection[bytes]) -> Offered:
        """Take resources of one type; good ones replace what is there, faulty ones do not.

        Bytes that are known already, as good or as faulty, are not looked at again.

        Args:
            type_url: their type.
            version: of the response.
            received: each a serialised ``google.protobuf.Any``.
        """
        taking = _Taking(self, RESOURCE_TYPES[type_url], version, self._clock())
        known, confirm, pause = self.cache.known(type_url), self.cache.confirm, self._pause
        names = taking.names
        # Most servers keep an order: the next one that is known is often the next one that comes, and
        # to compare bytes costs less than to hash them.
        expected = iter(list(islice(self.cache.entries(type_url).values(), len(received))))
        for raw in received:
            entry = next(expected, None)
            if entry is None or entry.resource is None or entry.resource.raw != raw:
                entry = known.get(raw)
            if entry is not None and entry.name not in names:
                names[entry.name] = None
                confirm(entry, version)
            else:
                pause()
                taking.take(raw)
        self._nameless[type_url] = tuple(taking.nameless)
        self._version = version
        return Offered(
            names.keys(), (*taking.faults, *taking.nameless), complete=not taking.nameless, fresh=tuple(taking.fresh)
        )

    def complete(self, type_url: str) -> None:
        """The whole state of a type has come; of no matter for a type asked for by name."""
        if type_url in self._wildcards and not self.cache.answered(type_url):
            self.cache.complete(type_url)
            self.dependencies.answered(type_url)

    @property
    def unanswered(self) -> list[str]:
        """The types asked for whole that have not come."""
        return [url for url in ALL_TYPE_URLS if url in self._wildcards and not self.cache.answered(url)]

    def in_force(self, type_url: str) -> Iterable[tuple[Entry, Resource]]:
        """Return what is in use of a type, sleeping clusters included."""
        return ((e, e.used) for e in self.cache.entries(type_url).values() if e.used is not None)

    def absent(self, type_url: str, name: str) -> None:
        """A name does not exist, or not any more."""
        self.dependencies.absent(type_url, name)

    def demand(self, listener: str) -> bool:
        """Ask for a listener by name; tells whether that is new."""
        if listener in self._roots:
            return False
        self._roots[listener] = None
        return self.dependencies.root(LISTENER, listener)

    def undemand(self, listener: str) -> None:
        """Take :meth:`demand` back."""
        if self._roots.pop(listener, listener) is None:
            self.dependencies.unroot(LISTENER, listener)

    def elsewhere(self) -> dict[str, set[str]]:
        """Return the names, by type, that what is in force looks for in files."""
        found: dict[str, set[str]] = {}
        for url in ALL_TYPE_URLS:
            for _, used in self.in_force(url):
                for kind, name in used.references:
                    where = elsewhere(name)
                    if where is not None and where.path:
                        found.setdefault(kind, set()).add(name)
        return found

    def settled(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the listeners asked for by name that can be used, and those that do not exist."""
        found, absent = set(), set()
        for name in self._roots:
            entry = self.cache.entry(LISTENER, name)
            if entry is not None:
                if entry.used is not None:
                    found.add(name)
                elif entry.resource is None:
                    absent.add(name)
        return frozenset(found), frozenset(absent)

    def has(self, type_url: str, name: str) -> bool:
        """Tell whether it is known what a name stands for."""
        if name == WILDCARD:
            return self.cache.answered(type_url)
        return self.cache.entry(type_url, name) is not None

    def clusters_of(self, listener: str) -> Iterable[str]:
        """Return the clusters that calls to a listener may go to."""
        pending: list[Reference] = [(LISTENER, listener)]
        while pending:
            reference = pending.pop()
            entry = self.cache.entry(*reference)
            if reference[0] == CLUSTER:
                yield reference[1]
            elif entry is not None and entry.used is not None:
                pending += entry.used.references

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Every fault of refused updates that are not yet replaced."""
        return (*self.cache.faults(), *(fault for faults in self._nameless.values() for fault in faults))

    @property
    def notes(self) -> tuple[Note, ...]:
        """Every field in force that is not, or only nearly, honoured."""
        return self.cache.notes()


class _Taking:
    """What comes out of the resources of one response that are not known by their bytes."""

    def __init__(self, assembly: Assembly, kind: ResourceType, version: str, now: float) -> None:
        self.names: dict[str, None] = {}
        self.faults: list[Fault] = []
        self.nameless: list[Fault] = []
        self.fresh: list[Resource] = []
        self._cache = assembly.cache
        self._dependencies = assembly.dependencies
        self._kind = kind
        self._version = version
        self._now = now

    def take(self, raw: bytes) -> None:
        """Take one resource."""
        kind, cache = self._kind, self._cache
        name, resource, faults = kind.examine(raw, self._last)
        if not name:
            self.nameless += faults
        elif name == WILDCARD:
            self.faults.append(Fault(name, kind.url, "", "stands for all resources and cannot be the name of one"))
        elif name in self.names:
            self.faults.append(Fault(name, kind.url, "", "is in the response twice; the first counts"))
        else:
            self.names[name] = None
            if not self._dependencies.wants(kind.url, name):
                if resource is not None:
                    self._dependencies.unasked(kind.url, resource, self._version, self._now)
                return
            if resource is not None:
                last = self._last(name)
                entry = cache.accept(kind.url, resource, self._version, self._now)
                self._dependencies.accepted(kind.url, entry, last)
                self.fresh.append(resource)
            else:
                self.faults += faults
                entry = cache.reject(kind.url, name, raw, faults, self._version, self._now)
                self._dependencies.rejected(kind.url, entry)

    def _last(self, name: str) -> Resource | None:
        entry = self._cache.entry(self._kind.url, name)
        return entry.resource if entry is not None else None


def pack(type_url: str, message: Any) -> bytes:
    """Return a resource as it comes in a response."""
    packed = any_pb2.Any(type_url=type_url, value=message.SerializeToString(deterministic=True))
    raw: bytes = packed.SerializeToString()
    return raw
