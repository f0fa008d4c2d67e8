"""What is wrong with the configuration, said to the person who wrote it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad a fault is; ``validate`` exits 1 for an ERROR and 0 for WARNINGs."""

    ERROR = "error"
    WARNING = "warning"


ERROR = Severity.ERROR
WARNING = Severity.WARNING


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong, where, and what was expected.

    An ERROR of :func:`~meshlib.controlplane.documents.read` means that the document was
    dropped. An ERROR of :func:`~meshlib.controlplane.translate.translate` is a reference that
    leads nowhere: it can be applied all the same, as in Istio, and the requests it routes there
    fail; a running :class:`~meshlib.controlplane.directory.Directory` rather keeps what it has.
    ``applies`` tells the two apart.

    Attributes:
        severity: ERROR or WARNING.
        message: what is wrong, beginning with the field's path where there is one.
        file: name of the file, relative to the folder.
        line: from 1; 0 when the whole file is meant.
        column: from 1; 0 when the whole line or file is meant.
        resource: ``VirtualService istioinaction/catalog``, or empty.
        applies: whether the document is in force nevertheless.
    """

    severity: Severity
    message: str
    file: str
    line: int = 0
    column: int = 0
    resource: str = ""
    applies: bool = False

    def __str__(self) -> str:
        place = ":".join([self.file, *(str(number) for number in (self.line, self.column) if number)])
        who = f"{self.resource}: " if self.resource else ""
        return f"{place}: {self.severity.value}: {who}{self.message}"


def suggestion(wrong: str, right: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for a near miss of ``wrong``, else the empty string."""
    near = difflib.get_close_matches(wrong, list(right), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
