"""The attempts of one call on one cluster: the innermost part of the stack of :mod:`meshlib.policy.stack`.

One after the other here; side by side, where the route hedges, in :mod:`meshlib.policy.hedging`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple

from meshlib.model.discovery import Discovery, address_in
from meshlib.model.match import is_grpc
from meshlib.model.metadata import criteria, merged
from meshlib.model.route import RouteAction, WeightedCluster
from meshlib.policy import aggregate, flags, hedging, redirecting, replies, routing, timing
from meshlib.policy.balancing.hashing import request_key
from meshlib.policy.balancing.picker import NO_PRIORITIES
from meshlib.policy.balancing.previous_priorities import PreviousPriorities
from meshlib.policy.call import Call, Steps
from meshlib.policy.cluster_state import ClusterState, EndpointState
from meshlib.policy.deadlines import BLAMED, FINAL
from meshlib.policy.effects import (
    Answer,
    Attempt,
    BodyEnd,
    Discard,
    Effect,
    ErrorKind,
    Outcome,
    Park,
    Reply,
    Respond,
    Restart,
    Sleep,
)
from meshlib.policy.limits import ConnectionTicket, Limits
from meshlib.policy.outlier import GATEWAY_STATUSES, Verdict
from meshlib.policy.record import AttemptRecord
from meshlib.policy.replaying import KeptBody, body_limit
from meshlib.policy.retries import Retries
from meshlib.policy.retrying import NEVER_SENT, avoided, wanted
from meshlib.policy.sending import Sending

# gRPC status -> HTTP status for outlier detection, as Envoy's Grpc::Utility::grpcToHttpStatus.
GRPC_TO_HTTP = {2: 500, 4: 504, 12: 501, 13: 500, 14: 503, 15: 500}


WARMING = 15.0  # seconds that a call without a timeout waits at most, as Envoy's initial_fetch_timeout
UNHEALTHY_HEADER = "x-envoy-immediate-health-check-fail"
_SILENT = frozenset({ErrorKind.APPLICATION, ErrorKind.TLS_UNAVAILABLE})  # these say nothing of an endpoint


class Queued(NamedTuple):
    """What came of a wait for slots.

    Attributes:
        admitted: whether the attempt may begin.
        ticket: its connection slot, None where none is needed.
        again: seconds until the next attempt where it may not, None where the call is over.
    """

    admitted: bool
    ticket: ConnectionTicket | None = None
    again: float | None = None


_OVER, _AGAIN = Queued(False), Queued(False, again=0.0)


class Attempts:
    """Tries endpoints until an outcome is final.

    Attributes:
        failed: whether the call failed, for the breaker; None while nothing is known.
        restarted: whether an internal redirect makes the call begin anew.
    """

    __slots__ = (
        "action",
        "call",
        "choice",
        "cluster",
        "deadlines",
        "drawn",
        "failed",
        "limits",
        "named",
        "record",
        "restarted",
        "retries",
        "sending",
        "spent",
        "state",
        "tried",
        "verdict",
    )

    def __init__(
        self, call: Call, choice: routing.Choice, action: RouteAction, drawn: WeightedCluster, cluster: ClusterState
    ) -> None:
        self.call = call
        self.choice = choice
        self.action = action
        self.drawn = drawn
        self.cluster = cluster
        self.limits = cluster.high if action.high_priority else cluster.limits
        self.record = call.record
        self.deadlines = timing.deadlines(call, choice, action, cluster.config)
        self.sending = Sending(call, choice, action, drawn, self.deadlines)
        self.tried: set[tuple[str, int]] = set()
        self.failed: bool | None = None
        self.restarted = False
        self.verdict: Verdict | None = None  # on the last attempt
        self.retries: Retries | None = None  # made after the first failure
        self.state: EndpointState | None = None  # of the last attempt
        self.named: Iterator[str] | None = None  # endpoints the request names, those not tried yet
        self.spent: PreviousPriorities | None = None
        retry = action.retry
        if retry is not None:
            if retry.previous_priorities:
                self.spent = PreviousPriorities(retry.previous_priorities)
            if not call.view.replayable and self.record.protocol == "http":
                call.kept = KeptBody(self._body_limit())
            if call.strict:
                cluster.deposit(call.clock())

    def run(self) -> Steps:
        """Attempt, back off and attempt again until an outcome is final or the time is over."""
        try:
            if (self.cluster.upkeep is not None or self.cluster.config.members) and not (yield from self._prepared()):
                yield self.timed_out()
                return False
            if self.sending.hedges:
                return (yield from hedging.race(self))
            while True:
                wait = yield from self._one()
                if wait is None:
                    return self.restarted
                remaining = self.deadlines.remaining(self.call.clock())
                if wait:
                    yield Sleep(wait if remaining is None else min(wait, remaining))
                if self.deadlines.expired(self.call.clock()):
                    yield self.timed_out()
                    return False
        finally:
            self.release_retry()

    def _prepared(self) -> Generator[Effect, Answer, bool]:
        """Wait for first look-ups and health checks, as Envoy warms a cluster; False when the route's time is over."""
        until = self.call.clock() + WARMING
        for cluster in self._clusters():
            ticket = cluster.upkeep.called(self.call.clock()) if cluster.upkeep is not None else None
            if ticket is not None:
                now = self.call.clock()
                left = self.deadlines.remaining(now)
                yield Park(ticket, max(0.0, until - now if left is None else min(left, until - now)), pooled=False)
        return not self.deadlines.expired(self.call.clock())

    def _clusters(self) -> list[ClusterState]:
        """Return the clusters that endpoints may be picked from."""
        members = [self.call.live.clusters.get(name) for name in self.cluster.config.members]
        return [member for member in members if member is not None] if members else [self.cluster]

    def limits_of(self, state: EndpointState) -> Limits:
        """Return the limits of an attempt: of an aggregate cluster, those of the member its endpoint belongs to."""
        cluster = state.cluster
        if cluster is self.cluster:
            return self.limits
        return cluster.high if self.action.high_priority else cluster.limits

    def multiplexed(self, cluster: ClusterState) -> bool:
        """Tell whether many requests share a connection, so that max_connections holds none of them up."""
        return cluster.config.http2 or self.record.protocol == "grpc"

    def _one(self) -> Generator[Effect, Answer, float | None]:
        """One attempt; returns the back-off before the next, or None when the call is over."""
        state = self.pick()
        if state is None:
            yield self.no_endpoint()
            return None
        limits = self.limits_of(state)
        gated = limits.gates_connections and not self.multiplexed(state.cluster)
        ticket: ConnectionTicket | None = None
        at_once = limits.admit(state, gated=gated)
        if not at_once:
            queued = yield from self._queued(state, gated=gated)
            if not queued.admitted:
                return queued.again
            ticket = queued.ticket
        try:
            attempt, effect = self.begin(state)
            try:
                if self.action.mirrors and attempt.number == 1:
                    yield from self.sending.mirrors(effect)
                outcome = self.met(state, attempt, (yield effect))
            except BaseException:
                self.cancelled(attempt)
                raise
            wait = self.retry(outcome) if self.action.retry is not None else None
            if wait is None and (restart := self.redirected(outcome, effect)) is not None:
                yield restart
                self.call.restart(restart.view)
            elif wait is None:
                self.body_ended((yield self.final(outcome, attempt)), attempt)
            elif outcome.response is not None:
                yield Discard(outcome)
            return wait
        finally:
            if at_once:
                limits.leave(state, gated=gated)
            else:
                self._leave(state, ticket)

    def _queued(self, state: EndpointState, *, gated: bool) -> Generator[Effect, Answer, Queued]:
        """Wait for the slots of an attempt; whoever is not admitted holds none."""
        limits = self.limits_of(state)
        ticket: ConnectionTicket | None = None
        admitted = False
        try:
            if gated:
                ticket = limits.connect(state)
                if ticket is None:
                    yield self.overflow("max_pending_requests", limits.thresholds.max_pending_requests)
                    return _OVER
                if not ticket.granted:
                    if not (yield from self._parked(ticket)):
                        self.deadlines.expired(self.call.clock())
                        yield self.timed_out()
                        return _OVER
                    if not state.cluster.offers(state):
                        return _AGAIN  # it was removed while the call waited: pick anew
            admitted = state.cluster.begin(state, limits)
            if not admitted:
                yield self.overflow("max_requests", limits.thresholds.max_requests)
                return _OVER
            return Queued(True, ticket)
        finally:
            if not admitted and ticket is not None:
                limits.disconnect(ticket)

    def _parked(self, ticket: ConnectionTicket) -> Generator[Effect, Answer, bool]:
        """Wait for a connection slot, for as long as the call's timeouts leave."""
        yield Park(ticket, self.deadlines.remaining(self.call.clock()))
        return ticket.granted

    def _leave(self, state: EndpointState, ticket: ConnectionTicket | None) -> None:
        """Give back what :meth:`_queued` took."""
        limits = self.limits_of(state)
        state.cluster.end(state, limits)
        if ticket is not None:
            limits.disconnect(ticket)

    # ---- one attempt

    def pick(self) -> EndpointState | None:
        """Return the endpoint of the next attempt, None where there is none."""
        call, cluster, tried, key = self.call, self.cluster, self.tried, self.call.key
        balancing = cluster.config.balancing
        if balancing.override_headers and (named := self._named(balancing.override_headers)) is not None:
            return named
        if balancing.hashing.hash_policies:
            key = request_key(balancing.hashing.hash_policies, call.view)
        if cluster.config.discovery is Discovery.ORIGINAL_DST:
            return cluster.original(*self._original())
        subset, dynamic = self.drawn.subset, self.record.metadata
        if dynamic and (made := dynamic.get("envoy.lb")):
            subset = merged(subset, criteria(made))
        session = call.session
        if session is not None and session.endpoint is not None and not tried and not cluster.config.members:
            strict = session.config.strict
            return cluster.pick(call.clock(), key=key, subset=subset, override=session.endpoint, strict=strict)
        retry = self.action.retry
        avoid: Callable[[EndpointState], bool] | None = None
        tries = 1
        if tried and retry is not None:
            avoid, tries = avoided(retry, tried), retry.host_selection_max_attempts
        if call.trace is not None:
            avoid = call.trace.picking(cluster, avoid, subset)
        if cluster.config.members:
            now, clusters = call.clock(), call.live.clusters
            return aggregate.pick(cluster, clusters, call.chance, now, avoid=avoid, tries=tries, key=key, subset=subset)
        spent = NO_PRIORITIES if self.spent is None else self.spent.spent(cluster.priorities())
        return cluster.pick(call.clock(), avoid, tries, key, subset=subset, spent=spent)

    def _named(self, headers: Sequence[str]) -> EndpointState | None:
        """Return the next endpoint that the request names (``override_host``); each serves one attempt."""
        if self.named is None:
            values = (next(iter(self.call.view.values(header)), "") for header in headers)
            self.named = iter([address.strip() for value in values for address in value.split(",") if address.strip()])
        return next(filter(None, map(self.cluster.named, self.named)), None)

    def _original(self) -> tuple[str, int]:
        """Return the address that the call is for: the caller's, or what an ORIGINAL_DST cluster takes in its place."""
        view, destination = self.call.view, self.choice.destination
        host, port = destination.address if destination else view.host, view.port
        instead = self.cluster.config.original_dst
        if instead.header and (named := address_in(view.header(instead.header))):
            host, port = named
        return host, port if instead.port is None else instead.port

    def redirected(self, outcome: Outcome, sent: Attempt) -> Restart | None:
        """Return the request that an internal redirect leads to, None for none."""
        policy = self.action.internal_redirects
        restart = redirecting.followed(self.call, policy, outcome, sent) if policy is not None else None
        if restart is not None:
            self.release_retry()
            self.failed, self.restarted = False, True
        return restart

    def begin(self, state: EndpointState, *, soft: bool = False) -> tuple[AttemptRecord, Attempt]:
        """Return the record of an attempt that begins, and its effect.

        Args:
            state: its endpoint, counted in.
            soft: whether it goes on when its per-try timeout passes.
        """
        call, record = self.call, self.record
        now = call.clock()
        self.state = state
        endpoint = state.endpoint
        self.tried.add(state.key)
        if self.spent is not None:
            self.spent.attempted(state)
        timeout = self.deadlines.attempt_timeout(now, soft=soft)
        attempt = AttemptRecord(len(record.attempts) + 1, endpoint, now, timeout)
        record.attempts.append(attempt)
        added = call.observer.attempt_started(record, attempt)
        if call.added:
            added = [*call.added, *added]
        if call.trace is not None:
            call.trace.attempt(attempt, self.deadlines, self.limits_of(state))
        return attempt, self.sending.attempt(attempt, state.cluster, now, added)

    def met(self, state: EndpointState, attempt: AttemptRecord, outcome: Answer) -> Outcome:
        """Take note of what an attempt met."""
        if not isinstance(outcome, Outcome):
            raise TypeError(f"the driver answered an Attempt with {outcome!r}")
        if outcome.upload:
            self.deadlines.uploaded(outcome.upload)
        attempt.status, attempt.grpc_status = outcome.status, outcome.grpc_status
        if outcome.error is not None:
            attempt.error = outcome.message or outcome.error.value
            attempt.error_kind = outcome.error
        now = attempt.ended = self.call.clock()
        self.call.observer.attempt_ended(self.record, attempt)
        cluster = state.cluster
        if cluster.upkeep is not None and outcome.headers.get(UNHEALTHY_HEADER) is not None:
            cluster.upkeep.refused(state)
        if cluster.learns:
            cluster.learn(state, outcome, now - attempt.started, now)
        verdict = self.verdict = self._judge(outcome)
        if verdict is not None and cluster.outliers.config is not None:
            cluster.observe(state, verdict, now)
        return outcome

    def cancelled(self, attempt: AttemptRecord) -> None:
        """Take note of an attempt that is given up before it met anything."""
        if attempt.ended:
            return
        attempt.error = "cancelled"
        attempt.ended = self.call.clock()
        self.call.observer.attempt_ended(self.record, attempt)

    def _judge(self, outcome: Outcome) -> Verdict | None:
        """Return what an outcome says of its endpoint, None when it says nothing."""
        error = outcome.error
        if error is not None:
            if error in _SILENT or (error is ErrorKind.TIMEOUT and self.deadlines.expiry not in BLAMED):
                return None
            connected = error not in NEVER_SENT and outcome.written
            return Verdict.CUT if connected else Verdict.LOCAL_ORIGIN
        status = outcome.status or 0
        if outcome.grpc_status is not None and (self.record.protocol == "grpc" or is_grpc(self.call.view)):
            status = GRPC_TO_HTTP.get(outcome.grpc_status, 200)
        if status < 500:
            return Verdict.SUCCESS
        return Verdict.GATEWAY_ERROR if status in GATEWAY_STATUSES else Verdict.SERVER_ERROR

    # ---- retries

    def retry(self, outcome: Outcome, *, scheduled: int = 0) -> float | None:
        """Decide: the seconds to wait before a retry, or None when this outcome is the last.

        Args:
            outcome: what the attempt met.
            scheduled: retries that are already decided and not begun yet.
        """
        if self.wants(outcome):
            return self.schedule(outcome, scheduled)
        if self.retries is not None:
            self.retries.refused = False
            self.retries.release()
        return None

    def wants(self, outcome: Outcome) -> bool:
        """Tell whether ``retry_on`` covers an outcome, whatever the limits say."""
        policy = self.action.retry
        if policy is None or not wanted(policy, outcome, self.call.view):
            return False
        return outcome.error is not ErrorKind.TIMEOUT or self.deadlines.expiry not in FINAL

    def schedule(self, outcome: Outcome, scheduled: int = 0) -> float | None:
        """Take a slot for a wanted retry; returns the seconds to wait, or None where it is refused."""
        policy, retries = self.action.retry, self.retries
        if retries is None:
            assert policy is not None
            retries = Retries(policy, self.call, self.cluster, self.limits, self.deadlines, self._body_limit())
            self.retries = retries
        return retries.schedule(outcome, scheduled)

    @property
    def refused(self) -> bool:
        """Whether the retry wanted last was refused: no retries left, a limit, the body."""
        return self.retries is not None and self.retries.refused

    def _body_limit(self) -> int:
        destination = self.choice.destination
        return body_limit(self.action, destination.http if destination is not None else None)

    def release_retry(self) -> None:
        """Give the retry slot back, where one is held."""
        if self.retries is not None:
            self.retries.release()

    # ---- the end

    def final(self, outcome: Outcome, attempt: AttemptRecord) -> Respond | Reply:
        """Return the effect that hands the final outcome over; every slot is held until its body ends."""
        record = self.record
        if self.retries is not None:
            self.retries.release()
        if outcome.error is not None or outcome.status is None:
            self.failed = None if outcome.error is ErrorKind.APPLICATION else True
            return self.failure(outcome)
        self.failed = self.verdict is not Verdict.SUCCESS
        record.status, record.grpc_status, record.detail = outcome.status, outcome.grpc_status, "via_upstream"
        left, gap = self.deadlines.body_timeout(self.call.clock(), attempt.started, soft=self.sending.hedges)
        return Respond(outcome, left, gap, self.sending.edit(outcome.status), self.call.response_rate)

    def body_ended(self, end: Answer, attempt: AttemptRecord) -> None:
        """Take note of how the body ended."""
        if not isinstance(end, BodyEnd):
            return
        record = self.record
        record.bytes_received = end.received
        if self.state is not None and end.trailers:
            self.state.cluster.report(self.state, end.trailers, self.call.clock())
        if end.error is None:
            return
        if end.error is ErrorKind.TIMEOUT:
            now = self.call.clock()
            left, _ = self.deadlines.body_timeout(now, attempt.started)
            expiry, more = self.deadlines.expiry, self.deadlines.more
            # A timer never fires early; its clock may differ a little.
            if more is not None and more.gap is not None and (left is None or left > 0.001):
                expiry = more.silence
            _, _, flag, record.detail = replies.TIMEOUTS[expiry]
            record.flags |= flag
        elif end.error is ErrorKind.APPLICATION:
            record.flags |= flags.DOWNSTREAM_CONNECTION_TERMINATION
        else:
            self.failed = True
            # Measured: to Envoy's HTTP/1.1 codec a message that is cut short breaks the protocol.
            http2 = self.multiplexed(self.cluster if self.state is None else self.state.cluster)
            record.flags |= flags.UPSTREAM_CONNECTION_TERMINATION if http2 else flags.UPSTREAM_PROTOCOL_ERROR
            cut = "connection_termination" if http2 else "protocol_error"
            record.detail = f"upstream_reset_after_response_started{{{cut}}}"

    def failure(self, outcome: Outcome) -> Reply:
        """Return the reply to an attempt's error."""
        if outcome.error is ErrorKind.TIMEOUT:
            return self.timed_out(outcome.exception)
        reply = replies.attempt_failed(self.record, outcome)
        if self.cluster.config.discovery is Discovery.ORIGINAL_DST:
            # No service has this name, so the call was passed through: perhaps a slip of the pen.
            reply.message += routing.near_miss(self.call.view, self.choice)
        return self.sending.local(reply)

    def timed_out(self, cause: BaseException | None = None) -> Reply:
        """Return the reply to the timeout that passed last."""
        self.failed = True
        expiry, status = self.deadlines.expiry, self.action.timeout_status
        seconds = self.deadlines.seconds(expiry)
        return self.sending.local(replies.timed_out(self.record, expiry, seconds=seconds, cause=cause, status=status))

    def no_endpoint(self) -> Reply:
        """Return the reply where the cluster has no endpoint to offer."""
        self.failed = True
        clusters = self._clusters()
        known = sum(len(each.endpoints) for each in clusters)
        reply = replies.no_healthy_upstream(self.record, known, sum(len(each.outliers.ejected) for each in clusters))
        trouble = [each.upkeep.trouble for each in clusters if each.upkeep is not None]
        reply.message += "".join(f"; {text}" for text in trouble if text)
        return self.sending.local(reply)

    def overflow(self, threshold: str, limit: int) -> Reply:
        """Return the reply where a threshold is reached."""
        return self.sending.local(replies.overflow(self.record, threshold, limit))
