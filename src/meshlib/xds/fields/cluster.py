"""Clusters, their thresholds and outlier detection."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import PROXY, STATS, Fields, alike, fields

_CLUSTER = "envoy.config.cluster.v3."
_LB = "envoy.extensions.load_balancing_policies."

_RESOLVER = "names are looked up by the process's resolver"
_LOOKUPS = "names are looked up again on meshlib's own schedule"
_LOAD = "load is not reported (LRS)"
_SLOW_START = "there is no slow start"
_LOCALITY = "endpoints of a priority share the load by their own weight alone"
_LOCALITY_WEIGHTED = {"locality_weighted_lb_config": _LOCALITY}
_LOCALITY_LB = {"locality_lb_config": _LOCALITY}
_PROBES = "endpoints are not probed"

FIELDS: Mapping[str, Fields] = {
    _CLUSTER + "Cluster": fields(
        "name type eds_cluster_config connect_timeout lb_policy load_assignment circuit_breakers "
        "http2_protocol_options common_http_protocol_options typed_extension_protocol_options outlier_detection "
        "least_request_lb_config ring_hash_lb_config maglev_lb_config common_lb_config transport_socket "
        "transport_socket_matches metadata filters load_balancing_policy max_requests_per_connection",
        {
            **alike("alt_stat_name track_cluster_stats track_timeout_budgets", STATS),
            "http_protocol_options": "HTTP/1.1 is what is spoken unless HTTP/2 is asked for",
            "cleanup_interval": "connections to an original destination close when idle",
            "dns_lookup_family": "names are looked up by the process's resolver, its order of families stands",
            **alike("dns_resolvers dns_resolution_config typed_dns_resolver_config use_tcp_for_dns_lookups", _RESOLVER),
            "respect_dns_ttl": "the process's resolver does not tell the TTL",
            "dns_jitter": "names are looked up again on their own schedule",
            "wait_for_warm_on_init": "a cluster is used when its endpoints are known",
            "per_connection_buffer_limit_bytes": PROXY,
            "lrs_report_endpoint_metrics": "belongs to lrs_server",
            **alike("close_connections_on_host_health_failure ignore_health_on_host_removal", _PROBES),
        },
        faulty="cluster_type",
        unsupported={
            "health_checks": _PROBES,
            "upstream_bind_config": "connections leave from the address the system picks",
            "upstream_connection_options": "TCP keep-alive is the system's",
            "lb_subset_config": "endpoints are not narrowed to a subset",
            "round_robin_lb_config": _SLOW_START,
            "preconnect_policy": "no connection is made ahead",
            "upstream_config": "the pool is meshlib's",
            "upstream_http_protocol_options": "SNI is the Host header's name",
            "connection_pool_per_downstream_connection": "connections are shared",
        },
        approximated={
            **alike("dns_refresh_rate dns_failure_refresh_rate", _LOOKUPS),
            "original_dst_lb_config": "the destination is the URL's",
            "transport_socket_matcher": "the listed transport_socket_matches count",
            "protocol_selection": "HTTP/1.1 is spoken unless HTTP/2 is asked for",
        },
        refused={"lrs_server": _LOAD},
    ),
    _CLUSTER + "Filter": fields(
        "name",
        {"typed_config": "the name tells which filter it is"},
        refused={"config_discovery": "filters on demand (ECDS) are not fetched"},
    ),
    _CLUSTER + "Cluster.EdsClusterConfig": fields("eds_config service_name"),
    _CLUSTER + "Cluster.LeastRequestLbConfig": fields(
        "choice_count",
        unsupported={
            "active_request_bias": "active requests count as with a bias of 1",
            "slow_start_config": _SLOW_START,
        },
    ),
    _CLUSTER + "Cluster.RingHashLbConfig": fields("minimum_ring_size maximum_ring_size hash_function"),
    _CLUSTER + "Cluster.MaglevLbConfig": fields("table_size"),
    _CLUSTER + "Cluster.CommonLbConfig": fields(
        "healthy_panic_threshold consistent_hashing_lb_config",
        {
            "close_connections_on_host_set_change": "connections to endpoints that are gone are always closed",
            "update_merge_window": "every update is applied at once, without a loss",
            "ignore_new_hosts_until_first_hc": _PROBES,
        },
        unsupported={
            "zone_aware_lb_config": "the caller's zone is not preferred",
            "override_host_status": "no host is chosen by the caller",
            **_LOCALITY_WEIGHTED,
        },
    ),
    _CLUSTER + "Cluster.CommonLbConfig.ConsistentHashingLbConfig": fields(
        "use_hostname_for_hashing hash_balance_factor"
    ),
    _CLUSTER + "LoadBalancingPolicy": fields("policies"),
    _CLUSTER + "LoadBalancingPolicy.Policy": fields("typed_extension_config"),
    _LB + "round_robin.v3.RoundRobin": fields(unsupported={"slow_start_config": _SLOW_START, **_LOCALITY_LB}),
    _LB + "random.v3.Random": fields(unsupported=_LOCALITY_LB),
    _LB + "least_request.v3.LeastRequest": fields(
        "choice_count",
        unsupported={
            "active_request_bias": "active requests count as with a bias of 1",
            "slow_start_config": _SLOW_START,
            "enable_full_scan": "choice_count endpoints are compared",
            "selection_method": "choice_count endpoints are compared",
            **_LOCALITY_LB,
        },
    ),
    _LB + "ring_hash.v3.RingHash": fields(
        "hash_function minimum_ring_size maximum_ring_size consistent_hashing_lb_config",
        unsupported={
            **alike("use_hostname_for_hashing hash_balance_factor", "what consistent_hashing_lb_config says counts"),
            **_LOCALITY_WEIGHTED,
        },
    ),
    _LB + "maglev.v3.Maglev": fields("table_size consistent_hashing_lb_config", unsupported=_LOCALITY_WEIGHTED),
    _LB + "common.v3.ConsistentHashingLbConfig": fields(
        "use_hostname_for_hashing hash_balance_factor", unsupported={"hash_policy": "the route's hash_policy counts"}
    ),
    _LB + "wrr_locality.v3.WrrLocality": fields("endpoint_picking_policy"),
    _CLUSTER + "Cluster.TransportSocketMatch": fields("name match transport_socket"),
    _CLUSTER + "CircuitBreakers": fields("thresholds per_host_thresholds"),
    _CLUSTER + "CircuitBreakers.Thresholds": fields(
        "priority max_connections max_pending_requests max_requests max_retries retry_budget",
        {"track_remaining": STATS},
        unsupported={"max_connection_pools": "pools are not limited in number"},
    ),
    _CLUSTER + "CircuitBreakers.Thresholds.RetryBudget": fields("budget_percent min_retry_concurrency"),
    _CLUSTER + "OutlierDetection": fields(
        "consecutive_5xx enforcing_consecutive_5xx consecutive_gateway_failure "
        "enforcing_consecutive_gateway_failure split_external_local_origin_errors consecutive_local_origin_failure "
        "enforcing_consecutive_local_origin_failure interval base_ejection_time max_ejection_time "
        "max_ejection_percent always_eject_one_host enforcing_success_rate enforcing_local_origin_success_rate "
        "enforcing_failure_percentage enforcing_failure_percentage_local_origin success_rate_minimum_hosts "
        "success_rate_request_volume success_rate_stdev_factor failure_percentage_threshold "
        "failure_percentage_minimum_hosts failure_percentage_request_volume max_ejection_time_jitter",
        {"successful_active_health_check_uneject_host": _PROBES},
        unsupported={"monitors": "endpoints are ejected by the counts of this message alone"},
    ),
}
