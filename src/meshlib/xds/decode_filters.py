"""The local rate limit, buffer and stateful session filters: their configuration, and what routes say to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshlib.model.filters import (
    BufferLimit,
    Descriptor,
    DescriptorAction,
    Disabled,
    From,
    LocalRateLimit,
    RateLimitRule,
    RouteLimits,
    Setting,
    Settings,
    StatefulSession,
    TokenBucket,
    VirtualHostLimits,
)
from meshlib.model.headers import HeaderMutations, MutationStep
from meshlib.model.traffic import CookieToMake
from meshlib.xds.decode_headers import header_to_add
from meshlib.xds.decode_matchers import header_match, query_match
from meshlib.xds.decode_values import any_type, choice, flag, fraction, number, seconds, unpack
from meshlib.xds.protos import (
    buffer_pb2,
    local_rate_limit_pb2,
    route_components_pb2,
    session_cookie_pb2,
    session_header_pb2,
    stateful_session_pb2,
)
from meshlib.xds.scope import Scope

_FILTER_CONFIG = route_components_pb2.FilterConfig.DESCRIPTOR.full_name
_LEAST_INTERVAL = 0.05  # "local rate limit token bucket fill timer must be >= 50ms"
_LEAST_STATUS = 400  # LocalRateLimit.status: "Only values of 400 or greater are considered"
_LAST_STAGE = 10


def filter_setting(scope: Scope, packed: Any) -> Setting | Disabled | None:
    """Return the configuration of a filter that is run here, None for any other."""
    reader = _FILTERS.get(any_type(packed))
    if reader is None:
        return None
    message, decode = reader
    config = unpack(scope, packed, "", message)
    return None if config is None else decode(scope, config)


def route_settings(scope: Scope, level: Any) -> Settings:
    """Return what a ``typed_per_filter_config`` map says to the filters here, by their names."""
    found: list[tuple[str, Setting | Disabled]] = []
    for name in sorted(level.typed_per_filter_config):
        packed, place = level.typed_per_filter_config[name], scope.at("typed_per_filter_config", name)
        if any_type(packed) == _FILTER_CONFIG:
            wrapper = unpack(place, packed, "", route_components_pb2.FilterConfig)
            if wrapper is not None and wrapper.disabled:
                found.append((name, Disabled.HERE))
            if wrapper is None or wrapper.disabled:
                continue
            packed, place = wrapper.config, place.at("config")
        kind = any_type(packed)
        if kind in _FILTERS and kind not in _ROUTES:
            place.fault("", f"a route cannot say {kind} to its filter")
        reader = _ROUTES.get(kind)
        if reader is not None:
            message, decode = reader
            config = unpack(place, packed, "", message)
            setting = None if config is None else decode(place, config)
            if setting is not None:
                found.append((name, setting))
    return tuple(found)


def in_force(above: Settings, own: Settings) -> Settings:
    """Return the settings in force: the most specific of each filter."""
    return tuple((dict(above) | dict(own)).items()) if own else above


def route_limits(scope: Scope, action: Any, host: tuple[RateLimitRule, ...]) -> RouteLimits | None:
    """Return the ``rate_limits`` of a route and its virtual host, None where there are none."""
    own = rate_limits(scope, action)
    return RouteLimits(own, host, action.include_vh_rate_limits.value) if own or host else None


def rate_limits(scope: Scope, level: Any) -> tuple[RateLimitRule, ...]:
    """Return the ``rate_limits`` of a level."""
    return tuple(_rule(scope.at("rate_limits", i), rule) for i, rule in enumerate(level.rate_limits))


def _rule(scope: Scope, rule: Any) -> RateLimitRule:
    scope.audit(rule)
    if not rule.actions:
        scope.fault("actions", "must not be empty")
    actions = (_action(scope.at("actions", i), action) for i, action in enumerate(rule.actions))
    stage = number(scope, rule, "stage", 0, maximum=_LAST_STAGE)
    return RateLimitRule(tuple(action for action in actions if action is not None), stage)


def _action(scope: Scope, action: Any) -> DescriptorAction | None:
    scope.audit(action)
    kind = action.WhichOneof("action_specifier")
    if kind is None:
        scope.fault("action_specifier", "is missing")
        return None
    part, place = getattr(action, kind), scope.at(kind)
    place.audit(part)
    if kind == "generic_key":
        _demand(place, part, "descriptor_value")
        return DescriptorAction(From.CONSTANT, part.descriptor_key or "generic_key", part.descriptor_value)
    if kind == "request_headers":
        _demand(place, part, "header_name", "descriptor_key")
        return DescriptorAction(
            From.HEADER, part.descriptor_key, name=part.header_name.lower(), skip_if_absent=part.skip_if_absent
        )
    if kind == "query_parameters":
        _demand(place, part, "query_parameter_name", "descriptor_key")
        return DescriptorAction(
            From.QUERY, part.descriptor_key, name=part.query_parameter_name, skip_if_absent=part.skip_if_absent
        )
    if kind == "header_value_match":
        _demand(place, part, "descriptor_value", "headers")
        headers = tuple(header_match(place.at("headers", i), m) for i, m in enumerate(part.headers))
        key, expect = part.descriptor_key or "header_match", flag(part, "expect_match", default=True)
        return DescriptorAction(From.HEADERS_MATCH, key, part.descriptor_value, expect=expect, headers=headers)
    if kind == "query_parameter_value_match":
        _demand(place, part, "descriptor_value", "query_parameters")
        query = tuple(query_match(place.at("query_parameters", i), m) for i, m in enumerate(part.query_parameters))
        key, expect = part.descriptor_key or "query_match", flag(part, "expect_match", default=True)
        return DescriptorAction(From.QUERY_MATCH, key, part.descriptor_value, expect=expect, query=query)
    if kind == "dynamic_metadata":
        scope.fault(kind, "is gone from Envoy: expected metadata")
    if kind == "remote_address":
        return DescriptorAction(From.ADDRESS, "remote_address")
    if kind == "destination_cluster":
        return DescriptorAction(From.CLUSTER, "destination_cluster")
    # Noted by the audit. As where the value is missing, there is no descriptor.
    return DescriptorAction(From.QUERY, kind, name="")


def _demand(scope: Scope, message: Any, *fields: str) -> None:
    for field in fields:
        if not getattr(message, field):
            scope.fault(field, "must not be empty")


def _local_rate_limit(scope: Scope, config: Any) -> LocalRateLimit:
    scope.audit(config)
    _demand(scope, config, "stat_prefix")
    bucket = _bucket(scope.at("token_bucket"), config.token_bucket) if config.HasField("token_bucket") else None
    shares = {}
    for field in ("filter_enabled", "filter_enforced"):
        share = getattr(config, field)
        if config.HasField(field) and not share.HasField("default_value"):
            scope.at(field).fault("default_value", "is missing")
        shares[field] = fraction(scope.at(field), share, "default_value")
    listed = [tuple((entry.key, entry.value) for entry in each.entries) for each in config.descriptors]
    if len(set(listed)) < len(listed):
        scope.fault("descriptors", "has the same entries twice")
    if config.stage > _LAST_STAGE:
        scope.fault("stage", f"{config.stage} is not in 0 to {_LAST_STAGE}")
    return LocalRateLimit(
        place=f"{scope.resource}:{scope.path()}",
        status=config.status.code if config.status.code >= _LEAST_STATUS else 429,
        bucket=bucket,
        enabled=shares["filter_enabled"],
        enforced=shares["filter_enforced"],
        response_headers=_added(scope, config, "response_headers_to_add"),
        request_headers=_added(scope, config, "request_headers_to_add_when_not_enforced"),
        descriptors=tuple(_descriptor(scope.at("descriptors", i), d) for i, d in enumerate(config.descriptors)),
        rules=rate_limits(scope, config),
        stage=config.stage,
        virtual_host=VirtualHostLimits(choice(scope, config, "vh_rate_limits")),
        tells=choice(scope, config, "enable_x_ratelimit_headers") == 1,
        always_default=flag(config, "always_consume_default_token_bucket", default=True),
        resource_exhausted=config.rate_limited_as_resource_exhausted,
        most_values=number(scope, config, "max_dynamic_descriptors", 20),
    )


def _of_route(scope: Scope, config: Any) -> LocalRateLimit:
    if not config.HasField("token_bucket"):
        scope.fault("token_bucket", "is missing: a route must have one")
    return _local_rate_limit(scope, config)


def _added(scope: Scope, config: Any, field: str) -> HeaderMutations:
    options = (header_to_add(scope.at(field, i), option) for i, option in enumerate(getattr(config, field)))
    added = tuple(header for header in options if header is not None)
    return HeaderMutations((MutationStep(add=added),)) if added else HeaderMutations()


def _descriptor(scope: Scope, descriptor: Any) -> Descriptor:
    scope.audit(descriptor)
    _demand(scope, descriptor, "entries")
    if not descriptor.HasField("token_bucket"):
        scope.fault("token_bucket", "is missing")
    for i, entry in enumerate(descriptor.entries):
        scope.at("entries", i).audit(entry)
        _demand(scope.at("entries", i), entry, "key")
    entries = tuple((entry.key, entry.value) for entry in descriptor.entries)
    return Descriptor(entries, _bucket(scope.at("token_bucket"), descriptor.token_bucket))


def _bucket(scope: Scope, bucket: Any) -> TokenBucket:
    scope.audit(bucket)
    per_fill = number(scope, bucket, "tokens_per_fill", 1, minimum=1)
    interval = seconds(scope, bucket, "fill_interval", 0.0)
    if interval < _LEAST_INTERVAL:
        scope.fault("fill_interval", f"{interval:g}s is less than {_LEAST_INTERVAL:g}s")
        interval = _LEAST_INTERVAL
    return TokenBucket(bucket.max_tokens, per_fill / interval)


def _buffer(scope: Scope, config: Any) -> BufferLimit:
    scope.audit(config)
    if not config.HasField("max_request_bytes"):
        scope.fault("max_request_bytes", "is missing")
    return BufferLimit(number(scope, config, "max_request_bytes", 0, minimum=1))


def _buffer_per_route(scope: Scope, config: Any) -> BufferLimit | Disabled | None:
    scope.audit(config)
    kind = config.WhichOneof("override")
    if kind == "disabled":
        if not config.disabled:
            scope.fault("disabled", "must be true, where it is set")
        return Disabled.HERE
    if kind == "buffer":
        return _buffer(scope.at("buffer"), config.buffer)
    scope.fault("override", "is missing: expected disabled or buffer")
    return None


def _session(scope: Scope, config: Any) -> StatefulSession | None:
    scope.audit(config)
    if not config.HasField("session_state"):
        return None  # Envoy: the filter is there for routes that say more
    place, packed = scope.at("session_state"), config.session_state.typed_config
    kind = any_type(packed)
    if kind == _HEADER_STATE:
        state = unpack(place, packed, "typed_config", session_header_pb2.HeaderBasedSessionState)
        if state is None:
            return None
        place.at("typed_config").audit(state)
        _demand(place.at("typed_config"), state, "name")
        return StatefulSession(state.name.lower(), strict=config.strict)
    if kind == _COOKIE_STATE:
        state = unpack(place, packed, "typed_config", session_cookie_pb2.CookieBasedSessionState)
        if state is None:
            return None
        inner = place.at("typed_config")
        inner.audit(state)
        cookie, inner = state.cookie, inner.at("cookie")
        inner.audit(cookie)
        _demand(inner, cookie, "name")
        attributes = tuple((each.name, each.value) for each in cookie.attributes)
        made = CookieToMake(int(seconds(inner, cookie, "ttl", 0.0)), cookie.path, attributes)
        return StatefulSession(cookie.name, made, config.strict)
    place.fault("typed_config", f"{kind or 'nothing'} is no session state known here: expected a cookie or a header")
    return None


def _session_per_route(scope: Scope, config: Any) -> StatefulSession | Disabled | None:
    scope.audit(config)
    kind = config.WhichOneof("override")
    if kind == "stateful_session":
        return _session(scope.at(kind), config.stateful_session) or Disabled.HERE
    if kind is None:
        scope.fault("override", "is missing: expected disabled or stateful_session")
    elif not config.disabled:
        scope.fault("disabled", "must be true, where it is set")
    return Disabled.HERE


_HEADER_STATE = session_header_pb2.HeaderBasedSessionState.DESCRIPTOR.full_name
_COOKIE_STATE = session_cookie_pb2.CookieBasedSessionState.DESCRIPTOR.full_name
_FILTERS: dict[str, tuple[Any, Callable[[Scope, Any], Setting | Disabled]]] = {
    local_rate_limit_pb2.LocalRateLimit.DESCRIPTOR.full_name: (local_rate_limit_pb2.LocalRateLimit, _local_rate_limit),
    buffer_pb2.Buffer.DESCRIPTOR.full_name: (buffer_pb2.Buffer, _buffer),
    stateful_session_pb2.StatefulSession.DESCRIPTOR.full_name: (
        stateful_session_pb2.StatefulSession,
        lambda scope, config: _session(scope, config) or Disabled.HERE,
    ),
}
_ROUTES: dict[str, tuple[Any, Callable[[Scope, Any], Setting | Disabled | None]]] = {
    local_rate_limit_pb2.LocalRateLimit.DESCRIPTOR.full_name: (local_rate_limit_pb2.LocalRateLimit, _of_route),
    buffer_pb2.BufferPerRoute.DESCRIPTOR.full_name: (buffer_pb2.BufferPerRoute, _buffer_per_route),
    stateful_session_pb2.StatefulSessionPerRoute.DESCRIPTOR.full_name: (
        stateful_session_pb2.StatefulSessionPerRoute,
        _session_per_route,
    ),
}
# The filters that are run here, by type.
FILTERS = frozenset(_FILTERS)
# What routes may say to the filters here, by type.
ROUTE_SETTINGS = frozenset(_ROUTES)
