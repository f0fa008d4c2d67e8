"""Route tables of RDS: validated whole when they come, decoded a virtual host at a time when it is used.

A sidecar's table for port 80 has a virtual host for every service of the mesh and comes again
whole whenever one of them changes. So a virtual host is known by its bytes: what is in the
table before is taken over, what is new is validated by its shape (:mod:`~meshlib.xds.shapes`),
and only what is of no known shape is decoded at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast, overload

from google.protobuf.message import DecodeError

from meshlib.model.request import RequestView
from meshlib.model.route import Route, RouteConfiguration, Routes, VirtualHost
from meshlib.xds import wire
from meshlib.xds.decode_rds import Inherited, check_domains, host_of, table_level, virtual_host
from meshlib.xds.faults import Fault, Note
from meshlib.xds.protos import route_components_pb2, route_pb2
from meshlib.xds.references import route_references
from meshlib.xds.resource import Examined, Remark, Resource, remarks
from meshlib.xds.scope import Scope
from meshlib.xds.shapes import Shapes, virtual_host_shape
from meshlib.xds.type_urls import CLUSTER, ROUTE

_log = logging.getLogger("meshlib.xds")
_SHAPES: Shapes[Sequence[Remark]] = Shapes()


class _Level:
    """What all virtual hosts of a table share.

    Attributes:
        table: the table's name.
        key: everything of the table but its name and its virtual hosts, as bytes.
        inherited: the same, decoded.
    """

    __slots__ = ("inherited", "key", "table")

    def __init__(self, table: str, key: bytes, inherited: Inherited) -> None:
        self.table = table
        self.key = key
        self.inherited = inherited


class LazyRoutes(Sequence[Route]):
    """The routes of a virtual host, decoded when they are first read. Any thread.

    Attributes:
        raw: the virtual host's bytes.
        clusters: the clusters they name.
        notes: what of the virtual host is not honoured, by path within it.
    """

    __slots__ = ("_index", "_level", "_routes", "clusters", "notes", "raw")

    def __init__(self, raw: bytes, level: _Level, index: int) -> None:
        self.raw = raw
        self.clusters: tuple[str, ...] = ()
        self.notes: Sequence[Remark] = ()
        self._level = level
        self._index = index
        self._routes: Sequence[Route] | None = None

    def decoded(self) -> Sequence[Route]:
        """Return them; two threads that decode at once come to equal routes."""
        if self._routes is None:
            scope = Scope(self._level.table, ROUTE).at("virtual_hosts", self._index)
            host = route_components_pb2.VirtualHost.FromString(self.raw)
            self._routes = virtual_host(scope, host, self._level.inherited).routes
        return self._routes

    def of(self, view: RequestView) -> Sequence[Route]:
        """Return those that a matcher tree leads to."""
        return cast("Routes", self.decoded()).of(view)

    @overload
    def __getitem__(self, index: int) -> Route: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Route]: ...
    def __getitem__(self, index: int | slice) -> Route | Sequence[Route]:
        return self.decoded()[index]

    def __len__(self) -> int:
        return len(self.decoded())

    def __iter__(self) -> Iterator[Route]:
        return iter(self.decoded())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as a list: equal by what is in it


class _Table(Resource):
    """A route table whose virtual hosts can serve the next version of it."""

    __slots__ = ("hosts", "level")

    def __init__(
        self, name: str, raw: bytes, level: _Level, value: RouteConfiguration, notes: Sequence[Remark]
    ) -> None:
        self.level = level
        self.hosts: dict[bytes, VirtualHost] = {}
        clusters: dict[str, None] = dict.fromkeys(mirror.cluster for mirror in level.inherited.mirrors)
        clusters.pop("", None)  # named by a header
        groups = []
        for host in value.virtual_hosts:
            routes = host.routes
            if isinstance(routes, LazyRoutes):
                self.hosts[routes.raw] = host
                for cluster in routes.clusters:
                    clusters[cluster] = None
                if len(routes.clusters) > 1:
                    groups.append(routes.clusters)
        references = tuple([(CLUSTER, cluster) for cluster in clusters])
        super().__init__(name, raw, None, references, notes, tuple(groups), value=value)

    def notes(self, type_url: str) -> tuple[Note, ...]:
        found = list(super().notes(type_url))
        for i, host in enumerate(self.hosts.values()):
            for path, consequence, status in host.routes.notes if isinstance(host.routes, LazyRoutes) else ():
                found.append(Note(self.name, type_url, f"virtual_hosts[{i}].{path}", consequence, status))
        return tuple(found)


def examine_table(value: bytes, raw: bytes, previous: Callable[[str], Resource | None]) -> Examined:
    """Return a ``RouteConfiguration``, validated whole.

    Args:
        value: its bytes.
        raw: the bytes of the ``Any`` around it.
        previous: returns the last good version by name.

    Raises:
        DecodeError: the bytes are none.
    """
    slim = wire.RouteConfiguration.FromString(value)
    packed = slim.virtual_hosts[:]
    slim.ClearField("virtual_hosts")
    table = route_pb2.RouteConfiguration.FromString(slim.SerializeToString())
    name = table.name
    if not name:
        return Examined("", None, (Fault("", ROUTE, "name", "must not be empty"),))
    scope = Scope(name, ROUTE)
    try:
        found = _examined(scope, table, packed, raw, previous(name))
    except DecodeError:
        raise
    except Exception as error:  # noqa: BLE001  a decoder's own fault costs one resource, not the client's thread
        _log.exception("type=RDS resource=%s decoding failed", name)
        scope.fault("", f"could not be decoded: {type(error).__name__}: {error}")
        found = None
    return Examined(name, None if scope.faults else found, tuple(scope.faults))


def _examined(scope: Scope, table: Any, packed: list[bytes], raw: bytes, previous: Resource | None) -> Resource:
    inherited = table_level(scope, table)
    notes = remarks(scope.notes)
    name, ignore_port = table.name, table.ignore_port_in_host_matching
    table.ClearField("name")
    key = table.SerializeToString(deterministic=True)
    if isinstance(previous, _Table) and previous.level.key == key:
        level, known = previous.level, previous.hosts
    else:
        level, known = _Level(name, key, inherited), {}
    hosts = []
    for i, data in enumerate(packed):
        host = known.get(data)
        hosts.append(host if host is not None else _host(scope, i, data, level))
    if not _domains_are_plain(hosts):
        check_domains(scope, [(host.name, host.domains) for host in hosts])
    return _Table(name, raw, level, RouteConfiguration(name, tuple(hosts), ignore_port), notes)


def _domains_are_plain(hosts: list[VirtualHost]) -> bool:
    """Tell whether there is nothing about the domains for :func:`check_domains` to find."""
    domains = [domain.lower() for host in hosts for domain in host.domains]
    return all(host.domains for host in hosts) and len(set(domains)) == len(domains) and "".join(domains).isprintable()


def _host(scope: Scope, index: int, data: bytes, level: _Level) -> VirtualHost:
    """Return a new virtual host; faults go to the scope."""
    message = route_components_pb2.VirtualHost.FromString(data)
    routes = LazyRoutes(data, level, index)
    host = host_of(message, routes)
    shapes, clusters = virtual_host_shape(message)
    routes.clusters = tuple(clusters)
    keys = [(level.key, shape) for shape in shapes]
    if len(keys) == 1:
        notes = _SHAPES.get(keys[0])
    else:
        notes = () if all(_SHAPES.get(key) is not None for key in keys) else None
    if notes is None:
        notes = _decoded(scope.at("virtual_hosts", index), data, level, keys)
    routes.notes = notes
    if host.by_tree:
        routes.clusters = tuple(dict.fromkeys(name for _, name in route_references(routes)))
    return host


def _decoded(scope: Scope, data: bytes, level: _Level, keys: list[tuple[bytes, bytes]]) -> Sequence[Remark]:
    """Decode a virtual host whole for what is wrong in it; what is valid is known from then on."""
    faults, noted = len(scope.faults), len(scope.notes)
    virtual_host(scope, route_components_pb2.VirtualHost.FromString(data), level.inherited)
    start = len(scope.path()) + 1
    notes = remarks(scope.notes[noted:], start)
    if len(scope.faults) == faults and (len(keys) == 1 or not notes):
        for key in keys:
            _SHAPES.add(key, notes)
    return notes
