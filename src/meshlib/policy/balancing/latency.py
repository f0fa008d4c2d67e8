"""Least latency by peak-sensitive moving averages (Peak EWMA), beyond Envoy.

After Finagle's and linkerd's balancer: of two endpoints drawn at random the one with the lower
cost serves, which is its average latency times the requests it would then have under way. The
average jumps up with a slow response and comes down in the course of time. An answer of 429 or
503, or none at all, counts as slow however quickly it came, and as slow as its ``Retry-After`` says.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from meshlib.clock import Randomness
from meshlib.model.balancing import PeakEwma
from meshlib.policy.balancing.hosts import States
from meshlib.policy.effects import Outcome

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState

_OVERLOADED = frozenset({429, 503})


class LeastLatency:
    """The cheaper of two endpoints drawn at random."""

    __slots__ = ("_chance", "_config", "_endpoints")

    def __init__(self, endpoints: States, config: PeakEwma, chance: Randomness) -> None:
        self._endpoints = endpoints
        self._config = config
        self._chance = chance

    def pick(self, now: float, turn: int) -> EndpointState:  # noqa: ARG002  the Picker protocol
        """Return the cheaper one; two that differ are drawn where there are two."""
        endpoints, size = self._endpoints, len(self._endpoints)
        first = int(self._chance.random() * size)
        if size == 1:
            return endpoints[first]
        second = int(self._chance.random() * (size - 1))
        one, other = endpoints[first], endpoints[second + (second >= first)]
        return other if self._cost(other, now) < self._cost(one, now) else one

    def _cost(self, state: EndpointState, now: float) -> float:
        average = state.latency
        if average is None:
            # Nobody knows yet. Who already has requests under way and has not answered one is not asked for more.
            return self._config.default_latency * (state.active + 1) ** 2
        return average.at(now, self._config.decay) * (state.active + 1)


class Average:
    """The moving average of an endpoint's latency, in seconds. Under the cluster's lock."""

    __slots__ = ("_at", "_value")

    def __init__(self, value: float, now: float) -> None:
        self._value = value
        self._at = now

    def at(self, now: float, decay: float) -> float:
        """Return the average now: without news it fades, so that an endpoint once slow is tried again."""
        return self._value * math.exp(min(0.0, self._at - now) / decay)

    def observe(self, latency: float, now: float, decay: float) -> None:
        """Take a response in: a slower one counts in full at once."""
        if latency >= self._value:
            self._value = latency
        else:
            share = math.exp(min(0.0, self._at - now) / decay)
            self._value = self._value * share + latency * (1.0 - share)
        self._at = max(now, self._at)


def cost_of(outcome: Outcome, seconds: float, config: PeakEwma) -> float:
    """Return what an outcome that took ``seconds`` counts as."""
    if outcome.error is None and outcome.status not in _OVERLOADED:
        return seconds
    asked = outcome.headers.get("retry-after") if outcome.error is None else None
    wait = float(asked) if asked is not None and asked.strip().isascii() and asked.strip().isdigit() else 0.0
    return max(seconds, config.penalty, wait)
