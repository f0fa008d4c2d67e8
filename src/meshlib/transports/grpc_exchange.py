"""One RPC as the gRPC drivers see it: what the application asked for, and how long it may take."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import grpc

from meshlib.deadlines import current_deadline
from meshlib.policy.call import Call
from meshlib.policy.effects import Attempt, Outcome, Reply, ReplyKind
from meshlib.policy.record import CallRecord
from meshlib.runtime.runtime import FIRST_CONFIGURATION_TIMEOUT
from meshlib.transports import grpc_errors
from meshlib.transports.grpc_errors import DeadlineExceeded, with_record
from meshlib.transports.grpc_translate import Bound, Metadata, Target, allowed, attempt_metadata, view_of

Serializer = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a stub.

    Attributes:
        kind: ``unary_unary``, ``unary_stream``, ``stream_unary`` or ``stream_stream``.
        path: ``/package.Service/Method``.
        serializer: of requests, None = bytes as they are.
        deserializer: of responses, None = bytes as they are.
    """

    kind: str
    path: str
    serializer: Serializer | None
    deserializer: Serializer | None

    @property
    def unary(self) -> bool:
        """Whether it is one message each way."""
        return self.kind == "unary_unary"

    @property
    def streams_requests(self) -> bool:
        """Whether the request is an iterator, which can be sent only once."""
        return self.kind.startswith("stream")

    @property
    def streams_responses(self) -> bool:
        """Whether the call goes on after its first message."""
        return self.kind.endswith("stream")


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What an application may say of one RPC, in grpc's order.

    Attributes:
        timeout: seconds for the whole call, over all attempts, None = no bound.
        metadata: key-value pairs to send.
        credentials: call credentials; grpc refuses them on a plaintext connection.
        wait_for_ready: passed to each attempt, which then waits for its connection.
        compression: of the request.
    """

    timeout: float | None = None
    metadata: Metadata | None = None
    credentials: Any = None
    wait_for_ready: bool | None = None
    compression: Any = None


class Exchange:
    """One RPC under way. Used by one driver; ``serialize`` and ``deserialize`` also by grpc's threads.

    Attributes:
        method: the method.
        request: the message, or the iterator of messages.
        view: what policy reads of it.
        received: bytes of the responses so far.
        call: the policy call, None until there is a configuration.
    """

    __slots__ = ("_deadline", "_options", "call", "method", "received", "request", "view")

    def __init__(self, target: Target, method: Method, request: Any, options: CallOptions) -> None:
        self.method = method
        self.request = request
        self._options = options
        given = None if options.timeout is None else time.monotonic() + options.timeout
        self._deadline = min((at for at in (given, current_deadline()) if at is not None), default=None)
        replayable = not method.streams_requests
        self.view = view_of(target, method.path, tuple(options.metadata or ()), replayable=replayable)
        self.received = 0
        self.call: Call | None = None

    def copied(self, call: Call) -> Exchange:
        """Return a copy of this RPC, whose request is one message, as a call of its own without a timeout."""
        view, serializer = call.view, self.method.serializer
        method = replace(self.method, serializer=None, deserializer=None)
        request = self.request if serializer is None else serializer(self.request)
        binary = [pair for pair in self._options.metadata or () if pair[0].endswith("-bin")]
        options = CallOptions(metadata=[*((name, value) for name, value in view.headers if allowed(name)), *binary])
        copy = Exchange(Target(view.host, view.port, view.authority), method, request, options)
        copy.view, copy.call = view, call
        return copy

    @property
    def record(self) -> CallRecord:
        """The record of the call, which has begun."""
        return cast("Call", self.call).record

    @property
    def deadline(self) -> float | None:
        """The monotonic second of the application's time limit, None = no bound."""
        return self._deadline

    def left(self) -> float | None:
        """Return the seconds left of the application's timeout, not below 0; None = no bound."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def left_for_configuration(self) -> float:
        """Return the seconds to wait for the first configuration: the application's timeout, at most 15."""
        left = self.left()
        return FIRST_CONFIGURATION_TIMEOUT if left is None else min(left, FIRST_CONFIGURATION_TIMEOUT)

    def bound(self, timeout: float | None) -> Bound:
        """Return the nearer of ``timeout`` and the application's own, from now."""
        left = self.left()
        application = left is not None and (timeout is None or left <= timeout)
        return Bound(left if application else timeout, application, time.monotonic())

    def invoke(self, channel: Any, effect: Attempt) -> Any:
        """Return grpc's multi-callable of this method on ``channel``, at the attempt's path."""
        return getattr(channel, self.method.kind)(effect.target, self.serialize, self.deserialize)

    def arguments(self, effect: Attempt, bound: Bound) -> dict[str, Any]:
        """Return grpc's arguments of one attempt, and start counting its bytes.

        The grpc deadline of a stream is the application's alone; the mesh's timeouts are a
        :class:`~meshlib.transports.grpc_cutoff.Cutoff`.
        """
        self.record.bytes_sent = self.received = 0
        options = self._options
        return {
            "timeout": bound.timeout if self.method.unary else self.left(),
            "metadata": attempt_metadata(tuple(options.metadata or ()), effect),
            "credentials": options.credentials,
            "wait_for_ready": options.wait_for_ready,
            "compression": options.compression,
        }

    def serialize(self, message: Any) -> Any:
        """Serialize a request as the stub does, and count its bytes."""
        data = message if self.method.serializer is None else self.method.serializer(message)
        self.record.bytes_sent += len(data)
        return data

    def deserialize(self, data: bytes) -> Any:
        """Deserialize a response as the stub does, and count its bytes."""
        self.received += len(data)
        return data if self.method.deserializer is None else self.method.deserializer(data)

    def status_of(self, outcome: Outcome) -> None:
        """Note the gRPC status of the final outcome in the record."""
        error = cast("Any", outcome.exception)
        self.record.grpc_status = 0 if error is None else error.code().value[0]

    def error_of(self, reply: Reply) -> BaseException:
        """Return the error to raise for a local reply, noting its code in the record."""
        if reply.kind is not ReplyKind.APPLICATION:
            made = grpc_errors.from_reply(reply, self.record)
            made.__cause__ = reply.cause
            self.record.grpc_status = made.code().value[0]
            return made
        cause = cast("Any", reply.cause)
        if not isinstance(cause, grpc.RpcError):
            return self.expired()
        self.record.grpc_status = cause.code().value[0]
        return cast("BaseException", with_record(cause, self.record))

    def expired(self) -> DeadlineExceeded:
        """Return the error of an application timeout that passed between attempts."""
        self.record.grpc_status = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
        attempts = len(self.record.attempts)
        details = f"the application's timeout of {self._options.timeout:g}s passed after {attempts} attempt(s)"
        return with_record(DeadlineExceeded(details), self.record)


