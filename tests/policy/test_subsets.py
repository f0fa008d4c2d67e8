"""Subset load balancing; as Envoy's subset load balancer decides."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.model.balancing import Balancing, Fallback, LbPolicy, Subsets, SubsetSelector
from meshlib.model.endpoint import ClusterLoadAssignment, HealthStatus
from meshlib.model.metadata import criteria, merged
from meshlib.model.route import Route, RouteAction, WeightedCluster
from policy.driving import Lab
from policy.lab import counts, one, picks, state_of, tagged, zone
from policy.snapshots import ANY_PATH, request, snapshot

ENDPOINTS = (
    tagged("v1", version="v1", stage="prod"),
    tagged("v2", version="v2", stage="prod"),
    tagged("v3", version="v3", stage="dev"),
    tagged("n0"),
)


def selector(*keys, fallback=Fallback.NOT_DEFINED, fewer=(), single=False):
    return SubsetSelector(keys, fallback, fewer, single)


def found(*endpoints, asked, **subsets):
    """Who serves a route that asks for ``asked``, in 200 calls."""
    state = one(*(endpoints or ENDPOINTS), balancing=Balancing(subsets=Subsets(**subsets)))
    return set(picks(state, 200, subset=criteria(asked)))


VERSION, BOTH = selector("version"), selector("stage", "version")
ALL = {"v1", "v2", "v3", "n0"}


@pytest.mark.parametrize(
    ("asked", "none", "any_", "default"),
    [
        ({"version": "v1"}, {"v1"}, {"v1"}, {"v1"}),
        ({"version": "v2", "stage": "prod"}, {"v2"}, {"v2"}, {"v2"}),
        ({"version": "v9"}, {None}, ALL, {"v3"}),
        ({"stage": "dev"}, {None}, ALL, {"v3"}),  # no selector has this key alone
        ({"version": "v1", "zone": "z"}, {None}, ALL, {"v3"}),
        ({"version": 1.0}, {None}, ALL, {"v3"}),
        ({}, {None}, ALL, {"v3"}),
    ],
)
def test_fallbacks(asked, none, any_, default):
    selectors = (VERSION, BOTH)
    dev = criteria({"version": "v3"})
    assert found(asked=asked, selectors=selectors) == none
    assert found(asked=asked, selectors=selectors, fallback=Fallback.ANY_ENDPOINT) == any_
    assert found(asked=asked, selectors=selectors, fallback=Fallback.DEFAULT_SUBSET, default_subset=dev) == default


def test_an_empty_default_subset_is_everybody():
    assert found(asked={}, selectors=(VERSION,), fallback=Fallback.DEFAULT_SUBSET) == ALL


class TestSelectorsOwnFallback:
    @pytest.mark.parametrize(
        ("fallback", "want"),
        [
            (Fallback.NO_FALLBACK, {None}),
            (Fallback.ANY_ENDPOINT, ALL),
            (Fallback.DEFAULT_SUBSET, {"v1"}),
            (Fallback.NOT_DEFINED, {"v1"}),
        ],
    )
    def test_it_counts_before_the_clusters(self, fallback, want):
        own = selector("version", fallback=fallback)
        common = {"fallback": Fallback.DEFAULT_SUBSET, "default_subset": criteria({"version": "v1"})}
        assert found(asked={"version": "v9"}, selectors=(own,), **common) == want

    def test_by_fewer_keys(self):
        selectors = (
            selector("stage", "version", fallback=Fallback.KEYS_SUBSET, fewer=("stage",)),
            selector("stage"),
        )
        assert found(asked={"stage": "prod", "version": "v9"}, selectors=selectors) == {"v1", "v2"}
        assert found(asked={"stage": "none", "version": "v9"}, selectors=selectors) == {None}

    def test_a_selector_whose_place_is_taken_has_none(self):
        """Envoy's tree has the node of ``stage`` already when it comes to that selector."""
        longer, shorter = selector("stage", "version"), selector("stage", fallback=Fallback.ANY_ENDPOINT)
        assert found(asked={"stage": "x"}, selectors=(longer, shorter)) == {None}
        assert found(asked={"stage": "x"}, selectors=(shorter, longer)) == ALL


