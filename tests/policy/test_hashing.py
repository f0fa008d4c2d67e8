"""Consistent hashing: the hash of a request, rings, Maglev tables, and what becomes of both.

That a key finds the host it finds in Envoy is shown by tests/oracle; these are the rules behind it.
"""

import random
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import xxhash

from meshlib.model.balancing import Balancing, ConsistentHashing, HashFunction, LbPolicy
from meshlib.model.endpoint import Endpoint, HealthStatus
from meshlib.model.rewrite import RegexRewrite
from meshlib.model.route import RouteAction, WeightedCluster
from meshlib.model.traffic import HashOn, HashPolicy
from meshlib.policy import routing
from meshlib.policy.balancing.hashing import endpoint_key, mersenne_twister, murmur2, request_key, shuffled
from meshlib.policy.balancing.maglev import Maglev
from meshlib.policy.balancing.ring_hash import Ring
from meshlib.policy.cluster_state import ClusterState
from policy.driving import Lab, ScriptedRandom
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot

CHANCE = random.Random(1)


def xx(text, seed=0):
    return xxhash.xxh64_intdigest(text.encode(), seed)


def rotated(key):
    return (key << 1 | key >> 63) % 2**64


# ---------------------------------------------------------------- the hash of a request

USER = HashPolicy(HashOn.HEADER, "x-user")
OTHER = HashPolicy(HashOn.HEADER, "x-other")
SID = HashPolicy(HashOn.COOKIE, "sid")
ID = HashPolicy(HashOn.QUERY_PARAMETER, "id")
NOTHING = HashPolicy(HashOn.NOTHING)


def terminal(policy):
    return HashPolicy(policy.on, policy.name, terminal=True)


@pytest.mark.parametrize(
    ("used", "asked", "want"),
    [
        ([USER], {"headers": [("x-user", "ann")]}, xx("ann")),
        ([USER], {"headers": [("x-user", "")]}, xx("")),
        ([USER], {}, None),
        ([USER], {"headers": [("x-user", "b"), ("x-user", "a")]}, xx("b", xx("a"))),  # sorted, then chained
        ([SID], {"headers": [("cookie", "a=b; sid=42"), ("cookie", "sid=43")]}, xx("42")),
        ([SID], {"headers": [("cookie", 'sid="42"')]}, xx("42")),
        ([SID], {"headers": [("cookie", "sid=")]}, None),
        ([SID], {"headers": [("cookie", "sid; xsid=1")]}, None),
        ([ID], {"target": "/?a=b&id=7&id=8"}, xx("7")),
        ([ID], {"target": "/?id=%20"}, xx("%20")),
        ([ID], {"target": "/?id"}, xx("")),
        ([ID], {"target": "/?idx=1"}, None),
        ([NOTHING], {"headers": [("x-user", "ann")]}, None),
        ([USER, OTHER], {"headers": [("x-user", "a"), ("x-other", "b")]}, rotated(xx("a")) ^ xx("b")),
        ([USER, USER], {"headers": [("x-user", "a")]}, rotated(xx("a")) ^ xx("a")),
        ([terminal(USER), OTHER], {"headers": [("x-user", "a"), ("x-other", "b")]}, xx("a")),
        ([terminal(USER), OTHER], {"headers": [("x-other", "b")]}, xx("b")),
        ([USER, terminal(NOTHING), OTHER], {"headers": [("x-user", "a"), ("x-other", "b")]}, xx("a")),
    ],
)
def test_the_key_of_a_request(used, asked, want):
    assert request_key(used, request(**asked)) == want


def test_a_header_is_rewritten_before_it_is_hashed():
    policy = HashPolicy(HashOn.HEADER, "x-user", rewrite=RegexRewrite("^/user/([^/]+)/.*", r"\1"))
    assert request_key([policy], request(headers=[("x-user", "/user/ann/cart")])) == xx("ann")


# ---------------------------------------------------------------- hashes and keys


