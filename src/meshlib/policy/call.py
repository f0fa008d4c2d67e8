"""What one call carries through the policy stack: made by a transport, read by :mod:`meshlib.policy.stack`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

from meshlib.clock import Clock, Randomness
from meshlib.model.headers import Pair
from meshlib.model.request import RequestView
from meshlib.model.traffic import HashPolicy
from meshlib.policy import routing, steering
from meshlib.policy.effects import (
    Answer,
    Effect,
)
from meshlib.policy.events import Observer
from meshlib.policy.faults import ActiveFaults
from meshlib.policy.record import NO_METADATA, CallRecord
from meshlib.policy.replaying import KeptBody
from meshlib.policy.retrying import PlanFor, plan_for
from meshlib.policy.sessions import Session
from meshlib.policy.state import LiveSnapshot
from meshlib.policy.trace import Trace

Policy = Generator[Effect, Answer, None]
Steps = Generator[Effect, Answer, bool]  # returns whether an internal redirect makes the call begin anew
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
        added: headers that filters add to the request.
        answered: headers that filters add to the response.
        cookies: ``set-cookie`` headers that hash policies make.
        removed: headers of the request that filters take off.
        session: which endpoint a stateful session asks for, None without one.
        deadline: clock second at which the application's own time for the call is over, None = no bound;
            the driver keeps to it, policy tells it upstream.
        strict: ``retry_safety="strict"``.
        races: whether the driver can make attempts side by side.
        kept: what went out of a streamed body, where it may be sent again; found out as it goes.
        trace: takes note of every decision, None for a call that is not traced.
        response_rate: bytes a second to which a fault slows the response down, 0.0 = as it comes.
        fault: where a fault injected into this call is counted; found out as it goes.
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
    added: Sequence[Pair] = ()
    answered: Sequence[Pair] = ()
    cookies: Sequence[str] = ()
    removed: frozenset[str] = frozenset()
    session: Session | None = None
    deadline: float | None = None
    strict: bool = False
    races: bool = False
    kept: KeptBody | None = None
    trace: Trace | None = None
    fault: ActiveFaults | None = None
    response_rate: float = 0.0

    def copied(self, view: RequestView, record: CallRecord, observer: Observer) -> Call:
        """Return a call of ``view`` under the same configuration: a copy of the request."""
        call = replace(
            self, view=view, record=record, observer=observer, races=False, kept=None, trace=None, fault=None
        )
        call.forget()
        return call

    def make_cookie(self, policy: HashPolicy) -> str:
        """Make the cookie of a hash policy for a request without it; returns its value."""
        value = f"{int(self.chance.random() * 2**64):016x}"
        if policy.cookie is not None:
            self.cookies = [*self.cookies, policy.cookie.header(policy.name, value)]
        return value

    def restart(self, view: RequestView) -> None:
        """Go on with another request, after an internal redirect; the record goes on with it."""
        self.view = self.record.request = view
        self.record.attempts, self.record.metadata = [], NO_METADATA
        self.record.cluster, self.record.cluster_name = None, ""
        self.forget()

    def forget(self) -> None:
        """Forget what was found out of another request."""
        if self.fault is not None:
            self.fault.leave()
        self.fault, self.response_rate = None, 0.0
        self.steering, self.key = steering.NOTHING, None
        self.added = self.answered = self.cookies = ()
        self.session, self.removed = None, frozenset()
