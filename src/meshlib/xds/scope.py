"""Where a decoder is in a resource, and what it found there."""

from __future__ import annotations

from typing import Any

from meshlib.xds.constraints import violations
from meshlib.xds.faults import Fault, Note, Status, shortened
from meshlib.xds.fields import FIELDS, NOTHING_KNOWN


class Scope:
    """A place in one resource. Children share the resource's faults and notes.

    The path is put together only when something is found: a decoder makes a scope for each
    nested message, and nearly all of them have nothing to say.
    """

    __slots__ = ("_index", "_parent", "_step", "faults", "notes", "resource", "type_url")

    def __init__(self, resource: str, type_url: str) -> None:
        self._parent: Scope | None = None
        self._step = ""
        self._index: int | str | None = None
        self.resource = resource
        self.type_url = type_url
        self.faults: list[Fault] = []
        self.notes: list[Note] = []

    def at(self, step: str, index: int | str | None = None) -> Scope:
        """Return the scope of a field, or of one element of it."""
        child = Scope.__new__(Scope)
        child._parent = self
        child._step = step
        child._index = index
        child.resource = self.resource
        child.type_url = self.type_url
        child.faults = self.faults
        child.notes = self.notes
        return child

    def path(self, field: str = "") -> str:
        """Return the path of this place, or of a field in it."""
        steps = [field] if field else []
        scope: Scope | None = self
        while scope is not None and scope._parent is not None:
            index = scope._index
            steps.append(scope._step if index is None else f"{scope._step}[{shortened(str(index))}]")
            scope = scope._parent
        return ".".join(reversed(steps))

    def fault(self, field: str, message: str) -> None:
        """Record that the resource cannot be used because of ``field``."""
        self.faults.append(Fault(self.resource, self.type_url, self.path(field), shortened(message)))

    def obey(self, message: Any) -> None:
        """Fault what in ``message``, and in what it contains, breaks a constraint of Envoy's protos.

        Called when a decoder has had its say: a fault that it found already, at that place or around it, is enough.
        """
        for path, wrong in violations(message):
            place = self.path(path)
            if not any(_related(place, known.field_path) for known in self.faults):
                self.faults.append(Fault(self.resource, self.type_url, place, shortened(wrong)))

    def note(self, field: str, consequence: str, status: Status = Status.NOT_HONOURED) -> None:
        """Record that ``field`` is not honoured as received."""
        self.notes.append(Note(self.resource, self.type_url, self.path(field), shortened(consequence), status))

    def audit(self, message: Any) -> None:
        """Note every field set in ``message`` that :data:`~meshlib.xds.fields.FIELDS` does not explain.

        Looks at this message alone; whoever decodes a nested message audits that.
        """
        known = FIELDS.get(message.DESCRIPTOR.full_name, NOTHING_KNOWN)
        for field, _ in message.ListFields():
            noted = known.note(field.name)
            if noted is not None:
                status, consequence = noted
                self.note(field.name, consequence, status)


def _related(place: str, other: str) -> bool:
    """Tell whether one of two paths is the other, or leads to it."""
    short, long = sorted((place, other), key=len)
    return long.startswith(short) and (len(long) == len(short) or long[len(short)] in ".[")
