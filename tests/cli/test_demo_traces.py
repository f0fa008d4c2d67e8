import gzip
import io
import time

import httpx
import pytest
from rich.console import Console

from meshlib.cli.demo.ports import any_free_port
from meshlib.cli.demo.report import trace_tree
from meshlib.cli.demo.traces import SpanReceiver, decode, roots

TRACE = bytes(range(16))


def export_request():
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    message = ExportTraceServiceRequest()
    for service, span_id, parent, kind, attributes in [
        ("gateway", 1, 0xFF, 2, {"http.status_code": "200", "upstream_address": "127.0.0.1:8080"}),
        ("webapp", 2, 1, 3, {"http.response.status_code": 500, "network.peer.address": "127.0.0.2"}),
        ("webapp", 3, 1, 3, {"http.response.status_code": 200}),
    ]:
        resource = message.resource_spans.add()
        pair = resource.resource.attributes.add(key="service.name")
        pair.value.string_value = service
        span = resource.scope_spans.add().spans.add(name="GET", kind=kind, trace_id=TRACE)
        span.span_id, span.parent_span_id = bytes([span_id] * 8), bytes([parent] * 8)
        span.start_time_unix_nano, span.end_time_unix_nano = span_id * 10**9, span_id * 10**9 + 1_500_000
        for key, value in attributes.items():
            pair = span.attributes.add(key=key)
            if isinstance(value, int):
                pair.value.int_value = value
            else:
                pair.value.string_value = value
    return message.SerializeToString()


def test_spans_are_decoded():
    gateway, failed, _ = decode(export_request())

    assert (gateway.service, gateway.kind, gateway.status, gateway.endpoint) == (
        "gateway",
        "SERVER",
        200,
        "127.0.0.1:8080",
    )
    assert (failed.status, failed.endpoint, failed.duration_ms) == (500, "127.0.0.2", 1.5)
    assert (gateway.attempt, failed.attempt) == (None, 1)


def test_the_tree_shows_every_attempt():
    spans = list(decode(export_request()))
    console = Console(width=100, file=io.StringIO())
    console.print(trace_tree(spans))

    lines = console.file.getvalue().splitlines()
    assert [span.service for span in roots(spans)] == ["gateway"]
    assert len(lines) == 4
    assert "500" in lines[2]
    assert "attempt 1 → 127.0.0.2  500" in lines[2]
    assert "200" in lines[3]


@pytest.mark.parametrize("compressed", [False, True])
def test_the_receiver_takes_otlp_over_http(compressed):
    port = any_free_port()
    body = gzip.compress(export_request()) if compressed else export_request()
    headers = {"content-encoding": "gzip"} if compressed else {}
    with SpanReceiver(port) as receiver:
        response = httpx.post(f"http://127.0.0.1:{port}/v1/traces", content=body, headers=headers, trust_env=False)
        assert response.status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 404
        deadline = time.monotonic() + 5
        while len(receiver.trace(TRACE.hex())) < 3:
            assert time.monotonic() < deadline
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
