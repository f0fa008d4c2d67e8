"""Active health checks: what results of one endpoint make of its health, and when it is checked next.

Envoy's ``HealthCheckerImplBase``: an endpoint begins as failed, its first success makes it
healthy at once; after that it takes ``unhealthy_threshold`` failures in a row, or a single
answer that says so, to fail, and ``healthy_threshold`` successes in a row to come back.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from meshlib.clock import Randomness
from meshlib.model.endpoint import HealthStatus
from meshlib.model.health_check import HealthCheck

_SHORTEST = 0.001  # as Envoy, which counts in milliseconds


class Failure(Enum):
    """How a check failed."""

    ANSWERED = "said that it is unhealthy"
    NETWORK = "could not be reached"
    TIMEOUT = "did not answer in time"


class Result(NamedTuple):
    """What one check met.

    Attributes:
        failure: how it failed, None for a success.
        message: the failure in words.
        degraded: whether a success said ``x-envoy-degraded``.
        retriable: whether an answer that fails is one of ``retriable_statuses``.
    """

    failure: Failure | None = None
    message: str = ""
    degraded: bool = False
    retriable: bool = False


class Transition(Enum):
    """What a result did."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    PENDING = "one more of its kind is needed"


class HostHealth:
    """The health of one endpoint by its checks. Not thread-safe: its keeper owns it.

    Attributes:
        failed: whether it is out.
        degraded: whether it said so.
        checked: whether there was a result at all.
        excluded: whether it counts as not there: it told a call so (``x-envoy-immediate-health-check-fail``).
    """

    __slots__ = ("_failures", "_successes", "checked", "degraded", "excluded", "failed")

    def __init__(self, *, failed: bool = True, degraded: bool = False) -> None:
        self.failed = failed
        self.degraded = degraded
        self.checked = False
        self.excluded = False
        self._failures = self._successes = 0

    @property
    def status(self) -> HealthStatus:
        """HEALTHY, DEGRADED or UNHEALTHY; UNKNOWN before the first result."""
        if self.failed:
            return HealthStatus.UNHEALTHY if self.checked else HealthStatus.UNKNOWN
        return HealthStatus.DEGRADED if self.degraded else HealthStatus.HEALTHY

    def take(self, check: HealthCheck, result: Result) -> Transition:
        """Take the result of a check."""
        pending = not self.checked
        if result.failure is None:
            transition = self._succeeded(check, result.degraded)
        else:
            transition = self._failed(check, certain=result.failure is Failure.ANSWERED and not result.retriable)
        self.checked = True
        if pending and transition is Transition.UNCHANGED:
            return Transition.CHANGED  # it is not pending any more
        return transition

    def refuse(self, check: HealthCheck) -> Transition:
        """Take that the endpoint told a call that it is unhealthy."""
        self.excluded = True
        return self.take(check, Result(Failure.ANSWERED, "said x-envoy-immediate-health-check-fail to a call"))

    def _succeeded(self, check: HealthCheck, degraded: bool) -> Transition:
        self._failures = 0
        transition = Transition.UNCHANGED
        if self.failed:
            self._successes += 1
            if self.checked and self._successes != check.healthy_threshold:
                transition = Transition.PENDING
            else:
                self.failed = self.excluded = False
                transition = Transition.CHANGED
        if degraded is not self.degraded:
            self.degraded = degraded
            if transition is not Transition.PENDING:
                transition = Transition.CHANGED
        return transition

    def _failed(self, check: HealthCheck, *, certain: bool) -> Transition:
        self._successes = 0
        if self.failed:
            return Transition.UNCHANGED
        if not certain:
            self._failures += 1
            if self._failures != check.unhealthy_threshold:
                return Transition.PENDING
        self.failed = True
        return Transition.CHANGED


def interval(check: HealthCheck, *, failure: bool, transition: Transition, traffic: bool, chance: Randomness) -> float:
    """Return the seconds to the next check.

    Args:
        check: the check.
        failure: whether the last one failed.
        transition: what it did.
        traffic: whether calls come to the cluster.
        chance: for the jitters.
    """
    pending = transition is Transition.PENDING
    if not traffic:
        base = check.no_traffic_interval if failure or pending else check.no_traffic_healthy_interval
    elif failure:
        base = check.unhealthy_edge_interval if pending else check.unhealthy_interval
    else:
        base = check.healthy_edge_interval if pending else check.interval
    base += chance.random() * base * check.interval_jitter_percent / 100.0
    return max(base + chance.random() * check.interval_jitter, _SHORTEST)
