"""What answers, whatever kind of document it came from: Pods, WorkloadEntries, Deployments, bare addresses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from meshlib.controlplane.documents import Documents
from meshlib.controlplane.documents.endpoints import Endpoints, EndpointSlice, SlicePort, TargetRef
from meshlib.controlplane.documents.services import Service as ServiceDocument
from meshlib.controlplane.documents.workloads import Deployment, Pod, WorkloadEntry, WorkloadEntrySpec
from meshlib.controlplane.recall import RECALL
from meshlib.controlplane.services import Port

TLS_MODE = "security.istio.io/tlsMode"
_LOCALITY = "istio-locality"  # with dots, for a label cannot have slashes


@dataclass(frozen=True, slots=True)
class Workload:
    """Something that answers.

    Attributes:
        name: of what runs it, a Deployment's; empty for a bare address.
        ports: port name -> number.
        port: the one port it listens on, whatever a service says; 0 for none.
        renumbers: whether ``ports`` overrides a service's *numbered* target of the same name,
            as a WorkloadEntry's does and a Pod's container ports do not.
        sliced: whether ``ports`` is all there is, as in an EndpointSlice.
        hostname: its own name within a headless service.
        node: the name of the machine it runs on.
        network: of Istio's, where it is in one.
    """

    name: str
    namespace: str
    address: str
    labels: Mapping[str, str]
    ports: Mapping[str, int]
    port: int = 0
    renumbers: bool = False
    sliced: bool = False
    weight: int = 1
    locality: str = ""
    healthy: bool | None = None
    service_account: str = ""
    tls_mode: str = ""
    hostname: str = ""
    node: str = ""
    network: str = ""

    def target(self, port: Port) -> int | None:
        """Return the number behind a service's port, or None where it has no such port."""
        if self.sliced:
            return self.ports.get(port.name)
        if self.port:
            return self.port
        if isinstance(port.target, str):
            return self.ports.get(port.target)
        if self.renumbers and port.name in self.ports:
            return self.ports[port.name]
        return port.target or port.number


