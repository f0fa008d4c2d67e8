"""Attempts side by side, for hedging: threads for the blocking driver, tasks for the async one.

Only calls on routes that hedge come here. What the drivers share is the contract of
:class:`~meshlib.policy.effects.Race`: one outcome at a time, and whoever has not answered when
policy is done with racing has lost and is ended.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import cast

import anyio
import httpx
from anyio.abc import TaskGroup

from meshlib.policy.effects import Attempt, Outcome, Race, Raced
from meshlib.runtime.waking import threadsafe
from meshlib.transports.httpx_exchange import Exchange
from meshlib.upstream.clock import AttemptClock

MOST_THREADS = 256  # attempts of one transport that run at once; more wait for a thread

# An attempt's number and what it met, or that its streamed body has gone out; None wakes the driver.
Answer = tuple[int, Outcome | BaseException | None] | None


class Racers:
    """The attempts of one blocking call, each on a thread of its own.

    Args:
        send: makes one attempt.
        exchange: the call.
        threads: where attempts run.

    Attributes:
        clock: of the attempt that answered last, which is the one that wins.
    """

    def __init__(
        self, send: Callable[[Attempt, Exchange, AttemptClock], Outcome], exchange: Exchange, threads: Executor
    ) -> None:
        self._send = send
        self._exchange = exchange
        self._threads = threads
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._running: dict[int, AttemptClock] = {}
        self._answered: dict[int, Outcome] = {}
        # An attempt's connection is cut, and an attempt that is over gives it back, one at a time:
        # what is cut must never be a connection that serves another call by now.
        self._lock = threading.Lock()
        self.clock: AttemptClock | None = None

    def go(self, effect: Race) -> Raced | None:
        """Perform a race: returns the first to answer, None when the time is over or the ticket granted."""
        for number in effect.drop:
            self._drop(number)
        if effect.launch is not None:
            self._launch(effect.launch)
        if effect.ticket is not None:
            effect.ticket.on_grant(lambda: self._answers.put(None))
        answer = self._wait(effect.timeout)
        if answer is None:
            return None
        number, outcome = answer
        if outcome is None:
            return Raced(number, None)
        self.clock = self._running.pop(number)
        if not isinstance(outcome, Outcome):
            raise outcome
        self._answered[number] = outcome
        return Raced(number, outcome)

    def end(self) -> None:
        """End the attempts that have not answered."""
        for number in list(self._running):
            self._drop(number)

    def _wait(self, timeout: float | None) -> Answer:
        left = None if self._running else self._exchange.timeouts.left_for_head()
        if left is not None and (timeout is None or left <= timeout):
            time.sleep(left)
            raise self._exchange.expired()
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            return None

    def _launch(self, effect: Attempt) -> None:
        clock = self._running[effect.number] = self._exchange.clock(effect)
        clock.on_sent = lambda: self._answers.put((effect.number, None))
        self._threads.submit(contextvars.copy_context().run, self._run, effect, clock)

    def _run(self, effect: Attempt, clock: AttemptClock) -> None:
        outcome: Outcome | BaseException
        try:
            outcome = self._send(effect, self._exchange, clock)
        except BaseException as error:  # noqa: BLE001  it is the calling thread's to raise
            outcome = error
        with self._lock:
            if not clock.cancelled:
                self._answers.put((effect.number, outcome))
                return
        if isinstance(outcome, Outcome):
            _close(outcome)

    def _drop(self, number: int) -> None:
        answered = self._answered.pop(number, None)
        if answered is not None:
            _close(answered)
            return
        clock = self._running.pop(number, None)
        if clock is not None:
            with self._lock:
                clock.cancel()
            self._close_unread(number)

    def _close_unread(self, number: int) -> None:
        """Close the response of a loser whose answer nobody took; other answers stay in line."""
        kept: list[Answer] = []
        while not self._answers.empty():
            answer = self._answers.get()
            if answer is not None and answer[0] == number:
                if isinstance(answer[1], Outcome):
                    _close(answer[1])
            else:
                kept.append(answer)
        for answer in kept:
            self._answers.put(answer)


def _close(outcome: Outcome) -> None:
    if outcome.response is not None:
        cast("httpx.Response", outcome.response).close()


class AsyncRacers:
    """The attempts of one async call, each in a task of ``group``; see :class:`Racers`."""

    def __init__(
        self,
        send: Callable[[Attempt, Exchange, AttemptClock], Awaitable[Outcome]],
        exchange: Exchange,
        group: TaskGroup,
    ) -> None:
        self._send = send
        self._exchange = exchange
        self._group = group
        self._answers: deque[Answer] = deque()
        self._came = anyio.Event()
        self._running: dict[int, tuple[AttemptClock, anyio.CancelScope]] = {}
        self._answered: dict[int, Outcome] = {}
        self.clock: AttemptClock | None = None

    async def go(self, effect: Race) -> Raced | None:
        """Perform a race: returns the first to answer, None when the time is over or the ticket granted."""
        for number in effect.drop:
            await self._drop(number)
        if effect.launch is not None:
            clock, scope = self._exchange.clock(effect.launch), anyio.CancelScope()
            launched = effect.launch
            clock.on_sent = lambda: self._put((launched.number, None))
            self._running[launched.number] = clock, scope
            self._group.start_soon(self._run, launched, clock, scope)
        if effect.ticket is not None:
            effect.ticket.on_grant(threadsafe(lambda: self._put(None)))
        answer = await self._wait(effect.timeout)
        if answer is None:
            return None
        number, outcome = answer
        if outcome is None:
            return Raced(number, None)
        self.clock, _ = self._running.pop(number)
        if not isinstance(outcome, Outcome):
            raise outcome
        self._answered[number] = outcome
        return Raced(number, outcome)

    async def end(self) -> None:
        """End the attempts that have not answered."""
        with anyio.CancelScope(shield=True):
            for number in list(self._running):
                await self._drop(number)

    async def _wait(self, timeout: float | None) -> Answer:
        left = None if self._running else self._exchange.timeouts.left_for_head()
        if left is not None and (timeout is None or left <= timeout):
            await anyio.sleep(left)
            raise self._exchange.expired()
        with anyio.move_on_after(timeout):
            while not self._answers:
                self._came = anyio.Event()
                await self._came.wait()
        return self._answers.popleft() if self._answers else None

    def _put(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._came.set()

    async def _run(self, effect: Attempt, clock: AttemptClock, scope: anyio.CancelScope) -> None:
        outcome: Outcome | BaseException
        with scope:
            try:
                outcome = await self._send(effect, self._exchange, clock)
            except Exception as error:  # noqa: BLE001  it is the calling task's to raise
                outcome = error
            if not clock.cancelled:
                self._put((effect.number, outcome))
            elif isinstance(outcome, Outcome):
                await _aclose(outcome)

    async def _drop(self, number: int) -> None:
        answered = self._answered.pop(number, None)
        if answered is not None:
            await _aclose(answered)
            return
        found = self._running.pop(number, None)
        if found is None:
            return
        clock, scope = found
        clock.cancel()
        scope.cancel()
        for answer in [each for each in self._answers if each is not None and each[0] == number]:
            self._answers.remove(answer)
            if isinstance(answer[1], Outcome):
                await _aclose(answer[1])


async def _aclose(outcome: Outcome) -> None:
    if outcome.response is not None:
        await cast("httpx.Response", outcome.response).aclose()
