"""What a cluster needs done beside its calls: names looked up, endpoints checked. The contract with the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshlib.policy.effects import Ticket

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import ClusterState, EndpointState


class Upkeep(Protocol):
    """Keeps one cluster up while calls use it. Thread-safe; its cluster's lock may be held, and it takes it."""

    def called(self, now: float) -> Ticket | None:
        """A call is about to pick an endpoint; returns what it should wait for first, None for nothing."""
        ...

    def configured(self) -> None:
        """The cluster's configuration or its endpoints are others."""
        ...

    def refused(self, state: EndpointState) -> None:
        """An endpoint answered a call with ``x-envoy-immediate-health-check-fail``."""
        ...

    def close(self) -> None:
        """The cluster is gone."""
        ...

    @property
    def trouble(self) -> str:
        """Why there may be no endpoint, in words; empty when nothing is known to be wrong."""
        ...


class Keeping(Protocol):
    """Makes the upkeep of clusters."""

    def __call__(self, cluster: ClusterState, /) -> Upkeep | None:
        """Return what keeps ``cluster``, which needs it, up; None where nothing does."""
        ...


def no_upkeep(_cluster: ClusterState) -> Upkeep | None:
    """Keep nothing up: names are not looked up and endpoints not checked."""
    return None