@pytest.mark.parametrize(  # what std::hash<std::string> of GNU's C++ library gives
    ("text", "want"),
    [
        (b"", 6142509188972423790),
        (b"foo", 9631199822919835226),
        (b"foo\nbar", 16306510975912980159),
        (b"host-k1_12345", 13951450194479077765),
    ],
)
def test_murmur2(text, want):
    assert murmur2(text) == want


@pytest.mark.parametrize(
    ("endpoint", "use_hostname", "want"),
    [
        (Endpoint("10.0.0.1", 80), False, "10.0.0.1:80"),
        (Endpoint("::1", 80, hostname="h"), False, "[::1]:80"),
        (Endpoint("10.0.0.1", 80, hostname="h"), True, "h"),
        (Endpoint("10.0.0.1", 80, hostname="h", metadata={"envoy.lb": {"hash_key": "k"}}), True, "k"),
        (Endpoint("10.0.0.1", 80, metadata={"envoy.lb": {"hash_key": 7.0}}), False, "10.0.0.1:80"),
    ],
)
def test_the_key_of_an_endpoint(endpoint, use_hostname, want):
    assert endpoint_key(endpoint, ConsistentHashing(use_hostname=use_hostname)) == want


# ---------------------------------------------------------------- tables


def hosts(*weights):
    return tuple((f"10.0.0.{n}:80", weight / sum(weights)) for n, weight in enumerate(weights))


@pytest.mark.parametrize(
    ("weights", "config", "sizes"),
    [
        ((1, 1, 1, 1), ConsistentHashing(), [256] * 4),
        ((1, 1, 1), ConsistentHashing(), [342] * 3),
        ((1, 2, 5), ConsistentHashing(), [128, 256, 640]),
        ((1, 3), ConsistentHashing(minimum_ring_size=1), [1, 3]),
        ((1, 1, 1, 1), ConsistentHashing(maximum_ring_size=6, minimum_ring_size=6), [2, 1, 2, 1]),
        ((1, 1), ConsistentHashing(minimum_ring_size=4, hash_function=HashFunction.MURMUR_HASH_2), [2, 2]),
    ],
)
def test_the_entries_of_a_ring(weights, config, sizes):
    counts = Counter(Ring(hosts(*weights), config)._owners)
    assert [counts[n] for n in range(len(weights))] == sizes


def test_a_ring_is_walked_from_hash_to_hash():
    config = ConsistentHashing(minimum_ring_size=3)
    ring = Ring(hosts(1, 1, 1), config)
    entries = sorted((xx(f"10.0.0.{n}:80_0"), n) for n in range(3))
    for (hash_, owner), (_, after) in zip(entries, [*entries[1:], entries[0]], strict=True):
        assert ring.find(hash_, 0) == owner
        assert ring.find((hash_ + 1) % 2**64, 0) == ring.find(hash_, 1) == after


@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1), (1, 2, 5)])
def test_a_maglev_table_is_full_and_fair(weights):
    table = Maglev(hosts(*weights), ConsistentHashing(table_size=1009))
    counts = Counter(table.find(key, 0) for key in range(1009))
    assert sum(counts.values()) == 1009
    for n, weight in enumerate(weights):
        assert abs(counts[n] - 1009 * weight / sum(weights)) <= len(weights)


def test_a_maglev_table_does_not_depend_on_the_order_of_hosts():
    config, given = ConsistentHashing(table_size=101), hosts(1, 1, 1)
    forth, back = Maglev(given, config), Maglev(given[::-1], config)
    assert [forth.find(key, 0) for key in range(101)] == [2 - back.find(key, 0) for key in range(101)]


@pytest.mark.parametrize("table", [Ring, Maglev])
def test_few_keys_move_when_a_host_goes(table):
    config = ConsistentHashing(table_size=1009)
    all_, fewer = table(hosts(1, 1, 1, 1), config), table(hosts(1, 1, 1, 1)[:3], config)
    keys = [xx(str(n)) for n in range(1000)]
    moved = sum(all_.find(key, 0) != fewer.find(key, 0) for key in keys if all_.find(key, 0) < 3)
    assert moved <= (0 if table is Ring else 60)


