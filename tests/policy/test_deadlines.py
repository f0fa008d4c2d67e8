"""Route timeout and per-try timeout, as measured on the real Envoy (semantics of `timeout`)."""

import pytest

from meshlib.policy.effects import ErrorKind, ReplyKind, Respond
from policy.driving import Lab, Met, ScriptedRandom
from policy.snapshots import cluster, endpoints, forward, retry, snapshot

SLOW = Met(200, after=60.0)


def lab(**action):
    policy = action.pop("policy", None)
    return Lab(snapshot(cluster(endpoints(1)), routes=[forward(retry=policy, **action)]))


def elapsed(run):
    return pytest.approx(run.record.duration, abs=1e-6)


def test_default_timeout_is_15_seconds():
    run = lab().run(SLOW)
    assert (run.status, run.flags, run.reply.kind) == (504, "UT", ReplyKind.ROUTE_TIMEOUT)
    assert elapsed(run) == 15.0


def test_zero_is_off():
    run = lab(timeout=0.0).run(SLOW)
    assert (run.status, elapsed(run)) == (200, 60.0)
    assert run.attempts[0].timeout is None


@pytest.mark.parametrize(
    ("timeout", "per_try", "attempts", "seconds", "kind"),
    [
        (1.0, 0.3, 3, 0.9, ReplyKind.PER_TRY_TIMEOUT),
        (0.0, 0.2, 3, 0.6, ReplyKind.PER_TRY_TIMEOUT),  # timeout 0s: per-try still works
        (0.4, 0.6, 1, 0.4, ReplyKind.ROUTE_TIMEOUT),  # ignored when not below a non-zero timeout
        (0.4, 0.4, 1, 0.4, ReplyKind.ROUTE_TIMEOUT),
        (0.5, 0.3, 2, 0.5, ReplyKind.ROUTE_TIMEOUT),  # the second attempt gets what is left
    ],
)
def test_per_try_timeout(timeout, per_try, attempts, seconds, kind):
    policy = retry("5xx", num_retries=2, per_try_timeout=per_try, base_interval=0.0, max_interval=0.0)
    run = lab(timeout=timeout, policy=policy).run(SLOW)
    assert len(run.attempts) == attempts
    told = dict(run.attempts[0].headers)["x-envoy-expected-rq-timeout-ms"]
    assert int(told) == round(1000 * min(per_try, timeout or per_try))
    assert elapsed(run) == seconds
    assert (run.status, run.reply.kind) == (504, kind)
    assert "UT" in run.flags


def test_attempts_are_told_what_is_left():
    policy = retry("5xx", num_retries=2, base_interval=0.0, max_interval=0.0)
    run = lab(timeout=1.0, policy=policy).run(Met(503, after=0.3), Met(503, after=0.3), 200)
    assert [a.timeout for a in run.attempts] == pytest.approx([1.0, 0.7, 0.4])
    told = [dict(a.headers)["x-envoy-expected-rq-timeout-ms"] for a in run.attempts]
    assert told == ["1000", "700", "400"]


def test_no_timeout_is_told_when_there_is_none():
    run = lab(timeout=0.0).run()
    assert run.attempts[0].headers == []


def test_per_try_timeout_stops_at_the_response_head():
    policy = retry("5xx", per_try_timeout=0.3)
    run = lab(timeout=0.0, policy=policy).run(Met(200, after=0.1), body=1.0)
    assert (run.status, run.flags, len(run.attempts)) == (200, "-", 1)
    assert elapsed(run) == 1.1


def test_route_timeout_runs_to_the_end_of_the_body():
    run = lab(timeout=0.5).run(Met(200, after=0.1), body=1.0)
    assert (run.status, run.flags) == (200, "UT")
    assert elapsed(run) == 0.5
    assert isinstance(run.final, Respond)
    assert run.final.timeout == pytest.approx(0.4)


def test_timeouts_start_when_the_request_is_complete():
    """A timeout of 0.5 s with an upload that takes 1 s: 200 on Envoy."""
    run = lab(timeout=0.5).run(Met(200, upload=1.0, after=0.2), body=0.2)
    assert (run.status, run.flags) == (200, "-")
    assert run.final.timeout == pytest.approx(0.3)


def test_an_upload_does_not_turn_a_per_try_timeout_into_the_routes():
    run = lab(timeout=2.0, policy=retry("connect-failure", per_try_timeout=0.3)).run(Met(200, upload=5.0, after=1.0))
    assert run.reply.kind is ReplyKind.PER_TRY_TIMEOUT


def test_route_timeout_is_not_retried():
    run = lab(timeout=0.5, policy=retry("5xx", num_retries=3)).run(SLOW)
    assert (len(run.attempts), run.status) == (1, 504)
    assert "URX" not in run.flags


def test_route_timeout_cuts_the_back_off():
    policy = retry("5xx", num_retries=3, base_interval=10.0, max_interval=10.0)
    test = Lab(snapshot(cluster(endpoints(1)), routes=[forward(timeout=0.5, retry=policy)]), chance=ScriptedRandom(0.9))
    run = test.run(503)
    assert (run.status, run.reply.kind, len(run.attempts)) == (504, ReplyKind.ROUTE_TIMEOUT, 1)
    assert elapsed(run) == 0.5
    test.assert_idle()


def test_the_wait_for_a_connection_is_bounded_by_the_route_timeout():
    from meshlib.model.cluster import Thresholds

    test = Lab(snapshot(cluster(endpoints(1), thresholds=Thresholds(max_connections=1)), routes=[forward(timeout=2.0)]))
    _, first = test.start()
    next(first)  # holds the connection
    run = test.run()
    assert (run.status, run.flags, run.attempts) == (504, "UT", [])
    assert elapsed(run) == 2.0
    first.close()
    test.assert_idle()


def test_an_application_timeout_is_nobodys_fault():
    policy = retry("5xx", "reset", "gateway-error", "connect-failure", num_retries=3)
    run = lab(policy=policy).run(ErrorKind.APPLICATION)
    assert (len(run.attempts), run.flags, run.reply.kind) == (1, "DC", ReplyKind.APPLICATION)
