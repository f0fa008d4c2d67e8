# mypy: disallow-subclassing-any=False
# (grpcio ships no types, so its classes are Any.)
"""What the blocking channel hands out: futures, and streams of responses."""

from __future__ import annotations

import concurrent.futures
import contextvars
import threading
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

import grpc

from meshlib.policy.call import Policy
from meshlib.policy.effects import Attempt, BodyEnd, ErrorKind
from meshlib.policy.record import CallRecord
from meshlib.transports.driving import conclude
from meshlib.transports.grpc_cutoff import Cutoff
from meshlib.transports.grpc_errors import BODY_LATE, CancelledRpc, RouteTimeout, with_record
from meshlib.transports.grpc_exchange import Cancellation, Cancelled, Exchange
from meshlib.transports.grpc_translate import failed, load_metrics, wants_report

END = object()  # instead of a first message: the stream ended without one


class Ending:
    """Ends the policy of a stream when its RPC does, on whatever thread that shows.

    It must not keep the RPC alive: one that nobody reads any more is collected, which ends it.

    Args:
        policy: suspended at its last effect.
        exchange: the RPC.
        effect: its attempt.
        inner: grpc's call.
        cutoff: cuts it at the route's timeout.
        release: gives the channel back.

    Attributes:
        done: set when the call is over and its record final.
    """

    def __init__(
        self,
        policy: Policy,
        exchange: Exchange,
        effect: Attempt,
        inner: Any,
        cutoff: Cutoff,
        release: Callable[[], None],
    ) -> None:
        self._policy = policy
        self._exchange = exchange
        self._effect = effect
        self._inner = weakref.ref(inner)
        self._cutoff = cutoff
        self._release = release
        self.done = threading.Event()
        if not inner.add_callback(self._end):
            self._end()

    @property
    def route_expired(self) -> bool:
        """Whether the route's timeout cut the stream."""
        return self._cutoff.fired

    def _end(self) -> None:
        self._cutoff.stop()
        inner = self._inner()
        code = grpc.StatusCode.CANCELLED if inner is None else inner.code()
        self._exchange.record.grpc_status = code.value[0]
        try:
            trailers = {}
            if inner is not None and wants_report(self._effect):
                trailers = load_metrics(inner.trailing_metadata())
            conclude(self._policy, BodyEnd(self._error(code, inner), self._exchange.received, trailers))
        finally:
            self._release()
            self.done.set()

    def _error(self, code: grpc.StatusCode, inner: Any) -> ErrorKind | None:
        if self._cutoff.fired:
            return ErrorKind.TIMEOUT
        if inner is None or code is grpc.StatusCode.OK or inner.cancelled():
            return None
        return failed(inner, self._effect, self._exchange.bound(None)).error


class Opened(NamedTuple):
    """A stream of responses that has begun.

    Attributes:
        first: its first message, :data:`END` for none.
        inner: grpc's call.
        ending: ends the policy of the call.
    """

    first: Any
    inner: Any
    ending: Ending


class MeshFuture(grpc.Future, grpc.Call):
    """A unary response to come, as ``future()`` of a stub's method returns it."""

    def __init__(
        self,
        executor: concurrent.futures.Executor,
        run: Callable[[Exchange, Cancellation], tuple[Any, Any]],
        exchange: Exchange,
    ) -> None:
        self._exchange = exchange
        self._cancellation = Cancellation()
        context = contextvars.copy_context()  # so that the application's span is the parent
        self._future = executor.submit(context.run, run, exchange, self._cancellation)

    @property
    def record(self) -> CallRecord | None:
        """The call's record, live until the call is over; None before it begins."""
        return None if (call := self._exchange.call) is None else call.record

    def cancel(self) -> bool:
        """Cancel the call, wherever it stands; returns False once it is over."""
        if self._future.cancel():
            return True
        if self._future.done():
            return self.cancelled()
        self._cancellation.cancel()
        return True

    def cancelled(self) -> bool:
        """Tell whether the call was cancelled before it was over."""
        return self._future.cancelled() or self._cancellation.cancelled

    def running(self) -> bool:
        """Tell whether the call is neither over nor cancelled."""
        return not self.done()

    def done(self) -> bool:
        """Tell whether the call is over or cancelled."""
        return self._future.done() or self._cancellation.cancelled

    def result(self, timeout: float | None = None) -> Any:
        """Return the response; raises the call's error, or grpc's FutureTimeoutError, FutureCancelledError."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._future.result()[0]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the call's error, None for a response; raises as :meth:`result` does."""
        try:
            error = self._future.exception(timeout)
        except concurrent.futures.CancelledError:
            raise grpc.FutureCancelledError from None
        except TimeoutError:
            raise grpc.FutureTimeoutError from None
        if isinstance(error, Cancelled):
            raise grpc.FutureCancelledError
        return error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Return the traceback of the call's error, None for a response."""
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def add_done_callback(self, fn: Callable[[MeshFuture], None]) -> None:
        """Call ``fn`` with this future when the call is over, on a thread of the channel's."""
        self._future.add_done_callback(lambda _: fn(self))

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call ``callback`` when the call is over; returns False if it is already."""
        if self._future.done():
            return False
        self._future.add_done_callback(lambda _: callback())
        return True

    def is_active(self) -> bool:
        """Tell whether the call is under way."""
        return not self.done()

    def time_remaining(self) -> float | None:
        """Return the seconds left of the application's timeout, None = no bound."""
        return self._exchange.left()

    def code(self) -> grpc.StatusCode:
        """Wait for the end of the call; returns its status code."""
        return grpc.StatusCode.CANCELLED if (call := self._final()) is None else call.code()

    def details(self) -> str | None:
        """Wait for the end of the call; returns its details."""
        return "Locally cancelled by application!" if (call := self._final()) is None else call.details()

    def initial_metadata(self) -> Any:
        """Wait for the end of the call; returns the metadata the server began with."""
        return () if (call := self._final()) is None else call.initial_metadata()

    def trailing_metadata(self) -> Any:
        """Wait for the end of the call; returns the metadata the server ended with."""
        return () if (call := self._final()) is None else call.trailing_metadata()

    def _final(self) -> Any:
        """Return what knows the final status: grpc's call, or the error; None for a cancelled call."""
        try:
            error = self.exception()
        except grpc.FutureCancelledError:
            return None
        if error is None:
            return self._future.result()[1]
        if isinstance(error, grpc.RpcError):
            return error
        raise error


