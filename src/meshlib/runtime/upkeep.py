"""One background event loop a mesh, for look-ups and health checks; it runs only while clusters are in use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from meshlib.clock import Clock, Randomness
from meshlib.lookups import Lookups, Resolver, system_resolver
from meshlib.policy.cluster_state import ClusterState
from meshlib.policy.upkeep import Upkeep
from meshlib.runtime.keeper import Keeper, Prober

_INHERITED: list[object] = []  # a parent's loops: closing or collecting one would touch what the parent waits for


class Housekeeping:
    """Makes and runs the keepers of a mesh's clusters. Thread-safe.

    Args:
        clock: monotonic seconds.
        chance: for jitters.
        prober: makes what checks an endpoint.
        resolver: looks names up, in threads.
    """

    def __init__(self, clock: Clock, chance: Randomness, prober: Prober, resolver: Resolver = system_resolver) -> None:
        self.clock = clock
        self.chance = chance
        self.prober = prober
        self._resolver = resolver
        self.refresh: Callable[[], None] = lambda: None
        """Called when endpoints left or failed, so that idle connections to them are closed."""
        self.forked()

    def forked(self) -> None:
        """Forget the loop of the parent process, unclosed."""
        inherited = getattr(self, "_loop", None)
        if inherited is not None:
            _INHERITED.append(inherited)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queued = 0
        self._closed = False
        self.active: set[Keeper] = set()
        """The keepers at work; the loop's own."""
        self.lookups = Lookups(self._resolver)

    def keep(self, cluster: ClusterState) -> Upkeep:
        """Return what keeps ``cluster`` up; see :class:`~meshlib.policy.upkeep.Keeping`."""
        return Keeper(cluster, self)

    def run(self, call: Callable[[], None]) -> None:
        """Run ``call`` in the loop, which is started where there is none; from any thread, holding any lock."""
        with self._lock:
            if self._closed:
                return
            if self._loop is None:
                # Not the application's kind of loop: it may be of a library that does not survive forks.
                self._loop = asyncio.SelectorEventLoop()
                thread = threading.Thread(target=self._work, args=(self._loop,), name="meshlib-upkeep", daemon=True)
                thread.start()
            self._queued += 1
            self._loop.call_soon_threadsafe(self._perform, call)

    def close(self) -> None:
        """Stop everything; idempotent."""
        with self._lock:
            self._closed = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._stop)

    def _perform(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._queued -= 1
        call()
        self.settle()

    def settle(self) -> None:
        """End the loop when no keeper is at work; in the loop."""
        with self._lock:
            if self.active or self._queued or self._loop is None or self._closed:
                return
            self._loop.stop()
            self._loop = None

    def _stop(self) -> None:
        for keeper in list(self.active):
            keeper.rest()
        with self._lock:
            if self._loop is not None:
                self._loop.stop()
                self._loop = None

    @staticmethod
    def _work(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(asyncio.sleep(0))  # closed transports lose their sockets in the next round
        finally:
            loop.close()
