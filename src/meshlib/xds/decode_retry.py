"""Retry policies of routes and virtual hosts."""

from __future__ import annotations

from typing import Any

from meshlib.model.traffic import RetryPolicy
from meshlib.xds.decode_values import any_type, number, seconds
from meshlib.xds.scope import Scope

# router_filter.rst, x-envoy-retry-on and x-envoy-retry-grpc-on. Envoy takes unknown words in silence.
CONDITIONS = frozenset(
    {
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "envoy-ratelimited",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "http3-post-connect-failure",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    }
)

_PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
_OTHER_PREDICATES = (
    "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate",
    "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig",
)
_DEFAULT_BASE = 0.025  # RetryBackOff: "the default base interval is 25 milliseconds"
_MIN_BASE = 0.001  # "a base interval less than 1 ms is rounded up"


def retry_policy(scope: Scope, policy: Any) -> RetryPolicy:
    """Return a ``route.v3.RetryPolicy``."""
    scope.audit(policy)
    conditions = frozenset(word for word in map(str.strip, policy.retry_on.split(",")) if word)
    for word in sorted(conditions - CONDITIONS):
        scope.note("retry_on", f"{word!r} is no condition Envoy knows; it never holds")
    base, longest = _back_off(scope, policy)
    return RetryPolicy(
        retry_on=conditions,
        num_retries=number(scope, policy, "num_retries", 1),
        per_try_timeout=seconds(scope, policy, "per_try_timeout", 0.0),
        retriable_status_codes=frozenset(policy.retriable_status_codes),
        base_interval=base,
        max_interval=longest,
        previous_hosts=_previous_hosts(scope, policy),
        host_selection_max_attempts=max(1, policy.host_selection_retry_max_attempts),
    )


def _back_off(scope: Scope, policy: Any) -> tuple[float, float]:
    base = _DEFAULT_BASE
    longest = 10 * base
    if policy.HasField("retry_back_off"):
        back_off, place = policy.retry_back_off, scope.at("retry_back_off")
        if not back_off.HasField("base_interval"):
            place.fault("base_interval", "is missing")
        base = max(_MIN_BASE, seconds(place, back_off, "base_interval", base, positive=True))
        longest = max(_MIN_BASE, seconds(place, back_off, "max_interval", 10 * base, positive=True))
        if longest < base:
            place.fault("max_interval", f"{longest:g}s is less than base_interval {base:g}s")
    if policy.HasField("rate_limited_retry_back_off"):
        if not policy.rate_limited_retry_back_off.reset_headers:
            scope.fault("rate_limited_retry_back_off.reset_headers", "must not be empty")
        scope.note("rate_limited_retry_back_off", "response headers do not set the back-off")
    return base, longest


def _previous_hosts(scope: Scope, policy: Any) -> bool:
    found = False
    for i, predicate in enumerate(policy.retry_host_predicate):
        place, kind = scope.at("retry_host_predicate", i), any_type(predicate.typed_config)
        if kind == _PREVIOUS_HOSTS or (not kind and predicate.name == "envoy.retry_host_predicates.previous_hosts"):
            found = True
        elif kind in _OTHER_PREDICATES:
            place.note("", f"{predicate.name} is not asked; any endpoint may be picked")
        else:
            place.fault("typed_config", f"{predicate.name!r} of type {kind or 'none'} is no retry host predicate")
    return found
