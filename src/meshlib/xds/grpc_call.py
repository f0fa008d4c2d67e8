"""GrpcCall: one gRPC call of two streams on one HTTP/2 connection, bytes in and bytes out.

No socket, no clock, no thread. h2 speaks HTTP/2; what gRPC adds is here, by its "gRPC over
HTTP2" (PROTOCOL-HTTP2.md) and "HTTP to gRPC Status Code Mapping".
"""

from __future__ import annotations

import base64
import re
import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import FlowControlError, H2Error
from h2.settings import SettingCodes

from meshlib import __version__
from meshlib.errors import BootstrapError
from meshlib.xds.frames import STREAM, Data, Frames, GoAway, NotHttp2, window_update

# A push of 15 MB comes without a pause, in few frames: what Python spends, it spends by the frame.
_WINDOW = 16 * 1024 * 1024
_MAX_FRAME = 2**24 - 1
_FIRST_WINDOW = 65_535  # of a connection, whatever SETTINGS say (RFC 9113, 6.9.2)
_MAX_MESSAGE = 1024 * 1024 * 1024
_PREFIX = 5  # bytes before a message: whether it is compressed, and its length

_CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
_OF_HTTP = {
    "400": "INTERNAL",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "UNIMPLEMENTED",
    "429": "UNAVAILABLE",
    "502": "UNAVAILABLE",
    "503": "UNAVAILABLE",
    "504": "UNAVAILABLE",
}
_OF_RESET: dict[int | None, str] = {
    ErrorCodes.REFUSED_STREAM: "UNAVAILABLE",
    ErrorCodes.CANCEL: "CANCELLED",
    ErrorCodes.ENHANCE_YOUR_CALM: "RESOURCE_EXHAUSTED",
    ErrorCodes.INADEQUATE_SECURITY: "PERMISSION_DENIED",
    ErrorCodes.STREAM_CLOSED: "UNKNOWN",
}
_KEY = re.compile(r"[0-9a-z_.-]+")
_OURS = frozenset(
    {"te", "content-type", "user-agent", "host", "connection", "keep-alive", "transfer-encoding", "upgrade"}
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended.

    Attributes:
        code: the gRPC status's name.
        details: the gRPC status's message, or what went wrong.
    """

    code: str
    details: str = ""


class GrpcCall:
    """A call that begins when the server has said that it speaks HTTP/2.

    Args:
        path: ``/package.Service/Method``.
        authority: ``:authority``.
        scheme: ``http`` or ``https``.
        metadata: what goes with it; of ``-bin`` keys the bytes in UTF-8, encoded here.

    Attributes:
        ready: whether the server's SETTINGS came, so that the call has begun.
        ended: how it ended; messages may be left. None for not yet.
        goaway: the last GOAWAY: the server opens no new call, but this one goes on.
        unsent: bytes of messages that the server's flow control holds back.

    Raises:
        BootstrapError: what no metadata may hold.
    """

    def __init__(self, path: str, authority: str, scheme: str, metadata: Iterable[tuple[str, str]]) -> None:
        self._headers = [
            (":method", "POST"),
            (":scheme", scheme),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", f"grpc-python-meshlib/{__version__}"),
            ("grpc-accept-encoding", "identity,gzip"),
            *(_checked(key, value) for key, value in metadata),
        ]
        self.ready = False
        self.ended: Ended | None = None
        self.goaway: GoAway | None = None
        self._http2 = H2Connection(H2Configuration(client_side=True))
        self._frames = Frames()
        self._unsent: deque[bytes] = deque()
        self.unsent = 0
        self._received = bytearray()
        self._window = _WINDOW  # bytes that the server may still send
        self._unacknowledged = self._acknowledged = 0
        self._updates = b""
        self._encoding = "identity"
        self._http2.initiate_connection()
        self._http2.update_settings(
            {
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW,
                SettingCodes.MAX_FRAME_SIZE: _MAX_FRAME,
            }
        )
        self._http2.increment_flow_control_window(_WINDOW - _FIRST_WINDOW)

    def outgoing(self) -> bytes:
        """Return what is to be sent now."""
        if self._unsent and self.ready and self.ended is None:
            self._flush()
        data: bytes = self._http2.data_to_send() + self._updates
        self._updates = b""
        return data

    def send(self, message: bytes) -> None:
        """Send a message, as the server's flow control permits."""
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        self._unsent.append(framed)
        self.unsent += len(framed)

    def ping(self) -> None:
        """Ask for a sign of life; any byte received is one."""
        self._http2.ping(b"meshlib.")

    def cancel(self) -> None:
        """Tell the server that it is over."""
        if self.ready and self.ended is None:
            self._http2.reset_stream(STREAM, ErrorCodes.CANCEL)
        self._http2.close_connection()
        self._end("CANCELLED")

    def receive(self, data: memoryview) -> None:
        """Take bytes of the server's; raises :class:`~meshlib.xds.frames.NotHttp2` where the first are not."""
        try:
            for part in self._frames.feed(data):
                if isinstance(part, Data):
                    self._take(part)
                elif isinstance(part, GoAway):
                    self.goaway = part
                    if not self.ready or part.last_stream < STREAM:
                        self._end("UNAVAILABLE", str(part))
                else:
                    for event in self._http2.receive_data(part):
                        self._handle(event)
        except NotHttp2:
            raise
        except H2Error as error:
            self._end("INTERNAL", f"the server breaks the rules of HTTP/2: {error}")

    def lost(self, why: str) -> None:
        """Take note that the connection is gone; raises like :meth:`receive`."""
        if self._frames.unbegun:
            raise NotHttp2(self._frames.unbegun)
        self._end("UNAVAILABLE", f"{why} ({self.goaway})" if self.goaway else why)

    def next_message(self) -> bytes | None:
        """Return the next message; None while it is not whole.

        The server may send as much again as is taken here, and no more than a window before that.
        """
        received = self._received
        if len(received) >= _PREFIX:
            compressed, size = received[0], int.from_bytes(received[1:_PREFIX], "big")
            if size > _MAX_MESSAGE:
                self._refuse("RESOURCE_EXHAUSTED", f"the server announced a message of {size:,} bytes")
                return None
            end = _PREFIX + size
            if len(received) >= end:
                with memoryview(received) as view:
                    message = bytes(view[_PREFIX:end])
                del received[:end]
                self._acknowledge(end)
                return self._decoded(message, compressed)
        self._acknowledge(self._unacknowledged)
        return None

    def _flush(self) -> None:
        while self._unsent:
            data = self._unsent[0]
            room = min(self._http2.local_flow_control_window(STREAM), self._http2.max_outbound_frame_size)
            if room <= 0:
                break
            self._http2.send_data(STREAM, data[:room])
            self.unsent -= min(room, len(data))
            if len(data) > room:
                self._unsent[0] = data[room:]
            else:
                self._unsent.popleft()

    def _take(self, data: Data) -> None:
        self._window -= data.size
        if self._window < 0:
            raise FlowControlError("more data than the window has room for")
        self._unacknowledged += data.size
        self._received += data.content

    def _acknowledge(self, size: int) -> None:
        """Let the server send as much again; told in few frames, for half a window each."""
        size = min(size, self._unacknowledged)
        self._unacknowledged -= size
        self._acknowledged += size
        if self._acknowledged >= _WINDOW // 2:
            self._window += self._acknowledged
            for stream in (0, STREAM):
                self._updates += window_update(stream, self._acknowledged)
            self._acknowledged = 0

    def _decoded(self, message: bytes, compressed: int) -> bytes | None:
        if not compressed:
            return message
        if compressed == 1 and self._encoding == "gzip":
            inflater = zlib.decompressobj(wbits=31)
            try:
                message = inflater.decompress(message, _MAX_MESSAGE)
            except zlib.error as error:
                self._refuse("INTERNAL", f"a message is not gzip: {error}")
                return None
            if inflater.eof and not inflater.unused_data:
                return message
        self._refuse("INTERNAL", f"a message cannot be decompressed (grpc-encoding: {self._encoding})")
        return None

    def _handle(self, event: Event) -> None:
        if isinstance(event, RemoteSettingsChanged):
            if not self.ready:
                self._begin()
        elif isinstance(event, ResponseReceived):
            headers = _text(event.headers)
            self._encoding = headers.get("grpc-encoding", "identity")
            if "grpc-status" in headers:  # or trailers alone
                if event.stream_ended is not None:
                    self._trailers(headers)
            elif headers.get(":status") != "200":
                status = headers.get(":status", "")
                self._refuse(_OF_HTTP.get(status, "UNKNOWN"), f"the server answered with HTTP status {status}")
            elif not headers.get("content-type", "").startswith("application/grpc"):
                kind = headers.get("content-type", "nothing")
                self._refuse("UNKNOWN", f"the server answered with content-type {kind}, which is not gRPC")
        elif isinstance(event, TrailersReceived):
            self._trailers(_text(event.headers))
        elif isinstance(event, StreamReset):
            name = getattr(event.error_code, "name", event.error_code)
            code = _OF_RESET.get(event.error_code, "INTERNAL")
            self._end(code, f"the server reset the stream ({name})")
        elif isinstance(event, StreamEnded):
            self._end("INTERNAL", "the server ended the stream without a status")

    def _begin(self) -> None:
        self._http2.send_headers(STREAM, self._headers)
        self.ready = True

    def _trailers(self, headers: dict[str, str]) -> None:
        number = headers.get("grpc-status", "")
        details = unquote(headers.get("grpc-message", ""), errors="replace")
        code = _CODES[int(number)] if number.isdecimal() and int(number) < len(_CODES) else "UNKNOWN"
        self._end(code, details)

    def _refuse(self, code: str, details: str) -> None:
        if self.ended is None:
            self._http2.reset_stream(STREAM, ErrorCodes.CANCEL)
        self._received.clear()
        self.ended = Ended(code, details)

    def _end(self, code: str, details: str = "") -> None:
        if self.ended is None:
            self.ended = Ended(code, details)


def _text(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in headers}


def _checked(key: str, value: str) -> tuple[str, str]:
    key = key.lower()
    if not _KEY.fullmatch(key) or key in _OURS:
        raise BootstrapError(f"metadata: {key!r} may not be sent")
    if key.endswith("-bin"):
        return key, base64.b64encode(value.encode()).decode().rstrip("=")
    if not (value.isascii() and value.isprintable()):
        raise BootstrapError(f"metadata: the value of {key!r} holds what no header may hold")
    return key, value
