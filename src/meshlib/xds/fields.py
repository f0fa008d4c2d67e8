"""What becomes of each field received: honoured, of no matter here (and why), or not honoured.

A field that a table does not name is noted as "is not honoured": nothing is ignored in silence.
Nested messages have tables of their own: the decoder of an honoured field audits what is inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NOT_HONOURED = "is not honoured"


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one message.

    Attributes:
        honoured: fields a decoder reads.
        irrelevant: fields that change nothing for a client in the process, with the reason.
        unsupported: what happens for want of the field, where "is not honoured" says too little.
    """

    honoured: frozenset[str] = frozenset()
    irrelevant: Mapping[str, str] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)


NOTHING_KNOWN = Fields()

_ROUTE = "envoy.config.route.v3."
_CLUSTER = "envoy.config.cluster.v3."
_LB = "envoy.extensions.load_balancing_policies."
_ENDPOINT = "envoy.config.endpoint.v3."
_LISTENER = "envoy.config.listener.v3."
_MUTATION = "envoy.extensions.filters.http.header_mutation.v3."
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3."

_PROXY = "about a proxy's downstream connections; a client in the process has none"
_STATS = "names Envoy's own statistics; meshlib's are Istio's"
_TRACE = "spans are named and sampled by OpenTelemetry's settings"
_DEPRECATED = "deprecated; Istio repeats in it what another field says"
_SOCKET = "about accepting connections; nothing listens here"
_HEADERS = "request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove "
_MIRROR = {"request_mirror_policies": "requests are not mirrored"}


def _fields(honoured: str, irrelevant: Mapping[str, str] = MappingProxyType({}), /, **unsupported: str) -> Fields:
    return Fields(frozenset(honoured.split()), irrelevant, unsupported)


