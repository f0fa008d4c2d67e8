"""Strings, headers, query parameters and paths that a route is matched by."""

from __future__ import annotations

from typing import Any

from meshlib.model.match import (
    CookieMatch,
    HeaderMatch,
    PathMatch,
    QueryMatch,
    RouteMatch,
    StringMatch,
    StringOp,
    full_match,
)
from meshlib.model.uri_template import uri_template
from meshlib.xds import newer
from meshlib.xds.decode_values import flag, fraction, unpack
from meshlib.xds.protos import uri_template_match_pb2
from meshlib.xds.scope import Scope

_NOTHING = r"[^\x00-\x{10FFFF}]"
_NEVER = StringMatch(StringOp.EXACT, "")  # stands in for a matcher that has a fault

_DEPRECATED_STRINGS = {
    "exact_match": StringOp.EXACT,
    "prefix_match": StringOp.PREFIX,
    "suffix_match": StringOp.SUFFIX,
    "contains_match": StringOp.CONTAINS,
}


def string_match(scope: Scope, matcher: Any) -> StringMatch:
    """Return a ``type.matcher.v3.StringMatcher``."""
    pattern = matcher.WhichOneof("match_pattern")
    if pattern == "safe_regex":
        return _regex(scope, "safe_regex", matcher.safe_regex)
    if pattern in ("exact", "prefix", "suffix", "contains"):
        value = getattr(matcher, pattern)
        if not value and pattern != "exact":
            scope.fault(pattern, "must not be empty")
        return StringMatch(StringOp(pattern), value, matcher.ignore_case)
    scope.fault(pattern or "", "is not supported" if pattern else "says nothing to match")
    return _NEVER


def _regex(scope: Scope, field: str, matcher: Any) -> StringMatch:
    if not matcher.regex:
        scope.fault(f"{field}.regex", "must not be empty")
        return _NEVER
    try:
        full_match(matcher.regex)
    except ValueError as error:
        scope.fault(f"{field}.regex", str(error))
        return _NEVER
    return StringMatch(StringOp.REGEX, matcher.regex)


def header_match(scope: Scope, matcher: Any) -> HeaderMatch:
    """Return a ``route.v3.HeaderMatcher``, its deprecated forms included."""
    scope.audit(matcher)
    if not matcher.name:
        scope.fault("name", "must not be empty")
    name, invert, empty = matcher.name, matcher.invert_match, matcher.treat_missing_header_as_empty
    kind = matcher.WhichOneof("header_match_specifier")
    if kind is None:  # "If header_match_specifier is not set, it is a present match."
        return HeaderMatch(name, present=True, invert=invert)
    if kind == "present_match":
        return HeaderMatch(name, present=matcher.present_match, invert=invert, treat_missing_as_empty=empty)
    if kind == "range_match":
        return HeaderMatch(
            name,
            range_=(matcher.range_match.start, matcher.range_match.end),
            invert=invert,
            treat_missing_as_empty=empty,
        )
    if kind == "string_match":
        string = string_match(scope.at("string_match"), matcher.string_match)
    elif kind == "safe_regex_match":
        string = _regex(scope, kind, matcher.safe_regex_match)
    else:
        value = getattr(matcher, kind)
        if not value and kind != "exact_match":
            scope.fault(kind, "must not be empty")
        string = StringMatch(_DEPRECATED_STRINGS[kind], value)
    return HeaderMatch(name, string=string, invert=invert, treat_missing_as_empty=empty)


def query_match(scope: Scope, matcher: Any) -> QueryMatch:
    """Return a ``route.v3.QueryParameterMatcher``."""
    scope.audit(matcher)
    if not matcher.name:
        scope.fault("name", "must not be empty")
    kind = matcher.WhichOneof("query_parameter_match_specifier")
    if kind == "string_match":
        return QueryMatch(matcher.name, string_match(scope.at("string_match"), matcher.string_match))
    return QueryMatch(matcher.name, present=kind is None or matcher.present_match)


