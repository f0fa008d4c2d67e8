"""HTTP/1.1 framing without I/O: request heads to bytes, bytes to one response (RFC 9112).

llhttp (through httptools) reads head lines and chunks; where a body begins and ends is decided
here, for llhttp through httptools reads the next response as the body of a HEAD and has no
end-of-file call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache

import httptools

# Envoy's limits for responses: 80 KiB (it takes 70,000 bytes, measured), max_headers_count 100.
MAX_HEAD_BYTES = 80 * 1024
MAX_HEADERS = 100

Headers = list[tuple[bytes, bytes]]

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# A CR, LF or NUL in a value would let one request speak for two (RFC 9112 §11.1).
_FORBIDDEN_VALUE = re.compile(rb"[\r\n\0]")
_FORBIDDEN_REASON = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_FORBIDDEN_TARGET = re.compile(rb"[\x00-\x20\x7f]")


class FramingError(Exception):
    """The peer broke the protocol; the connection is of no further use."""


class Truncated(FramingError):
    """The connection ended before the response did."""


class BadRequest(ValueError):
    """The request cannot be written: the caller's fault; nothing was sent."""


class Phase(Enum):
    """Where in a response the reader is."""

    HEAD = "head"
    LENGTH = "content-length body"
    CHUNKED = "chunked body"
    UNTIL_CLOSE = "body until the connection closes"
    DONE = "done"
    UPGRADED = "upgraded"


