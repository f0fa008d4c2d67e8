"""Says once in the log what of the received configuration is not honoured."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from meshlib.xds.faults import Note
from meshlib.xds.type_urls import short

_INDEX = re.compile(r"\[[^]]*\]")


class NoteLog:
    """One warning for each kind of note, however many resources share it.

    Args:
        log: where to.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: set[tuple[str, str, str]] = set()

    def log(self, notes: Iterable[Note]) -> None:
        """Warn of the kinds of note that are new."""
        for kind, alike in _by_kind(notes).items():
            if kind not in self._said:
                self._said.add(kind)
                more = f" (and {len(alike) - 1} more)" if len(alike) > 1 else ""
                self._log.warning("not honoured: %s%s", alike[0], more)


def _by_kind(notes: Iterable[Note]) -> dict[tuple[str, str, str], list[Note]]:
    found: dict[tuple[str, str, str], list[Note]] = {}
    for note in notes:
        kind = (short(note.type_url), _INDEX.sub("", note.field_path), note.consequence)
        found.setdefault(kind, []).append(note)
    return found
