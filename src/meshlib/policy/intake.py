"""Paths and authorities as a connection manager takes them in: normalised, or refused, before there is a route.

The order is Envoy's (``ConnectionManagerUtility::maybeNormalizePath``): escaped slashes, dot segments, slashes in
a row. What need not be escaped is what its URL library says; measured, byte by byte, on the real Envoy.
"""

from __future__ import annotations

import re

from meshlib.model.intake import EscapedSlashes, Intake
from meshlib.model.request import RequestView

_ESCAPED_SLASH = re.compile("%2[fF]|%5[cC]")
_SLASHES = re.compile("//+")
_ESCAPED = re.compile("%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!'()*")
_TO_ESCAPE = re.compile(r"[\x00-\x20\"<>^`{|}\x7f-\xff]")


class Refused(Exception):
    """The path cannot be taken: 400."""


class Redirected(Exception):
    """The caller is sent to the path as it should be: 307.

    Attributes:
        target: that path, with its query.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.target = target


def taken(intake: Intake, view: RequestView) -> RequestView:
    """Return the request as the connection manager hands it on: ``view`` itself where nothing changes.

    Raises:
        Refused, Redirected: it answers the request itself.
    """
    target, authority = _target(intake, view.target), _authority(intake, view)
    if target == view.target and authority == view.authority:
        return view
    return view.changed(target=target, authority=authority)


def _target(intake: Intake, target: str) -> str:
    if "#" in target:
        raise Refused
    path, mark, query = target.partition("?")
    redirected = False
    if intake.escaped_slashes is not EscapedSlashes.KEEP and _ESCAPED_SLASH.search(path):
        if intake.escaped_slashes is EscapedSlashes.REJECT:
            raise Refused
        redirected = intake.escaped_slashes is EscapedSlashes.REDIRECT
        path = _ESCAPED_SLASH.sub(lambda found: "/" if found[0][1] == "2" else "\\", path)
    if intake.normalize_path:
        path = _normalized(path)
    if intake.merge_slashes:
        path = _SLASHES.sub("/", path)
    if redirected:
        raise Redirected(path + mark + query)
    return path + mark + query


def _normalized(path: str) -> str:
    """Return a path without dot segments; raises ``Refused`` where it holds an escaped NUL."""
    if "%00" in path:
        raise Refused
    path = _ESCAPED.sub(_unescaped, path.replace("\\", "/"))
    path = _TO_ESCAPE.sub(lambda found: f"%{ord(found[0]):02X}", path)
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _unescaped(found: re.Match[str]) -> str:
    char = chr(int(found[1], 16))
    return char if char in _UNRESERVED else found[0]


def _authority(intake: Intake, view: RequestView) -> str:
    authority = view.authority
    host, colon, port = authority.rpartition(":")
    ported = colon and "]" not in port
    if intake.strip_trailing_dot:
        name = host if ported else authority
        authority = name.removesuffix(".") + (f":{port}" if ported else "")
    if ported and (intake.strip_port == "any" or (intake.strip_port == "matching" and port == str(view.port))):
        authority = authority[: -len(port) - 1]
    return authority
