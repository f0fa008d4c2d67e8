"""Whether a failed attempt is retried, and after how long.

The conditions are Envoy's ``retry_on`` tokens, measured on the real one (semantics 4.2). The
vocabulary of *when to stop* and *how long to wait* is tenacity's: ``stop_after_attempt`` and
``wait_exponential``, consulted only after a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from tenacity import RetryCallState, stop_after_attempt, wait_exponential
from tenacity.stop import StopBaseT
from tenacity.wait import WaitBaseT

from meshlib.clock import Clock, Randomness, wall_clock
from meshlib.model.match import HeaderMatch, HeaderPredicate
from meshlib.model.request import RequestView
from meshlib.model.traffic import RateLimitedBackOff, RetryPolicy
from meshlib.policy.effects import ErrorKind, HeaderLookup, Outcome

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState

# gRPC status codes by retry_on token; they count only in response headers (trailers-only responses).
GRPC_TOKENS = {1: "cancelled", 4: "deadline-exceeded", 8: "resource-exhausted", 13: "internal", 14: "unavailable"}

NEVER_SENT = frozenset({ErrorKind.CONNECT, ErrorKind.CONNECT_TIMEOUT, ErrorKind.TLS_FAILED})
RESETS = frozenset(
    {*NEVER_SENT, ErrorKind.RESET, ErrorKind.REMOTE_RESET, ErrorKind.REFUSED, ErrorKind.TIMEOUT, ErrorKind.PROTOCOL}
)


def wanted(policy: RetryPolicy, outcome: Outcome, view: RequestView) -> bool:
    """Tell whether ``retry_on`` covers this outcome (semantics 4.2), and the request may be retried at all."""
    return _covered(policy, outcome) and allowed(policy, view)


def allowed(policy: RetryPolicy, view: RequestView) -> bool:
    """Tell whether ``retriable_request_headers`` let the policy's ``retry_on`` count for this request."""
    gates = policy.retriable_request_headers
    return not gates or any(test(view) for test in _compiled(gates))


def _covered(policy: RetryPolicy, outcome: Outcome) -> bool:
    on = policy.retry_on
    if outcome.error is not None:
        return _error_wanted(on, outcome.error)
    status = outcome.status or 0
    if outcome.headers.get("x-envoy-ratelimited") is not None:
        return "envoy-ratelimited" in on  # it blocks every other rule
    if status >= 500 and "5xx" in on:
        return True
    if status in (502, 503, 504) and "gateway-error" in on:
        return True
    if status == 409 and "retriable-4xx" in on:
        return True
    if status in policy.retriable_status_codes and "retriable-status-codes" in on:
        return True
    if policy.retriable_headers and "retriable-headers" in on:
        head = _ResponseHead(outcome.status, outcome.headers)
        if any(test(head) for test in _compiled(policy.retriable_headers)):
            return True
    return outcome.grpc_status is not None and GRPC_TOKENS.get(outcome.grpc_status, "") in on


def _error_wanted(on: frozenset[str], error: ErrorKind) -> bool:
    if error not in RESETS:
        return False
    if "5xx" in on or "gateway-error" in on or "reset" in on:
        return True
    if error is ErrorKind.REFUSED:
        return "refused-stream" in on
    return error in NEVER_SENT and ("connect-failure" in on or "reset-before-request" in on)


def avoided(policy: RetryPolicy, tried: AbstractSet[tuple[str, int]]) -> Callable[[EndpointState], bool] | None:
    """Return what tells the endpoints that a retry should not go to (``retry_host_predicate``), None for no such."""
    if not (policy.previous_hosts or policy.omit_canary_hosts or policy.omit_host_metadata):
        return None

    def avoids(state: EndpointState) -> bool:
        endpoint = state.endpoint
        if policy.previous_hosts and endpoint.key in tried:
            return True
        metadata = endpoint.metadata.get("envoy.lb", {})
        if policy.omit_canary_hosts and metadata.get("canary") is True:
            return True
        return any(all(metadata.get(key) == value for key, value in omit) for omit in policy.omit_host_metadata)

    return avoids


