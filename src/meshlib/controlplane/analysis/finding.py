"""One thing found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from meshlib.controlplane.documents.place import Place


class Level(IntEnum):
    """How bad; istioctl's levels."""

    INFO = 0
    WARNING = 1
    ERROR = 2

    @property
    def word(self) -> str:
        """As istioctl says it: ``Error``."""
        return self.name.capitalize()

    @classmethod
    def named(cls, word: str) -> Level:
        """Return the level of a word, whatever its case.

        Raises:
            ValueError: there is none of that name.
        """
        try:
            return cls[word.upper()]
        except KeyError:
            raise ValueError(f"expected one of Info, Warning, Error, got {word!r}") from None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        code: ``IST0101``.
        level: how bad.
        message: istioctl's words, where the check is its.
        resource: ``VirtualService istioinaction/catalog``.
        namespace: of the resource; empty where it has none.
        file, line, column: where; 0 for unknown.
    """

    code: str
    level: Level
    message: str
    resource: str
    namespace: str
    file: str
    line: int
    column: int

    @property
    def reference(self) -> str:
        """``catalog.yaml:9:5``."""
        return ":".join([self.file, *(str(number) for number in (self.line, self.column) if number)])

    def __str__(self) -> str:
        return f"{self.level.word} [{self.code}] ({self.resource} {self.reference}) {self.message}"


_I, _W, _E = Level.INFO, Level.WARNING, Level.ERROR

# Codes and levels of istioctl (pkg/config/analysis/msg/messages.yaml), and ours.
LEVELS = {
    "IST0101": _E, "IST0102": _I, "IST0103": _W, "IST0106": _E, "IST0109": _E, "IST0110": _E, "IST0111": _E,
    "IST0112": _E, "IST0118": _I, "IST0127": _W, "IST0128": _W, "IST0129": _W, "IST0130": _W, "IST0131": _I,
    "IST0132": _W, "IST0133": _W, "IST0134": _W, "IST0138": _W, "IST0140": _W, "IST0145": _E, "IST0150": _W,
    "IST0151": _W, "IST0152": _E, "IST0153": _E, "IST0154": _E, "IST0155": _W, "IST0157": _W, "IST0159": _E,
    "IST0160": _E, "IST0161": _E, "IST0162": _W, "IST0165": _W, "IST0173": _E, "IST0174": _W, "IST0177": _W,
    "MSH0001": _W, "MSH0002": _I, "MSH0101": _W, "MSH0102": _W, "MSH0103": _W, "MSH0104": _W, "MSH0105": _I,
}  # fmt: skip


def found(code: str, place: Place, message: str) -> Finding:
    """Return a finding at a place."""
    origin, tree = place.origin, place.tree
    cluster_wide = origin.kind in ("Namespace", "Node")
    resource = f"{origin.kind} {origin.name}" if cluster_wide else str(origin)
    namespace = origin.name if origin.kind == "Namespace" else origin.namespace
    return Finding(code, LEVELS[code], message, resource, namespace, origin.file, tree.line, tree.column)


def not_found(place: Place, what: str, name: str) -> Finding:
    """Return istioctl's IST0101."""
    return found("IST0101", place, f'Referenced {what} not found: "{name}"')
