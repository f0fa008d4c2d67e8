"""How often, how soon and where to a retry goes."""

import random

import pytest
import tenacity

from meshlib.model.cluster import RetryBudget, Thresholds
from meshlib.model.endpoint import Endpoint, HealthStatus
from meshlib.model.match import HeaderMatch, StringMatch, StringOp
from meshlib.model.traffic import RateLimitedBackOff, ResetHeader
from meshlib.policy.effects import Discard, ErrorKind, Outcome, ReplyKind, Respond
from meshlib.policy.retrying import RetryPlan, RetryState, plans_with
from policy.driving import Lab, Met, ScriptedRandom
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot


def lab(policy, *, hosts=1, chance=None, plan_for=None, **fields):
    config = snapshot(cluster(endpoints(hosts), **fields), routes=[forward(retry=policy, timeout=0.0)])
    return Lab(config, chance=chance, **({"plan_for": plan_for} if plan_for else {}))


@pytest.mark.parametrize("retries", [0, 1, 3, 20])
def test_num_retries(retries):
    test = lab(retry("5xx", num_retries=retries))
    run = test.run(503)
    assert len(run.attempts) == retries + 1
    assert (run.status, run.flags) == (503, "URX")
    assert [a.number for a in run.attempts] == list(range(1, retries + 2))
    test.assert_idle()


def test_default_is_one_retry():
    assert len(lab(retry("5xx")).run(503).attempts) == 2


def test_the_last_response_is_passed_through():
    run = lab(retry("5xx", num_retries=2)).run(500, 502, 503)
    assert isinstance(run.final, Respond)
    assert run.final.outcome.status == 503
    assert run.record.detail == "via_upstream"


def test_success_ends_it():
    run = lab(retry("5xx", num_retries=5)).run(503, ErrorKind.RESET, 200)
    assert (run.status, run.flags, len(run.attempts)) == (200, "-", 3)


def test_discarded_responses_are_closed_and_errors_are_not():
    run = lab(retry("5xx", num_retries=2)).run(503, ErrorKind.RESET, 200)
    assert sum(isinstance(e, Discard) for e in run.effects) == 1


@pytest.mark.parametrize("number", range(1, 7))
def test_back_off_is_uniform_below_a_doubling_bound(number):
    plan = RetryPlan(retry("5xx", num_retries=9, base_interval=0.1, max_interval=0.8))
    state = RetryState(number, 0.0, Outcome(503))
    upper = min(0.1 * 2 ** (number - 1), 0.8)
    assert plan.back_off(state, ScriptedRandom(0.0)) == 0.0
    assert plan.back_off(state, ScriptedRandom(0.5)) == pytest.approx(upper / 2)
    draws = [plan.back_off(state, random.Random(seed)) for seed in range(300)]
    assert max(draws) < upper
    assert max(draws) > 0.9 * upper
    assert min(draws) < 0.1 * upper


def test_back_off_defaults():
    run = lab(retry("5xx", num_retries=6), chance=ScriptedRandom(0.0, 0.999999)).run(503)
    assert run.sleeps == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.25, 0.25], rel=1e-3)


def test_max_retries_counts_concurrent_retries():
    """Twenty fail at once: three are retried, the others overflow (the default is 3)."""
    test = lab(retry("5xx", base_interval=1.0), chance=ScriptedRandom(0.5))
    calls = [test.start() for _ in range(20)]
    for _, policy in calls:
        next(policy)
    kept = []
    for record, policy in calls:
        effect = policy.send(Outcome(503, response=object()))
        kept.append((record, policy, effect))
    waiting = [policy for _, policy, effect in kept if isinstance(effect, Discard)]
    refused = [record for record, _, effect in kept if isinstance(effect, Respond)]
    assert (len(waiting), len(refused)) == (3, 17)
    assert {(r.response_flags, r.retry_skipped) for r in refused} == {("UO", "max_retries=3 reached")}
    for _, policy, _ in kept:
        policy.close()
    test.assert_idle()


def test_the_retry_slot_is_free_once_the_retry_has_its_response():
    test = lab(retry("5xx"), thresholds=Thresholds(max_retries=1))
    runs = [test.run(503, 200) for _ in range(5)]
    assert [len(run.attempts) for run in runs] == [2] * 5


