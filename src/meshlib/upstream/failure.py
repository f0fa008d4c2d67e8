"""Why an attempt or a body failed, in policy's words; transports turn it into their library's errors."""

from __future__ import annotations

from meshlib.policy.effects import ErrorKind


class AttemptFailed(Exception):
    """Something between us and the endpoint failed.

    Attributes:
        kind: policy's word for it; TIMEOUT and APPLICATION are told apart by the attempt's clock.
        message: the failure in words.
        phase: ``connect``, ``write``, ``read`` or ``pool``: which timeout of the application applies;
            ``end`` where the peer ended the connection in good order, but too early.
        timed_out: whether a timeout ended it.
    """

    def __init__(self, kind: ErrorKind, message: str, *, phase: str, timed_out: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.phase = phase
        self.timed_out = timed_out
