"""Names of clusters: when they are looked up, and which endpoints they come to."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.model.cluster import Cluster, OutlierDetection
from meshlib.model.discovery import Discovery, Dns
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint, HealthStatus, Locality, LocalityEndpoints
from meshlib.policy.names import Lookup, Names, names_of, resolved
from policy.driving import Lab, ScriptedRandom
from policy.snapshots import snapshot

STRICT, LOGICAL = Discovery.STRICT_DNS, Discovery.LOGICAL_DNS


def named(discovery, *endpoints, **fields):
    group = LocalityEndpoints(tuple(endpoints), Locality("r", "z"), weight=3, priority=1)
    return Cluster("c", discovery, ClusterLoadAssignment("c", (group,)), **fields)


def keys(assignment):
    return [endpoint.key for locality in assignment.localities for endpoint in locality.endpoints]


def test_every_address_is_an_endpoint_like_the_one_configured():
    configured = Endpoint("a.test", 80, weight=7, health=HealthStatus.DEGRADED, metadata={"m": {"k": 1}})
    found = resolved(named(STRICT, configured), {"a.test": ["10.0.0.1", "::1"]})
    (locality,) = found.localities
    assert (locality.locality, locality.weight, locality.priority) == (Locality("r", "z"), 3, 1)
    assert [endpoint.key for endpoint in locality.endpoints] == [("10.0.0.1", 80), ("::1", 80)]
    for endpoint in locality.endpoints:
        assert (endpoint.weight, endpoint.health, endpoint.metadata) == (7, HealthStatus.DEGRADED, {"m": {"k": 1}})
        assert endpoint.hostname == "a.test", "for auto_host_rewrite"


def test_a_host_name_of_its_own_is_kept():
    (locality,) = resolved(named(STRICT, Endpoint("a.test", 80, hostname="b")), {"a.test": ["10.0.0.1"]}).localities
    assert locality.endpoints[0].hostname == "b"


def test_a_logical_cluster_has_one_endpoint_whose_connections_outlive_its_address():
    config = named(LOGICAL, Endpoint("a.test", 80))
    first, second = (resolved(config, {"a.test": answer}) for answer in (["10.0.0.1", "10.0.0.2"], ["10.0.0.3"]))
    assert keys(first) == keys(second) == [("a.test", 80)]
    hosts = [made.localities[0].endpoints[0] for made in (first, second)]
    assert [(host.host, str(host)) for host in hosts] == [("10.0.0.1", "10.0.0.1:80"), ("10.0.0.3", "10.0.0.3:80")]


@pytest.mark.parametrize("discovery", [STRICT, LOGICAL])
def test_without_an_answer_there_is_no_endpoint(discovery):
    config = named(discovery, Endpoint("a.test", 80))
    assert keys(resolved(config, {})) == keys(resolved(config, {"a.test": []})) == []


def test_addresses_need_no_look_up():
    config = named(STRICT, Endpoint("10.0.0.1", 80), Endpoint("fe80::1%eth0", 80), Endpoint("/run/socket", 0))
    assert names_of(config) == frozenset()
    assert keys(resolved(config, {})) == [("10.0.0.1", 80), ("fe80::1%eth0", 80), ("/run/socket", 0)]


def test_an_address_counts_once():
    config = named(STRICT, Endpoint("a.test", 80), Endpoint("b.test", 80), Endpoint("b.test", 81))
    found = resolved(config, {"a.test": ["10.0.0.1"], "b.test": ["10.0.0.1", "10.0.0.2"]})
    assert keys(found) == [("10.0.0.1", 80), ("10.0.0.2", 80), ("10.0.0.1", 81), ("10.0.0.2", 81)]


def test_other_clusters_are_left_alone():
    static = named(Discovery.STATIC, Endpoint("10.0.0.1", 80))
    assert resolved(static, {}) is static.assignment
    assert names_of(static) == frozenset()


class TestLookup:
    def test_after_an_answer(self):
        lookup = Lookup(100.0)
        assert lookup.answered(Dns(refresh=5.0, jitter=2.0), ["a"], None, 100.0, ScriptedRandom(0.5))
        assert lookup.due == 106.0
        assert not lookup.answered(Dns(refresh=5.0), ["a"], None, 106.0, ScriptedRandom(0.5))
        assert lookup.due == 111.0

    @pytest.mark.parametrize(("respected", "due"), [(True, 130.0), (False, 105.0)])
    def test_the_ttl(self, respected, due):
        lookup = Lookup(100.0)
        lookup.answered(Dns(respect_ttl=respected), ["a"], 30.0, 100.0, ScriptedRandom(0.0))
        assert lookup.due == due

    def test_a_failure_keeps_the_addresses_and_comes_again_like_an_answer(self):
        lookup = Lookup(100.0)
        lookup.answered(Dns(), ["a"], None, 100.0, ScriptedRandom(0.0))
        lookup.failed(Dns(refresh=5.0, jitter=9.0), "why", 105.0, ScriptedRandom(0.9))
        assert (lookup.addresses, lookup.due, lookup.trouble) == (("a",), 110.0, "why")

    def test_failures_in_a_row_back_off_at_random(self):
        dns, lookup, waits = Dns(failure_base=1.0, failure_max=5.0), Lookup(0.0), []
        for _ in range(5):
            lookup.failed(dns, "why", 0.0, ScriptedRandom(0.5))
            waits.append(lookup.due)
        assert waits == [0.5, 1.0, 2.0, 2.5, 2.5]
        lookup.answered(dns, ["a"], None, 0.0, ScriptedRandom(0.0))
        lookup.failed(dns, "why", 0.0, ScriptedRandom(0.5))
        assert lookup.due == 0.5

    @given(st.integers(0, 5000), st.floats(0.002, 100.0), st.floats(1.0, 10.0))
    def test_the_back_off_has_a_bound(self, failures, base, factor):
        lookup, dns = Lookup(0.0), Dns(failure_base=base, failure_max=base * factor)
        lookup._failures = failures
        lookup.failed(dns, "why", 0.0, random.Random(1))
        assert 0.0 < lookup.due <= max(base * factor, 0.001)


class TestNames:
    def test_all_are_due_at_once_and_each_is_asked_once(self):
        names = Names()
        names.configure({"b", "a"}, 10.0)
        assert names.take_due(10.0) == ["a", "b"]
        assert (names.take_due(99.0), names.next_due, names.settled) == ([], None, False)

    def test_settled_is_who_has_an_answer_or_a_failure_to_each(self):
        names = Names()
        names.configure({"a", "b"}, 0.0)
        names.lookups["a"].answered(Dns(), ["1"], None, 0.0, ScriptedRandom(0.0))
        assert (names.settled, names.trouble) == (False, "'b' is not resolved: there is no answer yet")
        names.lookups["b"].failed(Dns(), "why", 0.0, ScriptedRandom(0.0))
        assert (names.settled, names.trouble) == (True, "'b' is not resolved: why")
        assert names.answers == {"a": ("1",), "b": ()}

    def test_names_that_stay_keep_their_answers(self):
        names = Names()
        names.configure({"a", "b"}, 0.0)
        names.lookups["a"].answered(Dns(), ["1"], None, 0.0, ScriptedRandom(0.0))
        names.configure({"a", "c"}, 1.0)
        assert names.answers == {"a": ("1",), "c": ()}
        assert names.take_due(1.0) == ["c"]

    def test_after_a_rest_all_is_asked_anew(self):
        names = Names()
        names.configure({"a"}, 0.0)
        names.take_due(0.0)
        names.lookups["a"].answered(Dns(), ["1"], None, 0.0, ScriptedRandom(0.0))
        names.restart(1000.0)
        assert (names.settled, names.take_due(1000.0), names.answers) == (False, ["a"], {"a": ("1",)})


class TestState:
    def test_ejections_and_counts_stay_with_an_address(self):
        config = named(STRICT, Endpoint("a.test", 80), outlier=OutlierDetection(consecutive_5xx=1))
        test = Lab(snapshot(config))
        test.cluster().resolve({"a.test": ["10.0.0.1", "10.0.0.2"]})
        kept = test.cluster().endpoints["10.0.0.2", 80]
        test.cluster().resolve({"a.test": ["10.0.0.2", "10.0.0.3"]})
        assert list(test.cluster().endpoints) == [("10.0.0.2", 80), ("10.0.0.3", 80)]
        assert test.cluster().endpoints["10.0.0.2", 80] is kept

    def test_a_new_configuration_keeps_what_was_resolved(self):
        test = Lab(snapshot(named(STRICT, Endpoint("a.test", 80))))
        test.cluster().resolve({"a.test": ["10.0.0.1"]})
        test.update(snapshot(named(STRICT, Endpoint("a.test", 81), connect_timeout=1.0)))
        assert list(test.cluster().endpoints) == [("10.0.0.1", 81)]

    def test_connections_to_addresses_that_are_gone_have_no_use(self):
        test = Lab(snapshot(named(STRICT, Endpoint("a.test", 80))))
        test.cluster().resolve({"a.test": ["10.0.0.1"]})
        assert test.live.has_endpoint("c", ("10.0.0.1", 80))
        test.cluster().resolve({"a.test": ["10.0.0.2"]})
        assert not test.live.has_endpoint("c", ("10.0.0.1", 80))
