"""Which services there are and what answers behind them.

A service's endpoints come from its selector, over Pods with an address, WorkloadEntries and
Deployments annotated with ``meshlib.dev/address``; from the endpoints written in a
ServiceEntry; or, with DNS resolution, from the host's name itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from meshlib.controlplane.documents import Documents
from meshlib.controlplane.documents.services import Service as ServiceDocument
from meshlib.controlplane.documents.services import ServiceEntry
from meshlib.controlplane.documents.workloads import (
    ADDRESS_ANNOTATION,
    Deployment,
    Pod,
    WorkloadEntry,
    WorkloadEntrySpec,
)
from meshlib.controlplane.faults import WARNING, Fault
from meshlib.controlplane.mtls import MutualTls
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.services import (
    Endpoint,
    Port,
    Resolution,
    Service,
    protocol_named,
    protocol_of_port,
)

_NO_MTLS = "DISABLE"
_TLS_MODE = "security.istio.io/tlsMode"
_APP_LABELS = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")


@dataclass(frozen=True, slots=True)
class Registry:
    """All services, by host; immutable.

    Attributes:
        services: host -> service, sorted by host.
        faults: what was found on the way: WARNINGs.
    """

    services: Mapping[str, Service]
    faults: tuple[Fault, ...]

    def selecting(self, namespace: str, labels: Mapping[str, str]) -> Iterator[Service]:
        """Yield the services of ``namespace`` whose selector takes a workload with ``labels``."""
        for service in self.services.values():
            if service.namespace == namespace and service.selector and selects(service.selector, labels):
                yield service


@dataclass(frozen=True, slots=True)
class _Workload:
    """Something that answers, whatever kind of document it came from.

    Attributes:
        ports: port name -> number.
        port: the one port it listens on, whatever a service says; 0 for none.
        renumbers: whether ``ports`` overrides a service's *numbered* target of the same name,
            as a WorkloadEntry's does and a Pod's container ports do not.
    """

    name: str
    namespace: str
    address: str
    labels: Mapping[str, str]
    ports: Mapping[str, int]
    port: int = 0
    renumbers: bool = False
    weight: int = 1
    locality: str = ""
    healthy: bool | None = None
    service_account: str = ""
    tls_mode: str = ""

    def target(self, port: Port) -> int | None:
        """Return the number behind a service's port, or None where it has no such port."""
        if self.port:
            return self.port
        if isinstance(port.target, str):
            return self.ports.get(port.target)
        if self.renumbers and port.name in self.ports:
            return self.ports[port.name]
        return port.target or port.number


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Tell whether ``labels`` have everything the selector asks for."""
    return all(labels.get(key) == value for key, value in selector.items())


def build(documents: Documents, options: MeshOptions) -> Registry:
    """Return the registry of ``documents``. Pure."""
    workloads = [*_pods(documents.pods), *_entries(documents.workload_entries), *_deployed(documents.deployments)]
    by_label: dict[tuple[str, str, str], list[_Workload]] = defaultdict(list)
    for workload in workloads:
        for key, value in workload.labels.items():
            by_label[workload.namespace, key, value].append(workload)
    mtls = MutualTls(documents.peer_authentications, options)
    faults: list[Fault] = []
    services: dict[str, Service] = {}
    entries = sorted(documents.service_entries, key=lambda entry: entry.age)
    kubernetes = [item for item in documents.services if item.spec.type != "ExternalName"]  # warned about
    for service, inline in [*(_kubernetes(item, options) for item in kubernetes), *_istio(entries)]:
        behind = [*inline, *_selected(service, by_label)]
        complete = replace(
            service,
            ports=tuple(_connect(port, behind, options, mtls) for port in service.ports),
            mtls=mtls.namespace(service.namespace) != _NO_MTLS,
        )
        first = services.get(service.host)
        if first is None:
            services[service.host] = complete
            continue
        services[service.host] = _joined(first, complete)
        faults.append(_same_host(first, complete))
    ordered = {host: services[host] for host in sorted(services)}
    faults.extend(_unaddressed(documents.deployments, ordered.values()))
    return Registry(ordered, tuple(faults))


# ---------------------------------------------------------------- services


def _kubernetes(document: ServiceDocument, options: MeshOptions) -> tuple[Service, list[_Workload]]:
    spec = document.spec
    service = Service(
        host=f"{document.name}.{document.namespace}.svc.{options.domain}",
        name=document.name,
        namespace=document.namespace,
        ports=tuple(
            Port(p.port, p.name, protocol_of_port(p.port, p.name, p.protocol, p.app_protocol), p.target_port)
            for p in spec.ports
        ),
        addresses=(spec.vip,) if spec.vip else (),
        resolution=Resolution.STATIC,
        external=False,
        export_to=_export_annotation(document.metadata.annotations),
        subject_alt_names=(),
        selector=spec.selector,
        at=document.at,
    )
    return service, []


def _export_annotation(annotations: Mapping[str, str]) -> tuple[str, ...]:
    written = annotations.get("networking.istio.io/exportTo", "")
    return tuple(part.strip() for part in written.split(",") if part.strip())


def _istio(entries: Iterable[ServiceEntry]) -> Iterator[tuple[Service, list[_Workload]]]:
    for entry in entries:
        spec = entry.spec
        for host in spec.hosts:
            service = Service(
                host=host,
                name=host,
                namespace=entry.namespace,
                ports=tuple(Port(p.number, p.name, protocol_named(p.protocol), p.target_port) for p in spec.ports),
                addresses=spec.addresses,
                resolution=Resolution(spec.resolution),
                external=spec.location == "MESH_EXTERNAL",
                export_to=spec.export_to,
                subject_alt_names=spec.subject_alt_names,
                selector=spec.workload_selector.labels if spec.workload_selector else {},
                at=entry.at,
            )
            yield service, _inline(entry, host)


def _inline(entry: ServiceEntry, host: str) -> list[_Workload]:
    spec = entry.spec
    if spec.endpoints:
        return [
            _entry(f"{entry.name}-{index}", entry.namespace, endpoint) for index, endpoint in enumerate(spec.endpoints)
        ]
    by_name = spec.resolution in ("DNS", "DNS_ROUND_ROBIN") and spec.workload_selector is None
    return [_Workload(entry.name, entry.namespace, host, {}, {})] if by_name and not host.startswith("*") else []


def _joined(first: Service, second: Service) -> Service:
    """Return ``first`` with the endpoints of ``second``'s ports of the same numbers."""
    ports = []
    for port in first.ports:
        other = second.port(port.number)
        ports.append(replace(port, endpoints=port.endpoints + other.endpoints) if other else port)
    return replace(first, ports=tuple(ports))