def test_a_streamed_body_is_sent_again_as_far_as_it_was_kept():
    test = lab(retry("5xx", num_retries=3))
    run = test.run(Met(503, sent=b"x" * 1024), 200, view=request("/", method="POST", replayable=False))
    assert (run.status, len(run.attempts), run.record.retry_skipped) == (200, 2, "")
    assert test.call.kept.parts == [b"x" * 1024, b""]


def test_a_body_that_cannot_be_sent_again():
    test = lab(retry("5xx", num_retries=3))
    too_much = Met(503, sent=b"x" * (1024 * 1024 + 1))
    run = test.run(too_much, 200, view=request("/", method="POST", replayable=False))
    assert (run.status, len(run.attempts)) == (503, 1)
    assert run.record.retry_skipped == "body not replayable: over the buffer limit of 1048576"
    assert "URX" not in run.flags
    reset = Met(error=ErrorKind.RESET, sent=too_much.sent)
    failed = test.run(reset, 200, view=request("/", method="POST", replayable=False))
    assert (failed.status, failed.reply.kind) == (503, ReplyKind.RESET)
    assert failed.record.retry_skipped.startswith("body not replayable")
    test.assert_idle()


def test_retry_skipped_is_silent_when_nothing_was_wanted():
    run = lab(retry("5xx")).run(200, view=request("/", replayable=False))
    assert run.record.retry_skipped == ""


class TestPreviousHosts:
    def test_each_attempt_finds_a_new_host(self):
        policy = retry("5xx", num_retries=2, previous_hosts=True, host_selection_max_attempts=5)
        test = lab(policy, hosts=3)
        for _ in range(20):
            assert len(set(test.run(503).hosts)) == 3

    def test_the_only_host_is_taken_again(self):
        policy = retry("5xx", num_retries=2, previous_hosts=True, host_selection_max_attempts=5)
        run = lab(policy, hosts=1).run(503)
        assert (len(run.attempts), run.status) == (3, 503)

    def test_one_more_pick_by_default(self):
        policy = retry("5xx", num_retries=1, previous_hosts=True)  # host_selection_max_attempts 1
        config = cluster(endpoints(2), lb_policy=_random())
        test = Lab(
            snapshot(config, routes=[forward(retry=policy, timeout=0.0)]),
            #                     route, back-off, then picks: the same host twice, and that is that
            chance=ScriptedRandom(0.1, 0.0, 0.1, 0.1, 0.9),
        )
        assert test.run(503).hosts == ["10.0.0.1", "10.0.0.1"]

    def test_without_it_hosts_may_repeat(self):
        test = Lab(
            snapshot(cluster(endpoints(2), lb_policy=_random()), routes=[forward(retry=retry("5xx"), timeout=0.0)]),
            chance=ScriptedRandom(0.1),
        )
        assert test.run(503).hosts == ["10.0.0.1", "10.0.0.1"]


def _random():
    from meshlib.model.balancing import LbPolicy

    return LbPolicy.RANDOM


def test_a_local_overflow_is_never_retried():
    test = lab(retry("5xx", "gateway-error", num_retries=3), thresholds=Thresholds(max_requests=1))
    _, holder = test.start()
    next(holder)
    run = test.run()
    assert (run.status, run.flags, run.attempts) == (503, "UO", [])
    assert dict(run.reply.headers)["x-envoy-overloaded"] == "true"
    holder.close()
    test.assert_idle()


def test_no_endpoint_left_for_the_retry():
    from meshlib.model.cluster import OutlierDetection

    outlier = OutlierDetection(consecutive_5xx=1, max_ejection_percent=100)
    run = lab(retry("5xx"), outlier=outlier, panic_threshold=0.0).run(503)
    assert (run.status, run.flags, len(run.attempts)) == (503, "UH", 1)


