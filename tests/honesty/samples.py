"""Resources that use, between them, every message that meshlib's tables of fields name.

The captures of istiod hold what istiod sends; these hold the rest, each in a resource that is taken.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from meshlib.xds.bootstrap_envoy import import_types
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET

Json = dict[str, Any]
_TYPES = "type.googleapis.com/envoy."


def typed(kind: str, **fields: object) -> Json:
    """Return an Any of one of Envoy's messages."""
    return {"@type": _TYPES + kind, **fields}


ADS: Json = {"ads": {}, "resource_api_version": "V3"}
ADDRESS: Json = {"socket_address": {"address": "127.0.0.1", "port_value": 80}}
HALF: Json = {"numerator": 5000, "denominator": "TEN_THOUSAND"}
HEADER: Json = {"header": {"key": "x-a", "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
RAW_HEADER: Json = {"header": {"key": "x-b", "raw_value": "MQ=="}}
MUTATIONS: Json = {
    "request_headers_to_add": [HEADER, RAW_HEADER],
    "request_headers_to_remove": ["x-c"],
    "response_headers_to_add": [HEADER],
    "response_headers_to_remove": ["x-c"],
}
FAULT: Json = typed(
    "extensions.filters.http.fault.v3.HTTPFault",
    delay={"fixed_delay": "0.5s", "percentage": HALF},
    abort={"http_status": 503, "percentage": HALF},
    headers=[{"name": "x-f", "string_match": {"exact": "1"}}],
    upstream_cluster="c",
    downstream_nodes=["n"],
    max_active_faults=7,
    response_rate_limit={"fixed_limit": {"limit_kbps": "9"}, "percentage": HALF},
)
FAULT_BY_HEADER: Json = typed(
    "extensions.filters.http.fault.v3.HTTPFault",
    delay={"header_delay": {}, "percentage": HALF},
    abort={"header_abort": {}, "percentage": HALF},
    response_rate_limit={"header_limit": {}, "percentage": HALF},
)
FAULT_GRPC: Json = typed(
    "extensions.filters.http.fault.v3.HTTPFault", abort={"grpc_status": 14, "percentage": {"numerator": 10}}
)
BUCKET: Json = {"max_tokens": 3, "tokens_per_fill": 2, "fill_interval": "2s"}
RATE_LIMITS: Json = {
    "rate_limits": [
        {
            "stage": 1,
            "actions": [
                {"generic_key": {"descriptor_key": "k", "descriptor_value": "v"}},
                {"request_headers": {"header_name": "x-u", "descriptor_key": "u", "skip_if_absent": True}},
                {"query_parameters": {"query_parameter_name": "q", "descriptor_key": "q", "skip_if_absent": True}},
                {"remote_address": {}},
                {"destination_cluster": {}},
                {
                    "header_value_match": {
                        "descriptor_key": "m",
                        "descriptor_value": "v",
                        "expect_match": False,
                        "headers": [{"name": "x-f", "string_match": {"exact": "1"}}],
                    }
                },
                {
                    "query_parameter_value_match": {
                        "descriptor_key": "m",
                        "descriptor_value": "v",
                        "expect_match": False,
                        "query_parameters": [{"name": "q", "string_match": {"exact": "1"}}],
                    }
                },
            ],
        }
    ]
}
LOCAL_RATE_LIMIT: Json = typed(
    "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    stat_prefix="s",
    status={"code": "ServiceUnavailable"},
    token_bucket=BUCKET,
    filter_enabled={"default_value": HALF},
    filter_enforced={"default_value": HALF},
    request_headers_to_add_when_not_enforced=[HEADER],
    response_headers_to_add=[HEADER],
    descriptors=[{"entries": [{"key": "k", "value": "v"}], "token_bucket": BUCKET}],
    stage=1,
    enable_x_ratelimit_headers="DRAFT_VERSION_03",
    vh_rate_limits="INCLUDE",
    always_consume_default_token_bucket=False,
    rate_limited_as_resource_exhausted=True,
    max_dynamic_descriptors=7,
    **RATE_LIMITS,
)
HEADER_TO_METADATA: Json = typed(
    "extensions.filters.http.header_to_metadata.v3.Config",
    request_rules=[
        {
            "header": "x-version",
            "on_header_present": {
                "metadata_namespace": "envoy.lb",
                "key": "version",
                "regex_value_rewrite": {"pattern": {"regex": "^v-"}, "substitution": "v"},
                "type": "NUMBER",
            },
            "on_header_missing": {"metadata_namespace": "envoy.lb", "key": "version", "value": "1"},
            "remove": True,
        },
        {"cookie": "c", "on_header_present": {"key": "k"}},
    ],
)
SESSION: Json = typed(
    "extensions.filters.http.stateful_session.v3.StatefulSession",
    session_state={
        "name": "cookie",
        "typed_config": typed(
            "extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
            cookie={"name": "s", "ttl": "5s", "path": "/", "attributes": [{"name": "SameSite", "value": "Lax"}]},
        ),
    },
    strict=True,
)
BUFFER: Json = {"max_request_bytes": 100}
_BUFFER: Json = typed("extensions.filters.http.buffer.v3.Buffer", **BUFFER)
FILTER_MUTATIONS: Json = {
    "request_mutations": [
        {"remove": "x-m"},
        {"append": HEADER},
        {"remove_on_match": {"key_matcher": {"prefix": "x-rm"}}},
    ],
    "query_parameter_mutations": [
        {"remove": "q"},
        {"append": {"record": {"key": "k", "value": "v"}, "action": "ADD_IF_ABSENT"}},
    ],
    "response_mutations": [{"remove": "x-m"}, {"append": HEADER}],
}
PER_ROUTE: Json = {
    "envoy.filters.http.fault": FAULT,
    "mutation": typed("extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute", mutations=FILTER_MUTATIONS),
    "limit": LOCAL_RATE_LIMIT,
    "session": typed(
        "extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
        stateful_session={
            "strict": True,
            "session_state": {
                "name": "header",
                "typed_config": typed("extensions.http.stateful_session.header.v3.HeaderBasedSessionState", name="x-s"),
            },
        },
    ),
    "buffer": typed("extensions.filters.http.buffer.v3.BufferPerRoute", buffer=BUFFER),
}
REWRITE: Json = {"pattern": {"regex": "^/a"}, "substitution": "/b"}
RETRY: Json = {
    "retry_on": "5xx,retriable-status-codes",
    "num_retries": 2,
    "per_try_timeout": "1s",
    "retry_host_predicate": [
        {"name": "envoy.retry_host_predicates.omit_canary_hosts"},
        {
            "name": "previous",
            "typed_config": typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
        },
        {
            "name": "omit",
            "typed_config": typed(
                "extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig",
                metadata_match={"filter_metadata": {"envoy.lb": {"canary": True}}},
            ),
        },
    ],
    "host_selection_retry_max_attempts": "3",
    "retry_priority": {
        "name": "previous",
        "typed_config": typed(
            "extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", update_frequency=2
        ),
    },
    "per_try_idle_timeout": "4s",
    "retriable_status_codes": [409],
    "retriable_headers": [{"name": "x-r"}],
    "retriable_request_headers": [{"name": "x-q"}],
    "retry_back_off": {"base_interval": "0.1s", "max_interval": "2s"},
    "rate_limited_retry_back_off": {
        "reset_headers": [{"name": "retry-after", "format": "UNIX_TIMESTAMP"}],
        "max_interval": "9s",
    },
}
_HEADERS: list[Json] = [
    {"name": "a", "exact_match": "x", "invert_match": True},
    {"name": "b", "safe_regex_match": {"regex": "x.*"}},
    {"name": "c", "range_match": {"start": "1", "end": "9"}, "treat_missing_header_as_empty": True},
    {"name": "d", "present_match": True},
    {"name": "e", "prefix_match": "x"},
    {"name": "f", "suffix_match": "x"},
    {"name": "g", "contains_match": "x"},
    {"name": "h", "string_match": {"exact": "x", "ignore_case": True}},
    {"name": "i", "string_match": {"prefix": "x"}},
    {"name": "j", "string_match": {"suffix": "x"}},
    {"name": "k", "string_match": {"contains": "x"}},
    {"name": "l", "string_match": {"safe_regex": {"regex": "x+"}}},
]
_MATCHES: list[Json] = [
    {
        "prefix": "/a",
        "case_sensitive": False,
        "headers": _HEADERS,
        "query_parameters": [{"name": "q", "string_match": {"exact": "1"}}, {"name": "r", "present_match": True}],
        "grpc": {},
        "runtime_fraction": {"default_value": HALF, "runtime_key": "k"},
    },
    {"path": "/b", "tls_context": {"presented": False, "validated": False}},
    {"safe_regex": {"regex": "/c/[0-9]+"}},
    {"path_separated_prefix": "/d"},
]
_ACTIONS: list[Json] = [
    {
        "weighted_clusters": {
            "clusters": [
                {
                    "name": "c",
                    "weight": 1,
                    "host_rewrite_literal": "h",
                    "metadata_match": {"filter_metadata": {"envoy.lb": {"version": "v2"}}},
                    "typed_per_filter_config": PER_ROUTE,
                    **MUTATIONS,
                },
                {"cluster_header": "x-cluster", "weight": 2},
            ],
            "use_hash_policy": True,
        },
        "timeout": "3s",
        "max_stream_duration": {
            "max_stream_duration": "4s",
            "grpc_timeout_header_max": "4s",
            "grpc_timeout_header_offset": "1s",
        },
        "retry_policy": RETRY,
        "hash_policy": [
            {"header": {"header_name": "x-h", "regex_rewrite": REWRITE}, "terminal": True},
            {
                "cookie": {
                    "name": "c",
                    "path": "/",
                    "ttl": "5s",
                    "attributes": [{"name": "SameSite", "value": "Lax"}],
                }
            },
            {"query_parameter": {"name": "q"}},
        ],
        "internal_redirect_policy": {
            "max_internal_redirects": 3,
            "redirect_response_codes": [302, 303],
            "predicates": [
                {
                    "name": "allowed",
                    "typed_config": typed(
                        "extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig",
                        allowed_route_names=["r1"],
                    ),
                },
                {
                    "name": "previous",
                    "typed_config": typed("extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig"),
                },
                {
                    "name": "safe",
                    "typed_config": typed("extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig"),
                },
            ],
            "allow_cross_scheme_redirect": True,
            "response_headers_to_copy": ["x-copied"],
        },
        "request_mirror_policies": [
            {
                "cluster": "c",
                "runtime_fraction": {"default_value": HALF},
                "trace_sampled": True,
                "disable_shadow_host_suffix_append": True,
                "request_headers_mutations": [{"remove": "x-m"}, {"append": HEADER}],
            },
            {"cluster_header": "x-mirror", "host_rewrite_literal": "shadows"},
        ],
        "prefix_rewrite": "/z",
        "host_rewrite_literal": "elsewhere",
        "cluster_not_found_response_code": "NOT_FOUND",
    },
    {
        "cluster": "c",
        "regex_rewrite": REWRITE,
        "host_rewrite_header": "x-host",
        "max_grpc_timeout": "5s",
        "grpc_timeout_offset": "1s",
        "hedge_policy": {"hedge_on_per_try_timeout": True},
        "priority": "HIGH",
        "idle_timeout": "6s",
        "metadata_match": {"filter_metadata": {"envoy.lb": {"version": "v1"}}},
    },
    {"cluster": "c", "path_rewrite": "/p", "auto_host_rewrite": True, "append_x_forwarded_host": True},
    {"cluster_header": "x-cluster", "host_rewrite_path_regex": REWRITE},
]
_OTHERS: list[Json] = [
    {
        "match": {
            "path_match_policy": {
                "name": "template",
                "typed_config": typed(
                    "extensions.path.match.uri_template.v3.UriTemplateMatchConfig", path_template="/q/{one}/{two=**}"
                ),
            }
        },
        "route": {
            "cluster": "c",
            "path_rewrite_policy": {
                "name": "template",
                "typed_config": typed(
                    "extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig",
                    path_template_rewrite="/{two}/{one}",
                ),
            },
        },
    },
    {
        "match": {"prefix": "/r"},
        "redirect": {
            "https_redirect": True,
            "host_redirect": "h",
            "port_redirect": 444,
            "path_redirect": "/x",
            "response_code": "FOUND",
            "strip_query": True,
        },
    },
    {"match": {"prefix": "/s"}, "redirect": {"scheme_redirect": "https", "prefix_rewrite": "/y"}},
    {"match": {"prefix": "/t"}, "redirect": {"regex_rewrite": REWRITE}},
    {"match": {"prefix": "/u"}, "direct_response": {"status": 418, "body": {"inline_string": "teapot"}}},
    {"match": {"prefix": "/v"}, "direct_response": {"status": 418, "body": {"inline_bytes": "dGVh"}}},
    {"match": {"prefix": "/v1"}, "direct_response": {"status": 418, "body": {"filename": "/dev/null"}}},
    {"match": {"prefix": "/v2"}, "direct_response": {"status": 418, "body": {"environment_variable": "HOME"}}},
    *(
        {"match": {"prefix": f"/v3{i}"}, "direct_response": {"status": 418, "body_format": body}}
        for i, body in enumerate(
            [
                {"text_format": "%REQ(x-a)%", "omit_empty_values": True},
                {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}, "content_type": "text/x"},
                {"json_format": {"code": "%RESPONSE_CODE%", "list": [1, True]}},
            ]
        )
    ),
    {
        "match": {"prefix": "/w"},
        "route": {"cluster": "c", "include_vh_rate_limits": True, **RATE_LIMITS},
        "typed_per_filter_config": {
            "f": FAULT_BY_HEADER,
            "b": typed("extensions.filters.http.buffer.v3.BufferPerRoute", disabled=True),
            "s": typed("extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute", disabled=True),
        },
    },
    {
        "match": {"prefix": "/x"},
        "route": {"cluster": "c"},
        "typed_per_filter_config": {
            "f": typed("config.route.v3.FilterConfig", config=FAULT_GRPC),
            "h": typed("config.route.v3.FilterConfig", config=PER_ROUTE["mutation"]),
            "g": typed("config.route.v3.FilterConfig", config=typed("extensions.filters.http.cors.v3.CorsPolicy")),
        },
    },
]


def _input(kind: str = "type.matcher.v3.HttpRequestHeaderMatchInput", **fields: object) -> Json:
    return {"name": "input", "typed_config": typed(kind, **fields)}


def _custom(kind: str, **fields: object) -> Json:
    return {"name": "custom", "typed_config": typed(f"extensions.matching.input_matchers.{kind}", **fields)}


def _leads_to(name: str) -> Json:
    route = {"name": name, "match": {"prefix": "/"}, "route": {"cluster": "c"}}
    return {"action": {"name": "route", "typed_config": typed("config.route.v3.Route", **route)}}


def _when(**predicate: object) -> Json:
    return {"single_predicate": {"input": _input(header_name="x-m"), **predicate}}


_RANGE: Json = {"address_prefix": "10.0.0.0", "prefix_len": 8}
_IN_RANGE: Json = _custom("ip.v3.Ip", cidr_ranges=[_RANGE], stat_prefix="s")
_LISTED: Json = {"action": {"name": "l", "typed_config": typed("config.route.v3.RouteList", routes=[_OTHERS[0]])}}
_XDS = "type.googleapis.com/xds.type.matcher.v3."
_TREES: list[Json] = [
    {"input": _input(header_name="x-t"), "exact_match_map": {"map": {"a": _leads_to("a"), "b": _LISTED}}},
    {
        "input": _input("extensions.matching.common_inputs.environment_variable.v3.Config", name="HOME"),
        "prefix_match_map": {"map": {"a": _leads_to("b")}},
    },
    {
        "input": _input(header_name="x-ip"),
        "custom_match": {
            "name": "ip",
            "typed_config": {
                "@type": _XDS + "IPMatcher",
                "range_matchers": [{"ranges": [_RANGE], "on_match": _leads_to("ip")}],
            },
        },
    },
    {
        "input": _input("extensions.matching.common_inputs.network.v3.FilterStateInput", key="k"),
        "custom_match": {
            "name": "names",
            "typed_config": {
                "@type": _XDS + "ServerNameMatcher",
                "domain_matchers": [{"domains": ["*.a"], "on_match": _leads_to("name")}],
            },
        },
    },
]
_MATCHED: Json = {
    "name": "tree",
    "domains": ["tree.example"],
    "matcher": {
        "matcher_list": {
            "matchers": [
                {
                    "predicate": {
                        "and_matcher": {
                            "predicate": [
                                {"not_matcher": _when(value_match={"exact": "A", "ignore_case": True})},
                                {
                                    "or_matcher": {
                                        "predicate": [
                                            _when(custom_match=_IN_RANGE),
                                            _when(value_match={"safe_regex": {"regex": "a+", "google_re2": {}}}),
                                            _when(
                                                custom_match=_custom(
                                                    "consistent_hashing.v3.ConsistentHashing",
                                                    threshold=2,
                                                    modulo=4,
                                                    seed=3,
                                                )
                                            ),
                                            _when(
                                                custom_match=_custom(
                                                    "runtime_fraction.v3.RuntimeFraction",
                                                    runtime_fraction={"default_value": HALF},
                                                    seed=3,
                                                )
                                            ),
                                        ]
                                    }
                                },
                            ]
                        }
                    },
                    "on_match": {"matcher": {"matcher_tree": tree, "on_no_match": _leads_to("otherwise")}},
                }
                for tree in _TREES
            ]
        },
        "on_no_match": _leads_to("no"),
    },
}
ROUTES: Json = {
    "name": "rich",
    "virtual_hosts": [
        {
            "name": "v",
            "domains": ["a.example", "*.a.example"],
            "routes": [
                {
                    "name": f"r{i}",
                    "match": match,
                    "route": action,
                    "metadata": {"filter_metadata": {"istio": {"config": "here"}}},
                    "typed_per_filter_config": PER_ROUTE,
                    **MUTATIONS,
                }
                for i, (match, action) in enumerate(zip(_MATCHES, _ACTIONS, strict=True))
            ]
            + _OTHERS,
            "include_request_attempt_count": True,
            "include_attempt_count_in_response": True,
            "include_is_timeout_retry_header": True,
            "require_tls": "EXTERNAL_ONLY",
            **RATE_LIMITS,
            "request_mirror_policies": [{"cluster": "c2"}],
            "retry_policy": {"retry_on": "5xx"},
            "typed_per_filter_config": PER_ROUTE,
            **MUTATIONS,
        },
        _MATCHED,
    ],
    "ignore_port_in_host_matching": True,
    "request_mirror_policies": [{"cluster": "c3"}],
    "max_direct_response_body_size_bytes": 100,
    "most_specific_header_mutations_wins": True,
    "typed_per_filter_config": PER_ROUTE,
    **MUTATIONS,
    "request_headers_to_add": [{"header": {"key": "x-table", "value": "1"}}],  # so that the order of levels shows
}

_HTTP_OPTIONS = "extensions.upstreams.http.v3.HttpProtocolOptions"
_LB = "extensions.load_balancing_policies."
_STATIC: Json = {"connect_timeout": "1s", "type": "STATIC"}


def _tls(common: Json, **fields: object) -> Json:
    kind = "extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    return {"name": "tls", "typed_config": typed(kind, common_tls_context=common, **fields)}


def _sds(name: str, source: Json | None) -> Json:
    return {"name": name, **({} if source is None else {"sds_config": source})}


_PATH: Json = {"path_config_source": {"path": "/sds.yaml", "watched_directory": {"path": "/watched"}}}
_AGENT: Json = {
    "api_config_source": {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
    }
}
_CERTIFICATE: Json = {
    "certificate_chain": {"filename": "/own.pem"},
    "private_key": {"inline_string": "k"},
    "password": {"inline_string": "p"},
}
_TLS: Json = _tls(
    {
        "validation_context": {
            "trusted_ca": {"filename": "/ca.pem"},
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "a.example"}}],
            "verify_certificate_hash": ["00" * 32],
        },
        "tls_certificates": [_CERTIFICATE],
        "tls_params": {"tls_maximum_protocol_version": "TLSv1_3", "ecdh_curves": ["P-256"]},
        "alpn_protocols": ["h2"],
    },
    sni="s",
)
_TLS_OF_SECRETS: list[Json] = [
    _tls(
        {
            "tls_certificate_sds_secret_configs": [_sds("own", ADS)],
            "combined_validation_context": {
                "default_validation_context": {"match_subject_alt_names": [{"exact": "spiffe://a"}]},
                "validation_context_sds_secret_config": _sds("ca", _PATH),
            },
        }
    ),
    _tls({"validation_context_sds_secret_config": _sds("ca", _AGENT)}),
    _tls({"validation_context_sds_secret_config": _sds("ca", None)}),
    _tls(
        {
            "tls_certificate_provider_instance": {"instance_name": "i", "certificate_name": "c"},
            "validation_context": {"ca_certificate_provider_instance": {"instance_name": "i"}},
        }
    ),
    _tls({"validation_context": {"system_root_certs": {}}}),
    _tls(
        {
            "tls_certificate_certificate_provider_instance": {"instance_name": "i", "certificate_name": "c"},
            "validation_context_certificate_provider_instance": {"instance_name": "i", "certificate_name": "c"},
        }
    ),
    _tls(
        {
            "combined_validation_context": {
                "validation_context_certificate_provider_instance": {"instance_name": "i", "certificate_name": "c"}
            }
        }
    ),
]
SECRETS: list[Json] = [
    {"name": "own", "tls_certificate": _CERTIFICATE},
    {"name": "ca", "validation_context": {"trusted_ca": {"filename": "/ca.pem"}}},
]
_RAW: Json = {"name": "raw", "typed_config": typed("extensions.transport_sockets.raw_buffer.v3.RawBuffer")}


