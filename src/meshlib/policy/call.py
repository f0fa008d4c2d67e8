"""What one call carries through the policy stack: made by a transport, read by :mod:`meshlib.policy.stack`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

from meshlib.clock import Clock, Randomness
from meshlib.model.request import RequestView
from meshlib.policy import routing, steering
from meshlib.policy.effects import (
    Answer,
    Effect,
)
from meshlib.policy.events import Observer
from meshlib.policy.record import CallRecord
from meshlib.policy.retrying import PlanFor, plan_for
from meshlib.policy.state import LiveSnapshot

Policy = Generator[Effect, Answer, None]
Hint = Callable[[RequestView, routing.Choice], str]


@dataclass(slots=True)
class Call:
    """Everything one call needs; made by a transport, read by :func:`meshlib.policy.stack.execute`.

    Attributes:
        view: the request.
        live: the snapshot over live state, read once by the transport; a newer one takes its place,
            and routing begins anew, only where a cluster has to be waited for.
        record: the call's record.
        clock, chance, observer: the outside, handed in.
        plan_for: makes retry plans; carries the user's tenacity strategies.
        hint: words for a call that found no route ("did you mean …?").
        steering: names of the request headers that steer the call; found out as it goes.
        key: the request's hash, by the route's hash policies; found out as it goes.
    """

    view: RequestView
    live: LiveSnapshot
    record: CallRecord
    clock: Clock
    chance: Randomness
    observer: Observer
    plan_for: PlanFor = plan_for
    hint: Hint = field(default=lambda view, _choice: f"no route for {view.authority}")
    steering: frozenset[str] = steering.NOTHING
    key: int | None = None

    def copied(self, view: RequestView, record: CallRecord, observer: Observer) -> Call:
        """Return a call of ``view`` under the same configuration: a copy of the request."""
        return replace(self, view=view, record=record, observer=observer, steering=steering.NOTHING, key=None)

    def restart(self, view: RequestView) -> None:
        """Go on with another request, after an internal redirect; the record goes on with it."""
        self.view = self.record.request = view
        self.record.attempts = []
        self.record.cluster, self.record.cluster_name = None, ""
        self.key = None