def encode_head(method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a request head as bytes; raises ``BadRequest`` for what must not be sent."""
    lines = [b"%b %b HTTP/1.1" % (method, target), *[b"%b: %b" % pair for pair in headers], b"\r\n"]
    head = b"\r\n".join(lines)
    breaks = len(lines)
    # One count over the whole instead of a look at every value; who is to blame is asked only when it fails.
    sound = head.count(b"\n") == head.count(b"\r") == breaks and b"\0" not in head
    if not sound or not all(_is_token(name) for name, _ in headers) or not _is_token(method):
        raise BadRequest(_blame(method, headers))
    if not target or _FORBIDDEN_TARGET.search(target):
        raise BadRequest(f"request target {target!r} is empty or has a space or control character")
    return head


@lru_cache(maxsize=1024)
def _is_token(text: bytes) -> bool:
    return _TOKEN.fullmatch(text) is not None


def _blame(method: bytes, headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Say what of a head must not be sent."""
    for name, value in headers:
        if not _is_token(name):
            return f"header name {name!r} is not a token"
        if _FORBIDDEN_VALUE.search(value):
            return f"the value of header {name!r} has a line break or NUL"
    return f"method {method!r} is not a token, or the request target has a line break"


def encode_chunk(part: bytes) -> bytes:
    """Return one chunk of a chunked body; the empty one is left out, for it would end the body."""
    return b"%x\r\n%b\r\n" % (len(part), part) if part else b""


LAST_CHUNK = b"0\r\n\r\n"


class ResponseReader:
    """Reads one final response, interim ones before it included. Used by one connection at a time.

    Args:
        method: the request's method; a HEAD has no body, a CONNECT becomes a tunnel.

    Attributes:
        phase: where the reader is.
        status, reason, version: of the final response's status line.
        headers: of the final response, names as received.
        trailers: after a chunked body.
        interim: statuses of 1xx responses seen before.
        surplus: bytes after the end of the response: the tunnel's first, else garbage.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_connection",
        "_head_parser",
        "_left",
        "_method",
        "_names",
        "headers",
        "interim",
        "phase",
        "reason",
        "status",
        "surplus",
        "trailers",
        "version",
    )

    def __init__(self, method: bytes) -> None:
        self._method = method
        self._buffer = b""
        self._body: list[bytes] = []
        self._left = 0
        self._connection: list[bytes] = []
        self._names: dict[bytes, list[bytes]] = {}
        self._head_parser: httptools.HttpResponseParser | None = None
        self.phase = Phase.HEAD
        self.status = 0
        self.reason = b""
        self.version = b"HTTP/1.1"
        self.headers: Headers = []
        self.trailers: Headers = []
        self.interim: list[int] = []
        self.surplus = b""

    @property
    def head_complete(self) -> bool:
        """Whether the final response's head has been read."""
        return self.phase is not Phase.HEAD

    @property
    def complete(self) -> bool:
        """Whether the response is over."""
        return self.phase is Phase.DONE

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may carry another request now."""
        if self.phase is not Phase.DONE or self.surplus or b"close" in self._connection:
            return False
        return self.version == b"HTTP/1.1" or b"keep-alive" in self._connection

    def take(self) -> bytes:
        """Return the body bytes read since the last call."""
        body = self._body
        if not body:
            return b""
        self._body = []
        return body[0] if len(body) == 1 else b"".join(body)

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection; raises ``FramingError`` for what no server may send."""
        while data:
            if self.phase is Phase.HEAD:
                data = self._feed_head(data)
            elif self.phase is Phase.LENGTH:
                data = self._feed_length(data)
            elif self.phase is Phase.CHUNKED:
                self._feed_chunked(data)
                return
            elif self.phase is Phase.UNTIL_CLOSE:
                self._body.append(data)
                return
            else:
                self.surplus += data
                return

    def feed_eof(self) -> None:
        """Take the end of the connection; raises ``Truncated`` where the response was not over."""
        if self.phase is Phase.UNTIL_CLOSE:
            self.phase = Phase.DONE
            self._connection.append(b"close")
        elif self.phase is Phase.HEAD:
            raise Truncated("the server closed the connection without sending a response")
        elif self.phase not in (Phase.DONE, Phase.UPGRADED):
            raise Truncated("the server closed the connection in the middle of a body")

    def _feed_head(self, data: bytes) -> bytes:
        buffer = self._buffer + data if self._buffer else data
        # The end may lie across two reads: look again from three bytes back.
        found = _HEAD_END.search(buffer, max(0, len(self._buffer) - 3))
        if found is None:
            self._check_start(buffer)
            self._buffer = buffer
            return b""
        if found.end() > MAX_HEAD_BYTES:
            raise FramingError(f"response head over {MAX_HEAD_BYTES} bytes")
        self._buffer = b""
        self._parse_head(buffer[: found.end()])
        return buffer[found.end() :]

    def _check_start(self, buffer: bytes) -> None:
        """Refuse what cannot become a head without waiting for its end."""
        if len(buffer) > MAX_HEAD_BYTES:
            raise FramingError(f"response head over {MAX_HEAD_BYTES} bytes")
        if not b"HTTP/1.".startswith(buffer[:7]):
            raise FramingError(f"not an HTTP/1 response: {buffer[:32]!r}")

    def _parse_head(self, head: bytes) -> None:
        self.headers = []
        self._names = {}
        parser = self._head_parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # 101: framing below decides
        except httptools.HttpParserError as error:
            raise FramingError(f"malformed response head: {error}") from None
        if _FORBIDDEN_REASON.search(self.reason):  # llhttp lets them pass
            raise FramingError(f"control character in the reason phrase {self.reason!r}")
        if len(self.headers) > MAX_HEADERS:
            raise FramingError(f"more than {MAX_HEADERS} response headers")
        status = parser.get_status_code()
        if status < 100:
            raise FramingError(f"status {status}")
        if 100 <= status < 200 and status != 101:
            self.interim.append(status)
            return
        self.status = status
        self.version = b"HTTP/" + parser.get_http_version().encode()
        self._connection = [
            token.strip().lower() for v in self._names.get(b"connection", ()) for token in v.split(b",")
        ]
        self._frame(status)
        if self.phase is not Phase.CHUNKED:
            self._head_parser = None

    def _frame(self, status: int) -> None:
        """Decide where the body ends, in the order of RFC 9112 §6.3."""
        if status == 101 or (self._method == b"CONNECT" and 200 <= status < 300):
            self.phase = Phase.UPGRADED
            return
        if self._method == b"HEAD" or status in (204, 304):
            self.phase = Phase.DONE
            return
        coding = b",".join(self._names.get(b"transfer-encoding", ())).lower()
        if coding:
            if self.version == b"HTTP/1.0":
                raise FramingError("transfer-encoding in an HTTP/1.0 response")
            if coding != b"chunked":  # nobody here could undo another coding; Envoy and h11 refuse it too
                raise FramingError(f"transfer-encoding {coding!r} is not understood")
            self.phase = Phase.CHUNKED
            return
        lengths = self._names.get(b"content-length", ())
        if lengths:
            self._left = int(lengths[0])
            self.phase = Phase.LENGTH if self._left else Phase.DONE
        else:
            self.phase = Phase.UNTIL_CLOSE

    def _feed_length(self, data: bytes) -> bytes:
        left = self._left
        if len(data) < left:
            self._body.append(data)
            self._left = left - len(data)
            return b""
        self._body.append(data if len(data) == left else data[:left])
        self._left = 0
        self.phase = Phase.DONE
        return data[left:]

    def _feed_chunked(self, data: bytes) -> None:
        parser = self._head_parser
        assert parser is not None
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self.phase is not Phase.DONE:
                raise FramingError(f"malformed chunked body: {error}") from None
            self.surplus = b"?"  # what followed the last chunk is no response at all
        if self.phase is Phase.DONE:
            self._head_parser = None

    # ---- llhttp's callbacks, by the names httptools looks for

    def on_message_begin(self) -> None:
        """Bytes after the last chunk: garbage on a connection that has not asked again."""
        if self.phase is Phase.DONE:
            self.surplus = b"?"

    def on_status(self, reason: bytes) -> None:
        """Take the reason phrase."""
        if self.phase is Phase.HEAD:
            self.reason = reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header of the head, or a trailer."""
        if self.phase is Phase.HEAD:
            self.headers.append((name, value))
            self._names.setdefault(name.lower(), []).append(value)
        elif self.phase is Phase.CHUNKED:
            self.trailers.append((name, value))

    def on_body(self, part: bytes) -> None:
        """Take the content of a chunk."""
        if self.phase is Phase.CHUNKED:
            self._body.append(part)

    def on_message_complete(self) -> None:
        """The last chunk and its trailers have been read."""
        if self.phase is Phase.CHUNKED:
            self.phase = Phase.DONE
