"""Which routes, trees and filters are taken and which refused: each case was given to Envoy 1.40."""

from __future__ import annotations

import pytest
from google.protobuf import json_format

from meshlib.xds.decode_rds import route_configuration
from meshlib.xds.documents import import_types
from meshlib.xds.protos import route_pb2
from meshlib.xds.scope import Scope
from meshlib.xds.type_urls import ROUTE

T = "type.googleapis.com/"
LIMIT = T + "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
BUFFER = T + "envoy.extensions.filters.http.buffer.v3."
COPY = "response_headers_to_copy"
BUCKET = {"max_tokens": 1, "fill_interval": "1s"}
ENTRY = [{"key": "a", "value": "b"}]
PREFIX = {"prefix": "/"}


def faults(**host):
    host = {"name": "v", "domains": ["*"], **host}
    table = {"name": "table", "virtual_hosts": [host]}
    import_types(table)
    scope = Scope("table", ROUTE)
    route_configuration(scope, json_format.ParseDict(table, route_pb2.RouteConfiguration()))
    return [str(fault) for fault in scope.faults]


def limited(**fields):
    made = {"@type": LIMIT, "stat_prefix": "s", "token_bucket": BUCKET, **fields}
    made = {key: value for key, value in made.items() if value is not None}
    return {"match": PREFIX, "route": {"cluster": "a"}, "typed_per_filter_config": {"limit": made}}


def buffered(**fields):
    made = {"@type": BUFFER + "BufferPerRoute", **fields}
    return {"match": PREFIX, "route": {"cluster": "a"}, "typed_per_filter_config": {"buffer": made}}


def to_a(**action):
    return {"match": PREFIX, "route": {"cluster": "a", **action}}


def by_actions(*actions, **fields):
    return to_a(rate_limits=[{"actions": list(actions), **fields}])


def descriptors(*found):
    return limited(descriptors=list(found))


def answered(**fields):
    return {"match": PREFIX, "direct_response": {"status": 200, **fields}}


