"""The timers of the client's thread."""

from hypothesis import given
from hypothesis import strategies as st

from meshlib.xds.timers import Timers


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_what_is_due_runs_in_order():
    clock, ran = Clock(), []
    timers = Timers(clock)
    assert timers.until_next() is None
    timers.later(2.0, lambda: ran.append("second"))
    timers.later(1.0, lambda: ran.append("first"))
    assert timers.until_next() == 1.0
    clock.now = 0.5
    timers.fire()
    assert ran == []
    clock.now = 3.0
    assert timers.until_next() == 0.0
    timers.fire()
    assert ran == ["first", "second"]
    assert timers.until_next() is None


def test_heartbeats_for_a_day_are_one_entry():
    clock, ran = Clock(), []
    timers = Timers(clock)
    for beat in range(86_400):
        clock.now = float(beat)
        timers.later(3600.0, lambda: ran.append(clock.now), "ttl")
        timers.fire()
    assert len(timers) == 1
    while timers.until_next() is not None:
        clock.now += timers.until_next()
        timers.fire()
    assert ran == [86_399.0 + 3600.0]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 5), st.integers(0, 3)), max_size=30))
def test_the_last_of_a_key_runs_once_when_it_is_due(steps):
    clock, ran = Clock(), []
    timers = Timers(clock)
    due = {}

    def advance(seconds):
        until = clock.now + seconds
        while (left := timers.until_next()) is not None and clock.now + left <= until:
            clock.now += left
            timers.fire()
        clock.now = until

    for number, (key, seconds, pause) in enumerate(steps):
        due = {k: at for k, at in due.items() if at[1] > clock.now or at[0] not in ran}
        due[key or number] = (number, clock.now + seconds)
        expected = dict(due)
        timers.later(seconds, lambda n=number: ran.append((n, clock.now)), key)
        advance(pause)
        for k, (n, at) in list(expected.items()):
            if at <= clock.now:
                assert (n, at) in ran
                del due[k]
            else:
                assert all(n != m for m, _ in ran)
    assert len(ran) == len(set(ran)) <= len(steps)
