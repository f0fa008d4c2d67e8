"""One request at a time over one HTTP/2 connection with prior knowledge: what HTTP/2 and gRPC checks stand on."""

from __future__ import annotations

from collections.abc import Iterable

import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from meshlib.upstream.probing.connecting import Connection, Dialled

Headers = list[tuple[str, str]]


class Received:
    """A response.

    Attributes:
        headers: of the head, ``:status`` too.
        trailers: after the body.
        body: whole.
    """

    __slots__ = ("body", "headers", "trailers")

    def __init__(self) -> None:
        self.headers: Headers = []
        self.trailers: Headers = []
        self.body = b""

    def header(self, name: str) -> str | None:
        """Return the first value of a header."""
        return next((value for key, value in self.headers if key == name), None)


def _text(headers: Iterable[tuple[bytes, bytes] | tuple[str, str]]) -> Headers:
    return [(_decoded(name), _decoded(value)) for name, value in headers]


def _decoded(part: bytes | str) -> str:
    return part if isinstance(part, str) else part.decode("latin-1")


class Http2:
    """A connection, made when it is needed and kept while both sides want it."""

    def __init__(self, dialled: Dialled, *, keep: bool) -> None:
        self._dialled = dialled
        self._keep = keep
        self._connection: Connection | None = None
        self._h2 = h2.connection.H2Connection()
        self._closing = False

    async def ask(self, headers: Headers, body: bytes) -> Received:
        """Send a request and return its response; raises ``OSError``."""
        connection = self._connection
        if connection is None or connection.ended or self._closing:
            self.close()
            connection = self._connection = await self._dialled.connect()
            self._h2 = h2.connection.H2Connection()
            self._h2.initiate_connection()
        try:
            stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream, headers, end_stream=not body)
            if body:
                self._h2.send_data(stream, body, end_stream=True)
            await connection.send(self._h2.data_to_send())
            received = await self._receive(connection, stream)
        except h2.exceptions.ProtocolError as error:
            raise OSError(f"invalid HTTP/2: {error}") from None
        if not self._keep or self._closing:
            self.close()
        return received

    async def _receive(self, connection: Connection, stream: int) -> Received:
        received = Received()
        while True:
            data = await connection.receive()
            if not data:
                raise OSError("the connection ended before the response")
            events = self._h2.receive_data(data)
            done = [self._take(event, stream, received) for event in events]
            await connection.send(self._h2.data_to_send())
            if any(done):
                return received

    def _take(self, event: h2.events.Event, stream: int, received: Received) -> bool:
        """Take one event; returns whether the response is over."""
        if isinstance(event, h2.events.ConnectionTerminated):
            self._closing = True
            if event.last_stream_id is not None and event.last_stream_id < stream:
                raise OSError("the server closes the connection (GOAWAY)")
        elif getattr(event, "stream_id", None) != stream:
            return False
        elif isinstance(event, h2.events.ResponseReceived):
            received.headers = _text(event.headers)
        elif isinstance(event, h2.events.TrailersReceived):
            received.trailers = _text(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            received.body += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, stream)
        elif isinstance(event, h2.events.StreamReset):
            raise OSError(f"the stream was reset ({event.error_code!r})")
        return isinstance(event, h2.events.StreamEnded)

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        self._closing = False
        if connection is not None:
            connection.close()
