"""What the balancers of a cluster are made from, and what of them outlives an update."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from meshlib.clock import Randomness
from meshlib.model.balancing import Balancing, PeakEwma
from meshlib.policy.balancing.hosts import HostSet


class Memory:
    """What a balancer knows after an update: where its rotations stand. Under the cluster's lock.

    Args:
        chance: where randomness comes from.
    """

    __slots__ = ("_chance", "_parts", "_seed", "_turns")

    def __init__(self, chance: Randomness) -> None:
        self._chance = chance
        self._seed: int | None = None
        self._turns: dict[Hashable, list[int]] = {}
        self._parts: dict[Hashable, Memory] = {}

    @property
    def seed(self) -> int:
        """Where schedules start: another in every client, and the same after each update."""
        if self._seed is None:
            self._seed = int(self._chance.random() * 2**32)
        return self._seed

    def turn(self, source: Hashable) -> list[int]:
        """Return the place of the rotation over ``source``."""
        place = self._turns.get(source)
        if place is None:
            place = self._turns[source] = [self.seed]
        return place

    def part(self, subset: Hashable) -> Memory:
        """Return the memory of the balancer over a subset."""
        part = self._parts.get(subset)
        if part is None:
            part = self._parts[subset] = Memory(self._chance)
        return part


@dataclass(frozen=True, slots=True)
class Context:
    """What a balancer is made from.

    Attributes:
        config: how to balance.
        panic_threshold: percent, 0 = never.
        chance: where randomness comes from.
        now: clock seconds.
        active: counts the cluster's requests under way.
        newest: when the newest endpoint became healthy (slow start).
        callers: the local cluster's first priority, for zone-aware routing; None = there is none.
        peak_ewma: balance by latency in place of the policy; None = no.
    """

    config: Balancing
    panic_threshold: int
    chance: Randomness
    now: float
    active: Callable[[], int]
    newest: float = 0.0
    callers: HostSet | None = None
    peak_ewma: PeakEwma | None = None

    @property
    def ramping(self) -> bool:
        """Whether an endpoint may be in slow start."""
        slow_start = self.config.slow_start
        return slow_start is not None and self.now - self.newest <= slow_start.window
