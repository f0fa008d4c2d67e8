"""Fault injection: what the fault filter draws for one request (gRFC A33, HTTPFault)."""

from __future__ import annotations

from functools import lru_cache

from meshlib.clock import Randomness
from meshlib.model.match import Predicate
from meshlib.model.request import RequestView
from meshlib.model.traffic import FaultAbort, FaultInjection


@lru_cache(maxsize=256)
def _conditions(fault: FaultInjection) -> tuple[Predicate, ...]:
    return tuple(match.compile() for match in fault.headers)


def applies(fault: FaultInjection, view: RequestView, cluster: str) -> bool:
    """Tell whether the fault looks at this request at all."""
    if fault.upstream_cluster and fault.upstream_cluster != cluster:
        return False
    return all(condition(view) for condition in _conditions(fault))


def draw_delay(fault: FaultInjection, chance: Randomness) -> float:
    """Return the seconds to delay this request, 0.0 for none."""
    delay = fault.delay
    if delay is None or chance.random() * 100.0 >= delay.percentage:
        return 0.0
    return delay.seconds


def draw_abort(fault: FaultInjection, chance: Randomness) -> FaultAbort | None:
    """Return the abort to answer with, None for none."""
    abort = fault.abort
    if abort is None or chance.random() * 100.0 >= abort.percentage:
        return None
    return abort