def cookie_match(scope: Scope, matcher: Any) -> CookieMatch:
    """Return a ``route.v3.CookieMatcher``."""
    if not matcher.name:
        scope.fault("name", "must not be empty")
    if not matcher.HasField("string_match"):
        scope.fault("string_match", "is missing")
    return CookieMatch(matcher.name, string_match(scope.at("string_match"), matcher.string_match), matcher.invert_match)


def route_match(scope: Scope, match: Any) -> RouteMatch | None:
    """Return a ``route.v3.RouteMatch``; None for one that no request from here can meet."""
    scope.audit(match)
    never = _meets_nothing(match)
    path = _path(scope, match)
    headers = tuple(header_match(scope.at("headers", i), m) for i, m in enumerate(match.headers))
    query = tuple(query_match(scope.at("query_parameters", i), m) for i, m in enumerate(match.query_parameters))
    cookies = tuple(cookie_match(scope.at("cookies", i), m) for i, m in enumerate(newer.cookies(match)))
    if never or path is None:
        return None
    share = None
    if match.HasField("runtime_fraction"):
        place = scope.at("runtime_fraction")
        if not match.runtime_fraction.HasField("default_value"):
            place.fault("default_value", "is missing")
        share = fraction(place, match.runtime_fraction, "default_value")
    return RouteMatch(path, headers, query, cookies, grpc=match.HasField("grpc"), runtime_fraction=share)


def _path(scope: Scope, match: Any) -> PathMatch | None:
    kind = match.WhichOneof("path_specifier")
    if kind == "connect_matcher":
        return None  # noted by the audit
    case_sensitive = flag(match, "case_sensitive", default=True)
    if kind == "safe_regex":
        found = _regex(scope, "safe_regex", match.safe_regex)
        return PathMatch(StringOp.REGEX, found.value) if found.op is StringOp.REGEX else None
    if kind == "path":
        return PathMatch(StringOp.EXACT, match.path, case_sensitive)
    if kind == "prefix":
        return PathMatch(StringOp.PREFIX, match.prefix, case_sensitive)
    if kind == "path_separated_prefix":
        value = match.path_separated_prefix
        if not value or value.endswith("/") or "?" in value or "#" in value:
            scope.fault(kind, f"{value!r} must not be empty, end in '/' or contain '?' or '#'")
        elif not value.startswith("/"):
            scope.fault(kind, f"{value!r} must begin with '/'")
        return PathMatch(StringOp.PREFIX, value, case_sensitive, separated=True)
    if kind == "path_match_policy":
        return _template(scope.at(kind), match.path_match_policy)
    scope.fault(kind or "", "is not supported" if kind else "says no path, prefix or regex")
    return None


def _template(scope: Scope, policy: Any) -> PathMatch | None:
    config = unpack(scope, policy.typed_config, "typed_config", uri_template_match_pb2.UriTemplateMatchConfig)
    if config is None:
        return None
    scope.at("typed_config").audit(config)
    try:
        template = uri_template(config.path_template)
    except ValueError as error:
        scope.fault("typed_config.path_template", str(error))
        return None
    try:
        full_match(template.regex)
    except ValueError:  # a star behind a star: Envoy takes it, and it matches nothing
        return PathMatch(StringOp.REGEX, _NOTHING, template=template)
    return PathMatch(StringOp.REGEX, template.regex, template=template)


def _meets_nothing(match: Any) -> bool:
    """Tell whether a matcher asks for what a call from the process does not have; the audit notes it.

    To a route table it is plaintext without a certificate, and without metadata of filters: of what is
    missing an inverted matcher is met (measured on Envoy).
    """
    tls = match.tls_context
    return bool(
        match.HasField("connect_matcher")
        or tls.presented.value
        or tls.validated.value
        or any(not matcher.invert for matcher in match.dynamic_metadata)
        or match.filter_state
    )