def _same_host(first: Service, second: Service) -> Fault:
    return second.at.fault(
        WARNING,
        f"host {second.host!r} is that of {first.at.origin} ({first.at.source}) too; "
        "its endpoints join that service and its other settings are not applied",
        applies=True,
    )


# ---------------------------------------------------------------- workloads


def _pods(pods: Iterable[Pod]) -> Iterator[_Workload]:
    for pod in pods:
        if pod.status and pod.status.pod_ip and pod.status.phase not in ("Succeeded", "Failed"):
            status = pod.status
            yield _Workload(
                pod.workload,
                pod.namespace,
                status.pod_ip,
                pod.labels,
                pod.spec.ports,
                healthy=status.ready,
                service_account=pod.spec.service_account_name,
                tls_mode=pod.labels.get(_TLS_MODE, ""),
            )


def _entries(entries: Iterable[WorkloadEntry]) -> Iterator[_Workload]:
    for entry in entries:
        # The labels of the object itself come on top of those of its spec (Istio's order).
        labels = {**entry.spec.labels, **entry.labels}
        yield replace(_entry(entry.name, entry.namespace, entry.spec), labels=labels)


def _entry(name: str, namespace: str, spec: WorkloadEntrySpec) -> _Workload:
    return _Workload(
        name,
        namespace,
        spec.address,
        spec.labels,
        spec.ports,
        renumbers=True,
        weight=spec.weight or 1,
        locality=spec.locality,
        service_account=spec.service_account,
        # Istio takes one that says its account for a workload of the mesh.
        tls_mode=spec.labels.get(_TLS_MODE, "istio" if spec.service_account else ""),
    )


def _deployed(deployments: Iterable[Deployment]) -> Iterator[_Workload]:
    for deployment in deployments:
        for address, port in deployment.addresses:
            ports = deployment.spec.template.spec.ports
            yield _Workload(
                deployment.name, deployment.namespace, address, deployment.pod_labels, ports, port=port or 0
            )


def _selected(service: Service, by_label: Mapping[tuple[str, str, str], list[_Workload]]) -> Iterator[_Workload]:
    """Yield the workloads of the service's namespace that its selector takes."""
    for key, value in service.selector.items():
        for workload in by_label.get((service.namespace, key, value), ()):
            if selects(service.selector, workload.labels):
                yield workload
        return  # those without the first label cannot have all


def _connect(port: Port, workloads: Iterable[_Workload], options: MeshOptions, mtls: MutualTls) -> Port:
    endpoints = []
    for workload in workloads:
        number = workload.target(port)
        if number is not None:
            plain = mtls.workload(workload.namespace, workload.labels, number) == _NO_MTLS
            endpoints.append(
                Endpoint(
                    address=workload.address,
                    port=number,
                    labels=workload.labels,
                    weight=workload.weight,
                    locality=workload.locality,
                    workload=_identity(workload, options),
                    healthy=workload.healthy,
                    namespace=workload.namespace,
                    service_account=workload.service_account,
                    tls_mode="" if plain else workload.tls_mode,
                )
            )
    return replace(port, endpoints=tuple(endpoints))


def _identity(workload: _Workload, options: MeshOptions) -> str:
    labels = workload.labels
    app = next((labels[key] for key in _APP_LABELS if labels.get(key)), workload.name)
    return ";".join((workload.name, workload.namespace, app, labels.get("version", ""), options.cluster_id))


def _unaddressed(deployments: Iterable[Deployment], services: Iterable[Service]) -> Iterator[Fault]:
    """Warn of Deployments that a service counts on and that bring it nothing."""
    served = list(services)
    for deployment in deployments:
        if deployment.addresses:
            continue
        for service in served:
            selected = service.namespace == deployment.namespace and service.selector
            empty = not any(port.endpoints for port in service.ports)
            if selected and empty and selects(service.selector, deployment.pod_labels):
                port = next((p.target for p in service.ports if isinstance(p.target, int)), 8080)
                yield deployment.at.fault(
                    WARNING,
                    f"brings no endpoint to {service.host}, which has none: nothing runs Deployments here. "
                    f"Start it yourself and write where it listens: metadata.annotations: "
                    f'{{{ADDRESS_ANNOTATION}: "127.0.0.1:{port}"}}',
                    applies=True,
                )
