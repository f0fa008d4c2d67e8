"""Spans of the real OpenTelemetry SDK."""

from __future__ import annotations

import pytest
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, TraceFlags

from meshlib.policy import flags
from meshlib.telemetry import Telemetry
from meshlib.telemetry.request_id import RequestId
from meshlib.telemetry.tracing import SUPPRESS_HTTP, Tracing
from telemetry.records import CATALOG, V1, V2, WEBAPP, begin, play, request

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


class Traced:
    """Tracing over an SDK of its own, and what it exported."""

    def __init__(self, **options):
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.observer = Telemetry(RequestId(), Tracing(WEBAPP, self.provider))

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def call(self):
        """The call's span: the one that ended last."""
        return self.spans[-1]


@pytest.fixture
def traced():
    return Traced()


def context_with(traceparent: str):
    return propagate.extract({"traceparent": traceparent})


@pytest.fixture
def current():
    """Make a context current for the test."""
    tokens = []
    yield lambda context: tokens.append(otel_context.attach(context))
    for token in reversed(tokens):
        otel_context.detach(token)


def test_one_span_a_call_and_one_child_an_attempt(traced):
    record = begin(request(headers=[("x-request-id", "r-1")]))
    record.bytes_received = 812
    given = play(traced.observer, record, (V1, 503), (V2, 200))

    first, second, call = traced.spans
    assert [span.name for span in traced.spans] == ["GET", "GET", "GET"]
    assert {span.kind for span in traced.spans} == {SpanKind.CLIENT}
    assert call.parent is None
    assert first.parent.span_id == second.parent.span_id == call.context.span_id
    shared = {
        "server.address": "catalog",
        "server.port": 80,
        "http.request.method": "GET",
        "url.full": "http://catalog/items?color=REDACTED&token=REDACTED",
    }
    assert dict(first.attributes) == shared | {
        "network.peer.address": "10.0.0.1",
        "network.peer.port": 3000,
        "peer.address": "10.0.0.1:3000",
        "http.response.status_code": 503,
        "error.type": "503",
    }
    assert dict(second.attributes) == shared | {
        "network.peer.address": "10.0.0.2",
        "network.peer.port": 3000,
        "peer.address": "10.0.0.2:3000",
        "http.request.resend_count": 1,
        "http.response.status_code": 200,
    }
    assert dict(call.attributes) == shared | {
        "network.peer.address": "10.0.0.2",
        "network.peer.port": 3000,
        "peer.address": "10.0.0.2:3000",
        "http.response.status_code": 200,
        "upstream_cluster": CATALOG.name,
        "upstream_cluster.name": CATALOG.name,
        "response_flags": "-",
        "request_size": 0,
        "response_size": 812,
        "guid:x-request-id": "r-1",
        "component": "proxy",
        "node_id": "sidecar~10.0.0.9~webapp-0.istioinaction~istioinaction.svc.cluster.local",
        "istio.mesh_id": "cluster.local",
        "istio.namespace": "istioinaction",
        "istio.canonical_service": "webapp",
        "istio.canonical_revision": "v1",
    }
    assert first.status.status_code is StatusCode.ERROR
    assert call.status.status_code is second.status.status_code is StatusCode.UNSET
    for span, headers in zip((first, second), given, strict=True):
        assert (
            headers["traceparent"]
            == f"00-{call.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"
        )


def test_the_current_span_is_the_parent(traced, current):
    server = traced.provider.get_tracer("app").start_span("GET /")
    current(trace.set_span_in_context(server))
    play(traced.observer, begin(request(headers=[("traceparent", UNSAMPLED)])), (V1, 200))
    assert traced.call().parent.span_id == server.get_span_context().span_id


def test_without_one_the_requests_own_headers_are_continued(traced):
    headers = [("traceparent", SAMPLED), ("tracestate", "vendor=1")]
    [given] = play(traced.observer, begin(request(headers=headers)), (V1, 200))
    attempt, call = traced.spans
    assert f"{call.parent.span_id:016x}" == "b7ad6b7169203331"
    assert given["traceparent"].startswith(f"00-0af7651916cd43dd8448eb211c80319c-{attempt.context.span_id:016x}-")
    assert given["tracestate"] == "vendor=1"


@pytest.mark.parametrize("how", ["current", "headers"])
def test_an_unsampled_parent_costs_no_span_and_travels_on(traced, current, how):
    if how == "current":
        current(context_with(UNSAMPLED))
        view = request()
    else:
        view = request(headers=[("traceparent", UNSAMPLED)])
    given = play(traced.observer, begin(view), (V1, 503), (V2, 200))
    assert traced.spans == ()
    assert [headers["traceparent"] for headers in given] == [UNSAMPLED, UNSAMPLED]


