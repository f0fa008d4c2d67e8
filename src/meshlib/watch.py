"""When something in a folder may have changed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from watchfiles._rust_notify import RustNotify  # the documented way to learn when watching has begun

logger = logging.getLogger("meshlib")

# An event is told of when this long (or up to twice as long) brought no other: time enough for
# an editor to write what it truncated, and a small part of the 100 ms an edit may take.
_SETTLE_MS = 5
_DEBOUNCE_MS = 60

# Looked at even without an event: network file systems, a replaced mount and an overflowing
# queue of the kernel bring none.
_HEARTBEAT_MS = 5_000

_POLL_SECONDS = 0.05


def changes(folder: Path, stop: threading.Event, *, recursive: bool = True) -> Iterator[None]:
    """Yield when watching has begun, after every change in ``folder``, and every few seconds.

    A step may be nothing new: look, and compare. The folder may go and come again. Where the
    system has no notifications left, the folder is polled twenty times a second. Without
    ``recursive``, what is in folders of the folder is of no interest.

    watchfiles waits in Rust and wakes every 5 ms to see ``stop``, which ends the iteration.
    """
    notified = True
    while not stop.is_set():
        identity = _identity(folder)
        if identity is None:
            yield
            stop.wait(_POLL_SECONDS)
            continue
        try:
            for _ in (_notifications if notified else _polls)(folder, stop, recursive):
                yield
                if _identity(folder) != identity:
                    break  # moved away, or another mount
        except FileNotFoundError:
            stop.wait(_POLL_SECONDS)  # removed just now: see what the next turn finds
        except (OSError, RuntimeError) as error:
            logger.warning("no notification of file changes (%s): looking every %g s", error, _POLL_SECONDS)
            notified = False


def _notifications(folder: Path, stop: threading.Event, recursive: bool) -> Iterator[None]:
    root = os.path.realpath(folder)
    # Watching begins before the first look, so that nothing falls between the two.
    with RustNotify(
        [root], debug=False, force_polling=False, poll_delay_ms=0, recursive=recursive, ignore_permission_denied=True
    ) as notify:
        yield
        while (found := notify.watch(_DEBOUNCE_MS, _SETTLE_MS, _HEARTBEAT_MS, stop)) not in ("stop", "signal"):
            yield
            if isinstance(found, set) and any(path == root for _, path in found):
                return  # removed perhaps, and another may have its name and number: the watch is void


def _polls(folder: Path, stop: threading.Event, recursive: bool) -> Iterator[None]:
    # Ours rather than watchfiles', which compares whole seconds of the modification time.
    before: list[tuple[str, int, int, int]] | None = None
    while True:
        found = sorted(_entries(str(folder), recursive))
        if found != before:
            before = found
            if stop.wait(_SETTLE_MS / 1000):
                return
            yield
        if stop.wait(_POLL_SECONDS):
            return


def _entries(folder: str, recursive: bool) -> Iterator[tuple[str, int, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                yield entry.path, status.st_mtime_ns, status.st_size, status.st_ino
                if recursive and entry.is_dir(follow_symlinks=False):
                    yield from _entries(entry.path, recursive)
    except OSError:
        return  # gone while we looked, or not ours to read: the next look tells


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
