"""What the observers of one call share."""

from __future__ import annotations

from meshlib.policy.record import CallRecord


class CallContext:
    """Lives in :attr:`CallRecord.context` from the first observer that needs it.

    Attributes:
        request_id: the ``x-request-id`` that every attempt carries, empty if nobody gave one.
        trace_id: the trace this call belongs to, as 32 hex digits, empty if none.
        span: the call's span while it records, else None; :mod:`meshlib.telemetry.tracing` owns it.
        propagated: the OpenTelemetry context to send upstream, None for nothing; owned likewise.
    """

    __slots__ = ("propagated", "request_id", "span", "trace_id")

    def __init__(self) -> None:
        self.request_id = ""
        self.trace_id = ""
        self.span: object = None
        self.propagated: object = None


def context_of(record: CallRecord) -> CallContext:
    """Return the call's context, made at the first request for it."""
    context = record.context
    if not isinstance(context, CallContext):
        context = record.context = CallContext()
    return context
