"""Istio's StringMatch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from meshlib.controlplane.documents.fields import Message, Regex
from meshlib.controlplane.documents.place import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class StringMatch(Message):
    """``StringMatch``: at most one operator; none means present."""

    exact: str | None = None
    prefix: str | None = None
    regex: Regex | None = None

    def check(self, report: Report) -> None:
        """One operator, no more."""
        written = [item.name for item in fields(self) if item.name != "at" and getattr(self, item.name) is not None]
        if len(written) > 1:
            report.error(self.at, f"expected one of exact, prefix, regex, got {' and '.join(written)}")

    @property
    def present(self) -> bool:
        """Whether any value will do."""
        return (self.exact is None and self.prefix is None and self.regex is None) or self.regex == "*"
