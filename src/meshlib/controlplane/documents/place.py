"""Where a value was written, and the collection of what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from meshlib.controlplane.documents.tree import Mapping, Sequence, Tree
from meshlib.controlplane.faults import ERROR, WARNING, Fault, Severity

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Origin:
    """The document a value belongs to."""

    file: str
    kind: str = ""
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.kind else ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: the document, the path of fields, and the value as written."""

    origin: Origin
    path: str
    tree: Tree

    def child(self, key: str) -> Place:
        """Return the place of a field's value; this place where the field is not written."""
        tree = self.tree
        if isinstance(tree, Mapping) and key in tree.entries:
            return Place(self.origin, self._join(key), tree.entries[key])
        return self

    def key(self, key: str) -> Place:
        """Return the place of a field's name rather than of its value."""
        assert isinstance(self.tree, Mapping)
        return Place(self.origin, self._join(key), self.tree.keys[key])

    def item(self, index: int) -> Place:
        """Return the place of a list's item."""
        assert isinstance(self.tree, Sequence)
        return Place(self.origin, f"{self.path}[{index}]", self.tree.items[index])

    def has(self, key: str) -> bool:
        """Tell whether a field is written."""
        return isinstance(self.tree, Mapping) and key in self.tree.entries

    def _join(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    @property
    def source(self) -> str:
        """``catalog-vs.yaml:7``."""
        return f"{self.origin.file}:{self.tree.line}"

    def fault(self, severity: Severity, message: str, *, applies: bool = False) -> Fault:
        """Return a fault here; the message is preceded by the path."""
        text = f"{self.path}: {message}" if self.path else message
        origin, tree = self.origin, self.tree
        return Fault(severity, text, origin.file, tree.line, tree.column, str(origin), applies)


class Misfit(Exception):
    """A value that is not what was expected; whoever holds the collection reports and goes on."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


Reader = Callable[[Place, "Report"], T]


class Report:
    """Collects the faults of one document. One use, one thread."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def error(self, place: Place, message: str) -> None:
        """Note what makes the document unusable."""
        self.faults.append(place.fault(ERROR, message))

    def warning(self, place: Place, message: str) -> None:
        """Note what will not be obeyed."""
        self.faults.append(place.fault(WARNING, message, applies=True))

    def attempt(self, reader: Reader[T], place: Place, keep: Callable[[T], object]) -> None:
        """Read a value and ``keep`` it, or note why it cannot be read."""
        try:
            keep(reader(place, self))
        except Misfit as misfit:
            if misfit.message:  # else it has been said already
                self.error(misfit.place, misfit.message)

    @property
    def errors(self) -> int:
        """How many errors there were."""
        return sum(fault.severity is ERROR for fault in self.faults)
