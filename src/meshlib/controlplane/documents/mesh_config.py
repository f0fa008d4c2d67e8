"""The mesh's own settings: the ConfigMap ``istio`` with Istio's MeshConfig in its ``mesh``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from meshlib.controlplane.documents import tree
from meshlib.controlplane.documents.fields import Duration, Key, Message, Name, one_of, text
from meshlib.controlplane.documents.place import Misfit, Place, Report
from meshlib.controlplane.documents.resource import Resource

NAME = "istio"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundTrafficPolicy(Message):
    """``outboundTrafficPolicy``: what becomes of hosts that the mesh does not know."""

    mode: Annotated[str, one_of("ALLOW_ANY", "REGISTRY_ONLY")] = "ALLOW_ANY"


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultProviders(Message):
    """``defaultProviders``: which telemetry every workload has."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"accessLogging", "tracing"})

    metrics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig(Message):
    """Istio's MeshConfig, with its defaults."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset(
        {
            "accessLogEncoding", "accessLogFile", "accessLogFormat", "defaultDestinationRuleExportTo",
            "defaultHttpRetryPolicy", "defaultServiceExportTo", "defaultVirtualServiceExportTo",
            "discoverySelectors", "enableTracing", "extensionProviders", "h2UpgradePolicy",
            "localityLbSetting", "pathNormalization", "proxyHttpPolicy", "serviceSettings", "tcpKeepalive",
            "trustDomainAliases", "verifyCertificateAtClient",
        }
    )  # fmt: skip
    OPEN: ClassVar[bool] = True

    root_namespace: Name = "istio-system"
    trust_domain: Name = "cluster.local"
    enable_auto_mtls: bool = True
    outbound_traffic_policy: OutboundTrafficPolicy | None = None
    default_providers: DefaultProviders | None = None
    connect_timeout: Duration | None = None


def embedded(place: Place, report: Report) -> MeshConfig:
    """Read YAML that stands in a string; its lines are those of the file, where it is a block."""
    content = text(place, report)
    above = "\n" * (place.tree.line if "\n" in content else place.tree.line - 1)
    for document in tree.parse((above + content).encode()):
        if isinstance(document, tree.Unreadable):
            raise Misfit(place, str(document))
        return MeshConfig.read(Place(place.origin, place.path, document), report)
    return MeshConfig(at=place)


def data(place: Place, report: Report) -> MeshConfig | None:
    """Read ``ConfigMap.data``, of which ``mesh`` of the one called ``istio`` matters."""
    mesh = place.child("mesh")
    return embedded(mesh, report) if place.origin.name == NAME and mesh is not place else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMap(Resource):
    """A ConfigMap; the one called ``istio`` has the mesh's settings, the others are read over."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"apiVersion", "kind", "binaryData", "immutable"})

    mesh: Annotated[MeshConfig | None, Key("data"), data] = None
