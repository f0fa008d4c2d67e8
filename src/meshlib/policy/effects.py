"""What one call asks of its driver, and what the driver answers.

The policy of a call is a generator (:func:`meshlib.policy.stack.execute`). It yields the effects
below; a driver of about 25 lines, one sync and one async, performs them:

=============  =========================================================  ==================
effect         the driver                                                 sends back
=============  =========================================================  ==================
Attempt        dials ``endpoint``, sends the request, waits for the head  Outcome
Race           makes attempts side by side, waits for the first to end    Raced or None
Sleep          sleeps                                                     None
Await          waits until ``cluster`` is there; puts the newest        None
               snapshot into ``Call.live``, or ends the call
Park           waits until ``ticket`` is granted or ``deadline`` passes   None
Discard        closes the response of an outcome that will be retried     None
Restart        closes it as well and goes on with another request         None
Mirror         has another call made beside this one, and never waits     None
Respond        returns the response; the stream wrapper keeps the         BodyEnd, when the
               generator and reports the end of the body                  body ends or breaks
Reply          returns a reply made here, or raises, by ``local_replies``  nothing: last effect
=============  =========================================================  ==================

Effects are slotted, not frozen: made once a call, read at once (frozen costs 0.3 µs each).
Closing the generator at any point gives every count back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from meshlib.model.cluster import Cluster, TransportSocket
from meshlib.model.endpoint import Endpoint
from meshlib.model.request import RequestView

if TYPE_CHECKING:
    from meshlib.model.route import RouteAction
    from meshlib.policy.call import Call


class ErrorKind(Enum):
    """Why an attempt brought no response head."""

    CONNECT = "connection failed"  # refused, unreachable, unresolvable
    CONNECT_TIMEOUT = "connect timeout"  # the cluster's connect_timeout
    RESET = "connection reset before the response head"
    REFUSED = "stream refused"  # RST_STREAM REFUSED_STREAM: the endpoint has not begun on it
    TIMEOUT = "timeout"  # the attempt's deadline; policy knows whose it was
    PROTOCOL = "invalid response"
    TLS_UNAVAILABLE = "TLS cannot be honoured"
    TLS_FAILED = "TLS handshake failed"
    APPLICATION = "ended by the application"  # its timeout or its body iterator; never retried, never counted


class HeaderLookup(Protocol):
    """Response headers as policy reads them; ``httpx.Headers`` and ``dict`` satisfy it.

    ``httpx.Headers`` also has ``get_list``, for headers that come more than once.
    """

    def get(self, key: str, /) -> str | None:
        """Return the value of a header by lower-case name, or None."""
        ...


class Outcome(NamedTuple):
    """What an attempt met: a response head or an error. Exceptions are values here.

    Attributes:
        status: HTTP status, None for an error.
        headers: response headers by lower-case name.
        error: the kind of failure, None for a response.
        message: the failure in words.
        response: the driver's response object, opaque to policy.
        exception: the driver's exception, opaque to policy.
        grpc_status: status of a gRPC call, when known with the head.
        written: whether any byte of the request may have reached the endpoint.
        upload: seconds until the request was complete, 0.0 where the body was ready at once;
            timeouts count from there.
    """

    status: int | None = None
    headers: HeaderLookup = {}  # noqa: RUF012  a shared empty dict nobody writes to
    error: ErrorKind | None = None
    message: str = ""
    response: object = None
    exception: BaseException | None = None
    grpc_status: int | None = None
    written: bool = True
    upload: float = 0.0

    def values(self, name: str) -> list[str]:
        """Return every value of the response header ``name`` (lower case), in order."""
        several = getattr(self.headers, "get_list", None)
        if several is not None:
            return list(several(name))
        value = self.headers.get(name)
        return [] if value is None else [value]


@dataclass(slots=True)
class Attempt:
    """Send the request to ``endpoint`` and report the response head.

    Attributes:
        number: 1-based.
        cluster: for connect_timeout, HTTP/2 and pool keys.
        endpoint: where to dial.
        transport_socket: the socket in force for this endpoint, None is plaintext.
        timeout: seconds from the moment the request is sent in full to the response head,
            over connecting too when the body is ready at once; None = no bound.
        headers: request headers to set for this attempt (lower-case names).
        authority: Host header to send, when the route rewrites it.
        target: path and query to send, when the route rewrites them.
        removed: request headers not to send on (lower-case names).
    """

    number: int
    cluster: Cluster
    endpoint: Endpoint
    transport_socket: TransportSocket | None
    timeout: float | None
    headers: Sequence[tuple[str, str]]
    authority: str
    target: str
    removed: frozenset[str] = frozenset()


@dataclass(slots=True)
class Sleep:
    """Sleep ``seconds`` (back-off, injected delay)."""

    seconds: float


@dataclass(slots=True)
class Await:
    """Ask for ``cluster``, whose endpoints are asked for when they are first needed, and wait for it."""

    cluster: str


@dataclass(slots=True)
class Race:
    """Go on with several attempts at once, until one has its response head or error.

    A driver may only be asked for races where :attr:`~meshlib.policy.call.Call.races` says so. What
    still runs when policy asks for anything else has lost: the driver ends it.

    Attributes:
        launch: an attempt to begin beside those under way, None for none.
        drop: numbers of attempts to end, or of answered ones whose responses to close.
        ticket: a connection slot whose grant ends the wait too, None for none.
        timeout: seconds to wait for the first answer, None = no bound.
    """

    launch: Attempt | None
    drop: Sequence[int]
    ticket: Ticket | None
    timeout: float | None


class Raced(NamedTuple):
    """One of several attempts has ended, or sent its request in full.

    Attributes:
        number: of the attempt.
        outcome: what it met; None when its streamed body has gone out.
    """

    number: int
    outcome: Outcome | None


class Ticket(Protocol):
    """Something to wait for: a connection slot (``policy.limits``), a cluster's first look-up (``policy.upkeep``)."""

    def on_grant(self, wake: WakeUp) -> None:
        """Call ``wake()``, from any thread, once it is granted; at once if it already is."""
        ...


