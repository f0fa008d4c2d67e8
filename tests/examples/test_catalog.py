"""The catalog service over a real socket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from examples.services import EXAMPLES, free_port, load

TARP = {"name": "Tarp", "department": "Camping", "price": 59}


@pytest.fixture
def client(catalog):
    with httpx.Client(base_url=catalog().url, trust_env=False) as client:
        yield client


def blow_up(client: httpx.Client, **fault):
    return client.post("/blowup", json=fault).raise_for_status().json()


@pytest.mark.parametrize(("version", "pictured"), [("v1", False), ("v2", True)])
def test_only_v2_shows_pictures(catalog, version, pictured):
    with httpx.Client(base_url=catalog(version).url, trust_env=False) as client:
        listed = client.get("/items")
        one = client.get("/items/1")
    assert listed.headers["x-catalog-version"] == one.headers["x-catalog-version"] == version
    assert len(listed.json()) >= 5
    assert all(("imageUrl" in item) is pictured for item in [*listed.json(), one.json()])
    assert listed.json()[0] == one.json()


def test_an_item_that_is_not_there(client):
    missing = client.get("/items/99")
    assert (missing.status_code, missing.json()) == (404, {"error": "there is no item 99"})


def test_an_added_item_is_served(client):
    added = client.post("/items", json=TARP)
    assert added.status_code == 201
    assert added.headers["location"] == f"/items/{added.json()['id']}"
    assert client.get(added.headers["location"]).json() == {**TARP, "id": added.json()["id"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected an object with name, department and price"),
        ('{"name": " "}', "name must be a text of 1 to 100 characters"),
        ('{"name": "Tarp", "price": "cheap"}', "price must be a number"),
        ('{"name": "Tarp", "price": NaN}', "price must be a number"),
        ('{"name": "Tarp", "price": -1}', "price must be a number from 0 to 1000000"),
        ('{"name": "Tarp", "price": 5, "department": "Toys"}', "department must be one of Camping, "),
    ],
)
def test_an_item_that_cannot_be_added(client, content, message):
    before = client.get("/items").json()
    refused = client.post("/items", content=content)
    assert refused.status_code == 400
    assert message in refused.json()["error"]
    assert client.get("/items").json() == before


def test_a_full_catalog_takes_no_more(client, monkeypatch):
    monkeypatch.setattr(load("catalog"), "MAX_ITEMS", 6)
    assert client.post("/items", json=TARP).status_code == 201
    assert client.post("/items", json=TARP).status_code == 507


def test_a_share_of_requests_fails_and_each_draws_for_itself(client):
    blow_up(client, rate=0.5, status=503)
    statuses = [client.get("/items").status_code for _ in range(200)]
    assert set(statuses) == {200, 503}
    assert 60 <= statuses.count(503) <= 140  # 5.6 sigma
    assert statuses != sorted(statuses)
    assert client.get("/items").headers["x-catalog-version"] == "v1"  # in failures too

    blow_up(client, rate=0)
    assert {client.get("/items").status_code for _ in range(20)} == {200}


def test_a_failure_needs_no_status(client):
    assert blow_up(client) == {"rate": 1.0, "delay": 0.0, "drop": False, "status": 500}
    assert client.get("/items/1").status_code == 500


def test_a_delay_comes_before_the_answer(client):
    blow_up(client, delay=0.3)
    started = time.monotonic()
    assert client.get("/items").status_code == 200
    assert time.monotonic() - started >= 0.3


def test_a_dropped_connection_brings_no_response(client):
    blow_up(client, drop=True)
    with pytest.raises(httpx.RemoteProtocolError, match="disconnected without sending a response"):
        client.get("/items")
    with pytest.raises(httpx.RemoteProtocolError, match="disconnected without sending a response"):
        client.post("/items", json=TARP)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "Expecting value"),
        ("[]", 'expected an object such as {"rate": 0.5, "status": 500}'),
        ('{"rate": 2}', "rate must be from 0 to 1"),
        ('{"rate": "half"}', "rate must be a number"),
        ('{"status": 200}', "status must be from 400 to 599"),
        ('{"delay": 61}', "delay must be from 0 to 60"),
        ('{"drop": 1}', "drop must be true or false"),
        ('{"rat": 1}', "unknown field 'rat'; known are rate, status, delay and drop"),
    ],
)
def test_a_fault_that_cannot_be_understood_changes_nothing(client, content, message):
    refused = client.post("/blowup", content=content)
    assert refused.status_code == 400
    assert message in refused.json()["error"]
    assert client.get("/items").status_code == 200


def test_stats_count_requests_for_items_and_nothing_else(client):
    client.get("/items")
    client.get("/items/1")
    client.get("/items/99")
    client.get("/health")
    blow_up(client, drop=True)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/items")
    blow_up(client, status=500)
    client.get("/items")
    assert client.get("/stats").json() == {
        "version": "v1",
        "received": {"GET /items": 3, "GET /items/{id}": 2},
        "answered": {"GET /items": {"200": 1, "dropped": 1, "500": 1}, "GET /items/{id}": {"200": 1, "404": 1}},
    }


class Collector(BaseHTTPRequestHandler):
    """An OTLP endpoint that keeps the requests' bodies in its server."""

    def do_POST(self):
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        server.bodies = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_program_continues_a_trace_and_flushes_it_on_sigterm(collector):
    port = free_port()
    command = [sys.executable, EXAMPLES / "catalog" / "app.py", "--port", str(port), "--version", "v2"]
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "Uvicorn running" in line:
                break
        traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            client.get("/health", headers={"traceparent": traceparent})
            client.get("/items/99", headers={"traceparent": traceparent})
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        process.wait(10)

    exported = [ExportTraceServiceRequest.FromString(body) for body in collector.bodies]
    [resource] = [resource for request in exported for resource in request.resource_spans]
    assert {"catalog", "v2"} <= {attribute.value.string_value for attribute in resource.resource.attributes}
    [span] = [span for scope in resource.scope_spans for span in scope.spans]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == tuple(traceparent.split("-")[1:3])
    assert (span.name, span.kind) == ("GET /items/99", span.SPAN_KIND_SERVER)
    assert 404 in [attribute.value.int_value for attribute in span.attributes]


def test_both_services_carry_the_same_tracing():
    texts = {(EXAMPLES / service / "tracing.py").read_text() for service in ("catalog", "webapp")}
    assert len(texts) == 1
