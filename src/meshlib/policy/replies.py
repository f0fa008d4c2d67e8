"""Local replies: the status, body, flags and details that Envoy gives, and words for people."""

from __future__ import annotations

from meshlib.model.filters import LocalRateLimit
from meshlib.model.match import is_grpc
from meshlib.model.route import DirectResponse
from meshlib.model.traffic import FaultAbort
from meshlib.policy import flags
from meshlib.policy.deadlines import Expiry
from meshlib.policy.effects import ErrorKind, Outcome, Reply, ReplyKind
from meshlib.policy.headers import CallFacts
from meshlib.policy.record import CallRecord

TEXT = (("content-type", "text/plain"),)
RESET_TEXT = "upstream connect error or disconnect/reset before headers. {}reset reason: {}"

# kind of error -> (reply, status, flag, Envoy's reset reason, Envoy's response code detail)
ERRORS: dict[ErrorKind, tuple[ReplyKind, int, int, str, str]] = {
    ErrorKind.CONNECT: (
        ReplyKind.CONNECT_FAILED,
        503,
        flags.UPSTREAM_CONNECTION_FAILURE,
        "remote connection failure",
        "upstream_reset_before_response_started{remote_connection_failure}",
    ),
    ErrorKind.CONNECT_TIMEOUT: (
        ReplyKind.CONNECT_FAILED,
        503,
        flags.UPSTREAM_CONNECTION_FAILURE,
        "connection timeout",
        "upstream_reset_before_response_started{connection_timeout}",
    ),
    ErrorKind.TLS_FAILED: (
        ReplyKind.CONNECT_FAILED,
        503,
        flags.UPSTREAM_CONNECTION_FAILURE,
        "remote connection failure",
        "upstream_reset_before_response_started{remote_connection_failure|TLS_error}",
    ),
    ErrorKind.TLS_UNAVAILABLE: (
        ReplyKind.TLS_UNAVAILABLE,
        503,
        flags.UPSTREAM_CONNECTION_FAILURE,
        "remote connection failure",
        "transport_security_unavailable",
    ),
    ErrorKind.RESET: (
        ReplyKind.RESET,
        503,
        flags.UPSTREAM_CONNECTION_TERMINATION,
        "connection termination",
        "upstream_reset_before_response_started{connection_termination}",
    ),
    ErrorKind.REFUSED: (
        ReplyKind.RESET,
        503,
        flags.UPSTREAM_REMOTE_RESET,
        "remote refused stream reset",
        "upstream_reset_before_response_started{remote_refused_stream_reset}",
    ),
    ErrorKind.PROTOCOL: (
        ReplyKind.RESET,
        502,
        flags.UPSTREAM_PROTOCOL_ERROR,
        "protocol error",
        "upstream_reset_before_response_started{protocol_error}",
    ),
}


def no_route(record: CallRecord, message: str) -> Reply:
    """404 NR: no listener, virtual host or route."""
    return _finish(record, Reply(ReplyKind.NO_ROUTE, 404, "", (), message), flags.NO_ROUTE_FOUND, "route_not_found")


def cluster_not_found(record: CallRecord, name: str, status: int) -> Reply:
    """NC: the route names a cluster that does not exist."""
    message = f"the route {record.route or record.virtual_host!r} leads to "
    if name:
        message += f"cluster {name!r}, which does not exist; define its service, or the subset in a DestinationRule"
    else:
        message += "the cluster that a request header names (cluster_header), and the request lacks this header"
    reply = Reply(ReplyKind.CLUSTER_NOT_FOUND, status, "", (), message)
    return _finish(record, reply, flags.NO_CLUSTER_FOUND, "cluster_not_found")


def no_healthy_upstream(record: CallRecord, known: int, ejected: int) -> Reply:
    """503 UH: the cluster has no endpoint to offer."""
    have = "has no endpoints" if not known else f"has {known} endpoints, none usable ({ejected} ejected)"
    message = f"no healthy upstream: cluster {record.cluster_name!r} {have}"
    reply = Reply(ReplyKind.NO_HEALTHY_UPSTREAM, 503, "no healthy upstream", TEXT, message)
    return _finish(record, reply, flags.NO_HEALTHY_UPSTREAM, "no_healthy_upstream")


def overflow(record: CallRecord, threshold: str, limit: int) -> Reply:
    """503 UO: a circuit-breaker threshold is reached; never retried."""
    message = f"cluster {record.cluster_name!r} is at its circuit-breaker threshold {threshold}={limit}"
    body = RESET_TEXT.format("", "overflow")
    reply = Reply(ReplyKind.OVERFLOW, 503, body, (*TEXT, ("x-envoy-overloaded", "true")), message)
    return _finish(record, reply, flags.UPSTREAM_OVERFLOW, "upstream_reset_before_response_started{overflow}")


