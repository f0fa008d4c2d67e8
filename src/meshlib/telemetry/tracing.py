"""OpenTelemetry spans: one for a call, one below it for each attempt, and the context upstream.

Only the OpenTelemetry *API* is used; where no SDK is set up every span is a no-op. Importing this
module imports ``opentelemetry``, so the mesh imports it when it starts, not before.

Attributes follow the stable HTTP semantic conventions (v1.23 and later) and, beside them, what an
Istio sidecar puts on its spans. Never recorded: request and response headers other than
``x-request-id``, and the values of the query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace

# Private by name, but it is the one switch that instrumentations and exporters share.
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY as SUPPRESS_HTTP
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY as SUPPRESS
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from meshlib.model.request import RequestView
from meshlib.policy.events import NO_HEADERS, NullObserver
from meshlib.policy.record import AttemptRecord, CallRecord
from meshlib.settings import Identity
from meshlib.telemetry.canonical import canonical_revision, canonical_service
from meshlib.telemetry.context import context_of

# RFC 9110 and RFC 5789; the conventions call any other method _OTHER.
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
REDACTED = "REDACTED"

# Envoy's response code details of calls that ended as the endpoint or the configuration wanted.
ANSWERED = frozenset({"via_upstream", "direct_response"})

Attributes = dict[str, AttributeValue]


class Tracing(NullObserver):
    """Makes a CLIENT span for each call and each attempt, and sends the context upstream.

    The parent is the current span; without one, the trace of the request's own headers is
    continued, as an Envoy does. Each attempt carries its own span as the parent of what the
    endpoint does. Where the parent is not sampled no span is made and its context is passed on
    as it is. Inside ``suppress_instrumentation`` nothing happens.

    An attempt's span ends with the response head, the call's with the body. Spans may end on
    another thread than they began on. Thread-safe.

    Args:
        identity: who we are, for Istio's tags.
        provider: makes the tracer, default the global one at the time of the call.
    """

    def __init__(self, identity: Identity, provider: trace.TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = trace.get_tracer("meshlib", tracer_provider=provider)
        self._constant: Mapping[str, AttributeValue] = {
            "component": "proxy",
            "node_id": identity.node_id(),
            "istio.mesh_id": identity.mesh_id,
            "istio.namespace": identity.namespace,
            "istio.canonical_service": canonical_service(identity),
            "istio.canonical_revision": canonical_revision(identity),
        }

    def call_started(self, record: CallRecord) -> None:
        """Begin the call's span, unless the trace is not sampled."""
        parent = otel_context.get_current()
        if otel_context.get_value(SUPPRESS, parent) or otel_context.get_value(SUPPRESS_HTTP, parent):
            return
        context = context_of(record)
        inherited = trace.get_current_span(parent).get_span_context()
        if not inherited.is_valid:
            parent = _continued(record.request, parent)
            inherited = trace.get_current_span(parent).get_span_context()
        context.propagated = parent
        if inherited.is_valid:
            context.trace_id = trace.format_trace_id(inherited.trace_id)
            if not inherited.trace_flags.sampled:
                return
        if self._provider is None and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            return  # no SDK: building attributes for a no-op would cost more than all the rest
        span = self._tracer.start_span(_name(record), parent, SpanKind.CLIENT, _request_attributes(record))
        context.propagated = trace.set_span_in_context(span, parent)
        context.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        if span.is_recording():
            span.set_attributes(self._constant)
            context.span = span

    def attempt_started(self, record: CallRecord, attempt: AttemptRecord) -> Sequence[tuple[str, str]]:
        """Begin the attempt's span; returns the headers that carry it upstream."""
        context = context_of(record)
        propagated = context.propagated
        if not isinstance(propagated, Context):
            return NO_HEADERS
        if context.span is not None:
            span = self._tracer.start_span(
                _name(record), propagated, SpanKind.CLIENT, _request_attributes(record) | _attempt_attributes(attempt)
            )
            attempt.context = span
            propagated = trace.set_span_in_context(span, propagated)
        carrier: dict[str, str] = {}
        propagate.inject(carrier, propagated)
        return [(name.lower(), value) for name, value in carrier.items()]

    def attempt_ended(self, record: CallRecord, attempt: AttemptRecord) -> None:
        """End the attempt's span."""
        span = attempt.context
        if not isinstance(span, Span):
            return
        attempt.context = None
        if attempt.status is not None:
            _set_status(span, record.protocol, attempt.status, attempt.grpc_status)
        else:
            kind = attempt.error_kind
            _set_error(span, kind.name.lower() if kind is not None else "_OTHER", attempt.error)
        span.end()

    def call_ended(self, record: CallRecord) -> None:
        """End the call's span."""
        context = context_of(record)
        span = context.span
        if not isinstance(span, Span):
            return
        context.span = None
        span.set_attributes(_result_attributes(record, context.request_id))
        if record.status is not None:
            _set_status(span, record.protocol, record.status, record.grpc_status)
        if record.status is None or record.detail not in ANSWERED:
            _set_error(span, record.detail or "_OTHER", "")
        span.end()


