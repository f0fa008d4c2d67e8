"""Whether a request can be sent again, and what is kept of its body for that (semantics 4.6).

As in Envoy, a body larger than the buffer limit is not sent again: the limit is the route's or
the listener's, 1 MiB by default. A body in memory is sent again from there; of a streamed one a
copy is kept while it goes out, so that the first attempt is never delayed by it.
"""

from __future__ import annotations

from meshlib.model.filter_chain import DEFAULT_BODY_LIMIT, HttpConnectionManager
from meshlib.model.request import RequestView
from meshlib.model.route import RouteAction

NOT_REPLAYABLE = "body not replayable"


class KeptBody:
    """The parts of a streamed request body that went out, as long as they fit. Used by one call.

    Args:
        limit: bytes kept at most.

    Attributes:
        parts: what went out, in order; empty once it was too much.
        lost: whether something went out that is not kept.
    """

    __slots__ = ("_left", "lost", "parts")

    def __init__(self, limit: int) -> None:
        self._left = limit
        self.parts: list[bytes] = []
        self.lost = False

    def add(self, part: bytes) -> None:
        """Keep a part that is about to go out."""
        if self.lost:
            return
        self._left -= len(part)
        if self._left < 0:
            self.lost = True
            self.parts = []
        else:
            self.parts.append(part)


def body_limit(action: RouteAction, http: HttpConnectionManager | None) -> int:
    """Return the bytes of a body that may be kept: the route's own limit, else the listener's, lowered by the route."""
    if action.body_limit is not None:
        return action.body_limit
    limit = http.body_limit if http is not None else DEFAULT_BODY_LIMIT
    return limit if action.body_limit_min is None else min(limit, action.body_limit_min)


def hindrance(view: RequestView, kept: KeptBody | None, limit: int) -> str:
    """Return why a request cannot be sent again, empty where it can."""
    if view.replayable:
        size = view.whole("content-length") or 0
        return f"body of {size} bytes is over the buffer limit of {limit}" if size > limit else ""
    if kept is None:
        return NOT_REPLAYABLE
    return f"{NOT_REPLAYABLE}: over the buffer limit of {limit}" if kept.lost else ""