class MeshStream(grpc.Call, Iterator[Any]):
    """The responses of a streaming call. One reader at a time; dropping it ends the call.

    The call begins at once, on a thread of its own until its first message: routing, balancing
    and retries happen there, so that the application never waits where grpc would not let it.
    """

    def __init__(self, run: Callable[[Exchange, Cancellation], Opened], exchange: Exchange) -> None:
        self._exchange = exchange
        self._cancellation = Cancellation()
        self._opening: concurrent.futures.Future[Opened] = concurrent.futures.Future()
        self._begun = False
        context = contextvars.copy_context()
        arguments = (_open, self._opening, run, exchange, self._cancellation)
        threading.Thread(target=context.run, args=arguments, name="meshlib-grpc-stream", daemon=True).start()

    @property
    def record(self) -> CallRecord | None:
        """The call's record, live until the stream ends; None before the call begins."""
        return None if (call := self._exchange.call) is None else call.record

    def __next__(self) -> Any:
        opened = self._opened()
        if not self._begun:
            self._begun = True
            if opened.first is not END:
                return opened.first
        try:
            return next(opened.inner)
        except StopIteration:
            opened.ending.done.wait()  # the record is final before the application goes on
            raise
        except grpc.RpcError as error:
            opened.ending.done.wait()
            if opened.ending.route_expired:
                raise RouteTimeout(grpc.StatusCode.DEADLINE_EXCEEDED, BODY_LATE, record=self._exchange.record) from None
            raise with_record(error, self._exchange.record) from None

    def cancel(self) -> None:
        """Cancel the call, wherever it stands."""
        self._cancellation.cancel()

    def is_active(self) -> bool:
        """Tell whether the call is under way."""
        if not self._opening.done():
            return not self._cancellation.cancelled
        return self._opening.exception() is None and bool(self._opening.result().inner.is_active())

    def time_remaining(self) -> float | None:
        """Return the seconds left of the application's timeout, None = no bound."""
        return self._exchange.left()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call ``callback`` when the call is over; returns False if it is already.

        Waits for the first message.
        """
        try:
            return bool(self._opened().inner.add_callback(callback))
        except grpc.RpcError:
            return False

    def initial_metadata(self) -> Any:
        """Wait for the first message; returns the metadata the server began with."""
        return self._final().initial_metadata()

    def trailing_metadata(self) -> Any:
        """Wait for the end of the call; returns the metadata the server ended with."""
        return self._final().trailing_metadata()

    def code(self) -> grpc.StatusCode:
        """Wait for the end of the call; returns its status code."""
        return self._final().code()

    def details(self) -> str | None:
        """Wait for the end of the call; returns its details."""
        details: str | None = self._final().details()
        return details

    def _opened(self) -> Opened:
        return self._opening.result()

    def _final(self) -> Any:
        try:
            return self._opened().inner
        except grpc.RpcError as error:
            return error


def _open(
    opening: concurrent.futures.Future[Opened],
    run: Callable[[Exchange, Cancellation], Opened],
    exchange: Exchange,
    cancellation: Cancellation,
) -> None:
    # A function, not a method: the thread must not keep a stream alive that nobody reads.
    try:
        opening.set_result(run(exchange, cancellation))
    except Cancelled:
        opening.set_exception(CancelledRpc("Locally cancelled by application!"))
    except BaseException as error:  # noqa: BLE001  it is the reader's to raise
        opening.set_exception(error)
