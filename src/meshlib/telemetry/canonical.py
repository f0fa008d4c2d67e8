"""Canonical service and revision: how Istio names a workload in metrics and spans.

The label order is Istio's (pkg/model/canonical.go, ``CanonicalServiceLabels``).
"""

from __future__ import annotations

from meshlib.settings import Identity


def canonical_service(identity: Identity) -> str:
    """Return the canonical name: its own label, ``app.kubernetes.io/name``, ``app``, the workload."""
    labels = identity.labels
    return labels.get("service.istio.io/canonical-name") or labels.get("app.kubernetes.io/name") or identity.app


def canonical_revision(identity: Identity) -> str:
    """Return the revision: its own label, ``app.kubernetes.io/version``, ``version``, ``latest``."""
    labels = identity.labels
    return (
        labels.get("service.istio.io/canonical-revision") or labels.get("app.kubernetes.io/version") or identity.version
    )
