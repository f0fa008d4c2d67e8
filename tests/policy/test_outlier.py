"""Outlier detection: who is ejected, when not, and for how long."""

import pytest

from meshlib.model.cluster import OutlierDetection, Thresholds
from meshlib.model.endpoint import Endpoint
from meshlib.policy.cluster_state import EndpointState
from meshlib.policy.effects import BodyEnd, ErrorKind, Outcome
from meshlib.policy.outlier import OutlierDetector, Verdict
from policy.driving import Lab, Met, ScriptedRandom
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot

ALWAYS = ScriptedRandom(0.0)


class Detector:
    """A detector and its endpoints, fed by hand."""

    def __init__(self, hosts, chance=ALWAYS, **fields):
        defaults = {"consecutive_5xx": 3, "max_ejection_percent": 100, "interval": 10.0, "base_ejection_time": 30.0}
        self.detector = OutlierDetector(OutlierDetection(**{**defaults, **fields}))
        self.states = [EndpointState(e) for e in endpoints(hosts)]
        self.chance = chance

    def feed(self, host, *verdicts, now=0.0):
        """Returns whether any of the verdicts ejected the host."""
        total = len(self.states)
        seen = [self.detector.observe(self.states[host], v, total, now, self.chance) for v in verdicts]
        return any(seen)

    def sweep(self, now):
        return self.detector.due(now) and self.detector.sweep(self.states, now, self.chance)


BAD, GATEWAY, LOCAL, GOOD = Verdict.SERVER_ERROR, Verdict.GATEWAY_ERROR, Verdict.LOCAL_ORIGIN, Verdict.SUCCESS


@pytest.mark.parametrize("verdict", [BAD, GATEWAY, LOCAL])
def test_consecutive_5xx(verdict):
    test = Detector(2)
    assert not test.feed(0, verdict, verdict)
    assert test.feed(0, verdict)
    assert test.states[0].ejected


def test_success_resets_the_counter():
    test = Detector(2)
    assert not test.feed(0, *[BAD, BAD, GOOD] * 3)
    assert test.feed(0, BAD, BAD, BAD)


def test_the_sweep_does_not_reset_the_counter():
    """Three failures 0.5 s apart with an interval of 0.2 s: ejected on Envoy."""
    test = Detector(2, interval=0.2)
    test.feed(0, BAD, now=0.0)
    test.sweep(0.4)
    test.feed(0, BAD, now=0.5)
    test.sweep(0.9)
    assert test.feed(0, BAD, now=1.0)


@pytest.mark.parametrize(
    ("hosts", "percent", "always_one", "ejected"),
    [
        (3, 10, False, 0),  # 1 of 3 is 33 %: never, strictly
        (3, 10, True, 1),
        (3, 33, False, 0),
        (3, 34, False, 1),
        (3, 50, False, 1),
        (3, 67, False, 2),
        (10, 10, False, 1),
        (10, 10, True, 1),
        (4, 100, False, 4),
        (1, 100, False, 1),
    ],
)
def test_max_ejection_percent_is_strict(hosts, percent, always_one, ejected):
    test = Detector(hosts, max_ejection_percent=percent, always_eject_one_host=always_one)
    for host in range(hosts):
        test.feed(host, BAD, BAD, BAD)
    assert len(test.detector.ejected) == test.detector.ejections == ejected
    assert test.detector.overflows == hosts - ejected


def test_an_ejection_ends_at_a_sweep():
    test = Detector(2, interval=10.0, base_ejection_time=12.0)
    test.feed(0, BAD, BAD, BAD, now=100.0)
    assert not test.sweep(109.9)
    assert not test.sweep(110.0)  # a sweep, but the 12 s are not over
    assert not test.sweep(119.0)  # they are, but there is no sweep
    assert test.sweep(120.0)
    assert not test.states[0].ejected


def test_ejections_grow_and_are_capped():
    test = Detector(2, interval=1.0, base_ejection_time=10.0, max_ejection_time=25.0)
    now, lasted = 0.0, []
    for _ in range(5):
        test.feed(0, BAD, BAD, BAD, now=now)
        began = now
        while test.states[0].ejected:
            now += 1.0
            test.sweep(now)
        lasted.append(now - began)
    assert lasted == [10.0, 20.0, 25.0, 25.0, 25.0]


