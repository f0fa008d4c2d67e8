"""What load balancing policies decode to; what Envoy 1.40 refuses is refused, with the field named."""

import pytest
from google.protobuf import json_format

from meshlib.model.balancing import (
    Balancing,
    ConsistentHashing,
    Fallback,
    LbPolicy,
    LoadReports,
    SlowStart,
    Subsets,
    SubsetSelector,
    ZoneAware,
)
from meshlib.model.endpoint import HealthStatus
from meshlib.model.traffic import HashOn, HashPolicy
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, ROUTE

LB = "type.googleapis.com/envoy.extensions.load_balancing_policies."
HOST = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}}}


def entry(kind, **config):
    return {"typed_extension_config": {"name": "p", "typed_config": {"@type": LB + kind, **config}}}


def listed(*entries):
    return {"policies": list(entries)}


def extension(kind, **config):
    return {"load_balancing_policy": listed(entry(kind, **config))}


ROBIN, RANDOM = entry("round_robin.v3.RoundRobin"), entry("random.v3.Random")
WEIGHTS = "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin"


def decoded(**fields):
    assignment = {"cluster_name": "c", "endpoints": [{"lb_endpoints": [HOST]}]}
    data = {"name": "c", "type": "STATIC", "load_assignment": assignment, **fields}
    message = json_format.ParseDict({k: v for k, v in data.items() if v is not None}, RESOURCE_TYPES[CLUSTER].message())
    return RESOURCE_TYPES[CLUSTER].decode("c", message)


SLOW = {
    "slow_start_window": "10s",
    "aggression": {"default_value": 2.0, "runtime_key": "a"},
    "min_weight_percent": {"value": 20},
}
SLOWLY = SlowStart(10.0, 2.0, 0.2)
SUBSETS = {
    "fallback_policy": "DEFAULT_SUBSET",
    "default_subset": {"v": "1"},
    "subset_selectors": [
        {"keys": ["v", "s", "v"], "fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": ["s"]},
        {"keys": ["s"], "single_host_per_subset": True, "fallback_policy": "ANY_ENDPOINT"},
    ],
    "panic_mode_any": True,
    "list_as_any": True,
    "locality_weight_aware": True,
    "scale_locality_weight": True,
    "metadata_fallback_policy": "FALLBACK_LIST",
}
GROUPED = Subsets(
    selectors=(
        SubsetSelector(("s", "v"), Fallback.KEYS_SUBSET, ("s",)),
        SubsetSelector(("s",), Fallback.ANY_ENDPOINT, single_host=True),
    ),
    fallback=Fallback.DEFAULT_SUBSET,
    default_subset=(("v", "1"),),
    locality_weight_aware=True,
    scale_locality_weight=True,
    panic_mode_any=True,
    list_as_any=True,
    fallback_list=True,
)
ZONE = {"routing_enabled": {"value": 33.9}, "min_cluster_size": "2", "fail_traffic_on_panic": True}


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, Balancing()),
        ({"round_robin_lb_config": {"slow_start_config": SLOW}}, Balancing(slow_start=SLOWLY)),
        ({"round_robin_lb_config": {"slow_start_config": {}}}, Balancing()),
        ({"lb_policy": "RANDOM", "round_robin_lb_config": {"slow_start_config": SLOW}}, Balancing(LbPolicy.RANDOM)),
        (
            {
                "lb_policy": "LEAST_REQUEST",
                "least_request_lb_config": {
                    "choice_count": 5,
                    "active_request_bias": {"default_value": 0.5, "runtime_key": "b"},
                    "slow_start_config": SLOW,
                },
            },
            Balancing(LbPolicy.LEAST_REQUEST, 5, active_request_bias=0.5, slow_start=SLOWLY),
        ),
        ({"common_lb_config": {"locality_weighted_lb_config": {}}}, Balancing(locality_weighted=True)),
        ({"common_lb_config": {"zone_aware_lb_config": ZONE}}, Balancing(zone_aware=ZoneAware(33, 2, True))),
        (
            {"common_lb_config": {"override_host_status": {"statuses": ["HEALTHY", "DRAINING"]}}},
            Balancing(override_statuses=frozenset({HealthStatus.HEALTHY, HealthStatus.DRAINING})),
        ),
        ({"lb_subset_config": SUBSETS}, Balancing(subsets=GROUPED)),
        ({"lb_subset_config": {"fallback_policy": "ANY_ENDPOINT"}}, Balancing()),  # without selectors it is off
        (
            extension(
                "least_request.v3.LeastRequest",
                selection_method="FULL_SCAN",
                locality_lb_config={"locality_weighted_lb_config": {}},
            ),
            Balancing(LbPolicy.LEAST_REQUEST, full_scan=True, locality_weighted=True),
        ),
        (
            extension(
                "random.v3.Random",
                locality_lb_config={
                    "zone_aware_lb_config": {
                        "force_local_zone": {},
                        "force_locality_direct_routing": True,
                        "locality_basis": "HEALTHY_HOSTS_WEIGHT",
                    }
                },
            ),
            Balancing(LbPolicy.RANDOM, zone_aware=ZoneAware(force_local_size=1, force_direct=True, by_weight=True)),
        ),
        (
            extension(
                "ring_hash.v3.RingHash",
                consistent_hashing_lb_config={"hash_policy": [{"header": {"header_name": "X-H"}}]},
                locality_weighted_lb_config={},
                hash_balance_factor=130,
            ),
            Balancing(
                LbPolicy.RING_HASH,
                hashing=ConsistentHashing(hash_policies=(HashPolicy(HashOn.HEADER, "x-h"),)),
                locality_weighted=True,
            ),
        ),
        (
            extension("ring_hash.v3.RingHash", use_hostname_for_hashing=True, hash_balance_factor=99),
            Balancing(LbPolicy.RING_HASH, hashing=ConsistentHashing(use_hostname=True, balance_factor=99)),
        ),
        (extension("pick_first.v3.PickFirst", shuffle_address_list=True), Balancing(LbPolicy.PICK_FIRST, shuffle=True)),
        (
            extension(
                WEIGHTS,
                blackout_period="1s",
                weight_expiration_period="2s",
                weight_update_period="0.01s",
                error_utilization_penalty=0.5,
                metric_names_for_computing_utilization=["named_metrics.q"],
                slow_start_config=SLOW,
            ),
            Balancing(
                LbPolicy.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN,
                reports=LoadReports(1.0, 2.0, 0.1, 0.5, ("named_metrics.q",)),
                slow_start=SLOWLY,
            ),
        ),
        (
            extension("wrr_locality.v3.WrrLocality", endpoint_picking_policy=listed(entry(WEIGHTS))),
            Balancing(LbPolicy.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN, locality_weighted=True),
        ),
        (
            extension(
                "override_host.v3.OverrideHost",
                override_host_sources=[{"header": "X-Host"}, {"header": "y"}],
                fallback_policy=listed(RANDOM),
            ),
            Balancing(LbPolicy.RANDOM, override_headers=("x-host", "y")),
        ),
        (
            extension(
                "subset.v3.Subset",
                subset_selectors=[{"keys": ["v"]}],
                allow_redundant_keys=True,
                subset_lb_policy=listed(RANDOM),
            ),
            Balancing(LbPolicy.RANDOM, subsets=Subsets((SubsetSelector(("v",)),), redundant_keys=True)),
        ),
        (
            extension("subset.v3.Subset", subset_lb_policy=listed(ROBIN)),  # the extension is on without selectors
            Balancing(subsets=Subsets()),
        ),
    ],
)
def test_what_is_decoded(fields, want):
    found = decoded(**fields)
    assert found.faults == ()
    assert found.value.balancing == want