class TestValues:
    def test_kinds_stay_apart(self):
        endpoints = tagged("s", k="1"), tagged("n", k=1.0), tagged("b", k=True), tagged("z", k=None)
        for value, want in (("1", "s"), (1.0, "n"), (True, "b"), (None, "z")):
            assert found(*endpoints, asked={"k": value}, selectors=(selector("k"),)) == {want}

    def test_structs_and_lists_are_compared_whole(self):
        endpoints = tagged("s", k={"a": 1.0, "b": ["x"]}), tagged("l", k=["x", "y"])
        for value, want in (({"b": ["x"], "a": 1.0}, "s"), (["x", "y"], "l"), (["y", "x"], None)):
            assert found(*endpoints, asked={"k": value}, selectors=(selector("k"),)) == {want}

    def test_a_list_as_any_of_its_values(self):
        endpoints = tagged("a", k=["x", "y"], m=["p", "q"]), tagged("b", k="y", m="q")
        keys = {"selectors": (selector("k", "m"),), "list_as_any": True}
        assert found(*endpoints, asked={"k": "x", "m": "q"}, **keys) == {"a"}
        assert found(*endpoints, asked={"k": "y", "m": "q"}, **keys) == {"a", "b"}
        assert found(*endpoints, asked={"k": ["x", "y"], "m": "q"}, **keys) == {None}

    def test_a_list_in_the_default_subset(self):
        endpoints = tagged("a", k=["x", "y"]), tagged("b", k="z")
        wanted = {"fallback": Fallback.DEFAULT_SUBSET, "default_subset": criteria({"k": "y"}), "selectors": (VERSION,)}
        assert found(*endpoints, asked={}, list_as_any=True, **wanted) == {"a"}
        assert found(*endpoints, asked={}, **wanted) == {None}


class TestHealth:
    SICK = replace(ENDPOINTS[0], health=HealthStatus.UNHEALTHY)

    def test_a_subset_that_is_sick_is_no_reason_for_a_fallback(self):
        state = one(
            self.SICK,
            *ENDPOINTS[1:],
            balancing=Balancing(subsets=Subsets((VERSION,), Fallback.ANY_ENDPOINT)),
            panic_threshold=0.0,
        )
        assert set(picks(state, 20, subset=criteria({"version": "v1"}))) == {None}

    def test_it_panics_by_itself(self):
        assert found(self.SICK, *ENDPOINTS[1:], asked={"version": "v1"}, selectors=(VERSION,)) == {"v1"}

    def test_panic_mode_any(self):
        config = Subsets((VERSION,), Fallback.DEFAULT_SUBSET, criteria({"version": "v1"}), panic_mode_any=True)
        state = one(self.SICK, *ENDPOINTS[1:], balancing=Balancing(subsets=config), panic_threshold=0.0)
        assert set(picks(state, 200)) == {"v2", "v3", "n0"}

    def test_a_single_host_serves_whatever_its_health(self):
        endpoints = self.SICK, tagged("other", version="v1")
        single = {"selectors": (selector("version", single=True),)}
        assert found(*endpoints, asked={"version": "v1"}, **single) == {"v1"}

    def test_an_ejection_is_seen(self):
        state = one(*ENDPOINTS, balancing=Balancing(subsets=Subsets((selector("stage"),))))
        prod = criteria({"stage": "prod"})
        assert set(picks(state, 20, subset=prod)) == {"v1", "v2"}
        state.endpoints["v1", 80].ejected = True
        state.refresh()
        assert set(picks(state, 20, subset=prod)) == {"v2"}


class TestKeysTooMany:
    def test_they_are_left_aside_where_allowed(self):
        asked = {"version": "v1", "zone": "z"}
        assert found(asked=asked, selectors=(VERSION,), redundant_keys=True) == {"v1"}
        assert found(asked=asked, selectors=(VERSION,)) == {None}

    def test_the_first_of_the_longest_selectors_counts(self):
        asked = {"version": "v1", "stage": "prod", "zone": "z"}
        assert found(asked=asked, selectors=(selector("stage"), VERSION), redundant_keys=True) == {"v1", "v2"}
        assert found(asked=asked, selectors=(selector("stage"), BOTH), redundant_keys=True) == {"v1"}


LISTED = {"selectors": (VERSION, selector("stage")), "fallback_list": True}


class TestFallbackList:
    def test_one_after_the_other(self):
        asked = {"fallback_list": [{"version": "v9"}, {"version": "v2"}, {"version": "v1"}]}
        assert found(asked=asked, **LISTED) == {"v2"}

    def test_over_what_the_route_asks_besides(self):
        asked = {"version": "v1", "fallback_list": [{"version": "v9"}, {}]}
        assert found(asked=asked, **LISTED) == {"v1"}

    def test_where_none_serves(self):
        assert found(asked={"fallback_list": [{"version": "v9"}]}, **LISTED) == {None}

    def test_an_empty_one(self):
        assert found(asked={"version": "v1", "fallback_list": []}, **LISTED) == {"v1"}

    def test_without_the_policy_it_is_a_key_as_any(self):
        asked = {"version": "v1", "fallback_list": [{"version": "v2"}]}
        assert found(asked=asked, selectors=(VERSION,)) == {None}


