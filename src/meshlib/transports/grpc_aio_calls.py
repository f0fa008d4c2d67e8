# mypy: disallow-subclassing-any=False
# (grpcio ships no types, so its classes are Any.)
"""What the asyncio channel hands out: a call object for each kind of method."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, NamedTuple

import grpc

from meshlib.policy.call import Policy
from meshlib.policy.effects import Attempt, BodyEnd, ErrorKind
from meshlib.policy.record import CallRecord
from meshlib.transports.driving import conclude
from meshlib.transports.grpc_cutoff import Cutoff
from meshlib.transports.grpc_errors import BODY_LATE, RouteTimeout, with_record
from meshlib.transports.grpc_exchange import Exchange
from meshlib.transports.grpc_translate import failed, load_metrics, wants_report

EOF = grpc.aio.EOF


class Answered(NamedTuple):
    """What a call came to.

    Attributes:
        message: the response, or the first message of a stream.
        inner: grpc's call.
        ending: ends the policy of a stream that goes on; None where the call is over.
    """

    message: Any
    inner: Any
    ending: Ending | None


class Ending:
    """Ends the policy of a stream, once."""

    def __init__(
        self, policy: Policy, exchange: Exchange, effect: Attempt, cutoff: Cutoff, release: Callable[[], None]
    ) -> None:
        self._policy: Policy | None = policy
        self._exchange = exchange
        self._effect = effect
        self._cutoff = cutoff
        self._release = release

    @property
    def route_expired(self) -> bool:
        """Whether the route's timeout cut the stream."""
        return self._cutoff.fired

    @property
    def wants_report(self) -> bool:
        """Whether the cluster balances by what the trailing metadata tells of its load."""
        return wants_report(self._effect)

    def end(self, error: Any = None, *, cancelled: bool = False, metadata: Any = None) -> None:
        """End it: well, with grpc's ``error``, or ``cancelled`` by the application; ``metadata`` is the trailing."""
        policy, self._policy = self._policy, None
        if policy is None:
            return
        self._cutoff.stop()
        code = grpc.StatusCode.CANCELLED if cancelled else grpc.StatusCode.OK if error is None else error.code()
        self._exchange.record.grpc_status = code.value[0]
        conclude(policy, BodyEnd(self._kind(error), self._exchange.received, load_metrics(metadata)))
        self._release()

    async def settle(self, inner: Any) -> None:
        """End it as ``inner``, grpc's call, ended."""
        code, details = await inner.code(), await inner.details()
        metadata = await inner.initial_metadata(), await inner.trailing_metadata()
        error = None if code is grpc.StatusCode.OK else grpc.aio.AioRpcError(code, *metadata, details=details)
        self.end(error, metadata=metadata[1])

    def _kind(self, error: Any) -> ErrorKind | None:
        if self._cutoff.fired:
            return ErrorKind.TIMEOUT
        return None if error is None else failed(error, self._effect, self._exchange.bound(None)).error


class Started(NamedTuple):
    """An attempt under way: grpc's call, and what bounds it."""

    inner: Any
    cutoff: Cutoff


Run = Callable[[Exchange, "asyncio.Future[Started]"], Awaitable[Answered]]


class _MeshCall(grpc.aio.Call):
    """The part that all kinds share: the call runs in a task of its own."""

    def __init__(self, run: Run, exchange: Exchange) -> None:
        loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._attempt: asyncio.Future[Started] = loop.create_future()
        self._over: asyncio.Future[None] = loop.create_future()
        self._task = loop.create_task(_settled(run, exchange, self._attempt))
        self._abandoned: weakref.finalize[Any, Any] | None = None
        self._task.add_done_callback(self._opened)

    @property
    def record(self) -> CallRecord | None:
        """The call's record, live until the call is over; None before it begins."""
        return None if (call := self._exchange.call) is None else call.record

    def cancelled(self) -> bool:
        """Tell whether the application cancelled the call."""
        return self._over.cancelled()

    def done(self) -> bool:
        """Tell whether the call is over."""
        return self._over.done()

    def time_remaining(self) -> float | None:
        """Return the seconds left of the application's timeout, None = no bound."""
        return self._exchange.left()

    def cancel(self) -> bool:
        """Cancel the call, wherever it stands; returns False once it is over."""
        if self._over.done():
            return False
        self._task.cancel()
        stream = self._streaming()
        if stream is not None:
            _end(stream)
        self._over.cancel()
        self._finish()
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback`` with this call when it is over."""
        self._over.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> Any:
        """Wait for the response, or a stream's first message; returns the metadata the server began with."""
        return await self._ask("initial_metadata")

    async def trailing_metadata(self) -> Any:
        """Wait for the end of the call; returns the metadata the server ended with."""
        return await self._ask("trailing_metadata")

    async def code(self) -> grpc.StatusCode:
        """Wait for the end of the call; returns its status code."""
        return grpc.StatusCode.CANCELLED if self.cancelled() else await self._ask("code")

    async def details(self) -> str | None:
        """Wait for the end of the call; returns its details."""
        details: str | None = "Locally cancelled by application!" if self.cancelled() else await self._ask("details")
        return details

    async def wait_for_connection(self) -> None:
        """Wait for the response, or a stream's first message; raises the call's error."""
        await self._answer()

    async def _ask(self, what: str) -> Any:
        """Ask whoever knows: the error, or grpc's call, which waits where it must."""
        settled = await self._wait()
        if isinstance(settled, BaseException):
            if not isinstance(settled, grpc.RpcError):
                raise settled
            return getattr(settled, what)()
        answer = await getattr(settled.inner, what)()
        if settled.ending is not None and what != "initial_metadata":
            await settled.ending.settle(settled.inner)
            self._finish()
        return answer

    async def _answer(self) -> Answered:
        settled = await self._wait()
        if isinstance(settled, BaseException):
            raise settled
        return settled

    async def _wait(self) -> Answered | BaseException:
        # Shielded: whoever asks for a status may be cancelled without cancelling the call.
        return await asyncio.shield(self._task)

    def _opened(self, task: asyncio.Task[Any]) -> None:
        stream = self._streaming()
        if stream is None:
            self._finish()
        else:
            self._abandoned = weakref.finalize(self, _abandon, task.get_loop(), stream)
            self._abandoned.atexit = False

    def _streaming(self) -> Answered | None:
        """Return the stream that has begun, None where there is none, or not yet."""
        if not self._task.done() or self._task.cancelled():
            return None
        settled = self._task.result()
        return None if isinstance(settled, BaseException) or settled.ending is None else settled

    def _finish(self) -> None:
        if self._abandoned is not None:
            self._abandoned.detach()
        if not self._over.done():
            if self._task.cancelled():
                self._over.cancel()
            else:
                self._over.set_result(None)


