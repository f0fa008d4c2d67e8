"""Round robin, least request, random; weights; priorities, degraded endpoints and panic."""

import random
from collections import Counter

import pytest

from meshlib.model.cluster import LbPolicy
from meshlib.model.endpoint import Endpoint, HealthStatus
from meshlib.policy.balancing import policies, priorities
from meshlib.policy.cluster_state import EndpointState
from policy.driving import ScriptedRandom
from policy.snapshots import cluster

HEALTHY, UNHEALTHY, DEGRADED = HealthStatus.HEALTHY, HealthStatus.UNHEALTHY, HealthStatus.DEGRADED


def states(weights):
    return [EndpointState(Endpoint(f"h{n}", 80, weight=w)) for n, w in enumerate(weights)]


def picks(picker, count, seed=1):
    chance = random.Random(seed)
    return [picker.pick(chance).endpoint.address for _ in range(count)]


def near(count, share, total):
    """Within 5 sigma of a binomial."""
    return abs(count - total * share) <= 5 * (total * share * (1 - share)) ** 0.5


def test_round_robin_is_an_exact_rotation():
    picker = policies.build(LbPolicy.ROUND_ROBIN, states([1, 1, 1]), random.Random(1))
    order = picks(picker, 9)
    assert order[:3] == order[3:6] == order[6:]
    assert set(order[:3]) == {"h0", "h1", "h2"}


def test_round_robin_starts_anywhere():
    group = states([1] * 4)
    starts = {picks(policies.build(LbPolicy.ROUND_ROBIN, group, ScriptedRandom(n / 4)), 1)[0] for n in range(4)}
    assert len(starts) == 4


@pytest.mark.parametrize("weights", [(1, 2, 3), (1, 1, 100), (5, 1), (2, 2, 1)])
def test_weighted_round_robin_is_exact_over_whole_turns(weights):
    picker = policies.build(LbPolicy.ROUND_ROBIN, states(weights), random.Random(1))
    picks(picker, 7)
    turn = sum(weights)
    counts = Counter(picks(picker, turn * 10))
    for n, weight in enumerate(weights):
        assert abs(counts[f"h{n}"] - weight * 10) <= 1


def test_random_is_even_and_ignores_weights():
    picker = policies.build(LbPolicy.RANDOM, states([1, 50, 1, 1]), random.Random(1))
    counts = Counter(picks(picker, 4000))
    assert all(near(counts[f"h{n}"], 0.25, 4000) for n in range(4))


def test_least_request_prefers_the_idle_of_two():
    group = states([1] * 2)
    group[0].active = 5
    counts = Counter(picks(policies.build(LbPolicy.LEAST_REQUEST, group, random.Random(1)), 4000))
    # h0 only when both candidates are h0: a quarter.
    assert near(counts["h0"], 0.25, 4000)


def test_least_request_choice_count():
    group = states([1] * 2)
    group[0].active = 5
    counts = Counter(picks(policies.build(LbPolicy.LEAST_REQUEST, group, random.Random(1), choice_count=4), 4000))
    assert near(counts["h0"], 1 / 16, 4000)


def test_least_request_idle_is_even():
    counts = Counter(picks(policies.build(LbPolicy.LEAST_REQUEST, states([1] * 4), random.Random(1)), 4000))
    assert all(near(counts[f"h{n}"], 0.25, 4000) for n in range(4))


def test_weighted_least_request_counts_what_is_active():
    group = states([1, 3])
    picker = policies.build(LbPolicy.LEAST_REQUEST, group, random.Random(1))
    counts = Counter(picks(picker, 4000))
    assert 2900 <= counts["h1"] <= 3100
    group[1].active = 5  # 3 / (5 + 1) against 1
    counts = Counter(picks(picker, 3000))
    assert 1900 <= counts["h0"] <= 2100


# Priorities. Each group is one priority, written as the healths of its endpoints.


def groups_of(*healths):
    return [
        [EndpointState(Endpoint(f"p{p}-{n}", 80, health=health)) for n, health in enumerate(group)]
        for p, group in enumerate(healths)
    ]


def shares(*healths, threshold=50.0, factor=140):
    config = cluster(*[[] for _ in healths], panic_threshold=threshold, factor=factor)
    total = 0.0
    loads = Counter()
    for load, hosts in priorities.shares(config, groups_of(*healths)):
        total += load
        for state in hosts:
            loads[state.endpoint.address] += load / len(hosts)
    return {host: round(100 * load / total, 1) for host, load in loads.items() if load}


def by_priority(found):
    summed = Counter()
    for host, load in found.items():
        summed[host[:2]] += load
    return {priority: round(load, 0) for priority, load in summed.items()}


H, U, D = HEALTHY, UNHEALTHY, DEGRADED


