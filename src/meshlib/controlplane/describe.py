"""What applies to a service or a workload, and where it was written: `istioctl experimental describe`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from meshlib.controlplane import hosts
from meshlib.controlplane.documents import Documents
from meshlib.controlplane.documents.destination_rule import TrafficPolicy
from meshlib.controlplane.documents.virtual_service import MESH, VirtualService
from meshlib.controlplane.options import DEFAULTS, MeshOptions
from meshlib.controlplane.precedence import Routing, Rule, Rules, hosts_of, virtual_services
from meshlib.controlplane.registry import Registry
from meshlib.controlplane.services import Service
from meshlib.controlplane.translate import registry_of
from meshlib.controlplane.workloads import Workload, selects
from meshlib.errors import ConfigError

RULE = "-" * 20


@dataclass(frozen=True, slots=True)
class Describer:
    """Looks things up in one set of documents, as seen from one namespace."""

    documents: Documents
    registry: Registry
    options: MeshOptions
    rules: Rules
    routing: Routing

    @classmethod
    def of(cls, documents: Documents, namespace: str) -> Describer:
        """Return what describes ``documents`` to clients in ``namespace``."""
        options = DEFAULTS.under(documents.mesh)
        rules = Rules(documents.destination_rules, namespace, options, {})
        meshed = virtual_services(documents.virtual_services, namespace, frozenset({MESH}), options)
        return cls(documents, registry_of(documents), options, rules, Routing(meshed, options))

    def service(self, name: str, namespace: str) -> list[str]:
        """Return lines about a service.

        Raises:
            ConfigError: there is none of that name.
        """
        host = hosts.qualify(name, namespace, self.options.domain)
        service = self.registry.services.get(host)
        if service is None:
            known = ", ".join(self.registry.services) or "none"
            raise ConfigError(f"there is no service {host}; the services are: {known}")
        return list(self._service(service, None))

    def workload(self, name: str, namespace: str) -> list[str]:
        """Return lines about a workload: what it is, and every service that it is behind.

        Raises:
            ConfigError: there is none of that name.
        """
        workload = self.registry.workloads.named(name, namespace)
        if workload is None:
            raise ConfigError(
                f"there is no workload {name} in namespace {namespace}: no Pod, WorkloadEntry or Deployment"
            )
        labels = ",".join(f"{key}={value}" for key, value in sorted(workload.labels.items()))
        lines = [f"Workload: {workload.name}.{workload.namespace}", f"   Address: {workload.address}"]
        lines += [f"   Labels: {labels or 'none'}"]
        services = list(self.registry.selecting(namespace, workload.labels))
        if not services:
            lines.append("   Behind no service: no selector takes these labels")
        for service in services:
            lines += [RULE, *self._service(service, workload)]
        return lines

    def _service(self, service: Service, workload: Workload | None) -> Iterator[str]:
        yield f"Service: {service.name}.{service.namespace} ({service.at.source})"
        for port in service.ports:
            target = "" if port.target is None else f" targets {port.target}"
            count = len(port.endpoints)
            endpoints = f", {count} endpoint{'' if count == 1 else 's'}"
            yield f"   Port: {port.name or '<unnamed>'} {port.number}/{port.protocol.value}{target}{endpoints}"
        rule = self.rules.of(service)
        if rule is not None:
            yield from self._rule(rule, workload)
        document = self.routing.of(service.host)
        if document is not None:
            yield from _routes(document)
        yield from self._gateways(service)
        mode = self.registry.mtls.namespace(service.namespace)
        yield f"Effective PeerAuthentication: mode {mode or 'PERMISSIVE'}"

    def _rule(self, rule: Rule, workload: Workload | None) -> Iterator[str]:
        document = rule.document
        yield f'DestinationRule: {document.name}.{document.namespace} for "{document.spec.host}" ({document.at.source})'
        if rule.subsets:
            labels: Mapping[str, str] | None = workload.labels if workload else None
            taken = [name for name, item in rule.subsets.items() if labels is None or selects(item.labels, labels)]
            missed = [name for name in rule.subsets if name not in taken]
            yield f"   {'Subsets' if labels is None else 'Matching subsets'}: {','.join(taken) or 'none'}"
            if missed:
                yield f"      (Non-matching subsets {','.join(missed)})"
        settings = _settings(rule.policy)
        yield f"   Traffic Policy: {', '.join(settings)}" if settings else "   No Traffic Policy"

    def _gateways(self, service: Service) -> Iterator[str]:
        for document in self.documents.virtual_services:
            targets = {
                hosts.qualify(item.host, document.namespace, self.options.domain) for _, item in document.destinations
            }
            outside = [name for name in document.gateways if name != MESH]
            if outside and service.host in targets:
                names = ", ".join(hosts_of(document, self.options))
                yield f"Exposed by VirtualService: {document.name}.{document.namespace} ({document.at.source})"
                yield f"   on {', '.join(outside)} for {names}"


def _routes(document: VirtualService) -> Iterator[str]:
    yield f"VirtualService: {document.name}.{document.namespace} ({document.at.source})"
    spec = document.spec
    for kind, routes in (("HTTP", spec.http), ("TCP", spec.tcp), ("TLS", spec.tls)):
        if routes:
            yield f"   {len(routes)} {kind} route(s)"
    for index, route in enumerate(spec.http):
        said = [key for key in ("fault", "retries", "timeout", "mirror", "mirrors", "rewrite") if route.at.has(key)]
        if said:
            yield f"      {route.name or f'#{index}'}: {', '.join(said)}"


def _settings(policy: TrafficPolicy | None) -> list[str]:
    if policy is None:
        return []
    keys = ("loadBalancer", "connectionPool", "outlierDetection", "tls", "retryBudget", "portLevelSettings")
    return [key for key in keys if policy.at.has(key)]
