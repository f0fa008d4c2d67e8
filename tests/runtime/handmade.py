"""A mesh over configuration made by hand: what transports need, without xDS."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from meshlib.model.snapshot import Snapshot
from meshlib.policy.events import NullObserver, Observer
from meshlib.policy.retrying import PlanFor, plan_for
from meshlib.policy.state import MeshState
from meshlib.runtime.runtime import Runtime


class HandmadeSource:
    """Publishes the snapshots it is given."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.snapshot = snapshot
        self.started = 0
        self.closed = 0
        self.forks = 0
        self.awaited: set[tuple[str, int]] = set()
        self.demanded: list[tuple[str, int]] = []
        self._publish: Callable[[Snapshot], None] | None = None

    def start(self, publish: Callable[[Snapshot], None], usage: object = None) -> None:
        self.started += 1
        self._publish = publish
        if self.snapshot is not None:
            publish(self.snapshot)

    def publish(self, snapshot: Snapshot) -> None:
        assert self._publish is not None
        self._publish(snapshot)

    def publish_later(self, seconds: float, snapshot: Snapshot) -> threading.Timer:
        timer = threading.Timer(seconds, self.publish, [snapshot])
        timer.start()
        return timer

    def close(self) -> None:
        self.closed += 1

    def describe(self) -> str:
        return "the test (last error: none of it is real)"

    def demand(self, host: str, port: int) -> bool:
        self.demanded.append((host, port))
        return (host, port) in self.awaited

    def wake(self, cluster: str) -> None:
        pass

    def forked(self) -> None:
        self.forks += 1


def runtime(
    snapshot: Snapshot | HandmadeSource | None = None,
    *,
    observer: Observer | None = None,
    plan_for: PlanFor = plan_for,
    breaker: Any = None,
    **keywords: Any,
) -> Runtime:
    source = snapshot if isinstance(snapshot, HandmadeSource) else HandmadeSource(snapshot)
    state = MeshState(time.monotonic, random.Random(), breaker)
    return Runtime(source, state, observer or NullObserver(), plan_for, name="the mesh", **keywords)


def assert_idle(mesh: Runtime) -> None:
    """Nothing is in flight in any cluster of the mesh."""
    live = mesh.store.current
    assert live is not None
    for state in live.clusters.values():
        limits = state.limits
        counts = (limits.requests, limits.retries, limits.connections, len(limits.pending))
        assert counts == (0, 0, 0, 0), f"{state.config.name}: requests, retries, connections, pending = {counts}"
        busy = [s for s in state.endpoints.values() if s.active or s.connections]
        assert not busy, busy
