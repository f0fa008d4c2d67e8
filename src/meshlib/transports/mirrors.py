"""Copies of requests on their way (request mirroring): queues with an end, so that no call ever waits.

What does not fit is dropped, and the observer told (``mirror_overflow``).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import sniffio

from meshlib.policy import mirroring
from meshlib.policy.call import Call
from meshlib.policy.effects import Mirror

WORKERS = 8  # threads of a blocking transport that send copies, started as they are needed
MOST = 64  # copies of a transport that wait, or of an event loop that are under way
IDLE = 5.0  # seconds without work after which a thread ends
LARGEST = 1024 * 1024  # bytes of a streamed body that are kept for its copies, as Envoy's buffer


class Tee:
    """Keeps a streamed body, as it is sent, for copies that can be sent only when it is whole.

    Args:
        send: takes each copy, and the body.
    """

    __slots__ = ("_copies", "_parts", "_send", "_size")

    def __init__(self, send: Callable[[Mirror, bytes], None]) -> None:
        self._send = send
        self._copies: list[Mirror] = []
        self._parts: list[bytes] = []
        self._size = 0

    def wait(self, effect: Mirror) -> None:
        """Send a copy with the body, once that is whole."""
        self._copies.append(effect)

    def add(self, part: bytes) -> None:
        """Keep a part; a body that is too large costs its copies."""
        self._size += len(part)
        if self._size <= LARGEST:
            self._parts.append(part)
            return
        self._parts = []
        copies, self._copies = self._copies, []
        for effect in copies:
            mirroring.dropped(effect.call)

    def finish(self) -> None:
        """The body is whole."""
        copies, self._copies = self._copies, []
        content = b"".join(self._parts)
        for effect in copies:
            self._send(effect, content)


class _Copy(NamedTuple):
    call: Call
    run: Callable[[], None]


class MirrorThreads:
    """Sends copies on daemon threads of its own. Thread-safe."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop everything: after a fork the threads are the parent's."""
        self._waiting: deque[_Copy] = deque()
        self._condition = threading.Condition()
        self._threads = self._idle = 0

    def send(self, call: Call, run: Callable[[], None]) -> None:
        """Have a copy sent by ``run``, whose errors are its own affair, or drop it."""
        with self._condition:
            full = len(self._waiting) >= MOST
            if not full:
                self._waiting.append(_Copy(call, run))
                if len(self._waiting) > self._idle and self._threads < WORKERS:
                    self._threads += 1
                    threading.Thread(target=self._work, name="meshlib-mirror", daemon=True).start()
                self._condition.notify()
        if full:
            mirroring.dropped(call)

    def close(self) -> None:
        """Drop what waits; what is under way goes on."""
        with self._condition:
            waiting, self._waiting = list(self._waiting), deque()
        for copy in waiting:
            mirroring.dropped(copy.call)

    def _work(self) -> None:
        while (copy := self._next()) is not None:
            copy.run()

    def _next(self) -> _Copy | None:
        with self._condition:
            self._idle += 1
            found = self._condition.wait_for(lambda: bool(self._waiting), IDLE)
            self._idle -= 1
            if found:
                return self._waiting.popleft()
            self._threads -= 1
            return None


class MirrorTasks:
    """Sends copies as tasks of one event loop, asyncio's or trio's. Used by that loop alone."""

    def __init__(self) -> None:
        self._tasks: set[object] = set()

    def send(self, call: Call, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have a copy sent by ``run``, whose errors are its own affair, or drop it."""
        if len(self._tasks) >= MOST:
            mirroring.dropped(call)
            return
        if sniffio.current_async_library() == "asyncio":
            task = asyncio.get_running_loop().create_task(run(), name="meshlib-mirror")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._spawn_in_trio(run)

    def _spawn_in_trio(self, run: Callable[[], Awaitable[None]]) -> None:
        import trio

        token = object()

        async def tracked() -> None:
            try:
                await run()
            finally:
                self._tasks.discard(token)

        self._tasks.add(token)
        trio.lowlevel.spawn_system_task(tracked)

    async def aclose(self) -> None:
        """Cancel asyncio's tasks; trio's end with its run, or by themselves."""
        tasks = [task for task in self._tasks if isinstance(task, asyncio.Task)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
