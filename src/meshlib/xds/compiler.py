"""From what may be used to the one snapshot that calls read. What did not change stays the same object."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar, overload

from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import ClusterLoadAssignment
from meshlib.model.listener import Listener
from meshlib.model.names import NameTable
from meshlib.model.route import RouteConfiguration
from meshlib.model.snapshot import Bindings, Home, Snapshot, Style
from meshlib.xds.addresses import infer
from meshlib.xds.cache import ResourceCache, State
from meshlib.xds.dependencies import Dependencies, Names
from meshlib.xds.resource import Resource
from meshlib.xds.secrets import Providers, resolved
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER, NAME_TABLE, ROUTE, SECRET, SINGLETON

_Value = TypeVar("_Value", Listener, RouteConfiguration)
_Default = TypeVar("_Default")


@dataclass(frozen=True, slots=True)
class _Joined:
    """A cluster with its endpoints and secrets, and what it was made of."""

    cluster: Resource
    assignment: Resource | None
    secrets: Mapping[str, Resource | None]
    result: Cluster


class _Clusters(Mapping[str, Cluster]):
    """The clusters of one snapshot, each put together with its endpoints when it is first read.

    Any thread, without a lock, which a fork could leave taken for ever: two threads that put one
    together at once come to equal ones.
    """

    __slots__ = ("_assignments", "_clusters", "_joined", "_providers", "_secrets")

    def __init__(
        self,
        clusters: dict[str, Resource],
        assignments: dict[str, Resource],
        secrets: dict[str, Resource],
        joined: dict[str, _Joined],
        providers: Providers,
    ) -> None:
        self._clusters = clusters
        self._assignments = assignments
        self._secrets = secrets
        self._joined = joined  # shared by all snapshots, so that what did not change stays the same object
        self._providers = providers

    def with_changes(
        self,
        clusters: Mapping[str, Resource | None],
        assignments: Mapping[str, Resource | None],
        secrets: Mapping[str, Resource | None],
    ) -> _Clusters:
        """Return the next snapshot's; None is what is gone."""
        for name, resource in clusters.items():
            if resource is None:
                self._joined.pop(name, None)
        return _Clusters(
            _changed(self._clusters, clusters),
            _changed(self._assignments, assignments),
            _changed(self._secrets, secrets),
            self._joined,
            self._providers,
        )

    def with_secrets(self, names: set[str]) -> set[str]:
        """Return the clusters put together so far whose TLS names one of these secrets."""
        if not names:
            return set()
        return {name for name, joined in list(self._joined.items()) if not names.isdisjoint(joined.secrets)}

    def __getitem__(self, name: str) -> Cluster:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    @overload
    def get(self, name: str, /) -> Cluster | None: ...
    @overload
    def get(self, name: str, /, default: Cluster | _Default) -> Cluster | _Default: ...
    def get(self, name: str, /, default: Cluster | _Default | None = None) -> Cluster | _Default | None:
        """Return a cluster, ``default`` where there is none by that name."""
        resource = self._clusters.get(name)
        if resource is None:
            return default
        cluster = resource.value
        assert isinstance(cluster, Cluster)
        assignment = self._assignments.get(cluster.eds_name) if cluster.eds_name else None
        secrets = {name: self._secrets.get(name) for url, name in resource.references if url == SECRET}
        joined = self._joined.get(name)
        same = joined is not None and joined.cluster is resource and joined.assignment is assignment
        if joined is None or not same or joined.secrets != secrets:
            result = resolved(cluster, secrets, self._providers)
            if assignment is not None:
                endpoints = assignment.value
                assert isinstance(endpoints, ClusterLoadAssignment)
                result = replace(result, assignment=endpoints)
            joined = self._joined[name] = _Joined(resource, assignment, secrets, result)
        return joined.result

    def __contains__(self, name: object) -> bool:
        return name in self._clusters

    def __iter__(self) -> Iterator[str]:
        return iter(self._clusters)

    def __len__(self) -> int:
        return len(self._clusters)


def _changed(old: dict[str, Resource], changes: Mapping[str, Resource | None]) -> dict[str, Resource]:
    if not changes:
        return old
    new = dict(old)
    for name, resource in changes.items():
        if resource is None:
            new.pop(name, None)
        else:
            new[name] = resource
    return new


class _Dormant:
    """Clusters that are known by name, and whose endpoints are asked for when they are used."""

    __slots__ = ("_awake", "_known")

    def __init__(self, known: Mapping[str, object], awake: Mapping[str, object]) -> None:
        self._known = known
        self._awake = awake

    def __contains__(self, name: object) -> bool:
        return name in self._known and name not in self._awake


