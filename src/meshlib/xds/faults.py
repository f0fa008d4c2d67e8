"""What is wrong with a resource, and what of it is not honoured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from meshlib.xds.type_urls import short

_MOST_SAID = 500  # characters of what a message quotes
_INDEX = re.compile(r"\[[^]]*\]")


def shortened(text: str) -> str:
    """Return a text that fits into a log line and a NACK, however long what the server sent is."""
    return text if len(text) <= _MOST_SAID else f"{text[:_MOST_SAID]}… ({len(text)} characters)"


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason why a resource cannot be used; its last good value stays in force.

    Attributes:
        resource: the resource's name, empty when it could not be read.
        type_url: its type.
        field_path: where in it (``virtual_hosts[0].routes[2].match``), empty for the whole.
        message: what is wrong and what was expected.
    """

    resource: str
    type_url: str
    field_path: str
    message: str

    def __str__(self) -> str:
        where = f": {self.field_path}" if self.field_path else ""
        return f"{short(self.type_url)} {shortened(self.resource) or '(no name)'}{where}: {self.message}"


class Status(StrEnum):
    """How far a field that was received is from being honoured."""

    APPROXIMATED = "approximated"  # done nearly as asked
    NOT_HONOURED = "not honoured"  # left out; the rest is in force
    REFUSED = "refused"  # not taken, or not fetched, at all: what needs it fails, or stays as it was


@dataclass(frozen=True, slots=True)
class Note:
    """One field that was received and is not, or only nearly, honoured. The rest is in force.

    Attributes:
        resource: the resource's name.
        type_url: its type.
        field_path: which field.
        consequence: what happens in its place.
        status: how far that is from what was asked.
    """

    resource: str
    type_url: str
    field_path: str
    consequence: str
    status: Status = Status.NOT_HONOURED

    @property
    def kind(self) -> tuple[Status, str, str, str]:
        """Status, type ("CDS"), path without indexes, and consequence: what alike notes share."""
        return self.status, short(self.type_url), _INDEX.sub("", self.field_path), self.consequence

    @classmethod
    def refused(cls, fault: Fault) -> Note:
        """Return what a fault comes to: the field is not taken, nor is the update that holds it."""
        consequence = f"{fault.message}; the update is refused, what was in force stays"
        return cls(fault.resource, fault.type_url, fault.field_path, consequence, Status.REFUSED)

    def __str__(self) -> str:
        return f"{short(self.type_url)} {shortened(self.resource)}: {self.field_path}: {self.consequence}"
