"""CallRecord: the decision trace of one call, live until its body closes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import Endpoint
from meshlib.model.request import RequestView
from meshlib.policy import flags as flag
from meshlib.policy.effects import ErrorKind

if TYPE_CHECKING:
    from meshlib.policy.trace import Trace


class AttemptRecord:
    """One attempt: where it went and what it met. Times are the clock's monotonic seconds.

    Attributes:
        number: 1 for the first attempt.
        endpoint: where it was sent.
        started, ended: clock seconds; ``ended`` is 0.0 while it runs. For the attempt whose
            response is returned it is the arrival of the response head.
        status: HTTP status of the response head, None when there was none.
        grpc_status: gRPC status, None where unknown.
        error: what went wrong, in words, empty for a response.
        error_kind: what went wrong, as a value; None for a response or a cancelled attempt.
        timeout: seconds granted to this attempt, None = no bound of its own.
        context: room for the observer (a span); policy never reads it.
    """

    __slots__ = (
        "context",
        "ended",
        "endpoint",
        "error",
        "error_kind",
        "grpc_status",
        "number",
        "started",
        "status",
        "timeout",
    )

    def __init__(self, number: int, endpoint: Endpoint, started: float, timeout: float | None) -> None:
        self.number = number
        self.endpoint = endpoint
        self.started = started
        self.timeout = timeout
        self.ended = 0.0
        self.status: int | None = None
        self.grpc_status: int | None = None
        self.error = ""
        self.error_kind: ErrorKind | None = None
        self.context: object = None

    def __getstate__(self) -> tuple[None, dict[str, object]]:
        # As CallRecord: an observer's span cannot be pickled.
        state = {name: getattr(self, name) for name in self.__slots__}
        return None, {**state, "context": None}

    def __repr__(self) -> str:
        outcome = self.error or self.status or "running"
        return f"<attempt {self.number} {self.endpoint} {outcome} {1000 * (self.ended - self.started):.1f}ms>"


NO_METADATA: Mapping[str, Mapping[str, object]] = {}


class RedirectRecord(NamedTuple):
    """One internal redirect that was followed.

    Attributes:
        url: of the request that met it, as it was sent.
        status: of the response.
        route, cluster: where that request went.
        target: the route that the redirect leads to.
        attempts: of that request, in order.
    """

    url: str
    status: int
    route: str
    cluster: str
    target: str
    attempts: list[AttemptRecord]


class CallRecord:
    """One call: its route, its attempts, why it ended so.

    Written by the call's own task or thread only; safe to read after the call.

    Attributes:
        request: the request as policy saw it.
        protocol: ``http`` or ``grpc``.
        listener, route_config, virtual_host, route: names of what matched; empty if nothing did.
        source: where the route was configured (``catalog-vs.yaml:7``).
        cluster: the cluster drawn, None before that.
        cluster_name: its name, also where the cluster does not exist.
        attempts: every attempt, in order; after an internal redirect those since the last.
        redirects: the internal redirects that were followed, in order.
        metadata: dynamic metadata by namespace, as filters made it.
        mirrors: the clusters that copies of the request were made for.
        flags: response flags as an int; :attr:`response_flags` names them.
        status: HTTP status of the call, or of the reply an Envoy would have made.
        grpc_status: gRPC status, None where unknown.
        detail: what ended the call, in words.
        retry_skipped: why a wanted retry was not made; empty if none was wanted or all were.
        started, ended: clock seconds; ``ended`` is 0.0 until the body closes.
        bytes_sent, bytes_received: body bytes, as far as known.
        trace: why it went so, where it was asked for or sampled; else None.
        context: room for the observer (a span); policy never reads it.
    """

    __slots__ = (
        "attempts",
        "bytes_received",
        "bytes_sent",
        "cluster",
        "cluster_name",
        "context",
        "detail",
        "ended",
        "flags",
        "grpc_status",
        "listener",
        "metadata",
        "mirrors",
        "protocol",
        "redirects",
        "request",
        "retry_skipped",
        "route",
        "route_config",
        "source",
        "started",
        "status",
        "trace",
        "virtual_host",
    )

    def __init__(self, request: RequestView, started: float, *, protocol: str = "http") -> None:
        self.request = request
        self.started = started
        self.protocol = protocol
        self.ended = 0.0
        self.listener = self.route_config = self.virtual_host = self.route = self.source = ""
        self.cluster: Cluster | None = None
        self.cluster_name = ""
        self.attempts: list[AttemptRecord] = []
        self.redirects: Sequence[RedirectRecord] = ()
        self.mirrors: Sequence[str] = ()
        self.metadata: Mapping[str, Mapping[str, object]] = NO_METADATA
        self.flags = 0
        self.status: int | None = None
        self.grpc_status: int | None = None
        self.detail = ""
        self.retry_skipped = ""
        self.bytes_sent = self.bytes_received = 0
        self.trace: Trace | None = None
        self.context: object = None

    @property
    def response_flags(self) -> str:
        """Envoy's short flag names, ``-`` for none."""
        return flag.names(self.flags)

    @property
    def endpoint(self) -> Endpoint | None:
        """The endpoint of the last attempt."""
        return self.attempts[-1].endpoint if self.attempts else None

    @property
    def duration(self) -> float:
        """Seconds from start to end, 0.0 while the call runs."""
        return self.ended - self.started if self.ended else 0.0

    def __getstate__(self) -> tuple[None, dict[str, object]]:
        # An error carries its record over process borders; an observer's span cannot go along.
        state = {name: getattr(self, name) for name in self.__slots__}
        return None, {**state, "context": None}

    def __repr__(self) -> str:
        return (
            f"<call {self.request.method} {self.request.authority}{self.request.target} "
            f"cluster={self.cluster_name or '-'} attempts={len(self.attempts)} "
            f"status={self.status} flags={self.response_flags}>"
        )
