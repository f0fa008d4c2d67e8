"""What a request asks of its route in ``x-envoy-*`` headers.

Envoy obeys them from an internal caller, and the application in this process is one. They change
the route's timeouts and retries for this one call and are never sent on (semantics 4.7).
"""

from __future__ import annotations

from dataclasses import replace

from meshlib.model.match import HeaderMatch
from meshlib.model.request import RequestView
from meshlib.model.route import RouteAction
from meshlib.model.traffic import RetryPolicy
from meshlib.policy.retrying import GRPC_TOKENS, allowed

_RETRY_ON = "x-envoy-retry-on"
_RETRY_GRPC_ON = "x-envoy-retry-grpc-on"
_MAX_RETRIES = "x-envoy-max-retries"
_STATUS_CODES = "x-envoy-retriable-status-codes"
_HEADER_NAMES = "x-envoy-retriable-header-names"
_PER_TRY_TIMEOUT = "x-envoy-upstream-rq-per-try-timeout-ms"
_TIMEOUT = "x-envoy-upstream-rq-timeout-ms"
_ALT_RESPONSE = "x-envoy-upstream-rq-timeout-alt-response"
_HEDGE = "x-envoy-hedge-on-per-try-timeout"
_STREAM_DURATION = "x-envoy-upstream-stream-duration-ms"
EXPECTED_TIMEOUT = "x-envoy-expected-rq-timeout-ms"

_RETRY_HEADERS = frozenset({_RETRY_ON, _RETRY_GRPC_ON, _MAX_RETRIES, _STATUS_CODES, _HEADER_NAMES, _PER_TRY_TIMEOUT})
HEADERS = _RETRY_HEADERS | {
    _TIMEOUT,
    _ALT_RESPONSE,
    _HEDGE,
    _STREAM_DURATION,
    # Not obeyed, and not the upstream's business either.
    "x-envoy-upstream-alt-stat-name",
}
_GRPC_WORDS = frozenset(GRPC_TOKENS.values())
NOTHING: frozenset[str] = frozenset()


def headers(view: RequestView, *, respects_expected: bool = False) -> frozenset[str]:
    """Return the names of the headers that steer this call, to be kept from the upstream; mostly none.

    Args:
        view: the request.
        respects_expected: ``respect_expected_rq_timeout``: where the request says what timeout is
            expected, the other header about it is not looked at, and goes on (measured).
    """
    if HEADERS.isdisjoint(view.index):
        return NOTHING
    found = HEADERS.intersection(view.index)
    return found - {_TIMEOUT} if respects_expected and view.header(EXPECTED_TIMEOUT) else found


def obeyed(action: RouteAction, view: RequestView, names: frozenset[str]) -> RouteAction:
    """Return ``action`` with what the headers ``names`` of ``view`` change; an invalid value changes nothing."""
    timeout, duration = view.whole(_TIMEOUT) if _TIMEOUT in names else None, view.whole(_STREAM_DURATION)
    grpc = action.grpc_timeout
    return replace(
        action,
        timeout=action.timeout if timeout is None else timeout / 1000,
        grpc_timeout=grpc if grpc is None or timeout is None else replace(grpc, overruled=True),
        upstream_duration=action.upstream_duration if duration is None else duration / 1000,
        hedge={"true": True, "false": False}.get(view.header(_HEDGE) or "", action.hedge),
        timeout_status=204 if _ALT_RESPONSE in names else action.timeout_status,
        retry=_retry(action.retry or RetryPolicy(), view) if names & _RETRY_HEADERS else action.retry,
    )


def _retry(policy: RetryPolicy, view: RequestView) -> RetryPolicy:
    # A closed gate shuts the route's conditions out, not those that the request brings along.
    on = policy.retry_on if allowed(policy, view) else frozenset()
    retries, per_try = view.whole(_MAX_RETRIES), view.whole(_PER_TRY_TIMEOUT)
    codes = filter(str.isdecimal, _words(view, _STATUS_CODES))
    retriable = (HeaderMatch(name.lower(), present=True) for name in sorted(_words(view, _HEADER_NAMES)))
    return replace(
        policy,
        retry_on=on.union(_words(view, _RETRY_ON) - _GRPC_WORDS, _words(view, _RETRY_GRPC_ON) & _GRPC_WORDS),
        num_retries=policy.num_retries if retries is None else retries,
        per_try_timeout=policy.per_try_timeout if per_try is None else per_try / 1000,
        retriable_status_codes=policy.retriable_status_codes.union(map(int, codes)),
        retriable_headers=(*policy.retriable_headers, *retriable),
        retriable_request_headers=(),
    )


def _words(view: RequestView, name: str) -> frozenset[str]:
    return frozenset(word for word in map(str.strip, (view.header(name) or "").split(",")) if word)