async def _settled(run: Run, exchange: Exchange, attempt: asyncio.Future[Started]) -> Answered | BaseException:
    """Run the call; an error is a value here, so that a call nobody awaits leaves no warning."""
    try:
        return await run(exchange, attempt)
    except Exception as error:  # noqa: BLE001  it is the awaiter's to raise
        return error
    finally:
        if not attempt.done():
            attempt.cancel()


def _abandon(loop: asyncio.AbstractEventLoop, stream: Answered) -> None:
    """End a stream that nobody can read any more; the collector may call this on any thread."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(_end, stream)


def _end(stream: Answered) -> None:
    stream.inner.cancel()
    if stream.ending is not None:
        stream.ending.end(cancelled=True)


class _Awaited(_MeshCall):
    """A unary response: the call is awaited."""

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    async def _response(self) -> Any:
        try:
            return (await self._answer()).message
        except asyncio.CancelledError:
            self.cancel()
            raise


class _Read(_MeshCall):
    """A stream of responses: the call is read, or iterated."""

    _begun = False
    _messages: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._messages is None:
            self._messages = self._iterate()
        return self._messages

    async def _iterate(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not EOF:
            yield message

    async def read(self) -> Any:
        """Return the next message, or ``grpc.aio.EOF``; raises the call's error."""
        try:
            message = await self._next()
        except asyncio.CancelledError:
            self.cancel()
            raise
        except BaseException:
            self._finish()
            raise
        if message is EOF:
            self._finish()
        return message

    async def _next(self) -> Any:
        reply = await self._answer()
        if not self._begun:
            self._begun = True
            return reply.message
        ending = reply.ending
        if ending is None:
            return EOF
        error = None
        try:
            message = await reply.inner.read()
        except grpc.aio.AioRpcError as caught:
            error = with_record(caught, self._exchange.record)
        except asyncio.CancelledError:
            if not ending.route_expired:
                raise
        if error is None and not ending.route_expired and message is not EOF:
            return message
        over = not ending.route_expired and ending.wants_report
        ending.end(error, metadata=await reply.inner.trailing_metadata() if over else None)
        if ending.route_expired:
            raise RouteTimeout(grpc.StatusCode.DEADLINE_EXCEEDED, BODY_LATE, record=self._exchange.record)
        if error is not None:
            raise error
        return EOF


class _Written(_MeshCall):
    """A stream of requests: written, unless an iterator was given."""

    async def write(self, request: Any) -> None:
        """Write a request; waits for the endpoint to be chosen."""
        attempt = await self._started()
        try:
            await attempt.inner.write(request)
        except (grpc.RpcError, asyncio.InvalidStateError):
            await self._raise_own()
            raise

    async def done_writing(self) -> None:
        """End the requests."""
        attempt = await self._started()
        await attempt.inner.done_writing()
        attempt.cutoff.request_complete()

    async def _started(self) -> Started:
        try:
            return await asyncio.shield(self._attempt)
        except asyncio.CancelledError:
            if not self._attempt.cancelled():
                raise  # the writer was cancelled, not the call
            await self._raise_own()
            raise

    async def _raise_own(self) -> None:
        """Raise the call's error, which knows more than the failed write."""
        settled = await self._wait()
        if isinstance(settled, BaseException):
            raise settled


class UnaryUnaryCall(_Awaited, grpc.aio.UnaryUnaryCall):
    """One message each way."""


class UnaryStreamCall(_Read, grpc.aio.UnaryStreamCall):
    """One request, a stream of responses."""


class StreamUnaryCall(_Awaited, _Written, grpc.aio.StreamUnaryCall):
    """A stream of requests, one response."""


class StreamStreamCall(_Read, _Written, grpc.aio.StreamStreamCall):
    """A stream each way."""
