"""The call as a whole: whatever happens, and wherever it is abandoned, nothing is left behind."""

import gc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshlib.model.cluster import Cluster, OutlierDetection, Thresholds, TransportSocket, TransportSocketMatch
from meshlib.model.discovery import Discovery, OriginalDst
from meshlib.model.endpoint import Endpoint
from meshlib.model.filter_chain import FilterChain, TcpProxy
from meshlib.model.listener import Listener
from meshlib.model.names import NameTable
from meshlib.model.route import WeightedCluster
from meshlib.model.snapshot import Bindings, Snapshot, Style
from meshlib.model.traffic import FaultDelay, FaultInjection
from meshlib.policy.effects import Attempt, BodyEnd, Discard, ErrorKind, Outcome, Park, Reply, Respond, Sleep
from policy.driving import Lab, Met, ScriptedRandom
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot

OUTCOMES = st.one_of(
    st.sampled_from([200, 204, 404, 500, 503]),
    st.sampled_from(list(ErrorKind)),
    st.builds(Met, status=st.sampled_from([200, 503]), after=st.sampled_from([0.0, 0.1, 0.6, 5.0])),
)
ACTIONS = st.tuples(
    st.sampled_from(["start", "step", "abandon", "grow", "shrink"]), st.integers(0, 5), OUTCOMES, st.floats(0, 2)
)


def busy_snapshot(version, hosts=2, connections=2):
    """A cluster where everything is scarce, so that every branch of the stack is met."""
    thresholds = Thresholds(max_connections=connections, max_pending_requests=2, max_requests=3, max_retries=1)
    config = cluster(
        endpoints(hosts),
        thresholds=thresholds,
        outlier=OutlierDetection(consecutive_5xx=2, max_ejection_percent=50, interval=1.0, base_ejection_time=1.0),
    )
    policy = retry("5xx", "reset", num_retries=2, per_try_timeout=0.5, previous_hosts=True)
    fault = FaultInjection(delay=FaultDelay(0.2, 20.0))
    return snapshot(
        config, routes=[forward(retry=policy, timeout=1.0, fault=fault)], version=version, fault_filter=True
    )


class Harness:
    """Several calls at once, each stepped or abandoned at any effect."""

    def __init__(self):
        self.lab = Lab(busy_snapshot("1"))
        self.open = []  # [policy, effect]
        self.version = 1

    def act(self, action, index, line, seconds):
        self.lab.clock.advance(seconds)
        if action == "start":
            _, policy = self.lab.start()
            self.open.append([policy, next(policy)])
        elif action in ("grow", "shrink"):
            self.version += 1
            hosts, connections = (3, 3) if action == "grow" else (1, 1)
            self.lab.update(busy_snapshot(str(self.version), hosts, connections))
        elif self.open:
            call = self.open[index % len(self.open)]
            if action == "abandon":
                call[0].close()
                self.open.remove(call)
            else:
                self.step(call, line)

    def step(self, call, line):
        policy, effect = call
        if isinstance(effect, Park) and not effect.ticket.granted and effect.timeout:
            self.lab.clock.advance(effect.timeout)
        answer = None
        if isinstance(effect, Attempt):
            answer = self.lab.attempt(effect, line)
        elif isinstance(effect, Respond):
            answer = BodyEnd(line if isinstance(line, ErrorKind) else None)
        try:
            call[1] = policy.send(answer)
        except StopIteration:
            assert isinstance(effect, Respond | Reply)
            self.open.remove(call)


@settings(max_examples=300, deadline=None)
@given(st.lists(ACTIONS, max_size=60))
def test_counts_return_to_zero(actions):
    harness = Harness()
    for action in actions:
        harness.act(*action)
        limits = harness.lab.cluster().limits
        assert min(limits.requests, limits.retries, limits.connections) >= 0
    for policy, _ in harness.open:
        policy.close()
    harness.lab.assert_idle()


EFFECTS = ["delay", "park", "attempt", "discard", "back-off", "second attempt", "body"]


