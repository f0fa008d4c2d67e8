"""The observers under the real engine: what it reports is what they read."""

from __future__ import annotations

import io
import random
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meshlib.model.endpoint import ClusterLoadAssignment, LocalityEndpoints
from meshlib.model.filter_chain import FilterChain, HttpConnectionManager
from meshlib.model.listener import Listener
from meshlib.model.match import PathMatch, RouteMatch, StringOp
from meshlib.model.route import Route, RouteAction, RouteConfiguration, VirtualHost, WeightedCluster
from meshlib.model.snapshot import Bindings, Snapshot
from meshlib.model.traffic import RetryPolicy
from meshlib.policy.call import Call
from meshlib.policy.effects import Attempt, BodyEnd, ErrorKind, Outcome, Respond, Sleep
from meshlib.policy.record import CallRecord
from meshlib.policy.stack import execute
from meshlib.policy.state import MeshState
from meshlib.telemetry import Telemetry
from meshlib.telemetry.access_log import AccessLog
from meshlib.telemetry.metrics import LABELS, IstioMetrics
from meshlib.telemetry.request_id import RequestId
from meshlib.telemetry.tracing import Tracing
from telemetry.records import CATALOG, V1, WEBAPP, request

REFUSED = Outcome(error=ErrorKind.CONNECT, message="connection refused")
RESET = Outcome(error=ErrorKind.RESET)
OK = Outcome(status=200, response=object())
UNAVAILABLE = Outcome(status=503, response=object())


class World:
    """A mesh with one service, a clock that moves by hand and every observer."""

    def __init__(self, *endpoints):
        self.now = 0.0
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.metrics = IstioMetrics(WEBAPP)
        self.log = io.StringIO()
        line = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_SENT% %DURATION% %UPSTREAM_HOST%"
        observers = (RequestId(), Tracing(WEBAPP, provider), self.metrics, AccessLog(line, stream=self.log))
        self.observer = Telemetry(*observers)
        self.live = MeshState(lambda: self.now, random.Random(7)).bind(snapshot(endpoints))

    def call(self, *outcomes, target="/items", body=812):
        """Run one call, one millisecond an effect; returns the headers each attempt was sent."""
        view = request(target=target)
        record = CallRecord(view, self.now)
        policy = execute(Call(view, self.live, record, lambda: self.now, random.Random(7), self.observer))
        sent, answers = [], iter(outcomes)
        answer = None
        try:
            while True:
                effect = policy.send(answer)
                self.now += 0.001
                answer = None
                if isinstance(effect, Attempt):
                    sent.append(dict(effect.headers))
                    answer = next(answers)
                elif isinstance(effect, Sleep):
                    self.now += effect.seconds
                elif isinstance(effect, Respond):
                    answer = BodyEnd(received=body)
        except StopIteration:
            return sent

    def counted(self):
        """Return (workload, code, flags) -> calls."""
        places = [LABELS.index(name) for name in ("destination_workload", "response_code", "response_flags")]
        return {tuple(cell.labels[place] for place in places): cell.requests for _, cell in self.metrics.cells()}


def snapshot(endpoints) -> Snapshot:
    cluster = replace(CATALOG, assignment=ClusterLoadAssignment(CATALOG.name, (LocalityEndpoints(endpoints),)))
    retry = RetryPolicy(frozenset({"5xx"}), num_retries=2)
    action = RouteAction((WeightedCluster(cluster.name),), timeout=0.0, retry=retry)
    route = Route(RouteMatch(path=PathMatch(StringOp.PREFIX, "/items")), action, name="items")
    table = RouteConfiguration("80", (VirtualHost("catalog", ("catalog",), (route,)),))
    listener = Listener(
        "0.0.0.0_80", "0.0.0.0", 80, chains=(FilterChain(http=HttpConnectionManager(route_config=table)),)
    )
    listeners = {listener.name: listener}
    return Snapshot(listeners=listeners, clusters={cluster.name: cluster}, bindings=Bindings.of(listeners))


def test_a_call_that_a_retry_saved():
    world = World(V1)
    sent = world.call(UNAVAILABLE, REFUSED, OK)

    assert world.counted() == {("catalog-v1", "200", "-"): 1}
    [(_, cell)] = world.metrics.cells()
    assert (cell.attempts, cell.retries, cell.response_bytes.sum) == (3, 2, 812)
    assert world.log.getvalue().split()[:4] == ["200", "-", "via_upstream", "812"]
    *attempts, call = world.exporter.get_finished_spans()
    assert [span.attributes.get("http.response.status_code") for span in attempts] == [503, None, 200]
    assert [span.attributes.get("http.request.resend_count") for span in attempts] == [None, 1, 2]
    assert attempts[1].status.description == "connection refused"
    assert "error.type" not in call.attributes
    spans = [f"{call.context.trace_id:032x}-{span.context.span_id:016x}" for span in attempts]
    assert [headers["traceparent"][3:52] for headers in sent] == spans
    assert len({headers["x-request-id"] for headers in sent}) == 1


@pytest.mark.parametrize(
    ("endpoints", "outcomes", "target", "counted", "detail"),
    [
        (
            (V1,),
            [REFUSED] * 3,
            "/items",
            ("catalog-v1", "503", "URX,UF"),
            "upstream_reset_before_response_started{remote_connection_failure}",
        ),
        (
            (V1,),
            [RESET] * 3,
            "/items",
            ("catalog-v1", "503", "URX,UC"),
            "upstream_reset_before_response_started{connection_termination}",
        ),
        ((), [], "/items", ("unknown", "503", "UH"), "no_healthy_upstream"),
        ((V1,), [], "/elsewhere", ("unknown", "404", "NR"), "route_not_found"),
    ],
)
def test_a_call_that_the_mesh_ended(endpoints, outcomes, target, counted, detail):
    world = World(*endpoints)
    world.call(*outcomes, target=target)
    assert world.counted() == {counted: 1}
    assert world.log.getvalue().split()[:3] == [*counted[1:], detail]
    call = world.exporter.get_finished_spans()[-1]
    assert (call.attributes["error.type"], call.attributes["response_flags"]) == (detail, counted[2])


def test_a_call_whose_caller_walked_away():
    world = World(V1)
    view = request()
    record = CallRecord(view, 0.0)
    policy = execute(Call(view, world.live, record, lambda: world.now, random.Random(7), world.observer))
    assert isinstance(next(policy), Attempt)
    world.now = 0.5
    policy.close()
    assert world.counted() == {("catalog-v1", "0", "DC"): 1}
    assert world.log.getvalue() == "0 DC downstream_remote_disconnect 0 500 10.0.0.1:3000\n"
    attempt, call = world.exporter.get_finished_spans()
    assert (attempt.attributes["error.type"], attempt.status.description) == ("_OTHER", "cancelled")
    assert call.attributes["error.type"] == "downstream_remote_disconnect"