# ---------------------------------------------------------------- picking

HASHING = [LbPolicy.RING_HASH, LbPolicy.MAGLEV]


def balanced(config):
    return ClusterState(config, CHANCE, clock=lambda: 0.0)


@pytest.mark.parametrize("policy", HASHING)
def test_a_key_finds_its_host_and_none_any(policy):
    state = balanced(cluster(endpoints(4), lb_policy=policy))
    assert len({state.pick(0.0, key=12345) for _ in range(20)}) == 1
    counts = Counter(state.pick(0.0) for _ in range(4000))
    assert len(counts) == 4
    assert min(counts.values()) > 600


@pytest.mark.parametrize("policy", HASHING)
def test_bounded_load_spills_over_the_same_way_each_time(policy):
    hashing = Balancing(policy, hashing=ConsistentHashing(balance_factor=100))
    state = balanced(cluster(endpoints(4), balancing=hashing))

    def crowd():
        taken = []
        for _ in range(8):
            taken.append(state.pick(0.0, key=7))
            assert state.begin(taken[-1])
        for endpoint in taken:
            state.end(endpoint)
        return taken

    order = crowd()
    counts = Counter(order)
    assert counts[order[0]] == max(counts.values()) == 3  # one over its share of 2, as Envoy has it
    assert len(counts) > 2
    assert crowd() == order


def test_the_shuffle_of_bounded_load():
    words = mersenne_twister(5489)  # the C++ standard: the 10000th word of a default std::mt19937
    assert next(islice(words, 9999, None)) == 4123659995
    assert sorted(shuffled(700, 3)) == list(range(700))


def test_a_key_decides_the_priority_too():
    bad = replace(endpoints(1)[0], health=HealthStatus.UNHEALTHY)  # 70 % of the load are left to priority 0
    state = balanced(cluster((bad, endpoints(2)[1]), endpoints(4)[2:], lb_policy=LbPolicy.RING_HASH))
    first = {percent for percent in range(100) if state.pick(0.0, key=100 * 999 + percent).endpoint == endpoints(2)[1]}
    assert first == set(range(70))


def test_degraded_endpoints_are_in_no_table():
    """Envoy makes tables of the healthy alone: what would go to degraded ones meets nobody."""
    degraded = replace(endpoints(1)[0], health=HealthStatus.DEGRADED)
    state = balanced(cluster((degraded,), lb_policy=LbPolicy.MAGLEV))
    assert state.pick(0.0, key=1) is None


def test_retries_stay_unless_previous_hosts_are_avoided():
    for previous_hosts in (False, True):
        policy = retry("5xx", num_retries=2, previous_hosts=previous_hosts, host_selection_max_attempts=20)
        config = cluster(endpoints(4), lb_policy=LbPolicy.RING_HASH)
        lab = Lab(snapshot(config, routes=[forward(retry=policy, hash_policies=(USER,))]))
        run = lab.run(503, 503, 200, view=request(headers=[("x-user", "ann")]))
        tried = {attempt.endpoint.address for attempt in run.record.attempts}
        assert len(tried) == (3 if previous_hosts else 1)


def test_an_ejected_host_gives_its_keys_to_others_and_takes_them_back():
    state = balanced(cluster(endpoints(3), lb_policy=LbPolicy.MAGLEV))
    first = state.pick(0.0, key=99)
    first.ejected = True
    state.refresh()
    assert state.pick(0.0, key=99) is not first
    first.ejected = False
    state.refresh()
    assert state.pick(0.0, key=99) is first


def test_weights_drawn_by_hash():
    action = RouteAction((WeightedCluster("a", 1), WeightedCluster("b", 3)), weights_by_hash=True)
    drawn = [routing.draw_cluster(action, ScriptedRandom(0.0), key).name for key in (0, 1, 2, 3, 4, None)]
    assert drawn == ["a", "b", "b", "b", "a", "a"]