@pytest.mark.parametrize("stop", range(len(EFFECTS)), ids=EFFECTS)
@pytest.mark.parametrize("how", ["close", "garbage", "throw"])
def test_abandoned_at_each_effect(stop, how):
    thresholds = Thresholds(max_connections=1, max_pending_requests=1)
    fault = FaultInjection(delay=FaultDelay(0.1, 100.0))
    route = forward(retry=retry("5xx"), timeout=0.0, fault=fault)
    test = Lab(snapshot(cluster(endpoints(1), thresholds=thresholds), routes=[route], fault_filter=True))
    _, holder = test.start()
    next(holder)
    holder.send(None)  # holds the only connection
    record, policy = test.start()
    effects = [next(policy)]
    answers = [None, None, Outcome(503, response=object()), None, None, Outcome(200, response=object())]
    for number, answer in enumerate(answers[:stop]):
        if number == 1:
            holder.close()
        effects.append(policy.send(answer))
    wanted = [Sleep, Park, Attempt, Discard, Sleep, Attempt, Respond]
    assert [type(e) for e in effects] == wanted[: stop + 1]
    if how == "close":
        policy.close()
    elif how == "throw":
        with pytest.raises(KeyboardInterrupt):
            policy.throw(KeyboardInterrupt())
    else:
        del policy
        gc.collect()
    holder.close()
    assert record.ended == test.clock()
    test.assert_idle()
    if how != "throw":
        assert "DC" in record.response_flags


def test_events_come_once_each():
    test = Lab(snapshot(cluster(endpoints(1)), routes=[forward(retry=retry("5xx", num_retries=2))]))
    test.run(503, ErrorKind.RESET, 200)
    assert dict(test.journal.events) == {
        "call_started": 1,
        "attempt_started": 3,
        "attempt_ended": 3,
        "call_ended": 1,
    }


def test_the_record_tells_the_story():
    routes = [forward(name="items", source="catalog-vs.yaml:7", retry=retry("5xx"), timeout=0.0)]
    test = Lab(snapshot(cluster(endpoints(2)), routes=routes))
    record = test.run(Met(503, after=0.25), Met(200, after=0.5), body=1.0).record
    assert (record.listener, record.route_config, record.virtual_host) == ("listener", "table", "host")
    assert (record.route, record.source, record.cluster_name) == ("items", "catalog-vs.yaml:7", "c")
    assert [a.status for a in record.attempts] == [503, 200]
    assert [a.ended - a.started for a in record.attempts] == [0.25, 0.5]
    assert record.attempts[1].started > record.attempts[0].ended
    assert record.endpoint is record.attempts[1].endpoint
    assert record.duration >= 1.75
    assert record.bytes_received == 2


def test_a_cancelled_attempt_says_so():
    test = Lab(snapshot(cluster(endpoints(1))))
    record, policy = test.start()
    next(policy)
    policy.close()
    assert record.attempts[0].error == "cancelled"


def test_a_driver_that_answers_nonsense_is_told():
    test = Lab(snapshot(cluster(endpoints(1))))
    _, policy = test.start()
    next(policy)
    with pytest.raises(TypeError, match="answered an Attempt"):
        policy.send(None)
    test.assert_idle()


@pytest.mark.parametrize(
    ("error", "flags", "detail"),
    [
        (None, "-", "via_upstream"),
        (ErrorKind.RESET, "UPE", "upstream_reset_after_response_started{protocol_error}"),
        (ErrorKind.TIMEOUT, "UT", "response_timeout"),
        (ErrorKind.APPLICATION, "DC", "via_upstream"),
    ],
)
def test_how_a_body_ends(error, flags, detail):
    test = Lab(snapshot(cluster(endpoints(1))))
    record, policy = test.start()
    next(policy)
    policy.send(Outcome(200, response=object()))
    with pytest.raises(StopIteration):
        policy.send(BodyEnd(error, 17))
    assert (record.response_flags, record.detail, record.bytes_received) == (flags, detail, 17)
    test.assert_idle()


def test_tcp_clusters_get_no_http_policy():
    chain = FilterChain(tcp=TcpProxy((WeightedCluster("c"),)))
    snap = Snapshot(
        "1", Style.STATIC, {"l": Listener("l", "0.0.0.0", 80, chains=(chain,))}, {}, {"c": cluster(endpoints(1))}
    )
    run = Lab(snap).run(Met(503, after=60.0))
    assert (run.status, len(run.attempts), run.attempts[0].timeout) == (503, 1, None)
    assert (run.record.route, run.record.cluster_name) == ("", "c")


def test_a_tcp_cluster_is_drawn_by_weight_once_a_call():
    targets = tuple(WeightedCluster(name, weight) for name, weight in (("a", 1), ("b", 0), ("c", 3)))
    listener = Listener("l", "0.0.0.0", 80, chains=(FilterChain(tcp=TcpProxy(targets)),))
    clusters = {name: cluster(endpoints(2), name=name) for name in "abc"}
    snap = Snapshot("1", Style.STATIC, {"l": listener}, {}, clusters)
    for drawn, name in ((0.0, "a"), (0.2, "a"), (0.25, "c"), (0.99, "c")):
        run = Lab(snap, chance=ScriptedRandom(drawn)).run(200)
        assert run.record.cluster_name == name


