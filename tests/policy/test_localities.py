"""Locality weights, zone-aware routing, and what the load table says of both."""

from dataclasses import replace

import pytest

from meshlib.model.balancing import Balancing, LbPolicy, ZoneAware
from meshlib.model.cluster import Cluster
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint, HealthStatus, Locality
from meshlib.model.snapshot import Home
from meshlib.policy.balancing.hosts import host_sets
from meshlib.policy.balancing.zones import ZoneRouting, zone_routing
from meshlib.policy.cluster_state import EndpointState, Surroundings
from policy.driving import Lab
from policy.lab import counts, hosts, near, picks, state_of, zone
from policy.snapshots import snapshot

U, H = HealthStatus.UNHEALTHY, HealthStatus.HEALTHY
WEIGHTED = Balancing(locality_weighted=True)
A = Locality("r", "a")


def by_zone(found):
    total = sum(found.values())
    zones = {}
    for host, count in found.items():
        zones[(host or "-")[0]] = zones.get((host or "-")[0], 0) + count
    return {name: round(100 * count / total) for name, count in zones.items()}


class TestLocalityWeights:
    @pytest.mark.parametrize("policy", [LbPolicy.ROUND_ROBIN, LbPolicy.LEAST_REQUEST, LbPolicy.RANDOM])
    def test_localities_share_by_weight_whatever_their_size(self, policy):
        zones = zone("a", hosts("a", [1]), 1), zone("b", hosts("b", [1, 1, 1]), 3)
        found = counts(state_of(*zones, balancing=replace(WEIGHTED, policy=policy)))
        assert by_zone(found) == {"a": 25, "b": 75}

    def test_without_being_told_they_do_not(self):
        zones = zone("a", hosts("a", [1]), 1), zone("b", hosts("b", [1, 1, 1]), 9)
        assert by_zone(counts(state_of(*zones))) == {"a": 25, "b": 75}

    def test_no_weight_takes_nothing(self):
        zones = zone("a", hosts("a", [1])), zone("b", hosts("b", [1]), 3)
        assert by_zone(counts(state_of(*zones, balancing=WEIGHTED))) == {"b": 100}

    def test_where_nobody_has_weight_they_do_not_matter(self):
        zones = zone("a", hosts("a", [1])), zone("b", hosts("b", [1, 1, 1]))
        assert by_zone(counts(state_of(*zones, balancing=WEIGHTED))) == {"a": 25, "b": 75}

    def test_the_sick_weigh_less_after_overprovisioning(self):
        # 1 of 4 healthy: 1.4 / 4 = 0.35 against 1.
        sick = [*hosts("a", [1]), *hosts("ax", [1, 1, 1], U)]
        zones = zone("a", sick, 1), zone("b", hosts("b", [1] * 4), 1)
        assert by_zone(counts(state_of(*zones, balancing=WEIGHTED)))["a"] == round(100 * 0.35 / 1.35)
        # 3 of 4: more than 1, so that nothing is lost.
        fair = [*hosts("a", [1, 1, 1]), *hosts("ax", [1], U)]
        zones = zone("a", fair, 1), zone("b", hosts("b", [1] * 4), 1)
        assert by_zone(counts(state_of(*zones, balancing=WEIGHTED))) == {"a": 50, "b": 50}

    def test_weights_of_endpoints_count_inside(self):
        zones = zone("a", hosts("a", [1, 3]), 1), zone("b", hosts("b", [1]), 1)
        found = counts(state_of(*zones, balancing=WEIGHTED))
        assert abs(found["a1"] - 3 * found["a0"]) <= 4
        assert abs(found["b0"] - 2000) <= 2

    def test_of_each_priority(self):
        first = zone("a", hosts("a", [1, 1], U), 1)
        spare = zone("b", hosts("b", [1]), 1, priority=1), zone("c", hosts("c", [1]), 4, priority=1)
        assert by_zone(counts(state_of(first, *spare, balancing=WEIGHTED))) == {"b": 20, "c": 80}

    def test_in_panic_all_are_used_alike(self):
        zones = zone("a", hosts("a", [1], U), 1), zone("b", hosts("b", [1, 1, 1], U), 9)
        assert by_zone(counts(state_of(*zones, balancing=WEIGHTED))) == {"a": 25, "b": 75}

    @pytest.mark.parametrize("policy", [LbPolicy.RING_HASH, LbPolicy.MAGLEV])
    def test_of_a_table(self, policy):
        zones = zone("a", hosts("a", [1]), 1), zone("b", hosts("b", [1, 1, 1]), 9)
        found = by_zone(counts(state_of(*zones, balancing=replace(WEIGHTED, policy=policy))))
        assert abs(found["a"] - 10) <= 3

    def test_the_same_locality_twice_is_one(self):
        zones = zone("a", hosts("a", [1]), 1), zone("b", hosts("b", [1]), 1), zone("a", hosts("ax", [1]), 1)
        assert by_zone(counts(state_of(*zones, balancing=WEIGHTED))) == {"a": 50, "b": 50}


