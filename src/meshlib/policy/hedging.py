"""Attempts side by side: ``hedge_on_per_try_timeout``.

When an attempt's per-try timeout passes it is not cut: it goes on, and the retry runs beside it.
The first good response wins, the late one of the first attempt too, and the others are ended. A
bad one is given up while another attempt may still bring a good one. The rules are those of
Envoy's router (``onSoftPerTryTimeout``, ``onUpstreamHeaders``); ``retry_on`` need not cover
timeouts for a hedge, but there has to be a retry policy with ``retry_on``, a retry left and a
slot for it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from meshlib.policy.deadlines import BLAMED
from meshlib.policy.effects import Answer, Attempt, Effect, ErrorKind, Outcome, Race, Raced, Reply
from meshlib.policy.outlier import Verdict

if TYPE_CHECKING:
    from meshlib.policy.attempts import Attempts
    from meshlib.policy.call import Steps
    from meshlib.policy.cluster_state import EndpointState
    from meshlib.policy.limits import ConnectionTicket
    from meshlib.policy.record import AttemptRecord

_SOFT = Outcome(error=ErrorKind.TIMEOUT, message="per-try timeout; the attempt goes on")


class Runner:
    """One attempt of several.

    Attributes:
        state: its endpoint.
        ticket: its connection slot, granted or waited for; None where none is needed.
        record: None until it begins.
        sent: what it sends, None until it begins.
        soft: clock second of its per-try timeout, None = none, or it has passed.
        retried: whether its retry has been decided.
        begun: whether it counts as a request.
    """

    __slots__ = ("begun", "record", "retried", "sent", "soft", "state", "ticket")

    def __init__(self, state: EndpointState, ticket: ConnectionTicket | None) -> None:
        self.state = state
        self.ticket = ticket
        self.record: AttemptRecord | None = None
        self.sent: Attempt | None = None
        self.soft: float | None = None
        self.retried = False
        self.begun = False


class Heat:
    """The attempts of one call that run side by side.

    Attributes:
        running: attempts that await their response head, by number.
        parked: the attempt that waits for a connection slot.
        due: clock second at which the next attempt begins, None for none.
        drop: numbers to drop with the next effect.
        uploading: number of the attempt whose streamed body is going out, 0 for none.
    """

    __slots__ = ("attempts", "drop", "due", "parked", "running", "uploading")

    def __init__(self, attempts: Attempts) -> None:
        self.attempts = attempts
        self.running: dict[int, Runner] = {}
        self.parked: Runner | None = None
        self.due: float | None = attempts.call.clock()
        self.drop: list[int] = []
        self.uploading = 0

    @property
    def alone(self) -> bool:
        """Whether nothing runs, waits or is due."""
        return not self.running and self.parked is None and self.due is None

    def next_wait(self, now: float) -> float | None:
        """Return the seconds until something has to be done without an answer, None = no bound."""
        moments = [runner.soft for runner in self.running.values() if runner.soft is not None]
        if self.due is not None:
            moments.append(self.due)
        waits = [max(0.0, moment - now) for moment in moments]
        remaining = self.attempts.deadlines.attempt_timeout(now, soft=True)
        if remaining is not None and not self.uploading:
            waits.append(remaining)
        return min(waits, default=None)

    def prepare(self) -> Attempt | Reply | None:
        """Begin the attempt that is due, as far as it can; returns its effect, or why the call is over."""
        attempts = self.attempts
        runner = self.parked
        if runner is None:
            self.due = None
            state = attempts.pick()
            if state is None:
                return None if self.running else attempts.no_endpoint()
            ticket = None
            limits = attempts.limits_of(state)
            if limits.gates_connections and not attempts.multiplexed(state.cluster):
                ticket = limits.connect(state)
                if ticket is None:
                    return self._overflow("max_pending_requests", limits.thresholds.max_pending_requests)
            runner = Runner(state, ticket)
        if runner.ticket is not None and not runner.ticket.granted:
            self.parked = runner
            return None
        self.parked = None
        limits = attempts.limits_of(runner.state)
        if not runner.state.cluster.offers(runner.state):
            self.release(runner)
            self.due = attempts.call.clock()  # it was removed while the call waited: pick anew
            return None
        runner.begun = runner.state.cluster.begin(runner.state, limits)
        if not runner.begun:
            self.release(runner)
            return self._overflow("max_requests", limits.thresholds.max_requests)
        runner.record, effect = attempts.begin(runner.state, soft=True)
        runner.sent = effect
        self.running[effect.number] = runner
        if attempts.call.view.replayable:
            self.sent(runner)
        else:
            self.uploading = effect.number
        return effect

    def sent(self, runner: Runner) -> None:
        """Start the per-try timeout of an attempt: its request is sent in full."""
        per_try, more = self.attempts.deadlines.per_try, self.attempts.deadlines.more
        bounds = [each for each in (per_try, more.per_try_idle if more is not None else 0.0) if each]
        if bounds:
            runner.soft = self.attempts.call.clock() + min(bounds)

    def uploaded(self, number: int) -> None:
        """Take note that a streamed body has gone out: the route's timeout runs from here, too."""
        if self.uploading != number:
            return
        self.uploading = 0
        runner = self.running[number]
        assert runner.record is not None
        if number == 1:
            self.attempts.deadlines.uploaded(self.attempts.call.clock() - runner.record.started)
        self.sent(runner)

    def _overflow(self, threshold: str, limit: int) -> Reply | None:
        """Return the reply of a call at a threshold; None where it only leaves out a hedge."""
        return None if self.running else self.attempts.overflow(threshold, limit)

    def hedge(self, now: float) -> None:
        """Decide on the retry beside an attempt whose per-try timeout has passed."""
        attempts = self.attempts
        for runner in self.running.values():
            if runner.soft is None or now < runner.soft:
                continue
            runner.soft = None
            runner.state.cluster.observe(runner.state, Verdict.CUT, now)
            policy = attempts.action.retry
            if policy is None or not policy.retry_on:
                continue
            wait = attempts.schedule(_SOFT, int(self.due is not None))
            if wait is not None:
                self.due = now + wait
                runner.retried = True

    def ended(self, answer: Raced) -> tuple[Outcome, Runner] | None:
        """Take an attempt's outcome; returns it where it is the call's, else None."""
        attempts = self.attempts
        assert answer.outcome is not None
        self.uploaded(answer.number)
        runner = self.running.pop(answer.number)
        assert runner.record is not None
        outcome = attempts.met(runner.state, runner.record, answer.outcome._replace(upload=0.0))
        if outcome.error is ErrorKind.APPLICATION:
            return outcome, runner
        if runner.retried:
            hopeless = outcome.error is not None or attempts.wants(outcome)
        else:
            wait = attempts.retry(outcome, scheduled=int(self.due is not None))
            if wait is not None:
                self.due = attempts.call.clock() + wait
            hopeless = outcome.error is not None or attempts.refused or wait is not None
        if hopeless and not self.alone:
            self.drop.append(answer.number)
            self.release(runner)
            return None
        return outcome, runner

    def release(self, runner: Runner) -> None:
        """Give back what an attempt holds."""
        limits = self.attempts.limits_of(runner.state)
        if runner.begun:
            runner.begun = False
            runner.state.cluster.end(runner.state, limits)
        if runner.ticket is not None:
            limits.disconnect(runner.ticket)

    def end(self, *, blamed: bool = False) -> None:
        """End every attempt that has not won; ``blamed``: the route's timeout passed over them."""
        now = self.attempts.call.clock()
        for runner in self.running.values():
            if blamed and runner.soft is not None:
                runner.state.cluster.observe(runner.state, Verdict.CUT, now)
            if runner.record is not None:
                self.attempts.cancelled(runner.record)
            self.release(runner)
        self.running.clear()
        if self.parked is not None:
            self.release(self.parked)
            self.parked = None