@dataclass(frozen=True, slots=True)
class _ResponseHead:
    """A response head as header matchers read it."""

    status: int | None
    headers: HeaderLookup

    def values(self, name: str, /) -> list[str]:
        value = str(self.status) if name == ":status" else self.headers.get(name)
        return [] if value is None else [value]


@lru_cache(maxsize=256)
def _compiled(matches: tuple[HeaderMatch, ...]) -> tuple[HeaderPredicate, ...]:
    return tuple(match.compile() for match in matches)


class RetryState:
    """What tenacity's strategies read: a slotted stand-in for its ``RetryCallState``.

    Attributes:
        attempt_number: attempts made, 1-based.
        seconds_since_start: since the call began.
        upcoming_sleep: seconds about to be slept.
        outcome: the failed attempt's :class:`~meshlib.policy.effects.Outcome`.
    """

    __slots__ = ("attempt_number", "idle_for", "outcome", "seconds_since_start", "upcoming_sleep")

    def __init__(self, attempt_number: int, seconds_since_start: float, outcome: Outcome) -> None:
        self.attempt_number = attempt_number
        self.seconds_since_start = seconds_since_start
        self.outcome = outcome
        self.upcoming_sleep = 0.0
        self.idle_for = 0.0


class RetryPlan:
    """A RetryPolicy as strategies: when to stop, how long to wait.

    Args:
        policy: the policy received.
        stop: a tenacity stop strategy of the user's, in place of ``num_retries``.
        wait: a tenacity wait strategy of the user's, in place of the back-off.
    """

    __slots__ = ("_stop", "_upper", "_wait", "policy")

    def __init__(self, policy: RetryPolicy, stop: StopBaseT | None = None, wait: WaitBaseT | None = None) -> None:
        self.policy = policy
        self._stop = stop if stop is not None else stop_after_attempt(policy.num_retries + 1)
        self._wait = wait
        # Envoy: uniform below 2^(N-1)·base, capped at max (measured; its own page says 2^N-1).
        self._upper = wait_exponential(multiplier=policy.base_interval, max=policy.max_interval)

    def exhausted(self, state: RetryState) -> bool:
        """Tell whether no further attempt may be made."""
        return bool(self._stop(cast("RetryCallState", state)))

    def back_off(self, state: RetryState, chance: Randomness, wall: Clock = wall_clock) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            state: attempts so far and the last outcome.
            chance: spreads the wait.
            wall: Unix time, for a response header that names a moment.
        """
        if self._wait is not None:
            return float(self._wait(cast("RetryCallState", state)))
        if self.policy.rate_limited is not None:
            asked = _asked_for(self.policy.rate_limited, state.outcome.headers, wall)
            if asked:
                return asked * (1.0 + chance.random() / 2)  # Envoy: never sooner, up to half as long again
        return chance.random() * self._upper(cast("RetryCallState", state))


def _asked_for(back_off: RateLimitedBackOff, headers: HeaderLookup, wall: Clock) -> float:
    """Return the seconds a response asks to wait, 0.0 where it says nothing usable (an HTTP date is none)."""
    for header in back_off.headers:
        text = (headers.get(header.name) or "").strip()
        if text.isascii() and text.isdigit():
            seconds = float(int(text) - int(wall()) if header.timestamp else int(text))
            if 0.0 < seconds <= back_off.max_interval:
                return seconds
    return 0.0


PlanFor = Callable[[RetryPolicy], RetryPlan]


@lru_cache(maxsize=1024)
def plan_for(policy: RetryPolicy) -> RetryPlan:
    """Return the plan of a policy; made once, asked for only after a failure."""
    return RetryPlan(policy)


def plans_with(stop: StopBaseT | None, wait: WaitBaseT | None) -> PlanFor:
    """Return a plan maker that uses the user's tenacity strategies where given."""
    if stop is None and wait is None:
        return plan_for
    return lru_cache(maxsize=1024)(lambda policy: RetryPlan(policy, stop, wait))
