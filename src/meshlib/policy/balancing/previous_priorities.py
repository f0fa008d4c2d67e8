"""``retry_priority: previous_priorities``: a retry goes to priorities that were not tried yet.

After every ``update_frequency`` attempts the priorities of all endpoints tried so far are left
out and the load is shared out among the others anew. When nothing is left, all start afresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshlib.clock import Randomness
from meshlib.model.cluster import Cluster
from meshlib.policy.balancing import priorities
from meshlib.policy.balancing.picker import Picker

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState


class PreviousPriorities:
    """What one call has tried. Called under the cluster's lock.

    Args:
        frequency: ``update_frequency``, at least 1.
    """

    __slots__ = ("_frequency", "_spent", "_tried")

    def __init__(self, frequency: int) -> None:
        self._frequency = frequency
        self._tried: list[EndpointState] = []
        self._spent: frozenset[int] = frozenset()

    def attempted(self, state: EndpointState) -> None:
        """Take note of an attempt."""
        self._tried.append(state)

    def picker(self, cluster: Cluster, groups: Sequence[Sequence[EndpointState]], chance: Randomness) -> Picker | None:
        """Return what the next attempt is picked by, None for the cluster's own picker."""
        if self._tried and len(self._tried) % self._frequency == 0:
            self._spent |= {index for index, group in enumerate(groups) if any(each in group for each in self._tried)}
            if not priorities.available(groups, self._spent):
                self._spent = frozenset()
                self._tried.clear()
        if not self._spent or not priorities.available(groups):
            return None  # where every priority is in panic, Envoy leaves the load as it is
        return priorities.build(cluster, groups, chance, self._spent)
