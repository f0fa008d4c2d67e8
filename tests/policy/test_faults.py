"""Fault injection: delay, then abort; above the router, so never retried."""

import random

import pytest

from meshlib.model.match import HeaderMatch, StringMatch, StringOp
from meshlib.model.route import Route, RouteAction, WeightedCluster
from meshlib.model.traffic import FaultAbort, FaultDelay, FaultInjection
from meshlib.policy.effects import ReplyKind, Sleep
from policy.driving import Lab, ScriptedRandom
from policy.snapshots import ANY_PATH, cluster, endpoints, forward, request, retry, snapshot

ABORT = FaultInjection(abort=FaultAbort(100.0, status=503))
DELAY = FaultInjection(delay=FaultDelay(0.5, 100.0))


def lab(fault, *, chance=None, fault_filter=True, filters_own=None, **action):
    routes = [forward(fault=fault, **action)]
    http = {"fault_filter": fault_filter, "fault": filters_own}
    return Lab(snapshot(cluster(endpoints(1)), routes=routes, **http), chance=chance)


def test_abort():
    run = lab(ABORT, retry=retry("5xx", num_retries=3)).run()
    assert (run.status, run.flags, run.attempts) == (503, "FI", [])
    assert (run.reply.kind, run.reply.body) == (ReplyKind.CONFIGURED, "fault filter abort")
    assert run.record.detail == "fault_filter_abort"
    assert run.record.cluster_name == "c"


def test_delay_does_not_eat_the_routes_timeout():
    run = lab(DELAY, timeout=0.4).run()
    assert (run.status, run.flags, run.sleeps) == (200, "DI", [0.5])
    assert run.attempts[0].timeout == 0.4


def test_delay_then_abort():
    run = lab(FaultInjection(DELAY.delay, ABORT.abort)).run()
    assert (run.status, run.flags, run.sleeps, run.attempts) == (503, "DI,FI", [0.5], [])


@pytest.mark.parametrize(("percentage", "drawn", "aborted"), [(30, 0.29, True), (30, 0.31, False), (100, 0.999, True)])
def test_percentage(percentage, drawn, aborted):
    fault = FaultInjection(abort=FaultAbort(percentage, status=500))
    run = lab(fault, chance=ScriptedRandom(drawn)).run()
    assert (run.flags == "FI") is aborted


def test_zero_percent_never():
    fault = FaultInjection(FaultDelay(1.0, 0.0), FaultAbort(0.0, status=500))
    assert lab(fault, chance=ScriptedRandom(0.0)).run().flags == "-"


def test_share():
    test = lab(FaultInjection(abort=FaultAbort(30.0, status=500)), chance=random.Random(3))
    aborted = sum(test.run().flags == "FI" for _ in range(2000))
    assert 500 < aborted < 700


@pytest.mark.parametrize(("value", "applies"), [("yes", True), ("no", False), (None, False)])
def test_header_conditions(value, applies):
    condition = HeaderMatch("x-fault", StringMatch(StringOp.EXACT, "yes"))
    fault = FaultInjection(abort=ABORT.abort, headers=(condition,))
    headers = [] if value is None else [("x-fault", value)]
    assert (lab(fault).run(view=request(headers=headers)).flags == "FI") is applies


@pytest.mark.parametrize(("name", "applies"), [("c", True), ("other", False), ("", True)])
def test_upstream_cluster(name, applies):
    fault = FaultInjection(abort=ABORT.abort, upstream_cluster=name)
    assert (lab(fault).run().flags == "FI") is applies


def test_nothing_without_the_filter():
    assert lab(ABORT, fault_filter=False).run().flags == "-"


def test_the_filters_own_fault():
    assert lab(None, filters_own=ABORT).run().flags == "FI"


def test_the_routes_fault_replaces_the_filters():
    run = lab(DELAY, filters_own=ABORT).run()
    assert (run.status, run.flags) == (200, "DI")


