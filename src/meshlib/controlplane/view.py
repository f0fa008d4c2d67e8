"""What one node sees of the mesh: the input of every generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshlib.controlplane import precedence
from meshlib.controlplane.documents import Documents
from meshlib.controlplane.node import Node
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.precedence import Rule
from meshlib.controlplane.registry import Registry
from meshlib.controlplane.routes import Scope
from meshlib.controlplane.services import Service


@dataclass(frozen=True, slots=True)
class View:
    """The mesh as ``node`` sees it.

    Attributes:
        services: the services visible to it, by host, each with the rule in force for it.
        rules: those rules by host.
    """

    documents: Documents
    registry: Registry
    node: Node
    options: MeshOptions
    services: tuple[tuple[Service, Rule | None], ...]
    rules: Mapping[str, Rule | None]

    @classmethod
    def of(cls, documents: Documents, registry: Registry, node: Node, options: MeshOptions) -> View:
        """Return the view of ``node``."""
        rules = precedence.Rules(documents.destination_rules, node.namespace, options)
        services = tuple(
            (service, rules.of(service))
            for service in registry.services.values()
            if precedence.visible(service.export_to, service.namespace, node.namespace)
        )
        by_host = {service.host: rule for service, rule in services}
        return cls(documents, registry, node, options, services, by_host)

    def routing(self) -> precedence.Routing:
        """Return the VirtualServices that route the calls of this node within the mesh."""
        return precedence.Routing(self.documents.virtual_services, self.node.namespace, self.options)

    def scope(self, gateways: frozenset[str], port: int) -> Scope:
        """Return where routes are made for."""
        return Scope(self.node, self.registry, self.options, self.rules, gateways, port)
