"""The objects of a folder as they were written, with the questions that several checks ask of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from meshlib.controlplane import hosts
from meshlib.controlplane.documents import tree
from meshlib.controlplane.documents.fields import duration, plain
from meshlib.controlplane.documents.place import Misfit, Origin, Place, Report

DOMAIN = "cluster.local"
SYSTEM = "istio-system"
_GROUPS = {
    "networking.istio.io": "VirtualService DestinationRule Gateway ServiceEntry WorkloadEntry WorkloadGroup Sidecar "
    "EnvoyFilter ProxyConfig",
    "security.istio.io": "AuthorizationPolicy PeerAuthentication RequestAuthentication",
    "telemetry.istio.io": "Telemetry",
    "apps": "Deployment StatefulSet DaemonSet",
    "": "Service Pod Namespace Node ConfigMap Secret",
}
_KINDS = {(group, kind) for group, kinds in _GROUPS.items() for kind in kinds.split()}


@dataclass(frozen=True, slots=True, eq=False)
class Object:
    """One object. ``spec`` and the rest are plain data; :meth:`at` finds where something of it was written."""

    place: Place
    body: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """``VirtualService``."""
        return self.place.origin.kind

    @property
    def name(self) -> str:
        """``metadata.name``."""
        return self.place.origin.name

    @property
    def namespace(self) -> str:
        """``metadata.namespace``, or the reader's default."""
        return self.place.origin.namespace

    @property
    def full_name(self) -> str:
        """``istioinaction/catalog``."""
        return f"{self.namespace}/{self.name}"

    @property
    def spec(self) -> Mapping[str, Any]:
        """``spec``."""
        return mapping(self.body.get("spec"))

    @property
    def labels(self) -> Mapping[str, str]:
        """``metadata.labels``."""
        return texts(mapping(self.body.get("metadata")).get("labels"))

    @property
    def annotations(self) -> Mapping[str, str]:
        """``metadata.annotations``."""
        return texts(mapping(self.body.get("metadata")).get("annotations"))

    def at(self, *path: str | int) -> Place:
        """Return where a value was written, or the nearest around it: ``at("spec", "http", 0, "timeout")``."""
        place = self.place
        for step in path:
            if isinstance(step, str):
                if not place.has(step):
                    return place
                place = place.child(step)
            elif isinstance(place.tree, tree.Sequence) and step < len(place.tree.items):
                place = place.item(step)
            else:
                return place
        return place


@dataclass(frozen=True, slots=True)
class Workload:
    """What selectors look at: a Pod, a WorkloadEntry, or what a Deployment's Pods will be."""

    namespace: str
    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Host:
    """A service as destinations see it: its ports, and the labels that its workloads have to have."""

    ports: tuple[int, ...]
    selector: Mapping[str, str]
    endpoints: tuple[Mapping[str, str], ...] = ()


