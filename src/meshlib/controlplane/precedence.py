"""Which of several resources applies: visibility, namespaces, wildcards, age."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from meshlib.controlplane import hosts
from meshlib.controlplane.documents.destination_rule import DestinationRule, Subset, TrafficPolicy
from meshlib.controlplane.documents.virtual_service import VirtualService
from meshlib.controlplane.hosts import Patterns
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.recall import RECALL
from meshlib.controlplane.services import Service
from meshlib.controlplane.visibility import visible
from meshlib.controlplane.workloads import selects


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
    """The DestinationRules as one client sees them."""

    def __init__(
        self,
        documents: Iterable[DestinationRule],
        namespace: str,
        options: MeshOptions,
        labels: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._namespace = namespace
        self._root = options.root_namespace
        self._private: Patterns[DestinationRule] = Patterns()
        self._by_owner: dict[str, Patterns[DestinationRule]] = {}
        for rule in sorted(documents, key=lambda rule: rule.age):
            owner, chosen = rule.namespace, rule.labels_chosen
            export_to = rule.spec.export_to or options.export_rules
            if chosen and (owner != namespace or not selects(chosen, labels)):
                continue  # of a rule for chosen clients, only its own namespace's are meant
            if owner == namespace or visible(export_to, owner, namespace):
                host = hosts.qualify(rule.spec.host, owner, options.domain)
                self._by_owner.setdefault(owner, Patterns()).add(host, rule)
                if tuple(export_to) == (".",):
                    self._private.add(host, rule)

    def of(self, service: Service) -> Rule | None:
        """Return the rule in force for a service.

        The client's namespace is asked first, then the service's, then the root namespace; the
        first that has one decides alone (Istio does not merge across namespaces). A client in the
        root namespace, usually a gateway, is asked for what it keeps to itself only. Within one
        the narrowest host wins, then a rule for chosen clients; several of the same host are
        merged, the older one's words standing.
        """
        if self._namespace == self._root:
            found = self._private.find(service.host)
            if found:
                return RECALL.made(_merged, *found)
        owners = (self._namespace, service.namespace, self._root)
        for owner in owners if self._namespace != self._root else owners[1:]:
            found = self._by_owner[owner].find(service.host) if owner in self._by_owner else []
            if found:
                return RECALL.made(_merged, *found)
        return None


def _merged(*found: DestinationRule) -> Rule:
    rules = [rule for rule in found if rule.labels_chosen] or found
    subsets: dict[str, Subset] = {}
    for rule in rules:
        for subset in rule.spec.subsets:
            subsets.setdefault(subset.name, subset)
    policy = next((rule.spec.traffic_policy for rule in rules if rule.spec.traffic_policy), None)
    return Rule(rules[0], policy, subsets)


def virtual_services(
    documents: Iterable[VirtualService], namespace: str, gateways: frozenset[str], options: MeshOptions
) -> list[VirtualService]:
    """Return those bound to one of ``gateways`` and seen in ``namespace``; older ones first, private ones before."""
    default = options.export_virtual_services
    return sorted(
        (
            item
            for item in documents
            if gateways.intersection(item.gateways)
            and visible(item.spec.export_to or default, item.namespace, namespace)
        ),
        key=lambda item: (_reach(item.spec.export_to or default), item.age),
    )


def _reach(export_to: Sequence[str]) -> int:
    """Return how far something is exported: what a namespace keeps to itself counts before what all may see."""
    if not export_to or "*" in export_to:
        return 2
    return 0 if tuple(export_to) == (".",) else 1


def hosts_of(document: VirtualService, options: MeshOptions) -> list[str]:
    """Return the full names of a VirtualService's hosts."""
    return [hosts.qualify(host, document.namespace, options.domain) for host in document.spec.hosts]


class Routing:
    """The VirtualServices that route the calls of a mesh client, the older first."""

    def __init__(self, documents: Sequence[VirtualService], options: MeshOptions) -> None:
        self.documents = documents
        self._by_host: Patterns[VirtualService] = Patterns()
        self._layer4: list[tuple[list[str], VirtualService]] = []
        for document in self.documents:
            names = hosts_of(document, options)
            for host in names:
                self._by_host.add(host, document)
            if document.spec.tcp or document.spec.tls:
                self._layer4.append((names, document))

    def of(self, host: str) -> VirtualService | None:
        """Return the one for ``host``: the narrowest, of several the oldest, which wins whole.

        A second one for the same host is not merged (Istio's rule for sidecars).
        """
        return next(iter(self._by_host.find(host)), None)

    def layer4(self, host: str) -> list[VirtualService]:
        """Return those with TCP or TLS routes whose hosts overlap ``host``: each of them is looked at."""
        return [
            document for names, document in self._layer4 if any(hosts.meet(name, host) is not None for name in names)
        ]