def test_a_root_the_sampler_drops_travels_on_as_unsampled():
    traced = Traced(sampler=ALWAYS_OFF)
    [given] = play(traced.observer, begin(), (V1, 200))
    assert traced.spans == ()
    assert not int(given["traceparent"][-2:], 16) & TraceFlags.SAMPLED


def test_suppressed_instrumentation_is_left_alone(traced, current):
    current(otel_context.set_value(SUPPRESS_HTTP, True))
    [given] = play(traced.observer, begin(), (V1, 200))
    assert traced.spans == ()
    assert "traceparent" not in given


def test_without_an_sdk_the_context_still_travels():
    observer = Tracing(WEBAPP)
    assert play(observer, begin(), (V1, 200)) == [{}]
    assert play(observer, begin(request(headers=[("traceparent", SAMPLED)])), (V1, 200)) == [{"traceparent": SAMPLED}]


@pytest.mark.parametrize(
    ("attempts", "outcome", "want"),
    [
        ([(V1, 404)], {}, ("404", 404)),
        ([(V1, 302)], {}, (None, 302)),
        (
            [],
            {"status": 503, "detail": "no_healthy_upstream", "flags": flags.NO_HEALTHY_UPSTREAM},
            ("no_healthy_upstream", 503),
        ),
        ([], {"status": 200, "detail": "direct_response"}, (None, 200)),
        (
            [(V1, 200)],
            {"detail": "response_timeout", "flags": flags.UPSTREAM_REQUEST_TIMEOUT},
            ("response_timeout", 200),
        ),
        ([(V1, 200)], {"flags": flags.DELAY_INJECTED}, (None, 200)),
        ([(V1, 200)], {"flags": flags.DOWNSTREAM_CONNECTION_TERMINATION}, (None, 200)),
        (
            [(V1, "refused")],
            {
                "status": 503,
                "detail": "upstream_reset_before_response_started{remote_connection_failure}",
                "flags": flags.UPSTREAM_CONNECTION_FAILURE,
            },
            ("upstream_reset_before_response_started{remote_connection_failure}", 503),
        ),
        ([], {"status": None, "detail": ""}, ("_OTHER", None)),
    ],
)
def test_error_type_of_a_call(traced, attempts, outcome, want):
    play(traced.observer, begin(), *attempts, **outcome)
    attributes = traced.call().attributes
    assert (attributes.get("error.type"), attributes.get("http.response.status_code")) == want
    assert (traced.call().status.status_code is StatusCode.ERROR) is (want[0] is not None)


def test_a_failed_attempt_says_why(traced):
    play(traced.observer, begin(), (V1, "connection refused"), (V2, 200))
    failed = traced.spans[0]
    assert failed.status.description == "connection refused"
    assert failed.attributes["error.type"] == "_OTHER"
    assert "http.response.status_code" not in failed.attributes


@pytest.mark.parametrize(("status", "error"), [(0, None), (14, "14")])
def test_grpc_calls_follow_the_rpc_conventions(traced, status, error):
    record = begin(request(method="POST", target="/shop.Catalog/List"), protocol="grpc")
    record.grpc_status = status
    play(traced.observer, record, (V1, 200))
    call = traced.call()
    assert call.name == "shop.Catalog/List"
    assert {key: call.attributes.get(key) for key in ("rpc.system", "rpc.service", "rpc.method")} == {
        "rpc.system": "grpc",
        "rpc.service": "shop.Catalog",
        "rpc.method": "List",
    }
    assert call.attributes["rpc.grpc.status_code"] == status
    assert call.attributes.get("error.type") == error
    assert "http.request.method" not in call.attributes


def test_no_secret_reaches_a_span(traced):
    secrets = [("authorization", "Bearer s3cret"), ("cookie", "session=s3cret"), ("x-api-key", "s3cret")]
    play(traced.observer, begin(request(target="/items?token=s3cret&s3cret", headers=secrets)), (V1, 200))
    assert "s3cret" not in "".join(span.to_json() for span in traced.spans)
    assert traced.call().attributes["url.full"] == "http://catalog/items?token=REDACTED&REDACTED"


def test_an_unusual_method_does_not_name_the_span(traced):
    play(traced.observer, begin(request(method="X-RANDOM-17")), (V1, 200))
    assert traced.call().name == "HTTP"
    assert traced.call().attributes["http.request.method"] == "_OTHER"
    assert traced.call().attributes["http.request.method_original"] == "X-RANDOM-17"
