"""Listeners, their filter chains, and the network filters that end a chain."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import ACCESS_LOG, ORIGIN, PROXY, STATS, TRACE, Fields, alike, fields

_TLS_INSPECTOR = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
_LISTENER = "envoy.config.listener.v3."
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3."
_NDS = "istio.networking.nds.v1.NameTable"
_TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3."

_SOCKET = "about accepting connections; nothing listens here"
_ANY_ADDRESS = "the chain matches whatever the address"
_SUBSET = {"metadata_match": "endpoints are not narrowed to a subset"}
_ECDS = "filters on demand (ECDS) are not fetched: a call goes on without it"

FIELDS: Mapping[str, Fields] = {
    _LISTENER + "Listener": fields(
        "name address additional_addresses filter_chains default_filter_chain api_listener traffic_direction "
        "use_original_dst listener_filters per_connection_buffer_limit_bytes",
        {
            **alike(
                "bind_to_port bypass_overload_manager connection_balance_config continue_on_listener_filters_timeout "
                "deprecated_v1 drain_type enable_mptcp enable_reuse_port freebind ignore_global_conn_limit "
                "listener_filters_timeout max_connections_to_accept_per_socket_event "
                "reuse_port socket_options tcp_backlog_size "
                "tcp_fast_open_queue_length transparent",
                _SOCKET,
            ),
            "stat_prefix": STATS,
            "metadata": ORIGIN,
        },
        faulty="filter_chain_matcher",
        unsupported={
            "access_log": ACCESS_LOG,
            "udp_listener_config": "UDP does not pass through the mesh",
            "internal_listener": "nothing in the process connects to it",
        },
        refused={"fcds_config": "filter chains on demand (FCDS) are not asked for"},
    ),
    _LISTENER + "AdditionalAddress": fields("address", alike("socket_options", _SOCKET)),
    _TLS_INSPECTOR: fields(
        "",
        alike(
            "enable_ja3_fingerprinting enable_ja4_fingerprinting initial_read_buffer_size "
            "close_connection_on_client_hello_parsing_errors max_client_hello_size",
            "about reading a connection's first bytes; a call in the process says its SNI",
        ),
    ),
    _LISTENER + "ListenerFilter": fields(
        "typed_config",
        {"name": "what the filter is, its typed_config says"},
        approximated={"filter_disabled": "the filter runs for every connection"},
        refused={"config_discovery": _ECDS},
    ),
    _LISTENER + "ApiListener": fields("api_listener"),
    _LISTENER + "FilterChain": fields(
        "filter_chain_match filters name",
        {
            "metadata": ORIGIN,
            "transport_socket_connect_timeout": _SOCKET,
            "transport_socket": PROXY,
            "use_proxy_proto": PROXY,
        },
    ),
    _LISTENER + "FilterChainMatch": fields(
        "destination_port prefix_ranges server_names transport_protocol application_protocols "
        "direct_source_prefix_ranges source_type source_prefix_ranges source_ports",
        unsupported=alike("address_suffix suffix_len", _ANY_ADDRESS),
    ),
    _LISTENER + "Filter": fields("name typed_config", refused={"config_discovery": _ECDS}),
    _HCM + "HttpConnectionManager": fields(
        "rds route_config http_filters merge_slashes path_with_escaped_slashes_action stream_idle_timeout "
        "common_http_protocol_options",
        {
            **alike(
                "add_proxy_protocol_connection_state add_user_agent always_set_request_id_in_response "
                "append_local_overload append_x_forwarded_port codec_type delayed_close_timeout drain_timeout "
                "forward_client_cert_details forward_client_cert_matcher http1_safe_max_connection_duration "
                "http_protocol_options http2_protocol_options http3_protocol_options internal_address_config "
                "max_request_headers_kb original_ip_detection_extensions preserve_external_request_id "
                "proxy_100_continue proxy_status_config represent_ipv4_remote_address_as_ipv4_mapped_ipv6 "
                "request_headers_timeout request_timeout server_header_transformation server_name "
                "set_current_client_cert_details skip_xff_append stream_error_on_invalid_http_message "
                "stream_flush_timeout typed_header_validation_config upgrade_configs use_remote_address via "
                "xff_num_trusted_hops",
                PROXY,
            ),
            "stat_prefix": STATS,
            "tracing": TRACE,
            "request_id_extension": "request ids are UUIDs, as this asks",
            "generate_request_id": "request ids are always made",
            "normalize_path": "the HTTP client normalises paths before they come here",
        },
        faulty="scoped_routes",
        unsupported={
            **alike("access_log access_log_flush_interval flush_access_log_on_new_request", ACCESS_LOG),
            "access_log_options": ACCESS_LOG,
            "local_reply_config": "replies made here are not rewritten",
            **alike("strip_matching_host_port strip_any_host_port", "the Host header keeps its port"),
            "strip_trailing_host_dot": "the Host header keeps its dot",
            "early_header_mutation_extensions": "headers are not changed",
            "path_normalization_options": "the path is sent as it is",
            "scheme_header_transformation": "the scheme is the URL's",
        },
    ),
    _HCM + "Rds": fields("config_source route_config_name"),
    _HCM + "HttpFilter": fields(
        "name typed_config disabled",
        {"is_optional": "a filter that is not run is noted, optional or not"},
        refused={"config_discovery": _ECDS},
    ),
    _TCP_PROXY + "TcpProxy": fields(
        "cluster weighted_clusters",
        {"stat_prefix": STATS},
        unsupported={
            **alike("access_log access_log_flush_interval flush_access_log_on_connected", ACCESS_LOG),
            "access_log_options": ACCESS_LOG,
            **alike("idle_timeout downstream_idle_timeout upstream_idle_timeout", "no idle timeout is kept"),
            "max_connect_attempts": "a connection is tried once",
            "backoff_options": "a connection is tried once",
            **alike(
                "max_downstream_connection_duration max_downstream_connection_duration_jitter_percentage",
                "a connection lives as long as the application keeps it",
            ),
            "tunneling_config": "bytes are not tunnelled",
            "hash_policy": "connections are not hashed to an endpoint",
            "proxy_protocol_tlvs": "the PROXY protocol is not spoken",
            **alike("upstream_connect_mode max_early_data_bytes", "a connection is made when the application asks"),
            **_SUBSET,
        },
        refused={"on_demand": "clusters on demand (ODCDS) are not asked for"},
    ),
    _TCP_PROXY + "TcpProxy.WeightedCluster": fields("clusters"),
    _TCP_PROXY + "TcpProxy.WeightedCluster.ClusterWeight": fields("name weight", unsupported=_SUBSET),
    _NDS: fields("table", unsupported={"name_info": "names are looked up in the table alone"}),
    f"{_NDS}.NameInfo": fields(
        "ips alt_hosts", alike("registry shortname namespace", "short names are found by the resolver's search list")
    ),
}