def keys_subset(keys, fewer, policy="KEYS_SUBSET"):
    selector = {"keys": keys, "fallback_policy": policy, "fallback_keys_subset": fewer}
    return {"lb_subset_config": {"subset_selectors": [selector]}}


SELECTOR = "lb_subset_config.subset_selectors[0]"
TYPED = "load_balancing_policy.policies[0].typed_extension_config.typed_config"
HEAVY = {**HOST, "load_balancing_weight": 2**32 - 1}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"lb_policy": "LOAD_BALANCING_POLICY_CONFIG"}, "load_balancing_policy"),
        ({"load_balancing_policy": {"policies": []}}, "load_balancing_policy.policies"),
        ({"load_balancing_policy": listed(ROBIN), "lb_subset_config": {}}, "lb_subset_config"),
        *(
            ({"load_balancing_policy": listed(ROBIN), "common_lb_config": {field: {}}}, f"common_lb_config.{field}")
            for field in ("zone_aware_lb_config", "locality_weighted_lb_config", "consistent_hashing_lb_config")
        ),
        (keys_subset(["a"], []), f"{SELECTOR}.fallback_keys_subset"),
        (keys_subset(["a"], ["a"]), f"{SELECTOR}.fallback_keys_subset"),
        (keys_subset(["a", "b"], ["c"]), f"{SELECTOR}.fallback_keys_subset"),
        (keys_subset(["a", "b"], ["b"], "ANY_ENDPOINT"), f"{SELECTOR}.fallback_keys_subset"),
        (
            {
                "type": "ORIGINAL_DST",
                "load_assignment": None,
                "lb_policy": "CLUSTER_PROVIDED",
                **keys_subset(["a", "b"], ["b"]),
            },
            "lb_subset_config",
        ),
        (
            {"round_robin_lb_config": {"slow_start_config": {"min_weight_percent": {"value": 200}}}},
            "round_robin_lb_config.slow_start_config.min_weight_percent",
        ),
        ({"least_request_lb_config": {"choice_count": 1}}, "least_request_lb_config.choice_count"),
        ({"ring_hash_lb_config": {"minimum_ring_size": 9_000_000}}, "ring_hash_lb_config.minimum_ring_size"),
        (
            {"common_lb_config": {"zone_aware_lb_config": {"routing_enabled": {"value": 150}}}},
            "common_lb_config.zone_aware_lb_config.routing_enabled",
        ),
        (
            {"common_lb_config": {"override_host_status": {"statuses": [9]}}},
            "common_lb_config.override_host_status.statuses[0]",
        ),
        (extension("wrr_locality.v3.WrrLocality"), f"{TYPED}.endpoint_picking_policy"),
        (
            extension("wrr_locality.v3.WrrLocality", endpoint_picking_policy=listed()),
            f"{TYPED}.endpoint_picking_policy.policies",
        ),
        (
            extension("override_host.v3.OverrideHost", fallback_policy=listed(ROBIN)),
            f"{TYPED}.override_host_sources",
        ),
        (
            extension("override_host.v3.OverrideHost", override_host_sources=[{"header": "x"}]),
            f"{TYPED}.fallback_policy",
        ),
        *(
            (
                extension(
                    "override_host.v3.OverrideHost", override_host_sources=[source], fallback_policy=listed(ROBIN)
                ),
                f"{TYPED}.override_host_sources[0].header",
            )
            for source in (
                {},
                {"header": "x", "metadata": {"key": "k", "path": [{"key": "p"}]}},
                {"header": "x\ny"},
            )
        ),
        (extension("subset.v3.Subset", subset_selectors=[{"keys": ["a"]}]), f"{TYPED}.subset_lb_policy"),
        (extension("cluster_provided.v3.ClusterProvided"), "lb_policy"),
        (
            {
                "lb_policy": "MAGLEV",
                "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [HEAVY, HEAVY]}]},
            },
            "load_assignment.endpoints[0].lb_endpoints",
        ),
    ],
)
def test_what_envoy_refuses(fields, place):
    assert place in [fault.field_path for fault in decoded(**fields).faults]


