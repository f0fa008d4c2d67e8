"""Attempts side by side, driven by hand: who wins, who is dropped, what is given back."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.model.cluster import OutlierDetection, Thresholds
from meshlib.policy.effects import (
    Attempt,
    BodyEnd,
    ErrorKind,
    Outcome,
    Race,
    Raced,
    Reply,
    Respond,
)
from policy.driving import Lab, Met, ScriptedRandom, as_met
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot

POLICY = retry("5xx", num_retries=1, per_try_timeout=0.15, base_interval=0.001, max_interval=0.001)


def lab(policy=POLICY, *, timeout=1.5, hosts=1, **fields):
    config = snapshot(cluster(endpoints(hosts), **fields), routes=[forward(retry=policy, hedge=True, timeout=timeout)])
    return Lab(config, chance=ScriptedRandom(0.5), races=True)


class Track:
    """A driver of races on the manual clock: each attempt answers at its time."""

    def __init__(self, test: Lab, *script, view=None) -> None:
        self.test = test
        self.script = list(script)
        self.due: list[tuple[float, int, Outcome]] = []
        self.running: set[int] = set()
        self.answered: set[int] = set()
        self.dropped: list[int] = []
        self.attempts: list[Attempt] = []
        self.record, self.policy = test.start(view)

    def run(self):
        answer = None
        try:
            while True:
                effect = self.policy.send(answer)
                answer = None
                if isinstance(effect, Race):
                    answer = self._race(effect)
                elif isinstance(effect, Respond):
                    self.final = effect
                    answer = BodyEnd(None, 2)
                else:
                    assert isinstance(effect, Reply), effect
                    self.final = effect
        except StopIteration:
            return self

    def _race(self, effect: Race):
        for number in effect.drop:
            assert number in self.running | self.answered, "it dropped what never ran"
            self.running.discard(number)
            self.dropped.append(number)
        if effect.launch is not None:
            self._launch(effect.launch)
        assert self.running or effect.timeout is not None or effect.ticket is not None, "nobody would end this wait"
        self.due = [each for each in self.due if each[1] in self.running]
        heapq.heapify(self.due)
        until = None if effect.timeout is None else self.test.clock() + effect.timeout
        if self.due and (until is None or self.due[0][0] <= until):
            at, number, outcome = heapq.heappop(self.due)
            self.test.clock.now = max(at, self.test.clock.now)
            self.running.discard(number)
            self.answered.add(number)
            return Raced(number, outcome)
        assert until is not None
        self.test.clock.now = until
        return None

    def _launch(self, attempt: Attempt) -> None:
        assert attempt.number == len(self.attempts) + 1
        self.attempts.append(attempt)
        self.running.add(attempt.number)
        met = as_met(self.script[min(attempt.number, len(self.script)) - 1])
        outcome = (
            Outcome(error=met.error, message="scripted")
            if met.error is not None
            else Outcome(met.status, met.headers, response=attempt.number)
        )
        if met.after < 1e6:
            heapq.heappush(self.due, (self.test.clock() + met.after, attempt.number, outcome))

    @property
    def told(self):
        return self.record.status, self.record.response_flags, len(self.attempts)


NEVER = Met(200, after=1e9)


@pytest.mark.parametrize(
    ("script", "told", "winner"),
    [
        ([Met(200, after=0.01)], (200, "-", 1), 1),
        ([Met(200, after=0.25), Met(200, after=0.9)], (200, "-", 2), 1),
        ([Met(200, after=0.35), Met(200, after=0.9)], (200, "URX", 2), 1),  # the second was late, too, by then
        ([NEVER, 200], (200, "-", 2), 2),
        ([503, 200], (200, "-", 2), 2),
        ([Met(503, after=0.25), Met(200, after=0.5)], (200, "URX", 2), 2),
        ([Met(200, after=0.4), Met(503, after=0.05)], (200, "URX", 2), 1),
        ([Met(503, after=0.25), Met(502, after=0.3)], (502, "URX", 2), 2),
        ([Met(error=ErrorKind.RESET, after=0.25), Met(200, after=0.4)], (200, "URX", 2), 2),
        ([Met(404, after=0.25), NEVER], (404, "-", 2), 1),
    ],
)
def test_who_wins(script, told, winner):
    test = lab()
    track = Track(test, *script).run()
    assert track.told == told
    assert track.final.outcome.response == winner
    test.assert_idle()


def test_all_hang():
    test = lab()
    track = Track(test, NEVER).run()
    assert track.told == (504, "URX,UT", 2)
    assert test.clock() == pytest.approx(1001.5)
    test.assert_idle()


def test_a_retry_policy_without_retry_on_hedges_nothing():
    track = Track(lab(retry(per_try_timeout=0.1)), Met(200, after=0.4)).run()
    assert track.told == (200, "-", 1)


def test_conditions_do_not_matter_to_a_hedge():
    track = Track(lab(retry("connect-failure", per_try_timeout=0.1)), NEVER, 200).run()
    assert track.told == (200, "-", 2)


def test_per_try_idle_timeouts_hedge_too():
    track = Track(lab(retry("5xx", per_try_idle_timeout=0.1)), NEVER, 200).run()
    assert track.told == (200, "-", 2)


def test_no_retry_left_no_hedge():
    track = Track(lab(retry("5xx", num_retries=0, per_try_timeout=0.1)), Met(200, after=0.4)).run()
    assert track.told == (200, "URX", 1)


def test_a_hedge_needs_a_retry_slot():
    test = lab(thresholds=Thresholds(max_retries=0))
    track = Track(test, Met(200, after=0.4)).run()
    assert track.told == (200, "UO", 1)
    test.assert_idle()


def test_at_the_threshold_the_first_goes_on_alone():
    test = lab(thresholds=Thresholds(max_requests=1))
    track = Track(test, Met(200, after=0.4)).run()
    assert track.told == (200, "-", 1)
    test.assert_idle()


def test_a_slow_endpoint_is_told_to_outlier_detection():
    outlier = OutlierDetection(consecutive_5xx=1, max_ejection_percent=100)
    test = lab(retry("5xx", per_try_timeout=0.1, previous_hosts=True), hosts=2, outlier=outlier)
    track = Track(test, Met(200, after=0.4), Met(200, after=0.9)).run()
    assert track.final.outcome.response == 1
    assert test.cluster().outliers.ejections >= 1


def test_the_upstream_is_told_the_whole_timeout():
    track = Track(lab(), 200).run()
    assert dict(track.attempts[0].headers)["x-envoy-expected-rq-timeout-ms"] == "1500"


def test_a_body_that_is_too_large_is_not_sent_beside_itself():
    view = request("/", method="POST", headers=[("content-length", str(2 << 20))])
    track = Track(lab(), Met(200, after=0.4), view=view).run()
    assert (track.told, track.record.retry_skipped) == (
        (200, "-", 1),
        "body of 2097152 bytes is over the buffer limit of 1048576",
    )


def test_closing_the_policy_gives_everything_back():
    test = lab()
    track = Track(test, NEVER)
    effect = next(track.policy)
    assert isinstance(effect, Race)
    assert effect.launch is not None
    test.clock.advance(0.2)
    effect = track.policy.send(None)
    track.policy.close()
    assert track.record.attempts[0].error == "cancelled"
    test.assert_idle()


OUTCOMES = st.one_of(
    st.builds(Met, st.sampled_from([200, 404, 503]), after=st.sampled_from([0.0, 0.05, 0.149, 0.151, 0.4, 1e9])),
    st.builds(
        Met,
        error=st.sampled_from([ErrorKind.RESET, ErrorKind.CONNECT, ErrorKind.APPLICATION]),
        after=st.sampled_from([0.0, 0.1, 0.3]),
    ),
)


@given(
    script=st.lists(OUTCOMES, min_size=1, max_size=5),
    retries=st.integers(0, 4),
    per_try=st.sampled_from([0.0, 0.1, 0.15]),
    limits=st.builds(
        Thresholds,
        max_requests=st.integers(1, 4),
        max_retries=st.integers(0, 4),
        max_connections=st.integers(1, 4),
        max_pending_requests=st.integers(0, 2),
    ),
)
def test_whatever_happens_it_ends_and_gives_back(script, retries, per_try, limits):
    policy = retry("5xx", "reset", num_retries=retries, per_try_timeout=per_try, base_interval=0.01, max_interval=0.1)
    test = lab(policy, hosts=2, thresholds=limits)
    track = Track(test, *script).run()
    assert len(track.attempts) <= retries + 1
    assert test.clock() <= 1001.5 + 1e-6
    winner = getattr(getattr(track.final, "outcome", None), "response", None)
    assert winner is None or winner not in track.dropped
    test.assert_idle()
