"""RouteConfigurations and what is in them."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import ORIGIN, PROXY, STATS, TRACE, Fields, alike, fields

_ROUTE = "envoy.config.route.v3."

_HEADERS = "request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove "
_BROWSERS = "about browsers; calls from the process are none"
_NO_DESCRIPTOR = "is not known here: there is no descriptor"
_BUFFERS = "per_request_buffer_limit_bytes request_body_buffer_limit "
_AS_ENVOY = "Envoy does not implement it either"
_RETRY_EXTENSION = {"retry_policy_typed_config": "retries are made as retry_policy says, or not at all"}
_REDIRECTS = "redirects are left to the application"
_NOWHERE = "leads nowhere: a call that matches meets NC"
_UNSEEN = "looks at what a call from the process does not have: the route is left out"
_AT_RANDOM = "a request that has nothing else to hash goes to an endpoint at random"

FIELDS: Mapping[str, Fields] = {
    _ROUTE + "RouteConfiguration": fields(
        _HEADERS + "name virtual_hosts ignore_port_in_host_matching max_direct_response_body_size_bytes "
        "typed_per_filter_config most_specific_header_mutations_wins request_mirror_policies",
        {
            "validate_clusters": "a cluster that does not exist is answered by NC when it is called",
            "metadata": ORIGIN,
            "internal_only_headers": PROXY,
            "cluster_specifier_plugins": "noted at the routes that name one",
        },
        unsupported={
            "vhost_header": "the virtual host is found by the Host header",
            "ignore_path_parameters_in_path_matching": "parameters count as part of the path",
        },
        refused={"vhds": "virtual hosts on demand (VHDS) are not asked for: a host that is not listed meets NR"},
    ),
    _ROUTE + "VirtualHost": fields(
        _HEADERS
        + _BUFFERS
        + "name domains routes matcher require_tls typed_per_filter_config include_request_attempt_count retry_policy "
        "request_mirror_policies rate_limits metadata include_attempt_count_in_response hedge_policy "
        "include_is_timeout_retry_header",
        {
            "virtual_clusters": STATS,
            "cors": _BROWSERS,
        },
        unsupported={**_RETRY_EXTENSION},
    ),
    _ROUTE + "Route": fields(
        _HEADERS + _BUFFERS + "name match route redirect direct_response metadata typed_per_filter_config",
        {
            **alike("decorator tracing", TRACE),
            "stat_prefix": STATS,
        },
        refused=alike("filter_action non_forwarding_action", _NOWHERE),
    ),
    _ROUTE + "RouteMatch": fields(
        "prefix path safe_regex path_separated_prefix path_match_policy case_sensitive runtime_fraction headers "
        "query_parameters grpc tls_context",
        refused=alike("connect_matcher filter_state", _UNSEEN),
        unsupported={"dynamic_metadata": "a call from the process has none: what is asked for is missing"},
    ),
    _ROUTE + "RouteMatch.GrpcRouteMatchOptions": fields(),
    _ROUTE + "RouteMatch.TlsContextMatchOptions": fields("presented validated"),
    "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig": fields("path_template"),
    "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig": fields("path_template_rewrite"),
    _ROUTE + "HeaderMatcher": fields(
        "name exact_match safe_regex_match range_match present_match prefix_match suffix_match contains_match "
        "string_match invert_match treat_missing_header_as_empty",
    ),
    _ROUTE + "QueryParameterMatcher": fields("name string_match present_match"),
    _ROUTE + "RouteAction": fields(
        "cluster weighted_clusters cluster_header cluster_not_found_response_code prefix_rewrite regex_rewrite "
        "path_rewrite host_rewrite_literal host_rewrite_header host_rewrite_path_regex auto_host_rewrite timeout "
        "path_rewrite_policy retry_policy max_stream_duration hash_policy internal_redirect_policy "
        "request_mirror_policies rate_limits include_vh_rate_limits append_x_forwarded_host "
        "hedge_policy idle_timeout priority max_grpc_timeout grpc_timeout_offset metadata_match",
        {
            "cors": _BROWSERS,
            "flush_timeout": PROXY,
            "early_data_policy": "about HTTP/3; it is not spoken here",
            "max_internal_redirects": "belongs to internal_redirect_action",
        },
        unsupported={
            "host_rewrite": "the Host header is sent as it is",
            "internal_redirect_action": _REDIRECTS,
            "upgrade_configs": "upgrades are left to the application",
            **_RETRY_EXTENSION,
        },
        refused=alike("cluster_specifier_plugin inline_cluster_specifier_plugin", _NOWHERE),
    ),
    _ROUTE + "RateLimit": fields(
        "stage actions",
        {"disable_key": "there is no runtime", "limit": "belongs to a rate limit service"},
        unsupported={
            "hits_addend": "every request takes one token",
            "apply_on_stream_done": "tokens are taken when the request begins",
        },
    ),
    _ROUTE + "RateLimit.Action": fields(
        "destination_cluster request_headers query_parameters remote_address generic_key header_value_match "
        "query_parameter_value_match",
        faulty="dynamic_metadata",
        unsupported=alike("source_cluster metadata extension masked_remote_address", _NO_DESCRIPTOR),
    ),
    _ROUTE + "RateLimit.Action.RequestHeaders": fields("header_name descriptor_key skip_if_absent"),
    _ROUTE + "RateLimit.Action.QueryParameters": fields("query_parameter_name descriptor_key skip_if_absent"),
    _ROUTE + "RateLimit.Action.GenericKey": fields("descriptor_key descriptor_value"),
    _ROUTE + "RateLimit.Action.HeaderValueMatch": fields("descriptor_key descriptor_value expect_match headers"),
    _ROUTE + "RateLimit.Action.QueryParameterValueMatch": fields(
        "descriptor_key descriptor_value expect_match query_parameters"
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
    _ROUTE + "HedgePolicy": fields(
        "hedge_on_per_try_timeout", unsupported=alike("initial_requests additional_request_chance", _AS_ENVOY)
    ),
    _ROUTE + "RouteAction.HashPolicy": fields(
        "header cookie query_parameter terminal",
        unsupported={
            "connection_properties": f"a call from the process has no source address: {_AT_RANDOM}",
            "filter_state": f"is not known: {_AT_RANDOM}",
        },
    ),
    _ROUTE + "RouteAction.HashPolicy.Header": fields("header_name regex_rewrite"),
    _ROUTE + "RouteAction.HashPolicy.Cookie": fields("name ttl path attributes"),
    _ROUTE + "RouteAction.HashPolicy.CookieAttribute": fields("name value"),
    _ROUTE + "RouteAction.HashPolicy.QueryParameter": fields("name"),
    _ROUTE + "WeightedCluster": fields(
        "clusters use_hash_policy",
        {"total_weight": "deprecated; weights are divided by their sum", "runtime_key_prefix": "there is no runtime"},
        unsupported={"header_name": "the weights are drawn at random"},
    ),
    _ROUTE + "WeightedCluster.ClusterWeight": fields(
        _HEADERS + "name weight cluster_header typed_per_filter_config host_rewrite_literal metadata_match"
    ),
    _ROUTE + "RetryPolicy": fields(
        "retry_on num_retries per_try_timeout retry_host_predicate host_selection_retry_max_attempts "
        "retriable_status_codes retriable_headers retriable_request_headers retry_back_off "
        "rate_limited_retry_back_off per_try_idle_timeout retry_priority",
        faulty="retry_options_predicates",
    ),
    _ROUTE + "RetryPolicy.RetryPriority": fields("typed_config", {"name": "what it is, its typed_config says"}),
    _ROUTE + "RetryPolicy.RetryHostPredicate": fields("name typed_config"),
    _ROUTE + "RetryPolicy.RetryBackOff": fields("base_interval max_interval"),
    _ROUTE + "RetryPolicy.RateLimitedRetryBackOff": fields("reset_headers max_interval"),
    _ROUTE + "RetryPolicy.ResetHeader": fields("name format"),
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig": fields("update_frequency"),
    "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig": fields("metadata_match"),
    _ROUTE + "RedirectAction": fields(
        "https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite response_code "
        "strip_query regex_rewrite",
    ),
    _ROUTE + "DirectResponseAction": fields("status body body_format"),
    "envoy.config.core.v3.SubstitutionFormatString": fields(
        "text_format text_format_source json_format content_type omit_empty_values",
        {"json_format_options": "keys come out sorted", "formatters": "faulty where a format names one"},
    ),
    _ROUTE + "FilterConfig": fields(
        "config disabled", {"is_optional": "a filter that is not run is noted, optional or not"}
    ),
}