@dataclass
class Objects:
    """All objects by kind, in the order of the files."""

    by_kind: dict[str, list[Object]] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Mapping[str, bytes], namespace: str = "default") -> Objects:
        """Return the objects of ``files``; what does not parse is left out, for others say so."""
        objects = cls()
        for file in sorted(files):
            for document in tree.parse(files[file], json=file.endswith(".json")):
                if isinstance(document, tree.Mapping):
                    objects._add(Place(Origin(file), "", document), namespace)
        return objects

    def _add(self, place: Place, namespace: str) -> None:
        body = mapping(plain(place.tree))
        kind, version = str(body.get("kind", "")), str(body.get("apiVersion", ""))
        items = place.child("items")
        if kind.endswith("List") and isinstance(items.tree, tree.Sequence):
            for index, item in enumerate(items.tree.items):
                if isinstance(item, tree.Mapping):
                    self._add(Place(place.origin, "", items.item(index).tree), namespace)
            return
        if (version.rpartition("/")[0], kind) in _KINDS:
            metadata = mapping(body.get("metadata"))
            own = str(metadata.get("namespace") or namespace)
            origin = Origin(place.origin.file, kind, own, str(metadata.get("name") or "?"))
            self.by_kind.setdefault(kind, []).append(Object(Place(origin, "", place.tree), body))

    def of(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""
        return self.by_kind.get(kind, [])

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return one object."""
        return next((item for item in self.of(kind) if (item.namespace, item.name) == (namespace, name)), None)

    @cached_property
    def mesh(self) -> Mapping[str, Any]:
        """MeshConfig, from the ConfigMap ``istio``; empty where there is none."""
        config = next((item for item in self.of("ConfigMap") if item.name == "istio"), None)
        text = mapping(config.body.get("data")).get("mesh") if config else None
        for document in tree.parse(str(text or "").encode()):
            if isinstance(document, tree.Mapping):
                return mapping(plain(document))
        return {}

    @property
    def root_namespace(self) -> str:
        """Where what is for the whole mesh stands."""
        return str(self.mesh.get("rootNamespace") or SYSTEM)

    @cached_property
    def workloads(self) -> list[Workload]:
        """Everything that a selector may take."""
        pods = [Workload(item.namespace, item.name, self._augmented(item)) for item in self.of("Pod")]
        entries = [
            Workload(item.namespace, item.name, {**texts(item.spec.get("labels")), **item.labels})
            for item in self.of("WorkloadEntry")
        ]
        templates = []
        for kind in ("Deployment", "StatefulSet", "DaemonSet"):
            for item in self.of(kind):
                metadata = mapping(mapping(item.spec.get("template")).get("metadata"))
                templates.append(Workload(item.namespace, item.name, texts(metadata.get("labels"))))
        return [*pods, *entries, *templates]

    def _augmented(self, pod: Object) -> Mapping[str, str]:
        """Return a Pod's labels with those that istiod adds from its Node: subsets may name them."""
        node = next((item for item in self.of("Node") if item.name == pod.spec.get("nodeName")), None)
        topology = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone")
        added = {key: node.labels[key] for key in topology if key in node.labels} if node else {}
        host = {"kubernetes.io/hostname": str(pod.spec["nodeName"])} if pod.spec.get("nodeName") else {}
        return {**host, **added, **pod.labels}

    @cached_property
    def hosts(self) -> Mapping[tuple[str, str], Host]:
        """Services by scope (``*`` or a namespace) and full host, wildcards among them."""
        found: dict[tuple[str, str], Host] = {}
        for entry in self.of("ServiceEntry"):
            ports = tuple(number(mapping(port).get("number")) for port in listed(entry.spec.get("ports")))
            selector = texts(mapping(entry.spec.get("workloadSelector")).get("labels"))
            endpoints = tuple(texts(mapping(item).get("labels")) for item in listed(entry.spec.get("endpoints")))
            for host in listed(entry.spec.get("hosts")):
                full = hosts.qualify(str(host), entry.namespace, DOMAIN)
                for scope in scopes(listed(entry.spec.get("exportTo")), entry.namespace):
                    found[scope, full] = Host(ports, selector, endpoints)
        for service in self.of("Service"):
            ports = tuple(number(mapping(port).get("port")) for port in listed(service.spec.get("ports")))
            written = service.annotations.get("networking.istio.io/exportTo", "")
            full = hosts.qualify(service.name, service.namespace, DOMAIN)
            for scope in scopes([item.strip() for item in written.split(",") if item.strip()], service.namespace):
                found[scope, full] = Host(ports, texts(service.spec.get("selector")))
        return found

    def host(self, written: str, owner: Object) -> Host | None:
        """Return the service that ``owner`` means by a host, if it sees one."""
        full = hosts.qualify(written, owner.namespace, DOMAIN)
        exported = scopes(listed(owner.spec.get("exportTo")), owner.namespace, otherwise=owner.namespace)
        for scope in ("*", *exported):
            if (scope, full) in self.hosts:
                return self.hosts[scope, full]
        for (scope, known), found in self.hosts.items():
            wide = known.startswith("*") and scope in ("*", owner.namespace)
            if wide and written.removeprefix("*").endswith(known.removeprefix("*")):
                return found
        return None


def scopes(export_to: list[Any], namespace: str, otherwise: str = "*") -> tuple[str, ...]:
    """Return where something is seen: ``*`` or namespaces."""
    if "*" in export_to:
        return ("*",)
    return tuple(namespace if item == "." else str(item) for item in export_to) or (otherwise,)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Tell whether ``labels`` have everything the selector asks for; an empty one takes all."""
    return all(labels.get(key) == value for key, value in selector.items())


def selector_text(selector: Mapping[str, str]) -> str:
    """``app=catalog,version=v1``."""
    return ",".join(f"{key}={selector[key]}" for key in sorted(selector))


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping, an empty one where something else was written."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """Return a list, an empty one where something else was written."""
    return value if isinstance(value, list) else []


def texts(value: Any) -> Mapping[str, str]:
    """Return a mapping of strings, as labels are."""
    return {key: str(item) for key, item in mapping(value).items() if isinstance(item, str | int | float)}


def number(value: Any) -> int:
    """Return an integer, 0 where something else was written."""
    return value if isinstance(value, int) else 0


def seconds(place: Place) -> float | None:
    """Return a duration in seconds, None where none was written."""
    try:
        return duration(place, Report())
    except Misfit:
        return None


@dataclass(frozen=True, slots=True)
class Target:
    """A destination of a VirtualService and where it stands; ``mirror`` for that of a copy."""

    host: str
    subset: str
    port: int | None
    place: Place
    mirror: bool


def targets(document: Object) -> Iterator[Target]:
    """Yield every destination of a VirtualService."""
    for protocol in ("tcp", "tls", "http"):
        for index, route in enumerate(listed(document.spec.get(protocol))):
            for position, item in enumerate(listed(mapping(route).get("route"))):
                where = ("spec", protocol, index, "route", position, "destination")
                yield from _target(document, mapping(item).get("destination"), where, mirror=False)
    for index, route in enumerate(listed(document.spec.get("http"))):
        yield from _target(document, mapping(route).get("mirror"), ("spec", "http", index, "mirror"), mirror=True)
        for position, item in enumerate(listed(mapping(route).get("mirrors"))):
            where = ("spec", "http", index, "mirrors", position, "destination")
            yield from _target(document, mapping(item).get("destination"), where, mirror=True)


def _target(document: Object, written: Any, where: tuple[str | int, ...], *, mirror: bool) -> Iterator[Target]:
    if isinstance(written, dict):
        port = mapping(written.get("port")).get("number")
        host, subset = str(written.get("host", "")), str(written.get("subset") or "")
        yield Target(host, subset, number(port) if port is not None else None, document.at(*where, "host"), mirror)
