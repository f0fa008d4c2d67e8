"""Circuit-breaker thresholds of one cluster and priority: what may run, wait and retry at once.

Envoy's ``circuit_breakers`` are concurrency limits, not a state machine (that is ``breaker.py``)
and not per-endpoint ejection (that is ``outlier.py``). The counts gate, so they are taken under
a lock. The lock is re-entrant: a call abandoned by the application gives its counts back from
the garbage collector, which may run while this thread holds the lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshlib.model.cluster import UINT32_MAX, Thresholds
from meshlib.policy.effects import WakeUp

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState


def mutex() -> threading.RLock:
    """Return a lock for counts and states that gate; the one place where policy takes one from."""
    return threading.RLock()


class ConnectionTicket:
    """A place in the queue for a connection; granted, or withdrawn by its owner."""

    __slots__ = ("_limits", "_wake", "endpoint", "granted")

    def __init__(self, limits: Limits, endpoint: EndpointState) -> None:
        self._limits = limits
        self.endpoint = endpoint
        self._wake: WakeUp | None = None
        self.granted = False

    def on_grant(self, wake: WakeUp) -> None:
        """Call ``wake()`` once the slot is granted, at once if it already is. Any thread."""
        with self._limits.lock:
            granted = self.granted
            self._wake = wake
        if granted:
            wake()

    def grant(self) -> WakeUp | None:
        """Mark granted and return whom to wake, for the limits to call outside the lock."""
        self.granted = True
        self.endpoint.connections += 1
        self._limits.connections += 1
        return self._wake


class Limits:
    """Counts of one cluster and priority against its thresholds; survives configuration swaps. Thread-safe.

    Args:
        thresholds: what is allowed.
        lock: the cluster's, None makes it.

    Attributes:
        lock: the cluster's lock, re-entrant; also guards its endpoints' counts.
        requests: attempts in flight.
        retries: retries in back-off or in flight.
        connections: attempts that hold a connection (HTTP/1.1: one each).
        pending: tickets that wait for a connection, oldest first.
    """

    __slots__ = ("connections", "lock", "pending", "requests", "retries", "thresholds")

    def __init__(self, thresholds: Thresholds, lock: threading.RLock | None = None) -> None:
        self.lock = mutex() if lock is None else lock
        self.thresholds = thresholds
        self.requests = 0
        self.retries = 0
        self.connections = 0
        self.pending: deque[ConnectionTicket] = deque()

    def try_retry(self) -> bool:
        """Take a retry slot, or refuse: ``max_retries`` (default 3) *concurrent* retries, or the ``retry_budget``.

        To be asked while the failed attempt still counts as a request, as in Envoy.
        """
        with self.lock:
            if self.retries >= self.retries_allowed():
                return False
            self.retries += 1
            return True

    def retries_allowed(self) -> int:
        """Return how many retries may run at once, now."""
        budget = self.thresholds.retry_budget
        if budget is None:
            return self.thresholds.max_retries
        share = budget.percent / 100.0 * (self.requests + len(self.pending))
        return max(int(share), budget.min_concurrency)

    @property
    def retry_limit(self) -> str:
        """What limits retries, in words."""
        budget = self.thresholds.retry_budget
        if budget is None:
            return f"max_retries={self.thresholds.max_retries}"
        return f"retry_budget of {budget.percent:g} % and at least {budget.min_concurrency}"

    def release_retry(self) -> None:
        """Give a retry slot back."""
        with self.lock:
            self.retries -= 1

    @property
    def gates_connections(self) -> bool:
        """Whether ``max_connections`` is set at all; Istio's default is 2^32-1, no limit."""
        thresholds = self.thresholds
        return thresholds.max_connections < UINT32_MAX or thresholds.max_connections_per_host < UINT32_MAX

    def configure(self, thresholds: Thresholds) -> None:
        """Take new thresholds; waiters whom they let through are woken."""
        with self.lock:
            self.thresholds = thresholds
            wakes = self._grant_waiting()
        for wake in wakes:
            wake()

    def admit(self, endpoint: EndpointState, *, gated: bool) -> bool:
        """Take a connection slot, where they are ``gated``, and a request slot; False when either would need a wait.

        What nearly every attempt does, under one lock; :meth:`leave` gives both back.
        """
        with self.lock:
            if self.requests >= self.thresholds.max_requests:
                return False
            if gated:
                if self.pending or not self._fits(endpoint):
                    return False
                self.connections += 1
                endpoint.connections += 1
            self.requests += 1
            endpoint.active += 1
            return True

    def leave(self, endpoint: EndpointState, *, gated: bool) -> None:
        """Give back what :meth:`admit` took; the oldest waiter gets the connection slot."""
        wakes: Sequence[WakeUp] = ()
        with self.lock:
            self.requests -= 1
            endpoint.active -= 1
            if gated:
                self.connections -= 1
                endpoint.connections -= 1
                if self.pending:
                    wakes = self._grant_waiting()
        for wake in wakes:
            wake()

    def connect(self, endpoint: EndpointState) -> ConnectionTicket | None:
        """Take a connection slot or a place in the queue; None when the queue is full.

        At most ``max_connections`` hold one, at most ``max_pending_requests`` wait (measured on
        Envoy with 1 and 1: of five at once, one runs, one waits, three overflow). An endpoint
        without any gets its first one all the same, as in Envoy's connection pools.
        """
        ticket = ConnectionTicket(self, endpoint)
        with self.lock:
            if self._fits(endpoint):
                ticket.grant()
            elif len(self.pending) < self.thresholds.max_pending_requests:
                self.pending.append(ticket)
            else:
                return None
        return ticket

    def disconnect(self, ticket: ConnectionTicket) -> None:
        """Give a slot or a place in the queue back; the oldest waiter gets the slot."""
        with self.lock:
            if not ticket.granted:
                if ticket in self.pending:
                    self.pending.remove(ticket)
                return
            ticket.granted = False
            ticket.endpoint.connections -= 1
            self.connections -= 1
            wakes = self._grant_waiting() if self.pending else ()
        for wake in wakes:
            wake()

    def _fits(self, endpoint: EndpointState) -> bool:
        thresholds, held = self.thresholds, endpoint.connections
        return held == 0 or (
            self.connections < thresholds.max_connections and held < thresholds.max_connections_per_host
        )

    def _grant_waiting(self) -> list[WakeUp]:
        """Grant whom a slot has become free for, oldest first; returns whom to wake."""
        wakes: list[WakeUp] = []
        while (ticket := next((t for t in self.pending if self._fits(t.endpoint)), None)) is not None:
            self.pending.remove(ticket)
            wake = ticket.grant()
            if wake is not None:
                wakes.append(wake)
        return wakes
