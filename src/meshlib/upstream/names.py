"""Names of hosts outside the mesh, to which calls pass through: looked up when a connection is made.

``getaddrinfo`` in the caller's thread would hold it up for as long as the resolver likes; here it
is asked in a thread of its own, and the caller waits no longer than its connection may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import httpcore

from meshlib.lookups import Answer, Lookups
from meshlib.model.discovery import LookupFamily
from meshlib.model.snapshot import is_ip

ConnectionT = TypeVar("ConnectionT")

_lookups = Lookups()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lookups.forked)


def connect(host: str, timeout: float | None, connect_to: Callable[[str, float | None], ConnectionT]) -> ConnectionT:
    """Connect to the first address of a host that takes a connection.

    Args:
        host: an address, or a name to look up.
        timeout: seconds for all of it, None = no bound.
        connect_to: connects to an address, within so many seconds.

    Raises:
        TimeoutError: the look-up took too long.
        OSError: there is no address, or none takes a connection.
    """
    if is_ip(host.partition("%")[0]):
        return connect_to(host, timeout)
    until = None if timeout is None else time.monotonic() + timeout
    found = _found(_lookups.wait(host, LookupFamily.ALL, timeout))
    for address in found[:-1]:
        with contextlib.suppress(OSError, httpcore.ConnectError, httpcore.ConnectTimeout):
            return connect_to(address, _left(until))
    return connect_to(found[-1], _left(until))


async def addresses(host: str) -> Sequence[str]:
    """Return the addresses of a host to connect to, on asyncio; raises ``OSError`` where there is none."""
    if is_ip(host.partition("%")[0]):
        return (host,)
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Answer] = loop.create_future()

    def take(answer: Answer) -> None:
        if not answered.done():
            answered.set_result(answer)

    def told(answer: Answer) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(take, answer)

    _lookups.ask(host, LookupFamily.ALL, told)
    return _found(await answered)


def _found(answer: Answer) -> Sequence[str]:
    if answer.error:
        raise OSError(answer.error)
    if not answer.addresses:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return answer.addresses


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.001, until - time.monotonic())
