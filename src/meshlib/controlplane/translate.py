"""Documents in, the xDS resources of one node out. Pure."""

from __future__ import annotations

from functools import lru_cache

from meshlib.controlplane import delegation, gateway, proxyless, references, registry, sidecar
from meshlib.controlplane.documents import Documents
from meshlib.controlplane.documents.virtual_service import VirtualService
from meshlib.controlplane.faults import Fault
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.options import DEFAULTS, MeshOptions
from meshlib.controlplane.recall import RECALL
from meshlib.controlplane.registry import Registry
from meshlib.controlplane.resources import Resources
from meshlib.controlplane.view import View

_GENERATORS = {
    NodeKind.SIDECAR: sidecar.resources,
    NodeKind.GRPC: proxyless.resources,
    NodeKind.ROUTER: gateway.resources,
}


def translate(documents: Documents, node: Node, options: MeshOptions = DEFAULTS) -> tuple[Resources, tuple[Fault, ...]]:
    """Return what ``node`` is served for ``documents``.

    Args:
        documents: what :func:`~meshlib.controlplane.documents.read` made of the files.
        node: who asks.
        options: mesh-wide settings.

    Returns:
        The resources, close to what istiod would send (docs/control-plane.md lists the
        differences), and the faults that show only when documents are seen together: hosts
        and subsets that exist nowhere, workloads without address. They are the same for every
        node, and the configuration applies nevertheless.
    """
    options = _under(options, documents)
    services, virtual_services, faults = _shared(documents, options)
    view = View.of(documents, services, virtual_services, node, options)
    return _GENERATORS[node.kind](view), faults


def registry_of(documents: Documents, options: MeshOptions = DEFAULTS) -> Registry:
    """Return the services of ``documents``."""
    return _shared(documents, _under(options, documents))[0]


def faults_of(documents: Documents, options: MeshOptions = DEFAULTS) -> tuple[Fault, ...]:
    """Return the faults that :func:`translate` returns, which are the same for every node."""
    return _shared(documents, _under(options, documents))[2]


def _under(options: MeshOptions, documents: Documents) -> MeshOptions:
    return RECALL.made(MeshOptions.under, options, documents.mesh)


@lru_cache(maxsize=2)  # the version in force and the one that is being made
def _shared(
    documents: Documents, options: MeshOptions
) -> tuple[Registry, tuple[VirtualService, ...], tuple[Fault, ...]]:
    """Return what all nodes have in common."""
    RECALL.turn()
    services = registry.build(documents, options)
    faults = (*services.faults, *references.check(documents, services, options))
    return services, delegation.resolved(documents, options), faults
