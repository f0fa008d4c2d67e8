"""A server's bytes, before h2 sees them: DATA and GOAWAY are not for it.

h2 takes no frame after a GOAWAY (its issue 1181), while a server that shuts down gracefully says
GOAWAY first and ends its streams later (RFC 9113, 6.8), gRPC's servers among them. And it spends
more on the bytes of a DATA frame, which it copies four times and prints for a log that there is
not, than all the rest of the client does.
"""

from __future__ import annotations

from dataclasses import dataclass

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

STREAM = 1  # the first stream of a client, and the only one here
_HEAD = 9
_DATA, _SETTINGS, _GOAWAY, _WINDOW_UPDATE = 0x00, 0x04, 0x07, 0x08
_END_STREAM, _PADDED = 0x01, 0x08
_MAX_GOAWAY = 64 * 1024
_END = bytes((0, 0, 0, _DATA, _END_STREAM)) + STREAM.to_bytes(4, "big")  # a DATA frame without data


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


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of the stream, a DATA frame's or a part of one.

    Attributes:
        content: the bytes, valid until the buffer that was fed is filled anew.
        size: how many flow control counts: padding, too.
    """

    content: memoryview
    size: int


class NotHttp2(ProtocolError):
    """The peer's first bytes are not HTTP/2's.

    Attributes:
        first: those bytes.
    """

    def __init__(self, first: bytes) -> None:
        super().__init__("the server does not speak HTTP/2")
        self.first = first


class Frames:
    """Parts a server's bytes, and makes sure that the first frame is SETTINGS."""

    def __init__(self) -> None:
        self._held = b""  # the begin of a frame that cannot be judged yet
        self._left = 0  # bytes still to come of the frame under way
        self._data = False  # whether that is DATA of the stream,
        self._ends = False  # and the stream's last
        self._begun = False

    @property
    def unbegun(self) -> bytes:
        """What came, while that is not enough for a first frame."""
        return b"" if self._begun else self._held

    def feed(self, buffer: memoryview) -> list[bytes | Data | GoAway]:
        """Return what is in the bytes, in order: ``bytes`` are h2's.

        Raises:
            ProtocolError: what comes first is not SETTINGS (:class:`NotHttp2`), or a frame is absurd.
        """
        if self._held:
            buffer, self._held = memoryview(b"".join((self._held, buffer))), b""
        found: list[bytes | Data | GoAway] = []
        at, end = 0, len(buffer)
        start = 0  # of what h2 gets
        while at < end:
            if self._left:
                stop = min(end, at + self._left)
                self._left -= stop - at
                if self._data:
                    found.append(Data(buffer[at:stop], stop - at))
                    start = stop
                    if self._ends and not self._left:
                        found.append(_END)
                at = stop
                continue
            if at + _HEAD > end:
                break
            length, kind, flags = int.from_bytes(buffer[at : at + 3], "big"), buffer[at + 3], buffer[at + 4]
            if not self._begun:
                if kind != _SETTINGS:
                    raise NotHttp2(bytes(buffer[at : at + _HEAD]))
                self._begun = True
            body = at + _HEAD
            self._data = kind == _DATA and int.from_bytes(buffer[at + 5 : body], "big") == STREAM
            if not self._data and kind != _GOAWAY:
                self._left, at = length, body
                continue
            whole = kind == _GOAWAY or flags & _PADDED
            if kind == _GOAWAY and not 8 <= length <= _MAX_GOAWAY:
                raise ProtocolError(f"a GOAWAY of {length} bytes")
            if whole and body + length > end:
                break
            if start < at:
                found.append(bytes(buffer[start:at]))
            if whole:
                frame = buffer[body : body + length]
                found.append(_goaway(frame) if kind == _GOAWAY else _unpadded(frame))
                start = at = body + length
            else:
                self._left = length
                start = at = body
            self._ends = bool(flags & _END_STREAM)
            if self._data and self._ends and not self._left:
                found.append(_END)
        if start < at:
            found.append(bytes(buffer[start:at]))
        self._held = bytes(buffer[at:])
        return found


def window_update(stream: int, size: int) -> bytes:
    """Return the frame by which a server may send ``size`` bytes more: h2, not seeing DATA, cannot."""
    return bytes((0, 0, 4, _WINDOW_UPDATE, 0)) + stream.to_bytes(4, "big") + size.to_bytes(4, "big")


def _goaway(frame: memoryview) -> GoAway:
    last = int.from_bytes(frame[:4], "big") & 0x7FFFFFFF
    return GoAway(last, int.from_bytes(frame[4:8], "big"), bytes(frame[8:]))


def _unpadded(frame: memoryview) -> Data:
    padding = frame[0] if frame else 0
    if padding >= len(frame):
        raise ProtocolError("a DATA frame that is all padding")
    return Data(frame[1 : len(frame) - padding], len(frame))
