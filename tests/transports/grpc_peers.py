"""Real gRPC servers, and one way to call them through a mesh channel, blocking or asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from meshlib.policy.record import CallRecord
from meshlib.runtime.runtime import Runtime
from meshlib.transports.grpc_aio import AioMeshChannel
from meshlib.transports.grpc_channel import MeshChannel
from meshlib.transports.grpc_pool import ChannelPool

TARGET = "catalog:50051"
METHOD = "/shop.Catalog/Get"


@dataclass
class Seen:
    """One request as a server saw it."""

    method: str
    authority: str
    metadata: dict[str, Any]
    time_remaining: float | None


Behaviour = Callable[[Any, grpc.ServicerContext], Any]


@dataclass
class Peer:
    """A gRPC server on 127.0.0.1 that answers every method of every kind with ``behaviour``."""

    name: str
    behaviour: Behaviour | None = None
    seen: list[Seen] = field(default_factory=list)
    credentials: grpc.ServerCredentials | None = None

    def start(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((_Handler(self),))
        if self.credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", self.credentials)
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def answer(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self.name.encode() if self.behaviour is None else self.behaviour(request, context)

    def note(self, method: str, context: grpc.ServicerContext) -> None:
        # The servicer API shows metadata but not :authority; the call's details do.
        authority = context._rpc_event.call_details.host.decode()
        metadata = dict(context.invocation_metadata())
        self.seen.append(Seen(method, authority, metadata, context.time_remaining()))


class _Handler(grpc.GenericRpcHandler):
    """Method names say the kind: ``…/Get`` unary, ``…/List`` response stream, ``…/Put`` request stream, ``…/Chat``."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        def serve(request: Any, context: grpc.ServicerContext) -> Any:
            self._peer.note(details.method, context)
            return self._peer.answer(request, context)

        makers = {
            "List": grpc.unary_stream_rpc_method_handler,
            "Put": grpc.stream_unary_rpc_method_handler,
            "Chat": grpc.stream_stream_rpc_method_handler,
        }
        return makers.get(details.method.rpartition("/")[2], grpc.unary_unary_rpc_method_handler)(serve)


@contextlib.contextmanager
def serving(*peers: Peer) -> Iterator[None]:
    """Run servers."""
    with contextlib.ExitStack() as stack:
        for peer in peers:
            peer.start()
            stack.callback(peer.stop)
        yield


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """Hold a port where nobody listens, so that connections are refused."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def aborting(code: grpc.StatusCode, times: int, answer: bytes = b"ok", **metadata):
    """Return a behaviour that fails ``times`` times, then answers."""
    count = iter(range(1_000_000))

    def behave(_request, context):
        if next(count) >= times:
            return answer
        if "first" in metadata:
            context.send_initial_metadata(metadata["first"])
        if "last" in metadata:
            context.set_trailing_metadata(metadata["last"])
        return context.abort(code, "the server says no")

    return behave


def hang_up(connection: socket.socket) -> None:
    """End a connection for whoever reads from it, on any thread."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def raw_server(script: Callable[[socket.socket], None]) -> Iterator[int]:
    """Run ``script`` on the first connection to a bare TCP server."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:

        def accept() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                stack.callback(hang_up, connection)
                with connection:
                    script(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        stack.callback(thread.join, 5)
        stack.callback(hang_up, listener)
        yield listener.getsockname()[1]


def http2_request(connection: socket.socket) -> None:
    """Begin HTTP/2 and wait for a request's headers."""
    connection.sendall(b"\0\0\0\4\0\0\0\0\0")  # an empty SETTINGS frame
    received = b""
    while b"application/grpc" not in received:
        received += connection.recv(4096) or b"application/grpc"


@contextlib.contextmanager
def forwarder(to: int) -> Iterator[tuple[int, Callable[[], None]]]:
    """Hold a port that refuses connections until the function is called, then passes one on to ``to``."""
    with socket.socket() as held, contextlib.ExitStack() as stack:
        held.bind(("127.0.0.1", 0))

        def pump(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        def forward() -> None:
            with contextlib.suppress(OSError):
                client, _ = held.accept()
                server = socket.create_connection(("127.0.0.1", to))
                stack.callback(hang_up, client)
                with client, server:
                    back = threading.Thread(target=pump, args=(server, client))
                    back.start()
                    pump(client, server)
                    back.join()

        def listen() -> None:
            held.listen()
            thread = threading.Thread(target=forward)
            thread.start()
            stack.callback(thread.join, 5)
            stack.callback(hang_up, held)

        yield held.getsockname()[1], listen


@dataclass
class Answer:
    """What a call came to, the same for blocking and asyncio."""

    message: Any = None
    error: Any = None
    record: CallRecord | None = None

    @property
    def code(self) -> str:
        return "OK" if self.error is None else self.error.code().name

    @property
    def attempts(self) -> list[tuple[int, Any]]:
        return [(each.endpoint.port, each.error or each.grpc_status) for each in self.record.attempts]


class BlockingCaller:
    """Calls over :class:`MeshChannel`."""

    name = "sync"

    def __init__(self, runtime: Runtime, target: str, **options: Any) -> None:
        self.channel = MeshChannel(runtime, target, **options)

    def call(self, request: Any = b"?", *, method: str = METHOD, kind: str = "unary_unary", **options: Any) -> Answer:
        callable_ = getattr(self.channel, kind)(method)
        try:
            if kind.endswith("unary"):
                message, call = callable_.with_call(request, **options)
            else:
                call = callable_(request, **options)
                message = list(call)
        except grpc.RpcError as error:
            return Answer(error=error, record=getattr(error, "record", None))
        return Answer(message, None, call.record)

    def pool(self) -> ChannelPool:
        return self.channel._pool

    def close(self) -> None:
        self.channel.close()


class AsyncioCaller:
    """Calls over :class:`AioMeshChannel`, on one event loop."""

    name = "aio"

    def __init__(self, runtime: Runtime, target: str, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.channel = AioMeshChannel(runtime, target, **options)

    def call(self, request: Any = b"?", *, method: str = METHOD, kind: str = "unary_unary", **options: Any) -> Answer:
        return self.runner.run(self.acall(request, method=method, kind=kind, **options))

    async def acall(self, request: Any, *, method: str, kind: str, **options: Any) -> Answer:
        call = getattr(self.channel, kind)(method)(request, **options)
        try:
            message = await call if kind.endswith("unary") else [each async for each in call]
        except grpc.RpcError as error:
            return Answer(error=error, record=getattr(error, "record", None))
        return Answer(message, None, call.record)

    def pool(self) -> ChannelPool:
        return self.channel._loops[self.runner.get_loop()].pool

    def close(self) -> None:
        self.runner.run(self.channel.close())
        self.runner.close()


Caller = BlockingCaller | AsyncioCaller


def connecting():
    """Return a fixture that opens callers, blocking and then asyncio, and closes them at the end."""

    @pytest.fixture(params=[BlockingCaller, AsyncioCaller], ids=["sync", "aio"])
    def connect(request):
        opened: list[Caller] = []

        def open_(runtime: Runtime, target: str = TARGET, **options: Any) -> Caller:
            opened.append(request.param(runtime, target, **options))
            return opened[-1]

        yield open_
        for caller in opened:
            caller.close()

    return connect
