"""Looking names up in threads of their own: a resolver that hangs holds nobody up but itself.

The system's resolver (``getaddrinfo``) blocks, has no timeout and cannot be cancelled. At most
``THREADS`` threads run it; they are daemons, so that one that hangs does not keep the process
from ending, and end when there is nothing to do. A name that is under way is not asked again:
whoever asks waits for the same answer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from meshlib.lookups.resolver import Answer, Resolver, system_resolver
from meshlib.model.discovery import LookupFamily

THREADS = 8
_IDLE = 2.0  # seconds that a thread waits for another name

Key = tuple[str, LookupFamily, bool]


class Lookups:
    """Runs a resolver in threads. Thread-safe.

    Args:
        resolver: looks names up.
    """

    def __init__(self, resolver: Resolver = system_resolver) -> None:
        self._resolver = resolver
        self.forked()

    def forked(self) -> None:
        """Start over in a forked child, where no thread is."""
        self._changed = threading.Condition()
        self._queue: deque[Key] = deque()
        self._waiting: dict[Key, list[Callable[[Answer], None]]] = {}
        self._threads = 0
        self._idle = 0

    def ask(self, name: str, family: LookupFamily, told: Callable[[Answer], None], *, ttl: bool = False) -> None:
        """Look a name up and call ``told``, in one of the threads, with what comes of it.

        Args:
            name: the name.
            family: which of its addresses are wanted.
            told: must not block.
            ttl: whether its TTL is wanted.
        """
        key = (name, family, ttl)
        with self._changed:
            waiting = self._waiting.get(key)
            if waiting is not None:
                waiting.append(told)
                return
            self._waiting[key] = [told]
            self._queue.append(key)
            if self._idle >= len(self._queue):
                self._changed.notify()
            elif self._threads < THREADS:
                self._threads += 1
                threading.Thread(target=self._work, name="meshlib-lookup", daemon=True).start()

    def wait(self, name: str, family: LookupFamily, timeout: float | None) -> Answer:
        """Look a name up and wait for the answer; raises ``TimeoutError`` after ``timeout`` seconds."""
        answers: list[Answer] = []
        there = threading.Event()

        def told(answer: Answer) -> None:
            answers.append(answer)
            there.set()

        self.ask(name, family, told)
        if not there.wait(timeout):
            raise TimeoutError(f"the resolver did not answer for {name!r} within {timeout or 0.0:.3g}s")
        return answers[0]

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._queue:
                    self._idle += 1
                    self._changed.wait_for(lambda: bool(self._queue), _IDLE)
                    self._idle -= 1
                if not self._queue:
                    self._threads -= 1
                    return
                key = self._queue.popleft()
            try:
                answer = self._resolver(*key)
            except OSError as error:
                answer = Answer(error=str(error))
            except Exception as error:  # noqa: BLE001  an injected resolver's own fault fails one look-up
                answer = Answer(error=f"{type(error).__name__}: {error}")
            with self._changed:
                told = self._waiting.pop(key)
            for each in told:
                each(answer)
