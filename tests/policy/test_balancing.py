"""Round robin, least request, random, pick first; weights, slow start; load tables of priorities."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.model.balancing import Balancing, LbPolicy, SlowStart
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint, HealthStatus
from meshlib.policy.balancing.hosts import host_sets
from meshlib.policy.balancing.policies import ramp
from meshlib.policy.balancing.priorities import load_table
from meshlib.policy.balancing.schedule import Schedule
from meshlib.policy.cluster_state import EndpointState
from policy.driving import ManualClock
from policy.lab import counts, hosts, near, one, picks, state_of, zone
from policy.snapshots import cluster

H, U, D = HealthStatus.HEALTHY, HealthStatus.UNHEALTHY, HealthStatus.DEGRADED


def balancing(policy, **fields):
    return Balancing(policy, **fields)


def test_round_robin_is_an_exact_rotation():
    order = picks(one(*hosts("h", [1, 1, 1])), 9)
    assert order[:3] == order[3:6] == order[6:]
    assert set(order[:3]) == {"h0", "h1", "h2"}


def test_round_robin_starts_anywhere():
    starts = {picks(one(*hosts("h", [1] * 4), chance=random.Random(n)), 1)[0] for n in range(60)}
    assert len(starts) == 4


def test_round_robin_goes_on_where_it_was_after_an_update():
    state = one(*hosts("h", [1] * 5))
    first = picks(state, 2)
    state.refresh()
    assert set(first + picks(state, 3)) == {f"h{n}" for n in range(5)}


@pytest.mark.parametrize("weights", [(1, 2, 3), (1, 1, 100), (5, 1), (2, 2, 1)])
def test_weighted_round_robin_is_exact_over_whole_turns(weights):
    state = one(*hosts("h", weights))
    picks(state, 7)
    turn = sum(weights)
    found = counts(state, turn * 10)
    for n, weight in enumerate(weights):
        assert abs(found[f"h{n}"] - weight * 10) <= 1


def test_random_is_even_and_ignores_weights():
    found = counts(one(*hosts("h", [1, 50, 1, 1]), balancing=balancing(LbPolicy.RANDOM)))
    assert all(near(found[f"h{n}"], 0.25, 4000) for n in range(4))


class TestPickFirst:
    def test_the_first_while_it_is_healthy(self):
        state = one(*hosts("h", [1] * 3), balancing=balancing(LbPolicy.PICK_FIRST))
        assert set(picks(state, 9)) == {"h0"}
        state.endpoints["h0", 80].ejected = True
        state.refresh()
        assert set(picks(state, 9)) == {"h1"}

    def test_another_where_it_is_not_wanted(self):
        state = one(*hosts("h", [1] * 3), balancing=balancing(LbPolicy.PICK_FIRST))
        assert state.pick(0.0, lambda found: found.endpoint.address == "h0").endpoint.address == "h1"

    def test_shuffled_it_is_another_in_another_client_and_stays(self):
        shuffled = balancing(LbPolicy.PICK_FIRST, shuffle=True)
        states = [one(*hosts("h", [1] * 4), balancing=shuffled, chance=random.Random(n)) for n in range(40)]
        firsts = [picks(state, 1)[0] for state in states]
        assert set(firsts) == {"h0", "h1", "h2", "h3"}
        for state in states:
            state.refresh()
        assert [picks(state, 1)[0] for state in states] == firsts


class TestLeastRequest:
    def busy(self, weights, **fields):
        state = one(*hosts("h", weights), balancing=balancing(LbPolicy.LEAST_REQUEST, **fields))
        state.endpoints["h0", 80].active = 5
        return state

    def test_prefers_the_idle_of_two(self):
        # h0 only when both candidates are h0: a quarter.
        assert near(counts(self.busy([1] * 2))["h0"], 0.25, 4000)

    def test_choice_count(self):
        assert near(counts(self.busy([1] * 2, choice_count=4))["h0"], 1 / 16, 4000)

    def test_idle_is_even(self):
        found = counts(one(*hosts("h", [1] * 4), balancing=balancing(LbPolicy.LEAST_REQUEST)))
        assert all(near(found[f"h{n}"], 0.25, 4000) for n in range(4))

    def test_a_full_scan_finds_the_idle(self):
        state = self.busy([1] * 4, full_scan=True)
        found = counts(state)
        assert found["h0"] == 0
        assert all(near(found[f"h{n}"], 1 / 3, 4000) for n in range(1, 4))

    def test_weighted_it_counts_what_is_active(self):
        state = one(*hosts("h", [1, 3]), balancing=balancing(LbPolicy.LEAST_REQUEST))
        assert 2900 <= counts(state)["h1"] <= 3100
        state.endpoints["h1", 80].active = 5  # 3 / (5 + 1) against 1
        assert 1900 <= counts(state, 3000)["h0"] <= 2100

    @pytest.mark.parametrize(("bias", "share"), [(0.0, 3 / 4), (1.0, 1 / 2), (2.0, 1 / 4)])
    def test_the_bias(self, bias, share):
        state = one(*hosts("h", [1, 3]), balancing=balancing(LbPolicy.LEAST_REQUEST, active_request_bias=bias))
        state.endpoints["h1", 80].active = 2
        picks(state, 10)
        assert abs(counts(state)["h1"] - 4000 * share) < 20


# ---------------------------------------------------------------- the schedule


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 2**32))
def test_a_schedule_begins_where_as_many_picks_would_have_led(weights, seed):
    """Reckoning the picks gives what making them gives."""
    seed %= 3000
    names = range(len(weights))

    def weight(index, now):
        return float(weights[index])

    reckoned, made = Schedule(names, weight, seed, 0.0), Schedule(names, weight, 0, 0.0)
    for _ in range(seed):
        made.pick(0.0)
    turn = sum(weights)
    # Those whose deadlines tie may stand in another order at the start.
    one, other = (Counter(schedule.pick(0.0) for _ in range(turn)) for schedule in (reckoned, made))
    assert all(abs(one[index] - other[index]) <= 1 for index in names)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=6), st.integers(0, 10_000))
def test_nobody_is_ever_more_than_a_pick_ahead(weights, seed):
    schedule = Schedule(range(len(weights)), lambda index, _now: float(weights[index]), seed, 0.0)
    total = sum(weights)
    picked = Counter()
    for number in range(1, 3 * total + 1):
        picked[schedule.pick(0.0)] += 1
        for index, weight in enumerate(weights):
            assert abs(picked[index] - number * weight / total) <= len(weights)


# ---------------------------------------------------------------- slow start


class TestSlowStart:
    WINDOW = SlowStart(10.0)

    def test_a_new_endpoint_takes_on_load_little_by_little(self):
        clock = ManualClock()
        old, new = hosts("h", [1, 1])
        state = one(old, balancing=balancing(LbPolicy.ROUND_ROBIN, slow_start=self.WINDOW), clock=clock)
        clock.advance(100.0)
        state.configure(replace(state.config, assignment=ClusterLoadAssignment("c", (zone("", [old, new]),))))
        shares = []
        for _ in range(4):
            shares.append(counts(state, 1100, clock())["h1"] / 1100)
            clock.advance(2.5)
        assert shares[0] == pytest.approx(0.1 / 1.1, abs=0.01)
        assert shares[1] == pytest.approx(0.25 / 1.25, abs=0.02)
        assert shares[2] == pytest.approx(0.5 / 1.5, abs=0.02)
        assert counts(state, 1000, clock())["h1"] == pytest.approx(500, abs=3)

    def test_those_of_the_beginning_share_alike(self):
        state = one(*hosts("h", [1, 1]), balancing=balancing(LbPolicy.LEAST_REQUEST, slow_start=self.WINDOW))
        assert counts(state, 100) == {"h0": 50, "h1": 50}

    def test_who_comes_back_healthy_begins_at_once(self):
        """Without active health checks Envoy starts an endpoint slowly once, when it is new."""
        clock = ManualClock()
        state = one(*hosts("h", [1, 1]), balancing=balancing(LbPolicy.ROUND_ROBIN, slow_start=self.WINDOW), clock=clock)
        clock.advance(100.0)
        for ejected in (True, False):
            state.endpoints["h1", 80].ejected = ejected
            state.refresh()
        assert counts(state, 100, clock()) == {"h0": 50, "h1": 50}

    @pytest.mark.parametrize(
        ("config", "age", "want"),
        [
            (SlowStart(10.0), 5.0, 0.5),
            (SlowStart(10.0), 0.0, 0.1),
            (SlowStart(10.0), 10.0, 1.0),
            (SlowStart(10.0, aggression=2.0), 2.5, 0.5),
            (SlowStart(10.0, aggression=0.5), 5.0, 0.25),
            (SlowStart(10.0, min_weight=0.6), 5.0, 0.6),
        ],
    )
    def test_the_ramp(self, config, age, want):
        assert ramp(config, 100.0, 100.0 + age) == pytest.approx(want)

    def test_nobody_asked_when_it_became_healthy(self):
        assert ramp(self.WINDOW, None, 5.0) == 1.0


# ---------------------------------------------------------------- priorities
# Each group is one priority, written as the healths of its endpoints.


def sets_of(*healths, factor=140, by_weight=False, weights=None):
    groups = [
        [
            Endpoint(f"p{p}-{n}", 80, health=health, weight=weights[p][n] if weights else 1)
            for n, health in enumerate(group)
        ]
        for p, group in enumerate(healths)
    ]
    assignment = replace(cluster(*groups, factor=factor).assignment, weighted_priority_health=by_weight)
    return host_sets(assignment, {e.key: EndpointState(e) for group in groups for e in group})


def loads(*healths, threshold=50, **fields):
    """The share of each priority, healthy and degraded together."""
    table = load_table(sets_of(*healths, **fields), threshold)
    assert sum(table.healthy) + sum(table.degraded) == 100
    return tuple(up + down for up, down in zip(table.healthy, table.degraded, strict=True))


@pytest.mark.parametrize(
    ("first", "second", "want"),
    [
        ([H] * 10, [H] * 10, (100, 0)),
        ([H] * 8 + [U] * 2, [H] * 10, (100, 0)),  # 80 % × 1.4
        ([H] * 7 + [U] * 3, [H] * 10, (98, 2)),
        ([H] * 5 + [U] * 5, [H] * 10, (70, 30)),
        ([H] * 1 + [U] * 9, [H] * 10, (14, 86)),
        ([U] * 10, [H] * 10, (0, 100)),
        ([], [H] * 3, (0, 100)),
        ([H] * 2 + [U], [H], (93, 7)),  # in whole percent, rounded down
    ],
)
def test_load_spills_over(first, second, want):
    assert loads(first, second) == want


def test_overprovisioning_factor_is_the_assignments():
    assert loads([H] * 5 + [U] * 5, [H] * 10, factor=100) == (50, 50)


def test_three_priorities():
    # 2 of 10 is 28, 3 of 10 is 42, then the rest.
    assert loads([H] * 2 + [U] * 8, [H] * 3 + [U] * 7, [H] * 10) == (28, 42, 30)


def test_health_by_weight():
    weights = [[9, 1], [1]]
    assert loads([H, U], [H], weights=weights) == (70, 30)
    assert loads([H, U], [H], weights=weights, by_weight=True) == (100, 0)
    assert loads([U, H], [H], weights=weights, by_weight=True) == (14, 86)


def test_the_rest_of_the_divisions_goes_to_the_first():
    """The example of Envoy's source: 10/20/10 healthy and 20/10/0 degraded."""
    ten = [H, D, D] + [U] * 7, [H, H, D] + [U] * 7, [H] + [U] * 9
    table = load_table(sets_of(*ten, factor=100), 0)
    assert (table.healthy, table.degraded) == ((16, 28, 14), (28, 14, 0))


