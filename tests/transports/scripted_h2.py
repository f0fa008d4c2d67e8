"""One connection of a scripted HTTP/2 server with prior knowledge: what can go wrong with a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events

if TYPE_CHECKING:
    from transports.scripted import Behaviour, Seen

Receive = Callable[[str, str, list[tuple[str, str]]], "tuple[Seen, Behaviour]"]


@dataclass(slots=True)
class _Stream:
    seen: Seen
    answering: asyncio.Task[None] | None = None
    read: asyncio.Event = field(default_factory=asyncio.Event)


class Http2Connection:
    """Serves one connection.

    Args:
        receive: takes method, target and headers of a request; returns it as seen, and what meets it.
        name: of the server.
        reset: resets the connection.
    """

    def __init__(
        self,
        receive: Receive,
        name: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        reset: Callable[[asyncio.StreamWriter], None],
    ) -> None:
        config = h2.config.H2Configuration(
            client_side=False,
            header_encoding="latin-1",
            validate_inbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._h2 = h2.connection.H2Connection(config)
        self._receive, self._name, self._reset = receive, name, reset
        self._reader, self._writer = reader, writer
        self._streams: dict[int, _Stream] = {}

    async def run(self) -> None:
        """Serve until the peer closes."""
        self._h2.initiate_connection()
        self._flush()
        try:
            while data := await self._reader.read(65536):
                for event in self._h2.receive_data(data):
                    self._take(event)
                self._flush()
        finally:
            for stream in self._streams.values():
                if stream.answering is not None:
                    stream.answering.cancel()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            pairs = [(str(key), str(value)) for key, value in event.headers]
            pseudo = {key: value for key, value in pairs if key.startswith(":")}
            headers = [("host", pseudo.get(":authority", "")), *(p for p in pairs if not p[0].startswith(":"))]
            seen, behaviour = self._receive(pseudo[":method"], pseudo[":path"], headers)
            stream = self._streams[event.stream_id] = _Stream(seen)
            stream.answering = asyncio.create_task(self._answer(event.stream_id, stream, behaviour))
        elif isinstance(event, h2.events.DataReceived):
            self._streams[event.stream_id].seen.body += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self._streams[event.stream_id].read.set()
        elif isinstance(event, h2.events.StreamReset):
            stream = self._streams[event.stream_id]
            if stream.answering is not None:
                stream.answering.cancel()

    async def _answer(self, number: int, stream: _Stream, behaviour: Behaviour) -> None:
        if not behaviour.early:
            await stream.read.wait()
        await asyncio.sleep(behaviour.delay)
        if behaviour.hang:
            return None
        if behaviour.rst is not None:
            self._h2.reset_stream(number, behaviour.rst)
            return self._flush()
        if behaviour.goaway is not None:
            self._h2.close_connection(behaviour.goaway, last_stream_id=behaviour.last_stream)
            self._flush()
            await asyncio.sleep(0.05)
            self._writer.close()
            return None
        if behaviour.abort == "before_headers":
            return self._reset(self._writer)
        head = [(":status", str(behaviour.status)), ("x-upstream", self._name), *behaviour.headers]
        self._h2.send_headers(number, head, end_stream=behaviour.trailers_only)
        self._flush()
        if behaviour.trailers_only:
            return None
        if behaviour.abort == "after_headers":
            await asyncio.sleep(0.05)
            return self._reset(self._writer)
        if behaviour.rst_after_headers is not None:
            self._h2.reset_stream(number, behaviour.rst_after_headers)
            return self._flush()
        await asyncio.sleep(behaviour.body_delay)
        body = self._name.encode() if behaviour.body is None else behaviour.body
        self._h2.send_data(number, body, end_stream=not behaviour.trailers)
        if behaviour.trailers:
            self._h2.send_headers(number, list(behaviour.trailers), end_stream=True)
        return self._flush()

    def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
