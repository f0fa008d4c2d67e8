"""Looking names up in threads of their own: a resolver that hangs holds nobody up but itself.

The system's resolver (``getaddrinfo``) blocks, has no timeout and cannot be cancelled. At most
``THREADS`` threads run it; they are daemons, so that one that hangs does not keep the process
from ending, and end when there is nothing to do. A name that is under way is not asked again:
whoever asks waits for the same answer.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from meshlib.model.discovery import LookupFamily

THREADS = 8
_IDLE = 2.0  # seconds that a thread waits for another name
_NO_SUCH_NAME = frozenset(
    code for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if (code := getattr(socket, name, None)) is not None
)

Key = tuple[str, LookupFamily]


class Answer(NamedTuple):
    """What a look-up came to.

    Attributes:
        addresses: in the resolver's order; none where the name does not exist.
        ttl: seconds that the answer holds, None where the resolver does not tell.
        error: why there is no answer, empty where there is one.
    """

    addresses: tuple[str, ...] = ()
    ttl: float | None = None
    error: str = ""


class Resolver(Protocol):
    """Looks a name up; may block, may be called in several threads, and raises ``OSError`` for a failure."""

    def __call__(self, name: str, family: LookupFamily, /) -> Answer:
        """Return the addresses of a name, none where it does not exist."""
        ...


def system_resolver(name: str, family: LookupFamily) -> Answer:
    """Look a name up by ``getaddrinfo``, as the process's configuration says; it does not tell the TTL.

    AUTO asks for IPv4 addresses where there are no IPv6 ones, V4_PREFERRED the other way round.
    """
    v4, v6 = socket.AF_INET, socket.AF_INET6
    turns: dict[LookupFamily, tuple[int, ...]] = {
        LookupFamily.V4_ONLY: (v4,),
        LookupFamily.V6_ONLY: (v6,),
        LookupFamily.AUTO: (v6, v4),
        LookupFamily.V4_PREFERRED: (v4, v6),
        LookupFamily.ALL: (socket.AF_UNSPEC,),
    }
    for turn in turns[family]:
        addresses = _addresses(name, turn)
        if addresses:
            return Answer(addresses)
    return Answer()


def _addresses(name: str, family: int) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _NO_SUCH_NAME:
            return ()
        raise
    except UnicodeError as error:
        raise OSError(f"{name!r} cannot be a host name: {error}") from None
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))


class Lookups:
    """Runs a resolver in threads. Thread-safe.

    Args:
        resolver: looks names up.
    """

    def __init__(self, resolver: Resolver = system_resolver) -> None:
        self._resolver = resolver
        self._changed = threading.Condition()
        self._queue: deque[Key] = deque()
        self._waiting: dict[Key, list[Callable[[Answer], None]]] = {}
        self._threads = 0
        self._idle = 0

    def ask(self, name: str, family: LookupFamily, told: Callable[[Answer], None]) -> None:
        """Look a name up and call ``told``, in one of the threads, with what comes of it."""
        key = (name, family)
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
