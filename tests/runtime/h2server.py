"""A small HTTP/2 server: what it answers to each request, a test says."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events


@dataclass
class Reply:
    headers: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    reset: bool = False
    goaway: bool = False


Asked = tuple[dict[str, str], bytes]


class H2Server:
    """Attributes: ``asked`` (headers and body of each request), ``connections``, ``port``."""

    def __init__(self, reply: Callable[[Asked], Reply]) -> None:
        self.reply = reply
        self.asked: list[Asked] = []
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        conn.initiate_connection()
        writer.write(conn.data_to_send())
        requests: dict[int, Asked] = {}
        try:
            while data := await reader.read(65536):
                for event in conn.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        requests[event.stream_id] = (dict(event.headers), b"")
                    elif isinstance(event, h2.events.DataReceived):
                        headers, body = requests[event.stream_id]
                        requests[event.stream_id] = (headers, body + event.data)
                    elif isinstance(event, h2.events.StreamEnded):
                        self.answer(conn, event.stream_id, requests.pop(event.stream_id))
                writer.write(conn.data_to_send())
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def answer(self, conn: h2.connection.H2Connection, stream: int, asked: Asked) -> None:
        self.asked.append(asked)
        reply = self.reply(asked)
        if reply.reset:
            conn.reset_stream(stream, 8)
            return
        conn.send_headers(stream, reply.headers, end_stream=not reply.body and not reply.trailers)
        if reply.body:
            conn.send_data(stream, reply.body, end_stream=not reply.trailers)
        if reply.trailers:
            conn.send_headers(stream, reply.trailers, end_stream=True)
        if reply.goaway:
            conn.close_connection(0, last_stream_id=stream)


@contextlib.contextmanager
def h2_server(reply: Callable[[Asked], Reply]) -> Iterator[H2Server]:
    server = H2Server(reply)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(server.serve, "127.0.0.1", 0), loop).result(10)
    server.port = listening.sockets[0].getsockname()[1]

    async def stop() -> None:
        listening.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)

    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