def dropped(record: CallRecord, percentage: float) -> Reply:
    """503 UDO: the control plane asks that calls be dropped."""
    message = f"cluster {record.cluster_name!r} is overloaded: drop_overloads has {percentage:g} % of its calls dropped"
    headers = (*TEXT, ("x-envoy-unconditional-drop-overload", "true"))
    reply = Reply(ReplyKind.OVERFLOW, 503, "unconditional drop overload", headers, message)
    return _finish(record, reply, flags.DROP_OVERLOAD, "drop_overload")


def breaker_open(record: CallRecord) -> Reply:
    """503 UO: the opt-in ClusterBreaker refuses the call."""
    message = f"the breaker of cluster {record.cluster_name!r} is open; it lets a probe through after its reset timeout"
    reply = Reply(ReplyKind.BREAKER_OPEN, 503, "breaker open", TEXT, message)
    return _finish(record, reply, flags.UPSTREAM_OVERFLOW, "cluster_breaker_open")


# which timeout -> (reply, Envoy's text, flag, Envoy's response code detail)
TIMEOUTS: dict[Expiry, tuple[ReplyKind, str, int, str]] = {
    Expiry.ROUTE: (
        ReplyKind.ROUTE_TIMEOUT,
        "upstream request timeout",
        flags.UPSTREAM_REQUEST_TIMEOUT,
        "response_timeout",
    ),
    Expiry.PER_TRY: (
        ReplyKind.PER_TRY_TIMEOUT,
        "upstream request timeout",
        flags.UPSTREAM_REQUEST_TIMEOUT,
        "upstream_per_try_timeout",
    ),
    Expiry.PER_TRY_IDLE: (
        ReplyKind.PER_TRY_TIMEOUT,
        "upstream request timeout",
        flags.UPSTREAM_REQUEST_TIMEOUT,
        "upstream_per_try_idle_timeout",
    ),
    Expiry.UPSTREAM_DURATION: (
        ReplyKind.STREAM_TIMEOUT,
        "upstream max stream duration reached",
        flags.UPSTREAM_MAX_STREAM_DURATION_REACHED,
        "upstream_max_stream_duration_reached",
    ),
    # Measured: Envoy sets no flag.
    Expiry.DURATION: (ReplyKind.STREAM_TIMEOUT, "downstream duration timeout", 0, "max_duration_timeout"),
    Expiry.IDLE: (ReplyKind.STREAM_TIMEOUT, "stream timeout", flags.STREAM_IDLE_TIMEOUT, "stream_idle_timeout"),
}
_BY_ROUTER = frozenset({Expiry.ROUTE, Expiry.PER_TRY, Expiry.PER_TRY_IDLE})


def timed_out(
    record: CallRecord, expiry: Expiry, *, seconds: float, cause: BaseException | None = None, status: int = 504
) -> Reply:
    """504, or the status asked for: a timeout with no retry left."""
    kind, text, flag, detail = TIMEOUTS[expiry]
    message = (
        f"{expiry.value} of {seconds:g}s passed after {len(record.attempts)} attempt(s) to {record.cluster_name!r}"
    )
    if expiry not in _BY_ROUTER:
        status = 504
    body, headers = (text, TEXT) if status == 504 else ("", ())
    reply = _finish(record, Reply(kind, status, body, headers, message, cause, grpc_status=4), flag, detail)
    if expiry is Expiry.DURATION:
        _end_with_deadline_exceeded(record, reply)
    return reply


def _end_with_deadline_exceeded(record: CallRecord, reply: Reply) -> None:
    """Say DEADLINE_EXCEEDED to a gRPC caller over HTTP, where Envoy says UNAVAILABLE of other timeouts."""
    reply.grpc_status = record.grpc_status = 4
    reply.headers = tuple((name, "4" if name == "grpc-status" else value) for name, value in reply.headers)


