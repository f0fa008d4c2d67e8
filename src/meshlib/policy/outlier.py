"""Outlier detection: endpoints that keep failing are ejected for a while.

Envoy's ``outlier_detection``, per endpoint, shared by all clients of the process. Consecutive
5xx, gateway and local-origin failures are detected here; an ejection lasts
``base_ejection_time`` times the times ejected, at most ``max_ejection_time``, and ends at a
sweep (every ``interval``). The sweep is done by whoever picks next after it is due, so that an
idle mesh needs no timer.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING

from meshlib.clock import Randomness
from meshlib.model.cluster import OutlierDetection

if TYPE_CHECKING:
    from meshlib.policy.state import EndpointState

GATEWAY_STATUSES = frozenset({502, 503, 504})


class Verdict(Enum):
    """What one attempt says of its endpoint."""

    SUCCESS = "success"
    SERVER_ERROR = "5xx"
    GATEWAY_ERROR = "gateway"
    LOCAL_ORIGIN = "local origin"  # connect failure, reset, per-try timeout: seen here, not said by the upstream


class OutlierDetector:
    """The detector of one cluster. Not thread-safe: called under the cluster's lock.

    Attributes:
        config: None turns it off.
        ejected: endpoints ejected now.
        ejections: ejections so far.
        overflows: ejections refused by ``max_ejection_percent``.
    """

    __slots__ = ("_next_sweep", "config", "ejected", "ejections", "overflows")

    def __init__(self, config: OutlierDetection | None) -> None:
        self.config = config
        self.ejected: list[EndpointState] = []
        self.ejections = 0
        self.overflows = 0
        self._next_sweep = 0.0

    def observe(self, state: EndpointState, verdict: Verdict, total: int, now: float, chance: Randomness) -> bool:
        """Count one attempt; returns whether the endpoint was ejected by it.

        Args:
            state: the endpoint's live state.
            verdict: what the attempt says of it.
            total: endpoints of the cluster.
            now: clock seconds.
            chance: for the enforcing percentages.
        """
        config = self.config
        if config is None:
            return False
        self._start_sweeping(now)
        if verdict is not Verdict.LOCAL_ORIGIN:
            state.consecutive_local = 0
        if verdict is Verdict.SUCCESS:
            state.consecutive_5xx = state.consecutive_gateway = 0
            return False
        if verdict is Verdict.LOCAL_ORIGIN and config.split_external_local_origin_errors:
            state.consecutive_local += 1
            limit, enforcing = (
                config.consecutive_local_origin_failure,
                config.enforcing_consecutive_local_origin_failure,
            )
            if state.consecutive_local != limit:
                return False
            state.consecutive_local = 0
            return self._detected(state, enforcing, total, now, chance)
        return self._observe_status(config, state, verdict, total, now, chance)

    def _observe_status(
        self,
        config: OutlierDetection,
        state: EndpointState,
        verdict: Verdict,
        total: int,
        now: float,
        chance: Randomness,
    ) -> bool:
        # Not split: "locally originated errors are treated as 5xx" (and as gateway errors: 503, 504).
        ejected = False
        state.consecutive_5xx += 1
        if verdict is Verdict.SERVER_ERROR:
            state.consecutive_gateway = 0
        else:
            state.consecutive_gateway += 1
            if state.consecutive_gateway == config.consecutive_gateway_failure:
                state.consecutive_gateway = 0
                ejected = self._detected(state, config.enforcing_consecutive_gateway_failure, total, now, chance)
        if state.consecutive_5xx == config.consecutive_5xx:
            state.consecutive_5xx = 0
            ejected = ejected or self._detected(state, config.enforcing_consecutive_5xx, total, now, chance)
        return ejected

    def _detected(self, state: EndpointState, enforcing: int, total: int, now: float, chance: Randomness) -> bool:
        config = self.config
        if config is None or state.ejected or chance.random() * 100.0 >= enforcing:
            return False
        # Strict since Envoy 1.29: the test is on the percentage *after* the ejection.
        after = 100.0 * (len(self.ejected) + 1) / max(1, total)
        if after > config.max_ejection_percent and not (config.always_eject_one_host and not self.ejected):
            self.overflows += 1
            return False
        longest = max(config.max_ejection_time, config.base_ejection_time)
        if config.base_ejection_time * state.times_ejected < longest + config.base_ejection_time:
            state.times_ejected += 1
        state.ejected = True
        state.ejected_at = now
        self.ejected.append(state)
        self.ejections += 1
        return True

    def due(self, now: float) -> bool:
        """Tell whether a sweep is due."""
        return self._next_sweep != 0.0 and now >= self._next_sweep

    def sweep(self, endpoints: Iterable[EndpointState], now: float) -> bool:
        """Let endpoints back whose time is over; returns whether any came back.

        Makes up for the sweeps that an idle mesh left out: each interval that an endpoint spends
        in the cluster shortens its next ejection by one ``base_ejection_time``.
        """
        config = self.config
        if config is None:
            return self.reset()
        interval = max(config.interval, 0.001)
        missed = int((now - self._next_sweep) / interval)
        last = self._next_sweep + missed * interval
        self._next_sweep = last + interval
        longest = max(config.max_ejection_time, config.base_ejection_time)
        came_back = False
        for state in endpoints:
            served = missed + 1
            if state.ejected:
                end = state.ejected_at + min(config.base_ejection_time * state.times_ejected, longest)
                if end > last:
                    continue
                self._uneject(state)
                came_back = True
                served = int((last - end) / interval)
            state.times_ejected = max(0, state.times_ejected - served)
        return came_back

    def reset(self) -> bool:
        """Let every endpoint back (the configuration dropped outlier detection)."""
        back = bool(self.ejected)
        for state in list(self.ejected):
            self._uneject(state)
        self._next_sweep = 0.0
        return back

    def forget(self, state: EndpointState) -> None:
        """Drop an endpoint that left the cluster."""
        if state.ejected:
            self._uneject(state)

    def _uneject(self, state: EndpointState) -> None:
        state.ejected = False
        state.consecutive_5xx = state.consecutive_gateway = state.consecutive_local = 0
        self.ejected.remove(state)

    def _start_sweeping(self, now: float) -> None:
        if self._next_sweep == 0.0 and self.config is not None:
            self._next_sweep = now + self.config.interval
