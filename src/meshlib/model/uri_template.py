"""URI templates of paths (``/shops/{shop}/{rest=**}``), as ``path_match_policy`` and ``path_rewrite_policy`` use them.

A template becomes a regular expression for the whole path, with a group for each variable. What
is taken was measured on Envoy 1.40: ``*`` is one segment, ``**`` the rest; a segment is one of
them (the last may have a text behind it), or one variable with text around it, or text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# pchar of RFC 3986.
_CHARACTERS = "a-zA-Z0-9-._~%!$&'()+,;*=:@"
_LITERAL = re.compile(f"[{_CHARACTERS}]+")
_REWRITE_LITERAL = re.compile(f"[{_CHARACTERS}/]+")
# As Envoy, which leaves a star in text to the regular expression ("/a*" is "/", "/a", "/aa", …).
_SPECIAL = re.compile(r"[$()+.]")
_NAME = re.compile("[a-zA-Z][a-zA-Z0-9_]*")
_GLOBS = {"*": f"[{_CHARACTERS}]+", "**": f"[{_CHARACTERS}/]*"}
_LONGEST = 256  # validate.rules of both configurations
_LONGEST_NAME = 16
_MOST_VARIABLES = 5


@dataclass(frozen=True, slots=True)
class UriTemplate:
    """A template that was taken.

    Attributes:
        text: as configured.
        regex: RE2 for the whole path, with a group for each variable.
        names: of the variables, in the order of their groups.
    """

    text: str
    regex: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return self.text

    def substitution(self, rewrite: str) -> str:
        r"""Return what a path that matches becomes by ``path_template_rewrite``, with ``\1`` for the first variable.

        Raises:
            ValueError: it is not valid, or has a variable that the template has not.
        """
        if not 0 < len(rewrite) <= _LONGEST:
            raise ValueError(f"must have 1 to {_LONGEST} characters")
        if not rewrite.startswith("/") or "//" in rewrite:
            raise ValueError(f"{rewrite!r} must begin with '/' and have no '//' in it")
        made = []
        for text, name in _split_variables(rewrite):
            if text and _REWRITE_LITERAL.fullmatch(text) is None:
                raise ValueError(f"{text!r} in {rewrite!r} has characters that no path has")
            if name is not None and name not in self.names:
                raise ValueError(f"{rewrite!r} has the variable {name!r}, which {self.text!r} has not")
            made.append(text if name is None else f"{text}\\{self.names.index(name) + 1}")
        return "".join(made)


def uri_template(text: str) -> UriTemplate:
    """Return a template; raises ``ValueError`` for what Envoy refuses."""
    if not 0 < len(text) <= _LONGEST:
        raise ValueError(f"must have 1 to {_LONGEST} characters")
    if not text.startswith("/") or not all("!" <= char <= "~" for char in text):
        raise ValueError(f"{text!r} must begin with '/' and be printable ASCII")
    parsed = _Parsed()
    rest = text[1:]
    while rest:
        rest = parsed.segment(rest)
    return UriTemplate(text, "/" + "/".join(parsed.segments), tuple(parsed.names))


class _Parsed:
    """What was read of a template so far."""

    def __init__(self) -> None:
        self.segments: list[str] = []
        self.names: list[str] = []
        self._rest_taken = False  # by a ** before

    def segment(self, text: str) -> str:
        """Read one segment; returns what is behind its slash."""
        if text.startswith("*"):
            glob = "**" if text.startswith("**") else "*"
            made, rest = self._glob(glob), text[len(glob) :]
            if rest and not rest.startswith("/"):
                made, rest = made + _literal(rest), ""
        elif text.startswith("{"):
            end = text.find("}")
            if end < 0:
                raise ValueError(f"{text!r} opens a variable and does not close it")
            made, (suffix, rest) = self._variable(text[1:end]), _until_slash(text[end + 1 :])
            made += _literal(suffix) if suffix else ""
        else:
            token, rest = _until_slash(text)
            made = self._mixed(token)
        self.segments.append(made)
        if rest == "/":
            self.segments.append("")
        return rest[1:]

    def _mixed(self, token: str) -> str:
        start, end = token.find("{"), token.find("}")
        if not 0 <= start < end:
            return _literal(token)
        suffix = token[end + 1 :]
        variable = self._variable(token[start + 1 : end])
        return _literal(token[:start]) + variable + (_literal(suffix) if suffix else "")

    def _variable(self, text: str) -> str:
        name, equals, pattern = text.partition("=")
        if _NAME.fullmatch(name) is None or len(name) > _LONGEST_NAME:
            raise ValueError(f"{name!r} is not the name of a variable: a letter, then at most 15 more, digits or '_'")
        if name in self.names:
            raise ValueError(f"the variable {name!r} comes twice")
        if len(self.names) == _MOST_VARIABLES:
            raise ValueError(f"has more than {_MOST_VARIABLES} variables")
        if equals and not pattern:
            raise ValueError(f"the variable {name!r} matches nothing")
        self.names.append(name)
        parts = pattern.split("/") if equals else ["*"]
        return f"({'/'.join(self._glob(part) if part in _GLOBS else _plain(part) for part in parts)})"

    def _glob(self, glob: str) -> str:
        if self._rest_taken:
            raise ValueError("has a * or ** behind a **")
        self._rest_taken = glob == "**"
        return _GLOBS[glob]


def _plain(part: str) -> str:
    if part.startswith("*"):
        raise ValueError(f"{part!r} in a variable is neither a glob nor text")
    return _literal(part)


def _literal(text: str) -> str:
    if _LITERAL.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not text of a path")
    return _SPECIAL.sub(r"\\\g<0>", text)


def _until_slash(text: str) -> tuple[str, str]:
    end = text.find("/")
    return (text, "") if end < 0 else (text[:end], text[end:])


def _split_variables(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield each piece of text with the variable behind it, None behind the last."""
    while text:
        literal, opened, behind = text.partition("{")
        if not opened:
            yield literal, None
            return
        name, closed, text = behind.partition("}")
        if not closed or _NAME.fullmatch(name) is None:
            raise ValueError(f"{{{name} is not a variable")
        yield literal, name
