"""The blocking driver: performs the effects of policy for ``httpx.Client``."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import httpx

from meshlib import errors
from meshlib.model.request import RequestView
from meshlib.policy.call import Call, Policy
from meshlib.policy.effects import (
    Answer,
    Attempt,
    Await,
    BodyEnd,
    Discard,
    Effect,
    ErrorKind,
    Mirror,
    Outcome,
    Park,
    Race,
    Reply,
    Respond,
    Restart,
    Sleep,
)
from meshlib.policy.stack import execute, mirrored
from meshlib.policy.state import LiveSnapshot
from meshlib.runtime.runtime import Runtime
from meshlib.transports import httpx_failures as failures
from meshlib.transports import httpx_translate as translate
from meshlib.transports.driving import conclude, handshake, unsecured
from meshlib.transports.httpx_engine import Body, Engine, mocked
from meshlib.transports.httpx_errors import BODY_LATE, DEADLINE_LATE, MeshNotReady, RouteTimeout
from meshlib.transports.httpx_exchange import Exchange, Timeouts, with_record
from meshlib.transports.httpx_race import MOST_THREADS, Racers
from meshlib.transports.mirrors import MirrorThreads, Tee
from meshlib.transports.options import TransportOptions
from meshlib.transports.pacing import Pace
from meshlib.upstream.clock import AttemptClock, attempt_clock
from meshlib.upstream.failure import AttemptFailed
from meshlib.upstream.pools import EndpointPools


class Carrier(httpx.HTTPTransport):
    """httpx's own transport over our pools: what instruments or mocks httpx sees every attempt."""

    def __init__(self, pools: EndpointPools) -> None:
        self._pool = pools


class CallStream(httpx.SyncByteStream):
    """The body of a returned response; it keeps the call alive until the body ends."""

    def __init__(
        self, inner: httpx.SyncByteStream, policy: Policy, call: Call, clock: AttemptClock, rate: float
    ) -> None:
        self._inner = inner
        self._policy: Policy | None = policy
        self._call = call
        self._clock = clock
        self._received = 0
        self._pace = Pace(rate) if rate else None

    def __iter__(self) -> Iterator[bytes]:
        parts = iter(self._inner)
        try:
            while (part := self._next(parts)) is not None:
                self._received += len(part)
                if self._pace is None:
                    yield part
                    continue
                for wait, piece in self._pace.pieces(part):
                    time.sleep(wait)
                    yield piece
        except httpx.TransportError as error:
            late = isinstance(error, httpx.TimeoutException)
            self._end(ErrorKind.APPLICATION if late else ErrorKind.RESET)
            raise with_record(error, self._call.record) from None
        self._end(None)

    def _next(self, parts: Iterator[bytes]) -> bytes | None:
        self._clock.next_part()
        token = attempt_clock.set(self._clock)  # it bounds the network stream that is read below
        try:
            return next(parts, None)
        except httpx.TimeoutException:
            if self._clock.mesh_expired:
                self._end(ErrorKind.TIMEOUT)
                raise RouteTimeout(BODY_LATE, record=self._call.record) from None
            if self._clock.application_expired:
                raise httpx.ReadTimeout(DEADLINE_LATE) from None
            raise
        finally:
            attempt_clock.reset(token)

    def take(self) -> bytes | None:
        """Return the whole body and end the call, or None where it is not here as a whole."""
        data = self._inner.take() if type(self._inner) is Body and self._received == 0 else None
        if data is not None:
            self._received = len(data)
            self._end(None)
        return data

    def close(self) -> None:
        """Close the connection or give it back; the call ends here at the latest."""
        try:
            self._inner.close()
        finally:
            self._end(None)

    def _end(self, error: ErrorKind | None) -> None:
        policy, self._policy = self._policy, None
        if policy is not None:
            conclude(policy, BodyEnd(error, self._received))


