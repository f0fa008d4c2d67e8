"""``retry_priority: previous_priorities``: a retry goes to priorities that were not tried yet.

After every ``update_frequency`` attempts the priorities of all endpoints tried so far are left
out and the load is shared out among the others anew. When nothing is left, all start afresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshlib.policy.balancing.hosts import HostSet
from meshlib.policy.balancing.priorities import Availability

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState


class PreviousPriorities:
    """What one call has tried. Used by the call's own task or thread.

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

    def spent(self, priorities: Sequence[tuple[HostSet, Availability]]) -> frozenset[int]:
        """Return the priorities that the next attempt leaves out, of ``priorities`` as they are now."""
        if self._tried and len(self._tried) % self._frequency == 0:
            tried = set(self._tried)
            self._spent |= {hosts.priority for hosts, _ in priorities if not tried.isdisjoint(hosts.whole.hosts)}
            left = (each for hosts, each in priorities if hosts.priority not in self._spent)
            if not any(each.healthy or each.degraded for each in left):
                self._spent = frozenset()
                self._tried.clear()
        return self._spent
