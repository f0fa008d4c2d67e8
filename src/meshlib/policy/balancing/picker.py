"""The contracts of load balancing: a picker over a fixed set of endpoints, a balancer over a cluster."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from meshlib.model.metadata import Criteria

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState

Place = tuple[int, bool]
"""A priority, and whether its DEGRADED endpoints are meant."""

NO_PRIORITIES: AbstractSet[int] = frozenset()


@dataclass(slots=True)
class Wish:
    """What a pick goes by that few picks have; not frozen, since one may be made for each (0.2 µs less).

    Attributes:
        subset: what the route asks of endpoints (``metadata_match``).
        spent: priorities to leave out (``retry_priority`` previous_priorities).
        place: the priority that an aggregate cluster chose, whatever its load here; None = none.
        turn: how many endpoints picked for this attempt were not wanted.
    """

    subset: Criteria = ()
    spent: AbstractSet[int] = NO_PRIORITIES
    place: Place | None = None
    turn: int = 0


NO_WISH = Wish()  # shared, and so never written to


class Picker(Protocol):
    """Picks one endpoint of a fixed set that is not empty. Called under the cluster's lock."""

    def pick(self, now: float, turn: int) -> EndpointState:
        """Return an endpoint at ``now``, clock seconds; see :class:`Wish` for ``turn``."""
        ...


class Balancer(Protocol):
    """Picks one endpoint of a cluster. Called under the cluster's lock; made anew when endpoints or health change."""

    def pick(self, now: float, key: int | None, wish: Wish) -> EndpointState | None:
        """Return an endpoint, None where none may serve.

        Args:
            now: clock seconds.
            key: the request's hash; only RING_HASH and MAGLEV heed it. None = at random.
            wish: what else it goes by.
        """
        ...

    def warm(self, before: Balancer | None, now: float) -> None:
        """Make ready what ``before`` was used for, so that no caller waits for it."""
        ...