class MeshTransport(httpx.BaseTransport):
    """``httpx.Client(transport=MeshTransport(runtime))``; thread-safe, shared by any number of clients.

    Args:
        runtime: the mesh.
        options: TLS of ``https://`` URLs, limits, local replies, the inner transport.
    """

    def __init__(self, runtime: Runtime, options: TransportOptions | None = None) -> None:
        self._runtime = runtime
        self._options = options or TransportOptions()
        settings = self._options.pool_settings()
        self._contexts = settings.contexts
        self._engine = Engine(settings)
        self._pools = EndpointPools(settings)  # for mocks and HTTP/2
        inner = self._options.inner
        if inner is not None and not isinstance(inner, httpx.BaseTransport):
            raise TypeError(f"inner of a blocking transport is an httpx.BaseTransport, not {inner!r}")
        self._carrier = inner or Carrier(self._pools)
        self._mirrors = MirrorThreads()
        self._seen: object = None
        self._threads: ThreadPoolExecutor | None = None  # for hedging; made when a call first hedges
        self._lock = threading.Lock()
        runtime.on_fork(self)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request`` through the mesh."""
        view = translate.view_of(request)
        timeouts = Timeouts(request)
        live = self._runtime.live(view)
        if live is None:
            live = self._wait(view, timeouts, request)
        if live is not self._seen:
            self._seen = live
            self._engine.retire(live.has_endpoint)
            self._pools.retire(live.has_endpoint)
        call = self._runtime.call(view, live, deadline=timeouts.deadline, races=True, traced=timeouts.traced)
        policy = execute(call)
        try:
            return self._drive(policy, Exchange(call, request, timeouts))
        except BaseException:
            policy.close()
            raise

    def _drive(self, policy: Policy, exchange: Exchange) -> httpx.Response:
        effect: Effect = next(policy)
        clock: AttemptClock | None = None
        while True:
            answer: Answer = None
            if isinstance(effect, Race):
                effect, clock = self._race(effect, policy, exchange)
                continue
            if isinstance(effect, Attempt):
                clock = exchange.clock(effect)
                answer = self._attempt(effect, exchange, clock)
            elif isinstance(effect, Respond):
                return self._respond(effect, policy, exchange, cast("AttemptClock", clock))
            elif isinstance(effect, Reply):
                conclude(policy, None)
                return translate.answer(effect, exchange, raises=self._options.raises)
            elif isinstance(effect, Sleep):
                self._sleep(effect.seconds, exchange)
            elif isinstance(effect, Await):
                call = exchange.call
                call.live = self._wait(call.view, exchange.timeouts, exchange.request, effect.cluster)
            elif isinstance(effect, Park):
                self._park(effect, exchange)
            elif isinstance(effect, Discard):
                cast("httpx.Response", effect.outcome.response).close()
            elif isinstance(effect, Mirror):
                self._mirror(effect, exchange)
            elif isinstance(effect, Restart):
                cast("httpx.Response", effect.outcome.response).close()
                exchange.sent = translate.restarted(exchange, effect)
            effect = policy.send(answer)

    def _race(self, effect: Effect, policy: Policy, exchange: Exchange) -> tuple[Effect, AttemptClock | None]:
        """Make attempts side by side until policy asks for something else; returns that, and the winner's clock."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="meshlib-hedge")
            racers = Racers(self._attempt, exchange, self._threads)
        try:
            while isinstance(effect, Race):
                effect = policy.send(racers.go(effect))
        finally:
            racers.end()
        return effect, racers.clock

    def _attempt(self, effect: Attempt, exchange: Exchange, clock: AttemptClock) -> Outcome:
        token = attempt_clock.set(clock)
        try:
            response = self._send(exchange, effect, clock)
        except AttemptFailed as failure:
            return failures.outcome(failure, failures.to_httpx(failure), effect, clock, exchange.timeouts)
        except httpx.TransportError as error:
            return failures.outcome(failures.from_httpx(error, clock), error, effect, clock, exchange.timeouts)
        finally:
            exchange.timeouts.connecting += clock.connecting
            attempt_clock.reset(token)
        return translate.responded(response, effect, clock)

    def _send(self, exchange: Exchange, effect: Attempt, clock: AttemptClock) -> httpx.Response:
        secured = handshake(self._contexts, effect, exchange.call.view)
        inner = self._options.inner
        if inner is None and self._engine.carries(exchange, effect) and not mocked():
            return self._engine.send(exchange, effect, secured, clock)
        if secured is not None and isinstance(inner, httpx.HTTPTransport):
            raise unsecured(inner)
        return self._carrier.handle_request(translate.attempt_request(exchange, effect, secured, clock))

    def _respond(self, effect: Respond, policy: Policy, exchange: Exchange, clock: AttemptClock) -> httpx.Response:
        response = cast("httpx.Response", effect.outcome.response)
        response.extensions["meshlib"] = exchange.call.record
        if effect.edit is not None:
            translate.edit(response, effect.edit)
        if response.is_stream_consumed:  # a mock's: nothing left to read
            conclude(policy, BodyEnd(None, len(response.content)))
            return response
        clock.turn_to_body(effect.timeout, exchange.timeouts.total_deadline, effect.gap)
        response.stream = CallStream(
            cast("httpx.SyncByteStream", response.stream), policy, exchange.call, clock, effect.rate
        )
        return response

    def _mirror(self, effect: Mirror, exchange: Exchange) -> None:
        sent = exchange.sent

        def send(copy: Mirror, content: bytes | None) -> None:
            self._mirrors.send(copy.call, lambda: self._copy(copy, sent, content))

        if exchange.call.view.replayable:
            send(effect, None)
            return
        if exchange.tee is None:
            exchange.tee = Tee(send)
        exchange.tee.wait(effect)

    def _copy(self, effect: Mirror, like: httpx.Request, content: bytes | None) -> None:
        """Send a copy of a request; only the observer learns what became of it."""
        policy = mirrored(effect.call, effect.action)
        try:
            response = self._drive(policy, translate.copied(effect, like, content))
            try:
                for _ in cast("httpx.SyncByteStream", response.stream):
                    pass
            finally:
                response.close()
        except Exception:  # noqa: BLE001  nobody waits for a copy: what became of it is in its record
            pass
        finally:
            policy.close()

    def _sleep(self, seconds: float, exchange: Exchange) -> None:
        left = exchange.timeouts.left_for_head()
        if left is not None and seconds >= left:
            time.sleep(left)
            raise exchange.expired()
        time.sleep(seconds)

    def _park(self, effect: Park, exchange: Exchange) -> None:
        granted = threading.Event()
        effect.ticket.on_grant(granted.set)
        seconds, application_expired = exchange.patience(effect)
        began = time.monotonic()
        in_time = granted.wait(seconds)
        if effect.pooled:
            exchange.timeouts.pooling += time.monotonic() - began
        if not in_time and application_expired is not None:
            raise application_expired()

    def _wait(self, view: RequestView, timeouts: Timeouts, request: httpx.Request, cluster: str = "") -> LiveSnapshot:
        try:
            return self._runtime.wait(view, timeouts.for_configuration(), cluster)
        except errors.MeshNotReady as error:
            raise MeshNotReady(str(error), request=request) from None

    def close(self) -> None:
        """Close the connections; the mesh stays open."""
        self._mirrors.close()
        self._engine.close()
        self._pools.close()
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)

    def forked(self) -> None:
        """Leave the connections, and the threads, to the parent process."""
        self._threads = None
        self._lock = threading.Lock()
        self._mirrors.forget()
        self._engine.forget()
        self._pools.forget()
