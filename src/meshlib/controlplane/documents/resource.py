"""What every Kubernetes object has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from meshlib.controlplane.documents.fields import Labels, Message, Name


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerReference(Message):
    """``metadata.ownerReferences[]``."""

    OPEN: ClassVar[bool] = True

    kind: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata(Message):
    """``metadata``, as far as the mesh looks at it."""

    OPEN: ClassVar[bool] = True

    name: Name
    generate_name: str = ""
    labels: Labels = field(default_factory=dict)
    annotations: Labels = field(default_factory=dict)
    creation_timestamp: str = ""
    owner_references: tuple[OwnerReference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Message):
    """A whole document."""

    NO_BEARING: ClassVar[frozenset[str]] = frozenset({"apiVersion", "kind", "status"})

    metadata: Metadata

    @property
    def name(self) -> str:
        """``metadata.name``."""
        return self.at.origin.name

    @property
    def namespace(self) -> str:
        """``metadata.namespace``, or the reader's default."""
        return self.at.origin.namespace

    @property
    def labels(self) -> Mapping[str, str]:
        """``metadata.labels``."""
        return self.metadata.labels

    @property
    def age(self) -> tuple[str, str, str]:
        """A key that sorts older resources first, as Istio settles conflicts.

        Resources in files seldom have a creationTimestamp; then the name decides, so that the
        answer is the same on every machine.
        """
        return (self.metadata.creation_timestamp, self.name, self.namespace)