def race(attempts: Attempts) -> Steps:
    """Run the attempts of a call side by side until one's outcome is final or the time is over."""
    heat = Heat(attempts)
    winner: Runner | None = None
    try:
        won = yield from _won(heat)
        if isinstance(won, Reply):
            yield won
            return False
        outcome, winner = won
        heat.end()
        attempts.state = winner.state
        assert winner.record is not None
        assert winner.sent is not None
        restart = attempts.redirected(outcome, winner.sent)
        if restart is None:
            attempts.body_ended((yield attempts.final(outcome, winner.record)), winner.record)
        else:
            yield restart
            attempts.call.restart(restart.view)
        return attempts.restarted
    finally:
        heat.end()
        if winner is not None:
            heat.release(winner)
        attempts.release_retry()


def _won(heat: Heat) -> Generator[Effect, Answer, tuple[Outcome, Runner] | Reply]:
    """Race until there is an outcome to return, or a reply."""
    attempts, clock = heat.attempts, heat.attempts.call.clock
    while True:
        now = clock()
        launch: Attempt | None = None
        waits = heat.parked is not None and heat.parked.ticket is not None and not heat.parked.ticket.granted
        if not waits and (heat.parked is not None or (heat.due is not None and now >= heat.due)):
            prepared = heat.prepare()
            if isinstance(prepared, Reply):
                return prepared
            launch = prepared
            if launch is not None and launch.number == 1 and attempts.action.mirrors:
                yield from attempts.sending.mirrors(launch)
            if launch is None and not heat.running and heat.parked is None:
                continue  # its endpoint was removed meanwhile
        ticket = heat.parked.ticket if heat.parked is not None else None
        dropped, heat.drop = heat.drop, []
        answer = yield Race(launch, dropped, ticket, heat.next_wait(clock()))
        if isinstance(answer, Raced):
            if answer.outcome is None:
                heat.uploaded(answer.number)
            elif (ended := heat.ended(answer)) is not None:
                return ended
            continue
        now = clock()
        if not heat.uploading and attempts.deadlines.expired(now):
            heat.end(blamed=attempts.deadlines.expiry in BLAMED)
            return attempts.timed_out()
        heat.hedge(now)