@dataclass(frozen=True, slots=True)
class Workloads:
    """All workloads, found by their labels or by the slices that list them.

    Attributes:
        pods: by namespace and name.
    """

    pods: Mapping[tuple[str, str], Workload]
    _by_address: dict[str, Workload]
    _slices: Mapping[tuple[str, str], list[EndpointSlice]]
    _endpoints: Mapping[tuple[str, str], Endpoints]
    _by_label: dict[tuple[str, str, str], list[Workload]] = field(default_factory=lambda: defaultdict(list))
    _pod_labels: dict[tuple[str, str, str], list[Workload]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, documents: Documents) -> Workloads:
        """Return the workloads of ``documents``."""
        localities = {node.name: node.locality for node in documents.nodes}
        pods = {
            (pod.namespace, pod.name): one
            for pod in documents.pods
            if (one := RECALL.made(_pod, pod, localities.get(pod.spec.node_name, "")))
        }
        slices: dict[tuple[str, str], list[EndpointSlice]] = defaultdict(list)
        for item in sorted(documents.endpoint_slices, key=lambda item: item.name):
            slices[item.namespace, item.service].append(item)
        older = {(item.namespace, item.name): item for item in documents.endpoints}
        made = cls(pods, {}, slices, older)
        for workload in pods.values():
            made._index(made._pod_labels, workload)
        entries = (RECALL.made(_entry, entry) for entry in documents.workload_entries)
        for workload in (*entries, *_deployed(documents.deployments)):
            made._index(made._by_label, workload)
        return made

    def _index(self, index: dict[tuple[str, str, str], list[Workload]], workload: Workload) -> None:
        self._by_address.setdefault(workload.address, workload)
        for key, value in workload.labels.items():
            index[workload.namespace, key, value].append(workload)

    def behind(self, service: ServiceDocument) -> Iterator[Workload]:
        """Yield what answers for a Kubernetes Service: what its slices list, else its Pods, and other workloads."""
        key = (service.namespace, service.name)
        if key in self._slices:
            for item in self._slices[key]:
                yield from self._sliced(item)
        elif key in self._endpoints:
            yield from self._older(self._endpoints[key])
        else:
            for pod in _matching(self._pod_labels, service.namespace, service.spec.selector):
                yield replace(pod, healthy=True) if service.spec.publish_not_ready_addresses else pod
        yield from _matching(self._by_label, service.namespace, service.spec.selector)

    def selected(self, namespace: str, selector: Mapping[str, str]) -> Iterator[Workload]:
        """Yield the workloads that a ServiceEntry's selector takes."""
        yield from _matching(self._pod_labels, namespace, selector)
        yield from _matching(self._by_label, namespace, selector)

    def at(self, address: str) -> Workload | None:
        """Return the workload with an address, a Pod before others."""
        return self._by_address.get(address)

    def named(self, name: str, namespace: str) -> Workload | None:
        """Return the first workload of a name: what runs it, else its Pod's, else its label ``app``."""
        pod = self.pods.get((namespace, name))
        indexes = (self._by_label, self._pod_labels)
        here = [item for index in indexes for key, items in index.items() if key[0] == namespace for item in items]
        named = [item for item in here if item.name == name]
        return next(iter([*named, *filter(None, [pod]), *(i for i in here if i.labels.get("app") == name)]), None)

    def _sliced(self, item: EndpointSlice) -> Iterator[Workload]:
        ports = _numbers(item.ports)
        for endpoint in item.endpoints:
            conditions = endpoint.conditions
            if conditions is not None and conditions.terminating:
                continue  # istiod sends none that goes away
            for address in endpoint.addresses[:1]:
                base = self._base(item.namespace, address, endpoint.target_ref)
                healthy = conditions is None or conditions.ready
                yield replace(base, ports=ports, sliced=True, healthy=healthy, hostname=endpoint.hostname)

    def _older(self, item: Endpoints) -> Iterator[Workload]:
        for subset in item.subsets:
            ports = _numbers(subset.ports)
            for healthy, addresses in ((True, subset.addresses), (False, subset.not_ready_addresses)):
                for address in addresses:
                    base = self._base(item.namespace, address.ip, address.target_ref)
                    yield replace(base, ports=ports, sliced=True, healthy=healthy, hostname=address.hostname)

    def _base(self, namespace: str, address: str, target: TargetRef | None) -> Workload:
        """Return the Pod behind an address, else the bare address."""
        named = self.pods.get((namespace, target.name)) if target and target.kind == "Pod" else None
        at = self._by_address.get(address)
        found = named or (at if at is not None and at.healthy is not None else None)  # a Pod says how it is
        return replace(found, address=address) if found else Workload("", "", address, {}, {})


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Tell whether ``labels`` have everything the selector asks for."""
    return all(labels.get(key) == value for key, value in selector.items())


def inline(name: str, namespace: str, spec: WorkloadEntrySpec) -> Workload:
    """Return one of a ServiceEntry's own endpoints."""
    labels = spec.labels
    return Workload(
        name,
        namespace,
        spec.address,
        labels,
        spec.ports,
        renumbers=True,
        weight=spec.weight or 1,
        locality=spec.locality or labels.get(_LOCALITY, "").replace(".", "/"),
        service_account=spec.service_account,
        network=spec.network,
        # Istio takes one that says its account for a workload of the mesh.
        tls_mode=labels.get(TLS_MODE, "istio" if spec.service_account else ""),
    )


def _matching(
    index: Mapping[tuple[str, str, str], list[Workload]], namespace: str, selector: Mapping[str, str]
) -> Iterator[Workload]:
    for key, value in selector.items():
        for workload in index.get((namespace, key, value), ()):
            if selects(selector, workload.labels):
                yield workload
        return  # those without the first label cannot have all


def _numbers(ports: Iterable[SlicePort]) -> Mapping[str, int]:
    return {port.name: port.port for port in ports if port.port is not None}


def _pod(pod: Pod, locality: str) -> Workload | None:
    status = pod.status
    if status is None or not status.pod_ip or status.phase in ("Succeeded", "Failed"):
        return None
    written = pod.labels.get(_LOCALITY, "").replace(".", "/")
    return Workload(
        pod.workload,
        pod.namespace,
        status.pod_ip,
        pod.labels,
        pod.spec.ports,
        locality=written or locality,
        healthy=status.ready,
        service_account=pod.spec.service_account_name,
        tls_mode=pod.labels.get(TLS_MODE, ""),
        hostname=pod.spec.hostname if pod.spec.subdomain else "",
        node=pod.spec.node_name,
    )


def _entry(entry: WorkloadEntry) -> Workload:
    # The labels of the object itself come on top of those of its spec (Istio's order).
    made = inline(entry.name, entry.namespace, entry.spec)
    return replace(made, labels={**entry.spec.labels, **entry.labels})


def _deployed(deployments: Iterable[Deployment]) -> Iterator[Workload]:
    for deployment in deployments:
        for address, port in deployment.addresses:
            ports = deployment.spec.template.spec.ports
            yield Workload(deployment.name, deployment.namespace, address, deployment.pod_labels, ports, port=port or 0)
