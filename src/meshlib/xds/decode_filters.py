"""Filters that are run here besides faults and header mutations: their configuration, and what routes say to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshlib.model.filters import (
    BufferLimit,
    Disabled,
    HeaderToMetadata,
    MetadataRule,
    MetadataValue,
    Setting,
    Settings,
    StatefulSession,
)
from meshlib.model.traffic import CookieToMake
from meshlib.xds.decode_headers import regex_rewrite
from meshlib.xds.decode_rate_limits import local_rate_limit, rate_limit_of_route
from meshlib.xds.decode_values import any_type, choice, demand, number, seconds, unpack
from meshlib.xds.protos import (
    buffer_pb2,
    header_to_metadata_pb2,
    local_rate_limit_pb2,
    route_components_pb2,
    session_cookie_pb2,
    session_header_pb2,
    stateful_session_pb2,
)
from meshlib.xds.scope import Scope

_FILTER_CONFIG = route_components_pb2.FilterConfig.DESCRIPTOR.full_name


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
        demand(place.at("typed_config"), state, "name")
        return StatefulSession(state.name.lower(), strict=config.strict)
    if kind == _COOKIE_STATE:
        state = unpack(place, packed, "typed_config", session_cookie_pb2.CookieBasedSessionState)
        if state is None:
            return None
        inner = place.at("typed_config")
        inner.audit(state)
        cookie, inner = state.cookie, inner.at("cookie")
        inner.audit(cookie)
        demand(inner, cookie, "name")
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


def _header_to_metadata(scope: Scope, config: Any) -> HeaderToMetadata:
    scope.audit(config)
    if not config.request_rules and not config.response_rules:
        scope.fault("request_rules", "must not be empty, nor response_rules")
    return HeaderToMetadata(
        tuple(_metadata_rule(scope.at("request_rules", i), rule) for i, rule in enumerate(config.request_rules))
    )


def _metadata_rule(scope: Scope, rule: Any) -> MetadataRule:
    scope.audit(rule)
    if bool(rule.header) == bool(rule.cookie):
        scope.fault("header", "must be set, or cookie, and not both")
    if rule.cookie and rule.remove:
        scope.fault("remove", "cannot go with cookie")
    present, missing = (
        _metadata_value(scope.at(field), getattr(rule, field)) if rule.HasField(field) else None
        for field in ("on_header_present", "on_header_missing")
    )
    if present is None and missing is None:
        scope.fault("on_header_present", "is missing, and so is on_header_missing")
    if missing is not None and not missing.value:
        scope.fault("on_header_missing.value", "must not be empty")
    return MetadataRule(rule.header.lower(), rule.cookie, present, missing, rule.remove)


def _metadata_value(scope: Scope, pair: Any) -> MetadataValue:
    scope.audit(pair)
    demand(scope, pair, "key")
    if pair.value and pair.HasField("regex_value_rewrite"):
        scope.fault("value", "cannot go with regex_value_rewrite")
    rewrite = None
    if pair.HasField("regex_value_rewrite"):
        rewrite = regex_rewrite(scope.at("regex_value_rewrite"), pair.regex_value_rewrite)
    kind = choice(scope, pair, "type")
    if kind == _PROTOBUF_VALUE:
        scope.note("type", "PROTOBUF_VALUE is not decoded: the text itself is the value")
    return MetadataValue(pair.metadata_namespace or _OWN_NAMESPACE, pair.key, pair.value, rewrite, kind == _NUMBER)


_OWN_NAMESPACE = "envoy.filters.http.header_to_metadata"
_NUMBER, _PROTOBUF_VALUE = 1, 2  # header_to_metadata.v3.Config.ValueType
_HEADER_STATE = session_header_pb2.HeaderBasedSessionState.DESCRIPTOR.full_name
_COOKIE_STATE = session_cookie_pb2.CookieBasedSessionState.DESCRIPTOR.full_name
_FILTERS: dict[str, tuple[Any, Callable[[Scope, Any], Setting | Disabled]]] = {
    local_rate_limit_pb2.LocalRateLimit.DESCRIPTOR.full_name: (local_rate_limit_pb2.LocalRateLimit, local_rate_limit),
    buffer_pb2.Buffer.DESCRIPTOR.full_name: (buffer_pb2.Buffer, _buffer),
    header_to_metadata_pb2.Config.DESCRIPTOR.full_name: (header_to_metadata_pb2.Config, _header_to_metadata),
    stateful_session_pb2.StatefulSession.DESCRIPTOR.full_name: (
        stateful_session_pb2.StatefulSession,
        lambda scope, config: _session(scope, config) or Disabled.HERE,
    ),
}
_ROUTES: dict[str, tuple[Any, Callable[[Scope, Any], Setting | Disabled | None]]] = {
    local_rate_limit_pb2.LocalRateLimit.DESCRIPTOR.full_name: (
        local_rate_limit_pb2.LocalRateLimit,
        rate_limit_of_route,
    ),
    buffer_pb2.BufferPerRoute.DESCRIPTOR.full_name: (buffer_pb2.BufferPerRoute, _buffer_per_route),
    header_to_metadata_pb2.Config.DESCRIPTOR.full_name: (header_to_metadata_pb2.Config, _header_to_metadata),
    stateful_session_pb2.StatefulSessionPerRoute.DESCRIPTOR.full_name: (
        stateful_session_pb2.StatefulSessionPerRoute,
        _session_per_route,
    ),
}
# The filters that are run here, by type.
FILTERS = frozenset(_FILTERS)
# What routes may say to the filters here, by type.
ROUTE_SETTINGS = frozenset(_ROUTES)
