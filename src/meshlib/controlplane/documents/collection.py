"""All documents of a folder, by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meshlib.controlplane.documents import tree
from meshlib.controlplane.documents.destination_rule import DestinationRule
from meshlib.controlplane.documents.endpoints import Endpoints, EndpointSlice, Namespace, Node, Secret, ServiceAccount
from meshlib.controlplane.documents.gateway import Gateway
from meshlib.controlplane.documents.mesh_config import ConfigMap, MeshConfig
from meshlib.controlplane.documents.place import Origin, Place, Reader, Report
from meshlib.controlplane.documents.security import PeerAuthentication
from meshlib.controlplane.documents.services import Service, ServiceEntry
from meshlib.controlplane.documents.sidecar import Sidecar
from meshlib.controlplane.documents.telemetry import Telemetry
from meshlib.controlplane.documents.virtual_service import VirtualService
from meshlib.controlplane.documents.workloads import Deployment, Pod, WorkloadEntry
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
    virtual_services: tuple[VirtualService, ...] = ()
    destination_rules: tuple[DestinationRule, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    config_maps: tuple[ConfigMap, ...] = ()
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
    "VirtualService": _Kind(_NETWORKING, _ISTIO_VERSIONS, VirtualService.read, "virtual_services"),
    "DestinationRule": _Kind(_NETWORKING, _ISTIO_VERSIONS, DestinationRule.read, "destination_rules"),
    "Telemetry": _Kind("telemetry.istio.io", ("v1", "v1alpha1"), Telemetry.read, "telemetries"),
    "Sidecar": _Kind(_NETWORKING, _ISTIO_VERSIONS, Sidecar.read, "sidecars"),
    "PeerAuthentication": _Kind(_SECURITY, ("v1", "v1beta1"), PeerAuthentication.read, "peer_authentications"),
    "ConfigMap": _Kind("", ("v1",), ConfigMap.read, "config_maps"),
    "Gateway": _Kind(_NETWORKING, _ISTIO_VERSIONS, Gateway.read, "gateways"),
}


def read(files: Mapping[str, bytes], *, namespace: str = "default") -> tuple[Documents, tuple[Fault, ...]]:
    """Read YAML and JSON files.

    Args:
        files: name, relative to the folder, -> content. Names only serve messages and order;
            one that ends in ``.json`` may have tabs.
        namespace: of the documents that name none.

    Returns:
        The documents that are right, and every fault found: an ERROR names a document that
        was dropped, a WARNING what is not obeyed.
    """
    reading = _Reading(namespace)
    for file in sorted(files):
        reading.file(file, files[file])
    return Documents(**{into: tuple(found) for into, found in reading.found.items()}), tuple(reading.faults)


@dataclass(slots=True)
class _Reading:
    namespace: str
    faults: list[Fault] = field(default_factory=list)
    found: dict[str, list[Any]] = field(default_factory=dict)
    places: dict[tuple[str, str, str], Place] = field(default_factory=dict)

    def file(self, file: str, content: bytes) -> None:
        for document in tree.parse(content, json=file.endswith(".json")):
            if isinstance(document, tree.Unreadable):
                self.faults.append(Fault(ERROR, str(document), file, document.line, document.column))
            elif not (isinstance(document, tree.Scalar) and tree.resolve(document) is None):
                self._document(Place(Origin(file), "", document))

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
            self.faults.append(
                Place(origin, "", place.tree).child("apiVersion").fault(ERROR, f"expected {wanted}, got {version!r}")
            )
            return
        self._read(Place(origin, place.path, place.tree), known)

    def _read(self, place: Place, kind: _Kind) -> None:
        key = (place.origin.kind, place.origin.namespace, place.origin.name)
        first = self.places.setdefault(key, place)
        if first is not place:
            self.faults.append(
                place.fault(ERROR, f"duplicate: {first.source} has a {place.origin} already; this one is dropped")
            )
            return
        report = Report()
        report.attempt(kind.reader, place, self.found.setdefault(kind.into, []).append)
        self.faults.extend(report.faults)

    def _skip(self, place: Place, kind: str, version: str) -> None:
        known = _KINDS.get(kind)
        if known is not None and known.group.partition(".")[2] == version.rpartition("/")[0].partition(".")[2]:
            hint = f" (did you mean apiVersion: {known.group}/{known.versions[0]}?)"
        else:
            hint = "" if known is not None else suggestion(kind, _KINDS)
        self.faults.append(place.fault(WARNING, f"kind {kind} of {version} is not understood yet; skipped{hint}"))

    def _refuse(self, place: Place, message: str) -> None:
        self.faults.append(Fault(ERROR, message, place.origin.file, place.tree.line, place.tree.column))


def _string(place: Place) -> str:
    """Return a string value, or nothing where there is none; the reader proper complains."""
    value = tree.resolve(place.tree) if isinstance(place.tree, tree.Scalar) else None
    return value if isinstance(value, str) else ""
