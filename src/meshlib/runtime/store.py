"""The published snapshot and whoever waits for one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

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
        self._lasting: list[Callable[[], None]] = []

    def publish(self, live: LiveSnapshot) -> None:
        """Make ``live`` current and wake everyone who waits."""
        with self._changed:
            self.current = live
        self.poke()

    def renew(self) -> None:
        """Make the current snapshot a new one of the same, so that transports look at their connections again."""
        with self._changed:
            if self.current is not None:
                self.current = replace(self.current)

    def poke(self) -> None:
        """Wake everyone who waits, to look again."""
        with self._changed:
            self._changed.notify_all()
            watchers = self._watchers + self._lasting
        for watcher in watchers:
            watcher()

    def wait(self, ready: Callable[[], bool], timeout: float) -> bool:
        """Block until ``ready()`` or ``timeout`` seconds passed; returns ``ready()``."""
        with self._changed:
            return self._changed.wait_for(ready, timeout)

    def watch(self, watcher: Callable[[], None], *, lasting: bool = False) -> Callable[[], None]:
        """Call ``watcher`` on the publishing thread after each change; returns how to stop that.

        Args:
            watcher: must not block.
            lasting: whether a forked child calls it too. Whoever waits in a thread or an event
                loop of this process does not want that.
        """
        watchers = self._lasting if lasting else self._watchers
        with self._changed:
            watchers.append(watcher)

        def stop() -> None:
            with self._changed:
                if watcher in watchers:
                    watchers.remove(watcher)

        return stop

    def forked(self) -> None:
        """Start over in a forked child, where no thread waits and another may have held the lock."""
        self._changed = threading.Condition()
        self._watchers.clear()