def _continued(request: RequestView, parent: Context) -> Context:
    """Return the context that the request's own headers carry, else ``parent``."""
    fields = propagate.get_global_textmap().fields
    carrier = {name: value for name, value in request.headers if name in fields}
    return propagate.extract(carrier, parent) if carrier else parent


def _name(record: CallRecord) -> str:
    """Name a span: the method (its path has no bounded template), or gRPC's ``Service/Method``."""
    if record.protocol == "grpc":
        return record.request.path.lstrip("/")
    method = record.request.method
    return method if method in METHODS else "HTTP"


def _request_attributes(record: CallRecord) -> Attributes:
    """What samplers may look at: known before the call is routed."""
    request = record.request
    attributes: Attributes = {"server.address": request.host, "server.port": request.port}
    if record.protocol == "grpc":
        service, _, method = request.path.lstrip("/").rpartition("/")
        return attributes | {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    attributes["url.full"] = f"{request.scheme}://{request.authority}{request.path}{_redacted(request.query)}"
    attributes["http.request.method"] = request.method if request.method in METHODS else "_OTHER"
    if request.method not in METHODS:
        attributes["http.request.method_original"] = request.method
    return attributes


def _attempt_attributes(attempt: AttemptRecord) -> Attributes:
    attributes: Attributes = {
        "network.peer.address": attempt.endpoint.host,
        "peer.address": str(attempt.endpoint),
    }
    if attempt.endpoint.port:
        attributes["network.peer.port"] = attempt.endpoint.port
    if attempt.number > 1:
        attributes["http.request.resend_count"] = attempt.number - 1
    return attributes


def _result_attributes(record: CallRecord, request_id: str) -> Attributes:
    attributes: Attributes = {
        "upstream_cluster": record.cluster_name,
        "upstream_cluster.name": record.cluster_name,
        "response_flags": record.response_flags,
        "request_size": record.bytes_sent,
        "response_size": record.bytes_received,
    }
    if record.attempts:
        attributes |= _attempt_attributes(record.attempts[-1])
        attributes.pop("http.request.resend_count", None)  # says which attempt a span is: not for the call's
    if request_id:
        attributes["guid:x-request-id"] = request_id
    if record.retry_skipped:
        attributes["meshlib.retry_skipped"] = record.retry_skipped
    return attributes


def _redacted(query: str) -> str:
    """Return ``?`` and the query with every value replaced, or nothing."""
    if not query:
        return ""
    names = (part.partition("=") for part in query.split("&"))
    return "?" + "&".join(f"{name}={REDACTED}" if equals else REDACTED for name, equals, _ in names)


def _set_status(span: Span, protocol: str, status: int, grpc_status: int | None) -> None:
    """Set the response's status; for a client 4xx and 5xx are errors."""
    if protocol == "grpc":
        if grpc_status is not None:
            span.set_attribute("rpc.grpc.status_code", grpc_status)
            if grpc_status:
                _set_error(span, str(grpc_status), "")
        return
    span.set_attribute("http.response.status_code", status)
    if status >= 400:
        _set_error(span, str(status), "")


def _set_error(span: Span, kind: str, description: str) -> None:
    """Mark the span as failed; ``kind`` has few values, ``description`` is for people."""
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, description or None)
