"""Workloads: what answers behind a service."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from meshlib.controlplane.documents.fields import Count, Key, Labels, Message, Name, Port
from meshlib.controlplane.documents.place import Place, Report
from meshlib.controlplane.documents.resource import Resource

ADDRESS_ANNOTATION = "meshlib.dev/address"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerPort(Message):
    """``containers[].ports[]``: a name that ``targetPort`` may use."""

    OPEN: ClassVar[bool] = True

    container_port: Port
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container(Message):
    """A container, of which only the ports matter."""

    OPEN: ClassVar[bool] = True

    ports: tuple[ContainerPort, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSpec(Message):
    """``Pod.spec``; all that concerns running containers has no bearing here."""

    OPEN: ClassVar[bool] = True

    containers: tuple[Container, ...] = ()
    service_account_name: str = "default"
    node_name: str = ""
    hostname: str = ""
    subdomain: str = ""

    @property
    def ports(self) -> Mapping[str, int]:
        """The container ports that have a name, by name."""
        return {port.name: port.container_port for item in self.containers for port in item.ports if port.name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition(Message):
    """``Pod.status.conditions[]``."""

    OPEN: ClassVar[bool] = True

    type: str = ""
    status: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodStatus(Message):
    """``Pod.status``: the address, and whether the Pod is ready."""

    OPEN: ClassVar[bool] = True

    pod_ip: Annotated[str, Key("podIP")] = ""
    phase: str = ""
    conditions: tuple[Condition, ...] = ()

    @property
    def ready(self) -> bool:
        """False only where a condition says so."""
        return not any(item.type == "Ready" and item.status == "False" for item in self.conditions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod(Resource):
    """A Pod as ``kubectl get -o yaml`` prints it; one without ``status.podIP`` brings no endpoint."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"apiVersion", "kind"})

    spec: PodSpec
    status: PodStatus | None = None

    @property
    def workload(self) -> str:
        """The name of the Deployment behind its ReplicaSet, else of its owner; its own where nobody generated that."""
        owner = next(iter(self.metadata.owner_references), None)
        if owner is not None and owner.kind == "ReplicaSet":
            return owner.name.removesuffix(f"-{self.labels.get('pod-template-hash', '')}")
        return owner.name if owner is not None and self.metadata.generate_name else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateMetadata(Message):
    """``Deployment.spec.template.metadata``."""

    OPEN: ClassVar[bool] = True

    labels: Labels = field(default_factory=dict)
    annotations: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTemplate(Message):
    """``Deployment.spec.template``."""

    OPEN: ClassVar[bool] = True

    metadata: TemplateMetadata | None = None
    spec: PodSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec(Message):
    """``Deployment.spec``, of which only the Pod template matters."""

    OPEN: ClassVar[bool] = True

    template: PodTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment(Resource):
    """A Deployment. Nothing runs it here, so the annotation ``meshlib.dev/address`` says where
    its instances listen: ``127.0.0.1:3000, 127.0.0.1:3001``.
    """

    spec: DeploymentSpec

    @property
    def pod_labels(self) -> Mapping[str, str]:
        """Labels of the Pods it would make."""
        template = self.spec.template.metadata
        return template.labels if template else {}

    @property
    def addresses(self) -> tuple[tuple[str, int | None], ...]:
        """``(address, port or None)`` of each instance."""
        written = self._written()[0]
        return tuple(_split(part) for part in written.split(",") if part.strip())

    def _written(self) -> tuple[str, Place]:
        for holder in (self.spec.template.metadata, self.metadata):
            if holder and ADDRESS_ANNOTATION in holder.annotations:
                place = holder.at.child("annotations").child(ADDRESS_ANNOTATION)
                return holder.annotations[ADDRESS_ANNOTATION], place
        return "", self.at

    def check(self, report: Report) -> None:
        """Every address must be an IP address with, perhaps, a port."""
        written, place = self._written()
        for part in written.split(",") if written else ():
            try:
                _split(part)
            except ValueError as error:
                report.error(place, f"expected a list like '127.0.0.1:3000, 127.0.0.1:3001', got {part!r}: {error}")


def _split(part: str) -> tuple[str, int | None]:
    """Split ``127.0.0.1:3000``, ``[::1]:3000``, ``127.0.0.1`` or ``::1``."""
    part = part.strip()
    host, port = part, ""
    if part.startswith("["):
        host, _, port = part[1:].partition("]")
        port = port.removeprefix(":")
    elif part.count(":") == 1:
        host, _, port = part.partition(":")
    ipaddress.ip_address(host)
    if port and not 0 < int(port) < 65536:
        raise ValueError(f"{port} is not a port")
    return host, int(port) if port else None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadEntrySpec(Message):
    """``WorkloadEntry.spec``, also ``ServiceEntry.spec.endpoints[]``."""

    address: Name
    ports: Mapping[str, Port] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    locality: str = ""
    network: str = ""
    weight: Count = 0
    service_account: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadTemplate(Message):
    """``WorkloadGroup.spec.template``: a WorkloadEntry that has no address yet."""

    ports: Mapping[str, Port] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)
    locality: str = ""
    network: str = ""
    weight: Count = 0
    service_account: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMetadata(Message):
    """``WorkloadGroup.ObjectMeta``."""

    labels: Labels = field(default_factory=dict)
    annotations: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadGroupSpec(Message):
    """``WorkloadGroup.spec``."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"probe"})  # of the agent beside the workload

    metadata: GroupMetadata | None = None
    template: WorkloadTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadGroup(Resource):
    """What WorkloadEntries of one kind have in common; it is checked, and the entries themselves say it all."""

    spec: WorkloadGroupSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadEntry(Resource):
    """A workload that is no Pod: here, usually a process of this machine."""

    spec: WorkloadEntrySpec
