"""The policies over the endpoints of one priority.

Weights follow Envoy: round robin and weighted least request run on an earliest-deadline-first
schedule, RANDOM ignores them, RING_HASH and MAGLEV give entries by them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from meshlib.clock import Randomness
from meshlib.model.cluster import ConsistentHashing, LbPolicy
from meshlib.policy.balancing.hashing import HashPicker
from meshlib.policy.balancing.maglev import Maglev
from meshlib.policy.balancing.picker import Picker
from meshlib.policy.balancing.ring_hash import Ring

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState


class RoundRobin:
    """Each in turn, from a random start (Envoy seeds it so that clients do not march in step)."""

    __slots__ = ("_endpoints", "_next")

    def __init__(self, endpoints: Sequence[EndpointState], chance: Randomness) -> None:
        self._endpoints = endpoints
        self._next = int(chance.random() * len(endpoints))

    def pick(self, chance: Randomness, key: int | None = None, turn: int = 0) -> EndpointState:  # noqa: ARG002  the Picker protocol
        """Return the next in turn."""
        index = self._next % len(self._endpoints)
        self._next = index + 1
        return self._endpoints[index]


class EarliestDeadline:
    """Weighted turns: each endpoint comes back after 1/weight (Envoy's EDF scheduler)."""

    __slots__ = ("_heap", "_order", "_weight")

    def __init__(
        self, endpoints: Sequence[EndpointState], chance: Randomness, weight: Callable[[EndpointState], float]
    ) -> None:
        self._weight = weight
        self._order = 0
        self._heap: list[tuple[float, int, EndpointState]] = []
        start = chance.random()
        for state in endpoints:
            self._push(start, state)
        # A random start, like round robin's: skip up to one turn.
        for _ in range(int(start * len(endpoints))):
            self.pick(chance)

    def pick(self, chance: Randomness, key: int | None = None, turn: int = 0) -> EndpointState:  # noqa: ARG002  the Picker protocol
        """Return the endpoint with the earliest deadline and schedule it anew."""
        deadline, _, state = heapq.heappop(self._heap)
        self._push(deadline, state)
        return state

    def _push(self, now: float, state: EndpointState) -> None:
        self._order += 1
        heapq.heappush(self._heap, (now + 1.0 / max(self._weight(state), 1e-9), self._order, state))


class LeastRequest:
    """Of ``choice_count`` endpoints drawn at random, the one with the fewest active attempts."""

    __slots__ = ("_choices", "_endpoints")

    def __init__(self, endpoints: Sequence[EndpointState], choices: int) -> None:
        self._endpoints = endpoints
        self._choices = choices

    def pick(self, chance: Randomness, key: int | None = None, turn: int = 0) -> EndpointState:  # noqa: ARG002  the Picker protocol
        """Return the least loaded of the candidates; the first drawn wins a tie."""
        endpoints, size = self._endpoints, len(self._endpoints)
        best = endpoints[int(chance.random() * size)]
        for _ in range(self._choices - 1):
            other = endpoints[int(chance.random() * size)]
            if other.active < best.active:
                best = other
        return best


class RandomPick:
    """Any endpoint, uniformly."""

    __slots__ = ("_endpoints",)

    def __init__(self, endpoints: Sequence[EndpointState]) -> None:
        self._endpoints = endpoints

    def pick(self, chance: Randomness, key: int | None = None, turn: int = 0) -> EndpointState:  # noqa: ARG002  the Picker protocol
        """Return one at random."""
        return self._endpoints[int(chance.random() * len(self._endpoints))]


def build(
    policy: LbPolicy,
    endpoints: Sequence[EndpointState],
    chance: Randomness,
    *,
    choice_count: int = 2,
    hashing: ConsistentHashing = ConsistentHashing(),  # noqa: B008  a frozen value, shared safely
) -> Picker:
    """Return the picker of ``policy`` over ``endpoints`` (at least one)."""
    if policy is LbPolicy.RING_HASH:
        return HashPicker(endpoints, hashing, Ring)
    if policy is LbPolicy.MAGLEV:
        return HashPicker(endpoints, hashing, Maglev)
    if policy is LbPolicy.RANDOM:
        return RandomPick(endpoints)
    even = len({state.endpoint.weight for state in endpoints}) == 1
    if policy is LbPolicy.LEAST_REQUEST:
        if even:
            return LeastRequest(endpoints, choice_count)
        # Envoy: uneven weights fall back to EDF with weight / (active + 1).
        return EarliestDeadline(endpoints, chance, lambda state: state.endpoint.weight / (state.active + 1))
    if even:
        return RoundRobin(endpoints, chance)
    return EarliestDeadline(endpoints, chance, lambda state: float(state.endpoint.weight))
