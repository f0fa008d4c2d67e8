"""What one node sees of the mesh: the input of every generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshlib.controlplane import precedence, scoping
from meshlib.controlplane.authorization import Security
from meshlib.controlplane.documents import Documents
from meshlib.controlplane.documents.sidecar import Sidecar
from meshlib.controlplane.documents.virtual_service import VirtualService
from meshlib.controlplane.envoy_filters import Patches
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.precedence import Rule
from meshlib.controlplane.registry import Registry
from meshlib.controlplane.routes import Scope
from meshlib.controlplane.scoping import Egress
from meshlib.controlplane.services import Resolution, Service
from meshlib.controlplane.telemetry import NodeTelemetry


@dataclass(frozen=True, slots=True)
class View:
    """The mesh as ``node`` sees it.

    Attributes:
        virtual_services: those with hosts, with the routes of their delegates in place.
        services: the services visible to it, each with the rule in force for it.
        rules: those rules by host.
        telemetry: what it logs and counts.
        security: who may call it.
        patches: what EnvoyFilters change of its resources.
        sidecar: the Sidecar in force for it, if there is one.
        egress: what it calls, by listener; of a gateway none.
    """

    documents: Documents
    registry: Registry
    node: Node
    options: MeshOptions
    virtual_services: tuple[VirtualService, ...]
    services: tuple[tuple[Service, Rule | None], ...]
    rules: Mapping[str, Rule | None]
    telemetry: NodeTelemetry
    security: Security
    patches: Patches
    sidecar: Sidecar | None = None
    egress: tuple[Egress, ...] = ()

    @classmethod
    def of(
        cls,
        documents: Documents,
        registry: Registry,
        virtual_services: tuple[VirtualService, ...],
        node: Node,
        options: MeshOptions,
    ) -> View:
        """Return the view of ``node``."""
        rules = precedence.Rules(documents.destination_rules, node.namespace, options, node.labels)
        sidecar: Sidecar | None = None
        egress: tuple[Egress, ...] = ()
        if node.kind is NodeKind.ROUTER:
            services = tuple(item for item in registry.services.values() if scoping.sees(item, node, options))
        else:
            sidecar = scoping.sidecar_of(documents, node, options)
            egress = scoping.egress(sidecar, virtual_services, registry, node, options)
            services = scoping.imported(egress, registry, node, options)
        ruled = tuple((service, rules.of(service)) for service in services)
        by_host = {service.host: rule for service, rule in ruled}
        telemetry = NodeTelemetry.of(documents, node, options)
        security = Security.of(documents, node, options)
        patches = Patches.of(documents, node, options)
        return cls(
            documents,
            registry,
            node,
            options,
            virtual_services,
            ruled,
            by_host,
            telemetry,
            security,
            patches,
            sidecar,
            egress,
        )

    @property
    def registry_only(self) -> bool:
        """Whether hosts unknown are refused: as the Sidecar says, else the mesh."""
        policy = self.sidecar.spec.outbound_traffic_policy if self.sidecar else None
        return self.options.registry_only if policy is None else policy.mode == "REGISTRY_ONLY"

    @property
    def locality(self) -> str:
        """Where the node is: as it says itself, as a label says, or as its workload's."""
        label = self.node.labels.get("istio-locality", "").replace(".", "/")
        workload = self.registry.workloads.at(self.node.ip)
        return self.node.locality or label or (workload.locality if workload else "")

    def concrete(self) -> tuple[tuple[Service, Rule | None], ...]:
        """Return the services that stand for themselves, with their rules."""
        return tuple(item for item in self.services if item[0].resolution is not Resolution.ALIAS)

    def egress_on(self, port: int) -> Egress | None:
        """Return the egress listener whose services and routes count on a port."""
        return next((item for item in self.egress if item.port in (None, port)), None)

    def scope(self, gateways: frozenset[str], port: int) -> Scope:
        """Return where routes are made for."""
        return Scope(self.node, self.registry, self.options, self.rules, gateways, port)
