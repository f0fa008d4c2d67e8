"""Updates of endpoints while calls are under way: nothing is lost, and no call waits for the work."""

import random
import threading
from dataclasses import replace

import pytest

from meshlib.model.balancing import Balancing, Fallback, LbPolicy, SlowStart, Subsets, SubsetSelector
from meshlib.model.cluster import OutlierDetection
from meshlib.model.endpoint import ClusterLoadAssignment
from meshlib.model.metadata import criteria
from meshlib.policy.balancing.building import ClusterBalancer
from meshlib.policy.outlier import Verdict
from policy.lab import hosts, one, picks, tagged, zone

V1 = criteria({"version": "v1"})


def moved(state, endpoints):
    return replace(state.config, assignment=ClusterLoadAssignment("c", (zone("", endpoints),)))


@pytest.mark.parametrize(
    "balancing",
    [
        Balancing(),
        Balancing(LbPolicy.LEAST_REQUEST, slow_start=SlowStart(10.0)),
        Balancing(LbPolicy.MAGLEV),
        Balancing(locality_weighted=True),
        Balancing(subsets=Subsets((SubsetSelector(("version",)),), Fallback.ANY_ENDPOINT)),
    ],
)
def test_calls_and_updates_at_once(balancing):
    every = [replace(tagged(f"h{n}", version=f"v{n % 2}"), weight=1 + n % 3) for n in range(12)]
    outlier = OutlierDetection(consecutive_5xx=2, max_ejection_percent=50, base_ejection_time=0.01, interval=0.01)
    state = one(*every, balancing=balancing, outlier=outlier)
    done, failed = threading.Event(), []

    def call(seed):
        chance = random.Random(seed)
        now = 1000.0
        try:
            while not done.is_set():
                now += 0.001
                found = state.pick(now, key=chance.getrandbits(64), subset=V1)
                assert found is not None
                assert state.begin(found)
                state.observe(found, Verdict.SERVER_ERROR if chance.random() < 0.4 else Verdict.SUCCESS, now)
                state.end(found)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=call, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    chance = random.Random(9)
    for _ in range(60):
        state.configure(moved(state, chance.sample(every, 8)))
        state.refresh()
    done.set()
    for thread in threads:
        thread.join(10)
    assert failed == []
    assert state.limits.requests == 0
    assert len(state.endpoints) == 8
    assert set(state.outliers.ejected) <= set(state.endpoints.values())


def test_an_ejection_during_an_update_is_seen(monkeypatch):
    """It happens after the new balancer was built, and before that is put in force."""
    state = one(*hosts("h", [1] * 4), outlier=OutlierDetection(consecutive_5xx=1, max_ejection_percent=50))
    warm = type(state._balancer).warm

    def meanwhile(self: ClusterBalancer, before, now):
        warm(self, before, now)
        if before is not None:
            state.observe(state.endpoints["h0", 80], Verdict.SERVER_ERROR, now)

    monkeypatch.setattr(type(state._balancer), "warm", meanwhile)
    state.configure(moved(state, hosts("h", [1] * 3)))
    assert state.endpoints["h0", 80].ejected
    assert set(picks(state, 20)) == {"h1", "h2"}


def test_an_update_is_worked_out_before_the_lock_is_taken(monkeypatch):
    state = one(*hosts("h", [1] * 4))
    free = []

    def try_it():
        free.append(state.limits.lock.acquire(blocking=False))
        if free[-1]:
            state.limits.lock.release()

    warm = type(state._balancer).warm

    def watched(self: ClusterBalancer, before, now):
        other = threading.Thread(target=try_it)
        other.start()
        other.join()
        warm(self, before, now)

    monkeypatch.setattr(type(state._balancer), "warm", watched)
    state.configure(moved(state, hosts("h", [1] * 5)))
    assert free == [True]


def test_what_was_in_use_is_ready_after_an_update():
    state = one(*hosts("h", [1, 2]), balancing=Balancing(LbPolicy.RING_HASH))
    assert state.pick(0.0, key=1) is not None
    state.configure(moved(state, hosts("h", [1, 2, 3])))
    assert list(state._balancer._tables) == [0]
