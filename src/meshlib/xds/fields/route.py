"""RouteConfigurations and what is in them."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import ORIGIN, PROXY, STATS, TRACE, Fields, alike, fields

_ROUTE = "envoy.config.route.v3."

_HEADERS = "request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove "
_BROWSERS = "about browsers; calls from the process are none"
_BUFFERS = "a body is buffered by the application or not at all"
_LIMITS = {"rate_limits": "requests are not limited"}
_HEDGE = {"hedge_policy": "no attempt is hedged"}
_RETRY_EXTENSION = {"retry_policy_typed_config": "retries are made as retry_policy says, or not at all"}
_REDIRECTS = "redirects are left to the application"
_NOWHERE = "leads nowhere: a call that matches meets NC"
_UNSEEN = "looks at what a call from the process does not have: a route that asks for it is left out"
_AT_RANDOM = "a request that has nothing else to hash goes to an endpoint at random"

FIELDS: Mapping[str, Fields] = {
    _ROUTE + "RouteConfiguration": fields(
        _HEADERS + "name virtual_hosts ignore_port_in_host_matching vhost_header max_direct_response_body_size_bytes "
        "ignore_path_parameters_in_path_matching validate_clusters "
        "typed_per_filter_config most_specific_header_mutations_wins request_mirror_policies",
        {
            "metadata": ORIGIN,
            "internal_only_headers": PROXY,
            "cluster_specifier_plugins": "noted at the routes that name one",
        },
        unsupported={},
        refused={"vhds": "virtual hosts on demand (VHDS) are not asked for: a host that is not listed meets NR"},
    ),
    _ROUTE + "VirtualHost": fields(
        _HEADERS + "name domains routes require_tls typed_per_filter_config include_request_attempt_count "
        "virtual_clusters include_attempt_count_in_response retry_policy "
        "request_mirror_policies",
        {
            "metadata": ORIGIN,
            "include_is_timeout_retry_header": "the CallRecord of a response tells its attempts",
            "cors": _BROWSERS,
            **alike("per_request_buffer_limit_bytes request_body_buffer_limit", _BUFFERS),
        },
        unsupported={"matcher": "its routes are not matched", **_LIMITS, **_HEDGE, **_RETRY_EXTENSION},
    ),
    _ROUTE + "Route": fields(
        _HEADERS + "name match route redirect direct_response metadata typed_per_filter_config",
        {
            **alike("decorator tracing", TRACE),
            "stat_prefix": STATS,
            **alike("per_request_buffer_limit_bytes request_body_buffer_limit", _BUFFERS),
        },
        refused=alike("filter_action non_forwarding_action", _NOWHERE),
    ),
    _ROUTE + "RouteMatch": fields(
        "prefix path safe_regex path_separated_prefix case_sensitive runtime_fraction headers query_parameters grpc",
        faulty="path_match_policy",
        refused=alike("connect_matcher tls_context dynamic_metadata filter_state", _UNSEEN),
    ),
    _ROUTE + "RouteMatch.GrpcRouteMatchOptions": fields(),
    _ROUTE + "VirtualCluster": fields("name headers"),
    _ROUTE + "HeaderMatcher": fields(
        "name exact_match safe_regex_match range_match present_match prefix_match suffix_match contains_match "
        "string_match invert_match treat_missing_header_as_empty",
    ),
    _ROUTE + "QueryParameterMatcher": fields("name string_match present_match"),
    _ROUTE + "RouteAction": fields(
        "cluster weighted_clusters cluster_header cluster_not_found_response_code prefix_rewrite regex_rewrite "
        "path_rewrite host_rewrite_literal host_rewrite_header host_rewrite_path_regex host_rewrite auto_host_rewrite "
        "append_x_forwarded_host timeout "
        "retry_policy max_stream_duration hash_policy internal_redirect_policy request_mirror_policies "
        "metadata_match",
        {
            "cors": _BROWSERS,
            "flush_timeout": PROXY,
            "early_data_policy": "about HTTP/3; it is not spoken here",
            "include_vh_rate_limits": "noted at rate_limits",
            "max_internal_redirects": "belongs to internal_redirect_action",
            **alike("max_grpc_timeout grpc_timeout_offset", "deprecated; Istio repeats in it what timeout says"),
        },
        unsupported={
            "path_rewrite_policy": "the path is sent as it is",
            "idle_timeout": "no idle timeout is kept",
            "internal_redirect_action": _REDIRECTS,
            "upgrade_configs": "upgrades are left to the application",
            **_LIMITS,
            **_HEDGE,
            **_RETRY_EXTENSION,
        },
        approximated={"priority": "the thresholds of the DEFAULT priority count"},
        refused=alike("cluster_specifier_plugin inline_cluster_specifier_plugin", _NOWHERE),
    ),
    _ROUTE + "RouteAction.RequestMirrorPolicy": fields(
        "cluster cluster_header runtime_fraction disable_shadow_host_suffix_append request_headers_mutations "
        "host_rewrite_literal",
        {"trace_sampled": "copies of requests make no spans of their own"},
    ),
    _ROUTE + "InternalRedirectPolicy": fields(
        "max_internal_redirects redirect_response_codes predicates allow_cross_scheme_redirect response_headers_to_copy"
    ),
    "envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig": fields("allowed_route_names"),
    _ROUTE + "RouteAction.MaxStreamDuration": fields(
        "max_stream_duration grpc_timeout_header_max grpc_timeout_header_offset"
    ),
    _ROUTE + "RouteAction.HashPolicy": fields(
        "header cookie query_parameter terminal",
        unsupported={
            "connection_properties": f"a call from the process has no source address: {_AT_RANDOM}",
            "filter_state": f"is not known: {_AT_RANDOM}",
        },
    ),
    _ROUTE + "RouteAction.HashPolicy.Header": fields("header_name regex_rewrite"),
    _ROUTE + "RouteAction.HashPolicy.Cookie": fields(
        "name",
        alike("path attributes", "belongs to the cookie that ttl would make"),
        unsupported={"ttl": "no cookie is made: a request without it goes to an endpoint at random"},
    ),
    _ROUTE + "RouteAction.HashPolicy.QueryParameter": fields("name"),
    _ROUTE + "WeightedCluster": fields(
        "clusters use_hash_policy header_name runtime_key_prefix",
        {"total_weight": "deprecated; weights are divided by their sum"},
    ),
    _ROUTE + "WeightedCluster.ClusterWeight": fields(
        _HEADERS + "name weight cluster_header typed_per_filter_config host_rewrite_literal metadata_match"
    ),
    _ROUTE + "RetryPolicy": fields(
        "retry_on num_retries per_try_timeout retry_host_predicate host_selection_retry_max_attempts "
        "retriable_status_codes retriable_headers retriable_request_headers retry_back_off "
        "rate_limited_retry_back_off",
        unsupported={
            "per_try_idle_timeout": "no idle timeout is kept for an attempt",
            "retry_priority": "retries stay at the priority that is drawn",
            "retry_options_predicates": "every attempt is made alike",
        },
    ),
    _ROUTE + "RetryPolicy.RetryHostPredicate": fields("name typed_config"),
    _ROUTE + "RetryPolicy.RetryBackOff": fields("base_interval max_interval"),
    _ROUTE + "RetryPolicy.RateLimitedRetryBackOff": fields("reset_headers max_interval"),
    _ROUTE + "RetryPolicy.ResetHeader": fields("name format"),
    "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig": fields("metadata_match"),
    _ROUTE + "RedirectAction": fields(
        "https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite response_code "
        "strip_query regex_rewrite",
    ),
    _ROUTE + "DirectResponseAction": fields("status body", unsupported={"body_format": "the body is sent as it is"}),
    _ROUTE + "FilterConfig": fields(
        "config disabled", {"is_optional": "a filter that is not run is noted, optional or not"}
    ),
}