@pytest.mark.parametrize(
    ("first", "second", "want"),
    [
        ([H] * 10, [H] * 10, {"p0": 100}),
        ([H] * 8 + [U] * 2, [H] * 10, {"p0": 100}),  # 80 % × 1.4
        ([H] * 7 + [U] * 3, [H] * 10, {"p0": 98, "p1": 2}),
        ([H] * 5 + [U] * 5, [H] * 10, {"p0": 70, "p1": 30}),
        ([H] * 1 + [U] * 9, [H] * 10, {"p0": 14, "p1": 86}),
        ([U] * 10, [H] * 10, {"p1": 100}),
        ([], [H] * 3, {"p1": 100}),
    ],
)
def test_load_spills_over(first, second, want):
    assert by_priority(shares(first, second)) == want


def test_overprovisioning_factor_is_the_assignments():
    assert by_priority(shares([H] * 5 + [U] * 5, [H] * 10, factor=100)) == {"p0": 50, "p1": 50}


def test_three_priorities():
    # 2 of 10 is 28, 3 of 10 is 42, then the rest.
    assert by_priority(shares([H] * 2 + [U] * 8, [H] * 3 + [U] * 7, [H] * 10)) == {"p0": 28, "p1": 42, "p2": 30}


def test_nobody_panics_while_the_sum_is_whole():
    """P0 has only 10 % healthy, but P1 makes up for it: P0 keeps to its healthy one."""
    found = shares([H] + [U] * 9, [H] * 10)
    assert [host for host in found if host.startswith("p0")] == ["p0-0"]


class TestPanic:
    def test_below_the_threshold_all_are_used(self):
        assert shares([H, U, U, U]) == {"p0-0": 25.0, "p0-1": 25.0, "p0-2": 25.0, "p0-3": 25.0}

    def test_at_the_threshold_none_is(self):
        assert set(shares([H, H, U, U])) == {"p0-0", "p0-1"}

    def test_all_unhealthy(self):
        assert len(shares([U, U])) == 2

    def test_threshold_zero_means_never(self):
        assert set(shares([H, U, U, U], threshold=0.0)) == {"p0-0"}
        assert priorities.build(cluster([], panic_threshold=0.0), groups_of([U, U]), random.Random(1)) is None

    def test_in_one_priority_only(self):
        # P0: 1 of 10 = 14; P1: 5 of 10 = 70. The sum is 84: P0 panics, P1 does not.
        found = shares([H] + [U] * 9, [H] * 5 + [U] * 5)
        assert by_priority(found) == pytest.approx({"p0": 16.7, "p1": 83.3}, abs=1.0)
        assert len([host for host in found if host.startswith("p0")]) == 10
        assert len([host for host in found if host.startswith("p1")]) == 5

    def test_in_every_priority_load_goes_by_size(self):
        assert by_priority(shares([U] * 3, [U])) == {"p0": 75, "p1": 25}

    def test_no_endpoints_at_all(self):
        assert priorities.build(cluster(), [], random.Random(1)) is None
        assert priorities.build(cluster([]), groups_of([]), random.Random(1)) is None


class TestDegraded:
    def test_nothing_while_the_healthy_suffice(self):
        assert set(shares([H, H, H, D])) == {"p0-0", "p0-1", "p0-2"}

    def test_they_get_the_spill(self):
        """Measured on Envoy, 400 requests over HEALTHY, UNKNOWN, DEGRADED and two that take nothing: 138/138/124."""
        healths = [H, HealthStatus.UNKNOWN, D, HealthStatus.DRAINING, HealthStatus.TIMEOUT]
        assert shares(healths) == {"p0-0": 33.3, "p0-1": 33.3, "p0-2": 33.3}

    def test_healthy_of_a_lower_priority_come_first(self):
        assert by_priority(shares([D, D], [H, H])) == {"p1": 100}

    def test_only_degraded(self):
        assert shares([D, D]) == {"p0-0": 50.0, "p0-1": 50.0}


@pytest.mark.parametrize("health", [UNHEALTHY, HealthStatus.DRAINING, HealthStatus.TIMEOUT])
def test_who_gets_nothing(health):
    assert set(shares([H, H, health])) == {"p0-0", "p0-1"}


def test_ejected_is_unhealthy():
    groups = groups_of([H, H, H])
    groups[0][1].ejected = True
    picker = priorities.build(cluster([]), groups, random.Random(1))
    assert set(picks(picker, 50)) == {"p0-0", "p0-2"}


def test_the_picker_draws_by_load():
    picker = priorities.build(cluster([], []), groups_of([H] * 5 + [U] * 5, [H] * 10), random.Random(1))
    counts = Counter(address[:2] for address in picks(picker, 4000))
    assert near(counts["p1"], 0.30, 4000)