class WakeUp(Protocol):
    """Wakes the driver; must be callable from any thread."""

    def __call__(self) -> None:
        """Wake it."""
        ...


@dataclass(slots=True)
class Park:
    """Wait for ``ticket``, at most ``timeout`` seconds (None = no bound).

    Attributes:
        ticket: tells when the wait is over.
        timeout: seconds.
        pooled: whether it is a connection slot, so that the application's pool timeout counts.
    """

    ticket: Ticket
    timeout: float | None
    pooled: bool = True


@dataclass(slots=True)
class Discard:
    """Close the response of ``outcome``; a retry follows."""

    outcome: Outcome


@dataclass(slots=True)
class Restart:
    """Close the response of ``outcome`` and go on with another request: an internal redirect.

    Attributes:
        outcome: the response that redirects.
        view: the request to go on with; its headers are all there are.
        body: whether it has the body of the first.
    """

    outcome: Outcome
    view: RequestView
    body: bool


@dataclass(slots=True)
class Mirror:
    """Have a copy of the request sent, by ``policy.stack.mirrored``; nobody waits for its outcome.

    Attributes:
        call: the copy; its view has all of its headers.
        action: where it goes.
    """

    call: Call
    action: RouteAction


@dataclass(slots=True)
class Respond:
    """Return ``outcome`` to the application (its response, or its exception).

    Attributes:
        outcome: the final outcome; always a response.
        timeout: seconds left for the body to end (route timeout), None = no bound.
        gap: seconds that each wait for a part of it may last (idle timeouts), None = no bound.
        edit: takes the response's headers (lower-case names) and returns what the application is
            to see in their place; None leaves them alone. gRPC metadata is left alone.
        rate: bytes of the body a second (an injected fault), 0.0 = as it comes.
    """

    outcome: Outcome
    timeout: float | None
    gap: float | None = None
    edit: Callable[[Sequence[tuple[str, str]]], list[tuple[str, str]]] | None = None
    rate: float = 0.0


class ReplyKind(Enum):
    """Which local reply; the transports map each to one exception."""

    CONFIGURED = "configured"  # direct response, redirect, fault abort: a response always
    NO_ROUTE = "no route"
    CLUSTER_NOT_FOUND = "cluster not found"
    NO_HEALTHY_UPSTREAM = "no healthy upstream"
    OVERFLOW = "overflow"
    BREAKER_OPEN = "breaker open"
    CONNECT_FAILED = "upstream connect failed"
    TLS_UNAVAILABLE = "transport security unavailable"
    RESET = "upstream reset"
    PER_TRY_TIMEOUT = "per-try timeout"
    STREAM_TIMEOUT = "stream timeout"
    ROUTE_TIMEOUT = "route timeout"
    APPLICATION = "ended by the application"


@dataclass(slots=True)
class Reply:
    """End the call with a reply made here: what an Envoy sidecar would send, or its exception.

    Attributes:
        kind: which.
        status: HTTP status Envoy gives.
        body: body text Envoy gives.
        headers: headers Envoy gives.
        message: for people: what failed, where, what to do next.
        cause: the last attempt's exception, to chain.
        grpc_status: for gRPC callers.
    """

    kind: ReplyKind
    status: int
    body: str
    headers: Sequence[tuple[str, str]]
    message: str
    cause: BaseException | None = None
    grpc_status: int | None = None


class BodyEnd(NamedTuple):
    """How the body of the returned response ended.

    Attributes:
        error: None when it ended well or the application closed it early.
        received: body bytes received.
        trailers: what came after the body, by lower-case name, as far as policy asks for it
            (``endpoint-load-metrics``).
    """

    error: ErrorKind | None = None
    received: int = 0
    trailers: HeaderLookup = {}  # noqa: RUF012  a shared empty dict nobody writes to


Effect = Attempt | Race | Await | Sleep | Park | Discard | Restart | Mirror | Respond | Reply
Answer = Outcome | Raced | BodyEnd | None
