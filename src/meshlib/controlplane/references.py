"""References between documents that lead nowhere.

Such configuration can be applied, as in Istio, and the requests routed there fail; so these are
said when the file is written, not when the first call is lost.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshlib.controlplane import hosts
from meshlib.controlplane.documents import Documents
from meshlib.controlplane.documents.destination_rule import ClientTls, DestinationRule
from meshlib.controlplane.documents.destinations import Destination
from meshlib.controlplane.documents.envoy_filter import APPLIED, EnvoyFilter
from meshlib.controlplane.documents.gateway import Gateway
from meshlib.controlplane.documents.place import Place
from meshlib.controlplane.documents.sidecar import Sidecar
from meshlib.controlplane.documents.virtual_service import MESH, VirtualService
from meshlib.controlplane.envoy_messages import KINDS, NotEnvoys, value_of
from meshlib.controlplane.faults import ERROR, WARNING, Fault, Severity, suggestion
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.precedence import Rules
from meshlib.controlplane.registry import Registry
from meshlib.controlplane.services import Service
from meshlib.controlplane.workloads import selects


def check(documents: Documents, registry: Registry, options: MeshOptions) -> Iterator[Fault]:
    """Yield what is referred to and does not exist: hosts, subsets, ports, gateways."""
    checker = _Checker(documents, registry, options)
    for document in documents.virtual_services:
        yield from checker.virtual_service(document)
    for rule in documents.destination_rules:
        yield from checker.destination_rule(rule)
        yield from _tls(rule)
    for gateway in documents.gateways:
        yield from _credentials(gateway)
    for item in documents.envoy_filters:
        yield from _patches(item)
    for sidecar in documents.sidecars:
        yield from checker.sidecar(sidecar)


class _Checker:
    """One check of one set of documents."""

    def __init__(self, documents: Documents, registry: Registry, options: MeshOptions) -> None:
        self._documents = documents
        self._services = registry.services
        self._options = options
        self._gateways = sorted(gateway.qualified_name for gateway in documents.gateways)
        self._rules: dict[str, Rules] = {}

    def virtual_service(self, document: VirtualService) -> Iterator[Fault]:
        place = document.spec.at.child("gateways")
        for index, name in enumerate(document.gateways):
            if name != MESH and name not in self._gateways:
                message = f"gateway {name!r} does not exist, so nothing is routed there"
                near = suggestion(name, self._gateways)
                yield place.item(index).fault(ERROR, message + near, applies=True)
        yield from self._delegates(document)
        for _, item in document.destinations:
            yield from self._destination(item, document.namespace)

    def _delegates(self, document: VirtualService) -> Iterator[Fault]:
        for http in document.spec.http:
            if http.delegate is None:
                continue
            namespace = http.delegate.namespace or document.namespace
            named = (item for item in self._documents.virtual_services if item.namespace == namespace)
            found = next((item for item in named if item.name == http.delegate.name), None)
            place = http.delegate.at.child("name")
            if found is None:
                message = f"no VirtualService {namespace}/{http.delegate.name}, so nothing is routed there"
                yield place.fault(ERROR, message, applies=True)
            elif found.spec.hosts:
                message = f"{namespace}/{http.delegate.name} has hosts of its own; Istio delegates only to one without"
                yield place.fault(ERROR, message, applies=True)

    def _destination(self, item: Destination, namespace: str) -> Iterator[Fault]:
        host = hosts.qualify(item.host, namespace, self._options.domain)
        service = self._services.get(host)
        if service is None:
            yield self._unknown_host(ERROR, item.at.child("host"), item.host, namespace)
            return
        if item.port is not None and service.port(item.port.number) is None:
            numbers = ", ".join(str(port.number) for port in service.ports) or "none"
            message = f"{host} has no port {item.port.number}; its ports: {numbers}"
            yield item.port.at.child("number").fault(ERROR, message, applies=True)
        if item.subset:
            yield from self._subset(item, service, namespace)

    def _subset(self, item: Destination, service: Service, namespace: str) -> Iterator[Fault]:
        if namespace not in self._rules:
            self._rules[namespace] = Rules(self._documents.destination_rules, namespace, self._options)
        rule = self._rules[namespace].of(service)
        message = f"{service.host} has no subset {item.subset!r}"
        if rule is None:
            message += ": no DestinationRule is for that host"
        elif item.subset not in rule.subsets:
            near = suggestion(item.subset, rule.subsets)
            message += f"{near}; {rule.document.at.source} defines: {', '.join(rule.subsets) or 'none'}"
        else:
            return
        yield item.at.child("subset").fault(ERROR, message, applies=True)

    def destination_rule(self, rule: DestinationRule) -> Iterator[Fault]:
        host = hosts.qualify(rule.spec.host, rule.namespace, self._options.domain)
        covered = [self._services[host]] if host in self._services else []
        if host.startswith("*"):
            covered = [service for known, service in self._services.items() if hosts.matches(host, known)]
        if not covered:
            yield self._unknown_host(WARNING, rule.spec.at.child("host"), rule.spec.host, rule.namespace)
            return
        for subset in rule.spec.subsets:
            endpoints = (item for service in covered for port in service.ports for item in port.endpoints)
            if not any(selects(subset.labels, endpoint.labels) for endpoint in endpoints):
                yield subset.at.fault(WARNING, f"subset {subset.name!r} has no endpoint with its labels", applies=True)

    def sidecar(self, sidecar: Sidecar) -> Iterator[Fault]:
        for listener in sidecar.spec.egress:
            for index, written in enumerate(listener.hosts):
                owner, _, host = written.partition("/")
                namespaces = {".": {sidecar.namespace}, "*": None, "~": set()}.get(owner, {owner})
                known = [service for service in self._services.values() if hosts.matches(host, service.host)]
                seen = [service for service in known if namespaces is None or service.namespace in namespaces]
                if not seen and not host.startswith("*") and not owner.startswith("~"):
                    place = listener.at.child("hosts").item(index)
                    message = f"no service of namespace {owner!r} has the host {host!r}, so it lets nothing through"
                    yield place.fault(WARNING, message + self._near(host, sidecar.namespace), applies=True)

    def _unknown_host(self, severity: Severity, place: Place, written: str, namespace: str) -> Fault:
        host = hosts.qualify(written, namespace, self._options.domain)
        meant = f"{written!r}" if written == host else f"{written!r} ({host})"
        return place.fault(severity, f"no service has the host {meant}{self._near(written, namespace)}", applies=True)

    def _near(self, written: str, namespace: str) -> str:
        for known in self._services:  # `catalog.shop`: Istio completes only names without a dot
            if known.startswith(f"{written}."):
                return f" (did you mean {known!r}?)"
        forms = [
            form
            for known in self._services
            for form in hosts.domains(known, namespace, self._options.domain)
            if ("." in form) == ("." in written) and not form.endswith(".")
        ]
        return suggestion(written, forms)


def _tls(rule: DestinationRule) -> Iterator[Fault]:
    policies = [rule.spec.traffic_policy, *(subset.traffic_policy for subset in rule.spec.subsets)]
    settings: list[ClientTls | None] = []
    for policy in filter(None, policies):
        settings += [policy.tls, *(item.tls for item in policy.port_level_settings)]
    for tls in filter(None, settings):
        if tls.mode == "ISTIO_MUTUAL":
            message = "the embedded control plane signs no certificates: calls fail unless the client has its own"
            yield tls.at.child("mode").fault(WARNING, message, applies=True)
        elif tls.credential_name:
            message = "the embedded control plane serves no secrets: calls fail; name files instead"
            yield tls.at.child("credentialName").fault(WARNING, message, applies=True)


def _credentials(gateway: Gateway) -> Iterator[Fault]:
    for server in gateway.spec.servers:
        if server.tls and (server.tls.credential_name or server.tls.credential_names):
            message = "the embedded control plane serves no secrets: the port stays closed; name files instead"
            yield server.tls.at.child("credentialName").fault(WARNING, message, applies=True)


def _patches(document: EnvoyFilter) -> Iterator[Fault]:
    for item in document.spec.config_patches:
        if item.apply_to not in APPLIED or item.patch.operation == "REMOVE":
            continue
        try:
            value_of(item)
        except NotEnvoys as error:
            message = f"is no {KINDS[item.apply_to].DESCRIPTOR.name} of Envoy's, so nothing is changed: {error}"
            yield item.patch.at.child("value").fault(ERROR, message, applies=True)
