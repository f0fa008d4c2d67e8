"""Capabilities: which fields of the configuration are not, or only nearly, honoured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from meshlib.xds.faults import Note, Status
from meshlib.xds.note_log import by_kind
from meshlib.xds.type_urls import short

_GRAVEST_FIRST = (Status.REFUSED, Status.NOT_HONOURED, Status.APPROXIMATED)


@dataclass(frozen=True, slots=True)
class Capability:
    """One field that was received and is not honoured as received.

    Attributes:
        status: "refused" (not taken, or not fetched, at all: what needs it fails, or stays as it
            was), "not honoured" (left out, the rest is in force) or "approximated" (done nearly
            as asked).
        type: the resource's type: LDS, RDS, CDS, EDS.
        resource: its name.
        field: the path of the field in it, empty for the whole.
        consequence: what happens in its place.
    """

    status: str
    type: str
    resource: str
    field: str
    consequence: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What of the configuration is not honoured as received; empty when all of it is.

    Attributes:
        entries: every such field, the gravest first, and alike ones next to each other.
        kinds: of alike entries the first, with how many there are; alike are those that differ
            in resource, index or key alone.
    """

    entries: tuple[Capability, ...] = ()
    kinds: tuple[tuple[Capability, int], ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """The number of entries by status, zeros included."""
        return {status.value: sum(e.status == status for e in self.entries) for status in _GRAVEST_FIRST}

    def to_dict(self) -> dict[str, Any]:
        """Return this as JSON's own types: ``counts`` and ``entries``."""
        return {"counts": self.counts, "entries": [asdict(entry) for entry in self.entries]}

    def __str__(self) -> str:
        """One line a kind: what it comes to, and one place where it is."""
        lines = []
        for entry, count in self.kinds:
            place = " ".join(filter(None, (entry.type, entry.resource or "(no name)", entry.field)))
            lines.append(f"{entry.status}: {place}: {entry.consequence}{f' (and {count - 1} more)' * (count > 1)}")
        return "\n".join(lines) or "every field of the configuration is honoured"


def capabilities(notes: Iterable[Note]) -> Capabilities:
    """Return the report of what a source noted."""
    alike = sorted(by_kind(notes).values(), key=lambda group: _GRAVEST_FIRST.index(group[0].status))
    groups = [[_entry(note) for note in group] for group in alike]
    return Capabilities(
        entries=tuple(entry for group in groups for entry in group),
        kinds=tuple((group[0], len(group)) for group in groups),
    )


def _entry(note: Note) -> Capability:
    return Capability(note.status.value, short(note.type_url), note.resource, note.field_path, note.consequence)
