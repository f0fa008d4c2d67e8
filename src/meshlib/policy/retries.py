"""The retries of one call: whether a wanted one is made, when, and what it holds. Made after the first failure."""

from __future__ import annotations

from meshlib.model.traffic import RetryPolicy
from meshlib.policy import flags
from meshlib.policy.call import Call
from meshlib.policy.cluster_state import ClusterState
from meshlib.policy.deadlines import Deadlines
from meshlib.policy.effects import Outcome
from meshlib.policy.limits import Limits
from meshlib.policy.replaying import hindrance
from meshlib.policy.retrying import RetryState
from meshlib.policy.safety import STRICT_RETRY_AFTER_MAX, retry_after, risk


class Retries:
    """Decides on the retries that ``retry_on`` wants.

    Args:
        policy: the route's.
        call: the call.
        cluster: where it goes.
        limits: of the route's priority.
        deadlines: of the call.
        body_limit: bytes of a body that may be sent again.

    Attributes:
        refused: whether the last one wanted was refused: no retries left, a limit, the body, strict mode.
    """

    __slots__ = ("_body_limit", "_call", "_cluster", "_deadlines", "_held", "_limits", "_policy", "refused")

    def __init__(
        self,
        policy: RetryPolicy,
        call: Call,
        cluster: ClusterState,
        limits: Limits,
        deadlines: Deadlines,
        body_limit: int,
    ) -> None:
        self._policy = policy
        self._call = call
        self._cluster = cluster
        self._limits = limits
        self._deadlines = deadlines
        self._body_limit = body_limit
        self._held = False
        self.refused = False

    def schedule(self, outcome: Outcome, scheduled: int = 0) -> float | None:
        """Take a slot for a wanted retry; returns the seconds to wait, or None where it is refused.

        Args:
            outcome: what the attempt met.
            scheduled: retries that are already decided and not begun yet.
        """
        self.release()  # Envoy: the slot is held from the decision to the next response head
        wait = self._decide(outcome, scheduled)
        self.refused = wait is None
        self._held = wait is not None
        if self._call.trace is not None:
            self._call.trace.retry(outcome, wait, self._call.record, self._limits)
        return wait

    def release(self) -> None:
        """Give the retry slot back, where one is held."""
        if self._held:
            self._held = False
            self._limits.release_retry()

    def _decide(self, outcome: Outcome, scheduled: int) -> float | None:
        call, record = self._call, self._call.record
        now = call.clock()
        plan = call.plan_for(self._policy)
        state = RetryState(len(record.attempts) + scheduled, now - record.started, outcome)
        if plan.exhausted(state):
            record.flags |= flags.UPSTREAM_RETRY_LIMIT_EXCEEDED
            return None
        record.retry_skipped = hindrance(call.view, call.kept, self._body_limit)
        if not record.retry_skipped and call.strict:
            record.retry_skipped = risk(call.view, outcome)
        if record.retry_skipped:
            return None
        wait = plan.back_off(state, call.chance)
        if call.strict and not self._may_come_again(outcome, wait, now):
            return None
        if not self._limits.try_retry():
            record.flags |= flags.UPSTREAM_OVERFLOW
            record.retry_skipped = f"{self._limits.retry_limit} reached"
            return None
        return max(wait, retry_after(outcome.headers)) if call.strict else wait

    def _may_come_again(self, outcome: Outcome, wait: float, now: float) -> bool:
        """Tell whether strict mode allows a retry: the server's Retry-After fits, and so does the budget."""
        record = self._call.record
        asked, left = retry_after(outcome.headers), self._left(now)
        longest = STRICT_RETRY_AFTER_MAX if left is None else min(left, STRICT_RETRY_AFTER_MAX)
        if asked > longest:
            record.retry_skipped = f"Retry-After of {asked:g}s is longer than the {longest:.3g}s left"
            return False
        if left is not None and wait >= left:
            record.retry_skipped = f"the back-off of {wait:.3g}s is longer than the {left:.3g}s left"
            return False
        if not self._cluster.withdraw(now):
            record.flags |= flags.UPSTREAM_OVERFLOW
            record.retry_skipped = "the strict retry budget is spent"
            return False
        return True

    def _left(self, now: float) -> float | None:
        """Return the seconds left of the route's and the application's time, None = no bound."""
        remaining, deadline = self._deadlines.remaining(now), self._call.deadline
        if deadline is None:
            return remaining
        own = max(0.0, deadline - now)
        return own if remaining is None else min(own, remaining)
