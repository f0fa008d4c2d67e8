"""Assembly: from received resources to the snapshot, whatever source they came from.

The embedded control plane and static bootstraps call :meth:`Assembly.apply` with everything
there is. The ADS client calls the finer methods below it, one response at a time. Both go
through the same decoders, cache, closure and compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meshlib.model.snapshot import Snapshot, Style
from meshlib.xds.cache import ResourceCache, State
from meshlib.xds.compiler import Compiler
from meshlib.xds.dependencies import Closure, resolve
from meshlib.xds.faults import Fault, Note
from meshlib.xds.resource_type import RESOURCE_TYPES, Received, ResourceType
from meshlib.xds.type_urls import ALL_TYPE_URLS, LISTENER


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of the resources of one response.

    Attributes:
        names: every name that could be read, faulty or not.
        faults: every fault; the resources without one are in force.
        complete: whether every name could be read.
    """

    names: tuple[str, ...]
    faults: tuple[Fault, ...]
    complete: bool


def _no_pause() -> None:
    """Go on at once."""


class Assembly:
    """Decodes, caches, resolves and compiles. Not thread-safe: one thread owns it.

    Args:
        style: how destinations are looked up.
        listener: of a static bootstrap, the listener to use whatever the port.
        search: suffixes under which short host names are looked up in the name table; see
            :func:`~meshlib.model.names.search_list`.
        wildcards: the types whose whole state is known or asked for; by default all of them,
            as with :meth:`apply`.
        pause: called between resources, so that decoding many does not hold the GIL.
    """

    def __init__(
        self,
        style: Style,
        listener: str = "",
        *,
        search: tuple[str, ...] = (),
        wildcards: Collection[str] = ALL_TYPE_URLS,
        pause: Callable[[], None] = _no_pause,
    ) -> None:
        self._cache = ResourceCache()
        self._closure = Closure()
        self._compiler = Compiler(style, listener, search)
        self._wildcards = frozenset(wildcards)
        self._pause = pause
        self._roots: set[str] = set()
        self._nameless: dict[str, tuple[Fault, ...]] = {}
        self._version = ""

    def apply(self, version: str, resources: Mapping[str, Mapping[str, Any]]) -> tuple[Fault, ...]:
        """Take everything there is, at once.

        Args:
            version: what the source calls it.
            resources: type URL -> name -> protobuf message. A type or name that is not there
                does not exist.

        Returns:
            Every fault. A resource with one keeps its last good value; the others are in force.
        """
        faults: list[Fault] = []
        for url in ALL_TYPE_URLS:
            messages = resources.get(url, {})
            received = (Received(name, m.SerializeToString(deterministic=True), m) for name, m in messages.items())
            faults += self.offer(url, version, received).faults
            self._cache.retain(url, messages)
            self._cache.complete(url)
        self.resolve()
        return tuple(faults)

    def snapshot(self) -> Snapshot:
        """Return what is in force, compiled; the same object for as long as nothing changes."""
        return self._compiler.compile(self._closure, self._version)

    def offer(self, type_url: str, version: str, received: Iterable[Received]) -> Offered:
        """Take resources of one type; good ones replace what is there, faulty ones do not.

        Bytes that are known already, as good or as faulty, are not decoded again.
        """
        kind = RESOURCE_TYPES[type_url]
        names: dict[str, None] = {}
        nameless: list[Fault] = []
        faults: list[Fault] = []
        for resource in received:
            self._pause()
            if not resource.name:
                nameless += resource.faults or (Fault("", type_url, kind.name_field, "must not be empty"),)
            elif resource.name in names:
                faults.append(Fault(resource.name, type_url, "", "is in the response twice; the first counts"))
            else:
                names[resource.name] = None
                faults += self._take(kind, version, resource)
        self._nameless[type_url] = tuple(nameless)
        self._version = version
        return Offered(tuple(names), (*faults, *nameless), complete=not nameless)

    def _take(self, kind: ResourceType, version: str, resource: Received) -> tuple[Fault, ...]:
        cache, name, raw = self._cache, resource.name, resource.raw
        entry = cache.entry(kind.url, name)
        if entry is not None and entry.value is not None and entry.raw == raw:
            cache.confirm(entry, version)
            return ()
        if entry is not None and entry.state is State.NACKED and entry.refused == raw:
            return entry.faults
        faults = resource.faults
        if not faults:
            decoded = kind.decode(name, resource.message)
            if decoded.value is not None:
                cache.accept(kind.url, name, version, raw, decoded.value, decoded.notes)
                return ()
            faults = decoded.faults
        cache.reject(kind.url, name, raw, faults)
        return faults

    def complete(self, type_url: str) -> None:
        """The whole state of a type has come; of no matter for a type asked for by name."""
        if type_url in self._wildcards:
            self._cache.complete(type_url)

    def remove(self, type_url: str, names: Iterable[str]) -> None:
        """Resources that were there are gone."""
        if type_url in self._wildcards:
            self._cache.remove(type_url, names)
        else:
            self._cache.missing(type_url, names)  # still asked for, and known not to exist

    def missing(self, type_url: str, names: Iterable[str]) -> None:
        """Names that were asked for do not exist."""
        self._cache.missing(type_url, names)

    def demand(self, listener: str) -> bool:
        """Ask for a listener by name; tells whether that is new."""
        if listener in self._roots:
            return False
        self._roots.add(listener)
        return True

    def resolve(self) -> Closure:
        """Follow the references anew; forgets what nothing refers to any more."""
        closure = resolve(self._cache, wildcards=self._wildcards, roots=self._roots, previous=self._closure)
        for url in ALL_TYPE_URLS:
            if url not in self._wildcards:
                self._cache.retain(url, closure.wanted[url])
        self._closure = closure
        return closure

    def settled(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the listeners asked for by name that can be used, and those that do not exist."""
        usable = self._closure.usable[LISTENER]
        found = frozenset(name for name in self._roots if name in usable)
        absent = frozenset(
            name
            for name in self._roots - found
            if (entry := self._cache.entry(LISTENER, name)) is not None and entry.value is None
        )
        return found, absent

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Every fault of refused updates that are not yet replaced."""
        return (*self._cache.faults(), *(fault for faults in self._nameless.values() for fault in faults))

    @property
    def notes(self) -> tuple[Note, ...]:
        """Every field in force that is not, or only nearly, honoured."""
        return self._cache.notes()
