"""The contract of load balancing: a picker over a fixed set of endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshlib.clock import Randomness

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState


class Picker(Protocol):
    """Picks one endpoint of a fixed set. Called under the cluster's lock."""

    def pick(self, chance: Randomness, key: int | None = None, turn: int = 0) -> EndpointState:
        """Return the endpoint for the next attempt.

        Args:
            chance: where randomness comes from.
            key: the request's hash; pickers that do not hash pay no heed to it.
            turn: how many endpoints picked for this attempt were not wanted.
        """
        ...
