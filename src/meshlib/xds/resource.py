"""Resource: one version of one resource, found valid; its value is made when it is first read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import ClusterLoadAssignment
from meshlib.model.listener import Listener
from meshlib.model.names import NameTable
from meshlib.model.route import RouteConfiguration
from meshlib.model.tls import Secret
from meshlib.xds.faults import Fault, Note, Status

Value = Listener | RouteConfiguration | Cluster | ClusterLoadAssignment | Secret | NameTable
Reference = tuple[str, str]  # type URL and name
Remark = tuple[str, str, Status]  # field path, consequence and status of a Note, whatever the resource


class Maker(Protocol):
    """Makes the values of resources."""

    def make(self, name: str, raw: bytes, /) -> Value:
        """Return the value of a resource that was found valid, from its bytes."""
        ...


class Resource:
    """One version of a resource. Immutable to the eye; any thread may read its value.

    Attributes:
        name: its name.
        raw: the bytes of the ``Any`` it came in; equal bytes are an equal resource.
        references: what it names, without repeats.
        groups: of a route table, the clusters of each virtual host that names more than one.
        patience: seconds that what it names is waited for (``initial_fetch_timeout``), 0 = for ever;
            None where it does not say.
    """

    __slots__ = ("_maker", "_notes", "_value", "groups", "name", "patience", "raw", "references")

    def __init__(
        self,
        name: str,
        raw: bytes,
        maker: Maker | None,
        references: tuple[Reference, ...] = (),
        notes: Sequence[Remark] = (),
        groups: tuple[tuple[str, ...], ...] = (),
        patience: float | None = None,
        value: Value | None = None,
    ) -> None:
        self.name = name
        self.raw = raw
        self.references = references
        self.groups = groups
        self.patience = patience
        self._maker = maker
        self._notes = notes
        self._value = value

    @property
    def value(self) -> Value:
        """The model value, made on first use. Two threads at once may get two equal ones."""
        if self._value is None:
            assert self._maker is not None
            self._value = self._maker.make(self.name, self.raw)  # without a lock: a fork could leave it taken for ever
        return self._value

    def notes(self, type_url: str) -> tuple[Note, ...]:
        """Return what of it is not, or only nearly, honoured."""
        if not self._notes:
            return ()
        return tuple(Note(self.name, type_url, *remark) for remark in self._notes)

    def __repr__(self) -> str:
        return f"<Resource {self.name!r}, {len(self.raw)} bytes{', decoded' if self._value is not None else ''}>"


class Examined(NamedTuple):
    """What was found of one resource of a response.

    Attributes:
        name: its name, empty when it cannot be read.
        resource: the resource; None when there are faults.
        faults: every reason why it cannot be used.
    """

    name: str
    resource: Resource | None = None
    faults: tuple[Fault, ...] = ()


def remarks(notes: Sequence[Note], start: int = 0) -> tuple[Remark, ...]:
    """Return notes without the resource they are on, and without the first ``start`` characters of their paths."""
    return tuple((note.field_path[start:], note.consequence, note.status) for note in notes)
