"""``x-request-id``, which every Envoy adds and every log of a mesh is searched by."""

from __future__ import annotations

import os
from collections.abc import Sequence

from meshlib.policy.events import NO_HEADERS, NullObserver
from meshlib.policy.record import AttemptRecord, CallRecord
from meshlib.telemetry.context import context_of

HEADER = "x-request-id"


# The variant bits "10" of RFC 9562 §4.1, by the random hex digit they replace.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def new_request_id() -> str:
    """Return a random UUID (version 4) as text; without a UUID object, for it stands on every call's path."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


class RequestId(NullObserver):
    """Gives a call without ``x-request-id`` a random UUID; all its attempts carry the same.

    An id that the request brings is kept. Put this observer before those that report the id.
    Thread-safe: it holds no state.
    """

    __slots__ = ()

    def call_started(self, record: CallRecord) -> None:
        """Read the request's id, or make one."""
        context_of(record).request_id = record.request.header(HEADER) or new_request_id()

    def attempt_started(self, record: CallRecord, attempt: AttemptRecord) -> Sequence[tuple[str, str]]:  # noqa: ARG002  the protocol's signature
        """Return the header, unless the request itself has it."""
        if record.request.header(HEADER):
            return NO_HEADERS
        return ((HEADER, context_of(record).request_id),)
