"""Says once in the log what of the received configuration is not honoured."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from meshlib.xds.faults import Note, Status

Kind = tuple[Status, str, str, str]


class NoteLog:
    """One line for each kind of note, however many resources share it; a warning unless it is approximated.

    Args:
        log: where to.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: set[Kind] = set()

    def log(self, notes: Iterable[Note]) -> None:
        """Say the kinds of note that are new."""
        for kind, alike in by_kind(notes).items():
            if kind not in self._said:
                self._said.add(kind)
                more = f" (and {len(alike) - 1} more)" if len(alike) > 1 else ""
                level = logging.INFO if kind[0] is Status.APPROXIMATED else logging.WARNING
                self._log.log(level, "%s: %s%s", kind[0].value, alike[0], more)


def by_kind(notes: Iterable[Note]) -> dict[Kind, list[Note]]:
    """Return notes by what alike ones share, in the order found."""
    found: dict[Kind, list[Note]] = {}
    for note in notes:
        found.setdefault(note.kind, []).append(note)
    return found