def test_nobody_panics_while_the_sum_is_whole():
    """P0 has only 10 % healthy, but P1 makes up for it: P0 keeps to its healthy one."""
    assert load_table(sets_of([H] + [U] * 9, [H] * 10), 50).panic == (False, False)


def test_an_aggregate_cluster_may_choose_the_priority():
    healths = [H, H], [H, D, U]
    zones = (
        zone("", [Endpoint(f"p{p}-{n}", 80, health=health) for n, health in enumerate(group)], priority=p)
        for p, group in enumerate(healths)
    )
    state = state_of(*zones)
    assert [each.healthy for each in state.availability_at(1000.0)] == [100, 46]
    assert set(picks(state, 20)) == {"p0-0", "p0-1"}
    assert set(picks(state, 20, place=(1, False))) == {"p1-0"}
    assert set(picks(state, 20, place=(1, True))) == {"p1-1"}
    assert set(picks(state, 20, spent={0})) == {"p1-0", "p1-1"}


def test_without_priorities_already_tried():
    table = load_table(sets_of([H], [H], [H]), 50)
    assert table.healthy == (100, 0, 0)
    assert table.without({0}).healthy == (0, 100, 0)
    assert table.without({0, 1}).healthy == (0, 0, 100)
    assert table.without({0, 1, 2}) is table