def test_a_host_of_several_addresses_is_drawn_and_dialled_where_it_was():

    listeners = {
        f"10.244.3.{n}_7001": Listener(
            f"10.244.3.{n}_7001",
            f"10.244.3.{n}",
            7001,
            chains=(FilterChain(tcp=TcpProxy((WeightedCluster("headless"),))),),
        )
        for n in (1, 2)
    }
    snap = Snapshot(
        "1",
        Style.SIDECAR,
        listeners,
        clusters={"headless": Cluster("headless", Discovery.ORIGINAL_DST)},
        names=NameTable(
            {"headless.shop.svc.cluster.local": ("10.244.3.1", "10.244.3.2")}, search=(".shop.svc.cluster.local",)
        ),
        bindings=Bindings.of(listeners),
    )
    for drawn, address in ((0.1, "10.244.3.1"), (0.6, "10.244.3.2")):
        run = Lab(snap, chance=ScriptedRandom(drawn)).run(200, view=request(host="headless", port=7001))
        assert run.attempts[0].endpoint.key == (address, 7001)
        assert run.record.listener == f"{address}_7001"


def test_passed_through_where_the_caller_said():
    test = Lab(snapshot(Cluster("c", Discovery.ORIGINAL_DST)))
    run = test.run(view=request(host="other.example", port=8443))
    assert run.attempts[0].endpoint.key == ("other.example", 8443)


@pytest.mark.parametrize(
    ("config", "header", "expected"),
    [
        (OriginalDst(header="x-to"), "10.1.2.3:81", ("10.1.2.3", 81)),
        (OriginalDst(header="x-to"), "[::1]:81", ("::1", 81)),
        (OriginalDst(header="x-to", port=9), "10.1.2.3:81", ("10.1.2.3", 9)),
        (OriginalDst(port=9), "10.1.2.3:81", ("other.example", 9)),
        *[
            (OriginalDst(header="x-to"), bad, ("other.example", 8443))
            for bad in ("", "10.1.2.3", "host:81", "::1:81", "[10.1.2.3]:81", "10.1.2.3:65536", "10.1.2.3:+1")
        ],
    ],
)
def test_what_stands_in_for_the_original_destination(config, header, expected):
    test = Lab(snapshot(Cluster("c", Discovery.ORIGINAL_DST, original_dst=config)))
    run = test.run(view=request(host="other.example", port=8443, headers=[("x-to", header)]))
    assert run.attempts[0].endpoint.key == expected


def test_transport_socket_matches():
    tls = TransportSocket("tls", secure=True)
    raw = TransportSocket("raw", secure=False)
    own = TransportSocket("own", secure=True)
    meta = {"envoy.transport_socket_match": {"tlsMode": "istio"}}
    hosts = (Endpoint("a", 80, metadata=meta), Endpoint("b", 80))
    matches = (TransportSocketMatch("tls", (("tlsMode", "istio"),), tls), TransportSocketMatch("any", (), raw))
    state = Lab(snapshot(cluster(hosts, transport_socket_matches=matches))).cluster()
    assert [state.transport_socket(e) for e in hosts] == [tls, raw]
    narrow = Lab(snapshot(cluster(hosts, transport_socket_matches=matches[:1], transport_socket=own))).cluster()
    assert [narrow.transport_socket(e) for e in hosts] == [tls, own]
    assert Lab(snapshot(cluster(hosts))).cluster().transport_socket(hosts[0]) is None


@pytest.mark.parametrize(
    ("percentage", "drawn", "dropped"), [(30.0, 0.29, True), (30.0, 0.31, False), (0.0, 0.0, False)]
)
def test_overload_drops_calls_before_they_are_sent(percentage, drawn, dropped):
    config = cluster(endpoints(1))
    config = replace(config, assignment=replace(config.assignment, drop_percentage=percentage))
    test = Lab(snapshot(config, routes=[forward(retry=retry("5xx"))]), chance=ScriptedRandom(drawn))
    run = test.run(200)
    assert (run.status, run.flags, len(run.attempts)) == ((503, "UDO", 0) if dropped else (200, "-", 1))
    test.assert_idle()
