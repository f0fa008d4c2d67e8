"""Load balancing policies and what configures them."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import RUNTIME, Fields, fields

_CLUSTER = "envoy.config.cluster.v3.Cluster."
_LB = "envoy.extensions.load_balancing_policies."
_COMMON = _LB + "common.v3."

_SLOW_START = fields("slow_start_window aggression min_weight_percent")
_SELECTOR = fields("keys single_host_per_subset fallback_policy fallback_keys_subset")
_SUBSETS = (
    "fallback_policy default_subset subset_selectors locality_weight_aware scale_locality_weight panic_mode_any "
    "list_as_any metadata_fallback_policy"
)
_ZONE_AWARE = "routing_enabled min_cluster_size fail_traffic_on_panic"

FIELDS: Mapping[str, Fields] = {
    _CLUSTER + "RoundRobinLbConfig": fields("slow_start_config"),
    _CLUSTER + "LeastRequestLbConfig": fields("choice_count active_request_bias slow_start_config"),
    _CLUSTER + "RingHashLbConfig": fields("minimum_ring_size maximum_ring_size hash_function"),
    _CLUSTER + "MaglevLbConfig": fields("table_size"),
    _CLUSTER + "SlowStartConfig": _SLOW_START,
    _CLUSTER + "LbSubsetConfig": fields(_SUBSETS),
    _CLUSTER + "LbSubsetConfig.LbSubsetSelector": _SELECTOR,
    _CLUSTER + "CommonLbConfig": fields(
        "healthy_panic_threshold zone_aware_lb_config locality_weighted_lb_config consistent_hashing_lb_config "
        "override_host_status ignore_new_hosts_until_first_hc",
        {
            "close_connections_on_host_set_change": "connections to endpoints that are gone are always closed",
            "update_merge_window": "every update is applied at once, without a loss",
        },
    ),
    _CLUSTER + "CommonLbConfig.ZoneAwareLbConfig": fields(_ZONE_AWARE),
    _CLUSTER + "CommonLbConfig.ConsistentHashingLbConfig": fields("use_hostname_for_hashing hash_balance_factor"),
    "envoy.config.core.v3.HealthStatusSet": fields("statuses"),
    "envoy.config.core.v3.RuntimeDouble": fields("default_value", {"runtime_key": RUNTIME}),
    "envoy.config.cluster.v3.LoadBalancingPolicy": fields("policies"),
    "envoy.config.cluster.v3.LoadBalancingPolicy.Policy": fields("typed_extension_config"),
    _LB + "round_robin.v3.RoundRobin": fields("slow_start_config locality_lb_config"),
    _LB + "random.v3.Random": fields("locality_lb_config"),
    _LB + "least_request.v3.LeastRequest": fields(
        "choice_count active_request_bias slow_start_config locality_lb_config enable_full_scan selection_method"
    ),
    _LB + "ring_hash.v3.RingHash": fields(
        "hash_function minimum_ring_size maximum_ring_size consistent_hashing_lb_config locality_weighted_lb_config "
        "use_hostname_for_hashing hash_balance_factor"
    ),
    _LB + "maglev.v3.Maglev": fields("table_size consistent_hashing_lb_config locality_weighted_lb_config"),
    _LB + "pick_first.v3.PickFirst": fields("shuffle_address_list"),
    _LB + "wrr_locality.v3.WrrLocality": fields("endpoint_picking_policy"),
    _LB + "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin": fields(
        "blackout_period weight_expiration_period weight_update_period error_utilization_penalty "
        "metric_names_for_computing_utilization slow_start_config",
        {"oob_reporting_period": "belongs to enable_oob_load_report"},
        unsupported={"enable_oob_load_report": "load is reported with responses alone, not by a stream of its own"},
    ),
    _LB + "override_host.v3.OverrideHost": fields("override_host_sources fallback_policy"),
    _LB + "override_host.v3.OverrideHost.OverrideHostSource": fields(
        "header", unsupported={"metadata": "no filter that is run here sets dynamic metadata: fallback_policy serves"}
    ),
    _LB + "subset.v3.Subset": fields(_SUBSETS + " allow_redundant_keys subset_lb_policy"),
    _LB + "subset.v3.Subset.LbSubsetSelector": _SELECTOR,
    _COMMON + "LocalityLbConfig": fields("zone_aware_lb_config locality_weighted_lb_config"),
    _COMMON + "LocalityLbConfig.ZoneAwareLbConfig": fields(
        _ZONE_AWARE + " force_locality_direct_routing force_local_zone locality_basis"
    ),
    _COMMON + "LocalityLbConfig.ZoneAwareLbConfig.ForceLocalZone": fields("min_size"),
    _COMMON + "SlowStartConfig": _SLOW_START,
    _COMMON + "ConsistentHashingLbConfig": fields("use_hostname_for_hashing hash_balance_factor hash_policy"),
}
