"""Fault injection: what the fault filter draws for one request (gRFC A33, HTTPFault)."""

from __future__ import annotations

from functools import lru_cache

from meshlib.clock import Randomness
from meshlib.model.match import Predicate
from meshlib.model.request import RequestView
from meshlib.model.traffic import FaultAbort, FaultInjection
from meshlib.policy.limits import mutex


class ActiveFaults:
    """Calls of a mesh with a fault injected, for ``max_active_faults``. Thread-safe."""

    __slots__ = ("_active", "_lock")

    def __init__(self) -> None:
        self._active = 0
        self._lock = mutex()

    def enter(self, most: int | None) -> bool:
        """Count a call in; False when ``most`` are under way (None = no limit)."""
        with self._lock:
            if most is not None and self._active >= most:
                return False
            self._active += 1
            return True

    def leave(self) -> None:
        """Count a call out."""
        with self._lock:
            self._active -= 1


@lru_cache(maxsize=256)
def _conditions(fault: FaultInjection) -> tuple[Predicate, ...]:
    return tuple(match.compile() for match in fault.headers)


def applies(fault: FaultInjection, view: RequestView, cluster: str) -> bool:
    """Tell whether the fault looks at this request at all."""
    if fault.upstream_cluster and fault.upstream_cluster != cluster:
        return False
    if fault.downstream_nodes and view.header("x-envoy-downstream-service-node") not in fault.downstream_nodes:
        return False
    return all(condition(view) for condition in _conditions(fault))


def draw_delay(fault: FaultInjection, view: RequestView, chance: Randomness) -> float:
    """Return the seconds to delay this request, 0.0 for none."""
    delay = fault.delay
    if delay is None:
        return 0.0
    seconds, percentage = delay.seconds, delay.percentage
    if delay.by_header:
        seconds = (view.whole("x-envoy-fault-delay-request") or 0) / 1000
        percentage = _lowered(percentage, delay.unit, view, "x-envoy-fault-delay-request-percentage")
    return seconds if seconds and chance.random() * 100.0 < percentage else 0.0


def draw_rate(fault: FaultInjection, view: RequestView, chance: Randomness) -> float:
    """Return the bytes a second to which this request's response is slowed down, 0.0 for no slowing."""
    rate = fault.rate
    if rate is None:
        return 0.0
    kbps, percentage = rate.kbps, rate.percentage
    if rate.by_header:
        kbps = view.whole("x-envoy-fault-throughput-response") or 0
        percentage = _lowered(percentage, rate.unit, view, "x-envoy-fault-throughput-response-percentage")
    return 1024.0 * kbps if kbps and chance.random() * 100.0 < percentage else 0.0


def draw_abort(fault: FaultInjection, view: RequestView, chance: Randomness) -> FaultAbort | None:
    """Return the abort to answer with, None for none."""
    abort = fault.abort
    if abort is None:
        return None
    percentage = abort.percentage
    if abort.by_header:
        asked = _asked(view)
        if asked is None:
            return None
        percentage = _lowered(percentage, abort.unit, view, "x-envoy-fault-abort-request-percentage")
        abort = asked
    return abort if chance.random() * 100.0 < percentage else None


def _asked(view: RequestView) -> FaultAbort | None:
    """Return the abort that a request asks for, None where it asks for none that can be."""
    status = view.whole("x-envoy-fault-abort-request")
    if status is not None:
        return FaultAbort(100.0, status=status) if 200 <= status < 600 else None
    grpc = view.whole("x-envoy-fault-abort-grpc-request")
    return None if grpc is None else FaultAbort(100.0, grpc_status=grpc)


def _lowered(percentage: float, unit: float, view: RequestView, name: str) -> float:
    asked = view.whole(name)
    return percentage if asked is None else min(percentage, asked * unit)
