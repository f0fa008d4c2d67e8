"""Waking an async task from any thread, on asyncio and trio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import anyio
import sniffio


def threadsafe(call: Callable[[], None]) -> Callable[[], None]:
    """Return a function that runs ``call`` in the event loop now running; callable from any thread."""
    if sniffio.current_async_library() == "trio":
        import trio  # the application runs on it, so it is installed

        token = trio.lowlevel.current_trio_token()
        return lambda: token.run_sync_soon(call)
    loop = asyncio.get_running_loop()

    def wake() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(call)

    return wake


def loop_token() -> object:
    """Return what identifies the event loop now running; hashable and weakly referable."""
    if sniffio.current_async_library() == "trio":
        import trio  # the application runs on it, so it is installed

        return cast("object", trio.lowlevel.current_trio_token())
    return asyncio.get_running_loop()


async def wait_until(
    ready: Callable[[], bool],
    watch: Callable[[Callable[[], None]], Callable[[], None] | None],
    timeout: float | None,
) -> bool:
    """Wait until ``ready()`` or ``timeout`` seconds passed; returns ``ready()``.

    Args:
        ready: the condition.
        watch: registers a wake-up called, from any thread, whenever the condition may have
            changed; may return how to stop that.
        timeout: seconds, None = no bound.
    """
    changed = anyio.Event()
    wake = threadsafe(lambda: changed.set())
    stop = watch(wake)
    try:
        with anyio.move_on_after(timeout):
            while not ready():
                await changed.wait()
                changed = anyio.Event()
    finally:
        if stop is not None:
            stop()
    return ready()
