"""Matcher trees (``VirtualHost.matcher``) and what they read."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import STATS, Fields, fields

_TREE = "xds.type.matcher.v3."
_CUSTOM = "envoy.extensions.matching.input_matchers."
_INPUTS = "envoy.extensions.matching.common_inputs."

FIELDS: Mapping[str, Fields] = {
    _TREE + "Matcher": fields("matcher_list matcher_tree on_no_match"),
    _TREE + "Matcher.MatcherList": fields("matchers"),
    _TREE + "Matcher.MatcherList.FieldMatcher": fields("predicate on_match"),
    _TREE + "Matcher.MatcherList.Predicate": fields("single_predicate or_matcher and_matcher not_matcher"),
    _TREE + "Matcher.MatcherList.Predicate.PredicateList": fields("predicate"),
    _TREE + "Matcher.MatcherList.Predicate.SinglePredicate": fields("input value_match custom_match"),
    _TREE + "Matcher.MatcherTree": fields("input exact_match_map prefix_match_map custom_match"),
    _TREE + "Matcher.MatcherTree.MatchMap": fields("map"),
    _TREE + "Matcher.OnMatch": fields("matcher action", faulty="keep_matching"),
    _TREE + "IPMatcher": fields("range_matchers"),
    _TREE + "IPMatcher.IPRangeMatcher": fields("ranges on_match", {"exclusive": "the narrowest range counts anyhow"}),
    _TREE + "ServerNameMatcher": fields("domain_matchers"),
    _TREE + "ServerNameMatcher.DomainMatcher": fields("domains on_match"),
    "envoy.config.route.v3.RouteList": fields("routes"),
    "envoy.type.matcher.v3.HttpRequestHeaderMatchInput": fields("header_name"),
    _INPUTS + "environment_variable.v3.Config": fields("name"),
    _INPUTS + "network.v3.FilterStateInput": fields(
        unsupported={"key": "a call from the process has no filter state: the input is missing"}
    ),
    _CUSTOM + "ip.v3.Ip": fields("cidr_ranges", {"stat_prefix": STATS}),
    _CUSTOM + "consistent_hashing.v3.ConsistentHashing": fields("threshold modulo seed"),
    _CUSTOM + "runtime_fraction.v3.RuntimeFraction": fields("runtime_fraction seed"),
    "xds.core.v3.TypedExtensionConfig": fields("typed_config", {"name": "the type of the configuration says which"}),
    "xds.core.v3.CidrRange": fields("address_prefix prefix_len"),
    _TREE + "StringMatcher": fields("exact prefix suffix safe_regex contains ignore_case", faulty="custom"),
    _TREE + "RegexMatcher": fields("regex google_re2"),
}