class TestUsersStrategies:
    """tenacity's objects in place of what the configuration says."""

    def test_stop(self):
        plan_for = plans_with(tenacity.stop_after_attempt(2), None)
        assert len(lab(retry("5xx", num_retries=9), plan_for=plan_for).run(503).attempts) == 2

    def test_stop_by_time(self):
        plan_for = plans_with(tenacity.stop_after_delay(1.0), tenacity.wait_fixed(0.4))
        run = lab(retry("5xx", num_retries=99), plan_for=plan_for).run(503)
        assert run.sleeps == [0.4, 0.4, 0.4]  # the attempt at 1.2 s is the last

    def test_composed(self):
        stop = tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(0.5)
        plan_for = plans_with(stop, tenacity.wait_incrementing(0.1, 0.1) + tenacity.wait_fixed(0.05))
        run = lab(retry("5xx", num_retries=99), plan_for=plan_for).run(503)
        assert run.sleeps == pytest.approx([0.15, 0.25, 0.35])

    def test_wait_reads_the_outcome(self):
        def retry_after(state):
            return float(state.outcome.headers.get("retry-after") or 0.0)

        run = lab(retry("5xx"), plan_for=plans_with(None, retry_after)).run(Met(503, headers={"retry-after": "7"}), 200)
        assert run.sleeps == [7.0]

    def test_the_condition_stays_retry_on(self):
        plan_for = plans_with(tenacity.stop_never, None)
        assert len(lab(retry("connect-failure"), plan_for=plan_for).run(503).attempts) == 1

    def test_none_given_means_the_shared_plans(self):
        from meshlib.policy.retrying import plan_for

        assert plans_with(None, None) is plan_for


@pytest.mark.parametrize(
    ("budget", "calls", "retried"),
    [
        (RetryBudget(), 10, 3),
        (RetryBudget(), 40, 6),  # 20 % of those still under way: 8 at first, 6 when 34 are left
        (RetryBudget(50.0, 0), 2, 1),
        (RetryBudget(0.0, 1), 10, 1),
        (RetryBudget(0.0, 0), 1, 0),
    ],
)
def test_retry_budget_takes_the_place_of_max_retries(budget, calls, retried):
    thresholds = Thresholds(max_retries=0, retry_budget=budget)
    test = lab(retry("5xx", base_interval=1.0), chance=ScriptedRandom(0.5), thresholds=thresholds)
    begun = [test.start() for _ in range(calls)]
    for _, policy in begun:
        next(policy)
    for _, policy in begun:
        effect = policy.send(Outcome(503, response=object()))
        policy.close() if isinstance(effect, Respond) else policy.send(None)  # on to the back-off
    refused = [record for record, _ in begun if record.retry_skipped]
    assert len(refused) == calls - retried
    for record in refused:
        assert record.retry_skipped.startswith(f"retry_budget of {budget.percent:g} %")
    for _, policy in begun:
        policy.close()
    test.assert_idle()


AGAIN = (HeaderMatch("x-again", StringMatch(StringOp.EXACT, "yes")), HeaderMatch(":status", range_=(520, 530)))
GATES = (HeaderMatch("x-a", present=True), HeaderMatch(":method", StringMatch(StringOp.EXACT, "PUT")))


@pytest.mark.parametrize(
    ("on", "met", "attempts"),
    [
        ("retriable-headers", Met(200, headers={"x-again": "yes"}), 2),
        ("retriable-headers", Met(503, headers={"x-again": "yes"}), 2),
        ("retriable-headers", Met(200, headers={"x-again": "no"}), 1),
        ("retriable-headers", Met(521), 2),
        ("retriable-headers", Met(503), 1),
        ("5xx", Met(200, headers={"x-again": "yes"}), 1),
    ],
)
def test_retriable_headers(on, met, attempts):
    assert len(lab(retry(on, retriable_headers=AGAIN)).run(met).attempts) == attempts


@pytest.mark.parametrize(
    ("method", "headers", "attempts"),
    [("GET", [], 1), ("GET", [("x-a", "")], 2), ("PUT", [], 2), ("GET", [("x-b", "")], 1)],
)
def test_retriable_request_headers_let_retries_happen_at_all(method, headers, attempts):
    view = request(method=method, headers=headers)
    assert len(lab(retry("5xx", retriable_request_headers=GATES)).run(503, view=view).attempts) == attempts


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "soon", "x-reset": "1007"}, 7.0),
        ({"retry-after": "61", "x-reset": "1003"}, 3.0),  # longer than max_interval is passed over
        ({"retry-after": "Wed, 21 Oct 2037 07:28:00 GMT"}, None),
        ({"x-reset": "999"}, None),  # the moment has passed
        ({"retry-after": "0"}, None),
        ({}, None),
    ],
)
def test_rate_limited_back_off(headers, least):
    asked = RateLimitedBackOff((ResetHeader("retry-after"), ResetHeader("x-reset", timestamp=True)), 60.0)
    plan = RetryPlan(retry("5xx", rate_limited=asked, base_interval=0.1))
    state = RetryState(1, 0.0, Outcome(503, headers))
    waits = [plan.back_off(state, ScriptedRandom(draw), lambda: 1000.5) for draw in (0.0, 0.5)]
    assert waits == pytest.approx([least, least * 1.25] if least else [0.0, 0.05])


