"""ResourceCache: the last good value of every resource, and what became of the last update to it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import ClusterLoadAssignment
from meshlib.model.filter_chain import HttpConnectionManager
from meshlib.model.listener import Listener
from meshlib.model.names import NameTable
from meshlib.model.route import RouteAction, RouteConfiguration
from meshlib.xds.faults import Fault, Note
from meshlib.xds.type_urls import ALL_TYPE_URLS, CLUSTER, ENDPOINT, ROUTE, WILDCARD

Value = Listener | RouteConfiguration | Cluster | ClusterLoadAssignment | NameTable
Reference = tuple[str, str]  # type URL and name


class State(Enum):
    """What the server last said of a resource; as ``ClientResourceStatus`` of CSDS."""

    ACKED = "acked"
    NACKED = "nacked"
    MISSING = "does not exist"


@dataclass(slots=True)
class Entry:
    """One resource.

    Attributes:
        state: what came last.
        value: the last good value, None when there never was one or it was removed.
        raw: the bytes it was decoded from.
        version: the version it came with.
        references: what the value names.
        notes: what of the value is not honoured.
        faults: why the last update was refused; empty unless NACKED.
        refused: the bytes refused, so that the same fault is not looked for twice.
    """

    state: State
    value: Value | None = None
    raw: bytes = b""
    version: str = ""
    references: tuple[Reference, ...] = ()
    notes: tuple[Note, ...] = ()
    faults: tuple[Fault, ...] = ()
    refused: bytes = b""


class ResourceCache:
    """Resources by type and name. Not thread-safe: one thread owns it.

    A bad update never replaces a good value: :meth:`reject` records it beside the value.
    """

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Entry]] = {url: {} for url in ALL_TYPE_URLS}
        self._answered: set[str] = set()  # wildcard types whose whole state has come

    def entry(self, type_url: str, name: str) -> Entry | None:
        """Return the entry of a resource, None when nothing is known of it."""
        return self._entries[type_url].get(name)

    def entries(self, type_url: str) -> Mapping[str, Entry]:
        """Return all entries of a type by name."""
        return self._entries[type_url]

    def answered(self, type_url: str) -> bool:
        """Tell whether the whole state of a wildcard type has come."""
        return type_url in self._answered

    def settled(self, type_url: str, name: str) -> bool:
        """Tell whether it is known what a name stands for: a value, a refused one, or nothing."""
        return type_url in self._answered or name in self._entries[type_url]

    def accept(
        self, type_url: str, name: str, version: str, raw: bytes, value: Value, notes: tuple[Note, ...] = ()
    ) -> None:
        """Take a good value."""
        self._entries[type_url][name] = Entry(State.ACKED, value, raw, version, references(value), notes)

    def confirm(self, entry: Entry, version: str) -> None:
        """Take a value that came again unchanged."""
        entry.state, entry.version, entry.faults, entry.refused = State.ACKED, version, (), b""

    def reject(self, type_url: str, name: str, raw: bytes, faults: tuple[Fault, ...]) -> None:
        """Record a bad update; the last good value stays."""
        entry = self._entries[type_url].setdefault(name, Entry(State.NACKED))
        entry.state, entry.faults, entry.refused = State.NACKED, faults, raw

    def missing(self, type_url: str, names: Iterable[str]) -> None:
        """Record names that the server does not know; a value there was is gone."""
        for name in names:
            if name == WILDCARD:
                self._answered.add(type_url)
            else:
                self._entries[type_url][name] = Entry(State.MISSING)

    def complete(self, type_url: str) -> None:
        """Record that the whole state of a wildcard type has come."""
        self._answered.add(type_url)

    def remove(self, type_url: str, names: Iterable[str]) -> None:
        """Forget resources altogether."""
        for name in names:
            self._entries[type_url].pop(name, None)

    def retain(self, type_url: str, names: Collection[str]) -> None:
        """Forget every resource of a type but ``names``."""
        self.remove(type_url, [name for name in self._entries[type_url] if name not in names])

    def faults(self) -> tuple[Fault, ...]:
        """Return every fault of refused updates that are not yet replaced."""
        return tuple(fault for by_name in self._entries.values() for e in by_name.values() for fault in e.faults)

    def notes(self) -> tuple[Note, ...]:
        """Return every note on values in force."""
        return tuple(note for by_name in self._entries.values() for e in by_name.values() for note in e.notes)


def references(value: Value) -> tuple[Reference, ...]:
    """Return what a value names, without repeats, in the order found."""
    found: dict[Reference, None] = {}
    if isinstance(value, RouteConfiguration):
        found = dict.fromkeys(_table_references(value))
    elif isinstance(value, Cluster) and value.eds_name:
        found = {(ENDPOINT, value.eds_name): None}
    elif isinstance(value, Listener) and not value.inbound:
        found = dict.fromkeys(_listener_references(value))
    return tuple(found)


def _table_references(table: RouteConfiguration) -> Iterable[Reference]:
    for host in table.virtual_hosts:
        for route in host.routes:
            if isinstance(route.action, RouteAction):
                for target in route.action.clusters:
                    if target.name:  # else a header names it
                        yield CLUSTER, target.name


def _listener_references(listener: Listener) -> Iterable[Reference]:
    if listener.api is not None:
        yield from _http_references(listener.api)
    for chain in (*listener.chains, *([listener.default_chain] if listener.default_chain else ())):
        if chain.http is not None:
            yield from _http_references(chain.http)
        if chain.tcp is not None:
            for target in chain.tcp.clusters:
                yield CLUSTER, target.name


def _http_references(http: HttpConnectionManager) -> Iterable[Reference]:
    if http.route_config is not None:
        yield from _table_references(http.route_config)
    else:
        yield ROUTE, http.route_name
