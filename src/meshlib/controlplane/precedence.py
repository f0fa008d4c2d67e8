"""Which of several resources applies: visibility, namespaces, wildcards, age."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from meshlib.controlplane import hosts
from meshlib.controlplane.documents.destination_rule import DestinationRule, Subset, TrafficPolicy
from meshlib.controlplane.documents.virtual_service import MESH, VirtualService
from meshlib.controlplane.hosts import Patterns
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.services import Service


def visible(export_to: Sequence[str], owner: str, namespace: str) -> bool:
    """Tell whether something of namespace ``owner`` is seen in ``namespace`` (Istio's exportTo)."""
    return not export_to or "*" in export_to or namespace in export_to or ("." in export_to and namespace == owner)


@dataclass(frozen=True, slots=True)
class Rule:
    """The DestinationRules in force for a service, as one.

    Attributes:
        document: the one named in metadata.
        policy: the traffic policy of the whole service.
        subsets: by name.
    """

    document: DestinationRule
    policy: TrafficPolicy | None
    subsets: Mapping[str, Subset]

    def policy_on(self, port: int, subset: str = "") -> TrafficPolicy | None:
        """Return the policy of a port, or of a subset on it."""
        parent = self.policy.over(None, port) if self.policy else None
        own = self.subsets[subset].traffic_policy if subset else None
        return own.over(parent, port) if own else parent

    def source(self, subset: str = "") -> str:
        """Return ``file:line`` of what was written for the subset, or for the service."""
        if subset:
            return self.subsets[subset].at.source
        return (self.policy.at if self.policy else self.document.at).source


class Rules:
    """The DestinationRules as clients of one namespace see them."""

    def __init__(self, documents: Iterable[DestinationRule], namespace: str, options: MeshOptions) -> None:
        self._namespace = namespace
        self._root = options.root_namespace
        self._by_owner: dict[str, Patterns[DestinationRule]] = {}
        for rule in sorted(documents, key=lambda rule: rule.age):
            owner = rule.namespace
            if owner == namespace or visible(rule.spec.export_to, owner, namespace):
                host = hosts.qualify(rule.spec.host, owner, options.domain)
                self._by_owner.setdefault(owner, Patterns()).add(host, rule)

    def of(self, service: Service) -> Rule | None:
        """Return the rule in force for a service.

        The client's namespace is asked first, then the service's, then the root namespace; the
        first that has one decides alone (Istio does not merge across namespaces). Within it the
        narrowest host wins; several of the same host are merged, the older one's words standing.
        """
        for owner in (self._namespace, service.namespace, self._root):
            found = self._by_owner[owner].find(service.host) if owner in self._by_owner else []
            if found:
                return _merged(found)
        return None


def _merged(rules: Sequence[DestinationRule]) -> Rule:
    subsets: dict[str, Subset] = {}
    for rule in rules:
        for subset in rule.spec.subsets:
            subsets.setdefault(subset.name, subset)
    policy = next((rule.spec.traffic_policy for rule in rules if rule.spec.traffic_policy), None)
    return Rule(rules[0], policy, subsets)


def virtual_services(
    documents: Iterable[VirtualService], namespace: str, gateways: frozenset[str]
) -> list[VirtualService]:
    """Return those bound to one of ``gateways`` and seen in ``namespace``, older ones first."""
    return sorted(
        (
            item
            for item in documents
            if gateways.intersection(item.gateways) and visible(item.spec.export_to, item.namespace, namespace)
        ),
        key=lambda item: item.age,
    )


def hosts_of(document: VirtualService, options: MeshOptions) -> list[str]:
    """Return the full names of a VirtualService's hosts."""
    return [hosts.qualify(host, document.namespace, options.domain) for host in document.spec.hosts]


class Routing:
    """The VirtualServices that route the calls of a mesh client."""

    def __init__(self, documents: Iterable[VirtualService], namespace: str, options: MeshOptions) -> None:
        self.documents = virtual_services(documents, namespace, frozenset({MESH}))
        self._by_host: Patterns[VirtualService] = Patterns()
        for document in self.documents:
            for host in hosts_of(document, options):
                self._by_host.add(host, document)

    def of(self, host: str) -> VirtualService | None:
        """Return the one for ``host``: the narrowest, of several the oldest, which wins whole.

        A second one for the same host is not merged (Istio's rule for sidecars).
        """
        return next(iter(self._by_host.find(host)), None)