def _options(**fields: object) -> Json:
    return {"typed_extension_protocol_options": {f"envoy.{_HTTP_OPTIONS}": typed(_HTTP_OPTIONS, **fields)}}


def _policies(*policies: Json) -> Json:
    return {"policies": [{"typed_extension_config": {"name": "p", "typed_config": policy}} for policy in policies]}


ASSIGNMENT: Json = {
    "cluster_name": "rich",
    "endpoints": [
        {
            "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
            "lb_endpoints": [
                {
                    "endpoint": {
                        "address": ADDRESS,
                        "hostname": "h",
                        "health_check_config": {
                            "port_value": 81,
                            "hostname": "checked",
                            "address": ADDRESS,
                            "disable_active_health_check": True,
                        },
                    },
                    "health_status": "DEGRADED",
                    "metadata": {"filter_metadata": {"istio": {"workload": "n;ns;app;v;c"}}},
                    "load_balancing_weight": 3,
                },
                {"endpoint": {"address": {"pipe": {"path": "/run/socket", "mode": 438}}}},
            ],
            "load_balancing_weight": 4,
        },
        {"priority": 1, "lb_endpoints": [{"endpoint": {"address": ADDRESS}}], "load_balancing_weight": 1},
    ],
    "policy": {
        "overprovisioning_factor": 150,
        "drop_overloads": [{"category": "d", "drop_percentage": HALF}],
        "weighted_priority_health": True,
    },
}
_SLOW_START: Json = {
    "slow_start_window": "20s",
    "aggression": {"default_value": 1.5, "runtime_key": "a"},
    "min_weight_percent": {"value": 15.0},
}
_ZONE_AWARE: Json = {
    "routing_enabled": {"value": 90.0},
    "min_cluster_size": "3",
    "fail_traffic_on_panic": True,
}
_LOCAL_ZONE: Json = {
    "zone_aware_lb_config": {
        **_ZONE_AWARE,
        "force_locality_direct_routing": True,
        "force_local_zone": {"min_size": 2},
        "locality_basis": "HEALTHY_HOSTS_WEIGHT",
    }
}
_BY_LOCALITY: Json = {"locality_weighted_lb_config": {}}
_SUBSETS: Json = {
    "fallback_policy": "DEFAULT_SUBSET",
    "default_subset": {"version": "v1"},
    "subset_selectors": [
        {"keys": ["stage", "version"], "fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": ["stage"]},
        {"keys": ["stage"], "single_host_per_subset": True},
    ],
    "locality_weight_aware": True,
    "scale_locality_weight": True,
    "panic_mode_any": True,
    "list_as_any": True,
    "metadata_fallback_policy": "FALLBACK_LIST",
}
_CONSISTENT: Json = {"use_hostname_for_hashing": True, "hash_balance_factor": 120}
_LOOKED_UP: Json = {
    "load_assignment": {
        "cluster_name": "l",
        "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "a.test", "port_value": 80}}}}]}
        ],
    },
}
_CHECKED: Json = {
    "timeout": "1s",
    "interval": "2s",
    "initial_jitter": "0.1s",
    "interval_jitter": "0.2s",
    "interval_jitter_percent": 3,
    "unhealthy_threshold": 2,
    "healthy_threshold": 3,
    "alt_port": 81,
    "reuse_connection": False,
    "no_traffic_interval": "30s",
    "no_traffic_healthy_interval": "31s",
    "unhealthy_interval": "4s",
    "unhealthy_edge_interval": "5s",
    "healthy_edge_interval": "6s",
    "event_log_path": "/dev/null",
    "always_log_health_check_failures": True,
    "always_log_health_check_success": True,
    "tls_options": {"alpn_protocols": ["a"]},
    "transport_socket_match_criteria": {"a": "b"},
}
CLUSTERS: list[Json] = [
    {
        "type": "EDS",
        "eds_cluster_config": {"eds_config": ADS, "service_name": "s"},
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "least_request_lb_config": {
            "choice_count": 3,
            "active_request_bias": {"default_value": 2.0, "runtime_key": "b"},
            "slow_start_config": _SLOW_START,
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 1,
                    "max_pending_requests": 2,
                    "max_requests": 3,
                    "max_retries": 4,
                    "retry_budget": {"budget_percent": {"value": 25.0}, "min_retry_concurrency": 5},
                },
                {"priority": "HIGH", "max_requests": 9},
            ],
            "per_host_thresholds": [{"max_connections": 7}],
        },
        "outlier_detection": {
            "consecutive_5xx": 6,
            "base_ejection_time": "31s",
            "max_ejection_time": "301s",
            "interval": "11s",
        },
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 20.0},
            "zone_aware_lb_config": _ZONE_AWARE,
            "override_host_status": {"statuses": ["HEALTHY", "DRAINING"]},
            "ignore_new_hosts_until_first_hc": True,
        },
        "lb_subset_config": _SUBSETS,
        "common_http_protocol_options": {"idle_timeout": "3600s"},
        "transport_socket": _TLS,
        "transport_socket_matches": [{"name": "m", "match": {"a": "b"}, "transport_socket": _RAW}],
        "metadata": {"filter_metadata": {"istio": {"services": [{"host": "h", "name": "n", "namespace": "x"}]}}},
        "filters": [{"name": "istio.metadata_exchange"}],
        "http2_protocol_options": {},
    },
    {**_STATIC, "load_assignment": ASSIGNMENT, "transport_socket": _RAW},
    *({**_STATIC, "transport_socket": socket} for socket in _TLS_OF_SECRETS),
    {**_STATIC, "upstream_http_protocol_options": {"auto_sni": True}},
    {
        **_STATIC,
        **_options(
            explicit_http_config={"http_protocol_options": {}},
            upstream_http_protocol_options={"auto_sni": True, "override_auto_sni_header": "x-sni"},
        ),
    },
    {**_STATIC, "type": "EDS", "eds_cluster_config": {"eds_config": _PATH}},
    {**_STATIC, "type": "EDS", "eds_cluster_config": {"eds_config": {"self": {"transport_api_version": "V3"}}}},
    {
        **_STATIC,
        "lb_policy": "RING_HASH",
        "ring_hash_lb_config": {"minimum_ring_size": "10", "maximum_ring_size": "20", "hash_function": "MURMUR_HASH_2"},
        "common_lb_config": {"consistent_hashing_lb_config": _CONSISTENT},
    },
    {**_STATIC, "lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": "101"}, "common_lb_config": _BY_LOCALITY},
    {**_STATIC, "round_robin_lb_config": {"slow_start_config": _SLOW_START}},
    {**_STATIC, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"},
    {
        **_STATIC,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {
            "use_http_header": True,
            "http_header_name": "x-to",
            "upstream_port_override": 8080,
            "metadata_key": {"key": "k", "path": [{"key": "p"}]},
        },
    },
    {
        **_LOOKED_UP,
        "type": "STRICT_DNS",
        "dns_refresh_rate": "3s",
        "dns_jitter": "1s",
        "dns_failure_refresh_rate": {"base_interval": "2s", "max_interval": "9s"},
        "dns_lookup_family": "V4_ONLY",
        "respect_dns_ttl": True,
        "wait_for_warm_on_init": False,
    },
    {
        **_LOOKED_UP,
        "cluster_type": {
            "name": "envoy.cluster.dns",
            "typed_config": typed(
                "extensions.clusters.dns.v3.DnsCluster",
                dns_refresh_rate="3s",
                dns_jitter="1s",
                dns_failure_refresh_rate={"base_interval": "2s", "max_interval": "9s"},
                dns_lookup_family="V4_ONLY",
                respect_dns_ttl=True,
                all_addresses_in_single_endpoint=True,
                typed_dns_resolver_config={"name": "n"},
            ),
        },
    },
    {
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": typed("extensions.clusters.aggregate.v3.ClusterConfig", clusters=["a", "b"]),
        },
    },
    {"cluster_type": {"name": "envoy.cluster.static"}},
    {
        **_STATIC,
        "load_assignment": ASSIGNMENT,
        "ignore_health_on_host_removal": True,
        "common_lb_config": {"ignore_new_hosts_until_first_hc": True},
        "outlier_detection": {"successful_active_health_check_uneject_host": False},
        "health_checks": [
            {
                **_CHECKED,
                "http_health_check": {
                    "host": "h",
                    "path": "/p",
                    "method": "POST",
                    "send": {"text": "00"},
                    "receive": [{"binary": "AQ=="}],
                    "response_buffer_size": "2048",
                    "request_headers_to_add": [HEADER],
                    "request_headers_to_remove": ["x-r"],
                    "expected_statuses": [{"start": "200", "end": "300"}],
                    "retriable_statuses": [{"start": "500", "end": "600"}],
                    "codec_client_type": "HTTP2",
                    "service_name_matcher": {"prefix": "s"},
                },
            }
        ],
    },
    {
        **_STATIC,
        "health_checks": [{**_CHECKED, "tcp_health_check": {"send": {"text": "00"}, "receive": [{"text": "01"}]}}],
    },
    {
        **_STATIC,
        "http2_protocol_options": {},
        "health_checks": [
            {
                **_CHECKED,
                "grpc_health_check": {"service_name": "s", "authority": "a", "initial_metadata": [HEADER]},
            }
        ],
    },
    {
        **_STATIC,
        "health_checks": [
            {
                **_CHECKED,
                "custom_health_check": {
                    "name": "n",
                    "typed_config": typed("extensions.health_checkers.redis.v3.Redis"),
                },
            }
        ],
    },
    {
        **_STATIC,
        **_options(
            explicit_http_config={"http2_protocol_options": {}}, common_http_protocol_options={"idle_timeout": "3600s"}
        ),
    },
    {**_STATIC, **_options(explicit_http_config={"http_protocol_options": {}})},
    {
        **_STATIC,
        **_options(use_downstream_protocol_config={"http_protocol_options": {}, "http2_protocol_options": {}}),
    },
    *(
        {**_STATIC, "load_balancing_policy": _policies(policy)}
        for policy in (
            typed(_LB + "round_robin.v3.RoundRobin", slow_start_config=_SLOW_START, locality_lb_config=_BY_LOCALITY),
            typed(_LB + "random.v3.Random", locality_lb_config=_LOCAL_ZONE),
            typed(
                _LB + "least_request.v3.LeastRequest",
                choice_count=4,
                active_request_bias={"default_value": 2.0, "runtime_key": "b"},
                slow_start_config=_SLOW_START,
                locality_lb_config=_BY_LOCALITY,
            ),
            typed(_LB + "least_request.v3.LeastRequest", selection_method="FULL_SCAN"),
            typed(_LB + "least_request.v3.LeastRequest", enable_full_scan=True),
            typed(
                _LB + "ring_hash.v3.RingHash",
                use_hostname_for_hashing=True,
                hash_balance_factor=130,
                locality_weighted_lb_config={},
            ),
            typed(_LB + "pick_first.v3.PickFirst", shuffle_address_list=True),
            typed(
                _LB + "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
                blackout_period="11s",
                weight_expiration_period="170s",
                weight_update_period="2s",
                error_utilization_penalty=1.5,
                metric_names_for_computing_utilization=["named_metrics.q"],
                slow_start_config=_SLOW_START,
                enable_oob_load_report=True,
                oob_reporting_period="9s",
            ),
            typed(
                _LB + "override_host.v3.OverrideHost",
                override_host_sources=[{"header": "x-host"}, {"metadata": {"key": "k", "path": [{"key": "p"}]}}],
                fallback_policy=_policies(typed(_LB + "random.v3.Random")),
            ),
            typed(
                _LB + "subset.v3.Subset",
                **_SUBSETS,
                allow_redundant_keys=True,
                subset_lb_policy=_policies(typed(_LB + "random.v3.Random")),
            ),
            typed(
                _LB + "ring_hash.v3.RingHash",
                hash_function="MURMUR_HASH_2",
                minimum_ring_size="10",
                maximum_ring_size="20",
                consistent_hashing_lb_config=_CONSISTENT,
            ),
            typed(
                _LB + "maglev.v3.Maglev",
                table_size="101",
                consistent_hashing_lb_config={**_CONSISTENT, "hash_policy": [{"header": {"header_name": "x-h"}}]},
                locality_weighted_lb_config={},
            ),
            typed(
                _LB + "wrr_locality.v3.WrrLocality",
                endpoint_picking_policy=_policies(typed(_LB + "random.v3.Random")),
            ),
        )
    ),
]

