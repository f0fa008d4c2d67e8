"""The async driver: performs the effects of policy for ``httpx.AsyncClient``."""

from __future__ import annotations

import time
import weakref
from collections.abc import AsyncIterator
from typing import cast

import anyio
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
from meshlib.runtime.waking import loop_token, threadsafe
from meshlib.transports import httpx_failures as failures
from meshlib.transports import httpx_translate as translate
from meshlib.transports.driving import conclude, handshake, unsecured
from meshlib.transports.httpx_engine import AsyncBody, AsyncEngine, async_mocked
from meshlib.transports.httpx_errors import BODY_LATE, DEADLINE_LATE, MeshNotReady, RouteTimeout
from meshlib.transports.httpx_exchange import Exchange, Timeouts, with_record
from meshlib.transports.httpx_race import AsyncRacers
from meshlib.transports.mirrors import MirrorTasks, Tee
from meshlib.transports.options import TransportOptions
from meshlib.transports.pacing import Pace
from meshlib.upstream.clock import AttemptClock, attempt_clock
from meshlib.upstream.failure import AttemptFailed
from meshlib.upstream.pools import AsyncEndpointPools, PoolSettings


class AsyncCarrier(httpx.AsyncHTTPTransport):
    """httpx's own transport over our pools: what instruments or mocks httpx sees every attempt."""

    def __init__(self, pools: AsyncEndpointPools) -> None:
        self._pool = pools


class AsyncCallStream(httpx.AsyncByteStream):
    """The body of a returned response; it keeps the call alive until the body ends."""

    def __init__(
        self, inner: httpx.AsyncByteStream, policy: Policy, call: Call, clock: AttemptClock, rate: float
    ) -> None:
        self._inner = inner
        self._policy: Policy | None = policy
        self._call = call
        self._clock = clock
        self._received = 0
        self._pace = Pace(rate) if rate else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._inner)
        try:
            while (part := await self._next(parts)) is not None:
                self._received += len(part)
                if self._pace is None:
                    yield part
                    continue
                for wait, piece in self._pace.pieces(part):
                    await anyio.sleep(wait)
                    yield piece
        except httpx.TransportError as error:
            late = isinstance(error, httpx.TimeoutException)
            self._end(ErrorKind.APPLICATION if late else ErrorKind.RESET)
            raise with_record(error, self._call.record) from None
        self._end(None)

    async def _next(self, parts: AsyncIterator[bytes]) -> bytes | None:
        self._clock.next_part()
        left = self._clock.left()
        if left is None:
            return await anext(parts, None)
        with anyio.move_on_after(left):
            return await anext(parts, None)
        if not self._clock.mesh_expired:
            raise httpx.ReadTimeout(DEADLINE_LATE)
        self._end(ErrorKind.TIMEOUT)
        raise RouteTimeout(BODY_LATE, record=self._call.record)

    def take(self) -> bytes | None:
        """Return the whole body and end the call, or None where it is not here as a whole."""
        data = self._inner.take() if type(self._inner) is AsyncBody and self._received == 0 else None
        if data is not None:
            self._received = len(data)
            self._end(None)
        return data

    async def aclose(self) -> None:
        """Close the connection or give it back; the call ends here at the latest."""
        try:
            await self._inner.aclose()
        finally:
            self._end(None)

    def _end(self, error: ErrorKind | None) -> None:
        policy, self._policy = self._policy, None
        if policy is not None:
            conclude(policy, BodyEnd(error, self._received))