TAKEN = {
    "limit": limited(),
    "no tokens": limited(token_bucket={**BUCKET, "max_tokens": 0}),
    "status below 400": limited(status={"code": "OK"}),
    "descriptor": descriptors({"entries": ENTRY, "token_bucket": BUCKET}),
    "remote address": by_actions({"remote_address": {}}),
    "masked address": by_actions({"masked_remote_address": {}}),
    "mirror": to_a(request_mirror_policies=[{"cluster": "m"}]),
    "optional plugin in place": {"match": PREFIX, "route": {"inline_cluster_specifier_plugin": {"is_optional": True}}},
    "empty body": answered(body={"inline_string": ""}),
    "empty format": answered(body_format={"text_format": ""}),
    "empty JSON": answered(body_format={"json_format": {}}),
    "plaintext": {"match": {**PREFIX, "tls_context": {"presented": False}}, "route": {"cluster": "a"}},
}
REFUSED = {
    "no bucket": (limited(token_bucket=None), "token_bucket"),
    "no stat_prefix": (limited(stat_prefix=None), "stat_prefix"),
    "too fast": (limited(token_bucket={"max_tokens": 1, "fill_interval": "0.01s"}), "fill_interval"),
    "no interval": (limited(token_bucket={"max_tokens": 1}), "fill_interval"),
    "no tokens a fill": (limited(token_bucket={**BUCKET, "tokens_per_fill": 0}), "tokens_per_fill"),
    "stage": (limited(stage=11), "stage"),
    "no share": (limited(filter_enabled={}), "filter_enabled.default_value"),
    "no entries": (descriptors({"entries": [], "token_bucket": BUCKET}), "entries"),
    "no key": (descriptors({"entries": [{"key": "", "value": "b"}], "token_bucket": BUCKET}), "key"),
    "descriptor without bucket": (descriptors({"entries": ENTRY}), "token_bucket"),
    "same descriptor twice": (descriptors(*[{"entries": ENTRY, "token_bucket": BUCKET}] * 2), "descriptors"),
    "no actions": (by_actions(), "actions"),
    "no action": (by_actions({}), "action_specifier"),
    "generic key": (by_actions({"generic_key": {}}), "descriptor_value"),
    "request header": (by_actions({"request_headers": {"header_name": "x"}}), "descriptor_key"),
    "header match": (by_actions({"header_value_match": {"descriptor_value": "x"}}), "headers"),
    "stage of a rule": (by_actions({"remote_address": {}}, stage=11), "stage"),
    "query parameter": (by_actions({"query_parameters": {"query_parameter_name": "x"}}), "descriptor_key"),
    "buffer, nothing": (buffered(), "override"),
    "buffer, not disabled": (buffered(disabled=False), "disabled"),
    "buffer of nothing": (buffered(buffer={"max_request_bytes": 0}), "max_request_bytes"),
    "buffer without a size": (buffered(buffer={}), "max_request_bytes"),
    "mirror to nowhere": (to_a(request_mirror_policies=[{}]), "cluster"),
    "mirror to two": (to_a(request_mirror_policies=[{"cluster": "a", "cluster_header": "x"}]), "cluster"),
    "mirror without a share": (
        to_a(request_mirror_policies=[{"cluster": "a", "runtime_fraction": {}}]),
        "default_value",
    ),
    "six codes": (
        to_a(internal_redirect_policy={"redirect_response_codes": [300, 301, 302, 303, 307, 308]}),
        "redirect_response_codes",
    ),
    "host copied": (to_a(internal_redirect_policy={COPY: ["host"]}), COPY),
    "path copied": (to_a(internal_redirect_policy={COPY: [":path"]}), COPY),
    "copied twice": (
        to_a(internal_redirect_policy={"response_headers_to_copy": ["a", "a"]}),
        "response_headers_to_copy",
    ),
    "predicate": (to_a(internal_redirect_policy={"predicates": [{"name": "zz"}]}), "predicates"),
    "plugin": ({"match": PREFIX, "route": {"cluster_specifier_plugin": "nope"}}, "cluster_specifier_plugin"),
    "no body": (answered(body={}), "body"),
    "no file": (answered(body={"filename": "/no/such/file"}), "filename"),
    "no variable": (answered(body={"environment_variable": "MESHLIB_NO_SUCH"}), "environment_variable"),
    "no format": (answered(body_format={}), "format"),
    "unknown command": (answered(body_format={"json_format": {"a": "%NOPE%"}}), "a"),
    "cookie attribute": (to_a(hash_policy=[{"cookie": {"name": "a", "attributes": [{"value": "x"}]}}]), "name"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_taken(name):
    assert faults(routes=[TAKEN[name]]) == []


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_field_named(name):
    route, field = REFUSED[name]
    found = faults(routes=[route])
    assert found, name
    assert any(field in fault for fault in found), found


HEADER = {
    "name": "h",
    "typed_config": {"@type": T + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": "x"},
}
QUERY = {
    "name": "q",
    "typed_config": {"@type": T + "envoy.type.matcher.v3.HttpRequestQueryParamMatchInput", "query_param": "q"},
}
LEADS = {
    "action": {
        "name": "r",
        "typed_config": {"@type": T + "envoy.config.route.v3.Route", "match": PREFIX, "route": {"cluster": "a"}},
    }
}


def single(**match):
    return {"single_predicate": {"input": HEADER, **match}}


ONE = single(value_match={"exact": "1"})


def listed(predicate, **fields):
    return {"matcher_list": {"matchers": [{"predicate": predicate, "on_match": LEADS, **fields}]}}


@pytest.mark.parametrize(
    ("matcher", "field"),
    [
        ({}, ""),
        ({"on_no_match": LEADS}, ""),
        ({"on_no_match": {"matcher": {"on_no_match": LEADS}}}, ""),
        (listed({"and_matcher": {"predicate": [ONE, ONE]}}), ""),
        (listed({"or_matcher": {"predicate": [ONE]}}), "or_matcher"),
        (listed(single()), "matcher"),
        (listed(single(value_match={"prefix": ""})), "prefix"),
        (listed(single(value_match={"safe_regex": {"regex": "a"}})), "google_re2"),
        ({"matcher_list": {"matchers": []}}, "matchers"),
        ({"matcher_list": {"matchers": [{"on_match": LEADS}]}}, "predicate"),
        ({"matcher_list": {"matchers": [{"predicate": ONE}]}}, "on_match"),
        ({"matcher_tree": {"input": HEADER}}, "tree_type"),
        ({"matcher_tree": {"input": HEADER, "exact_match_map": {}}}, "map"),
        ({"matcher_tree": {"input": HEADER, "exact_match_map": {"map": {"a": LEADS}}}}, ""),
        ({"matcher_tree": {"input": QUERY, "exact_match_map": {"map": {"a": LEADS}}}}, "input"),
        ({"on_no_match": {**LEADS, "keep_matching": True}}, "keep_matching"),
    ],
)
def test_trees(matcher, field):
    found = faults(matcher=matcher)
    assert bool(found) is bool(field), found
    assert all(field in fault for fault in found)


def test_a_tree_and_routes():
    assert faults(matcher={"on_no_match": LEADS}, routes=[to_a()])
