"""What the engine tells the observer: metrics, traces and the access log hang on these five."""

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

    def mirror_ended(self, record: CallRecord) -> None:
        """A copy of a request is over (request mirroring), or was dropped: ``mirror_overflow`` in its detail.

        Called on a thread or task of the mesh's own.
        """


class NullObserver:
    """Observes nothing."""

    __slots__ = ()

    def call_started(self, record: CallRecord) -> None:
        """Do nothing."""

    def attempt_started(self, record: CallRecord, attempt: AttemptRecord) -> Sequence[tuple[str, str]]:  # noqa: ARG002  the protocol's signature
        """Add no header."""
        return NO_HEADERS

    def attempt_ended(self, record: CallRecord, attempt: AttemptRecord) -> None:
        """Do nothing."""

    def call_ended(self, record: CallRecord) -> None:
        """Do nothing."""

    def mirror_ended(self, record: CallRecord) -> None:
        """Do nothing."""


class MirrorObserver(NullObserver):
    """What a mirrored call tells: nothing but its end, and that apart from calls of the application.

    Args:
        observer: is told.
    """

    __slots__ = ("_observer",)

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def call_ended(self, record: CallRecord) -> None:
        """Tell of the end of a copy."""
        self._observer.mirror_ended(record)
