"""Aggregate clusters: which member an attempt goes to, as the real Envoy 1.40 was seen to do it."""

from collections import Counter

import pytest

from meshlib.model.balancing import Balancing, LbPolicy
from meshlib.model.cluster import Cluster, OutlierDetection, Thresholds
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import Endpoint, HealthStatus
from policy.driving import Lab
from policy.snapshots import cluster, forward, retry, snapshot

UNHEALTHY, DEGRADED = HealthStatus.UNHEALTHY, HealthStatus.DEGRADED


def at(host, health=HealthStatus.HEALTHY, port=80):
    return Endpoint(host, port, health=health)


def aggregate(name, *members, **fields):
    return Cluster(name, Discovery.AGGREGATE, balancing=Balancing(LbPolicy.CLUSTER_PROVIDED), members=members, **fields)


MEMBERS = (
    cluster([at("a")], name="pa"),
    cluster([at("b")], name="pb"),
    cluster([at("a", UNHEALTHY)], name="dead-a"),
    cluster([at("b", UNHEALTHY)], name="dead-b"),
    cluster([at("a", UNHEALTHY)], name="dead-calm", panic_threshold=0.0),
    cluster([], name="empty"),
    cluster([at("a"), *(at("a", UNHEALTHY, port) for port in (81, 82, 83))], name="quarter"),
    cluster([at("a", DEGRADED)], name="degraded"),
    cluster([at("a", UNHEALTHY)], [at("b")], name="two-priorities"),
    aggregate("nested", "pa"),
    aggregate("itself", "itself"),
    aggregate("circle", "c", "pb"),
)

# members, the aggregate's panic threshold: hosts that 400 calls meet, in percent; None is 503 UH
MEASURED = [
    (("pa",), 50.0, {"a": 100}),
    (("pa", "pb"), 50.0, {"a": 100}),
    (("dead-a", "pb"), 50.0, {"b": 100}),
    (("nested",), 50.0, {None: 100}),
    (("nested", "pb"), 50.0, {"b": 100}),
    (("itself", "pa"), 50.0, {"a": 100}),
    (("circle", "pa"), 50.0, {"a": 100}),
    (("no such", "pa"), 50.0, {"a": 100}),
    (("dead-a", "dead-b"), 50.0, {"a": 50, "b": 50}),
    (("dead-a", "dead-b"), 0.0, {"a": 100}),
    (("empty", "dead-a"), 50.0, {"a": 100}),
    (("dead-calm",), 50.0, {None: 100}),
    (("dead-calm", "pb"), 50.0, {"b": 100}),
    (("quarter", "pb"), 50.0, {"a": 35, "b": 65}),
    (("degraded", "pb"), 50.0, {"b": 100}),
    (("degraded", "dead-b"), 50.0, {"a": 100}),
    (("two-priorities",), 50.0, {"b": 100}),
]


def lab(*members, threshold=50.0, routes=None, replaced=(), **fields):
    there = {each.name: each for each in (*MEMBERS, *replaced)}
    return Lab(snapshot(*there.values(), aggregate("c", *members, panic_threshold=threshold, **fields), routes=routes))


@pytest.mark.parametrize(("members", "threshold", "expected"), MEASURED)
def test_a_member_by_the_health_of_all(members, threshold, expected):
    test = lab(*members, threshold=threshold)
    runs = [test.run() for _ in range(400)]
    met = Counter(run.hosts[0] if run.hosts else None for run in runs)
    assert all(run.flags == "UH" for run in runs if not run.hosts)
    assert met.keys() == expected.keys()
    for host, share in expected.items():
        assert met[host] / 4 == pytest.approx(share, abs=9 if share < 100 else 0)
    test.assert_idle()


def test_the_members_settings_count_and_the_record_names_the_aggregate():
    slow = cluster([at("a")], name="pa", connect_timeout=9.0, http2=True)
    test = lab("pa", replaced=[slow], connect_timeout=1.0)
    run = test.run()
    assert run.record.cluster_name == "c"
    assert (run.attempts[0].cluster.name, run.attempts[0].cluster.connect_timeout) == ("pa", 9.0)


def test_a_retry_goes_to_the_next_member_once_the_first_is_ejected():
    outlier = OutlierDetection(consecutive_5xx=1, max_ejection_percent=100)
    test = lab(
        "pa",
        "pb",
        routes=[forward(retry=retry("5xx", num_retries=1))],
        replaced=[cluster([at("a")], name="pa", outlier=outlier)],
    )
    assert test.run(503, 200).hosts == ["a", "b"]
    assert test.run(200).hosts == ["b"]
    test.assert_idle()


def test_requests_are_limited_by_the_member():
    full = cluster([at("a")], name="pa", thresholds=Thresholds(max_requests=0))
    run = lab("pa", replaced=[full]).run()
    assert (run.status, run.flags) == (503, "UO")
    assert lab("pa", thresholds=Thresholds(max_requests=0)).run().status == 200


def test_retries_are_limited_by_the_aggregate():
    routes = [forward(retry=retry("5xx", num_retries=1))]
    none = Thresholds(max_retries=0)
    assert len(lab("pa", routes=routes, thresholds=none).run(503, 200).attempts) == 1
    limited = cluster([at("a")], name="pa", thresholds=none)
    assert len(lab("pa", routes=routes, replaced=[limited]).run(503, 200).attempts) == 2


def test_members_in_reserve_count_as_used():
    test = lab("pa", "pb")
    test.run()
    assert test.state.used() == {"c", "pa", "pb"}
    assert test.state.used() == frozenset()


def test_what_is_said_when_no_member_can_serve():
    reply = lab("dead-calm", "empty").run().reply
    assert reply.message == "no healthy upstream: cluster 'c' has 1 endpoints, none usable (0 ejected)"