@given(
    st.lists(st.lists(st.sampled_from([H, U, D]), max_size=6), min_size=1, max_size=4),
    st.sampled_from([0, 30, 50, 100]),
    st.sampled_from([100, 140, 200]),
)
def test_a_load_table_is_always_whole(healths, threshold, factor):
    sets = sets_of(*healths, factor=factor)
    table = load_table(sets, threshold)
    assert sum(table.healthy) + sum(table.degraded) == 100
    assert min(*table.healthy, *table.degraded, 0) >= 0
    for draw in range(100):
        priority, degraded = table.choose(draw)
        assert (table.degraded if degraded else table.healthy)[priority] > 0
    if any(H in group for group in healths) and not any(table.panic):
        draws = {table.choose(draw) for draw in range(100)}
        for priority, degraded in draws:
            assert (sets[priority].whole.degraded if degraded else sets[priority].whole.healthy) != []


# What is picked of it.


def picked(*healths, threshold=50.0):
    localities = (
        zone("", [Endpoint(f"p{p}-{n}", 80, health=health) for n, health in enumerate(group)], priority=p)
        for p, group in enumerate(healths)
    )
    found = counts(state_of(*localities, panic_threshold=threshold))
    return {host: round(100 * count / 4000) for host, count in found.items()}


class TestPanic:
    def test_below_the_threshold_all_are_used(self):
        assert picked([H, U, U, U]) == {"p0-0": 25, "p0-1": 25, "p0-2": 25, "p0-3": 25}

    def test_at_the_threshold_none_is(self):
        assert set(picked([H, H, U, U])) == {"p0-0", "p0-1"}

    def test_all_unhealthy(self):
        assert len(picked([U, U])) == 2

    def test_threshold_zero_means_never(self):
        assert set(picked([H, U, U, U], threshold=0.0)) == {"p0-0"}
        assert picked([U, U], threshold=0.0) == {None: 100}

    def test_in_one_priority_only(self):
        # P0: 1 of 10 = 14; P1: 5 of 10 = 70. The sum is 84: P0 panics, P1 does not.
        healths = [H] + [U] * 9, [H] * 5 + [U] * 5
        table = load_table(sets_of(*healths), 50)
        assert (table.healthy, table.panic) == ((17, 83), (True, False))
        found = picked(*healths)
        assert len([host for host in found if host.startswith("p0")]) == 10
        assert len([host for host in found if host.startswith("p1")]) == 5

    def test_in_every_priority_load_goes_by_size(self):
        assert loads([U] * 3, [U]) == (75, 25)

    def test_no_endpoints_at_all(self):
        assert picked() == {None: 100}
        assert picked([]) == {None: 100}


