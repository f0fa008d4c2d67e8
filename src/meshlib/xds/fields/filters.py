"""Configuration of HTTP filters that are run here, and of the router."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import ACCESS_LOG, RUNTIME, STATS, TRACE, Fields, alike, fields

_MUTATION = "envoy.extensions.filters.http.header_mutation.v3."
_METADATA = "envoy.extensions.filters.http.header_to_metadata.v3."
_SESSION = "envoy.extensions.filters.http.stateful_session.v3."
_LIMIT = "envoy.extensions.filters.http.local_ratelimit.v3."
_FAULT = "envoy.extensions.filters.http.fault.v3."
_COMMON_FAULT = "envoy.extensions.filters.common.fault.v3."

FIELDS: Mapping[str, Fields] = {
    "envoy.extensions.filters.http.router.v3.Router": fields(
        "respect_expected_rq_timeout",
        {
            "dynamic_stats": STATS,
            "start_child_span": TRACE,
            "suppress_grpc_request_failure_code_stats": STATS,
            **alike("upstream_log upstream_log_options", ACCESS_LOG),
        },
        unsupported={
            "suppress_envoy_headers": "x-envoy headers are sent as meshlib's documentation says",
            "strict_check_headers": "x-envoy headers that are no numbers are ignored",
            "upstream_http_filters": "filters of a cluster are not run",
        },
    ),
    _MUTATION + "HeaderMutation": fields("mutations most_specific_header_mutations_wins"),
    _MUTATION + "HeaderMutationPerRoute": fields("mutations"),
    _MUTATION + "Mutations": fields(
        "request_mutations response_mutations query_parameter_mutations",
        unsupported=alike("request_trailers_mutations response_trailers_mutations", "trailers are not changed"),
    ),
    "envoy.config.common.mutation_rules.v3.HeaderMutation": fields("remove append remove_on_match"),
    "envoy.config.common.mutation_rules.v3.HeaderMutation.RemoveOnMatch": fields("key_matcher"),
    "envoy.config.core.v3.KeyValueMutation": fields("append remove"),
    "envoy.config.core.v3.KeyValueAppend": fields("record action", {"entry": "deprecated in favour of record"}),
    "envoy.config.core.v3.KeyValuePair": fields("key value"),
    _LIMIT + "LocalRateLimit": fields(
        "stat_prefix status token_bucket filter_enabled filter_enforced response_headers_to_add descriptors stage "
        "request_headers_to_add_when_not_enforced enable_x_ratelimit_headers vh_rate_limits rate_limits "
        "always_consume_default_token_bucket rate_limited_as_resource_exhausted max_dynamic_descriptors",
        unsupported={
            "local_rate_limit_per_downstream_connection": "the limit is that of this process",
            "local_cluster_rate_limit": "the limit is not shared with other processes",
        },
    ),
    "envoy.type.v3.HttpStatus": fields("code"),
    "envoy.type.v3.TokenBucket": fields("max_tokens tokens_per_fill fill_interval"),
    "envoy.extensions.common.ratelimit.v3.LocalRateLimitDescriptor": fields("entries token_bucket"),
    "envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry": fields("key value"),
    "envoy.extensions.filters.http.buffer.v3.Buffer": fields(
        approximated={"max_request_bytes": "a body whose length is not known beforehand is not counted"}
    ),
    "envoy.extensions.filters.http.buffer.v3.BufferPerRoute": fields("disabled buffer"),
    _METADATA + "Config": fields(
        "request_rules", {"stat_prefix": STATS}, unsupported={"response_rules": "responses make no metadata"}
    ),
    _METADATA + "Config.Rule": fields("header cookie on_header_present on_header_missing remove"),
    _METADATA + "Config.KeyValuePair": fields(
        "metadata_namespace key value regex_value_rewrite type", unsupported={"encode": "the value is taken as it is"}
    ),
    _SESSION + "StatefulSession": fields("session_state strict", {"stat_prefix": STATS}),
    _SESSION + "StatefulSessionPerRoute": fields("disabled stateful_session"),
    "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState": fields("cookie"),
    "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState": fields("name"),
    "envoy.type.http.v3.Cookie": fields("name ttl path attributes"),
    "envoy.type.http.v3.CookieAttribute": fields("name value"),
    _FAULT + "HTTPFault": fields(
        "delay abort upstream_cluster headers downstream_nodes max_active_faults response_rate_limit",
        {
            **alike(
                "delay_percent_runtime abort_percent_runtime delay_duration_runtime abort_http_status_runtime "
                "max_active_faults_runtime response_rate_limit_percent_runtime abort_grpc_status_runtime",
                RUNTIME,
            ),
            **alike("disable_downstream_cluster_stats filter_metadata", STATS),
        },
    ),
    _COMMON_FAULT + "FaultRateLimit": fields("fixed_limit header_limit percentage"),
    _COMMON_FAULT + "FaultRateLimit.FixedLimit": fields("limit_kbps"),
    _COMMON_FAULT + "FaultDelay": fields("fixed_delay header_delay percentage"),
    _FAULT + "FaultAbort": fields("http_status grpc_status header_abort percentage"),
}
