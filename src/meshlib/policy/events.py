"""What the engine tells the observer: metrics, traces and the access log hang on these four."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from meshlib.policy.record import AttemptRecord, CallRecord

NO_HEADERS: Sequence[tuple[str, str]] = ()


class Observer(Protocol):
    """Receives the events of calls, on the caller's thread or task. Must not raise or block."""

    def call_started(self, record: CallRecord) -> None:
        """A call begins; nothing is routed yet."""

    def attempt_started(self, record: CallRecord, attempt: AttemptRecord) -> Sequence[tuple[str, str]]:
        """An attempt begins; returns headers to send with it (trace context), lower-case names.

        A header returned here replaces the request's own of that name.
        """

    def attempt_ended(self, record: CallRecord, attempt: AttemptRecord) -> None:
        """An attempt met its response head or failed."""

    def call_ended(self, record: CallRecord) -> None:
        """The call is over: its body closed, or it failed. Called exactly once a call."""


class NullObserver:
    """Observes nothing."""

    def call_started(self, record: CallRecord) -> None:
        """Do nothing."""

    def attempt_started(self, record: CallRecord, attempt: AttemptRecord) -> Sequence[tuple[str, str]]:  # noqa: ARG002  the protocol's signature
        """Add no header."""
        return NO_HEADERS

    def attempt_ended(self, record: CallRecord, attempt: AttemptRecord) -> None:
        """Do nothing."""

    def call_ended(self, record: CallRecord) -> None:
        """Do nothing."""
