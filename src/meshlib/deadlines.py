"""The application's deadline: by when what it does now must be done, whatever it calls on the way.

::

    with meshlib.deadline(2.0):
        catalog = client.get("http://catalog/items")       # cut to what is left of the two seconds
        stub.Price(request)                                # and so is this

Carried by a context variable, so it holds for the threads' and tasks' own contexts alike: a task
inherits it from whoever started it. An inner deadline can only bring the outer one nearer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from meshlib.clock import system_clock

_deadline: ContextVar[float | None] = ContextVar("meshlib_deadline", default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Bound every call through the mesh in this context to ``seconds`` from now, over all attempts and bodies.

    An expiry ends the call, is never retried and never counts against an endpoint. What is left is
    told upstream (``x-envoy-expected-rq-timeout-ms``, ``grpc-timeout``). A call that begins when
    nothing is left fails at once.

    Args:
        seconds: from now; 0 or less is spent already.
    """
    at = system_clock() + seconds
    outer = _deadline.get()
    token = _deadline.set(at if outer is None else min(at, outer))
    try:
        yield
    finally:
        _deadline.reset(token)


def current_deadline() -> float | None:
    """Return the monotonic second of the deadline in force here, None for none."""
    return _deadline.get()