class TestLocalities:
    """A subset of one endpoint in zone a of two, and of two in zone b of two."""

    def shares(self, **fields):
        zones = (
            zone("a", [tagged("a0", v="1"), tagged("a1", v="2")], 1),
            zone("b", [tagged("b0", v="1"), tagged("b1", v="1")], 1),
        )
        config = Balancing(locality_weighted=True, subsets=Subsets((selector("v"),), **fields))
        taken = counts(state_of(*zones, balancing=config), 3000, subset=criteria({"v": "1"}))
        return round(100 * taken["a0"] / 3000)

    def test_weights_do_not_count_in_a_subset(self):
        assert self.shares() == 33

    def test_unless_it_is_aware_of_them(self):
        assert self.shares(locality_weight_aware=True) == 50

    def test_and_in_proportion_to_what_is_left(self):
        # 1 × 1/2 rounds to 1 (Envoy's weights are whole), so that larger ones show it.
        zones = (
            zone("a", [tagged("a0", v="1"), tagged("a1", v="2")], 10),
            zone("b", [tagged("b0", v="1"), tagged("b1", v="1")], 10),
        )
        subsets = Subsets((selector("v"),), locality_weight_aware=True, scale_locality_weight=True)
        config = Balancing(locality_weighted=True, subsets=subsets)
        taken = counts(state_of(*zones, balancing=config), 3000, subset=criteria({"v": "1"}))
        assert round(100 * taken["a0"] / 3000) == 33


def test_hashes_find_their_host_inside_a_subset():
    config = Balancing(LbPolicy.RING_HASH, subsets=Subsets((selector("stage"),)))
    state = one(*ENDPOINTS, balancing=config)
    prod = criteria({"stage": "prod"})
    assert {picks(state, 1, subset=prod, key=key * 2**57)[0] for key in range(128)} == {"v1", "v2"}
    for key in range(20):
        assert len(set(picks(state, 5, subset=prod, key=key * 2**59))) == 1


def test_a_subset_is_kept_until_endpoints_change():
    state = one(*ENDPOINTS, balancing=Balancing(subsets=Subsets((VERSION,))))
    version = criteria({"version": "v1"})
    assert picks(state, 1, subset=version) == ["v1"]
    more = (*ENDPOINTS, tagged("new", version="v1"))
    state.configure(replace(state.config, assignment=ClusterLoadAssignment("c", (zone("", more),))))
    assert set(picks(state, 10, subset=version)) == {"v1", "new"}


def test_the_description_is_of_the_subset():
    state = one(*ENDPOINTS, balancing=Balancing(subsets=Subsets((selector("stage"),))))
    (row,) = state.describe(criteria({"stage": "prod"})).priorities
    assert row.endpoints == 2
    (row,) = state.describe().priorities
    assert row.endpoints == 4


def test_a_call_asks_for_the_drawn_targets_subset():
    state = one(*ENDPOINTS, balancing=Balancing(subsets=Subsets((VERSION,))))
    targets = (WeightedCluster("c", subset=criteria({"version": "v2"})),)
    lab = Lab(snapshot(state.config, routes=[Route(ANY_PATH, RouteAction(targets))]))
    assert {lab.run(200, view=request()).hosts[0] for _ in range(10)} == {"v2"}


def test_a_weighted_clusters_values_come_before_the_routes():
    route, own = criteria({"stage": "prod", "version": "v1"}), criteria({"version": "v2"})
    assert merged(route, own) == criteria({"stage": "prod", "version": "v2"})


values = st.one_of(st.sampled_from(["x", "y"]), st.lists(st.sampled_from(["x", "y"]), max_size=2))


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), values), min_size=1, max_size=6),
    st.sets(st.sampled_from("abc"), min_size=1),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(["x", "y"])),
    st.booleans(),
)
def test_who_serves_has_what_was_asked(tags, keys, asked, list_as_any):
    endpoints = [tagged(f"h{n}", **tag) for n, tag in enumerate(tags)]
    served = found(*endpoints, asked=asked, selectors=(selector(*sorted(keys)),), list_as_any=list_as_any)

    def has(tag):
        return all(
            key in tag
            and (asked[key] in tag[key] if list_as_any and isinstance(tag[key], list) else tag[key] == asked[key])
            for key in keys
        )

    want = {f"h{n}" for n, tag in enumerate(tags) if set(asked) == keys and has(tag)}
    assert served == (want or {None})