def test_a_drawn_targets_fault_replaces_the_routes():
    split = RouteAction((WeightedCluster("c", 1, fault=ABORT), WeightedCluster("d", 1)))
    routes = [Route(ANY_PATH, split, fault=DELAY)]
    config = snapshot(cluster(endpoints(1)), cluster(endpoints(1), name="d"), routes=routes, fault_filter=True)
    for drawn, flags in ((0.2, "FI"), (0.8, "DI")):
        assert Lab(config, chance=ScriptedRandom(drawn)).run().flags == flags


def test_grpc_status():
    fault = FaultInjection(abort=FaultAbort(100.0, grpc_status=14))
    run = lab(fault).run(view=request(headers=[("content-type", "application/grpc")]))
    assert (run.status, dict(run.reply.headers)["grpc-status"], run.record.grpc_status) == (200, "14", 14)


def test_an_abandoned_delay_leaves_nothing():
    test = lab(DELAY)
    record, policy = test.start()
    next(policy)
    policy.close()
    assert set(record.response_flags.split(",")) == {"DC", "DI"}
    test.assert_idle()


BY_HEADER = FaultInjection(FaultDelay(0.0, 100.0, by_header=True), FaultAbort(40.0, by_header=True))
ABORTING, GRPC_ABORTING = "x-envoy-fault-abort-request", "x-envoy-fault-abort-grpc-request"
DELAYING = "x-envoy-fault-delay-request"


@pytest.mark.parametrize(
    ("headers", "status", "flags", "waited"),
    [
        ({}, 200, "-", []),
        ({ABORTING: "555"}, 555, "FI", []),
        ({ABORTING: "555", f"{ABORTING}-percentage": "30"}, 200, "-", []),
        ({ABORTING: "555", f"{ABORTING}-percentage": "90"}, 555, "FI", []),  # only ever lowered
        ({ABORTING: "555", f"{ABORTING}-percentage": "all"}, 555, "FI", []),
        ({ABORTING: "199"}, 200, "-", []),
        ({ABORTING: "600"}, 200, "-", []),
        ({ABORTING: "abc"}, 200, "-", []),
        ({DELAYING: "150"}, 200, "DI", [0.15]),
        ({DELAYING: "0"}, 200, "-", []),
        ({DELAYING: "150", f"{DELAYING}-percentage": "0"}, 200, "-", []),
        ({DELAYING: "150", ABORTING: "503"}, 503, "DI,FI", [0.15]),
    ],
)
def test_faults_that_the_request_asks_for(headers, status, flags, waited):
    run = lab(BY_HEADER, chance=ScriptedRandom(0.35)).run(view=request(headers=list(headers.items())))
    assert (run.status, run.flags, run.sleeps) == (status, flags, waited)


def test_a_grpc_abort_that_the_request_asks_for():
    headers = [("content-type", "application/grpc"), (GRPC_ABORTING, "5")]
    run = lab(BY_HEADER, chance=ScriptedRandom(0.35)).run(view=request(headers=headers))
    assert (run.record.grpc_status, run.flags) == (5, "FI")


def test_max_active_faults_counts_calls_until_they_are_over():
    fault = FaultInjection(FaultDelay(0.5, 100.0), max_active=2)
    test = Lab(snapshot(cluster(endpoints(1)), routes=[forward(fault=fault)], fault_filter=True))
    calls = [test.start() for _ in range(4)]
    delayed = [isinstance(next(policy), Sleep) for _, policy in calls]
    assert delayed == [True, True, False, False]
    for _, policy in calls:
        policy.close()
    assert test.run(200).flags == "DI"
    test.assert_idle()


@pytest.mark.parametrize(("node", "status"), [("n1", 418), ("n3", 200), (None, 200)])
def test_downstream_nodes(node, status):
    fault = FaultInjection(abort=FaultAbort(100.0, 418), downstream_nodes=frozenset({"n1", "n2"}))
    test = Lab(snapshot(cluster(endpoints(1)), routes=[forward(fault=fault)], fault_filter=True))
    headers = [("x-envoy-downstream-service-node", node)] if node else []
    assert test.run(200, view=request(headers=headers)).status == status
