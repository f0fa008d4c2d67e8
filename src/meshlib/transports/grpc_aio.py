# mypy: disallow-subclassing-any=False
# (grpcio ships no types, so its classes are Any.)
"""The asyncio channel: performs the effects of policy for ``grpc.aio`` stubs."""

from __future__ import annotations

import asyncio
import weakref
from types import TracebackType
from typing import Any, Self, cast

import grpc

from meshlib import errors
from meshlib.policy.call import Call, Policy
from meshlib.policy.effects import (
    Answer,
    Attempt,
    Await,
    BodyEnd,
    Effect,
    ErrorKind,
    Mirror,
    Outcome,
    Park,
    Reply,
    Respond,
    Sleep,
)
from meshlib.policy.mirroring import dropped
from meshlib.policy.stack import execute, mirrored
from meshlib.policy.state import LiveSnapshot
from meshlib.runtime.runtime import Runtime
from meshlib.runtime.waking import threadsafe, wait_until
from meshlib.transports.driving import conclude
from meshlib.transports.grpc_aio_calls import (
    EOF,
    Answered,
    Ending,
    Started,
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from meshlib.transports.grpc_cutoff import Cutoff
from meshlib.transports.grpc_errors import MeshNotReady, with_record
from meshlib.transports.grpc_exchange import CallOptions, Exchange, Method, Serializer
from meshlib.transports.grpc_pool import ChannelPool, Lease
from meshlib.transports.grpc_translate import Options, failed, load_metrics, parse_target, wants_report
from meshlib.transports.mirrors import MirrorTasks
from meshlib.upstream.failure import AttemptFailed


class AioMeshChannel(grpc.aio.Channel):
    """``stub = CatalogStub(AioMeshChannel(runtime, "catalog:50051"))``; usable from several event loops.

    Unary calls are routed, balanced and retried; a streaming response until its first message,
    a streaming request never. Closing the channel never closes the mesh.

    Args:
        runtime: the mesh.
        target: the logical ``host:port``; port 80 where it names none.
        options: channel options, passed to the channels that dial the endpoints.
        compression: default compression of requests.
    """

    def __init__(self, runtime: Runtime, target: str, options: Options = (), compression: Any = None) -> None:
        self._target = parse_target(target, options)
        self._runtime = runtime
        self._options = options
        self._compression = compression
        # Connections belong to the event loop that opened them.
        self._loops: weakref.WeakKeyDictionary[Any, _Loop] = weakref.WeakKeyDictionary()
        self._closed = False
        runtime.on_fork(self)

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Serializer | None = None,
        _registered_method: bool = False,
    ) -> grpc.aio.UnaryUnaryMultiCallable:
        """Return the callable of a unary method."""
        return _UnaryUnary(self, Method("unary_unary", method, request_serializer, response_deserializer))

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Serializer | None = None,
        _registered_method: bool = False,
    ) -> grpc.aio.UnaryStreamMultiCallable:
        """Return the callable of a response-streaming method."""
        return _UnaryStream(self, Method("unary_stream", method, request_serializer, response_deserializer))

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Serializer | None = None,
        _registered_method: bool = False,
    ) -> grpc.aio.StreamUnaryMultiCallable:
        """Return the callable of a request-streaming method."""
        return _StreamUnary(self, Method("stream_unary", method, request_serializer, response_deserializer))

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Serializer | None = None,
        _registered_method: bool = False,
    ) -> grpc.aio.StreamStreamMultiCallable:
        """Return the callable of a method that streams both ways."""
        return _StreamStream(self, Method("stream_stream", method, request_serializer, response_deserializer))

    def exchange(self, method: Method, request: Any, *options: Any, **named: Any) -> Exchange:
        """Return an RPC of ``method``; its timeout runs from now."""
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")  # grpc's own words
        return Exchange(self._target, method, request, CallOptions(*options, **named))

    async def run(self, exchange: Exchange, started: asyncio.Future[Started]) -> Answered:
        """Drive a call to its response, or to the first message of a stream.

        Args:
            exchange: the RPC.
            started: told the first attempt, for who writes its requests.
        """
        live = self._runtime.live(exchange.view)
        if live is None:
            live = await self._wait(exchange)
        loop = self._loop()
        if live is not loop.seen:
            loop.seen = live
            loop.pool.retire(live.has_endpoint)
        exchange.call = call = self._runtime.call(exchange.view, live, "grpc", deadline=exchange.deadline)
        policy = execute(call)
        try:
            return await self._drive(policy, exchange, _Attempts(loop.pool, exchange, started))
        except BaseException:
            policy.close()
            raise
        finally:
            for channel in loop.pool.unused():
                await channel.close()

    async def _drive(self, policy: Policy, exchange: Exchange, attempts: _Attempts) -> Answered:
        effect: Effect = next(policy)
        while True:
            answer: Answer = None
            if isinstance(effect, Attempt):
                answer = await attempts.perform(effect)
            elif isinstance(effect, Respond):
                return await attempts.respond(effect, policy)
            elif isinstance(effect, Reply):
                error = exchange.error_of(effect)
                conclude(policy, None)
                raise error
            elif isinstance(effect, Sleep):
                await attempts.wait(asyncio.Event(), effect.seconds)
            elif isinstance(effect, Await):
                cast("Call", exchange.call).live = await self._wait(exchange, effect.cluster)
            elif isinstance(effect, Park):
                granted = asyncio.Event()
                effect.ticket.on_grant(threadsafe(granted.set))
                await attempts.wait(granted, effect.timeout)
            elif isinstance(effect, Mirror):
                self._mirror(effect, exchange)
            effect = policy.send(answer)

    def _mirror(self, effect: Mirror, exchange: Exchange) -> None:
        if not exchange.method.unary:
            dropped(effect.call)  # its messages come one by one, and go with the first attempt
            return
        loop, copy = self._loop(), exchange.copied(effect.call)
        loop.mirrors.send(effect.call, lambda: self._copy(effect, copy, loop))

    async def _copy(self, effect: Mirror, copy: Exchange, loop: _Loop) -> None:
        """Send a copy of a call; only the observer learns what became of it."""
        policy = mirrored(effect.call, effect.action)
        started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        try:
            await self._drive(policy, copy, _Attempts(loop.pool, copy, started))
        except Exception:  # noqa: BLE001  nobody waits for a copy: what became of it is in its record
            pass
        finally:
            policy.close()

    async def _wait(self, exchange: Exchange, cluster: str = "") -> LiveSnapshot:
        try:
            return await self._runtime.await_(exchange.view, exchange.left_for_configuration(), cluster)
        except errors.MeshNotReady as error:
            raise MeshNotReady(str(error)) from None

    def _loop(self) -> _Loop:
        running = asyncio.get_running_loop()
        loop = self._loops.get(running)
        if loop is None:
            pool = ChannelPool(
                lambda where, how, credentials: (
                    grpc.aio.insecure_channel(where, how, self._compression)
                    if credentials is None
                    else grpc.aio.secure_channel(where, credentials, how, self._compression)
                ),
                self._options,
            )
            loop = self._loops[running] = _Loop(pool)
        return loop

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return READY once the mesh has its configuration, IDLE before, SHUTDOWN after :meth:`close`.

        Connections belong to endpoints and come and go with calls; they do not show here.
        """
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if try_to_connect:
            self._runtime.start()
        ready = self._runtime.store.current is not None
        return grpc.ChannelConnectivity.READY if ready else grpc.ChannelConnectivity.IDLE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until :meth:`get_state` differs from ``last_observed_state``."""
        await wait_until(lambda: self.get_state() is not last_observed_state, self._runtime.store.watch, None)

    async def channel_ready(self) -> None:
        """Start the mesh and wait until it has its configuration."""
        self.get_state(try_to_connect=True)
        await wait_until(lambda: self._runtime.store.current is not None, self._runtime.store.watch, None)

    async def close(self, grace: float | None = None) -> None:
        """Close this event loop's connections after ``grace`` seconds; the mesh stays open. Idempotent."""
        self._closed = True
        loop = self._loops.pop(asyncio.get_running_loop(), None)
        if loop is not None:
            await loop.mirrors.aclose()
            await asyncio.gather(*(channel.close(grace) for channel in loop.pool.empty()))

    def forked(self) -> None:
        """Forget the connections of the parent process, in a forked child."""
        for loop in list(self._loops.values()):
            loop.pool.forget()
        self._loops.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class _Loop:
    """What belongs to one event loop."""

    __slots__ = ("mirrors", "pool", "seen")

    def __init__(self, pool: ChannelPool[Any]) -> None:
        self.pool = pool
        self.mirrors = MirrorTasks()
        self.seen: LiveSnapshot | None = None