class AsyncMeshTransport(httpx.AsyncBaseTransport):
    """``httpx.AsyncClient(transport=AsyncMeshTransport(runtime))``; usable from several event loops.

    Args:
        runtime: the mesh.
        options: TLS of ``https://`` URLs, limits, local replies, the inner transport.
    """

    def __init__(self, runtime: Runtime, options: TransportOptions | None = None) -> None:
        self._runtime = runtime
        self._options = options or TransportOptions()
        self._settings = self._options.pool_settings()
        # Connections belong to the event loop that opened them.
        self._loops: weakref.WeakKeyDictionary[object, _Loop] = weakref.WeakKeyDictionary()
        inner = self._options.inner
        if inner is not None and not isinstance(inner, httpx.AsyncBaseTransport):
            raise TypeError(f"inner of an async transport is an httpx.AsyncBaseTransport, not {inner!r}")
        self._inner = inner
        runtime.on_fork(self)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request`` through the mesh."""
        view = translate.view_of(request)
        timeouts = Timeouts(request)
        live = self._runtime.live(view)
        if live is None:
            live = await self._wait(view, timeouts, request)
        loop = await self._loop(live)
        call = self._runtime.call(view, live, deadline=timeouts.deadline, races=True, traced=timeouts.traced)
        policy = execute(call)
        try:
            return await self._drive(policy, Exchange(call, request, timeouts), loop)
        except BaseException:
            policy.close()
            raise

    async def _loop(self, live: LiveSnapshot) -> _Loop:
        token = loop_token()
        loop = self._loops.get(token)
        if loop is None:
            loop = self._loops[token] = _Loop(self._settings, self._inner)
        if live is not loop.seen:
            loop.seen = live
            await loop.retire(live)
        return loop

    async def _drive(
        self,
        policy: Policy,
        exchange: Exchange,
        loop: _Loop,
    ) -> httpx.Response:
        effect: Effect = next(policy)
        clock: AttemptClock | None = None
        while True:
            answer: Answer = None
            if isinstance(effect, Race):
                effect, clock = await self._race(effect, policy, exchange, loop)
                continue
            if isinstance(effect, Attempt):
                clock = exchange.clock(effect)
                answer = await self._attempt(effect, exchange, clock, loop)
            elif isinstance(effect, Respond):
                return self._respond(effect, policy, exchange, cast("AttemptClock", clock))
            elif isinstance(effect, Reply):
                conclude(policy, None)
                return translate.answer(effect, exchange, raises=self._options.raises)
            elif isinstance(effect, Sleep):
                await self._sleep(effect.seconds, exchange)
            elif isinstance(effect, Await):
                call = exchange.call
                call.live = await self._wait(call.view, exchange.timeouts, exchange.request, effect.cluster)
            elif isinstance(effect, Park):
                await self._park(effect, exchange)
            elif isinstance(effect, Discard):
                await cast("httpx.Response", effect.outcome.response).aclose()
            elif isinstance(effect, Mirror):
                self._mirror(effect, exchange, loop)
            elif isinstance(effect, Restart):
                await cast("httpx.Response", effect.outcome.response).aclose()
                exchange.sent = translate.restarted(exchange, effect)
            effect = policy.send(answer)

    async def _race(
        self, effect: Effect, policy: Policy, exchange: Exchange, loop: _Loop
    ) -> tuple[Effect, AttemptClock | None]:
        """Make attempts side by side until policy asks for something else; returns that, and the winner's clock."""

        async def send(attempt: Attempt, exchange: Exchange, clock: AttemptClock) -> Outcome:
            return await self._attempt(attempt, exchange, clock, loop)

        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            racers = AsyncRacers(send, exchange, group)
            try:
                while isinstance(effect, Race):
                    effect = policy.send(await racers.go(effect))
            except Exception as error:  # noqa: BLE001  raised below: a task group would wrap it
                failure = error
            finally:
                await racers.end()
        if failure is not None:
            raise failure
        return effect, racers.clock

    async def _attempt(
        self,
        effect: Attempt,
        exchange: Exchange,
        clock: AttemptClock,
        loop: _Loop,
    ) -> Outcome:
        token = attempt_clock.set(clock)
        try:
            with anyio.CancelScope() as scope:
                clock.on_change = lambda: _bound(scope, clock)
                _bound(scope, clock)
                response = await loop.send(exchange, effect, clock)
            if scope.cancelled_caught:
                return failures.cut(clock)
        except AttemptFailed as failure:
            return failures.outcome(failure, failures.to_httpx(failure), effect, clock, exchange.timeouts)
        except httpx.TransportError as error:
            return failures.outcome(failures.from_httpx(error, clock), error, effect, clock, exchange.timeouts)
        finally:
            clock.on_change = None
            exchange.timeouts.connecting += clock.connecting
            attempt_clock.reset(token)
        return translate.responded(response, effect, clock)

    def _respond(self, effect: Respond, policy: Policy, exchange: Exchange, clock: AttemptClock) -> httpx.Response:
        response = cast("httpx.Response", effect.outcome.response)
        response.extensions["meshlib"] = exchange.call.record
        if effect.edit is not None:
            translate.edit(response, effect.edit)
        if response.is_stream_consumed:  # a mock's: nothing left to read
            conclude(policy, BodyEnd(None, len(response.content)))
            return response
        clock.turn_to_body(effect.timeout, exchange.timeouts.total_deadline, effect.gap)
        response.stream = AsyncCallStream(
            cast("httpx.AsyncByteStream", response.stream), policy, exchange.call, clock, effect.rate
        )
        return response

    def _mirror(self, effect: Mirror, exchange: Exchange, loop: _Loop) -> None:
        sent = exchange.sent

        def send(copy: Mirror, content: bytes | None) -> None:
            loop.mirrors.send(copy.call, lambda: self._copy(copy, sent, content, loop))

        if exchange.call.view.replayable:
            send(effect, None)
            return
        if exchange.tee is None:
            exchange.tee = Tee(send)
        exchange.tee.wait(effect)

    async def _copy(self, effect: Mirror, like: httpx.Request, content: bytes | None, loop: _Loop) -> None:
        """Send a copy of a request; only the observer learns what became of it."""
        policy = mirrored(effect.call, effect.action)
        try:
            response = await self._drive(policy, translate.copied(effect, like, content), loop)
            try:
                async for _ in cast("httpx.AsyncByteStream", response.stream):
                    pass
            finally:
                await response.aclose()
        except Exception:  # noqa: BLE001  nobody waits for a copy: what became of it is in its record
            pass
        finally:
            policy.close()

    async def _sleep(self, seconds: float, exchange: Exchange) -> None:
        left = exchange.timeouts.left_for_head()
        if left is not None and seconds >= left:
            await anyio.sleep(left)
            raise exchange.expired()
        await anyio.sleep(seconds)

    async def _park(self, effect: Park, exchange: Exchange) -> None:
        granted = anyio.Event()
        effect.ticket.on_grant(threadsafe(granted.set))
        seconds, application_expired = exchange.patience(effect)
        began = time.monotonic()
        with anyio.move_on_after(seconds):
            await granted.wait()
        if effect.pooled:
            exchange.timeouts.pooling += time.monotonic() - began
        if not granted.is_set() and application_expired is not None:
            raise application_expired()

    async def _wait(
        self, view: RequestView, timeouts: Timeouts, request: httpx.Request, cluster: str = ""
    ) -> LiveSnapshot:
        try:
            return await self._runtime.await_(view, timeouts.for_configuration(), cluster)
        except errors.MeshNotReady as error:
            raise MeshNotReady(str(error), request=request) from None

    async def aclose(self) -> None:
        """Close this event loop's connections; the mesh stays open."""
        loop = self._loops.pop(loop_token(), None)
        if loop is not None:
            await loop.aclose()

    def forked(self) -> None:
        """Leave the connections to the parent process."""
        self._loops.clear()


