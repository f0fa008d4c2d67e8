"""Waiting for what other threads and processes do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from meshlib.model.snapshot import Snapshot

TIMEOUT = 10.0

_Found = TypeVar("_Found")


def until(wanted: Callable[[], _Found], what: object = "what is waited for", timeout: float = TIMEOUT) -> _Found:
    """Wait for what has no event of its own to be true, and return it.

    Args:
        wanted: what is looked at.
        what: what to say when it does not come; called, where it can be.
        timeout: seconds.
    """
    deadline = time.monotonic() + timeout
    while not (found := wanted()):
        if time.monotonic() >= deadline:
            said = what() if callable(what) else what
            raise AssertionError(f"{said} did not happen within {timeout:g} s")
        time.sleep(0.01)
    return found


class Watch:
    """The snapshots that a client publishes."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.on_publish: Callable[[], object] = lambda: None
        self._changed = threading.Condition()
        self._passed = 0

    def __call__(self, snapshot: Snapshot) -> None:
        self.on_publish()
        with self._changed:
            self.snapshots.append(snapshot)
            self._changed.notify_all()

    def until(self, wanted: Callable[[Snapshot], object]) -> Snapshot:
        """Wait until the last snapshot is wanted, and return it."""
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self.snapshots) and wanted(self.snapshots[-1]), TIMEOUT)
        return self.snapshots[-1]

    def next(self, wanted: Callable[[Snapshot], object]) -> Snapshot:
        """Wait for a snapshot later than those looked at here, which may not be the last any more."""

        def index() -> int | None:
            numbers = range(self._passed, len(self.snapshots))
            return next((number for number in numbers if wanted(self.snapshots[number])), None)

        with self._changed:
            assert self._changed.wait_for(lambda: index() is not None, TIMEOUT)
            self._passed = (index() or 0) + 1
        return self.snapshots[self._passed - 1]

    def count(self, number: int) -> None:
        """Wait until so many were published."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.snapshots) >= number, TIMEOUT)
