"""The published snapshot and whoever waits for one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from meshlib.policy.state import LiveSnapshot

_log = logging.getLogger("meshlib")


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
        """Make ``live`` current, wake everyone who waits, and tell lasting watchers."""
        with self._changed:
            self.current = live
        self.poke()
        for watcher in tuple(self._lasting):
            _call(watcher)

    def renew(self) -> None:
        """Make the current snapshot a new one of the same, so that transports look at their connections again."""
        with self._changed:
            if self.current is not None:
                self.current = replace(self.current)

    def poke(self) -> None:
        """Wake everyone who waits, to look again."""
        with self._changed:
            self._changed.notify_all()
            watchers = tuple(self._watchers)
        for watcher in watchers:
            _call(watcher)

    def wait(self, ready: Callable[[], bool], timeout: float) -> bool:
        """Block until ``ready()`` or ``timeout`` seconds passed; returns ``ready()``."""
        with self._changed:
            return self._changed.wait_for(ready, timeout)

    def watch(self, watcher: Callable[[], None], *, lasting: bool = False) -> Callable[[], None]:
        """Call ``watcher`` on the publishing thread after each change; returns how to stop that.

        Args:
            watcher: must not block. What it raises goes to the log and nowhere else.
            lasting: whether it is of the application, which wants to hear of configurations alone
                and in forked children, too. Others wait in a thread or an event loop of this
                process for whatever may have changed; the mesh may have been closed.
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


def _call(watcher: Callable[[], None]) -> None:
    try:
        watcher()
    except Exception:  # noqa: BLE001  an application's fault must not cost it its control plane
        _log.exception("a watcher of the configuration failed; the configuration is in force all the same")
