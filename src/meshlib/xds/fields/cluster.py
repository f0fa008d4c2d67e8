"""Clusters, their thresholds and outlier detection."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.discovery import RESOLVER
from meshlib.xds.fields.table import PROXY, STATS, Fields, alike, fields

_CLUSTER = "envoy.config.cluster.v3."

_LOAD = "load is not reported (LRS)"

FIELDS: Mapping[str, Fields] = {
    _CLUSTER + "Cluster": fields(
        "name type eds_cluster_config connect_timeout lb_policy load_assignment circuit_breakers "
        "http2_protocol_options common_http_protocol_options typed_extension_protocol_options outlier_detection "
        "round_robin_lb_config least_request_lb_config ring_hash_lb_config maglev_lb_config common_lb_config "
        "lb_subset_config transport_socket transport_socket_matches metadata filters load_balancing_policy "
        "upstream_http_protocol_options max_requests_per_connection "
        "cluster_type dns_refresh_rate dns_failure_refresh_rate dns_jitter dns_lookup_family respect_dns_ttl "
        "wait_for_warm_on_init original_dst_lb_config health_checks ignore_health_on_host_removal",
        {
            **alike("alt_stat_name track_cluster_stats track_timeout_budgets", STATS),
            "http_protocol_options": "HTTP/1.1 is what is spoken unless HTTP/2 is asked for",
            "cleanup_interval": "connections to an original destination close when idle",
            "per_connection_buffer_limit_bytes": PROXY,
            "lrs_report_endpoint_metrics": "belongs to lrs_server",
            "close_connections_on_host_health_failure": "about TCP proxies; HTTP connections are always closed then",
        },
        unsupported={
            "upstream_bind_config": "connections leave from the address the system picks",
            "upstream_connection_options": "TCP keep-alive is the system's",
            "preconnect_policy": "no connection is made ahead",
            "upstream_config": "the pool is meshlib's",
            "connection_pool_per_downstream_connection": "connections are shared",
        },
        approximated={
            **alike("dns_resolvers dns_resolution_config typed_dns_resolver_config use_tcp_for_dns_lookups", RESOLVER),
            "protocol_selection": "HTTP/1.1 is spoken unless HTTP/2 is asked for",
        },
        refused={
            "lrs_server": _LOAD,
            "transport_socket_matcher": "matchers of sockets are not run: no call to the cluster is made",
        },
    ),
    _CLUSTER + "Filter": fields(
        "name",
        {"typed_config": "the name tells which filter it is"},
        refused={"config_discovery": "filters on demand (ECDS) are not fetched"},
    ),
    _CLUSTER + "Cluster.EdsClusterConfig": fields("eds_config service_name"),
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
        "failure_percentage_minimum_hosts failure_percentage_request_volume max_ejection_time_jitter "
        "successful_active_health_check_uneject_host",
        unsupported={"monitors": "endpoints are ejected by the counts of this message alone"},
    ),
}
