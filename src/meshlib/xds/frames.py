"""What h2 is not given of a server's frames: GOAWAY.

h2 takes no frame after one (its issue 1181), while a server that shuts down gracefully says
GOAWAY first and ends its streams later (RFC 9113, 6.8), gRPC's servers among them.
"""

from __future__ import annotations

from dataclasses import dataclass

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

_HEAD = 9
_SETTINGS, _GOAWAY = 0x04, 0x07
_MAX_GOAWAY = 64 * 1024


@dataclass(frozen=True, slots=True)
class GoAway:
    """A server accepts no further streams.

    Attributes:
        last_stream: the last stream that it goes on with.
        code: the HTTP/2 error code; 0 for none.
        debug: more about it.
    """

    last_stream: int
    code: int
    debug: bytes = b""

    @property
    def too_many_pings(self) -> bool:
        """Whether we pinged too often (gRFC A8)."""
        return self.code == ErrorCodes.ENHANCE_YOUR_CALM and self.debug == b"too_many_pings"

    def __str__(self) -> str:
        try:
            name = ErrorCodes(self.code).name
        except ValueError:
            name = f"error {self.code}"
        debug = self.debug.decode("utf-8", "replace")
        return f"GOAWAY {name}" + (f": {debug[:200]}" if debug else "")


class NotHttp2(ProtocolError):
    """The peer's first bytes are not HTTP/2's.

    Attributes:
        first: those bytes.
    """

    def __init__(self, first: bytes) -> None:
        super().__init__("the server does not speak HTTP/2")
        self.first = first


class GoAways:
    """Takes GOAWAY frames out of a server's bytes, and makes sure that the first frame is SETTINGS."""

    def __init__(self) -> None:
        self._held = b""  # the begin of a frame not whole
        self._passing = 0  # bytes of a frame still to come, all to be passed on
        self._begun = False

    @property
    def unbegun(self) -> bytes:
        """What came, while that is not enough for a first frame."""
        return b"" if self._begun else self._held

    def feed(self, data: bytes) -> tuple[list[bytes], list[GoAway]]:
        """Return the bytes to pass on, and the GOAWAYs among them.

        Raises:
            ProtocolError: what comes first is not SETTINGS (:class:`NotHttp2`), or a GOAWAY is absurd.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        passed: list[bytes] = []
        goaways: list[GoAway] = []
        start, at, end = 0, self._passing, len(data)
        while at + _HEAD <= end:
            length, kind = int.from_bytes(data[at : at + 3], "big"), data[at + 3]
            if not self._begun:
                if kind != _SETTINGS:
                    raise NotHttp2(data[:_HEAD])
                self._begun = True
            if kind != _GOAWAY:
                at += _HEAD + length
                continue
            if not 8 <= length <= _MAX_GOAWAY:
                raise ProtocolError(f"a GOAWAY of {length} bytes")
            if at + _HEAD + length > end:
                break
            passed.append(data[start:at])
            body = data[at + _HEAD : at + _HEAD + length]
            last = int.from_bytes(body[:4], "big") & 0x7FFFFFFF
            goaways.append(GoAway(last, int.from_bytes(body[4:8], "big"), body[8:]))
            start = at = at + _HEAD + length
        self._passing = max(0, at - end)
        if at < end:
            self._held = data[at:]
        passed.append(data[start:at])
        return [part for part in passed if part], goaways
