"""Zone-aware routing: callers keep to their own locality as far as its capacity goes.

Of the callers (the *local cluster*, whose endpoints this process is one of) each locality has some
share, and of the endpoints called another. A locality with at least the share of its callers
serves them all; one with less serves what it can, and the rest goes to localities with capacity
to spare, in proportion to it. Done at the first priority alone. Shares are in hundredths of a
percent, as Envoy reckons.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from meshlib.clock import Randomness
from meshlib.model.balancing import ZoneAware
from meshlib.policy.balancing.hosts import Group, HostSet

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState

_WHOLE = 10_000


@dataclass(frozen=True, slots=True)
class ZoneRouting:
    """Where the calls of one locality go.

    Attributes:
        local: how many of 10,000 stay in the caller's own locality, which is the first.
        residual: spare capacity of the localities, summed up to each; empty where all stay.
    """

    local: int
    residual: tuple[int, ...] = ()

    def choose(self, chance: Randomness) -> int:
        """Return the index of the locality for a call."""
        if not self.residual or chance.random() * _WHOLE < self.local:
            return 0
        spare = self.residual[-1]
        if not spare:  # by rounding
            return int(chance.random() * len(self.residual))
        return bisect_right(self.residual, int(chance.random() * spare))


def zone_routing(config: ZoneAware, hosts: HostSet, callers: HostSet | None) -> ZoneRouting | None:
    """Return where calls go by locality, None where localities do not matter.

    Args:
        config: the cluster's.
        hosts: its first priority.
        callers: that of the local cluster, None where there is none.
    """
    if callers is None or len(hosts.groups) < 2:
        return None
    if len(callers.groups) < 2 and not config.force_direct:
        return None
    if not callers.has_home or len(hosts.whole.healthy) < config.min_cluster_size:
        return None
    shares = _shares(callers.groups, by_weight=config.by_weight)
    theirs = dict(zip((group.locality for group in callers.groups), shares, strict=True))
    own = [theirs.get(group.locality, 0) if group.healthy else 0 for group in hosts.groups]
    capacity = _shares(hosts.groups, by_weight=config.by_weight)
    if hosts.has_home:
        here = len(hosts.groups[0].healthy)
        forced = config.force_direct or (config.force_local_size is not None and here >= config.force_local_size)
        if forced or 0 < capacity[0] >= own[0]:
            return ZoneRouting(_WHOLE)
    spare = [max(0, there - callers_there) for there, callers_there in zip(capacity, own, strict=True)]
    local = 0
    if hosts.has_home:
        spare[0] = 0  # what it can take is taken
        local = capacity[0] * _WHOLE // own[0] if own[0] else 0
    return ZoneRouting(local, tuple(accumulate(spare)))


def _shares(groups: Sequence[Group], *, by_weight: bool) -> list[int]:
    sizes = [_size(group.healthy, by_weight=by_weight) for group in groups]
    total = sum(sizes)
    return [_WHOLE * size // total if total else 0 for size in sizes]


def _size(states: Sequence[EndpointState], *, by_weight: bool) -> int:
    return sum(state.weight for state in states) if by_weight else len(states)
