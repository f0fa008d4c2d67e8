"""What routing may read of a request."""

from __future__ import annotations

from collections.abc import Sequence

_NONE: list[str] = []  # nobody writes to what values() returns


class RequestView:
    """One request as policy sees it: built once a call, read-only, owned by one call.

    Attributes:
        method: upper-case method.
        scheme: ``http`` or ``https``.
        host: lower-case host without port and without brackets.
        port: the port of the URL, the scheme's default where it names none.
        authority: the ``Host`` header as it would be sent (``:authority``).
        target: raw path with query.
        path: raw path without query.
        headers: (lower-case name, value) pairs, in order, repeats kept.
        replayable: whether the body can be sent again.
        tls: whether the application speaks TLS itself; an internal redirect changes ``scheme`` alone.
    """

    __slots__ = (
        "_index",
        "authority",
        "headers",
        "host",
        "method",
        "path",
        "port",
        "replayable",
        "scheme",
        "target",
        "tls",
    )

    def __init__(
        self,
        *,
        method: str,
        scheme: str,
        host: str,
        port: int,
        authority: str,
        target: str,
        headers: Sequence[tuple[str, str]],
        replayable: bool = True,
        tls: bool | None = None,
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.host = host
        self.port = port
        self.authority = authority
        self.target = target
        self.path = target.partition("?")[0]
        self.headers = headers
        self.replayable = replayable
        self.tls = scheme == "https" if tls is None else tls
        self._index: dict[str, list[str]] | None = None

    def values(self, name: str) -> list[str]:
        """Return every value of the header ``name`` (lower case), in order.

        The pseudo-headers of Envoy's matchers (``:method``, ``:path``, ``:authority``,
        ``:scheme``) answer too.
        """
        if name[:1] == ":":
            pseudo = {
                ":method": self.method,
                ":path": self.target,
                ":authority": self.authority,
                ":scheme": self.scheme,
            }.get(name)
            return [] if pseudo is None else [pseudo]
        return (self._index or self.index).get(name, _NONE)

    def header(self, name: str) -> str | None:
        """Return the first value of the header ``name`` (lower case), or None."""
        found = (self._index or self.index).get(name)
        return found[0] if found is not None else None

    @property
    def index(self) -> dict[str, list[str]]:
        """The values of each header, by its name; made when first asked for, as several things look."""
        index = self._index
        if index is None:
            index = self._index = {}
            for name, value in self.headers:
                known = index.get(name)
                if known is None:
                    index[name] = [value]
                else:
                    known.append(value)
        return index

    def cookie(self, name: str) -> str | None:
        """Return the value of the first cookie of that name, without quotes around it, or None."""
        for header in self.values("cookie"):
            for part in header.split(";"):
                key, equals, value = part.partition("=")
                if equals and key.lstrip(" ") == name:
                    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] == '"' else value
        return None

    def parameter(self, name: str) -> str | None:
        """Return the first value of a query parameter as it stands in the URL, or None."""
        for pair in self.query.split("&"):
            key, _, value = pair.partition("=")
            if key == name:
                return value
        return None

    def whole(self, name: str) -> int | None:
        """Return the header ``name`` (lower case) as a whole number, None where it is none."""
        text = (self.header(name) or "").strip()
        return int(text) if text.isascii() and text.isdecimal() else None

    @property
    def query(self) -> str:
        """The raw query without ``?``, or the empty string."""
        return self.target.partition("?")[2]
