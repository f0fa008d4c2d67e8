"""The cyclic garbage collector rests while a large response is taken.

Of a hundred thousand new objects, none garbage and none in a cycle, it would look through the
whole process several times: a sixth of the time that ten thousand clusters take. It is the whole
process's collector, so it rests for large responses alone, as long as one of them takes and never
longer than that; what other threads leave behind meanwhile is collected afterwards. Who turned it off before
keeps it off. A child forked meanwhile has it on.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

LARGE = 256 * 1024  # bytes of a response from which it pays

_resting = False


@contextmanager
def resting(size: int) -> Iterator[None]:
    """Let the collector rest if a response has ``size`` bytes and that is large."""
    global _resting
    if size < LARGE or not gc.isenabled():
        yield
        return
    _resting = True
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        _resting = False


def _after_fork_in_child() -> None:
    """The thread that would have turned it on again is the parent's."""
    global _resting
    if _resting:
        _resting = False
        gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
