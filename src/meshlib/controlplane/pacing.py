"""What keeps one client from taking the server from the others, and edits in a row from being pushes in a row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf.message import DecodeError


@dataclass(frozen=True, slots=True)
class Limits:
    """What keeps one client from taking the server from the others, and a storm of edits from being a storm of pushes.

    Attributes:
        streams: open at once, of all clients.
        first_request: seconds in which a stream must say who it is.
        burst: requests of one stream that are answered at once.
        per_second: requests of one stream that are answered a second after that.
        quiet: seconds without a change before changes are pushed.
        longest: seconds after a change in which it is pushed even if others follow.
    """

    streams: int = 10_000
    first_request: float = 15.0
    burst: int = 1_000
    per_second: float = 100.0
    quiet: float = 0.001
    longest: float = 0.1


DEFAULT_LIMITS = Limits()


class Debounce:
    """Calls back once for changes in a row: when they have ceased, and at the latest a while after the first.

    Args:
        loop: in whose thread everything happens.
        callback: what is called.
        limits: ``quiet`` and ``longest``.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None], limits: Limits) -> None:
        self._loop = loop
        self._callback = callback
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0

    def touch(self) -> None:
        """Note a change."""
        now = self._loop.time()
        if self._timer is None:
            self._since = now
        else:
            self._timer.cancel()
        due = min(now + self._limits.quiet, self._since + self._limits.longest)
        self._timer = self._loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._callback()


class Requests:
    """What a client asks, at a pace that leaves time for the others.

    A client may ask ``burst`` times at once and ``per_second`` times a second after that. Beyond,
    it is read more slowly, until it has to wait to send.
    """

    def __init__(
        self,
        messages: AsyncIterator[bytes],
        parse: Callable[[bytes], Any],
        context: grpc.aio.ServicerContext,
        limits: Limits,
    ) -> None:
        self._messages = messages
        self._parse = parse
        self._context = context
        self._limits = limits
        self._allowance = float(limits.burst)
        self._at = time.monotonic()

    async def first(self) -> Any:
        """Return the first request; None where the client left without one."""
        try:
            async with asyncio.timeout(self._limits.first_request):
                return await self._next()
        except TimeoutError:
            message = f"no request came within {self._limits.first_request:g} s"
            await self._context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, message)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (request := await self._next()) is not None:
            yield request

    async def _next(self) -> Any:
        await self._pace()
        message = await anext(self._messages, None)
        if message is None:
            return None
        try:
            return self._parse(message)
        except DecodeError:
            await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no discovery request")

    async def _pace(self) -> None:
        now = time.monotonic()
        limits = self._limits
        self._allowance = min(limits.burst, self._allowance + (now - self._at) * limits.per_second)
        self._at = now
        if self._allowance < 1:
            await asyncio.sleep((1 - self._allowance) / limits.per_second)
        self._allowance -= 1