FIELDS: Mapping[str, Fields] = {
    _ROUTE + "RouteConfiguration": _fields(
        _HEADERS + "name virtual_hosts ignore_port_in_host_matching max_direct_response_body_size_bytes "
        "typed_per_filter_config most_specific_header_mutations_wins",
        {
            "validate_clusters": "a cluster that does not exist is answered by NC when it is called",
            "metadata": "says where it came from",
            "internal_only_headers": _PROXY,
        },
        vhds="virtual hosts on demand are not asked for",
        **_MIRROR,
    ),
    _ROUTE + "VirtualHost": _fields(
        _HEADERS + "name domains routes require_tls typed_per_filter_config include_request_attempt_count retry_policy",
        {
            "metadata": "says where it came from",
            "virtual_clusters": _STATS,
            "include_attempt_count_in_response": "the CallRecord of a response counts its attempts",
            "cors": "about browsers; calls from the process are none",
        },
        matcher="its routes are not matched",
        rate_limits="requests are not limited",
        hedge_policy="no attempt is hedged",
        **_MIRROR,
    ),
    _ROUTE + "Route": _fields(
        _HEADERS + "name match route redirect direct_response non_forwarding_action filter_action metadata "
        "typed_per_filter_config",
        {"decorator": _TRACE, "tracing": _TRACE, "stat_prefix": _STATS},
    ),
    _ROUTE + "RouteMatch": _fields(
        "prefix path safe_regex path_separated_prefix connect_matcher path_match_policy case_sensitive "
        "runtime_fraction headers query_parameters grpc tls_context dynamic_metadata filter_state",
    ),
    _ROUTE + "RouteMatch.GrpcRouteMatchOptions": _fields(""),
    _ROUTE + "HeaderMatcher": _fields(
        "name exact_match safe_regex_match range_match present_match prefix_match suffix_match contains_match "
        "string_match invert_match treat_missing_header_as_empty",
    ),
    _ROUTE + "QueryParameterMatcher": _fields("name string_match present_match"),
    _ROUTE + "RouteAction": _fields(
        "cluster weighted_clusters cluster_header cluster_specifier_plugin inline_cluster_specifier_plugin "
        "cluster_not_found_response_code prefix_rewrite regex_rewrite path_rewrite host_rewrite_literal "
        "host_rewrite_header host_rewrite_path_regex auto_host_rewrite timeout retry_policy max_stream_duration "
        "hash_policy",
        {
            "max_grpc_timeout": _DEPRECATED,
            "cors": "about browsers; calls from the process are none",
            "append_x_forwarded_host": _PROXY,
            "flush_timeout": _PROXY,
            "early_data_policy": "about HTTP/3; it is not spoken here",
        },
        metadata_match="endpoints are not narrowed to a subset",
        path_rewrite_policy="the path is sent as it is",
        host_rewrite="the Host header is sent as it is",
        idle_timeout="no idle timeout is kept",
        priority="the thresholds of the DEFAULT priority count",
        rate_limits="requests are not limited",
        internal_redirect_policy="redirects are left to the application",
        internal_redirect_action="redirects are left to the application",
        hedge_policy="no attempt is hedged",
        upgrade_configs="upgrades are left to the application",
        **_MIRROR,
    ),
    _ROUTE + "RouteAction.HashPolicy": _fields(
        "header cookie connection_properties query_parameter filter_state terminal",
    ),
    _ROUTE + "RouteAction.HashPolicy.Header": _fields("header_name regex_rewrite"),
    _ROUTE + "RouteAction.HashPolicy.Cookie": _fields(
        "name",
        {"path": "belongs to the cookie that ttl would make", "attributes": "belong to the cookie that ttl would make"},
        ttl="no cookie is made: a request without it goes to an endpoint at random",
    ),
    _ROUTE + "RouteAction.HashPolicy.QueryParameter": _fields("name"),
    _ROUTE + "WeightedCluster": _fields(
        "clusters use_hash_policy",
        {"total_weight": "deprecated; weights are divided by their sum", "runtime_key_prefix": "there is no runtime"},
        header_name="the weights are drawn at random",
    ),
    _ROUTE + "WeightedCluster.ClusterWeight": _fields(
        _HEADERS + "name weight cluster_header typed_per_filter_config host_rewrite_literal",
        metadata_match="endpoints are not narrowed to a subset",
    ),
    _ROUTE + "RetryPolicy": _fields(
        "retry_on num_retries per_try_timeout retry_host_predicate host_selection_retry_max_attempts "
        "retriable_status_codes retriable_headers retriable_request_headers retry_back_off "
        "rate_limited_retry_back_off",
        per_try_idle_timeout="no idle timeout is kept for an attempt",
        retry_priority="retries stay at the priority that is drawn",
    ),
    _ROUTE + "RetryPolicy.RetryBackOff": _fields("base_interval max_interval"),
    _ROUTE + "RetryPolicy.RateLimitedRetryBackOff": _fields("reset_headers max_interval"),
    _ROUTE + "RetryPolicy.ResetHeader": _fields("name format"),
    _ROUTE + "RedirectAction": _fields(
        "https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite response_code "
        "strip_query regex_rewrite",
    ),
    _ROUTE + "DirectResponseAction": _fields("status body"),
    "envoy.config.core.v3.HeaderValueOption": _fields("header append append_action keep_empty_value"),
    _MUTATION + "HeaderMutation": _fields("mutations most_specific_header_mutations_wins"),
    _MUTATION + "HeaderMutationPerRoute": _fields("mutations"),
    _MUTATION + "Mutations": _fields(
        "request_mutations response_mutations",
        query_parameter_mutations="the query is not changed",
        request_trailers_mutations="trailers are not changed",
        response_trailers_mutations="trailers are not changed",
    ),
    "envoy.config.core.v3.DataSource": _fields("inline_bytes inline_string filename environment_variable"),
    "envoy.extensions.filters.http.fault.v3.HTTPFault": _fields(
        "delay abort upstream_cluster headers",
        {
            **dict.fromkeys(
                (
                    "delay_percent_runtime",
                    "abort_percent_runtime",
                    "delay_duration_runtime",
                    "abort_http_status_runtime",
                    "max_active_faults_runtime",
                    "response_rate_limit_percent_runtime",
                    "abort_grpc_status_runtime",
                ),
                "there is no runtime; the configured value counts",
            ),
            "disable_downstream_cluster_stats": _STATS,
            "filter_metadata": _STATS,
        },
        downstream_nodes="the fault applies whoever calls",
        max_active_faults="faults are not limited in number",
        response_rate_limit="response bodies are not slowed",
    ),
    "envoy.extensions.filters.common.fault.v3.FaultDelay": _fields("fixed_delay header_delay percentage"),
    "envoy.extensions.filters.http.fault.v3.FaultAbort": _fields("http_status grpc_status header_abort percentage"),
    _CLUSTER + "Cluster": _fields(
        "name type cluster_type eds_cluster_config connect_timeout lb_policy load_assignment circuit_breakers "
        "http2_protocol_options common_http_protocol_options typed_extension_protocol_options outlier_detection "
        "least_request_lb_config ring_hash_lb_config maglev_lb_config common_lb_config transport_socket "
        "transport_socket_matches metadata filters load_balancing_policy",
        {
            "alt_stat_name": _STATS,
            "http_protocol_options": "HTTP/1.1 is what is spoken unless HTTP/2 is asked for",
            "cleanup_interval": "connections to an original destination close when idle",
            "dns_lookup_family": "names are looked up by the process's resolver, its order of families stands",
            "dns_resolvers": "names are looked up by the process's resolver",
            "dns_resolution_config": "names are looked up by the process's resolver",
            "typed_dns_resolver_config": "names are looked up by the process's resolver",
            "use_tcp_for_dns_lookups": "names are looked up by the process's resolver",
            "respect_dns_ttl": "the process's resolver does not tell the TTL",
            "dns_jitter": "names are looked up again on their own schedule",
            "wait_for_warm_on_init": "a cluster is used when its endpoints are known",
            "per_connection_buffer_limit_bytes": _PROXY,
            "lrs_server": "load is not reported",
            "track_cluster_stats": _STATS,
        },
        health_checks="endpoints are not probed",
        upstream_bind_config="connections leave from the address the system picks",
        upstream_connection_options="TCP keep-alive is the system's",
        dns_refresh_rate="names are looked up again on meshlib's own schedule",
        dns_failure_refresh_rate="names are looked up again on meshlib's own schedule",
        lb_subset_config="endpoints are not narrowed to a subset",
        round_robin_lb_config="there is no slow start",
        original_dst_lb_config="the destination is the URL's",
        transport_socket_matcher="the listed transport_socket_matches count",
        preconnect_policy="no connection is made ahead",
        upstream_config="the pool is meshlib's",
    ),
    _CLUSTER + "Cluster.EdsClusterConfig": _fields("eds_config service_name"),
    _CLUSTER + "Cluster.LeastRequestLbConfig": _fields("choice_count"),
    _CLUSTER + "Cluster.RingHashLbConfig": _fields("minimum_ring_size maximum_ring_size hash_function"),
    _CLUSTER + "Cluster.MaglevLbConfig": _fields("table_size"),
    _CLUSTER + "Cluster.CommonLbConfig": _fields(
        "healthy_panic_threshold consistent_hashing_lb_config",
        {"close_connections_on_host_set_change": "connections to endpoints that are gone are always closed"},
        locality_weighted_lb_config="endpoints of a priority share the load by their own weight alone",
        zone_aware_lb_config="the caller's zone is not preferred",
        update_merge_window="every update is applied at once",
    ),
    _CLUSTER + "Cluster.CommonLbConfig.ConsistentHashingLbConfig": _fields(
        "use_hostname_for_hashing hash_balance_factor"
    ),
    _LB + "ring_hash.v3.RingHash": _fields(
        "hash_function minimum_ring_size maximum_ring_size consistent_hashing_lb_config"
    ),
    _LB + "maglev.v3.Maglev": _fields("table_size consistent_hashing_lb_config"),
    _LB + "common.v3.ConsistentHashingLbConfig": _fields("use_hostname_for_hashing hash_balance_factor"),
    _CLUSTER + "Cluster.TransportSocketMatch": _fields("name match transport_socket"),
    _CLUSTER + "CircuitBreakers": _fields("thresholds", per_host_thresholds="there is no limit an endpoint"),
    _CLUSTER + "CircuitBreakers.Thresholds": _fields(
        "priority max_connections max_pending_requests max_requests max_retries retry_budget",
        {"track_remaining": _STATS},
        max_connection_pools="pools are not limited in number",
    ),
    _CLUSTER + "CircuitBreakers.Thresholds.RetryBudget": _fields(
        "budget_percent min_retry_concurrency",
    ),
    _CLUSTER + "OutlierDetection": _fields(
        "consecutive_5xx enforcing_consecutive_5xx consecutive_gateway_failure "
        "enforcing_consecutive_gateway_failure split_external_local_origin_errors consecutive_local_origin_failure "
        "enforcing_consecutive_local_origin_failure interval base_ejection_time max_ejection_time "
        "max_ejection_percent always_eject_one_host enforcing_success_rate enforcing_local_origin_success_rate "
        "enforcing_failure_percentage enforcing_failure_percentage_local_origin success_rate_minimum_hosts "
        "success_rate_request_volume success_rate_stdev_factor failure_percentage_threshold "
        "failure_percentage_minimum_hosts failure_percentage_request_volume max_ejection_time_jitter",
        {"successful_active_health_check_uneject_host": "endpoints are not probed"},
    ),
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _fields(
        "explicit_http_config use_downstream_protocol_config auto_config common_http_protocol_options",
        upstream_http_protocol_options="SNI is the Host header's name",
    ),
    "envoy.config.core.v3.HttpProtocolOptions": _fields(
        "idle_timeout",
        max_requests_per_connection="connections are reused without counting",
        max_connection_duration="connections are reused whatever their age",
        max_stream_duration="the route's timeout and the application's count",
    ),
    _ENDPOINT + "ClusterLoadAssignment": _fields(
        "cluster_name endpoints policy", named_endpoints="endpoints given by reference are left out"
    ),
    _ENDPOINT + "ClusterLoadAssignment.Policy": _fields(
        "overprovisioning_factor drop_overloads",
        endpoint_stale_after="endpoints do not grow stale",
    ),
    _ENDPOINT + "ClusterLoadAssignment.Policy.DropOverload": _fields("category drop_percentage"),
    _ENDPOINT + "LocalityLbEndpoints": _fields(
        "locality lb_endpoints load_balancing_weight priority",
        {"metadata": "endpoints carry their own"},
        load_balancer_endpoints="endpoints given by reference are left out",
        leds_cluster_locality_config="endpoints given by reference are left out",
    ),
    _ENDPOINT + "LbEndpoint": _fields("endpoint endpoint_name health_status metadata load_balancing_weight"),
    _ENDPOINT + "Endpoint": _fields(
        "address hostname",
        {"health_check_config": "endpoints are not probed"},
        additional_addresses="only the first address is dialled",
    ),
    "envoy.config.core.v3.SocketAddress": _fields(
        "protocol address port_value named_port",
        {"ipv4_compat": _SOCKET, "resolver_name": "names are looked up by the process's resolver"},
    ),
    "envoy.config.core.v3.Pipe": _fields("path", {"mode": _SOCKET}),
    _LISTENER + "Listener": _fields(
        "name address additional_addresses filter_chains default_filter_chain api_listener traffic_direction "
        "filter_chain_matcher use_original_dst listener_filters",
        {
            **dict.fromkeys(
                (
                    "bind_to_port",
                    "connection_balance_config",
                    "continue_on_listener_filters_timeout",
                    "deprecated_v1",
                    "drain_type",
                    "enable_reuse_port",
                    "freebind",
                    "ignore_global_conn_limit",
                    "listener_filters_timeout",
                    "max_connections_to_accept_per_socket_event",
                    "per_connection_buffer_limit_bytes",
                    "reuse_port",
                    "socket_options",
                    "tcp_backlog_size",
                    "tcp_fast_open_queue_length",
                    "transparent",
                ),
                _SOCKET,
            ),
            "stat_prefix": _STATS,
            "metadata": "says where it came from",
        },
        access_log="calls are logged by meshlib's own access log",
        udp_listener_config="UDP does not pass through the mesh",
        internal_listener="nothing in the process connects to it",
    ),
    _LISTENER + "AdditionalAddress": _fields("address", {"socket_options": _SOCKET, "tcp_keepalive": _SOCKET}),
    _LISTENER + "ApiListener": _fields("api_listener"),
    _LISTENER + "FilterChain": _fields(
        "filter_chain_match filters name",
        {
            "metadata": "says where it came from",
            "transport_socket_connect_timeout": _SOCKET,
            "transport_socket": _PROXY,
            "use_proxy_proto": _PROXY,
        },
    ),
    _LISTENER + "FilterChainMatch": _fields(
        "destination_port prefix_ranges server_names transport_protocol application_protocols "
        "direct_source_prefix_ranges source_type source_prefix_ranges source_ports",
        address_suffix="the chain matches whatever the address",
        suffix_len="the chain matches whatever the address",
    ),
    _HCM + "HttpConnectionManager": _fields(
        "rds route_config scoped_routes http_filters merge_slashes path_with_escaped_slashes_action",
        {
            **dict.fromkeys(
                (
                    "add_user_agent",
                    "always_set_request_id_in_response",
                    "codec_type",
                    "delayed_close_timeout",
                    "drain_timeout",
                    "forward_client_cert_details",
                    "http_protocol_options",
                    "http2_protocol_options",
                    "http3_protocol_options",
                    "internal_address_config",
                    "max_request_headers_kb",
                    "preserve_external_request_id",
                    "proxy_100_continue",
                    "request_headers_timeout",
                    "request_timeout",
                    "server_header_transformation",
                    "server_name",
                    "set_current_client_cert_details",
                    "skip_xff_append",
                    "stream_error_on_invalid_http_message",
                    "upgrade_configs",
                    "use_remote_address",
                    "via",
                    "xff_num_trusted_hops",
                ),
                _PROXY,
            ),
            "stat_prefix": _STATS,
            "tracing": _TRACE,
            "request_id_extension": "request ids are UUIDs, as this asks",
            "generate_request_id": "request ids are always made",
            "normalize_path": "the HTTP client normalises paths before they come here",
            "stream_idle_timeout": "the application's own read timeout bounds a silent stream",
        },
        access_log="calls are logged by meshlib's own access log",
        common_http_protocol_options="connections and streams live by meshlib's own limits",
        local_reply_config="replies made here are not rewritten",
        strip_matching_host_port="the Host header keeps its port",
        strip_any_host_port="the Host header keeps its port",
        strip_trailing_host_dot="the Host header keeps its dot",
        early_header_mutation_extensions="headers are not changed",
    ),
    _HCM + "Rds": _fields("config_source route_config_name"),
    _HCM + "HttpFilter": _fields("name typed_config is_optional disabled config_discovery"),
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": _fields(
        "cluster weighted_clusters",
        {"stat_prefix": _STATS},
        access_log="calls are logged by meshlib's own access log",
        idle_timeout="no idle timeout is kept",
        max_connect_attempts="a connection is tried once",
        tunneling_config="bytes are not tunnelled",
        hash_policy="connections are not hashed to an endpoint",
        metadata_match="endpoints are not narrowed to a subset",
    ),
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight": _fields(
        "name weight",
        metadata_match="endpoints are not narrowed to a subset",
    ),
    "istio.networking.nds.v1.NameTable": _fields("table", name_info="names are looked up in the table alone"),
    "istio.networking.nds.v1.NameTable.NameInfo": _fields(
        "ips alt_hosts",
        dict.fromkeys(("registry", "shortname", "namespace"), "short names are found by the resolver's search list"),
    ),
}