class _Loop:
    """What belongs to one event loop: its connections."""

    __slots__ = ("__weakref__", "_carrier", "_contexts", "_engine", "_inner", "_pools", "mirrors", "seen")

    def __init__(self, settings: PoolSettings, inner: httpx.AsyncBaseTransport | None) -> None:
        self._inner = inner
        self._contexts = settings.contexts
        self._engine = AsyncEngine(settings)
        self._pools = AsyncEndpointPools(settings)  # for mocks, HTTP/2 and trio
        self._carrier = AsyncCarrier(self._pools)
        self.mirrors = MirrorTasks()
        self.seen: LiveSnapshot | None = None

    async def send(self, exchange: Exchange, effect: Attempt, clock: AttemptClock) -> httpx.Response:
        secured = handshake(self._contexts, effect, exchange.call.view)
        if self._inner is None and self._engine.carries(exchange, effect) and not async_mocked():
            return await self._engine.send(exchange, effect, secured, clock)
        if secured is not None and isinstance(self._inner, httpx.AsyncHTTPTransport):
            raise unsecured(self._inner)
        transport = self._inner or self._carrier
        return await transport.handle_async_request(translate.attempt_request(exchange, effect, secured, clock))

    async def retire(self, live: LiveSnapshot) -> None:
        self._engine.retire(live.has_endpoint)
        await self._pools.retire(live.has_endpoint)

    async def aclose(self) -> None:
        await self.mirrors.aclose()
        self._engine.close()
        await self._pools.aclose()


def _bound(scope: anyio.CancelScope, clock: AttemptClock) -> None:
    left = clock.left()
    if left is not None:
        scope.deadline = anyio.current_time() + left
