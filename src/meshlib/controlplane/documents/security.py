"""Security: who may speak to a workload, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from meshlib.controlplane.documents.fields import Labels, Message, one_of
from meshlib.controlplane.documents.place import Report
from meshlib.controlplane.documents.resource import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector(Message):
    """``WorkloadSelector`` of Istio's security kinds."""

    match_labels: Labels = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MutualTls(Message):
    """``PeerAuthentication.MutualTLS``; UNSET is what the namespace or the mesh says."""

    mode: Annotated[str, one_of("UNSET", "DISABLE", "PERMISSIVE", "STRICT")] = "UNSET"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAuthenticationSpec(Message):
    """``PeerAuthentication.spec``."""

    selector: Selector | None = None
    mtls: MutualTls | None = None
    port_level_mtls: Mapping[str, MutualTls] = field(default_factory=dict)

    def check(self, report: Report) -> None:
        """Ports only of chosen workloads (Istio's rule), and ports are numbers."""
        place = self.at.child("portLevelMtls")
        if self.port_level_mtls and not (self.selector and self.selector.match_labels):
            report.error(place, "expected a selector with portLevelMtls")
        for port in self.port_level_mtls:
            if not (port.isdecimal() and 0 < int(port) < 65536):
                report.error(place.child(port), f"expected the number of a workload's port, got {port!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAuthentication(Resource):
    """Which of mTLS and plaintext the workloads of a namespace, or of the mesh, take."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"apiVersion", "kind", "status"})

    spec: PeerAuthenticationSpec | None = None

    @property
    def labels_chosen(self) -> Mapping[str, str]:
        """The labels of the workloads it is for; none for all of the namespace."""
        return self.spec.selector.match_labels if self.spec and self.spec.selector else {}

    @property
    def mode(self) -> str:
        """The mode that it sets, UNSET for none."""
        return self.spec.mtls.mode if self.spec and self.spec.mtls else "UNSET"
