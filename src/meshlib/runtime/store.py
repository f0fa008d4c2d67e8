"""The published snapshot and whoever waits for one."""

from __future__ import annotations

import threading
from collections.abc import Callable

from meshlib.policy.state import LiveSnapshot


class SnapshotStore:
    """Holds the current LiveSnapshot. One writer, any number of readers.

    Attributes:
        current: what calls read, once each; None before the first configuration. Publishing
            is one attribute assignment, so readers need no lock (style.md C5).
    """

    def __init__(self) -> None:
        self.current: LiveSnapshot | None = None
        self._changed = threading.Condition()
        self._watchers: list[Callable[[], None]] = []

    def publish(self, live: LiveSnapshot) -> None:
        """Make ``live`` current and wake everyone who waits."""
        self.current = live
        self.poke()

    def poke(self) -> None:
        """Wake everyone who waits, to look again."""
        with self._changed:
            self._changed.notify_all()
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher()

    def wait(self, ready: Callable[[], bool], timeout: float) -> bool:
        """Block until ``ready()`` or ``timeout`` seconds passed; returns ``ready()``."""
        with self._changed:
            return self._changed.wait_for(ready, timeout)

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Call ``watcher`` on the publishing thread after each change; returns how to stop that."""
        with self._changed:
            self._watchers.append(watcher)

        def stop() -> None:
            with self._changed:
                if watcher in self._watchers:
                    self._watchers.remove(watcher)

        return stop
