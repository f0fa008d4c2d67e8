# mypy: disallow-subclassing-any=False
# (grpcio ships no types, so its classes are Any.)
"""The blocking channel: performs the effects of policy for gRPC stubs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from meshlib.transports.driving import conclude
from meshlib.transports.grpc_calls import END, Ending, MeshFuture, MeshStream, Opened
from meshlib.transports.grpc_cutoff import Cutoff, on_thread
from meshlib.transports.grpc_errors import MeshNotReady, with_record
from meshlib.transports.grpc_exchange import CallOptions, Cancellation, Exchange, Method, Serializer
from meshlib.transports.grpc_pool import ChannelPool, Lease
from meshlib.transports.grpc_translate import Options, failed, load_metrics, parse_target, wants_report
from meshlib.transports.mirrors import MirrorThreads
from meshlib.upstream.failure import AttemptFailed

FUTURE_THREADS = 64  # futures of one channel under way at once; more wait their turn


class MeshChannel(grpc.Channel):
    """``stub = CatalogStub(MeshChannel(runtime, "catalog:50051"))``; thread-safe.

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
        self._pool: ChannelPool[Any] = ChannelPool(
            lambda where, how, credentials: (
                grpc.insecure_channel(where, how, compression)
                if credentials is None
                else grpc.secure_channel(where, credentials, how, compression)
            ),
            options,
        )
        self._seen: LiveSnapshot | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._mirrors = MirrorThreads()
        self._lock = threading.Lock()
        self._closed = False
        self._watches: dict[Any, Callable[[], None]] = {}
        runtime.on_fork(self)

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Serializer | None = None,
        _registered_method: bool = False,
    ) -> grpc.UnaryUnaryMultiCallable:
        """Return the callable of a unary method: call, ``with_call`` and ``future``."""
        return _UnaryUnary(self, Method("unary_unary", method, request_serializer, response_deserializer))

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Serializer | None = None,
        _registered_method: bool = False,
    ) -> grpc.UnaryStreamMultiCallable:
        """Return the callable of a response-streaming method."""
        return _UnaryStream(self, Method("unary_stream", method, request_serializer, response_deserializer))

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Serializer | None = None,
        _registered_method: bool = False,
    ) -> grpc.StreamUnaryMultiCallable:
        """Return the callable of a request-streaming method: call, ``with_call`` and ``future``."""
        return _StreamUnary(self, Method("stream_unary", method, request_serializer, response_deserializer))

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Serializer | None = None,
        _registered_method: bool = False,
    ) -> grpc.StreamStreamMultiCallable:
        """Return the callable of a method that streams both ways."""
        return _StreamStream(self, Method("stream_stream", method, request_serializer, response_deserializer))

    def exchange(self, method: Method, request: Any, *options: Any, **named: Any) -> Exchange:
        """Return an RPC of ``method``; its timeout runs from now."""
        if self._closed:
            raise ValueError("Cannot invoke RPC on closed channel!")  # grpc's own words
        return Exchange(self._target, method, request, CallOptions(*options, **named))

    def future(self, exchange: Exchange) -> MeshFuture:
        """Start a call with a unary response on a thread of the channel's."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(FUTURE_THREADS, thread_name_prefix="meshlib-grpc")
        return MeshFuture(self._executor, self.run, exchange)

    def run(self, exchange: Exchange, cancellation: Cancellation | None = None) -> Any:
        """Drive a call to its response: (message, grpc's call), or :class:`Opened` for a stream.

        Args:
            exchange: the RPC.
            cancellation: lets another thread end it; without one the call blocks to its end.
        """
        live = self._runtime.live(exchange.view)
        if live is None:
            live = self._wait(exchange)
        if live is not self._seen:
            self._seen = live
            self._pool.retire(live.has_endpoint)
        exchange.call = call = self._runtime.call(exchange.view, live, "grpc", deadline=exchange.deadline)
        policy = execute(call)
        try:
            return self._drive(policy, exchange, cancellation)
        except BaseException:
            policy.close()
            raise
        finally:
            for channel in self._pool.unused():
                channel.close()

    def _drive(self, policy: Policy, exchange: Exchange, cancellation: Cancellation | None) -> Any:
        attempts = _Attempts(self._pool, exchange, cancellation)
        effect: Effect = next(policy)
        while True:
            answer: Answer = None
            if isinstance(effect, Attempt):
                answer = attempts.perform(effect)
            elif isinstance(effect, Respond):
                return attempts.respond(effect, policy)
            elif isinstance(effect, Reply):
                error = exchange.error_of(effect)
                conclude(policy, None)
                raise error
            elif isinstance(effect, Sleep):
                attempts.wait(threading.Event(), effect.seconds)
            elif isinstance(effect, Await):
                cast("Call", exchange.call).live = self._wait(exchange, effect.cluster)
            elif isinstance(effect, Park):
                granted = threading.Event()
                effect.ticket.on_grant(granted.set)
                attempts.wait(granted, effect.timeout)
            elif isinstance(effect, Mirror):
                self._mirror(effect, exchange)
            effect = policy.send(answer)

    def _mirror(self, effect: Mirror, exchange: Exchange) -> None:
        if not exchange.method.unary:
            dropped(effect.call)  # its messages come one by one, and go with the first attempt
            return
        copy = exchange.copied(effect.call)
        self._mirrors.send(effect.call, lambda: self._copy(effect, copy))

    def _copy(self, effect: Mirror, copy: Exchange) -> None:
        """Send a copy of a call; only the observer learns what became of it."""
        policy = mirrored(effect.call, effect.action)
        try:
            self._drive(policy, copy, None)
        except Exception:  # noqa: BLE001  nobody waits for a copy: what became of it is in its record
            pass
        finally:
            policy.close()

    def _wait(self, exchange: Exchange, cluster: str = "") -> LiveSnapshot:
        try:
            return self._runtime.wait(exchange.view, exchange.left_for_configuration(), cluster)
        except errors.MeshNotReady as error:
            raise MeshNotReady(str(error)) from None

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        """Call ``callback`` now and on changes: READY once the mesh has its configuration.

        Connections belong to endpoints and come and go with calls; they do not show here.
        """
        if try_to_connect:
            self._runtime.start()
        waiting = grpc.ChannelConnectivity.CONNECTING if try_to_connect else grpc.ChannelConnectivity.IDLE
        told: list[grpc.ChannelConnectivity] = []

        def look() -> None:
            ready = self._runtime.store.current is not None
            state = grpc.ChannelConnectivity.READY if ready else waiting
            if told[-1:] != [state]:
                told.append(state)
                callback(state)

        self._watches[callback] = self._runtime.store.watch(look)
        look()

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Stop calling ``callback``."""
        stop = self._watches.pop(callback, None)
        if stop is not None:
            stop()

    def close(self) -> None:
        """Close the connections, which cancels the calls under way; the mesh stays open. Idempotent."""
        self._closed = True
        for callback in list(self._watches):
            self.unsubscribe(callback)
        self._mirrors.close()
        for channel in self._pool.empty():
            channel.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def forked(self) -> None:
        """Forget the connections of the parent process, in a forked child."""
        self._lock = threading.Lock()
        self._executor = None  # its threads did not survive
        self._mirrors.forget()
        self._pool.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Attempts:
    """Sends the attempts of one RPC, and hands the last one's answer over."""

    def __init__(self, pool: ChannelPool[Any], exchange: Exchange, cancellation: Cancellation | None) -> None:
        self._pool = pool
        self._exchange = exchange
        self._blocking = cancellation is None
        self._cancellation = cancellation or Cancellation()
        self._cutoff: Cutoff
        self._lease: Lease[Any]
        self._effect: Attempt

    def perform(self, effect: Attempt) -> Outcome:
        """Send one attempt; the channel of a stream that has begun is kept until it ends."""
        try:
            self._effect, self._lease = effect, self._pool.take(effect, self._exchange.view)
        except AttemptFailed as failure:
            return Outcome(error=failure.kind, message=failure.message, written=False)
        outcome: Outcome | None = None
        try:
            outcome = self._send()
        finally:
            begun = outcome is not None and outcome.response is not None
            if not (begun and self._exchange.method.streams_responses):
                broken = outcome is not None and outcome.error in (ErrorKind.CONNECT, ErrorKind.CONNECT_TIMEOUT)
                self._pool.give_back(self._lease, broken=broken)
        return outcome

    def _send(self) -> Outcome:
        exchange, effect = self._exchange, self._effect
        bound = exchange.bound(effect.timeout)
        invoke = exchange.invoke(self._lease.channel, effect)
        arguments = exchange.arguments(effect, bound)
        try:
            if not exchange.method.unary:
                return self._stream(invoke, arguments)
            response, inner = self._unary(invoke, arguments)
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            self._cancellation.check()
            return failed(error, effect, bound)
        report = load_metrics(inner.trailing_metadata()) if wants_report(effect) else {}
        return Outcome(status=200, headers=report, grpc_status=0, response=[(response, inner)])

    def _unary(self, invoke: Any, arguments: dict[str, Any]) -> Any:
        if self._blocking:
            return invoke.with_call(self._exchange.request, **arguments)
        inner = invoke.future(self._exchange.request, **arguments)
        self._cancellation.arm(inner.cancel)
        return inner.result(), inner

    def _stream(self, invoke: Any, arguments: dict[str, Any]) -> Outcome:
        """Wait for the first response message: what comes before it is the response head."""
        method, request = self._exchange.method, self._exchange.request
        self._cutoff = cutoff = Cutoff(on_thread, complete=not method.streams_requests)
        if method.streams_requests:
            request = cutoff.requests(request)
        inner = (invoke if method.streams_responses else invoke.future)(request, **arguments)
        self._cancellation.arm(inner.cancel)
        cutoff.watch(inner)
        cutoff.grant(self._effect.timeout)
        try:
            first = next(inner, END) if method.streams_responses else inner.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            if not cutoff.stop():
                raise
            return Outcome(error=ErrorKind.TIMEOUT, message="no answer in time", exception=error, upload=cutoff.upload)
        except BaseException:  # Ctrl-C
            inner.cancel()
            raise
        if cutoff.stop():
            return Outcome(error=ErrorKind.TIMEOUT, message="no answer in time", upload=cutoff.upload)
        ended = first is END or not method.streams_responses
        # In a list, emptied by respond(): policy keeps the outcome, and must not keep the RPC alive.
        response = [(first, inner)]
        report = load_metrics(inner.trailing_metadata()) if ended and wants_report(self._effect) else {}
        status = 0 if ended else None
        return Outcome(status=200, headers=report, grpc_status=status, response=response, upload=cutoff.upload)

    def respond(self, effect: Respond, policy: Policy) -> Any:
        """Return the final response, or raise the server's status."""
        exchange, outcome = self._exchange, effect.outcome
        if outcome.response is not None:
            first, inner = cast("list[tuple[Any, Any]]", outcome.response).pop()
            with_record(inner, exchange.record)
            if exchange.method.streams_responses:
                pool, lease, cutoff = self._pool, self._lease, self._cutoff
                cutoff.grant(effect.timeout)
                ending = Ending(policy, exchange, self._effect, inner, cutoff, lambda: pool.give_back(lease))
                return Opened(first, inner, ending)
        exchange.status_of(outcome)
        conclude(policy, BodyEnd(None, exchange.received))
        if outcome.exception is not None:
            raise with_record(outcome.exception, exchange.record)
        return first, inner

    def wait(self, event: threading.Event, seconds: float | None) -> None:
        """Wait for ``event`` or ``seconds``; raises when it is the application's timeout that passes."""
        bound = self._exchange.bound(seconds)
        if not self._cancellation.wait(event, bound.timeout) and bound.application:
            raise self._exchange.expired()


class _Callable:
    """One method of a stub on a mesh channel."""

    def __init__(self, channel: MeshChannel, method: Method) -> None:
        self._channel = channel
        self._method = method


class _UnaryUnary(_Callable, grpc.UnaryUnaryMultiCallable):
    def __call__(self, request: Any, *options: Any, **named: Any) -> Any:
        return self.with_call(request, *options, **named)[0]

    def with_call(self, request: Any, *options: Any, **named: Any) -> Any:
        return self._channel.run(self._channel.exchange(self._method, request, *options, **named))

    def future(self, request: Any, *options: Any, **named: Any) -> MeshFuture:
        return self._channel.future(self._channel.exchange(self._method, request, *options, **named))


class _StreamUnary(_Callable, grpc.StreamUnaryMultiCallable):
    def __call__(self, request_iterator: Any, *options: Any, **named: Any) -> Any:
        return self.with_call(request_iterator, *options, **named)[0]

    def with_call(self, request_iterator: Any, *options: Any, **named: Any) -> Any:
        return self._channel.run(self._channel.exchange(self._method, request_iterator, *options, **named))

    def future(self, request_iterator: Any, *options: Any, **named: Any) -> MeshFuture:
        return self._channel.future(self._channel.exchange(self._method, request_iterator, *options, **named))


class _UnaryStream(_Callable, grpc.UnaryStreamMultiCallable):
    def __call__(self, request: Any, *options: Any, **named: Any) -> MeshStream:
        return MeshStream(self._channel.run, self._channel.exchange(self._method, request, *options, **named))


class _StreamStream(_Callable, grpc.StreamStreamMultiCallable):
    def __call__(self, request_iterator: Any, *options: Any, **named: Any) -> MeshStream:
        return MeshStream(self._channel.run, self._channel.exchange(self._method, request_iterator, *options, **named))