def test_each_interval_without_ejection_shortens_the_next():
    test = Detector(2, interval=1.0, base_ejection_time=3.0)
    test.feed(0, BAD, BAD, BAD, now=0.0)
    for second in range(1, 4):
        test.sweep(float(second))
    assert (test.states[0].ejected, test.states[0].times_ejected) == (False, 1)
    test.sweep(4.0)
    assert test.states[0].times_ejected == 0


def test_an_idle_mesh_makes_up_for_the_sweeps_it_left_out():
    test = Detector(2, interval=1.0, base_ejection_time=3.0)
    test.states[0].times_ejected = 4
    test.feed(0, BAD, BAD, BAD, now=0.0)
    assert test.states[0].times_ejected == 5
    assert not test.sweep(14.5)  # 5 × 3 s: the sweep at 15 lets it back
    assert test.sweep(17.5)  # as if swept at 15, 16 and 17
    assert test.states[0].times_ejected == 3
    test.sweep(1000.0)
    assert test.states[0].times_ejected == 0


def test_gateway_failures_have_their_own_counter():
    test = Detector(2, consecutive_5xx=0, consecutive_gateway_failure=2, enforcing_consecutive_gateway_failure=100)
    assert not test.feed(0, BAD, BAD, BAD, BAD)
    assert not test.feed(0, GATEWAY, BAD, GATEWAY)  # a plain 500 breaks the row
    assert test.feed(0, GATEWAY)


def test_local_errors_count_as_gateway_failures_unless_split():
    test = Detector(2, consecutive_5xx=0, consecutive_gateway_failure=2, enforcing_consecutive_gateway_failure=100)
    assert test.feed(0, LOCAL, LOCAL)


class TestSplitLocalOriginErrors:
    def test_local_errors_count_apart(self):
        test = Detector(2, split_external_local_origin_errors=True, consecutive_local_origin_failure=2)
        assert not test.feed(0, BAD, BAD, LOCAL)
        assert test.feed(0, LOCAL)

    def test_they_do_not_feed_the_5xx_counter(self):
        test = Detector(2, split_external_local_origin_errors=True, enforcing_consecutive_local_origin_failure=0)
        assert not test.feed(0, *[LOCAL] * 20)

    def test_any_response_proves_the_connection(self):
        test = Detector(2, split_external_local_origin_errors=True, consecutive_local_origin_failure=2)
        assert not test.feed(0, LOCAL, BAD, LOCAL)


@pytest.mark.parametrize(("drawn", "ejected"), [(0.29, True), (0.31, False)])
def test_enforcing_percentage(drawn, ejected):
    test = Detector(2, ScriptedRandom(drawn), enforcing_consecutive_5xx=30)
    assert test.feed(0, BAD, BAD, BAD) is ejected


def test_enforcing_zero_turns_the_detector_off():
    assert not Detector(2, enforcing_consecutive_5xx=0).feed(0, *[BAD] * 50)


def test_consecutive_zero_is_off():
    assert not Detector(2, consecutive_5xx=0).feed(0, *[BAD] * 50)


def test_an_ejected_host_is_not_ejected_again():
    test = Detector(2)
    test.feed(0, *[BAD] * 9)
    assert test.detector.ejections == 1


# Through whole calls: what counts, and what the next call sees.


def lab(hosts=3, panic=0.0, *, limits=None, **outlier):
    config = OutlierDetection(**{"consecutive_5xx": 3, "max_ejection_percent": 50, **outlier})
    extra = {"thresholds": limits} if limits else {}
    routes = [forward(timeout=1.0)]
    return Lab(snapshot(cluster(endpoints(hosts), outlier=config, panic_threshold=panic, **extra), routes=routes))


COUNTS = {
    "500": (500, True),
    "503": (503, True),
    "404": (404, False),
    "429": (429, False),
    "200": (200, False),
    "reset": (ErrorKind.RESET, True),
    "connect": (ErrorKind.CONNECT, True),
    "connect timeout": (ErrorKind.CONNECT_TIMEOUT, True),
    "garbage": (ErrorKind.PROTOCOL, True),
    "route timeout": (Met(200, after=9.0), True),
    "application timeout": (ErrorKind.APPLICATION, False),
    "no TLS": (ErrorKind.TLS_UNAVAILABLE, False),
}
GRPC_COUNTS = {2: True, 4: True, 12: True, 13: True, 14: True, 15: True, 0: False, 1: False, 3: False, 5: False}


