"""The mesh's own settings: the ConfigMap ``istio`` with Istio's MeshConfig in its ``mesh``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from meshlib.controlplane.documents import tree
from meshlib.controlplane.documents.destination_rule import TcpKeepalive
from meshlib.controlplane.documents.fields import Duration, Key, Message, Name, duration, one_of, text
from meshlib.controlplane.documents.locality import LocalityLb
from meshlib.controlplane.documents.place import Misfit, Place, Report
from meshlib.controlplane.documents.providers import ExtensionProvider
from meshlib.controlplane.documents.resource import Resource
from meshlib.controlplane.documents.virtual_service import Retries

NAME = "istio"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundTrafficPolicy(Message):
    """``outboundTrafficPolicy``: what becomes of hosts that the mesh does not know."""

    mode: Annotated[str, one_of("ALLOW_ANY", "REGISTRY_ONLY")] = "ALLOW_ANY"


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultProviders(Message):
    """``defaultProviders``: which telemetry every workload has."""

    metrics: tuple[str, ...] = ()
    tracing: tuple[str, ...] = ()
    access_logging: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig(Message):
    """``TLSConfig`` of the mesh's mTLS."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"ecdhCurves"})

    min_protocol_version: Annotated[str, one_of("TLS_AUTO", "TLSV1_2", "TLSV1_3")] = "TLS_AUTO"
    cipher_suites: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PathNormalization(Message):
    """``ProxyPathNormalization``: what is done to a request's path before it is routed."""

    normalization: Annotated[str, one_of("DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES")] = (
        "DEFAULT"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig(Message):
    """Istio's MeshConfig, with its defaults."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset(
        {
            "discoverySelectors", "proxyHttpPolicy", "serviceSettings", "tlsDefaults",
            "verifyCertificateAtClient", "zoneAwareLbSetting",
        }
    )  # fmt: skip
    OPEN: ClassVar[bool] = True

    root_namespace: Name = "istio-system"
    trust_domain: Name = "cluster.local"
    trust_domain_aliases: tuple[Name, ...] = ()
    enable_auto_mtls: bool = True
    enable_tracing: bool = True
    outbound_traffic_policy: OutboundTrafficPolicy | None = None
    default_providers: DefaultProviders | None = None
    extension_providers: tuple[ExtensionProvider, ...] = ()
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    h2_upgrade_policy: Annotated[str, one_of("DO_NOT_UPGRADE", "UPGRADE")] = "DO_NOT_UPGRADE"
    default_http_retry_policy: Retries | None = None
    locality_lb_setting: LocalityLb | None = None
    default_service_export_to: tuple[Name, ...] = ()
    default_virtual_service_export_to: tuple[Name, ...] = ()
    default_destination_rule_export_to: tuple[Name, ...] = ()
    access_log_file: str = ""
    access_log_format: str = ""
    access_log_encoding: Annotated[str, one_of("TEXT", "JSON")] = "TEXT"
    mesh_mtls: Annotated[TlsConfig | None, Key("meshMTLS")] = None
    path_normalization: PathNormalization | None = None
    protocol_detection_timeout: Annotated[float, duration] = 0.0


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
