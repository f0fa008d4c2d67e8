"""Configuration of HTTP filters that are run here, and of the router."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import ACCESS_LOG, RUNTIME, STATS, TRACE, Fields, alike, fields

_MUTATION = "envoy.extensions.filters.http.header_mutation.v3."
_FAULT = "envoy.extensions.filters.http.fault.v3."
_COMMON_FAULT = "envoy.extensions.filters.common.fault.v3."

FIELDS: Mapping[str, Fields] = {
    "envoy.extensions.filters.http.router.v3.Router": fields(
        "suppress_envoy_headers",
        {
            "dynamic_stats": STATS,
            "start_child_span": TRACE,
            "suppress_grpc_request_failure_code_stats": STATS,
            **alike("upstream_log upstream_log_options", ACCESS_LOG),
        },
        unsupported={
            "strict_check_headers": "x-envoy headers that are no numbers are ignored",
            "respect_expected_rq_timeout": "the route's timeout counts",
            "upstream_http_filters": "filters of a cluster are not run",
        },
    ),
    _MUTATION + "HeaderMutation": fields("mutations most_specific_header_mutations_wins"),
    _MUTATION + "HeaderMutationPerRoute": fields("mutations"),
    _MUTATION + "Mutations": fields(
        "request_mutations response_mutations",
        unsupported={
            "query_parameter_mutations": "the query is not changed",
            **alike("request_trailers_mutations response_trailers_mutations", "trailers are not changed"),
        },
    ),
    "envoy.config.common.mutation_rules.v3.HeaderMutation": fields(
        "remove append", unsupported={"remove_on_match": "headers are not removed by a pattern"}
    ),
    _FAULT + "HTTPFault": fields(
        "delay abort upstream_cluster headers",
        {
            **alike(
                "delay_percent_runtime abort_percent_runtime delay_duration_runtime abort_http_status_runtime "
                "max_active_faults_runtime response_rate_limit_percent_runtime abort_grpc_status_runtime",
                RUNTIME,
            ),
            **alike("disable_downstream_cluster_stats filter_metadata", STATS),
        },
        unsupported={
            "downstream_nodes": "the fault applies whoever calls",
            "max_active_faults": "faults are not limited in number",
            "response_rate_limit": "response bodies are not slowed",
        },
    ),
    _COMMON_FAULT + "FaultDelay": fields("fixed_delay header_delay percentage"),
    _FAULT + "FaultAbort": fields("http_status grpc_status header_abort percentage"),
}