def attempt_failed(record: CallRecord, outcome: Outcome) -> Reply:
    """503 UF or UC, or 502 UPE: the last attempt brought no response head."""
    if outcome.error is ErrorKind.APPLICATION or outcome.error is None:
        reply = Reply(ReplyKind.APPLICATION, 0, "", (), outcome.message, outcome.exception)
        return _finish(record, reply, flags.DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect")
    kind, status, flag, reason, detail = ERRORS[outcome.error]
    body = RESET_TEXT.format("retried and the latest " if len(record.attempts) > 1 else "", reason)
    where = record.endpoint
    message = f"{outcome.error.value}: {where} of cluster {record.cluster_name!r}"
    if outcome.message:
        message += f": {outcome.message}"
    return _finish(record, Reply(kind, status, body, TEXT, message, outcome.exception), flag, detail)


def fault_abort(record: CallRecord, abort: FaultAbort) -> Reply:
    """The status that the configuration injects, FI."""
    status = abort.status if abort.status is not None else 200
    grpc = abort.grpc_status
    headers = (*TEXT, ("grpc-status", str(grpc))) if grpc is not None and is_grpc(record.request) else TEXT
    message = f"aborted by fault injection on {record.virtual_host!r}"
    reply = Reply(ReplyKind.CONFIGURED, status, "fault filter abort", headers, message, grpc_status=grpc)
    return _finish(record, reply, flags.FAULT_INJECTED, "fault_filter_abort")


def rate_limited(record: CallRecord, limit: LocalRateLimit) -> Reply:
    """429 RL, or the status configured: the local rate limit is reached."""
    where = f"route {record.route!r}" if record.route else "this listener"
    reply = Reply(ReplyKind.CONFIGURED, limit.status, "local_rate_limited", TEXT, f"the local rate limit of {where}")
    if is_grpc(record.request) and limit.resource_exhausted:
        reply.grpc_status = 8
    return _finish(record, reply, flags.RATE_LIMITED, "local_rate_limited")


def too_large(record: CallRecord, limit: int) -> Reply:
    """413: the request has more bytes than the buffer filter takes."""
    message = f"the request has more than the {limit} bytes of the buffer filter's max_request_bytes"
    reply = Reply(ReplyKind.CONFIGURED, 413, "Payload Too Large", TEXT, message)
    return _finish(record, reply, 0, "request_payload_too_large")


def direct(record: CallRecord, action: DirectResponse, location: str) -> Reply:
    """The response that the route itself gives; 201 and 3xx say where, as in Envoy."""
    body, content_type = action.body, "text/plain"
    if action.format is not None:
        facts = CallFacts(record)
        facts.body = body
        body, content_type = action.format.render(facts), action.format.content_type
    headers: tuple[tuple[str, str], ...] = (("content-type", content_type),) if body else ()
    if action.status == 201 or 300 <= action.status < 400:
        headers = (("location", location), *headers)
    reply = Reply(ReplyKind.CONFIGURED, action.status, body, headers, "direct response")
    return _finish(record, reply, 0, "direct_response")


def redirect(record: CallRecord, status: int, location: str) -> Reply:
    """The redirect that the route itself gives."""
    reply = Reply(ReplyKind.CONFIGURED, status, "", (("location", location),), "redirect")
    return _finish(record, reply, 0, "direct_response")


def _finish(record: CallRecord, reply: Reply, flag: int, detail: str) -> Reply:
    record.flags |= flag
    record.detail = detail
    if record.protocol == "http" and is_grpc(record.request) and reply.status:
        _to_grpc(reply)
    elif reply.grpc_status is None and reply.kind is not ReplyKind.CONFIGURED:
        reply.grpc_status = GRPC_STATUS.get(reply.kind, 14)
    if record.request.method == "HEAD":
        reply.body = ""
    record.status = reply.status or None
    record.grpc_status = reply.grpc_status
    return reply


def _to_grpc(reply: Reply) -> None:
    """Say it as Envoy says it to a gRPC caller over HTTP: 200, with the status and the text in headers."""
    injected = reply.grpc_status if reply.kind is ReplyKind.CONFIGURED else None
    reply.grpc_status = HTTP_TO_GRPC.get(reply.status, 2) if injected is None else injected
    headers = [pair for pair in reply.headers if pair[0] not in ("content-type", "grpc-status")]
    headers += [("content-type", "application/grpc"), ("grpc-status", str(reply.grpc_status))]
    if reply.body:
        headers.append(("grpc-message", percent_encoded(reply.body)))
    reply.status, reply.body, reply.headers = 200, "", tuple(headers)


def percent_encoded(text: str) -> str:
    """Return ``text`` as a ``grpc-message``: all but printable ASCII, and ``%``, as ``%XX`` of UTF-8."""
    return "".join(chr(b) if 0x20 <= b < 0x7F and b != 0x25 else f"%{b:02X}" for b in text.encode())


# Envoy's httpToGrpcStatus; anything else is UNKNOWN.
HTTP_TO_GRPC = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}

# The same by kind of reply, but DEADLINE_EXCEEDED for timeouts, as a gRPC client expects of a deadline.
GRPC_STATUS = {
    ReplyKind.NO_ROUTE: 12,
    ReplyKind.ROUTE_TIMEOUT: 4,
    ReplyKind.PER_TRY_TIMEOUT: 4,
    ReplyKind.STREAM_TIMEOUT: 4,
}
