"""The control plane on a port: ADS for Envoys, gRPC clients and other meshlib processes.

One event loop in one thread owns every stream, so that sessions need no locks and a client costs
two tasks, not the two threads that a synchronous gRPC server would take.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, Self

import grpc
import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.status.v3 import csds_pb2

from meshlib.controlplane import status
from meshlib.controlplane.ads import AdsSession
from meshlib.controlplane.node import Node
from meshlib.controlplane.resources import Resources
from meshlib.errors import ConfigError

logger = logging.getLogger("meshlib.controlplane")

ADS_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"

_OPTIONS = (
    # With SO_REUSEPORT a second server on the port would take half of the clients in silence.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    # Notice clients that vanished without a word, and bear with clients that ping often.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)


class ResourceSource(Protocol):
    """Where the resources come from; :class:`~meshlib.controlplane.directory.Directory` is one."""

    @property
    def version(self) -> str:
        """The version of what :meth:`resources` returns; another one after every change."""
        ...

    def resources(self, node: Node) -> Resources:
        """Return what ``node`` is to have now. Called in the server's thread."""
        ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called after every change, in any thread; return how to end that."""
        ...


class Server:
    """An ADS server (state of the world), which also tells of its clients over CSDS.

    Thread-safe. A forked child has no server: fork first, then start.

    Args:
        source: the resources.
        host: address to listen on. There is neither TLS nor a check of who asks: another than
            loopback opens the mesh's configuration to the network.
        port: 0 takes a free one.
    """

    def __init__(self, source: ResourceSource, *, host: str = "127.0.0.1", port: int = 15010) -> None:
        self._service = _Service(source)
        self._host = host
        self._port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port; after :meth:`start` the one listened on."""
        return self._port

    @property
    def address(self) -> str:
        """``host:port``, as clients want it."""
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    @property
    def clients(self) -> tuple[status.ClientStatus, ...]:
        """The clients connected now, in the order of their names."""
        # list() of a dict's values is one step for the interpreter, so the loop may go on.
        return tuple(sorted((client.status for client in list(self._service.clients)), key=lambda item: item.name))

    def start(self) -> None:
        """Listen, and return when clients can connect.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        if self._thread is not None:
            raise RuntimeError("a Server is started once")
        listening: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._run(listening),), name="meshlib-control-plane", daemon=True
        )
        self._thread.start()
        listening.result()

    def close(self) -> None:
        """End every stream and free the port; idempotent."""
        if self._thread is None or self._loop is None:
            return
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._service.stopping.set)
        self._thread.join()

    async def _run(self, listening: concurrent.futures.Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers(self._service.handlers())
        try:
            self._port = server.add_insecure_port(self.address)
            await server.start()
        except RuntimeError:
            listening.set_exception(ConfigError(_cannot_listen(self._host, self._port)))
            return
        unsubscribe = self._service.follow(self._loop)
        listening.set_result(None)
        await self._service.stopping.wait()
        unsubscribe()
        await server.stop(None)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cannot_listen(host: str, port: int) -> str:
    """Return why, which gRPC keeps to itself: the system is asked again."""
    reason = "unknown reason"
    try:
        for family, kind, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as probe:
                probe.bind(place)
    except OSError as error:
        reason = error.strerror or str(error)
    return f"cannot listen on {host} port {port}: {reason}; end what has the port, or take another (0: a free one)"


class _Service:
    """What the loop's thread owns: the streams, and the answers to what they ask."""

    def __init__(self, source: ResourceSource) -> None:
        self.stopping = asyncio.Event()
        self._source = source
        self._streams: dict[_Stream, status.Client] = {}

    @property
    def clients(self) -> Iterable[status.Client]:
        return self._streams.values()

    def follow(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Push what changes from now on; return how to end that."""

        def mark() -> None:
            for stream in self._streams:
                stream.outdated.set()

        def on_change() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(mark)

        return self._source.subscribe(on_change)

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """The gRPC methods: ADS, its delta form (refused in words), and CSDS."""
        ads = {
            "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(
                self._stream,
                request_deserializer=discovery_pb2.DiscoveryRequest.FromString,
                response_serializer=discovery_pb2.DiscoveryResponse.SerializeToString,
            ),
            "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(_refuse_delta),
        }
        csds_types = {
            "request_deserializer": csds_pb2.ClientStatusRequest.FromString,
            "response_serializer": csds_pb2.ClientStatusResponse.SerializeToString,
        }
        csds = {
            "FetchClientStatus": grpc.unary_unary_rpc_method_handler(self._client_status, **csds_types),
            "StreamClientStatus": grpc.stream_stream_rpc_method_handler(self._client_statuses, **csds_types),
        }
        return (
            grpc.method_handlers_generic_handler(ADS_SERVICE, ads),
            grpc.method_handlers_generic_handler(status.SERVICE, csds),
        )

    async def _stream(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> None:
        first = await anext(requests, None)
        if first is None:
            return
        if not first.HasField("node") or not first.node.id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "missing node information")
        try:
            node = Node.from_proto(first.node)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        stream = _Stream(self._source, AdsSession(node), context)
        self._streams[stream] = status.Client(first.node, stream.session, time.time())
        logger.info("%s (%s) connected from %s", stream.session.name, node.kind.value, context.peer())
        try:
            await stream.serve(first, requests)
        finally:
            del self._streams[stream]
            logger.info("%s (%s) disconnected", stream.session.name, node.kind.value)

    async def _client_status(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        if request.node_matchers:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "node_matchers are not supported: ask without")
        return status.client_status_response(self.clients)

    async def _client_statuses(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[Any]:
        async for request in requests:
            yield await self._client_status(request, context)


async def _refuse_delta(_: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> None:
    await context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        "delta xDS is not served; use the state of the world (in an Envoy bootstrap api_type: GRPC, not DELTA_GRPC)",
    )


class _Stream:
    """One client: a task that answers its requests, and one that pushes changes.

    Nothing is queued: while the client does not read, writing waits and with it both tasks, and
    all changes of that time are one push.
    """

    def __init__(self, source: ResourceSource, session: AdsSession, context: grpc.aio.ServicerContext) -> None:
        self.session = session
        self.outdated = asyncio.Event()
        self._source = source
        self._context = context
        self._writing = asyncio.Lock()  # makes what a session returned and its sending one step

    async def serve(self, first: Any, requests: AsyncIterator[Any]) -> None:
        """Serve until the client ends the stream."""
        async with asyncio.TaskGroup() as tasks:
            pushing = tasks.create_task(self._push())
            await self._answer(first)
            async for request in requests:
                await self._answer(request)
            pushing.cancel()

    async def _answer(self, request: Any) -> None:
        async with self._writing:
            version, resources = self._current()
            await self._send(self.session.on_request(request, resources, version))

    async def _push(self) -> None:
        while True:
            await self.outdated.wait()
            async with self._writing:
                self.outdated.clear()
                try:
                    version, resources = self._current()
                except Exception:
                    logger.exception("%s keeps what it has: its resources could not be made", self.session.name)
                    continue
                await self._send(self.session.on_update(resources, version))

    async def _send(self, responses: Iterable[Any]) -> None:
        try:
            for response in responses:
                await self._context.write(response)
        except grpc.aio.InternalError as error:
            # The client left while we wrote; gRPC is about to cancel the call for that.
            raise asyncio.CancelledError from error

    def _current(self) -> tuple[str, Resources]:
        # The version first: a change in between gives newer resources an older version, and is
        # followed by its own push, which then finds nothing left to send.
        return self._source.version, self._source.resources(self.session.node)
