"""All documents of a folder, by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from meshlib.controlplane.documents import tree
from meshlib.controlplane.documents.authorization import AuthorizationPolicy, RequestAuthentication
from meshlib.controlplane.documents.destination_rule import DestinationRule
from meshlib.controlplane.documents.endpoints import Endpoints, EndpointSlice, Namespace, Node, Secret, ServiceAccount
from meshlib.controlplane.documents.envoy_filter import EnvoyFilter
from meshlib.controlplane.documents.gateway import Gateway
from meshlib.controlplane.documents.mesh_config import ConfigMap, MeshConfig
from meshlib.controlplane.documents.place import Origin, Place, Reader, Report
from meshlib.controlplane.documents.security import PeerAuthentication
from meshlib.controlplane.documents.services import Service, ServiceEntry
from meshlib.controlplane.documents.sidecar import Sidecar
from meshlib.controlplane.documents.telemetry import Telemetry
from meshlib.controlplane.documents.virtual_service import VirtualService
from meshlib.controlplane.documents.workloads import Deployment, Pod, WorkloadEntry, WorkloadGroup
from meshlib.controlplane.faults import ERROR, WARNING, Fault, suggestion


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """Every document understood, in the order of the files' names and of the files.

    Immutable, and compared by identity: what is derived from one is remembered by it.
    """

    services: tuple[Service, ...] = ()
    pods: tuple[Pod, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    endpoint_slices: tuple[EndpointSlice, ...] = ()
    endpoints: tuple[Endpoints, ...] = ()
    nodes: tuple[Node, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    service_accounts: tuple[ServiceAccount, ...] = ()
    secrets: tuple[Secret, ...] = ()
    service_entries: tuple[ServiceEntry, ...] = ()
    workload_entries: tuple[WorkloadEntry, ...] = ()
    workload_groups: tuple[WorkloadGroup, ...] = ()
    virtual_services: tuple[VirtualService, ...] = ()
    destination_rules: tuple[DestinationRule, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    config_maps: tuple[ConfigMap, ...] = ()
    authorization_policies: tuple[AuthorizationPolicy, ...] = ()
    request_authentications: tuple[RequestAuthentication, ...] = ()
    envoy_filters: tuple[EnvoyFilter, ...] = ()
    telemetries: tuple[Telemetry, ...] = ()
    sidecars: tuple[Sidecar, ...] = ()
    peer_authentications: tuple[PeerAuthentication, ...] = ()

    @property
    def mesh(self) -> MeshConfig | None:
        """The mesh's settings, None where no ConfigMap has any."""
        return next((item.mesh for item in self.config_maps if item.mesh is not None), None)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind is read, and the field of :class:`Documents` that it goes to."""

    group: str
    versions: tuple[str, ...]
    reader: Reader[Any]
    into: str


_NETWORKING = "networking.istio.io"
_SECURITY = "security.istio.io"
_ISTIO_VERSIONS = ("v1", "v1beta1", "v1alpha3")
_KINDS = {
    "Service": _Kind("", ("v1",), Service.read, "services"),
    "Pod": _Kind("", ("v1",), Pod.read, "pods"),
    "EndpointSlice": _Kind("discovery.k8s.io", ("v1",), EndpointSlice.read, "endpoint_slices"),
    "Endpoints": _Kind("", ("v1",), Endpoints.read, "endpoints"),
    "Node": _Kind("", ("v1",), Node.read, "nodes"),
    "Namespace": _Kind("", ("v1",), Namespace.read, "namespaces"),
    "ServiceAccount": _Kind("", ("v1",), ServiceAccount.read, "service_accounts"),
    "Secret": _Kind("", ("v1",), Secret.read, "secrets"),
    "Deployment": _Kind("apps", ("v1",), Deployment.read, "deployments"),
    "ServiceEntry": _Kind(_NETWORKING, _ISTIO_VERSIONS, ServiceEntry.read, "service_entries"),
    "WorkloadEntry": _Kind(_NETWORKING, _ISTIO_VERSIONS, WorkloadEntry.read, "workload_entries"),
    "WorkloadGroup": _Kind(_NETWORKING, _ISTIO_VERSIONS, WorkloadGroup.read, "workload_groups"),
    "VirtualService": _Kind(_NETWORKING, _ISTIO_VERSIONS, VirtualService.read, "virtual_services"),
    "DestinationRule": _Kind(_NETWORKING, _ISTIO_VERSIONS, DestinationRule.read, "destination_rules"),
    "Telemetry": _Kind("telemetry.istio.io", ("v1", "v1alpha1"), Telemetry.read, "telemetries"),
    "AuthorizationPolicy": _Kind(_SECURITY, ("v1", "v1beta1"), AuthorizationPolicy.read, "authorization_policies"),
    "RequestAuthentication": _Kind(_SECURITY, ("v1", "v1beta1"), RequestAuthentication.read, "request_authentications"),
    "EnvoyFilter": _Kind(_NETWORKING, ("v1alpha3",), EnvoyFilter.read, "envoy_filters"),
    "Sidecar": _Kind(_NETWORKING, _ISTIO_VERSIONS, Sidecar.read, "sidecars"),
    "PeerAuthentication": _Kind(_SECURITY, ("v1", "v1beta1"), PeerAuthentication.read, "peer_authentications"),
    "ConfigMap": _Kind("", ("v1",), ConfigMap.read, "config_maps"),
    "Gateway": _Kind(_NETWORKING, _ISTIO_VERSIONS, Gateway.read, "gateways"),
}


@dataclass(frozen=True, slots=True)
class _Item:
    """One resource as read: what it is, and whether it can be used.

    Attributes:
        place: of the document.
        into: the field of :class:`Documents` that it goes to.
        value: None where it cannot be used.
    """

    place: Place
    into: str
    value: Any
    faults: tuple[Fault, ...]


_Part = tuple["_Item | Fault | tree.Unreadable", ...]


class Memory:
    """What was read before, by the text it was read from: an edit costs the documents that it touches.

    Keeps what the last two readings had. Not thread-safe.
    """

    def __init__(self) -> None:
        self._files = _Generations[tuple[str, str, bytes]]()
        self._parts = _Generations[tuple[str, int, str, bytes]]()

    def turn(self) -> None:
        """Begin a reading."""
        self._files.turn()
        self._parts.turn()

    def file(self, file: str, namespace: str, content: bytes) -> _Part:
        """Return what a file comes to."""
        return self._files.get((file, namespace, content), lambda: tuple(self._file(file, namespace, content)))

    def _file(self, file: str, namespace: str, content: bytes) -> Iterator[_Item | Fault | tree.Unreadable]:
        for line, part in tree.split(content):
            reader = _PartReader(file, namespace)
            items = self._parts.get((file, line, namespace, part), lambda: tuple(reader.read(part, line)))  # noqa: B023 - called at once
            yield from items
            if any(isinstance(item, tree.Unreadable) and item.ends for item in items):
                return


_K = TypeVar("_K")


class _Generations(Generic[_K]):
    """What the last two readings had."""

    def __init__(self) -> None:
        self._now: dict[_K, _Part] = {}
        self._before: dict[_K, _Part] = {}

    def turn(self) -> None:
        self._now, self._before = {}, self._now

    def get(self, key: _K, make: Callable[[], _Part]) -> _Part:
        known = self._now.get(key)
        if known is None:
            known = self._before.get(key)
        if known is None:
            known = make()
        self._now[key] = known
        return known


def read(
    files: Mapping[str, bytes], *, namespace: str = "default", memory: Memory | None = None
) -> tuple[Documents, tuple[Fault, ...]]:
    """Read YAML and JSON files.

    Args:
        files: name, relative to the folder, -> content. Names only serve messages and order;
            one that ends in ``.json`` may have tabs.
        namespace: of the documents that name none.
        memory: of the readings before; documents whose text and line are the same are the same objects.

    Returns:
        The documents that are right, and every fault found: an ERROR names a document that
        was dropped, a WARNING what is not obeyed.
    """
    memory = memory or Memory()
    memory.turn()
    collection = _Collection()
    for file in sorted(files):
        collection.take(file, memory.file(file, namespace, files[file]))
    found = {into: tuple(items) for into, items in collection.found.items()}
    return Documents(**found), tuple(collection.faults)


@dataclass(slots=True)
class _Collection:
    """The parts of all files put together: of several resources with one name, the first."""

    faults: list[Fault] = field(default_factory=list)
    found: dict[str, list[Any]] = field(default_factory=dict)
    places: dict[tuple[str, str, str], Place] = field(default_factory=dict)

    def take(self, file: str, part: _Part) -> None:
        """Add what a file came to."""
        for item in part:
            match item:
                case _Item():
                    self._resource(item)
                case Fault():
                    self.faults.append(item)
                case _:
                    self.faults.append(Fault(ERROR, str(item), file, item.line, item.column))

    def _resource(self, item: _Item) -> None:
        place = item.place
        key = (place.origin.kind, place.origin.namespace, place.origin.name)
        first = self.places.setdefault(key, place)
        if first is not place:
            self.faults.append(
                place.fault(ERROR, f"duplicate: {first.source} has a {place.origin} already; this one is dropped")
            )
            return
        self.faults.extend(item.faults)
        if item.value is not None:
            self.found.setdefault(item.into, []).append(item.value)


@dataclass(slots=True)
class _PartReader:
    """Reads one part of a file. One use."""

    file: str
    namespace: str
    made: list[_Item | Fault | tree.Unreadable] = field(default_factory=list)

    def read(self, content: bytes, line: int) -> list[_Item | Fault | tree.Unreadable]:
        """Return what the part comes to."""
        for document in tree.parse(content, json=self.file.endswith(".json"), line=line):
            if isinstance(document, tree.Unreadable):
                self.made.append(document)
            elif not (isinstance(document, tree.Scalar) and tree.resolve(document) is None):
                self._document(Place(Origin(self.file), "", document))
        return self.made

    def _document(self, place: Place) -> None:
        if not isinstance(place.tree, tree.Mapping):
            self._refuse(place, f"expected a Kubernetes object, got {tree.describe(place.tree)}")
            return
        kind, version = _string(place.child("kind")), _string(place.child("apiVersion"))
        if not kind or not version:
            missing = "kind" if not kind else "apiVersion"
            self._refuse(place, f"expected a field {missing!r} with a string, as every Kubernetes object has")
        elif kind.endswith("List") and kind.removesuffix("List") in ("", *_KINDS):
            self._list(place)
        else:
            self._resource(place, kind, version)

    def _list(self, place: Place) -> None:
        items = place.child("items")
        if not isinstance(items.tree, tree.Sequence):
            self._refuse(place, "expected a list of items")
            return
        for index, item in enumerate(items.tree.items):
            self._document(Place(place.origin, f"{items.path}[{index}]", item))

    def _resource(self, place: Place, kind: str, version: str) -> None:
        metadata = place.child("metadata")
        origin = Origin(
            place.origin.file,
            kind,
            _string(metadata.child("namespace")) or self.namespace,
            _string(metadata.child("name")) or "?",
        )
        group, _, number = version.rpartition("/")
        known = _KINDS.get(kind)
        if known is None or known.group != group:
            self._skip(Place(origin, "", place.tree), kind, version)
            return
        if number not in known.versions:
            wanted = " or ".join(f"{group}/{item}".lstrip("/") for item in known.versions)
            self.made.append(
                Place(origin, "", place.tree).child("apiVersion").fault(ERROR, f"expected {wanted}, got {version!r}")
            )
            return
        self._read(Place(origin, place.path, place.tree), known)

    def _read(self, place: Place, kind: _Kind) -> None:
        report = Report()
        values: list[Any] = []
        report.attempt(kind.reader, place, values.append)
        self.made.append(_Item(place, kind.into, values[0] if values else None, tuple(report.faults)))

    def _skip(self, place: Place, kind: str, version: str) -> None:
        known = _KINDS.get(kind)
        if known is not None and known.group.partition(".")[2] == version.rpartition("/")[0].partition(".")[2]:
            hint = f" (did you mean apiVersion: {known.group}/{known.versions[0]}?)"
        else:
            hint = "" if known is not None else suggestion(kind, _KINDS)
        self.made.append(place.fault(WARNING, f"kind {kind} of {version} is not understood yet; skipped{hint}"))

    def _refuse(self, place: Place, message: str) -> None:
        self.made.append(Fault(ERROR, message, place.origin.file, place.tree.line, place.tree.column))


def _string(place: Place) -> str:
    """Return a string value, or nothing where there is none; the reader proper complains."""
    value = tree.resolve(place.tree) if isinstance(place.tree, tree.Scalar) else None
    return value if isinstance(value, str) else ""
