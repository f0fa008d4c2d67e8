"""Scripted HTTP/1.1 servers on raw sockets: every way in which an upstream can behave and misbehave.

They run on an event loop in a thread of their own, so that blocking and async clients meet the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from meshlib.model.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a server does with one request; times in seconds.

    Attributes:
        body: what it answers with; None is the server's name.
        delay: before the response head.
        body_delay: between head and body.
        trickle: between single bytes of the response head.
        drip: between single bytes of the body.
        hang: never answers.
        abort: ``before_headers`` (RST), ``close`` (FIN), ``after_headers``, ``mid_body``.
        garbage: raw bytes in place of a response.
        early: answers without reading the request's body.
        reset_on_body: resets instead of reading the request's body.
        interim: 1xx statuses sent ahead.
        gate: an event to wait for before the response head.
    """

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    delay: float = 0.0
    body_delay: float = 0.0
    trickle: float = 0.0
    drip: float = 0.0
    hang: bool = False
    abort: str = ""
    garbage: bytes = b""
    early: bool = False
    reset_on_body: bool = False
    interim: Sequence[int] = ()
    chunked: bool = False
    trailers: Sequence[tuple[str, str]] = ()
    conn_close: bool = False
    gate: threading.Event | None = None


OK = Behaviour()


@dataclass(slots=True)
class Seen:
    """One request as a server received it."""

    server: str
    method: str
    target: str
    headers: list[tuple[str, str]]
    connection: int
    at: float = field(default_factory=time.monotonic)
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


Script = Callable[["Server", Seen], Behaviour]


def in_turn(behaviours: Sequence[Behaviour]) -> Script:
    """The first request meets the first behaviour, and so on; the last one repeats."""
    served = iter(range(1 << 30))

    def script(_server: Server, _seen: Seen) -> Behaviour:
        return behaviours[min(next(served), len(behaviours) - 1)] if behaviours else OK

    return script


