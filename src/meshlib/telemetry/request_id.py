"""``x-request-id``, which every Envoy adds and every log of a mesh is searched by."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from meshlib.policy.events import NO_HEADERS, NullObserver
from meshlib.policy.record import AttemptRecord, CallRecord
from meshlib.telemetry.context import context_of

HEADER = "x-request-id"


class RequestId(NullObserver):
    """Gives a call without ``x-request-id`` a random UUID; all its attempts carry the same.

    An id that the request brings is kept. Put this observer before those that report the id.
    Thread-safe: it holds no state.
    """

    __slots__ = ()

    def call_started(self, record: CallRecord) -> None:
        """Read the request's id, or make one."""
        context_of(record).request_id = record.request.header(HEADER) or str(uuid4())

    def attempt_started(self, record: CallRecord, attempt: AttemptRecord) -> Sequence[tuple[str, str]]:  # noqa: ARG002  the protocol's signature
        """Return the header, unless the request itself has it."""
        if record.request.header(HEADER):
            return NO_HEADERS
        return ((HEADER, context_of(record).request_id),)
