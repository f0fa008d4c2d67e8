"""The policies over one group of endpoints: all that are healthy at one priority, or in one locality of it.

Weights follow Envoy: round robin and weighted least request run on an earliest-deadline-first
schedule, RANDOM ignores them, RING_HASH and MAGLEV (``hashing.py``) give entries by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import xxhash

from meshlib.clock import Randomness
from meshlib.model.balancing import LbPolicy, SlowStart
from meshlib.policy.balancing.context import Context, Memory
from meshlib.policy.balancing.hosts import States
from meshlib.policy.balancing.latency import LeastLatency
from meshlib.policy.balancing.picker import Picker
from meshlib.policy.balancing.schedule import Schedule

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState

Weight = Callable[["EndpointState", float], float]


class RoundRobin:
    """Each in turn.

    Args:
        endpoints: at least one.
        turn: holds the number of the next turn; kept over updates, as Envoy does.
    """

    __slots__ = ("_endpoints", "_turn")

    def __init__(self, endpoints: States, turn: list[int]) -> None:
        self._endpoints = endpoints
        self._turn = turn

    def pick(self, now: float, turn: int) -> EndpointState:  # noqa: ARG002  the Picker protocol
        """Return the next in turn."""
        number = self._turn[0]
        self._turn[0] = number + 1
        return self._endpoints[number % len(self._endpoints)]


class Weighted:
    """Weighted turns."""

    __slots__ = ("_schedule",)

    def __init__(self, endpoints: States, weight: Weight, seed: int, now: float) -> None:
        self._schedule = Schedule(endpoints, weight, seed, now)

    def pick(self, now: float, turn: int) -> EndpointState:  # noqa: ARG002  the Picker protocol
        """Return the next in turn."""
        return self._schedule.pick(now)


class LeastRequest:
    """Of ``choices`` endpoints drawn at random, the one with the fewest active attempts."""

    __slots__ = ("_chance", "_choices", "_endpoints")

    def __init__(self, endpoints: States, choices: int, chance: Randomness) -> None:
        self._endpoints = endpoints
        self._choices = choices
        self._chance = chance

    def pick(self, now: float, turn: int) -> EndpointState:  # noqa: ARG002  the Picker protocol
        """Return the least loaded of the candidates; the first drawn wins a tie."""
        endpoints, size, draw = self._endpoints, len(self._endpoints), self._chance.random
        best = endpoints[int(draw() * size)]
        for _ in range(self._choices - 1):
            other = endpoints[int(draw() * size)]
            if other.active < best.active:
                best = other
        return best


class LeastOfAll:
    """The endpoint with the fewest active attempts (``FULL_SCAN``); any of those that tie, by chance."""

    __slots__ = ("_chance", "_endpoints")

    def __init__(self, endpoints: States, chance: Randomness) -> None:
        self._endpoints = endpoints
        self._chance = chance

    def pick(self, now: float, turn: int) -> EndpointState:  # noqa: ARG002  the Picker protocol
        """Return one of the least loaded."""
        fewest = min(state.active for state in self._endpoints)
        tied = [state for state in self._endpoints if state.active == fewest]
        return tied[int(self._chance.random() * len(tied))]


class RandomPick:
    """Any endpoint, uniformly."""

    __slots__ = ("_chance", "_endpoints")

    def __init__(self, endpoints: States, chance: Randomness) -> None:
        self._endpoints = endpoints
        self._chance = chance

    def pick(self, now: float, turn: int) -> EndpointState:  # noqa: ARG002  the Picker protocol
        """Return one at random."""
        return self._endpoints[int(self._chance.random() * len(self._endpoints))]


class PickFirst:
    """The first endpoint while it is healthy; the next one where that is not wanted (gRFC A62)."""

    __slots__ = ("_endpoints",)

    def __init__(self, endpoints: States) -> None:
        self._endpoints = endpoints

    def pick(self, now: float, turn: int) -> EndpointState:  # noqa: ARG002  the Picker protocol
        """Return the first that is wanted."""
        return self._endpoints[turn % len(self._endpoints)]


def build(context: Context, endpoints: States, memory: Memory, source: Hashable, now: float) -> Picker:
    """Return the picker over ``endpoints`` by the policy, which is not one that hashes.

    Args:
        context: the cluster's settings.
        endpoints: at least one.
        memory: what is known from before an update.
        source: which endpoints they are, for ``memory``.
        now: clock seconds.
    """
    config, chance = context.config, context.chance
    policy = config.policy
    if context.peak_ewma is not None:
        return LeastLatency(endpoints, context.peak_ewma, chance)
    if policy is LbPolicy.RANDOM:
        return RandomPick(endpoints, chance)
    if policy is LbPolicy.PICK_FIRST:
        return PickFirst(_shuffled(endpoints, memory.seed) if config.shuffle else endpoints)
    least = policy is LbPolicy.LEAST_REQUEST
    slow_start = config.slow_start if context.ramping else None
    uneven = slow_start is not None or any(state.weight != endpoints[0].weight for state in endpoints)
    if uneven and len(endpoints) > 1:
        bias = config.active_request_bias if least else 0.0
        return Weighted(endpoints, _weight(bias, slow_start), memory.seed, now)
    if not least:
        return RoundRobin(endpoints, memory.turn(source))
    return LeastOfAll(endpoints, chance) if config.full_scan else LeastRequest(endpoints, config.choice_count, chance)


def _shuffled(endpoints: States, seed: int) -> States:
    """Return the endpoints in an order that is the caller's own and stays what it is when some come or go."""
    return sorted(endpoints, key=lambda state: xxhash.xxh64_intdigest(str(state.endpoint).encode(), seed))


def _weight(bias: float, slow_start: SlowStart | None) -> Weight:
    """Return what an endpoint weighs on the schedule: less when busy (``bias``), less when new."""

    def own(state: EndpointState, now: float) -> float:  # noqa: ARG001  a Weight
        return float(state.weight)

    def busy(state: EndpointState, now: float) -> float:  # noqa: ARG001  a Weight
        return state.weight / math.pow(state.active + 1, bias)

    plain = busy if bias else own
    if slow_start is None:
        return plain
    return lambda state, now: plain(state, now) * ramp(slow_start, state.since, now)


def ramp(config: SlowStart, since: float | None, now: float) -> float:
    """Return the share of its weight that an endpoint healthy ``since`` then has; 1 once the window is over."""
    if since is None or now - since >= config.window:
        return 1.0
    # Envoy reckons in milliseconds and counts no moment as less than one.
    age = max(0.001, now - since) / config.window
    return max(age if config.aggression == 1.0 else age ** (1.0 / config.aggression), config.min_weight)