class TestDegraded:
    def test_nothing_while_the_healthy_suffice(self):
        assert set(picked([H, H, H, D])) == {"p0-0", "p0-1", "p0-2"}

    def test_they_get_the_spill(self):
        """Measured on Envoy, 400 requests over HEALTHY, UNKNOWN, DEGRADED and two that take nothing: 138/138/124."""
        healths = [H, HealthStatus.UNKNOWN, D, HealthStatus.DRAINING, HealthStatus.TIMEOUT]
        table = load_table(sets_of(healths), 50)
        assert (table.healthy, table.degraded) == ((67,), (33,)) or (table.healthy, table.degraded) == ((66,), (34,))
        assert set(picked(healths)) == {"p0-0", "p0-1", "p0-2"}

    def test_healthy_of_a_lower_priority_come_first(self):
        assert set(picked([D, D], [H, H])) == {"p1-0", "p1-1"}

    def test_only_degraded(self):
        assert picked([D, D]) == {"p0-0": 50, "p0-1": 50}


@pytest.mark.parametrize("health", [U, HealthStatus.DRAINING, HealthStatus.TIMEOUT])
def test_who_gets_nothing(health):
    assert set(picked([H, H, health])) == {"p0-0", "p0-1"}


def test_ejected_is_unhealthy():
    state = one(*hosts("h", [1] * 3))
    state.endpoints["h1", 80].ejected = True
    state.refresh()
    assert set(picks(state, 50)) == {"h0", "h2"}


class TestProbes:
    """What active health checks say counts beside EDS and outlier detection."""

    @pytest.mark.parametrize("probe", [HealthStatus.UNHEALTHY, HealthStatus.UNKNOWN])
    def test_who_fails_or_was_not_probed_yet_is_unhealthy(self, probe):
        state = one(*hosts("h", [1] * 3))
        state.endpoints["h1", 80].probe = probe
        state.refresh()
        assert set(picks(state, 50)) == {"h0", "h2"}

    def test_who_is_excluded_is_not_counted(self):
        state = one(*hosts("h", [1] * 4))
        for n in (1, 2, 3):
            new = state.endpoints[f"h{n}", 80]
            new.probe, new.excluded = HealthStatus.UNKNOWN, True
        state.refresh()
        (row,) = state.describe().priorities
        assert (row.health, row.panic) == (100, False)
        assert set(picks(state, 50)) == {"h0"}


def test_the_picker_draws_by_load():
    found = picked([H] * 5 + [U] * 5, [H] * 10)
    assert 27 <= sum(share for host, share in found.items() if host.startswith("p1")) <= 33
