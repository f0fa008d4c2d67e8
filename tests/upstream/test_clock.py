"""The clock of one attempt."""

import time

import pytest

from meshlib.upstream.clock import AttemptClock


def test_no_bound():
    clock = AttemptClock(None, None, body_pending=False)
    assert (clock.left(), clock.bound(None), clock.bound(3.0)) == (None, None, 3.0)
    assert not clock.mesh_expired
    assert not clock.application_expired


def test_the_earlier_deadline_counts():
    clock = AttemptClock(5.0, 1.0, body_pending=False)
    assert clock.left() == pytest.approx(1.0, abs=0.1)
    assert clock.bound(0.5) == 0.5
    assert clock.bound(9.0) == pytest.approx(1.0, abs=0.1)
    assert AttemptClock(1.0, 5.0, body_pending=False).left() == pytest.approx(1.0, abs=0.1)


def test_whose_time_is_over():
    clock = AttemptClock(0.0, 5.0, body_pending=False)
    assert (clock.left(), clock.mesh_expired, clock.application_expired) == (0.0, True, False)
    clock = AttemptClock(5.0, 0.0, body_pending=False)
    assert (clock.left(), clock.mesh_expired, clock.application_expired) == (0.0, False, True)


def test_a_pending_body_starts_it_later():
    clock = AttemptClock(1.0, 1.0, body_pending=True)
    moved = []
    clock.on_change = lambda: moved.append(clock.left())
    assert clock.left() is None
    time.sleep(0.02)
    clock.start()
    assert moved == [pytest.approx(1.0, abs=0.1)]
    assert clock.upload >= 0.02


def test_a_body_that_is_ready_takes_no_time():
    assert AttemptClock(1.0, 1.0, body_pending=False).upload == 0.0


def test_turning_to_the_body():
    clock = AttemptClock(0.0, 0.0, body_pending=False)
    clock.turn_to_body(None, None)
    assert clock.left() is None
    clock.turn_to_body(2.0, time.monotonic() + 1.0)
    assert clock.left() == pytest.approx(1.0, abs=0.1)
