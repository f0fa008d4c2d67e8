"""What a fork does to gRPC channels, which are open over it for the application's calls.

gRPC's core does not survive in a child that was forked while it ran. Measured with grpcio 1.85.3:
unless GRPC_ENABLE_FORK_SUPPORT is set it skips its own preparations when a thread of the parent is
in it ("Other threads are currently calling into gRPC, skipping fork() handlers") and the child may
abort; with 1 it waits for such threads, a second or for ever; with 0 it prepares nothing, and the
child's channel aborts or never connects. A core that is shut down, which happens when the process's
last channel is closed, can be forked with every setting.

The mesh's own streams to control planes are no gRPC channels, and a fork does nothing to them.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import time

import grpc

_SHUTDOWN = 0.1  # seconds that a fork waits for the core of channels just closed, which takes about 10 ms
_CORE_THREADS = ("event_engine", "grpc_", "lifeguard", "timer_manager")
_SETTING = "GRPC_ENABLE_FORK_SUPPORT"
_ADVICE = "Open gRPC channels, those of Mesh.grpc_channel() too, after the fork only, or close them before it"

_log = logging.getLogger("meshlib")

_registered = False
_running = False  # whether gRPC's core ran at the last fork
_told = False

unusable = ""
"""Why gRPC does not work in this process, for people; empty where nothing is known against it."""


def register() -> None:
    """Take care of forks from now on; idempotent. For whoever opens gRPC channels."""
    global _registered
    if _registered or not hasattr(os, "register_at_fork"):
        return
    _registered = True
    # grpcio registers its own handlers with its first channel. Ours must look at the core before
    # theirs prepare it, and handlers run before a fork in the reverse order of their registration.
    grpc.insecure_channel("127.0.0.1:1").close()
    os.register_at_fork(before=_before, after_in_child=_after_in_child)


def _before() -> None:
    global _running, _told
    _running = not _core_down()
    if _running and not _told:
        _told = True
        _log.warning(
            "forking while gRPC channels are open, with %s=%s: %s. %s",
            _SETTING,
            os.environ.get(_SETTING, "(unset)"),
            "gRPC is refused in the child" if _switched_off() else "gRPC in the child may hang or abort",
            _ADVICE,
        )


def _core_down() -> bool:
    """Wait until no thread of gRPC's core runs, where the system tells; grpcio itself does not."""
    give_up = time.monotonic() + _SHUTDOWN
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


def _switched_off() -> bool:
    return os.environ.get(_SETTING, "").lower() in ("0", "false", "no")


def _after_in_child() -> None:
    global unusable
    if _running and _switched_off():
        unusable = (
            f"this process was forked while gRPC channels were open, with {_SETTING}=0: gRPC would hang. {_ADVICE}"
        )
