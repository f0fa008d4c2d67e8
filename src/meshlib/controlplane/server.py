"""The control plane on a port: ADS for Envoys, gRPC clients and other meshlib processes.

One event loop in one thread owns every stream, so that sessions need no locks and a client costs
two tasks, not the two threads that a synchronous gRPC server would take.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import socket
import threading
import time
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, Self

import grpc
import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.status.v3 import csds_pb2

from meshlib.controlplane import status
from meshlib.controlplane.ads import AdsSession
from meshlib.controlplane.delta import DeltaSession
from meshlib.controlplane.node import Node
from meshlib.controlplane.pacing import DEFAULT_LIMITS, Debounce, Limits, Requests
from meshlib.controlplane.resources import Resources
from meshlib.controlplane.server_tls import ServerTls
from meshlib.controlplane.session import Session
from meshlib.controlplane.snapshot import Snapshot
from meshlib.errors import ConfigError

logger = logging.getLogger("meshlib.controlplane")

ADS_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"

_OPTIONS = (
    # With SO_REUSEPORT a second server on the port would take half of the clients in silence.
    ("grpc.so_reuseport", 0),
    # Enough for a client that names 100,000 clusters; more is refused before it is parsed.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # A client has one stream, or a few; one that opens thousands waits by itself, within its connection.
    ("grpc.max_concurrent_streams", 100),
    ("grpc.max_send_message_length", -1),
    # Notice clients that vanished without a word, and bear with clients that ping often.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)


_TOGETHER = 50  # clients that are looked up in one go; others may be of another view, which takes its time
_LAST_WRITE = 1.0  # seconds that a stream has, when the server stops, for what it is writing


class ResourceSource(Protocol):
    """Where the resources come from; :class:`~meshlib.controlplane.directory.Directory` is one."""

    @property
    def version(self) -> str:
        """The version of what :meth:`resources` returns; another one after every change."""
        ...

    def resources(self, node: Node) -> Resources:
        """Return what ``node`` is to have now; the same object for nodes that have the same. Called in one thread."""
        ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called after every change, in any thread; return how to end that."""
        ...


