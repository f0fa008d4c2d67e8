"""What Kubernetes itself keeps of what answers: EndpointSlices, Endpoints and Nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from meshlib.controlplane.documents.fields import Message, Name, Port
from meshlib.controlplane.documents.resource import Resource

SERVICE_LABEL = "kubernetes.io/service-name"
_REGION, _ZONE, _SUBZONE = (
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRef(Message):
    """``targetRef``: the Pod behind an address."""

    OPEN: ClassVar[bool] = True

    kind: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions(Message):
    """``endpoints[].conditions``; what is not said is ready (Kubernetes' rule)."""

    ready: bool = True
    serving: bool = True
    terminating: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceEndpoint(Message):
    """``EndpointSlice.endpoints[]``."""

    OPEN: ClassVar[bool] = True

    addresses: tuple[Name, ...] = ()
    conditions: Conditions | None = None
    hostname: str = ""
    target_ref: TargetRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePort(Message):
    """``EndpointSlice.ports[]`` and ``Endpoints.subsets[].ports[]``."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"appProtocol", "protocol"})

    name: str = ""
    port: Port | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSlice(Resource):
    """An EndpointSlice: addresses behind the Service that its label names."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"apiVersion", "kind", "addressType"})

    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[SlicePort, ...] = ()

    @property
    def service(self) -> str:
        """The name of its Service, in its namespace."""
        return self.labels.get(SERVICE_LABEL, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetAddress(Message):
    """``Endpoints.subsets[].addresses[]``."""

    OPEN: ClassVar[bool] = True

    ip: Name
    hostname: str = ""
    target_ref: TargetRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointsSubset(Message):
    """``Endpoints.subsets[]``."""

    addresses: tuple[SubsetAddress, ...] = ()
    not_ready_addresses: tuple[SubsetAddress, ...] = ()
    ports: tuple[SlicePort, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints(Resource):
    """Endpoints, the older form; one without EndpointSlices beside it counts as Kubernetes would mirror it."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"apiVersion", "kind"})

    subsets: tuple[EndpointsSubset, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node(Resource):
    """A Node, of which the labels say the locality of its Pods."""

    OPEN: ClassVar[bool] = True

    @property
    def locality(self) -> str:
        """``region/zone/subzone``, without the empty parts at the end."""
        return "/".join(self.labels.get(key, "") for key in (_REGION, _ZONE, _SUBZONE)).rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace(Resource):
    """A Namespace: its annotations hold for the Services within."""

    OPEN: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccount(Resource):
    """A ServiceAccount. Workloads name it; nothing of it matters but that it may be written."""

    OPEN: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret(Resource):
    """A Secret. What it holds is not read: gateways get certificates by name from whoever keeps them."""

    OPEN: ClassVar[bool] = True

    type: str = ""
