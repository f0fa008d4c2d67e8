"""ResourceCache: the last good version of every resource, and what became of the last update to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from meshlib.xds.faults import Fault, Note
from meshlib.xds.resource import Resource
from meshlib.xds.type_urls import ALL_TYPE_URLS, WILDCARD


class State(Enum):
    """What the server last said of a resource; as ``ClientResourceStatus`` of CSDS (gRFC A40)."""

    REQUESTED = "requested"
    ACKED = "acked"
    NACKED = "nacked"
    MISSING = "does not exist"


class Refused(NamedTuple):
    """An update that was refused.

    Attributes:
        raw: its bytes, for who looks inside.
        faults: why.
        version: ``version_info`` of the response it came with.
        at: wall-clock seconds when it came.
    """

    raw: bytes
    faults: tuple[Fault, ...]
    version: str
    at: float


class Entry:
    """One name.

    Attributes:
        name: the resource's.
        state: what came last.
        resource: the last good version, None when there never was one or it does not exist.
        used: the version in use: the last good one, or the one before it while what the last one
            names is awaited.
        version: ``version_info`` of the response ``resource`` came with.
        at: wall-clock seconds when it came.
        refused: the last update, where it was refused (NACKED).
    """

    __slots__ = ("at", "name", "refused", "resource", "state", "used", "version")

    def __init__(self, name: str, state: State) -> None:
        self.name = name
        self.state = state
        self.resource: Resource | None = None
        self.used: Resource | None = None
        self.version = ""
        self.at = 0.0
        self.refused: Refused | None = None


class ResourceCache:
    """Resources by type and name. Not thread-safe: one thread owns it.

    A bad update never replaces a good version: :meth:`reject` records it beside that.
    """

    def __init__(self, type_urls: Iterable[str] = ALL_TYPE_URLS) -> None:
        self._entries: dict[str, dict[str, Entry]] = {url: {} for url in type_urls}
        self._by_raw: dict[str, dict[bytes, Entry]] = {url: {} for url in self._entries}
        self._answered: set[str] = set()  # wildcard types whose whole state has come
        self._faulty: list[Entry] = []  # what was refused, and perhaps mended since

    def entry(self, type_url: str, name: str) -> Entry | None:
        """Return the entry of a resource, None when nothing is known of it."""
        return self._entries[type_url].get(name)

    def entries(self, type_url: str) -> Mapping[str, Entry]:
        """Return all entries of a type by name."""
        return self._entries[type_url]

    def known(self, type_url: str) -> Mapping[bytes, Entry]:
        """Return the entries of a type by the bytes of their last good version."""
        return self._by_raw[type_url]

    def answered(self, type_url: str) -> bool:
        """Tell whether the whole state of a wildcard type has come."""
        return type_url in self._answered

    def accept(self, type_url: str, resource: Resource, version: str, at: float) -> Entry:
        """Take a good version."""
        entries, by_raw = self._entries[type_url], self._by_raw[type_url]
        entry = entries.get(resource.name)
        if entry is None:
            entry = entries[resource.name] = Entry(resource.name, State.ACKED)
        elif entry.resource is not None:
            by_raw.pop(entry.resource.raw, None)
        by_raw[resource.raw] = entry
        entry.resource, entry.version, entry.at = resource, version, at
        entry.state, entry.refused = State.ACKED, None
        return entry

    def confirm(self, entry: Entry, version: str) -> None:
        """Take a version that came again unchanged."""
        entry.version = version
        if entry.state is not State.ACKED:
            entry.state, entry.refused = State.ACKED, None

    def reject(self, type_url: str, name: str, raw: bytes, faults: tuple[Fault, ...], version: str, at: float) -> Entry:
        """Record a bad update; the last good version stays."""
        entry = self._entries[type_url].get(name)
        if entry is None:
            entry = self._entries[type_url][name] = Entry(name, State.NACKED)
        entry.state, entry.refused = State.NACKED, Refused(raw, faults, version, at)
        if entry not in self._faulty:
            self._faulty.append(entry)
        return entry

    def missing(self, type_url: str, name: str) -> None:
        """Record a name that the server does not know; a version there was is gone."""
        if name == WILDCARD:
            self._answered.add(type_url)
        else:
            self.forget(type_url, name)
            self._entries[type_url][name] = Entry(name, State.MISSING)

    def complete(self, type_url: str) -> None:
        """Record that the whole state of a wildcard type has come."""
        self._answered.add(type_url)

    def forget(self, type_url: str, name: str) -> None:
        """Forget a resource altogether."""
        entry = self._entries[type_url].pop(name, None)
        if entry is not None:
            entry.refused = None
            if entry.resource is not None:
                self._by_raw[type_url].pop(entry.resource.raw, None)

    def faults(self) -> tuple[Fault, ...]:
        """Return every fault of refused updates that are not yet replaced."""
        self._faulty = [entry for entry in self._faulty if entry.refused]
        return tuple(fault for entry in self._faulty if entry.refused for fault in entry.refused.faults)

    def notes(self) -> tuple[Note, ...]:
        """Return every note on the last good versions."""
        return tuple(n for url, entry in self.all() if entry.resource for n in entry.resource.notes(url))

    def all(self) -> Iterator[tuple[str, Entry]]:
        """Yield every entry with its type."""
        for url, by_name in self._entries.items():
            for entry in by_name.values():
                yield url, entry
