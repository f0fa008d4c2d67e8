"""A fork meets no open stream: streams end before it, and their owners open new ones after it.

gRPC's core does not survive in a child that was forked while a thread of the parent was in it, as
the reader of a stream always is. Measured with grpcio 1.85.3: unless GRPC_ENABLE_FORK_SUPPORT is
set it then skips its own preparations ("Other threads are currently calling into gRPC, skipping
fork() handlers") and the child aborts at its first channel; with 1 it waits for the reader, a
second or for ever; with 0 it prepares nothing, and the child's channel aborts or never connects. A
core that is shut down, which happens when the process's last channel is closed, can be forked
with every setting.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import threading
import time
import weakref
from typing import Protocol

import grpc

# A master process forks its workers one after the other: the stream opens again when they are
# probably through, and soon enough for the parent to notice an endpoint's end within a second.
REOPEN = 0.3
_PATIENCE = 5.0  # seconds that a fork waits for streams to end
_SHUTDOWN = 0.5  # seconds that it then waits for gRPC's core, which takes about 10 ms
_CORE_THREADS = ("event_engine", "grpc_", "lifeguard", "timer_manager")
_SETTING = "GRPC_ENABLE_FORK_SUPPORT"
_ADVICE = "Open gRPC channels, those of Mesh.grpc_channel() too, after the fork only, or close them before it"

_log = logging.getLogger("meshlib.xds")


class Stream(Protocol):
    """Has threads in gRPC's core between :func:`enter` and :func:`leave`."""

    def close_for_fork(self) -> None:
        """End soon, and tell the owner why; called on the forking thread."""


class Follower(Protocol):
    """Is to start again in a child."""

    def restart(self) -> None:
        """Open streams anew, in a forked child; the parent's are gone."""


_followers: weakref.WeakSet[Follower] = weakref.WeakSet()
_kept: list[object] = []  # what could not be closed is never collected in the child, where that would abort
_open: set[Stream] = set()
_changed = threading.Condition()  # guards _open and _forking
_forking = 0  # forks under way: several threads may be at it
_registered = False
_foreign = False  # whether gRPC's core ran at the last fork
_told = False

unusable = ""
"""Why gRPC does not work in this process, for people; empty where nothing is known against it."""


def follow(follower: Follower) -> None:
    """Have ``follower`` restarted in every child forked from now on, for as long as it lives."""
    _followers.add(follower)
    register()


def register() -> None:
    """Take care of forks from now on; idempotent. For whoever opens gRPC channels."""
    global _registered
    if _registered or not hasattr(os, "register_at_fork"):
        return
    _registered = True
    # grpcio registers its own handlers with its first channel. Ours must run before them before a
    # fork (theirs wait for our threads, a second or more) and after them in the child, so: later.
    grpc.insecure_channel("127.0.0.1:1").close()
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


def enter(stream: Stream) -> None:
    """Note that ``stream`` opens; blocks while the process forks."""
    with _changed:
        _changed.wait_for(lambda: not _forking)
        _open.add(stream)


def leave(stream: Stream) -> None:
    """Note that nothing of ``stream`` is left in gRPC's core."""
    with _changed:
        _open.discard(stream)
        _changed.notify_all()


def _before() -> None:
    global _forking, _foreign
    with _changed:
        _forking += 1
        streams = list(_open)
    for stream in streams:
        stream.close_for_fork()
    with _changed:
        closed = _changed.wait_for(lambda: not _open, _PATIENCE)
    if not closed:
        _log.warning(
            "%d xDS streams did not end within %.1fs; what is forked now may abort in gRPC", len(_open), _PATIENCE
        )
    _foreign = not _core_down(_SHUTDOWN if streams else 0.0)
    if _foreign and closed:
        _tell_of_other_channels()


def _core_down(timeout: float) -> bool:
    """Wait until no thread of gRPC's core runs, where the system tells; grpcio itself does not."""
    give_up = time.monotonic() + timeout
    while running := _core_runs():
        if time.monotonic() > give_up:
            break
        time.sleep(0.002)
    return not running


def _core_runs() -> bool:
    for name in glob.iglob("/proc/self/task/*/comm"):  # Linux; nothing elsewhere
        with contextlib.suppress(OSError), open(name) as comm:
            if comm.read().startswith(_CORE_THREADS):
                return True
    return False


def _tell_of_other_channels() -> None:
    """Say once what a child cannot do because the application has gRPC channels of its own."""
    global _told
    if _told:
        return
    _told = True
    _log.warning(
        "forking while gRPC channels other than the xDS stream are open, with %s=%s: %s. %s",
        _SETTING,
        os.environ.get(_SETTING, "(unset)"),
        "gRPC is refused in the child, and the mesh there gets no new configuration"
        if _switched_off()
        else "gRPC in the child may hang or abort",
        _ADVICE,
    )


def _switched_off() -> bool:
    return os.environ.get(_SETTING, "").lower() in ("0", "false", "no")


def _after_in_parent() -> None:
    global _forking
    with _changed:
        _forking -= 1
        _changed.notify_all()


def _after_in_child() -> None:
    global _changed, _forking, unusable
    if _foreign and _switched_off():
        unusable = (
            f"this process was forked while gRPC channels were open, with {_SETTING}=0: gRPC would hang. {_ADVICE}"
        )
    _kept.extend(_open)
    _open.clear()
    _changed = threading.Condition()
    _forking = 0
    for follower in list(_followers):
        follower.restart()