# ---------------------------------------------------------------- zone-aware routing


def callers(**sizes):
    """The first priority of a local cluster: how many callers are in each zone; this one is in zone a."""
    return hosts_in({name: hosts(f"c{name}", [1] * size) for name, size in sizes.items()})


def hosts_in(zones, home=A):
    assignment = ClusterLoadAssignment("c", tuple(zone(name, group) for name, group in zones.items()))
    states = {e.key: EndpointState(e) for group in zones.values() for e in group}
    return host_sets(assignment, states, home)[0]


def upstream(**sizes):
    return hosts_in({name: hosts(name, [1] * size) for name, size in sizes.items()})


SMALL = ZoneAware(min_cluster_size=1)


class TestZoneRouting:
    def test_a_zone_with_enough_serves_its_callers_alone(self):
        assert zone_routing(SMALL, upstream(a=5, b=5), callers(a=2, b=2)) == ZoneRouting(10_000)
        assert zone_routing(SMALL, upstream(a=6, b=4), callers(a=2, b=2)) == ZoneRouting(10_000)

    def test_what_is_too_much_goes_where_there_is_room(self):
        """The example of Envoy's source: 40/40/20 % of the callers, 25/50/25 % of the endpoints."""
        found = zone_routing(SMALL, upstream(a=1, b=2, c=1), callers(a=2, b=2, c=1))
        assert found == ZoneRouting(6250, (0, 1000, 1500))

    def test_nobody_here_to_serve(self):
        found = zone_routing(SMALL, upstream(b=1, c=1), callers(a=1, b=1))
        assert found == ZoneRouting(0, (0, 5000))

    @pytest.mark.parametrize(
        ("config", "here", "there"),
        [
            (ZoneAware(), upstream(a=2, b=2), callers(a=1, b=1)),  # fewer than min_cluster_size 6
            (SMALL, upstream(a=4), callers(a=1, b=1)),  # one locality
            (SMALL, upstream(a=2, b=2), callers(a=1)),  # of callers
            (SMALL, upstream(a=2, b=2), callers(b=1, c=1)),  # this one is not among them
            (SMALL, upstream(a=2, b=2), None),
        ],
    )
    def test_when_it_is_not_done(self, config, here, there):
        assert zone_routing(config, here, there) is None

    def test_forced(self):
        here, there = upstream(a=1, b=9), callers(a=9, b=1)
        assert zone_routing(SMALL, here, there).local < 10_000
        assert zone_routing(replace(SMALL, force_local_size=1), here, there) == ZoneRouting(10_000)
        assert zone_routing(replace(SMALL, force_local_size=2), here, there).local < 10_000
        assert zone_routing(replace(SMALL, force_direct=True), here, callers(a=1)) == ZoneRouting(10_000)

    def test_by_weight(self):
        here = hosts_in({"a": hosts("a", [9]), "b": hosts("b", [1, 1, 1])})
        assert zone_routing(SMALL, here, callers(a=2, b=2)).local == 5000
        assert zone_routing(replace(SMALL, by_weight=True), here, callers(a=2, b=2)) == ZoneRouting(10_000)