@pytest.mark.parametrize(
    "fields",
    [
        {"load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [HEAVY, HEAVY]}]}},
        extension(WEIGHTS, error_utilization_penalty=-1.0),
        {"lb_subset_config": {"subset_selectors": [{"keys": []}]}},
        {"lb_policy": "RING_HASH", "load_balancing_policy": listed(ROBIN)},
        {"load_balancing_policy": listed(ROBIN), "common_lb_config": {"healthy_panic_threshold": {"value": 1}}},
        {"least_request_lb_config": {"active_request_bias": {"default_value": -1.0, "runtime_key": "b"}}},
    ],
)
def test_what_envoy_takes(fields):
    assert decoded(**fields).faults == ()


def test_values_that_envoy_corrects_are_noted():
    found = decoded(round_robin_lb_config={"slow_start_config": {**SLOW, "aggression": {"default_value": -1.0}}})
    assert found.value.balancing.slow_start.aggression == 1.0
    assert [note.field_path for note in found.notes] == ["round_robin_lb_config.slow_start_config.aggression"]


def test_a_locality_without_weight_has_none():
    data = {
        "cluster_name": "c",
        "endpoints": [{}, {"load_balancing_weight": 3}],
        "policy": {"weighted_priority_health": True},
    }
    message = json_format.ParseDict(data, RESOURCE_TYPES[ENDPOINT].message())
    found = RESOURCE_TYPES[ENDPOINT].decode("c", message).value
    assert [locality.weight for locality in found.localities] == [0, 3]
    assert found.weighted_priority_health


def test_metadata_match_of_a_route_and_of_its_targets():
    lb = "envoy.lb"

    def asked(**fields):
        return {"metadata_match": {"filter_metadata": {lb: fields, "other": {"x": "y"}}}}

    actions = [
        {"cluster": "c", **asked(v="1", n=2)},
        {"cluster_header": "x-c", **asked(v="1")},
        {
            "weighted_clusters": {"clusters": [{"name": "a", "weight": 1, **asked(v="2")}, {"name": "b", "weight": 1}]},
            **asked(s="p", v="1"),
        },
        {"cluster": "c"},
    ]
    routes = [{"match": {"prefix": "/"}, "route": action} for action in actions]
    data = {"name": "t", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]}
    message = json_format.ParseDict(data, RESOURCE_TYPES[ROUTE].message())
    found = RESOURCE_TYPES[ROUTE].decode("t", message)
    assert (found.faults, found.notes) == ((), ())
    subsets = [target.subset for route in found.value.virtual_hosts[0].routes for target in route.action.clusters]
    assert subsets == [
        (("n", 2.0), ("v", "1")),
        (("v", "1"),),
        (("s", "p"), ("v", "2")),
        (("s", "p"), ("v", "1")),
        (),
    ]
