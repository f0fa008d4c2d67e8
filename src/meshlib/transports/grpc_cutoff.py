"""Ends a streaming RPC at the mesh's timeout."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Protocol


class Timer(Protocol):
    """A call to come; ``threading.Timer`` and ``asyncio.TimerHandle`` are such."""

    def cancel(self) -> None:
        """Do not call."""


Later = Callable[[float, Callable[[], None]], Timer]


class Cutoff:
    """Cancels an RPC when its time is over, which runs from the moment the request is complete.

    grpc's own timeout would run from the start and to the end; the mesh's run from the complete
    request to the first response message, then (the route's) to the end. Thread-safe. It does not
    keep the RPC alive.

    Args:
        later: calls a function after so many seconds.
        complete: whether the request is complete from the start; else see :meth:`request_complete`.

    Attributes:
        fired: whether the time was over and the RPC cancelled.
    """

    def __init__(self, later: Later, *, complete: bool) -> None:
        self._later = later
        self._started = time.monotonic()
        self._completed = self._started if complete else None
        self._seconds: float | None = None
        self._timer: Timer | None = None
        self._inner: Callable[[], Any] = lambda: None
        self._lock = threading.Lock()
        self.fired = False

    @property
    def upload(self) -> float:
        """Seconds the request has taken so far, or took."""
        return (time.monotonic() if self._completed is None else self._completed) - self._started

    def watch(self, inner: Any) -> None:
        """Cancel ``inner`` when the time is over."""
        self._inner = weakref.ref(inner)

    def grant(self, seconds: float | None) -> None:
        """Grant ``seconds`` from now, or from the complete request; None = no bound. Replaces the last grant."""
        with self._lock:
            self._seconds = seconds
            self._start()

    def request_complete(self) -> None:
        """The request is complete: its time starts. Idempotent."""
        with self._lock:
            if self._completed is None:
                self._completed = time.monotonic()
                self._start()

    def requests(self, iterator: Iterable[Any]) -> Iterator[Any]:
        """Pass the messages of a request on, and note when it is complete."""
        yield from iterator
        self.request_complete()

    async def arequests(self, iterator: AsyncIterable[Any] | Iterable[Any]) -> AsyncIterator[Any]:
        """Do as :meth:`requests`, for asyncio."""
        if isinstance(iterator, AsyncIterable):
            async for message in iterator:
                yield message
        else:
            for message in iterator:
                yield message
        self.request_complete()

    def stop(self) -> bool:
        """Grant no more time and cut no more; returns :attr:`fired`."""
        with self._lock:
            self._seconds = None
            self._start()
            return self.fired

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._seconds is not None and self._completed is not None and not self.fired:
            self._timer = self._later(self._seconds, self._cut)

    def _cut(self) -> None:
        with self._lock:
            if self._seconds is None:
                return  # stopped meanwhile
            self.fired = True
            inner = self._inner()
        if inner is not None:
            inner.cancel()


def on_thread(seconds: float, call: Callable[[], None]) -> Timer:
    """Call on a thread of its own."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    return timer