class _Attempts:
    """Sends the attempts of one RPC, and hands the last one's answer over."""

    def __init__(self, pool: ChannelPool[Any], exchange: Exchange, started: asyncio.Future[Started]) -> None:
        self._pool = pool
        self._exchange = exchange
        self._started = started
        self._cutoff: Cutoff
        self._lease: Lease[Any]
        self._effect: Attempt

    async def perform(self, effect: Attempt) -> Outcome:
        """Send one attempt; the channel of a stream that goes on is kept until it ends."""
        try:
            self._effect, self._lease = effect, self._pool.take(effect, self._exchange.view)
        except AttemptFailed as failure:
            return Outcome(error=failure.kind, message=failure.message, written=False)
        outcome: Outcome | None = None
        try:
            outcome = await self._send()
        finally:
            if outcome is None or not self._goes_on(outcome):
                broken = outcome is not None and outcome.error in (ErrorKind.CONNECT, ErrorKind.CONNECT_TIMEOUT)
                self._pool.give_back(self._lease, broken=broken)
        return outcome

    def _goes_on(self, outcome: Outcome) -> bool:
        return outcome.response is not None and outcome.grpc_status is None

    async def _send(self) -> Outcome:
        exchange, effect = self._exchange, self._effect
        bound = exchange.bound(effect.timeout)
        invoke = exchange.invoke(self._lease.channel, effect)
        arguments = exchange.arguments(effect, bound)
        try:
            if not exchange.method.unary:
                return await self._stream(invoke, arguments)
            inner = invoke(exchange.request, **arguments)
            response = await inner
            report = load_metrics(await inner.trailing_metadata()) if wants_report(effect) else {}
            return Outcome(status=200, headers=report, grpc_status=0, response=(response, inner))
        except grpc.aio.AioRpcError as error:
            return failed(error, effect, bound)

    async def _stream(self, invoke: Any, arguments: dict[str, Any]) -> Outcome:
        """Wait for the first response message: what comes before it is the response head."""
        method, request = self._exchange.method, self._exchange.request
        later = asyncio.get_running_loop().call_later
        self._cutoff = cutoff = Cutoff(later, complete=not method.streams_requests)
        if method.streams_requests and request is not None:
            request = cutoff.arequests(request)
        inner = invoke(request, **arguments)
        cutoff.watch(inner)
        cutoff.grant(self._effect.timeout)
        if not self._started.done():
            self._started.set_result(Started(inner, cutoff))
        failure: BaseException | None = None
        try:
            first = await (inner.read() if method.streams_responses else inner)
        except grpc.aio.AioRpcError as error:
            failure = error
        except asyncio.CancelledError:
            if not cutoff.fired:
                raise
        if cutoff.stop():
            return Outcome(
                error=ErrorKind.TIMEOUT, message="no answer in time", exception=failure, upload=cutoff.upload
            )
        if failure is not None:
            raise failure
        ended = first is EOF or not method.streams_responses
        report = load_metrics(await inner.trailing_metadata()) if ended and wants_report(self._effect) else {}
        status = 0 if ended else None
        return Outcome(status=200, headers=report, grpc_status=status, response=(first, inner), upload=cutoff.upload)

    async def respond(self, effect: Respond, policy: Policy) -> Answered:
        """Return the final response, or raise the server's status."""
        exchange, outcome = self._exchange, effect.outcome
        if outcome.response is not None:
            first, inner = cast("tuple[Any, Any]", outcome.response)
            with_record(inner, exchange.record)
            if self._goes_on(outcome):
                pool, lease, cutoff = self._pool, self._lease, self._cutoff
                cutoff.grant(effect.timeout)
                ending = Ending(policy, exchange, self._effect, cutoff, lambda: pool.give_back(lease))
                return Answered(first, inner, ending)
        exchange.status_of(outcome)
        conclude(policy, BodyEnd(None, exchange.received))
        if outcome.exception is not None:
            raise with_record(outcome.exception, exchange.record)
        return Answered(first, inner, None)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait for ``event`` or ``seconds``; raises when it is the application's timeout that passes."""
        bound = self._exchange.bound(seconds)
        try:
            async with asyncio.timeout(bound.timeout):
                await event.wait()
        except TimeoutError:
            if bound.application:
                raise self._exchange.expired() from None


