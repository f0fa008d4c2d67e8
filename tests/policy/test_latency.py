"""Peak EWMA: the quicker endpoint serves, and those that are overloaded are left alone for a while."""

import math
import random

import pytest

from meshlib.model.balancing import PeakEwma
from meshlib.policy.balancing.latency import Average, cost_of
from meshlib.policy.cluster_state import Surroundings
from meshlib.policy.effects import ErrorKind, Outcome
from policy.driving import Lab, Met
from policy.lab import counts, hosts, one
from policy.snapshots import cluster, endpoints, snapshot

CONFIG = PeakEwma()


class TestAverage:
    def test_a_peak_counts_at_once_and_fades(self):
        average = Average(0.1, 0.0)
        average.observe(2.0, 1.0, 10.0)
        assert average.at(1.0, 10.0) == 2.0
        assert average.at(11.0, 10.0) == pytest.approx(2.0 / math.e)

    def test_quick_answers_lower_it_little_by_little(self):
        average = Average(1.0, 0.0)
        average.observe(0.1, 1.0, 10.0)
        first = average.at(1.0, 10.0)
        assert 0.9 < first < 1.0
        average.observe(0.1, 20.0, 10.0)
        assert average.at(20.0, 10.0) < 0.3

    def test_a_clock_that_stands_still(self):
        average = Average(1.0, 5.0)
        average.observe(0.5, 5.0, 10.0)
        assert average.at(4.0, 10.0) == 1.0


@pytest.mark.parametrize(
    ("outcome", "want"),
    [
        (Outcome(200), 0.2),
        (Outcome(500), 0.2),
        (Outcome(503), 1.0),
        (Outcome(429, {"retry-after": "30"}), 30.0),
        (Outcome(429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), 1.0),
        (Outcome(200, {"retry-after": "30"}), 0.2),
        (Outcome(error=ErrorKind.CONNECT), 1.0),
    ],
)
def test_what_an_outcome_counts_as(outcome, want):
    assert cost_of(outcome, 0.2, CONFIG) == want


def balanced(count):
    return one(*hosts("h", [1] * count), around=Surroundings(peak_ewma=CONFIG))


def test_the_quicker_of_two_serves():
    state = balanced(2)
    slow, quick = state.endpoints.values()
    state.learn(slow, Outcome(200), 0.5, 1000.0)
    state.learn(quick, Outcome(200), 0.01, 1000.0)
    assert counts(state, 100) == {"h1": 100}
    quick.active = 100  # 101 × 10 ms against 500 ms
    assert counts(state, 100) == {"h0": 100}


def test_the_description_says_so():
    assert balanced(1).describe().policy == "PEAK_EWMA"
    assert one(*hosts("h", [1])).describe().policy == "ROUND_ROBIN"


def test_who_was_slow_is_tried_again():
    state = balanced(2)
    slow, quick = state.endpoints.values()
    state.learn(slow, Outcome(503), 0.01, 1000.0)
    state.learn(quick, Outcome(200), 0.01, 1000.0)
    assert counts(state, 50, 1001.0) == {"h1": 50}
    for n in range(60):
        state.learn(quick, Outcome(200), 0.01, 1001.0 + n)
    assert counts(state, 50, 1060.0)["h0"] == 50


def test_nobody_is_overrun_before_the_first_answer():
    state = balanced(3)
    for _ in range(30):
        assert state.begin(state.pick(1000.0))
    assert max(each.active for each in state.endpoints.values()) <= 12


def test_calls_teach_it():
    lab = Lab(snapshot(cluster(endpoints(2))), chance=random.Random(3))
    lab.state._peak_ewma = lambda name: CONFIG if name == "c" else None
    for _ in range(30):
        _, policy = lab.start()
        attempt = next(policy)
        lab.clock.advance(0.3 if attempt.endpoint.address == "10.0.0.1" else 0.01)
        policy.send(Outcome(200))
        policy.close()
    assert {lab.run(Met(200)).hosts[0] for _ in range(10)} == {"10.0.0.2"}
