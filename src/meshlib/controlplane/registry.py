"""Which services there are and what answers behind them.

A service's endpoints come from its EndpointSlices, or from its selector over Pods with an address; from
WorkloadEntries and Deployments annotated with ``meshlib.dev/address``; from the endpoints written in a
ServiceEntry; or, with DNS resolution, from the host's name itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from meshlib.controlplane.documents import Documents
from meshlib.controlplane.documents.security import PeerAuthentication
from meshlib.controlplane.documents.services import Service as ServiceDocument
from meshlib.controlplane.documents.services import ServiceEntry
from meshlib.controlplane.documents.workloads import ADDRESS_ANNOTATION, Deployment
from meshlib.controlplane.faults import WARNING, Fault
from meshlib.controlplane.mtls import MutualTls
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.recall import RECALL
from meshlib.controlplane.services import (
    Endpoint,
    Port,
    Resolution,
    Service,
    protocol_named,
    protocol_of_port,
)
from meshlib.controlplane.workloads import Workload, Workloads, inline, selects

_NO_MTLS = "DISABLE"
_APP_LABELS = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_DISTRIBUTION = "networking.istio.io/traffic-distribution"


@dataclass(frozen=True, slots=True)
class Registry:
    """All services, by host; immutable.

    Attributes:
        services: host -> service, the older first, those of one age by name (Istio's order).
        workloads: what answers behind them.
        mtls: which workloads take mTLS.
        faults: what was found on the way: WARNINGs.
    """

    services: Mapping[str, Service]
    workloads: Workloads
    mtls: MutualTls
    faults: tuple[Fault, ...]

    def selecting(self, namespace: str, labels: Mapping[str, str]) -> Iterator[Service]:
        """Yield the services of ``namespace`` whose selector takes a workload with ``labels``."""
        for service in self.services.values():
            if service.namespace == namespace and service.selector and selects(service.selector, labels):
                yield service

    def concrete(self, service: Service) -> Service | None:
        """Return what an ExternalName Service stands for; None for a host outside the mesh."""
        seen: set[str] = set()
        while service.resolution is Resolution.ALIAS:
            seen.add(service.host)
            target = self.services.get(service.external_name)
            if target is None or target.host in seen:
                return None
            service = target
        return service


def build(documents: Documents, options: MeshOptions) -> Registry:
    """Return the registry of ``documents``. Pure."""
    workloads = Workloads.of(documents)
    mtls = RECALL.made(_mutual_tls, options, *documents.peer_authentications)
    faults: list[Fault] = []
    services: dict[str, Service] = {}
    entries = sorted(documents.service_entries, key=lambda entry: entry.age)
    distributions = {
        item.name: item.metadata.annotations[_DISTRIBUTION]
        for item in documents.namespaces
        if _DISTRIBUTION in item.metadata.annotations
    }
    kubernetes = (_kubernetes(item, workloads, options, distributions, mtls) for item in documents.services)
    written = (_complete(service, behind, options, mtls) for service, behind in _istio(entries, workloads))
    for complete in (*kubernetes, *written):
        first = services.get(complete.host)
        if first is None:
            services[complete.host] = complete
            continue
        services[complete.host] = _joined(first, complete)
        faults.append(_same_host(first, complete))
    ordered = {service.host: service for service in sorted(services.values(), key=lambda service: service.age)}
    faults.extend(_unaddressed(documents.deployments, ordered.values()))
    made = Registry(ordered, workloads, mtls, tuple(faults))
    services = {host: RECALL.same((build, host), service) for host, service in _with_aliases(made).items()}
    return replace(made, services=services)


def _mutual_tls(options: MeshOptions, *policies: PeerAuthentication) -> MutualTls:
    return MutualTls(policies, options)


def _complete(service: Service, behind: Iterable[Workload], options: MeshOptions, mtls: MutualTls) -> Service:
    """Return a service with its endpoints."""
    return replace(
        service,
        ports=tuple(_connect(port, behind, options, mtls) for port in service.ports),
        mtls=mtls.namespace(service.namespace) != _NO_MTLS,
    )


# ---------------------------------------------------------------- services


def _kubernetes(
    document: ServiceDocument,
    workloads: Workloads,
    options: MeshOptions,
    distributions: Mapping[str, str],
    mtls: MutualTls,
) -> Service:
    behind = () if document.spec.type == "ExternalName" else workloads.behind(document)
    distribution = distributions.get(document.namespace, "")
    return RECALL.made(_kubernetes_service, document, options, mtls, distribution, *behind)


def _kubernetes_service(
    document: ServiceDocument, options: MeshOptions, mtls: MutualTls, distribution: str, *behind: Workload
) -> Service:
    spec = document.spec
    annotations = document.metadata.annotations
    alias = spec.type == "ExternalName"
    # Without Istio's proxies nobody can pass a call on to where it was going, so headless Services are as others.
    headless = spec.headless and options.managed
    service = Service(
        host=f"{document.name}.{document.namespace}.svc.{options.domain}",
        name=document.name,
        namespace=document.namespace,
        ports=tuple(
            Port(p.port, p.name, protocol_of_port(p.port, p.name, p.protocol, p.app_protocol), p.target_port)
            for p in spec.ports
        ),
        addresses=(spec.vip,) if spec.vip and not alias else (),
        resolution=Resolution.ALIAS if alias else Resolution.NONE if headless else Resolution.STATIC,
        external=False,
        export_to=_export_annotation(annotations),
        subject_alt_names=(),
        selector={} if alias else spec.selector,
        at=document.at,
        kubernetes=True,
        created=document.metadata.creation_timestamp,
        external_name=spec.external_name.rstrip("."),
        distribution=annotations.get(_DISTRIBUTION) or spec.traffic_distribution or distribution,
    )
    return _complete(service, behind, options, mtls)


def _export_annotation(annotations: Mapping[str, str]) -> tuple[str, ...]:
    written = annotations.get("networking.istio.io/exportTo", "")
    return tuple(part.strip() for part in written.split(",") if part.strip())


def _istio(entries: Iterable[ServiceEntry], workloads: Workloads) -> Iterator[tuple[Service, list[Workload]]]:
    for entry in entries:
        spec = entry.spec
        selector = spec.workload_selector.labels if spec.workload_selector else {}
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
                selector=selector,
                at=entry.at,
                created=entry.metadata.creation_timestamp,
                distribution=entry.metadata.annotations.get(_DISTRIBUTION, ""),
            )
            behind = [*_inline(entry, host), *workloads.selected(entry.namespace, selector)]
            # To istiod each address is a service of its own with these endpoints, so they come once for each.
            yield service, behind * max(len(spec.addresses), 1)


def _inline(entry: ServiceEntry, host: str) -> list[Workload]:
    spec = entry.spec
    if spec.endpoints:
        return [inline(f"{entry.name}-{index}", entry.namespace, item) for index, item in enumerate(spec.endpoints)]
    by_name = spec.resolution in ("DNS", "DNS_ROUND_ROBIN") and spec.workload_selector is None
    return [Workload(entry.name, entry.namespace, host, {}, {})] if by_name and not host.startswith("*") else []


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


def _with_aliases(registry: Registry) -> Mapping[str, Service]:
    """Return the services, each with the ExternalName Services that stand for it."""
    aliases: dict[str, list[str]] = {}
    for service in registry.services.values():
        if service.resolution is Resolution.ALIAS:
            target = registry.concrete(service)
            if target is not None:
                aliases.setdefault(target.host, []).append(service.host)
    return {
        host: replace(service, aliases=tuple(sorted(aliases[host]))) if host in aliases else service
        for host, service in registry.services.items()
    }


# ---------------------------------------------------------------- endpoints


def _connect(port: Port, workloads: Iterable[Workload], options: MeshOptions, mtls: MutualTls) -> Port:
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
                    tls_mode=workload.tls_mode,
                    plain=plain,
                    hostname=workload.hostname,
                    node=workload.node,
                    network=workload.network,
                )
            )
    return replace(port, endpoints=tuple(endpoints))


def _identity(workload: Workload, options: MeshOptions) -> str:
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