class _Unasked:
    """Where clusters are asked for by name: all names but those that are there, or known not to exist."""

    __slots__ = ("_clusters", "_missing")

    def __init__(self, clusters: Mapping[str, object], missing: frozenset[str]) -> None:
        self._clusters = clusters
        self._missing = missing

    def __contains__(self, name: object) -> bool:
        return bool(name) and name not in self._clusters and name not in self._missing


class Compiler:
    """Makes snapshots. Not thread-safe: one thread owns it.

    Args:
        style: how destinations are looked up.
        cache: what is known.
        dependencies: what of it may be used.
        listener: the listener to use whatever the port; see :class:`Snapshot`.
        search: the search list of the name table.
        home: where this process is.
        providers: the bootstrap's certificate providers.
    """

    def __init__(
        self,
        style: Style,
        cache: ResourceCache,
        dependencies: Dependencies,
        listener: str = "",
        search: tuple[str, ...] = (),
        home: Home = Home(),  # noqa: B008  a frozen value, shared safely
        providers: Providers = MappingProxyType({}),
    ) -> None:
        self._search = search
        self._cache = cache
        self._dependencies = dependencies
        self._current = Snapshot(style=style, names=NameTable(search=search), listener=listener, home=home)
        self._clusters = _Clusters({}, {}, {}, {}, providers)
        self._known: dict[str, Resource] = {}
        self._made = False

    def compile(self, changed: Names, version: str) -> Snapshot:
        """Return the snapshot after names ``changed``: the current one itself when there are none.

        ``version`` therefore is that of the update which last changed something.
        """
        if not any(changed.values()) and self._made:
            return self._current
        self._made = True
        affected = changed[CLUSTER] | self._clusters.with_secrets(changed[SECRET])
        current = replace(self._current, version=version, changed=(frozenset(affected), frozenset(changed[ENDPOINT])))
        if changed[LISTENER]:
            current = replace(current, listeners=self._values(LISTENER, Listener))
        if changed[ROUTE]:
            current = replace(current, routes=self._values(ROUTE, RouteConfiguration))
        if (changed[LISTENER] or changed[ROUTE] or changed[NAME_TABLE]) and current.style is Style.SIDECAR:
            current = self._with_names(current, rebound=bool(changed[LISTENER]), renamed=bool(changed[NAME_TABLE]))
        if changed[CLUSTER] or changed[ENDPOINT] or changed[SECRET]:
            self._change_clusters(changed[CLUSTER], changed[ENDPOINT], changed[SECRET])
            current = replace(current, clusters=self._clusters, dormant=self._dormant())
        elif current.style is Style.GRPC:
            current = replace(current, dormant=self._dormant())
        self._current = current
        return current

    def _values(self, type_url: str, kind: type[_Value]) -> dict[str, _Value]:
        used = ((name, entry.used) for name, entry in self._cache.entries(type_url).items())
        values = ((name, resource.value) for name, resource in used if resource is not None)
        return {name: value for name, value in values if isinstance(value, kind)}

    def _with_names(self, current: Snapshot, *, rebound: bool, renamed: bool) -> Snapshot:
        """Return the snapshot with what finds a host's listener."""
        bindings = Bindings.of(current.listeners) if rebound else current.bindings
        names = current.names
        if renamed:
            used = self._used(NAME_TABLE, SINGLETON)
            received = used.value if used is not None else NameTable()
            assert isinstance(received, NameTable)
            names = replace(received, search=self._search)
        return replace(
            current, names=names, inferred=infer(current.listeners, current.routes, names), bindings=bindings
        )

    def _change_clusters(self, names: set[str], eds_names: set[str], secret_names: set[str]) -> None:
        dependencies = self._dependencies
        clusters = {name: self._used(CLUSTER, name) for name in names}
        if dependencies.on_demand:
            self._known = _changed(self._known, clusters)
            clusters = {name: used if name in dependencies.awake else None for name, used in clusters.items()}
        assignments = {name: self._used(ENDPOINT, name) for name in eds_names}
        secrets = {name: self._used(SECRET, name) for name in secret_names}
        self._clusters = self._clusters.with_changes(clusters, assignments, secrets)

    def _dormant(self) -> Container[str]:
        if self._dependencies.on_demand:
            return _Dormant(self._known, self._clusters)
        if self._current.style is Style.GRPC:
            entries = self._cache.entries(CLUSTER)
            return _Unasked(self._clusters, frozenset(n for n, e in entries.items() if e.state is State.MISSING))
        return ()

    def _used(self, type_url: str, name: str) -> Resource | None:
        entry = self._cache.entry(type_url, name)
        return entry.used if entry is not None else None
