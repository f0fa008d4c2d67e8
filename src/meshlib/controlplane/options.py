"""Mesh-wide settings of the embedded control plane: Istio's meshConfig, as far as it is obeyed."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, replace

from meshlib.controlplane.documents.locality import LocalityLb
from meshlib.controlplane.documents.mesh_config import MeshConfig
from meshlib.controlplane.documents.virtual_service import Retries


def _system_ca() -> str:
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.openssl_cafile


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """Settings of the whole mesh. A ConfigMap ``istio`` in the folder takes the place of most; see :meth:`under`.

    Attributes:
        managed: whether a ConfigMap gave these settings: the mesh's proxies are Istio's.
        domain: the DNS suffix of services.
        root_namespace: DestinationRules here apply to every namespace.
        cluster_id: the cluster's name in endpoint metadata.
        trust_domain: of SPIFFE identities.
        enable_auto_mtls: meshConfig.enableAutoMtls: clients have Istio's agent beside them, which
            brings certificates, and speak mTLS with the endpoints that have it. The embedded control
            plane signs no certificates, so this is off unless a ConfigMap turns it on.
        registry_only: meshConfig.outboundTrafficPolicy REGISTRY_ONLY: hosts unknown are refused.
        connect_timeout: seconds, meshConfig.connectTimeout.
        istio_metrics: whether Istio's proxies count metrics for Prometheus (meshConfig.defaultProviders).
        system_ca: file with the CAs that ``tls: {mode: SIMPLE}`` without ``caCertificates``
            trusts; by default the one that Python's ssl uses on this machine.
        otlp: ``host:port`` of an OTLP/HTTP collector to which Envoys send all their spans;
            None for no tracing.
        mesh: the rest of what the ConfigMap says; None without one.
    """

    managed: bool = False
    domain: str = "cluster.local"
    root_namespace: str = "istio-system"
    cluster_id: str = "Kubernetes"
    trust_domain: str = "cluster.local"
    enable_auto_mtls: bool = False
    registry_only: bool = False
    connect_timeout: float = 10.0
    istio_metrics: bool = False
    system_ca: str = field(default_factory=_system_ca)
    otlp: str | None = None
    mesh: MeshConfig | None = field(default=None, compare=False)  # told by the documents that it came with

    def under(self, mesh: MeshConfig | None) -> MeshOptions:
        """Return these with a ConfigMap's settings over them, Istio's defaults included."""
        if mesh is None:
            return self
        policy, providers = mesh.outbound_traffic_policy, mesh.default_providers
        return replace(
            self,
            managed=True,
            mesh=mesh,
            root_namespace=mesh.root_namespace,
            trust_domain=mesh.trust_domain,
            enable_auto_mtls=mesh.enable_auto_mtls,
            registry_only=policy is not None and policy.mode == "REGISTRY_ONLY",
            connect_timeout=mesh.connect_timeout or self.connect_timeout,
            istio_metrics=providers is not None and "prometheus" in providers.metrics,
        )

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """The trust domain and its aliases."""
        aliases = self.mesh.trust_domain_aliases if self.mesh else ()
        return tuple(dict.fromkeys((self.trust_domain, *aliases)))

    @property
    def default_retries(self) -> Retries | None:
        """meshConfig.defaultHttpRetryPolicy: what routes have that say nothing of retries."""
        return self.mesh.default_http_retry_policy if self.mesh else None

    @property
    def locality(self) -> LocalityLb | None:
        """meshConfig.localityLbSetting."""
        return self.mesh.locality_lb_setting if self.mesh else None

    @property
    def export_services(self) -> tuple[str, ...]:
        """meshConfig.defaultServiceExportTo."""
        return self.mesh.default_service_export_to if self.mesh else ()

    @property
    def export_virtual_services(self) -> tuple[str, ...]:
        """meshConfig.defaultVirtualServiceExportTo."""
        return self.mesh.default_virtual_service_export_to if self.mesh else ()

    @property
    def export_rules(self) -> tuple[str, ...]:
        """meshConfig.defaultDestinationRuleExportTo."""
        return self.mesh.default_destination_rule_export_to if self.mesh else ()


DEFAULTS = MeshOptions()