@pytest.mark.parametrize("name", COUNTS)
def test_what_counts(name):
    """One host, threshold 3, panic off: the fourth call finds nobody if it counted."""
    script, counts = COUNTS[name]
    test = lab(hosts=1, max_ejection_percent=100)
    for _ in range(3):
        test.run(script)
    run = test.run()
    assert (run.flags == "UH") is counts
    test.assert_idle()


@pytest.mark.parametrize("status", GRPC_COUNTS)
def test_what_counts_of_grpc(status):
    test = lab(hosts=1, max_ejection_percent=100)
    grpc = request(headers=[("content-type", "application/grpc")])
    for _ in range(3):
        test.run(Met(200, grpc_status=status), view=grpc)
    assert (test.run(200).flags == "UH") is GRPC_COUNTS[status]


def test_grpc_statuses_count_for_grpc_requests_only():
    test = lab(hosts=1, max_ejection_percent=100)
    for _ in range(5):
        assert test.run(Met(200, grpc_status=14)).status == 200


def test_traffic_leaves_an_ejected_host_and_comes_back():
    test = lab()
    bad = "10.0.0.1"

    def call():
        _, policy = test.start()
        host = next(policy).endpoint.address
        policy.send(Outcome(500 if host == bad else 200, response=object()))
        with pytest.raises(StopIteration):
            policy.send(BodyEnd())
        return host

    for _ in range(9):
        call()
    assert bad not in {call() for _ in range(30)}
    test.clock.advance(45.0)
    assert bad in {call() for _ in range(30)}


def test_a_sole_ejected_host_still_serves_through_panic():
    test = lab(hosts=1, panic=50.0, max_ejection_percent=100)
    for _ in range(3):
        test.run(500)
    assert test.cluster().outliers.ejected
    assert test.run().status == 200


def test_the_retry_already_avoids_who_was_just_ejected():
    config = OutlierDetection(consecutive_5xx=1, max_ejection_percent=50)
    routes = [forward(retry=retry("5xx"), timeout=0.0)]
    test = Lab(snapshot(cluster(endpoints(2), outlier=config, panic_threshold=0.0), routes=routes))
    for _ in range(2):
        run = test.run(500, 200)
        assert len(set(run.hosts)) == 2
        test.clock.advance(1000.0)


def test_ejections_survive_an_update_that_keeps_the_host():
    test = lab(hosts=2)
    config = test.cluster().config
    state = test.cluster().endpoints["10.0.0.1", 80]
    for _ in range(3):
        test.cluster().observe(state, BAD, test.clock())
    assert state.ejected
    more = (*endpoints(2), Endpoint("10.0.0.9", 80))
    kept = cluster(more, outlier=config.outlier, panic_threshold=0.0)
    test.update(snapshot(kept, version="2"))
    assert "10.0.0.1" not in {test.run().hosts[0] for _ in range(20)}
    # Away and back again: forgotten.
    test.update(snapshot(cluster(more[1:], outlier=config.outlier, panic_threshold=0.0), version="3"))
    test.update(snapshot(kept, version="4"))
    assert "10.0.0.1" in {test.run().hosts[0] for _ in range(20)}


def test_ejections_end_when_outlier_detection_is_taken_away():
    test = lab(hosts=2)
    state = test.cluster().endpoints["10.0.0.1", 80]
    for _ in range(3):
        test.cluster().observe(state, BAD, test.clock())
    test.update(snapshot(cluster(endpoints(2), panic_threshold=0.0), version="2"))
    assert "10.0.0.1" in {test.run().hosts[0] for _ in range(20)}


def test_a_host_that_left_meanwhile_is_not_judged():
    test = lab(hosts=1, max_ejection_percent=100, limits=Thresholds())
    state = test.cluster().endpoints["10.0.0.1", 80]
    test.update(snapshot(cluster((Endpoint("10.0.0.9", 80),), outlier=test.cluster().config.outlier), version="2"))
    assert not any(test.cluster().observe(state, BAD, 0.0) for _ in range(5))


def fill(test, bad, *, requests=50, verdict=BAD, now=0.0):
    """Every host answers ``requests`` times; host 0 fails ``bad`` of them, the others none."""
    for host in range(len(test.states)):
        fails = bad if host == 0 else 0
        test.feed(host, *[verdict] * fails, *[GOOD] * (requests - fails), now=now)


FAILURES = {"consecutive_5xx": 0, "enforcing_success_rate": 0, "enforcing_failure_percentage": 100}
RATES = {"consecutive_5xx": 0, "success_rate_request_volume": 50}