class Server:
    """One scripted server.

    Attributes:
        seen: every request received.
        connections: connections accepted so far.
        open: connections open now.
        mode: ``normal``, ``refuse`` (port closed), ``accept_close`` (RST on accept) or
            ``blackhole`` (SYN unanswered).
    """

    def __init__(self, name: str, script: Script, mode: str, address: str = "127.0.0.1", port: int = 0) -> None:
        self.name = name
        self.script = script
        self.mode = mode
        self.seen: list[Seen] = []
        self.connections = 0
        self.open = 0
        self._fill: list[socket.socket] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._changed = threading.Condition()
        self._bind((address, port))
        self.address, self.port = self._socket.getsockname()[:2]

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.address, self.port)

    def wait(self, ready: Callable[[Server], bool], timeout: float = 10.0) -> None:
        """Wait until the server has come to ``ready``."""
        with self._changed:
            assert self._changed.wait_for(lambda: ready(self), timeout), (self.name, self.seen, self.open)

    def _bind(self, address: tuple[str, int]) -> None:
        # With its protocol named, asyncio turns Nagle's algorithm off.
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(address)

    async def start(self) -> None:
        if self.mode in ("normal", "accept_close"):
            self._socket.setblocking(False)
            self._server = await asyncio.start_server(self._serve, sock=self._socket, limit=1 << 22)
        elif self.mode == "blackhole":
            self._socket.listen(0)
            for _ in range(3):  # fills the backlog: further SYNs are dropped
                filler = socket.socket()
                filler.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    filler.connect((self.address, self.port))
                self._fill.append(filler)
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        await asyncio.sleep(0.01)  # asyncio leaks a connection that it accepts while its server closes
        for writer in list(self._writers):
            _reset(writer)
        if self._server is not None:
            self._server.close()
            self._server = None
        else:
            self._socket.close()
        for filler in self._fill:
            filler.close()
        self._fill.clear()
        await asyncio.sleep(0.02)

    async def turn(self, mode: str) -> None:
        await self.stop()
        self.mode = mode
        self._bind((self.address, self.port))
        await self.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "accept_close":
            _reset(writer)
            return
        with self._changed:
            self.connections += 1
            self.open += 1
        number = self.connections
        self._writers.add(writer)
        try:
            while await self._one(reader, writer, number):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with self._changed:
                self.open -= 1
                self._changed.notify_all()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        line, headers = await _read_head(reader)
        method, target, _ = line.split(" ", 2)
        seen = Seen(self.name, method, target, headers, number)
        behaviour = self.script(self, seen)
        with self._changed:
            self.seen.append(seen)
            self._changed.notify_all()
        if behaviour.reset_on_body:
            _reset(writer)
            return False
        if not behaviour.early:
            seen.body, seen.trailers = await _read_body(reader, seen)
        if behaviour.gate is not None:
            await asyncio.to_thread(behaviour.gate.wait, 30)
        await asyncio.sleep(behaviour.delay)
        if behaviour.hang:
            await reader.read(1)
            return False
        if behaviour.abort == "before_headers":
            _reset(writer)
            return False
        if behaviour.abort == "close":
            return False
        if behaviour.garbage:
            writer.write(behaviour.garbage)
            await writer.drain()
            await asyncio.sleep(0.05)
            return False
        goes_on = await self._answer(behaviour, seen, writer)
        if behaviour.early and not goes_on:
            await reader.read()  # to its end: closing over unread bytes would reset, and the answer be lost
        return goes_on

    async def _answer(self, behaviour: Behaviour, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        for status in behaviour.interim:
            writer.write(f"HTTP/1.1 {status} Interim\r\nx-interim: {status}\r\n\r\n".encode())
            await writer.drain()
            await asyncio.sleep(0.01)
        body = self.name.encode() if behaviour.body is None else behaviour.body
        chunked = behaviour.chunked or bool(behaviour.trailers)
        headers = [("x-upstream", self.name), *behaviour.headers]
        if behaviour.conn_close:
            headers.append(("connection", "close"))
        if chunked:
            headers.append(("transfer-encoding", "chunked"))
        elif behaviour.status != 204:
            headers.append(("content-length", str(len(body))))
        head = f"HTTP/1.1 {behaviour.status} S\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers) + "\r\n"
        await _write(writer, head.encode("latin-1"), behaviour.trickle)
        if behaviour.abort == "after_headers":
            await asyncio.sleep(0.05)
            _reset(writer)
            return False
        await asyncio.sleep(behaviour.body_delay)
        if seen.method != "HEAD" and behaviour.status not in (204, 304):
            if behaviour.abort == "mid_body":
                await _write(writer, b"%x\r\n" % len(body) + body + b"\r\n" if chunked else body[: len(body) // 2])
                await asyncio.sleep(0.05)
                _reset(writer)
                return False
            if chunked:
                trailers = "".join(f"{k}: {v}\r\n" for k, v in behaviour.trailers).encode("latin-1")
                body = (b"%x\r\n" % len(body) + body + b"\r\n" if body else b"") + b"0\r\n" + trailers + b"\r\n"
            await _write(writer, body, behaviour.drip)
        return not behaviour.conn_close


class Upstreams:
    """A thread whose event loop serves; use it as a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted upstreams", daemon=True)
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self._servers:
            self._run(server.stop())
        self._run(_settle())
        self._run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def serve(
        self,
        *behaviours: Behaviour,
        name: str = "up",
        script: Script | None = None,
        mode: str = "normal",
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> Server:
        """Start a server that meets requests with ``behaviours`` in turn, or as ``script`` says."""
        server = Server(name, script or in_turn(behaviours), mode, address, port)
        self._servers.append(server)
        self._run(server.start())
        return server

    def turn(self, server: Server, mode: str) -> None:
        """Switch a server's mode; its connections are reset."""
        self._run(server.turn(mode))

    def reset_connections(self, server: Server) -> None:
        """Reset a server's open connections; it goes on listening."""

        async def reset() -> None:
            for writer in list(server._writers):
                _reset(writer)

        self._run(reset())
        server.wait(lambda s: s.open == 0)

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)


async def _settle() -> None:
    """Let handlers see that their connections are gone; cancel those that sleep."""
    await asyncio.sleep(0.01)  # a handler cancelled before its first step would never close its connection
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.01)  # closed transports lose their connections in the next rounds of the loop


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _write(writer: asyncio.StreamWriter, data: bytes, pause: float = 0.0) -> None:
    for part in _parts(data) if pause else [data]:
        writer.write(part)
        await writer.drain()
        if pause:
            await asyncio.sleep(pause)


def _parts(data: bytes) -> Iterator[bytes]:
    for n in range(len(data)):
        yield data[n : n + 1]


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, list[tuple[str, str]]]:
    lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:])
    return lines[0], [(key.strip().lower(), value.strip()) for key, _, value in pairs]


async def _read_body(reader: asyncio.StreamReader, seen: Seen) -> tuple[bytes, list[tuple[str, str]]]:
    if "chunked" not in (seen.header("transfer-encoding") or "").lower():
        return await reader.readexactly(int(seen.header("content-length") or 0)), []
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    trailers = []
    while line := (await reader.readuntil(b"\r\n")).strip():
        key, _, value = line.decode("latin-1").partition(":")
        trailers.append((key.strip().lower(), value.strip()))
    return body, trailers
