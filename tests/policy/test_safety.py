"""``retry_safety="strict"``: what is sent again, and how often."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.policy.effects import ErrorKind, Outcome
from meshlib.policy.safety import RetryRate, retry_after, risk
from policy.driving import Lab, Met
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot


def lab(*, strict=True, **route):
    policy = retry("5xx", num_retries=3, base_interval=0.001, max_interval=0.001)
    return Lab(snapshot(cluster(endpoints(2)), routes=[forward(retry=policy, **route)]), strict=strict)


@pytest.mark.parametrize(
    ("method", "headers", "outcome", "safe"),
    [
        *((method, [], Outcome(503), True) for method in ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")),
        *((method, [], Outcome(503), False) for method in ("POST", "PATCH", "PROPFIND")),
        ("POST", [("idempotency-key", "8e03978e")], Outcome(503), True),
        ("POST", [("idempotency-key", "")], Outcome(503), False),
        ("POST", [], Outcome(error=ErrorKind.CONNECT, written=False), True),
        ("POST", [], Outcome(error=ErrorKind.RESET, written=True), False),
        ("POST", [], Outcome(error=ErrorKind.REFUSED, written=True), True),  # the endpoint has not begun on it
    ],
)
def test_what_may_be_sent_again(method, headers, outcome, safe):
    assert (risk(request("/", method=method, headers=headers), outcome) == "") is safe


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("-7", 0.0),
        ("soon", 0.0),
        ("Sat, 01 Jan 2000 00:00:09 GMT", 9.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
    ],
)
def test_retry_after(text, seconds):
    assert retry_after({"retry-after": text}, lambda: 946684800.0) == seconds


def test_envoy_s_way_is_the_default():
    assert len(lab(strict=False).run(503, 200, view=request("/", method="POST")).attempts) == 2


def test_a_post_is_sent_once():
    run = lab().run(503, 200, view=request("/", method="POST"))
    assert (len(run.attempts), run.status) == (1, 503)
    assert run.record.retry_skipped.startswith("POST is not idempotent")


def test_retry_after_is_waited_for():
    run = lab(timeout=60.0).run(Met(503, headers={"retry-after": "5"}), 200)
    assert (run.sleeps, run.status) == ([5.0], 200)


def test_retry_after_beyond_the_timeout_ends_it():
    run = lab(timeout=3.0).run(Met(503, headers={"retry-after": "5"}), 200)
    assert (run.status, run.record.retry_skipped) == (503, "Retry-After of 5s is longer than the 3s left")


def test_the_application_s_deadline_counts_as_well():
    test = lab(timeout=0.0)
    test.options["deadline"] = test.clock() + 2.0
    run = test.run(Met(503, headers={"retry-after": "5"}), 200)
    assert run.record.retry_skipped == "Retry-After of 5s is longer than the 2s left"


def test_a_storm_stays_under_a_fifth():
    """R7: every endpoint answers 503 for a minute, at a thousand requests a second."""
    test = lab()
    requests, attempts = 20_000, 0
    for _ in range(requests):
        attempts += len(test.run(503).attempts)
        test.clock.advance(0.001)
    assert attempts / requests <= 1.2 + 0.005
    assert attempts / requests > 1.15, "the budget is there to be used"
    test.assert_idle()


def test_a_few_requests_may_be_retried_all_the_same():
    test = lab()
    runs = []
    for _ in range(5):
        runs.append(test.run(503, 200))
        test.clock.advance(1.0)
    assert [run.status for run in runs] == [200] * 5


@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.booleans()), max_size=300))
def test_the_budget_never_exceeds_its_bounds(steps):
    rate, now = RetryRate(), 1000.0
    requests, granted = [], []
    for gap, retries in steps:
        now += gap
        if retries:
            if rate.withdraw(now):
                granted.append(now)
        else:
            rate.deposit(now)
            requests.append(now)
        recent = [at for at in granted if at > now - 9.0]
        seconds = {at // 1.0 for at in recent}
        allowed = max(
            10 * max(1, len(seconds)), 0.2 * len([at for at in requests if at > now - 11.0]) + 10 * len(seconds)
        )
        assert len(recent) <= allowed
