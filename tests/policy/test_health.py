"""Active health checks as a machine: results in, health and the time of the next check out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.model.cluster import OutlierDetection
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import Endpoint, EndpointCheck, HealthStatus
from meshlib.model.health_check import HealthCheck, TcpCheck
from meshlib.policy.health import Failure, HostHealth, Result, Transition, interval
from policy.driving import Lab, Met, ScriptedRandom
from policy.snapshots import cluster, endpoints, snapshot

HEALTHY, UNHEALTHY, UNKNOWN = HealthStatus.HEALTHY, HealthStatus.UNHEALTHY, HealthStatus.UNKNOWN
DEGRADED = HealthStatus.DEGRADED
CHANGED, PENDING, UNCHANGED = Transition.CHANGED, Transition.PENDING, Transition.UNCHANGED

GOOD, POOR = Result(), Result(degraded=True)
BAD = Result(Failure.ANSWERED)
SOFT = Result(Failure.ANSWERED, retriable=True)
LOST, LATE = Result(Failure.NETWORK), Result(Failure.TIMEOUT)


def check(unhealthy=2, healthy=3, **fields):
    given = {"timeout": 1.0, "interval": 10.0, "unhealthy_interval": 10.0, **fields}
    return HealthCheck(TcpCheck(), unhealthy_threshold=unhealthy, healthy_threshold=healthy, **given)


# results, each with the health and the transition after it
STORIES = {
    "the first success makes healthy": [(GOOD, HEALTHY, CHANGED)],
    "the first failure makes unhealthy": [(LOST, UNHEALTHY, CHANGED), (GOOD, UNHEALTHY, PENDING)],
    "lost checks count": [(GOOD, HEALTHY, CHANGED), (LOST, HEALTHY, PENDING), (LATE, UNHEALTHY, CHANGED)],
    "a success begins the count anew": [
        (GOOD, HEALTHY, CHANGED),
        (LOST, HEALTHY, PENDING),
        (GOOD, HEALTHY, UNCHANGED),
        (LOST, HEALTHY, PENDING),
        (LOST, UNHEALTHY, CHANGED),
    ],
    "one bad answer is enough": [(GOOD, HEALTHY, CHANGED), (BAD, UNHEALTHY, CHANGED)],
    "but not a retriable one": [(GOOD, HEALTHY, CHANGED), (SOFT, HEALTHY, PENDING), (SOFT, UNHEALTHY, CHANGED)],
    "coming back takes successes in a row": [
        (LOST, UNHEALTHY, CHANGED),
        (GOOD, UNHEALTHY, PENDING),
        (GOOD, UNHEALTHY, PENDING),
        (LOST, UNHEALTHY, UNCHANGED),
        (GOOD, UNHEALTHY, PENDING),
        (GOOD, UNHEALTHY, PENDING),
        (GOOD, HEALTHY, CHANGED),
        (GOOD, HEALTHY, UNCHANGED),
    ],
    "degraded is said by successes": [
        (POOR, DEGRADED, CHANGED),
        (POOR, DEGRADED, UNCHANGED),
        (GOOD, HEALTHY, CHANGED),
        (POOR, DEGRADED, CHANGED),
        (BAD, UNHEALTHY, CHANGED),
        (POOR, UNHEALTHY, PENDING),
    ],
}


@pytest.mark.parametrize("story", STORIES)
def test_stories(story):
    health = HostHealth()
    assert health.status is UNKNOWN
    for result, status, transition in STORIES[story]:
        assert (health.take(check(), result), health.status) == (transition, status)


@given(st.lists(st.sampled_from([GOOD, POOR, BAD, SOFT, LOST, LATE])), st.integers(1, 4), st.integers(1, 4))
def test_thresholds_are_kept(results, unhealthy, healthy):
    """Against the rules in words: what the last results in a row say."""
    health, failed = HostHealth(), True
    for i, result in enumerate(results):
        health.take(check(unhealthy, healthy), result)
        row = 0
        for earlier in reversed(results[: i + 1]):
            if (earlier.failure is None) is not (result.failure is None):
                break
            row += 1
        if result.failure is None:
            failed = failed and i > 0 and row < healthy
        elif i == 0 or result is BAD or row >= unhealthy:
            failed = True
        assert health.failed is failed
        if failed and i > 0 and result.failure is None:
            break  # from here on successes before a first failure in the row would count differently


@pytest.mark.parametrize(
    ("failure", "transition", "traffic", "seconds"),
    [
        (False, UNCHANGED, True, 1.0),
        (False, PENDING, True, 2.0),
        (True, UNCHANGED, True, 3.0),
        (True, CHANGED, True, 3.0),
        (True, PENDING, True, 4.0),
        (False, UNCHANGED, False, 6.0),
        (False, PENDING, False, 5.0),
        (True, CHANGED, False, 5.0),
    ],
)
def test_intervals(failure, transition, traffic, seconds):
    made = check(
        interval=1.0,
        healthy_edge_interval=2.0,
        unhealthy_interval=3.0,
        unhealthy_edge_interval=4.0,
        no_traffic_interval=5.0,
        no_traffic_healthy_interval=6.0,
    )
    chance = ScriptedRandom(0.5)
    assert interval(made, failure=failure, transition=transition, traffic=traffic, chance=chance) == seconds


def test_jitters():
    made = check(interval=10.0, interval_jitter=2.0, interval_jitter_percent=50)
    chance = ScriptedRandom(0.5)
    assert interval(made, failure=False, transition=UNCHANGED, traffic=True, chance=chance) == 10.0 + 2.5 + 1.0


def test_who_says_so_to_a_call_is_out_and_does_not_count():
    health = HostHealth()
    health.take(check(), GOOD)
    assert health.refuse(check()) is CHANGED
    assert (health.status, health.excluded) == (UNHEALTHY, True)
    for _ in range(3):
        assert health.excluded
        health.take(check(), GOOD)
    assert (health.status, health.excluded) == (HEALTHY, False)


class Watching:
    """An upkeep that does nothing but be there."""

    trouble = ""

    def __init__(self):
        self.refusals = []

    def called(self, now):
        return None

    def configured(self):
        pass

    def refused(self, state):
        self.refusals.append(state)

    def close(self):
        pass


class Checked(Lab):
    """A lab whose cluster ``c`` is checked."""

    def __init__(self, *groups, **fields):
        self.fields = {"health_checks": (check(),), **fields}
        self.watching = Watching()
        super().__init__(snapshot(cluster(*groups, **self.fields)), keeping=lambda _cluster: self.watching)

    def probed(self, status, *hosts, excluded=False):
        state = self.cluster()
        for each in list(state.endpoints.values()):
            told = not hosts or each.endpoint.address in hosts
            if told and state.probed(each, status, excluded=excluded, success=status is HEALTHY):
                state.refresh()

    def met(self, calls=60):
        return {host for _ in range(calls) for host in self.run().hosts}


class TestBalancing:
    def test_nobody_is_healthy_before_the_first_check(self):
        test = Checked(endpoints(2), panic_threshold=0.0)
        assert test.run().flags == "UH"
        test.probed(HEALTHY, "10.0.0.2")
        assert test.met() == {"10.0.0.2"}

    def test_but_for_those_that_are_not_checked(self):
        test = Checked([Endpoint("a", 80, check=EndpointCheck(disabled=True)), Endpoint("b", 80)], panic_threshold=0.0)
        assert test.met() == {"a"}

    def test_what_fails_is_left_out_and_panic_uses_all(self):
        test = Checked(endpoints(4))
        test.probed(HEALTHY)
        test.probed(UNHEALTHY, "10.0.0.1")
        assert test.met() == {"10.0.0.2", "10.0.0.3", "10.0.0.4"}
        test.probed(UNHEALTHY)
        assert len(test.met()) == 4

    def test_degraded_endpoints_take_what_is_left(self):
        test = Checked(endpoints(2))
        test.probed(HEALTHY)
        test.probed(DEGRADED, "10.0.0.1")
        assert test.met() >= {"10.0.0.2"}
        test.probed(UNHEALTHY, "10.0.0.2")
        assert test.met() == {"10.0.0.1"}

    def test_eds_and_checks_together(self):
        test = Checked([Endpoint("a", 80, health=UNHEALTHY), Endpoint("b", 80, health=DEGRADED), Endpoint("c", 80)])
        test.probed(HEALTHY)
        assert test.met() >= {"c"}
        assert "a" not in test.met()

    @pytest.mark.parametrize(
        ("ignored", "hosts"), [(True, {"10.0.0.1"}), (False, {"10.0.0.1", "10.0.0.2", "10.0.0.3"})]
    )
    def test_ignore_new_hosts(self, ignored, hosts):
        """With one healthy of three, the two new ones either mean panic or are not there."""
        test = Checked(endpoints(3), ignore_new_hosts=ignored)
        test.probed(HEALTHY, "10.0.0.1")
        assert test.met() == hosts

    def test_an_endpoint_that_is_excluded_does_not_count(self):
        test = Checked(endpoints(3))
        test.probed(HEALTHY)
        test.probed(UNHEALTHY, "10.0.0.2", "10.0.0.3", excluded=True)
        assert test.met() == {"10.0.0.1"}

    @pytest.mark.parametrize(("ends", "flags"), [(True, "-"), (False, "UH")])
    def test_a_success_ends_an_ejection_unless_it_is_told_not_to(self, ends, flags):
        outlier = OutlierDetection(consecutive_5xx=1, max_ejection_percent=100, unejected_by_check=ends)
        test = Checked(endpoints(1), outlier=outlier, panic_threshold=0.0)
        test.probed(HEALTHY)
        test.run(503)
        assert test.run().flags == "UH"
        test.probed(HEALTHY)
        assert test.run().flags == flags

    def test_a_call_that_meets_the_header_tells_of_its_endpoint(self):
        test = Checked(endpoints(1))
        test.probed(HEALTHY)
        test.run(Met(status=200, headers={"x-envoy-immediate-health-check-fail": "true"}))
        assert [state.endpoint.address for state in test.watching.refusals] == ["10.0.0.1"]

    def test_connections_of_who_failed_are_of_no_use(self):
        test = Checked(endpoints(2))
        test.probed(HEALTHY, "10.0.0.1")
        assert test.live.has_endpoint("c", ("10.0.0.1", 80))
        assert test.live.has_endpoint("c", ("10.0.0.2", 80)), "nothing is known of it yet"
        test.probed(UNHEALTHY)
        assert not test.live.has_endpoint("c", ("10.0.0.1", 80))


class TestRemoval:
    def eds(self, test, *hosts):
        made = cluster([Endpoint(host, 80) for host in hosts], **test.fields)
        object.__setattr__(made, "discovery", Discovery.EDS)
        test.update(snapshot(made))

    def test_an_endpoint_that_discovery_took_away_stays_while_checks_find_it_healthy(self):
        test = Checked(endpoints(2))
        self.eds(test, "a", "b")
        test.probed(HEALTHY)
        self.eds(test, "b")
        assert test.met() == {"a", "b"}
        test.probed(UNHEALTHY, "a")
        assert set(test.cluster().endpoints) == {("b", 80)}

    def test_or_not(self):
        test = Checked(endpoints(2), ignore_health_on_removal=True)
        self.eds(test, "a", "b")
        test.probed(HEALTHY)
        self.eds(test, "b")
        assert test.met() == {"b"}

    def test_one_that_failed_or_comes_back(self):
        test = Checked(endpoints(2))
        self.eds(test, "a", "b")
        test.probed(HEALTHY, "b")
        test.probed(UNHEALTHY, "a")
        self.eds(test, "b")
        assert set(test.cluster().endpoints) == {("b", 80)}
        self.eds(test)
        assert test.met() == {"b"}
        self.eds(test, "b")
        test.probed(UNHEALTHY, "b")
        assert set(test.cluster().endpoints) == {("b", 80)}


def test_checks_that_are_taken_away_leave_everyone_healthy():
    test = Checked(endpoints(2))
    test.probed(UNHEALTHY)
    test.update(snapshot(cluster(endpoints(2))))
    assert {state.probe for state in test.cluster().endpoints.values()} == {HEALTHY}
    test.update(snapshot(cluster(endpoints(3), **test.fields)))
    assert [state.probe for state in test.cluster().endpoints.values()] == [HEALTHY, HEALTHY, UNKNOWN]
