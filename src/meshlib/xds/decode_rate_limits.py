"""Local rate limits: the filter's configuration, and the ``rate_limits`` of routes."""

from __future__ import annotations

from typing import Any

from meshlib.model.filters import (
    Descriptor,
    DescriptorAction,
    From,
    LocalRateLimit,
    RateLimitRule,
    RouteLimits,
    TokenBucket,
    VirtualHostLimits,
)
from meshlib.model.headers import HeaderMutations, MutationStep
from meshlib.xds.decode_headers import header_to_add
from meshlib.xds.decode_matchers import header_match, query_match
from meshlib.xds.decode_values import choice, demand, flag, fraction, number, seconds
from meshlib.xds.scope import Scope

_LEAST_INTERVAL = 0.05  # "local rate limit token bucket fill timer must be >= 50ms"
_LEAST_STATUS = 400  # LocalRateLimit.status: "Only values of 400 or greater are considered"
_LAST_STAGE = 10


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
        demand(place, part, "descriptor_value")
        return DescriptorAction(From.CONSTANT, part.descriptor_key or "generic_key", part.descriptor_value)
    if kind == "request_headers":
        demand(place, part, "header_name", "descriptor_key")
        return DescriptorAction(
            From.HEADER, part.descriptor_key, name=part.header_name.lower(), skip_if_absent=part.skip_if_absent
        )
    if kind == "query_parameters":
        demand(place, part, "query_parameter_name", "descriptor_key")
        return DescriptorAction(
            From.QUERY, part.descriptor_key, name=part.query_parameter_name, skip_if_absent=part.skip_if_absent
        )
    if kind == "header_value_match":
        demand(place, part, "descriptor_value", "headers")
        headers = tuple(header_match(place.at("headers", i), m) for i, m in enumerate(part.headers))
        key, expect = part.descriptor_key or "header_match", flag(part, "expect_match", default=True)
        return DescriptorAction(From.HEADERS_MATCH, key, part.descriptor_value, expect=expect, headers=headers)
    if kind == "query_parameter_value_match":
        demand(place, part, "descriptor_value", "query_parameters")
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


def local_rate_limit(scope: Scope, config: Any) -> LocalRateLimit:
    """Return a ``LocalRateLimit`` filter."""
    scope.audit(config)
    demand(scope, config, "stat_prefix")
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


def rate_limit_of_route(scope: Scope, config: Any) -> LocalRateLimit:
    """Return what a route says to the filter in its place."""
    if not config.HasField("token_bucket"):
        scope.fault("token_bucket", "is missing: a route must have one")
    return local_rate_limit(scope, config)


def _added(scope: Scope, config: Any, field: str) -> HeaderMutations:
    options = (header_to_add(scope.at(field, i), option) for i, option in enumerate(getattr(config, field)))
    added = tuple(header for header in options if header is not None)
    return HeaderMutations((MutationStep(add=added),)) if added else HeaderMutations()


def _descriptor(scope: Scope, descriptor: Any) -> Descriptor:
    scope.audit(descriptor)
    demand(scope, descriptor, "entries")
    if not descriptor.HasField("token_bucket"):
        scope.fault("token_bucket", "is missing")
    for i, entry in enumerate(descriptor.entries):
        scope.at("entries", i).audit(entry)
        demand(scope.at("entries", i), entry, "key")
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