def test_a_wait_of_the_users_own_goes_before_what_the_response_asks():
    plans = plans_with(None, tenacity.wait_fixed(0.7))
    asked = RateLimitedBackOff((ResetHeader("retry-after"),))
    run = lab(retry("5xx", rate_limited=asked), plan_for=plans).run(Met(503, headers={"retry-after": "9"}), 200)
    assert run.sleeps == [0.7]


LABELS = [{"canary": True}, {"stage": "old"}, {"stage": "old", "arch": "arm"}, {}]


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"omit_canary_hosts": True}, {2, 3, 4}),
        ({"omit_host_metadata": ((("stage", "old"),),)}, {1, 4}),
        ({"omit_host_metadata": ((("arch", "arm"), ("stage", "old")),)}, {1, 2, 4}),
        ({"omit_canary_hosts": True, "omit_host_metadata": ((("stage", "old"),),)}, {4}),
        ({"omit_canary_hosts": True, "previous_hosts": True, "omit_host_metadata": ((("stage", "old"),),)}, {4}),
        ({}, {1, 2, 3, 4}),
    ],
)
def test_hosts_that_retries_omit(fields, left):
    hosts = [Endpoint(f"10.0.0.{n}", 80, metadata={"envoy.lb": labels}) for n, labels in enumerate(LABELS, 1)]
    policy = retry("5xx", num_retries=1, host_selection_max_attempts=9, **fields)
    config = snapshot(cluster(hosts), routes=[forward(retry=policy)])
    pairs = [
        [int(a.endpoint.address[-1]) for a in Lab(config, chance=random.Random(n)).run(503).attempts] for n in range(60)
    ]
    assert {first for first, _ in pairs} == {1, 2, 3, 4}  # the first attempt goes anywhere
    if not fields.get("previous_hosts"):
        assert {second for _, second in pairs} == left
    else:
        assert {second for first, second in pairs if first not in left} == left


class TestPreviousPriorities:
    def hosts(self, *groups, frequency=1, retries=4):
        policy = retry(
            "5xx", num_retries=retries, previous_priorities=frequency, base_interval=0.001, max_interval=0.001
        )
        test = Lab(snapshot(cluster(*groups), routes=[forward(retry=policy)]))
        run = test.run(503)
        test.assert_idle()
        return [address.rpartition(".")[2] for address in run.hosts]

    def group(self, number, **fields):
        return (Endpoint(f"10.0.0.{number}", 80, **fields),)

    def test_each_retry_goes_on_to_the_next(self):
        assert self.hosts(self.group(0), self.group(1), self.group(2)) == ["0", "1", "2", "0", "1"]

    def test_only_so_often(self):
        found = self.hosts(self.group(0), self.group(1), self.group(2), frequency=2, retries=7)
        assert found == ["0", "0", "1", "1", "2", "2", "0", "0"]

    def test_an_unhealthy_priority_is_no_choice(self):
        sick = self.group(1, health=HealthStatus.UNHEALTHY)
        assert self.hosts(self.group(0), sick, self.group(2)) == ["0", "2", "0", "2", "0"]

    def test_one_priority_alone_is_tried_again(self):
        assert self.hosts(self.group(0)) == ["0"] * 5


def test_the_high_priority_has_thresholds_of_its_own():
    high = [forward(retry=retry("5xx"), high_priority=True)]
    test = Lab(snapshot(cluster(endpoints(1), high_thresholds=Thresholds(max_requests=0)), routes=high))
    run = test.run(200)
    assert (run.flags, run.reply.message) == ("UO", "cluster 'c' is at its circuit-breaker threshold max_requests=0")
    test.update(snapshot(cluster(endpoints(1), thresholds=Thresholds(max_requests=0)), routes=high))
    assert test.run(200).status == 200


def test_connections_per_host():
    test = lab(retry("5xx"), hosts=2, thresholds=Thresholds(max_connections_per_host=1, max_pending_requests=0))
    calls = [test.start() for _ in range(6)]
    effects = [next(policy) for _, policy in calls]
    by_host = [effect.endpoint.address for effect in effects if hasattr(effect, "endpoint")]
    assert len(by_host) == len(set(by_host)) <= 2
    for _, policy in calls:
        policy.close()
    test.assert_idle()
