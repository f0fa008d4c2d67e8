"""Outlier detection: endpoints that keep failing are ejected for a while.

Envoy's ``outlier_detection``, per endpoint, shared by all clients of the process. Failures in a
row (5xx, gateway, local origin) are detected as they happen, the share of failures over an
interval at its end, by itself and compared with the peers'; an ejection lasts
``base_ejection_time`` times the times ejected, at most ``max_ejection_time``, and ends at a
sweep (every ``interval``). The sweep is done by whoever picks next after it is due, so that an
idle mesh needs no timer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

from meshlib.clock import Randomness
from meshlib.model.cluster import OutlierDetection

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState

GATEWAY_STATUSES = frozenset({502, 503, 504})


class Verdict(Enum):
    """What one attempt says of its endpoint."""

    SUCCESS = "success"
    SERVER_ERROR = "5xx"
    GATEWAY_ERROR = "gateway"
    LOCAL_ORIGIN = "local origin"  # no connection: seen here, not said by the upstream
    CUT = "local origin, connected"  # reset or timeout on a connection that was there


_LOCAL = frozenset({Verdict.LOCAL_ORIGIN, Verdict.CUT})


class Tally:
    """How often an endpoint did well in the interval that runs."""

    __slots__ = ("good", "total")

    def __init__(self) -> None:
        self.good = self.total = 0

    def add(self, *, good: bool) -> None:
        """Count one attempt."""
        self.good += good
        self.total += 1

    def take(self) -> tuple[int, int]:
        """Return (good, total) of the interval that ends, and begin the next."""
        taken = self.good, self.total
        self.good = self.total = 0
        return taken


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
        if config.compares:
            _count(config, state, verdict)
        if verdict is not Verdict.LOCAL_ORIGIN:
            # Measured: each connection that is had counts as a success of local origin, whatever becomes of it.
            state.consecutive_local = 0
        if verdict is Verdict.SUCCESS:
            state.consecutive_5xx = state.consecutive_gateway = 0
            return False
        if verdict in _LOCAL and config.split_external_local_origin_errors:
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
        if config.max_ejection_time_jitter:
            state.ejection_jitter = chance.random() * config.max_ejection_time_jitter
        self.ejected.append(state)
        self.ejections += 1
        return True

    def due(self, now: float) -> bool:
        """Tell whether a sweep is due."""
        return self._next_sweep != 0.0 and now >= self._next_sweep

    def sweep(self, endpoints: Sequence[EndpointState], now: float, chance: Randomness) -> bool:
        """Compare the interval's results, let endpoints back whose time is over; returns whether any came or went.

        Makes up for the sweeps that an idle mesh left out: each interval that an endpoint spends
        in the cluster shortens its next ejection by one ``base_ejection_time``.
        """
        config = self.config
        if config is None:
            return self.reset()
        # Whoever was called since the last sweep was called in the interval that ended first.
        changed = config.compares and self._compare(config, endpoints, self._next_sweep, chance)
        interval = max(config.interval, 0.001)
        missed = int((now - self._next_sweep) / interval)
        last = self._next_sweep + missed * interval
        self._next_sweep = last + interval
        longest = max(config.max_ejection_time, config.base_ejection_time)
        for state in endpoints:
            served = missed + 1
            if state.ejected:
                end = state.ejected_at + min(config.base_ejection_time * state.times_ejected, longest)
                end += state.ejection_jitter
                if end > last:
                    continue
                self._uneject(state)
                changed = True
                served = int((last - end) / interval)
            state.times_ejected = max(0, state.times_ejected - served)
        return changed

    def _compare(
        self, config: OutlierDetection, endpoints: Sequence[EndpointState], now: float, chance: Randomness
    ) -> bool:
        before = self.ejections
        answers = [(state, *state.answers.take()) for state in endpoints]
        enforcing = config.enforcing_success_rate, config.enforcing_failure_percentage
        self._compare_rates(config, answers, enforcing, now, chance)
        if config.split_external_local_origin_errors:
            connects = [(state, *state.connects.take()) for state in endpoints]
            enforcing = config.enforcing_local_origin_success_rate, config.enforcing_failure_percentage_local_origin
            self._compare_rates(config, connects, enforcing, now, chance)
        return self.ejections > before

    def _compare_rates(
        self,
        config: OutlierDetection,
        tallies: Sequence[tuple[EndpointState, int, int]],
        enforcing: tuple[int, int],
        now: float,
        chance: Randomness,
    ) -> None:
        """Eject by success rate, then by failure percentage; ``enforcing`` is of either."""
        total = len(tallies)
        rates = [(state, 100.0 * good / count, count) for state, good, count in tallies if count and not state.ejected]
        peers = [(state, rate) for state, rate, count in rates if count >= config.success_rate_request_volume]
        if peers and len(peers) >= config.success_rate_minimum_hosts:
            lowest = _lowest_fair([rate for _, rate in peers], config.success_rate_stdev_factor / 1000.0)
            for state, rate in peers:
                if rate < lowest:
                    self._detected(state, enforcing[0], total, now, chance)
        heard = [(state, rate) for state, rate, count in rates if count >= config.failure_percentage_request_volume]
        if len(heard) >= config.failure_percentage_minimum_hosts:
            for state, rate in heard:
                if 100.0 - rate >= config.failure_percentage_threshold:
                    self._detected(state, enforcing[1], total, now, chance)

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
        state.ejection_jitter = 0.0
        state.consecutive_5xx = state.consecutive_gateway = state.consecutive_local = 0
        self.ejected.remove(state)

    def _start_sweeping(self, now: float) -> None:
        if self._next_sweep == 0.0 and self.config is not None:
            self._next_sweep = now + self.config.interval


def _count(config: OutlierDetection, state: EndpointState, verdict: Verdict) -> None:
    if config.split_external_local_origin_errors:
        if verdict is not Verdict.LOCAL_ORIGIN:
            state.connects.add(good=True)
        if verdict in _LOCAL:
            state.connects.add(good=False)
            return
    state.answers.add(good=verdict is Verdict.SUCCESS)


def _lowest_fair(rates: Sequence[float], deviations: float) -> float:
    """Return the success rate below which an endpoint is an outlier."""
    mean = sum(rates) / len(rates)
    return mean - deviations * math.sqrt(sum((rate - mean) ** 2 for rate in rates) / len(rates))
