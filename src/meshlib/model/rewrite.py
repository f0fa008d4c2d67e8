"""Regex rewrites of paths and hosts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meshlib.model.match import compiled_regex

_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RegexRewrite:
    r"""``RegexMatchAndSubstitute``: every match of ``pattern`` becomes ``substitution``.

    ``\1`` to ``\9`` stand for the capture groups, ``\0`` for the whole match. As RE2 does, a
    substitution that names no group of the pattern leaves the text as it is.

    Raises:
        ValueError: the pattern is not valid RE2.
    """

    pattern: str
    substitution: str
    replace: Callable[[str], str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        regex = compiled_regex(self.pattern)
        parts = _parts(self.substitution, regex.groups)
        replace = (lambda text: text) if parts is None else _replacing(regex, parts)
        object.__setattr__(self, "replace", replace)


def _replacing(regex: Any, parts: list[str | int]) -> Callable[[str], str]:
    def replace(text: str) -> str:
        end = -1

        def expand(match: Any) -> str:
            nonlocal end
            if match.start() == match.end() == end:
                return ""  # nothing, right behind a match: RE2's GlobalReplace does not count it
            end = match.end()
            return "".join(part if isinstance(part, str) else match.group(part) or "" for part in parts)

        replaced: str = regex.sub(expand, text)
        return replaced

    return replace


def _parts(substitution: str, groups: int) -> list[str | int] | None:
    """Return texts and group numbers in order; None for what RE2 refuses to expand."""
    parts: list[str | int] = []
    position = 0
    for escape in _ESCAPE.finditer(substitution):
        parts.append(substitution[position : escape.start()])
        position = escape.end()
        what = escape.group(1)
        if what == "\\":
            parts.append(what)
        elif what in "0123456789" and what and int(what) <= groups:
            parts.append(int(what))
        else:
            return None
    return [*parts, substitution[position:]]
