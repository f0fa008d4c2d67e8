"""``VirtualHost.matcher``: a tree of matchers in place of a list of routes.

Envoy lets the trees of route tables read request headers and little else, and keep matching
nothing: the rest of ``xds.type.matcher.v3`` is refused here as it is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from meshlib.model.matcher import (
    Combined,
    Condition,
    ConstantInput,
    Hashed,
    HeaderInput,
    InNetworks,
    Input,
    MapKind,
    MatcherTree,
    OnMatch,
    Single,
)
from meshlib.model.route import Route
from meshlib.xds import protos
from meshlib.xds.decode_matchers import string_match
from meshlib.xds.decode_values import any_type, unpack
from meshlib.xds.scope import Scope

MakeRoute = Callable[[Scope, Any], Route | None]

_NOWHERE = OnMatch(())
_MISSING = ConstantInput(None)
_NEVER = Single(_MISSING, InNetworks(()))


def matcher_tree(scope: Scope, matcher: Any, make: MakeRoute) -> MatcherTree:
    """Return a ``Matcher``.

    Args:
        scope: where it is.
        matcher: the message.
        make: decodes a route; None for one that no request from here can meet.
    """
    scope.audit(matcher)
    kind = matcher.WhichOneof("matcher_type")
    otherwise = None
    if matcher.HasField("on_no_match"):
        otherwise = _on_match(scope.at("on_no_match"), matcher.on_no_match, make)
    if kind == "matcher_list":
        return MatcherTree(_rules(scope.at(kind), matcher.matcher_list, make), on_no_match=otherwise)
    if kind == "matcher_tree":
        return _map(scope.at(kind), matcher.matcher_tree, make, otherwise)
    return MatcherTree(on_no_match=otherwise)


def _rules(scope: Scope, rules: Any, make: MakeRoute) -> tuple[tuple[Condition, OnMatch], ...]:
    if not rules.matchers:
        scope.fault("matchers", "must not be empty")
    found = []
    for i, rule in enumerate(rules.matchers):
        place = scope.at("matchers", i)
        for field in ("predicate", "on_match"):
            if not rule.HasField(field):
                place.fault(field, "is missing")
        condition = _condition(place.at("predicate"), rule.predicate)
        found.append((condition, _on_match(place.at("on_match"), rule.on_match, make)))
    return tuple(found)


def _condition(scope: Scope, predicate: Any) -> Condition:
    kind = predicate.WhichOneof("match_type")
    if kind == "single_predicate":
        return _single(scope.at(kind), predicate.single_predicate)
    if kind == "not_matcher":
        return Combined((_condition(scope.at(kind), predicate.not_matcher),), inverted=True)
    if kind is None:
        scope.fault("match_type", "is missing: expected a single_predicate, or_matcher, and_matcher or not_matcher")
        return _NEVER
    parts = getattr(predicate, kind).predicate
    if len(parts) < 2:
        scope.at(kind).fault("predicate", f"has {len(parts)} of the 2 or more that it must have")
    conditions = tuple(_condition(scope.at(kind).at("predicate", i), part) for i, part in enumerate(parts))
    return Combined(conditions, every=kind == "and_matcher")


def _single(scope: Scope, single: Any) -> Condition:
    read = _input(scope.at("input"), single.input)
    kind = single.WhichOneof("matcher")
    if kind == "value_match":
        regex = single.value_match.safe_regex
        if single.value_match.HasField("safe_regex") and not regex.HasField("google_re2"):
            scope.fault("value_match.safe_regex.google_re2", "is missing")
        return Single(read, string_match(scope.at(kind), single.value_match))
    if kind == "custom_match":
        return Single(read, _custom(scope.at(kind), single.custom_match))
    scope.fault("matcher", "is missing: expected a value_match or a custom_match")
    return _NEVER


def _input(scope: Scope, extension: Any) -> Input:
    kind = any_type(extension.typed_config)
    message = _INPUTS.get(kind)
    if message is None:
        scope.fault("typed_config", f"{kind or 'nothing'} is not read here: route tables match on request headers only")
        return _MISSING
    config = unpack(scope, extension.typed_config, "typed_config", message)
    if config is None:
        return _MISSING
    scope.at("typed_config").audit(config)
    if kind == _FILTER_STATE:
        return _MISSING  # noted by the audit
    return ConstantInput(os.environ.get(config.name)) if kind == _ENVIRONMENT else HeaderInput(config.header_name)


def _custom(scope: Scope, extension: Any) -> InNetworks | Hashed:
    kind = any_type(extension.typed_config)
    message, make = _CUSTOM.get(kind, (None, None))
    if message is None or make is None:
        scope.fault("typed_config", f"{kind or 'nothing'} is no matcher known here")
        return InNetworks(())
    config = unpack(scope, extension.typed_config, "typed_config", message)
    place = scope.at("typed_config")
    if config is None:
        return InNetworks(())
    place.audit(config)
    return make(place, config)


def _in_networks(scope: Scope, config: Any) -> InNetworks:
    return InNetworks(tuple(_cidrs(scope, "cidr_ranges", config.cidr_ranges)))


def _hashed(scope: Scope, config: Any) -> Hashed:
    if not config.modulo or config.threshold > config.modulo:
        scope.fault("threshold", f"{config.threshold} is not in 0 to modulo={config.modulo}, or that is 0")
    return Hashed(config.seed, config.modulo, config.threshold, config.modulo)


def _drawn(scope: Scope, config: Any) -> Hashed:
    place = scope.at("runtime_fraction")
    place.audit(config.runtime_fraction)
    share = config.runtime_fraction.default_value
    if not 0 <= share.denominator < 3:
        place.fault("default_value", f"denominator {share.denominator} is none of HUNDRED, TEN_THOUSAND, MILLION")
        return Hashed(config.seed, 1, 0, 0)
    return Hashed(config.seed, (100, 10_000, 1_000_000)[share.denominator], 0, share.numerator)


def _map(scope: Scope, tree: Any, make: MakeRoute, otherwise: OnMatch | None) -> MatcherTree:
    read = _input(scope.at("input"), tree.input)
    kind = tree.WhichOneof("tree_type")
    values: dict[str, OnMatch] = {}
    maps = MapKind.EXACT
    if kind in ("exact_match_map", "prefix_match_map"):
        entries = getattr(tree, kind).map
        if not entries:
            scope.at(kind).fault("map", "must not be empty")
        values = {key: _on_match(scope.at(kind).at("map", key), entries[key], make) for key in sorted(entries)}
        maps = MapKind(kind)
    elif kind == "custom_match":
        values, maps = _custom_map(scope.at(kind), tree.custom_match, make)
    else:
        scope.fault("tree_type", "is missing: expected an exact_match_map, prefix_match_map or custom_match")
    return MatcherTree(input=read, values=values, kind=maps, on_no_match=otherwise)


def _custom_map(scope: Scope, extension: Any, make: MakeRoute) -> tuple[dict[str, OnMatch], MapKind]:
    packed = extension.typed_config
    kind, values = any_type(packed), dict[str, OnMatch]()
    place = scope.at("typed_config")
    ranges = protos.xds_ip_pb2.IPMatcher
    if kind == _IP_MATCHER and (config := unpack(scope, packed, "typed_config", ranges)) is not None:
        for i, matcher in enumerate(config.range_matchers):
            inner = place.at("range_matchers", i)
            on_match = _on_match(inner.at("on_match"), matcher.on_match, make)
            values |= dict.fromkeys(_cidrs(inner, "ranges", matcher.ranges), on_match)
        return values, MapKind.NETWORK
    server_names = protos.xds_domain_pb2.ServerNameMatcher
    if kind == _SERVER_NAMES and (config := unpack(scope, packed, "typed_config", server_names)) is not None:
        for i, matcher in enumerate(config.domain_matchers):
            on_match = _on_match(place.at("domain_matchers", i).at("on_match"), matcher.on_match, make)
            values |= dict.fromkeys(matcher.domains, on_match)
        return values, MapKind.SERVER_NAME
    scope.fault("typed_config", f"{kind or 'nothing'} is no matcher known here")
    return values, MapKind.EXACT


def _cidrs(scope: Scope, field: str, ranges: Any) -> list[str]:
    found = []
    for i, cidr in enumerate(ranges):
        text = f"{cidr.address_prefix}/{cidr.prefix_len.value}"
        try:
            ip_network(text, strict=False)
        except ValueError as error:
            scope.at(field, i).fault("", f"is no address range: {error}")
            continue
        found.append(text)
    return found


def _on_match(scope: Scope, on_match: Any, make: MakeRoute) -> OnMatch:
    if on_match.keep_matching:
        scope.fault("keep_matching", "cannot be done in a route table")
    kind = on_match.WhichOneof("on_match")
    if kind == "matcher":
        return OnMatch(matcher_tree(scope.at(kind), on_match.matcher, make))
    if kind is None:
        scope.fault("on_match", "is missing: expected a matcher or an action")
        return _NOWHERE
    place, packed = scope.at("action"), on_match.action.typed_config
    if any_type(packed) == _ROUTE_LIST:
        config = unpack(place, packed, "typed_config", protos.route_components_pb2.RouteList)
        listed = config.routes if config is not None else ()
        routes = [make(place.at("typed_config").at("routes", i), route) for i, route in enumerate(listed)]
    else:
        config = unpack(place, packed, "typed_config", protos.route_components_pb2.Route)
        routes = [make(place.at("typed_config"), config)] if config is not None else []
    return OnMatch(tuple(route for route in routes if route is not None))


_ROUTE_LIST = protos.route_components_pb2.RouteList.DESCRIPTOR.full_name
_IP_MATCHER = protos.xds_ip_pb2.IPMatcher.DESCRIPTOR.full_name
_SERVER_NAMES = protos.xds_domain_pb2.ServerNameMatcher.DESCRIPTOR.full_name
_FILTER_STATE = protos.network_inputs_pb2.FilterStateInput.DESCRIPTOR.full_name
_ENVIRONMENT = protos.environment_input_pb2.Config.DESCRIPTOR.full_name

_INPUTS: dict[str, Any] = {
    message.DESCRIPTOR.full_name: message
    for message in (
        protos.http_inputs_pb2.HttpRequestHeaderMatchInput,
        protos.network_inputs_pb2.FilterStateInput,
        protos.environment_input_pb2.Config,
    )
}
_CUSTOM: dict[str, tuple[Any, Callable[[Scope, Any], InNetworks | Hashed]]] = {
    message.DESCRIPTOR.full_name: (message, make)
    for message, make in (
        (protos.ip_matcher_pb2.Ip, _in_networks),
        (protos.consistent_hashing_pb2.ConsistentHashing, _hashed),
        (protos.runtime_fraction_pb2.RuntimeFraction, _drawn),
    )
}
