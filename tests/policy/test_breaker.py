"""The opt-in ClusterBreaker: pybreaker's states behind our gate."""

import threading

import pybreaker
import pytest

from meshlib.policy.breaker import Admission, ClusterBreaker
from meshlib.policy.effects import BodyEnd, ErrorKind, Outcome, ReplyKind
from policy.driving import Lab, ManualClock, Met
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot


class Listener(pybreaker.CircuitBreakerListener):
    def __init__(self):
        self.changes = []
        self.lock = threading.Lock()

    def state_change(self, cb, old_state, new_state):
        with self.lock:
            self.changes.append((old_state.name if old_state else None, new_state.name))


class Gate:
    """A breaker that opens after ``fail_max`` failures and lets a probe through after 10 s."""

    def __init__(self, fail_max=3):
        self.listener = Listener()
        self.core = pybreaker.CircuitBreaker(fail_max=fail_max, reset_timeout=10, listeners=[self.listener])
        self.clock = ManualClock()
        self.breaker = ClusterBreaker(self.core, self.clock)

    def fail(self, times=1):
        for _ in range(times):
            admission = self.breaker.admit()
            assert admission is not Admission.REFUSED
            self.breaker.record(admission, failed=True)

    def succeed(self):
        self.breaker.record(self.breaker.admit(), failed=False)


def test_closed_open_half_open_closed():
    gate = Gate()
    gate.fail(3)
    assert gate.breaker.state == "open"
    assert gate.breaker.admit() is Admission.REFUSED
    gate.clock.advance(9.9)
    assert gate.breaker.admit() is Admission.REFUSED
    gate.clock.advance(0.1)
    probe = gate.breaker.admit()
    assert (probe, gate.breaker.state) == (Admission.PROBE, "half-open")
    assert gate.breaker.admit() is Admission.REFUSED  # one at a time
    gate.breaker.record(probe, failed=False)
    assert gate.breaker.state == "closed"
    assert gate.breaker.admit() is Admission.PASSED
    assert gate.listener.changes == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]


def test_a_failed_probe_opens_anew():
    gate = Gate()
    gate.fail(3)
    gate.clock.advance(10.0)
    gate.fail()
    assert gate.breaker.state == "open"
    gate.clock.advance(9.0)
    assert gate.breaker.admit() is Admission.REFUSED
    gate.clock.advance(1.0)
    assert gate.breaker.admit() is Admission.PROBE


def test_an_abandoned_probe_gives_its_permit_back():
    gate = Gate()
    gate.fail(3)
    gate.clock.advance(10.0)
    gate.breaker.abandon(gate.breaker.admit())
    assert gate.breaker.state == "half-open"
    assert gate.breaker.admit() is Admission.PROBE


def test_success_resets_the_count():
    gate = Gate()
    for _ in range(5):
        gate.fail(2)
        gate.succeed()
    assert gate.breaker.state == "closed"


@pytest.mark.parametrize("failed", [True, False])
def test_a_call_from_before_proves_nothing(failed):
    """Admitted while closed, over while a probe is out: neither closes nor opens nor frees the permit."""
    gate = Gate()
    old = gate.breaker.admit()
    gate.fail(3)
    gate.clock.advance(10.0)
    probe = gate.breaker.admit()
    gate.breaker.record(old, failed=failed)
    assert gate.breaker.state == "half-open"
    assert gate.breaker.admit() is Admission.REFUSED
    gate.breaker.record(probe, failed=False)
    assert gate.breaker.state == "closed"


def test_opened_by_hand():
    gate = Gate()
    gate.core.open()
    assert gate.breaker.admit() is Admission.REFUSED
    gate.clock.advance(10.0)
    assert gate.breaker.admit() is Admission.PROBE


def test_opened_by_hand_a_second_time_waits_again():
    gate = Gate()
    gate.core.open()
    gate.breaker.admit()
    gate.clock.advance(10.0)
    gate.succeed()
    gate.clock.advance(100.0)
    gate.core.open()
    assert gate.breaker.admit() is Admission.REFUSED


def test_threads_one_probe_passes():
    gate = Gate()
    gate.fail(3)
    for _ in range(50):
        gate.clock.advance(10.0)
        start, admitted = threading.Barrier(8), []

        def knock(start=start, admitted=admitted):
            start.wait()
            admission = gate.breaker.admit()
            if admission is not Admission.REFUSED:
                admitted.append(admission)

        threads = [threading.Thread(target=knock) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert admitted == [Admission.PROBE]
        gate.breaker.record(admitted[0], failed=True)
    assert gate.listener.changes.count(("open", "half-open")) == 50


# Through whole calls.


def lab(policy=None, fail_max=2):
    gates = {}

    def breaker(name):
        gates[name] = ClusterBreaker(pybreaker.CircuitBreaker(fail_max=fail_max, reset_timeout=10), test_clock)
        return gates[name]

    test_clock = ManualClock()
    test = Lab(snapshot(cluster(endpoints(1)), routes=[forward(retry=policy, timeout=1.0)]), breaker=breaker)
    test.clock = test.state.clock = test_clock
    assert test.live.clusters["c"]  # gets its state, and with it its breaker, when it is first used
    return test, gates["c"]


def test_an_open_breaker_refuses_without_an_attempt():
    test, _ = lab()
    test.run(500)
    test.run(ErrorKind.RESET)
    run = test.run()
    assert (run.status, run.flags, run.attempts) == (503, "UO", [])
    assert (run.reply.kind, run.record.detail) == (ReplyKind.BREAKER_OPEN, "cluster_breaker_open")
    test.clock.advance(10.0)
    assert test.run(200).status == 200
    assert test.run(200).status == 200
    test.assert_idle()


def test_it_guards_the_call_not_the_attempt():
    test, gate = lab(retry("5xx", num_retries=4, base_interval=0.0, max_interval=0.0))
    test.run(503, 503, 503, 200)
    assert gate.state == "closed"


@pytest.mark.parametrize(
    ("script", "trips"),
    [
        (500, True),
        (503, True),
        (404, False),
        (ErrorKind.CONNECT, True),
        (Met(200, after=5.0), True),
        (Met(200, grpc_status=14), True),
        (Met(200, grpc_status=5), False),
        (ErrorKind.APPLICATION, False),
    ],
)
def test_what_trips_it(script, trips):
    test, gate = lab(fail_max=1)
    test.run(script, view=request(headers=[("content-type", "application/grpc")]))
    assert (gate.state == "open") is trips


def test_a_broken_body_trips_it():
    test, gate = lab(fail_max=1)
    _, policy = test.start()
    next(policy)
    policy.send(Outcome(200, response=object()))
    with pytest.raises(StopIteration):
        policy.send(BodyEnd(ErrorKind.RESET))
    assert gate.state == "open"


def test_an_abandoned_call_says_nothing():
    test, gate = lab(fail_max=1)
    _, policy = test.start()
    next(policy)
    policy.close()
    assert gate.state == "closed"
    test.run(500)
    test.clock.advance(10.0)
    _, probe = test.start()
    next(probe)
    probe.close()
    assert test.run(200).status == 200  # the permit came back


def test_an_overflow_is_not_the_upstreams_failure():
    from meshlib.model.cluster import Thresholds

    test, gate = lab(fail_max=1)
    config = cluster(endpoints(1), thresholds=Thresholds(max_requests=0))
    test.update(snapshot(config, version="2"))
    assert test.run().flags == "UO"
    assert gate.state == "closed"
