"""Mesh-wide settings of the embedded control plane: Istio's meshConfig, as far as it is obeyed."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field


def _system_ca() -> str:
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.openssl_cafile


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """Settings of the whole mesh.

    Attributes:
        domain: the DNS suffix of services.
        root_namespace: DestinationRules here apply to every namespace.
        cluster_id: the cluster's name in endpoint metadata.
        trust_domain: of SPIFFE identities.
        enable_auto_mtls: meshConfig.enableAutoMtls. Only False is obeyed: the embedded control
            plane signs no certificates, so endpoints are plaintext unless a DestinationRule
            asks for TLS.
        system_ca: file with the CAs that ``tls: {mode: SIMPLE}`` without ``caCertificates``
            trusts; by default the one that Python's ssl uses on this machine.
        otlp: ``host:port`` of an OTLP/HTTP collector to which Envoys send all their spans;
            None for no tracing.
    """

    domain: str = "cluster.local"
    root_namespace: str = "istio-system"
    cluster_id: str = "Kubernetes"
    trust_domain: str = "cluster.local"
    enable_auto_mtls: bool = False
    system_ca: str = field(default_factory=_system_ca)
    otlp: str | None = None

    def __post_init__(self) -> None:
        if self.enable_auto_mtls:
            raise ValueError("enable_auto_mtls=True is not possible: the embedded control plane has no CA")


DEFAULTS = MeshOptions()