@pytest.mark.parametrize(
    ("bad", "hosts", "requests", "ejected"),
    [(43, 5, 50, True), (42, 5, 50, False), (43, 4, 50, False), (49, 5, 49, False)],
    ids=["at the threshold", "below it", "too few hosts", "too few requests"],
)
def test_failure_percentage(bad, hosts, requests, ejected):
    """The defaults: 85 % of at least 50 requests, at least 5 hosts."""
    test = Detector(hosts, **{**FAILURES, "failure_percentage_threshold": 86})
    fill(test, bad, requests=requests)
    assert not test.states[0].ejected  # only a sweep looks
    assert test.sweep(10.0) is ejected
    assert test.states[0].ejected is ejected
    assert not any(state.ejected for state in test.states[1:])


def test_a_detector_that_is_off_compares_nothing():
    test = Detector(5, consecutive_5xx=0, enforcing_success_rate=0)
    fill(test, 50)
    assert not test.detector.config.compares
    assert not test.sweep(10.0)


@pytest.mark.parametrize(
    ("fields", "bad", "ejected"),
    [
        # Of five hosts one that differs is two standard deviations below the mean: the default of 1.9 takes it.
        ({}, 25, True),
        ({"success_rate_stdev_factor": 2100}, 25, False),
        ({"success_rate_minimum_hosts": 6}, 25, False),
        ({"success_rate_request_volume": 51}, 25, False),
        ({"enforcing_success_rate": 0}, 25, False),
        ({}, 0, False),
    ],
)
def test_success_rate(fields, bad, ejected):
    test = Detector(5, **{**RATES, **fields})
    fill(test, bad)
    assert test.sweep(10.0) is ejected
    assert test.states[0].ejected is ejected


def test_each_interval_is_compared_by_itself():
    test = Detector(5, **FAILURES)
    fill(test, 30)
    assert not test.sweep(10.0)
    test.feed(0, *[BAD] * 40, now=11.0)  # with the 30 before it would be plenty
    assert not test.sweep(20.0)


def test_local_errors_are_compared_apart_when_split():
    fields = {**FAILURES, "enforcing_failure_percentage": 0, "enforcing_failure_percentage_local_origin": 100}
    whole = Detector(5, **fields)
    fill(whole, 50, verdict=LOCAL)
    assert not whole.sweep(10.0)
    split = Detector(5, **fields, split_external_local_origin_errors=True, enforcing_consecutive_local_origin_failure=0)
    fill(split, 50, verdict=LOCAL)
    assert split.sweep(10.0)
    assert split.states[0].ejected


def test_an_idle_mesh_ejects_from_the_end_of_the_interval():
    test = Detector(5, **FAILURES)
    fill(test, 50)
    assert test.sweep(35.0)  # due at 10, so 30 s from there
    assert test.states[0].ejected_at == 10.0
    assert test.sweep(40.0)
    assert not test.states[0].ejected


def test_max_ejection_percent_bounds_the_comparison_too():
    test = Detector(5, **FAILURES, max_ejection_percent=20)
    for host in (0, 1):
        test.feed(host, *[BAD] * 50)
    for host in (2, 3, 4):
        test.feed(host, *[GOOD] * 50)
    test.sweep(10.0)
    assert [state.ejected for state in test.states] == [True, False, False, False, False]
    assert test.detector.overflows == 1


def test_ejection_time_jitter():
    test = Detector(2, chance=ScriptedRandom(0.0, 0.5), max_ejection_time_jitter=8.0)
    assert test.feed(0, BAD, BAD, BAD)
    assert not test.sweep(30.0)
    assert test.sweep(40.0)  # 30 s and half of 8


@pytest.mark.parametrize(
    ("met", "written", "ejected"),
    [
        (ErrorKind.CONNECT, False, True),
        (ErrorKind.CONNECT_TIMEOUT, False, True),
        (ErrorKind.RESET, True, False),  # each time there was a connection: a success of local origin in between
        (ErrorKind.PROTOCOL, True, False),
    ],
)
def test_split_counts_connections_that_were_had_as_successes(met, written, ejected):
    config = OutlierDetection(
        consecutive_5xx=1,
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=3,
        max_ejection_percent=100,
    )
    test = Lab(snapshot(cluster(endpoints(1), outlier=config)))
    for _ in range(6):
        test.run(Met(error=met, written=written))
    assert bool(test.cluster().outliers.ejections) is ejected