class TestZoneAwarePicks:
    def cluster(self, config=SMALL, callers_=None, **sizes):
        zones = (zone(name, hosts(name, [1] * size)) for name, size in sizes.items())
        local = callers_ or callers(a=2, b=2, c=1)
        around = Surroundings(A, lambda: local)
        return state_of(*zones, balancing=Balancing(LbPolicy.RANDOM, zone_aware=config), around=around)

    def test_what_fits_stays(self):
        found = by_zone(counts(self.cluster(a=1, b=2, c=1), 8000))
        assert found == {
            "a": pytest.approx(62.5, abs=3),
            "b": pytest.approx(25, abs=3),
            "c": pytest.approx(12.5, abs=3),
        }

    def test_for_a_share_of_the_calls(self):
        found = by_zone(counts(self.cluster(replace(SMALL, routing_enabled=50), a=5, b=3, c=2), 8000))
        assert found["a"] == pytest.approx(75, abs=3)

    def test_callers_in_panic(self):
        sick = hosts_in({"a": hosts("ca", [1]), "b": hosts("cb", [1, 1, 1], U)})
        # b's callers are gone: all that are well are here.
        assert by_zone(counts(self.cluster(callers_=sick, a=1, b=1)))["a"] == pytest.approx(50, abs=4)
        failing = replace(SMALL, fail_traffic_on_panic=True)
        assert counts(self.cluster(failing, callers_=sick, a=1, b=1), 20) == {None: 20}

    def test_a_cluster_in_panic(self):
        zones = zone("a", hosts("a", [1, 1, 1], U)), zone("b", hosts("b", [1]))
        for failing, want in ((False, 4), (True, 1)):
            config = Balancing(zone_aware=ZoneAware(fail_traffic_on_panic=failing))
            assert len(counts(state_of(*zones, balancing=config), 200)) == want

    def test_the_local_cluster_is_followed(self):
        """The mesh finds it by name in its own configuration, and follows its updates."""

        def config(name, **sizes):
            zones = tuple(zone(z, hosts(f"{z}-{name}", [1] * size)) for z, size in sizes.items())
            return Cluster(
                name,
                Discovery.EDS,
                ClusterLoadAssignment(name, zones),
                balancing=Balancing(LbPolicy.RANDOM, zone_aware=SMALL),
            )

        called = config("c", a=2, b=2)
        home = Home(A, "me")
        lab = Lab(replace(snapshot(called, config("me", a=1, b=1)), home=home))
        assert set(picks(lab.cluster(), 50)) == {"a-c0", "a-c1"}
        lab.update(replace(snapshot(called, config("me", a=9, b=1)), home=home))
        assert len(set(picks(lab.cluster(), 200))) == 4
        assert "me" in lab.state.used()


# ---------------------------------------------------------------- the description


def test_the_description():
    sick = [*hosts("a", [1]), *hosts("ax", [1, 1, 1], U)]
    state = state_of(
        zone("a", sick, 1), zone("b", hosts("b", [1] * 4), 1), zone("c", hosts("c", [1]), 1, 1), balancing=WEIGHTED
    )
    state.endpoints["b0", 80].ejected = True
    state.refresh()
    found = state.describe()
    assert (found.policy, found.locality_weighted) == ("ROUND_ROBIN", True)
    first, second = found.priorities
    assert (first.endpoints, first.healthy, first.health, first.load, first.panic) == (8, 4, 70, 70, False)
    assert (second.load, second.degraded_load) == (30, 0)
    a, b = first.localities
    assert (a.locality.zone, a.weight, a.endpoints, a.healthy) == ("a", 1, 4, 1)
    assert (a.effective_weight, b.effective_weight) == (pytest.approx(0.35), 1.0)
    reasons = {each.address: each.reason for each in found.excluded}
    assert reasons["ax0:80"] == "EDS says UNHEALTHY"
    assert reasons["b0:80"].startswith("ejected by outlier detection")
    assert len(reasons) == 4


def test_near_is_near():
    assert near(2000, 0.5, 4000)
    assert not near(2400, 0.5, 4000)


def test_equal_addresses_count_once_under_eds_and_twice_where_listed_statically():
    twice = [Endpoint("x", 80), Endpoint("x", 80), Endpoint("y", 80)]
    assert near(counts(state_of(zone("a", twice), balancing=Balancing(LbPolicy.RANDOM)))["x"], 1 / 2, 4000)
