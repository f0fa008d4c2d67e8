"""EnvoyFilter: changes to what Envoys are served, in Envoy's own words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from meshlib.controlplane.documents.fields import Message, anything, integer, one_of, text
from meshlib.controlplane.documents.place import Misfit, Place, Report
from meshlib.controlplane.documents.resource import Resource
from meshlib.controlplane.documents.sidecar import WorkloadSelector

APPLIED = (
    "CLUSTER", "FILTER_CHAIN", "HTTP_FILTER", "HTTP_ROUTE", "LISTENER", "LISTENER_FILTER", "NETWORK_FILTER",
    "ROUTE_CONFIGURATION", "VIRTUAL_HOST",
)  # fmt: skip
_KNOWN = (*APPLIED, "BOOTSTRAP", "EXTENSION_CONFIG")
_OPERATIONS = (
    "MERGE", "MERGE_AND_REPLACE_LIST", "ADD", "REMOVE", "INSERT_BEFORE", "INSERT_AFTER", "INSERT_FIRST", "REPLACE",
)  # fmt: skip
_CONTEXTS = ("ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY", "WAYPOINT")
Number = Annotated[int, integer(0, 65535)]


def expression(place: Place, report: Report) -> str:
    """Read a regular expression for versions of proxies."""
    value = text(place, report)
    try:
        re.compile(value)
    except re.error as error:
        raise Misfit(place, f"expected a regular expression, got {value!r}: {error}") from None
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyMatch(Message):
    """``ProxyMatch``."""

    proxy_version: Annotated[str, expression] = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterMatch(Message):
    """``ClusterMatch``."""

    port_number: Number = 0
    service: str = ""
    subset: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteMatch(Message):
    """``RouteConfigurationMatch.RouteMatch``."""

    name: str = ""
    action: Annotated[str, one_of("ANY", "ROUTE", "REDIRECT", "DIRECT_RESPONSE")] = "ANY"


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualHostMatch(Message):
    """``RouteConfigurationMatch.VirtualHostMatch``."""

    name: str = ""
    domain_name: str = ""
    route: RouteMatch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteConfigurationMatch(Message):
    """``RouteConfigurationMatch``."""

    port_number: Number = 0
    port_name: str = ""
    gateway: str = ""
    vhost: VirtualHostMatch | None = None
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubFilterMatch(Message):
    """``ListenerMatch.SubFilterMatch``."""

    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterMatch(Message):
    """``ListenerMatch.FilterMatch``."""

    name: str = ""
    sub_filter: SubFilterMatch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterChainMatch(Message):
    """``ListenerMatch.FilterChainMatch``."""

    name: str = ""
    sni: str = ""
    transport_protocol: str = ""
    application_protocols: str = ""
    filter: FilterMatch | None = None
    destination_port: Number = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerMatch(Message):
    """``ListenerMatch``."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"portName"})  # Istio reads it over too

    port_number: Number = 0
    filter_chain: FilterChainMatch | None = None
    listener_filter: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectMatch(Message):
    """``EnvoyConfigObjectMatch``."""

    context: Annotated[str, one_of(*_CONTEXTS)] = "ANY"
    proxy: ProxyMatch | None = None
    listener: ListenerMatch | None = None
    route_configuration: RouteConfigurationMatch | None = None
    cluster: ClusterMatch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch(Message):
    """``Patch``; its value is a message of Envoy's, as JSON."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"filterClass"})

    operation: Annotated[str, one_of(*_OPERATIONS)] = "MERGE"
    value: Annotated[Any, anything] = None

    def check(self, report: Report) -> None:
        """A value, but for what is removed."""
        if self.operation != "REMOVE" and not isinstance(self.value, dict):
            report.error(self.at, f"expected a field 'value' with a mapping, with operation {self.operation}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigPatch(Message):
    """``EnvoyConfigObjectPatch``."""

    apply_to: Annotated[str, one_of(*_KNOWN)]
    match: ObjectMatch | None = None
    patch: Patch

    def check(self, report: Report) -> None:
        """What concerns a bootstrap, or extensions served on their own, reaches nobody here."""
        if self.apply_to not in APPLIED:
            report.warning(self.at.child("applyTo"), f"{self.apply_to} is not applied by the embedded control plane")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyFilterSpec(Message):
    """``EnvoyFilter.spec``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"targetRefs"})

    workload_selector: WorkloadSelector | None = None
    config_patches: tuple[ConfigPatch, ...] = ()
    priority: Annotated[int, integer(-(2**31), 2**31 - 1)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyFilter(Resource):
    """An Istio EnvoyFilter."""

    spec: EnvoyFilterSpec

    @property
    def labels_chosen(self) -> Mapping[str, str]:
        """The labels of the workloads it is for; none for all of the namespace."""
        return self.spec.workload_selector.labels if self.spec.workload_selector else {}
