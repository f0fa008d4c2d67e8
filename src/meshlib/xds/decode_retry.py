"""Retry policies of routes and virtual hosts."""

from __future__ import annotations

from typing import Any

from meshlib.model.match import HeaderMatch
from meshlib.model.traffic import RateLimitedBackOff, ResetHeader, RetryPolicy
from meshlib.xds.decode_matchers import header_match
from meshlib.xds.decode_values import any_type, number, plain_metadata, seconds, unpack
from meshlib.xds.protos import omit_host_metadata_config_pb2, previous_priorities_config_pb2
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
_OMIT_CANARY = "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate"
_OMIT_METADATA = "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig"
_PREVIOUS_PRIORITIES = "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
_DEFAULT_BASE = 0.025  # RetryBackOff: "the default base interval is 25 milliseconds"
_MAX_RESET = 300.0  # RateLimitedRetryBackOff: "the default is 300 seconds"
_SECONDS, _UNIX_TIMESTAMP = 0, 1  # RetryPolicy.ResetHeaderFormat
_MIN_BASE = 0.001  # "a base interval less than 1 ms is rounded up"


def retry_policy(scope: Scope, policy: Any) -> RetryPolicy:
    """Return a ``route.v3.RetryPolicy``."""
    scope.audit(policy)
    conditions = frozenset(word for word in map(str.strip, policy.retry_on.split(",")) if word)
    for word in sorted(conditions - CONDITIONS):
        scope.note("retry_on", f"{word!r} is no condition Envoy knows; it never holds")
    for i, predicate in enumerate(policy.retry_options_predicates):
        # Envoy has none of its own, and refuses what it does not know.
        scope.at("retry_options_predicates", i).fault("typed_config", f"{predicate.name!r} is not a known predicate")
    base, longest = _back_off(scope, policy)
    return RetryPolicy(
        retry_on=conditions,
        num_retries=number(scope, policy, "num_retries", 1),
        per_try_timeout=seconds(scope, policy, "per_try_timeout", 0.0),
        retriable_status_codes=frozenset(policy.retriable_status_codes),
        retriable_headers=_headers(scope, policy, "retriable_headers"),
        retriable_request_headers=_headers(scope, policy, "retriable_request_headers"),
        base_interval=base,
        max_interval=longest,
        rate_limited=_rate_limited(scope.at("rate_limited_retry_back_off"), policy.rate_limited_retry_back_off)
        if policy.HasField("rate_limited_retry_back_off")
        else None,
        host_selection_max_attempts=max(1, policy.host_selection_retry_max_attempts),
        per_try_idle_timeout=seconds(scope, policy, "per_try_idle_timeout", 0.0),
        previous_priorities=_previous_priorities(scope.at("retry_priority"), policy.retry_priority)
        if policy.HasField("retry_priority")
        else 0,
        **_predicates(scope, policy),
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
    return base, longest


def _headers(scope: Scope, policy: Any, field: str) -> tuple[HeaderMatch, ...]:
    return tuple(header_match(scope.at(field, i), matcher) for i, matcher in enumerate(getattr(policy, field)))


def _rate_limited(scope: Scope, back_off: Any) -> RateLimitedBackOff:
    scope.audit(back_off)
    if not back_off.reset_headers:
        scope.fault("reset_headers", "must not be empty")
    headers = []
    for i, header in enumerate(back_off.reset_headers):
        place = scope.at("reset_headers", i)
        place.audit(header)
        if not header.name:
            place.fault("name", "must not be empty")
        if header.format not in (_SECONDS, _UNIX_TIMESTAMP):
            place.fault("format", f"{header.format} is none of SECONDS, UNIX_TIMESTAMP")
        headers.append(ResetHeader(header.name.lower(), timestamp=header.format == _UNIX_TIMESTAMP))
    longest = seconds(scope, back_off, "max_interval", _MAX_RESET, positive=True)
    return RateLimitedBackOff(tuple(headers), longest)


def _predicates(scope: Scope, policy: Any) -> dict[str, Any]:
    """Return the fields of a RetryPolicy that say which hosts a retry avoids."""
    found: dict[str, Any] = {}
    for i, predicate in enumerate(policy.retry_host_predicate):
        place, kind = scope.at("retry_host_predicate", i), any_type(predicate.typed_config)
        name = predicate.name if not kind else ""
        if kind == _PREVIOUS_HOSTS or name == "envoy.retry_host_predicates.previous_hosts":
            found["previous_hosts"] = True
        elif kind == _OMIT_CANARY or name == "envoy.retry_host_predicates.omit_canary_hosts":
            found["omit_canary_hosts"] = True
        elif kind == _OMIT_METADATA:
            found["omit_host_metadata"] = (*found.get("omit_host_metadata", ()), *_omitted(place, predicate))
        else:
            place.fault("typed_config", f"{predicate.name!r} of type {kind or 'none'} is no retry host predicate")
    return found


def _previous_priorities(scope: Scope, priority: Any) -> int:
    """Return the ``update_frequency`` of ``previous_priorities``."""
    scope.audit(priority)
    kind = any_type(priority.typed_config)
    if kind != _PREVIOUS_PRIORITIES:
        scope.fault("typed_config", f"{priority.name!r} of type {kind or 'none'} is no retry priority")
        return 0
    config = unpack(
        scope,
        priority.typed_config,
        "typed_config",
        previous_priorities_config_pb2.PreviousPrioritiesConfig,
    )
    if config is None:
        return 0
    scope.at("typed_config").audit(config)
    if config.update_frequency < 1:
        scope.note("typed_config.update_frequency", "is 0: no priority is ever left out")
    return max(0, int(config.update_frequency))


def _omitted(scope: Scope, predicate: Any) -> tuple[tuple[tuple[str, object], ...], ...]:
    place = scope.at("typed_config")
    config = unpack(place, predicate.typed_config, "", omit_host_metadata_config_pb2.OmitHostMetadataConfig)
    wanted = plain_metadata(config.metadata_match).get("envoy.lb", {}) if config is not None else {}
    for key, value in wanted.items():
        if not isinstance(value, (str, int, float, bool, type(None))):
            place.note(
                f"metadata_match.envoy.lb.{key}", "only strings, numbers and booleans are compared: omits nothing"
            )
            return ()
    return (tuple(sorted(wanted.items())),) if wanted else ()
