"""The opt-in ClusterBreaker: pybreaker's states behind a gate of our own.

pybreaker keeps the states, the storage and the listeners. The gate is ours: ``call()`` holds
its lock while the function runs, never trips on coroutines and lets everyone through when half
open, so outcomes are recorded afterwards with a call that only raises or returns, and one probe
at a time passes while the breaker is half open (design.md, decision 9).

This is not Envoy's ``circuit_breakers`` (``limits.py``) nor outlier detection (``outlier.py``).
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Protocol

from meshlib.clock import Clock


class BreakerCore(Protocol):
    """What the gate needs of a ``pybreaker.CircuitBreaker``."""

    @property
    def current_state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        ...

    @property
    def reset_timeout(self) -> float:
        """Seconds an open breaker waits before it lets a probe through."""
        ...

    def call(self, func: object, *args: object) -> object:
        """Run ``func`` and record its outcome."""
        ...

    def half_open(self) -> object:
        """Let probes through."""
        ...

    def open(self) -> object:
        """Refuse calls."""
        ...

    def close(self) -> object:
        """Let calls through."""
        ...


class UpstreamFailed(Exception):
    """What the breaker records for a failed attempt; never leaves this module."""


def _succeed() -> None:
    return None


def _fail() -> None:
    raise UpstreamFailed


class Admission(Enum):
    """What the gate says to a call."""

    REFUSED = "refused"
    PASSED = "passed"  # the breaker is closed
    PROBE = "probe"  # the one call that may pass while it is half open


class ClusterBreaker:
    """Gate before a call, record after it. Thread-safe: the permit to probe is a deque's one item.

    Args:
        core: a ``pybreaker.CircuitBreaker``; one per cluster.
        clock: for the reset timeout (pybreaker's own clock is the wall clock).
    """

    __slots__ = ("_clock", "_core", "_opened_at", "_permit")

    def __init__(self, core: BreakerCore, clock: Clock) -> None:
        self._core = core
        self._clock = clock
        self._opened_at: float | None = None
        self._permit = deque([Admission.PROBE])

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        return self._core.current_state

    def admit(self) -> Admission:
        """Tell whether a call may pass; a half-open breaker admits one probe at a time.

        Every admission but a refusal is given back by :meth:`record` or :meth:`abandon`.
        """
        if self._core.current_state == "closed":
            return Admission.PASSED
        try:
            probe = self._permit.pop()
        except IndexError:
            return Admission.REFUSED
        # From here to the permit's return no other call changes the breaker's state.
        if self._core.current_state == "open":
            if not self._due():
                self.abandon(probe)
                return Admission.REFUSED
            self._core.half_open()
        return probe

    def _due(self) -> bool:
        now = self._clock()
        if self._opened_at is None:  # opened by somebody else: shared storage, or by hand
            self._opened_at = now
        return now - self._opened_at >= self._core.reset_timeout

    def record(self, admission: Admission, *, failed: bool) -> None:
        """Record the outcome of an admitted call."""
        if admission is Admission.PASSED and self._core.current_state != "closed":
            return  # it began before the breaker opened: it proves nothing about now
        try:
            self._core.call(_fail if failed else _succeed)
        except Exception as error:  # noqa: BLE001  pybreaker re-raises ours or its CircuitBreakerError; neither may pass
            del error
        self._opened_at = self._clock() if self._core.current_state == "open" else None
        self.abandon(admission)

    def abandon(self, admission: Admission) -> None:
        """Give an admitted call's permit back without an outcome (cancelled)."""
        if admission is Admission.PROBE:
            self._permit.append(admission)