class Cancelled(Exception):
    """The application cancelled the call from another thread."""


class Cancellation:
    """Ends a blocking call from another thread. Thread-safe."""

    __slots__ = ("_interrupt", "_lock", "cancelled")

    def __init__(self) -> None:
        self.cancelled = False
        self._interrupt: Callable[[], Callable[[], object] | None] = lambda: None
        self._lock = threading.Lock()

    def arm(self, interrupt: Callable[[], object]) -> None:
        """From now on let :meth:`cancel` call ``interrupt``, a bound method; at once if cancelled already.

        Held weakly, so that a stream nobody reads any more can be collected, which ends it.
        """
        with self._lock:
            self._interrupt = weakref.WeakMethod(cast("Any", interrupt))
            cancelled = self.cancelled
        if cancelled:
            interrupt()

    def cancel(self) -> None:
        """Cancel the call; idempotent."""
        with self._lock:
            self.cancelled = True
            interrupt = self._interrupt()
        if interrupt is not None:
            interrupt()

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Wait for ``event``; raises :class:`Cancelled` if the call is or gets cancelled."""
        self.arm(event.set)
        happened = event.wait(timeout)
        self.check()
        return happened

    def check(self) -> None:
        """Raise :class:`Cancelled` if the call was cancelled."""
        if self.cancelled:
            raise Cancelled