class Server:
    """An ADS server, state of the world and delta, which also tells of its clients over CSDS.

    Thread-safe. A forked child has no server: fork first, then start.

    Args:
        source: the resources.
        host: address to listen on. Nobody is asked who he is, but with ``tls.client_ca``: another than
            loopback opens the mesh's configuration to the network.
        port: of plaintext; 0 takes a free one, None none at all.
        tls: of a second port, where it is not None.
        tls_port: that port; 0 takes a free one.
        limits: of what clients may do.
    """

    def __init__(
        self,
        source: ResourceSource,
        *,
        host: str = "127.0.0.1",
        port: int | None = 15010,
        tls: ServerTls | None = None,
        tls_port: int = 15012,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if port is None and tls is None:
            raise ConfigError("a control plane without a plaintext port needs a certificate for its TLS port")
        self._service = _Service(source, limits)
        self._host = host
        self._port = port
        self._tls = tls
        self._tls_port = tls_port if tls else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int | None:
        """The plaintext port; after :meth:`start` the one listened on."""
        return self._port

    @property
    def tls_port(self) -> int | None:
        """The TLS port; after :meth:`start` the one listened on."""
        return self._tls_port

    @property
    def address(self) -> str:
        """``host:port`` of plaintext, as clients want it.

        Raises:
            ConfigError: only TLS is served.
        """
        if self._port is None:
            raise ConfigError("this control plane has no plaintext port, only one with TLS")
        return self._at(self._port)

    @property
    def tls_address(self) -> str:
        """``host:port`` of TLS.

        Raises:
            ConfigError: no TLS is served.
        """
        if self._tls_port is None:
            raise ConfigError("this control plane has no TLS port")
        return self._at(self._tls_port)

    def _at(self, port: int) -> str:
        return f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"

    @property
    def clients(self) -> tuple[status.ClientStatus, ...]:
        """The clients connected now, in the order of their names."""
        # list() of a dict's values is one step for the interpreter, so the loop may go on.
        return tuple(sorted((client.status for client in list(self._service.clients)), key=lambda item: item.name))

    def start(self) -> None:
        """Listen, and return when clients can connect.

        Raises:
            ConfigError: the address cannot be listened on, or the certificate not used.
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
            self._listen(server)
            await server.start()
        except ConfigError as error:
            listening.set_exception(error)
            return
        unsubscribe = self._service.follow(self._loop)
        listening.set_result(None)
        await self._service.stopping.wait()
        unsubscribe()
        await self._service.stop()
        await server.stop(None)

    def _listen(self, server: grpc.aio.Server) -> None:
        credentials = self._tls.credentials() if self._tls else None
        port = 0
        try:
            if self._port is not None:
                port = self._port
                self._port = server.add_insecure_port(self._at(port))
            if self._tls_port is not None:
                port = self._tls_port
                self._tls_port = server.add_secure_port(self._at(port), credentials)
        except RuntimeError as error:
            raise ConfigError(_cannot_listen(self._host, port)) from error

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

    def __init__(self, source: ResourceSource, limits: Limits) -> None:
        self.stopping = asyncio.Event()
        self._source = source
        self._limits = limits
        self._streams: dict[_Stream, status.Client] = {}
        self._open = 0
        # Translating and encoding wait for nothing and take long: in a thread of their own, the loop goes on.
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "meshlib-control-plane-resources")
        self._snapshots: weakref.WeakValueDictionary[int, Snapshot] = weakref.WeakValueDictionary()
        self._asked: list[tuple[Session, asyncio.Future[Snapshot]]] = []

    @property
    def clients(self) -> Iterable[status.Client]:
        return self._streams.values()

    def follow(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Push what changes from now on, several changes in a row at once; return how to end that."""
        debounce = Debounce(loop, self._mark, self._limits)

        def on_change() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(debounce.touch)

        return self._source.subscribe(on_change)

    def _mark(self) -> None:
        for stream in self._streams:
            stream.outdated.set()

    async def snapshot(self, session: Session) -> Snapshot:
        """Return what the client is to have now. Clients that ask at the same time, as after a change, ask together."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Snapshot] = loop.create_future()
        self._asked.append((session, answer))
        if len(self._asked) == 1:
            loop.call_soon(self._look_up)
        return await answer

    def _look_up(self) -> None:
        asked, self._asked = self._asked, []
        if self.stopping.is_set():
            return  # their streams are being ended
        for start in range(0, len(asked), _TOGETHER):
            some = asked[start : start + _TOGETHER]
            work = [(session.node, session.snapshot) for session, _ in some]
            done = asyncio.get_running_loop().run_in_executor(self._worker, self._currents, work)
            done.add_done_callback(functools.partial(_hand_out, [answer for _, answer in some]))

    def _currents(self, work: Iterable[tuple[Node, Snapshot]]) -> list[Snapshot | Exception]:
        found: list[Snapshot | Exception] = []
        for node, before in work:
            try:
                found.append(self._current(node, before))
            except Exception as error:  # noqa: BLE001 - handed to the one whose it is
                found.append(error)
        return found

    def _current(self, node: Node, before: Snapshot) -> Snapshot:
        # The version first: a change in between gives newer resources an older version, and is
        # followed by its own push, which then finds nothing left to send.
        version, resources = self._source.version, self._source.resources(node)
        known = self._snapshots.get(id(resources))  # which lives as long as its snapshot
        if known is None:
            known = self._snapshots[id(resources)] = Snapshot(resources, version, before)
        known.since(before)  # here rather than in the loop
        return known

    async def stop(self) -> None:
        """Let every stream finish what it is writing, and end it."""
        await asyncio.gather(*(stream.end() for stream in list(self._streams)))
        self._asked.clear()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """The gRPC methods: ADS in both forms, and CSDS."""
        ads = {
            # Bytes both ways: what does not parse is refused in our words, and resources are encoded already.
            "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(
                functools.partial(self._stream, AdsSession, discovery_pb2.DiscoveryRequest.FromString)
            ),
            "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(
                functools.partial(self._stream, DeltaSession, discovery_pb2.DeltaDiscoveryRequest.FromString)
            ),
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

    async def _stream(
        self,
        kind: Callable[[Node], Session],
        parse: Callable[[bytes], Any],
        messages: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext,
    ) -> None:
        if self._open >= self._limits.streams:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._open} streams are open already, as many as there may be"
            )
        self._open += 1
        try:
            await self._identified(kind, Requests(messages, parse, context, self._limits), context)
        finally:
            self._open -= 1

    async def _identified(
        self, kind: Callable[[Node], Session], requests: Requests, context: grpc.aio.ServicerContext
    ) -> None:
        first = await requests.first()
        if first is None:
            return
        if not first.HasField("node") or not first.node.id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "missing node information")
        try:
            node = Node.from_proto(first.node)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        stream = _Stream(self, kind(node), context)
        self._streams[stream] = status.Client(first.node, stream.session, time.time())
        logger.info("%s (%s) connected from %s", stream.session.name, node.kind.value, context.peer())
        try:
            await stream.serve(first, requests)
        finally:
            del self._streams[stream]
            logger.info("%s (%s) disconnected", stream.session.name, node.kind.value)

    async def _client_status(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return status.client_status_response(self.clients, request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, str(error))

    async def _client_statuses(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[Any]:
        async for request in requests:
            yield await self._client_status(request, context)


def _hand_out(answers: Iterable[asyncio.Future[Snapshot]], done: asyncio.Future[list[Snapshot | Exception]]) -> None:
    """Give each its answer; none where the server stops and nobody waits any more."""
    if done.cancelled():
        return
    for answer, found in zip(answers, done.result(), strict=True):
        if answer.done():
            continue
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)


class _Stream:
    """One client: a task that answers its requests, and one that pushes changes.

    Nothing is queued: while the client does not read, writing waits and with it both tasks, and
    all changes of that time are one push.
    """

    def __init__(self, service: _Service, session: Session, context: grpc.aio.ServicerContext) -> None:
        self.session = session
        self.outdated = asyncio.Event()
        self._service = service
        self._context = context
        self._serving: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()  # makes what a session returned and its sending one step

    async def serve(self, first: Any, requests: AsyncIterable[Any]) -> None:
        """Serve until the client ends the stream, or the server stops."""
        self._serving = asyncio.create_task(self._serve(first, requests))
        try:
            await self._serving
        except asyncio.CancelledError:
            self._serving.cancel()
            if not self._service.stopping.is_set():
                raise
            await self._context.abort(grpc.StatusCode.UNAVAILABLE, "the control plane is stopping")

    async def end(self) -> None:
        """End the stream after what is being written, if that gets through in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WRITE):
                await self._writing.acquire()
        if self._serving is not None:
            self._serving.cancel()

    async def _serve(self, first: Any, requests: AsyncIterable[Any]) -> None:
        async with self._writing:
            self.session.snapshot = await self._service.snapshot(self.session)
        async with asyncio.TaskGroup() as tasks:
            pushing = tasks.create_task(self._push())
            await self._answer(first)
            async for request in requests:
                await self._answer(request)
            pushing.cancel()

    async def _answer(self, request: Any) -> None:
        async with self._writing:
            await self._send(self.session.on_request(request))

    async def _push(self) -> None:
        while True:
            await self.outdated.wait()
            async with self._writing:
                self.outdated.clear()
                try:
                    snapshot = await self._service.snapshot(self.session)
                except Exception:
                    logger.exception("%s keeps what it has: its resources could not be made", self.session.name)
                    continue
                await self._send(self.session.on_update(snapshot))

    async def _send(self, responses: Iterable[bytes]) -> None:
        try:
            for response in responses:
                await self._context.write(response)
        except grpc.aio.InternalError as error:
            # The client left while we wrote; gRPC is about to cancel the call for that.
            raise asyncio.CancelledError from error