_HCM = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER: Json = {"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router")}
_RDS: Json = {"config_source": ADS, "route_config_name": "r"}


def _tcp(**fields: object) -> Json:
    return {"name": "tcp", "typed_config": typed("extensions.filters.network.tcp_proxy.v3.TcpProxy", **fields)}


def _http(**fields: object) -> Json:
    return {"name": "http", "typed_config": typed(_HCM, **fields)}


LISTENERS: list[Json] = [
    {
        "address": ADDRESS,
        "additional_addresses": [{"address": {"socket_address": {"address": "127.0.0.2", "port_value": 80}}}],
        "listener_filters": [
            {
                "name": "envoy.filters.listener.http_inspector",
                "typed_config": typed("extensions.filters.listener.http_inspector.v3.HttpInspector"),
            },
            {
                "name": "envoy.filters.listener.tls_inspector",
                "typed_config": typed("extensions.filters.listener.tls_inspector.v3.TlsInspector"),
            },
        ],
        "traffic_direction": "OUTBOUND",
        "filter_chains": [
            {
                "name": "chain",
                "filter_chain_match": {
                    "destination_port": 80,
                    "prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}],
                    "server_names": ["s"],
                    "transport_protocol": "tls",
                    "application_protocols": ["h2"],
                },
                "filters": [
                    _http(
                        rds=_RDS,
                        http_filters=[
                            {"name": "fault", "typed_config": FAULT},
                            {"name": "limit", "typed_config": LOCAL_RATE_LIMIT},
                            {"name": "session", "typed_config": SESSION},
                            {"name": "metadata", "typed_config": HEADER_TO_METADATA},
                            {
                                "name": "buffer",
                                "typed_config": _BUFFER,
                            },
                            {
                                "name": "mutation",
                                "typed_config": typed(
                                    "extensions.filters.http.header_mutation.v3.HeaderMutation",
                                    mutations=FILTER_MUTATIONS,
                                    most_specific_header_mutations_wins=True,
                                ),
                            },
                            {"name": "istio.stats"},
                            _ROUTER,
                        ],
                    )
                ],
            },
            {
                "name": "split",
                "filters": [
                    {"name": "istio.stats"},
                    _tcp(weighted_clusters={"clusters": [{"name": "a", "weight": 2}, {"name": "b", "weight": 1}]}),
                ],
            },
        ],
        "default_filter_chain": {"filters": [_tcp(cluster="c")]},
    },
    {"api_listener": {"api_listener": typed(_HCM, route_config=ROUTES, http_filters=[_ROUTER])}},
]


def samples() -> list[tuple[str, Any]]:
    """Return every sample: type URL and message."""
    named = [
        (LISTENER, [{"name": f"listener-{i}", **listener} for i, listener in enumerate(LISTENERS)]),
        (ROUTE, [ROUTES]),
        (CLUSTER, [{"name": f"cluster-{i}", **cluster} for i, cluster in enumerate(CLUSTERS)]),
        (ENDPOINT, [ASSIGNMENT]),
        (SECRET, SECRETS),
    ]
    found = []
    for url, resources in named:
        import_types(resources)
        found += [(url, json_format.ParseDict(resource, RESOURCE_TYPES[url].message())) for resource in resources]
    return found