class _Callable:
    """One method of a stub on a mesh channel."""

    def __init__(self, channel: AioMeshChannel, method: Method) -> None:
        self._channel = channel
        self._method = method


class _UnaryUnary(_Callable, grpc.aio.UnaryUnaryMultiCallable):
    def __call__(self, request: Any, **options: Any) -> UnaryUnaryCall:
        return UnaryUnaryCall(self._channel.run, self._channel.exchange(self._method, request, **options))


class _UnaryStream(_Callable, grpc.aio.UnaryStreamMultiCallable):
    def __call__(self, request: Any, **options: Any) -> UnaryStreamCall:
        return UnaryStreamCall(self._channel.run, self._channel.exchange(self._method, request, **options))


class _StreamUnary(_Callable, grpc.aio.StreamUnaryMultiCallable):
    def __call__(self, request_iterator: Any = None, *options: Any, **named: Any) -> StreamUnaryCall:
        return StreamUnaryCall(
            self._channel.run, self._channel.exchange(self._method, request_iterator, *options, **named)
        )


class _StreamStream(_Callable, grpc.aio.StreamStreamMultiCallable):
    def __call__(self, request_iterator: Any = None, *options: Any, **named: Any) -> StreamStreamCall:
        return StreamStreamCall(
            self._channel.run, self._channel.exchange(self._method, request_iterator, *options, **named)
        )
