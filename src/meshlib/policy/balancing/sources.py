"""Balancing over priorities and localities: draws which endpoints serve, then picks among them by the policy."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from meshlib.policy.balancing import policies
from meshlib.policy.balancing.context import Context, Memory
from meshlib.policy.balancing.hosts import Group, HostSet, States
from meshlib.policy.balancing.picker import Balancer, Picker, Wish
from meshlib.policy.balancing.priorities import availability, load_table
from meshlib.policy.balancing.schedule import Schedule
from meshlib.policy.balancing.zones import ZoneRouting, zone_routing

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState


class Kind(Enum):
    """Which endpoints of a priority."""

    ALL = "all"  # in panic
    HEALTHY = "healthy"
    DEGRADED = "degraded"


class Source(NamedTuple):
    """A group of endpoints among which a policy picks; ``locality`` is an index, -1 for the whole priority."""

    priority: int
    kind: Kind
    locality: int = -1


class SourceBalancer:
    """Round robin, least request, random and the like.

    Attributes:
        sets: the endpoints of each priority.
        loads: their load table.
    """

    __slots__ = ("_context", "_fixed", "_localities", "_memory", "_pickers", "_zones", "loads", "sets")

    def __init__(self, context: Context, sets: Sequence[HostSet], memory: Memory) -> None:
        self.sets = sets
        self.loads = load_table(sets, context.panic_threshold)
        self._context = context
        self._memory = memory
        self._pickers: dict[Source, Picker | None] = {}
        self._localities: dict[tuple[int, Kind], Schedule[int] | None] = {}
        self._zones = zone_routing(context.config.zone_aware, sets[0], context.callers)
        self._fixed = self._only()

    def pick(self, now: float, key: int | None, wish: Wish) -> EndpointState | None:  # noqa: ARG002  the Balancer protocol
        """Return an endpoint, None where the draw falls to a group that has none."""
        source = self._fixed
        if source is None or wish.spent or wish.place is not None:
            found = self._draw(now, wish)
            if found is None:
                return None
            source = found
        try:
            picker = self._pickers[source]
        except KeyError:
            picker = self._picker(source, now)
        return None if picker is None else picker.pick(now, wish.turn)

    def warm(self, before: Balancer | None, now: float) -> None:
        """Build the pickers that ``before`` had."""
        if isinstance(before, SourceBalancer):
            for source in list(before._pickers):
                if source.priority < len(self.sets) and source.locality < len(self.sets[source.priority].groups):
                    self._picker(source, now)

    def _only(self) -> Source | None:
        """Return the source that every pick goes to, None where there is something to draw."""
        table = self.loads
        if 100 not in (*table.healthy, *table.degraded):
            return None
        priority, degraded = table.choose(0)
        if table.panic[priority]:
            # Where traffic fails on panic, _draw says so.
            return None if self._context.config.zone_aware.fail_traffic_on_panic else Source(priority, Kind.ALL)
        kind = Kind.DEGRADED if degraded else Kind.HEALTHY
        if self._context.config.locality_weighted and self._schedule(priority, kind) is not None:
            return None
        return None if priority == 0 and self._zones is not None else Source(priority, kind)

    def _draw(self, now: float, wish: Wish) -> Source | None:
        context, table = self._context, self.loads
        chance, config = context.chance, context.config
        if wish.spent:
            table = table.without(wish.spent)
        priority, degraded = wish.place or table.choose(int(chance.random() * 100))
        if table.panic[priority]:
            return None if config.zone_aware.fail_traffic_on_panic else Source(priority, Kind.ALL)
        kind = Kind.DEGRADED if degraded else Kind.HEALTHY
        if config.locality_weighted:
            schedule = self._schedule(priority, kind)
            if schedule is not None:
                return Source(priority, kind, schedule.pick(now))
        zones = self._zones if priority == 0 else None
        if zones is None or chance.random() * 100 >= config.zone_aware.routing_enabled:
            return Source(priority, kind)
        if context.callers is not None and availability(context.callers).percent < context.panic_threshold:
            return None if config.zone_aware.fail_traffic_on_panic else Source(priority, kind)
        return Source(priority, kind, zones.choose(chance))

    def _schedule(self, priority: int, kind: Kind) -> Schedule[int] | None:
        """Return the turns of a priority's localities, None where none of them has weight."""
        key = priority, kind
        if key not in self._localities:
            hosts = self.sets[priority]
            weights = [effective_weight(group, _of(group, kind), hosts.factor) for group in hosts.groups]
            live = [index for index, weight in enumerate(weights) if weight > 0.0]
            self._localities[key] = (
                Schedule(live, lambda index, _now: weights[index], self._memory.seed, 0.0) if live else None
            )
        return self._localities[key]

    def _picker(self, source: Source, now: float) -> Picker | None:
        hosts = self.sets[source.priority]
        group = hosts.whole if source.locality < 0 else hosts.groups[source.locality]
        endpoints = _of(group, source.kind)
        picker = policies.build(self._context, endpoints, self._memory, source, now) if endpoints else None
        self._pickers[source] = picker
        return picker

    @property
    def zones(self) -> ZoneRouting | None:
        """Where calls go by the caller's locality, None where that does not matter."""
        return self._zones


def _of(group: Group, kind: Kind) -> States:
    if kind is Kind.ALL:
        return group.hosts
    return group.healthy if kind is Kind.HEALTHY else group.degraded


def effective_weight(group: Group, eligible: States, factor: int) -> float:
    """Return what a locality weighs: less when fewer of its endpoints, overprovisioned, can serve."""
    count = len(group.hosts) - len(group.excluded)
    if count <= 0:
        return 0.0
    return group.weight * min(1.0, factor / 100.0 * len(eligible) / count)
