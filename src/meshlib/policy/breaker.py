"""The opt-in ClusterBreaker: pybreaker's states behind a gate of our own.

pybreaker keeps the states, the storage and the listeners. The gate is ours: ``call()`` holds
its lock while the function runs, never trips on coroutines and lets everyone through when half
open, so outcomes are recorded afterwards with a call that only raises or returns, and one probe
at a time passes while the breaker is half open (design.md, decision 9).

This is not Envoy's ``circuit_breakers`` (``limits.py``) nor outlier detection (``outlier.py``).
"""

from __future__ import annotations

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


class ClusterBreaker:
    """Gate before a call, record after it. Thread-safe by the breaker's own lock.

    Args:
        core: a ``pybreaker.CircuitBreaker``; one per cluster.
        clock: for the reset timeout (pybreaker's own clock is the wall clock).
    """

    __slots__ = ("_clock", "_core", "_opened_at", "_probing")

    def __init__(self, core: BreakerCore, clock: Clock) -> None:
        self._core = core
        self._clock = clock
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        return self._core.current_state

    def admit(self) -> bool:
        """Tell whether a call may pass; a half-open breaker admits one probe at a time."""
        state = self._core.current_state
        if state == "closed":
            return True
        if state == "open":
            if self._opened_at is None:  # opened by somebody else: shared storage, or by hand
                self._opened_at = self._clock()
            if self._clock() - self._opened_at < self._core.reset_timeout:
                return False
            self._core.half_open()
        if self._probing:
            return False
        self._probing = True
        return True

    def record(self, *, failed: bool) -> None:
        """Record the outcome of an admitted call."""
        self._probing = False
        was_open = self._core.current_state == "open"
        try:
            self._core.call(_fail if failed else _succeed)
        except Exception as error:  # noqa: BLE001  pybreaker re-raises ours or its CircuitBreakerError; neither may pass
            del error
        if self._core.current_state == "open" and not was_open:
            self._opened_at = self._clock()

    def abandon(self) -> None:
        """Give an admitted call's permit back without an outcome (cancelled)."""
        self._probing = False
