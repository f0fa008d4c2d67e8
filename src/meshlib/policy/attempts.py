"""The attempts of one call on one cluster: the innermost part of the stack of :mod:`meshlib.policy.stack`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from meshlib.model.discovery import Discovery, address_in
from meshlib.model.match import is_grpc
from meshlib.model.route import RouteAction, WeightedCluster
from meshlib.policy import aggregate, flags, headers, mirroring, redirecting, replies, routing
from meshlib.policy.balancing.hashing import request_key
from meshlib.policy.call import Call, Policy
from meshlib.policy.cluster_state import ClusterState, EndpointState
from meshlib.policy.deadlines import Deadlines
from meshlib.policy.effects import (
    Answer,
    Attempt,
    BodyEnd,
    Discard,
    Effect,
    ErrorKind,
    Mirror,
    Outcome,
    Park,
    Reply,
    Respond,
    Restart,
    Sleep,
)
from meshlib.policy.headers import CallFacts, Edit, RequestHead
from meshlib.policy.limits import ConnectionTicket
from meshlib.policy.outlier import GATEWAY_STATUSES, Verdict
from meshlib.policy.record import AttemptRecord
from meshlib.policy.retrying import RetryState, avoided, wanted

WARMING = 15.0  # seconds that a call without a timeout waits at most, as Envoy's initial_fetch_timeout
UNHEALTHY_HEADER = "x-envoy-immediate-health-check-fail"

# gRPC status -> HTTP status for outlier detection, as Envoy's Grpc::Utility::grpcToHttpStatus.
GRPC_TO_HTTP = {2: 500, 4: 504, 12: 501, 13: 500, 14: 503, 15: 500}


class Attempts:
    """Tries endpoints until an outcome is final; :attr:`failed` tells the breaker."""

    __slots__ = (
        "action",
        "authority",
        "call",
        "choice",
        "cluster",
        "deadlines",
        "drawn",
        "failed",
        "head",
        "named",
        "record",
        "restarted",
        "retrying",
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
        self.authority = ""  # of the endpoint, once it stands in for the request's own
        self.drawn = drawn
        self.cluster = cluster
        self.head: RequestHead | None = None  # made with the first attempt, the same for all
        self.record = call.record
        self.deadlines = Deadlines(action, call.clock())
        self.tried: set[tuple[str, int]] = set()
        self.failed: bool | None = None  # None while nothing is known, for the breaker
        self.verdict: Verdict | None = None  # on the last attempt
        self.retrying = False
        self.restarted = False  # by an internal redirect: the call begins anew
        self.state: EndpointState | None = None  # of the last attempt
        self.named: Iterator[str] | None = None  # endpoints the request names, those not tried yet

    def run(self) -> Policy:
        """Attempt, back off and attempt again until an outcome is final or the time is over."""
        try:
            if (self.cluster.upkeep is not None or self.cluster.config.members) and not (yield from self._prepared()):
                yield self._local(self._timeout(route=True))
                return
            while True:
                wait = yield from self._one()
                if wait is None:
                    return
                remaining = self.deadlines.remaining(self.call.clock())
                if wait:
                    yield Sleep(wait if remaining is None else min(wait, remaining))
                if self.deadlines.expired(self.call.clock()):
                    yield self._local(self._timeout(route=True))
                    return
        finally:
            self._release_retry()

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

    def _one(self) -> Generator[Effect, Answer, float | None]:
        """One attempt; returns the back-off before the next, or None when the call is over."""
        state = self._pick()
        if state is None:
            yield self._local(self._no_endpoint())
            return None
        cluster = state.cluster  # of an aggregate cluster, the member that the endpoint belongs to
        ticket: ConnectionTicket | None = None
        begun = False
        try:
            if cluster.limits.gates_connections and not self._multiplexed(cluster):
                ticket = cluster.limits.connect(state)
                if ticket is None:
                    limit = cluster.limits.thresholds.max_pending_requests
                    yield self._local(self._overflow("max_pending_requests", limit))
                    return None
                if not ticket.granted:
                    if not (yield from self._wait_for(ticket)):
                        yield self._local(self._timeout(route=True))
                        return None
                    if not cluster.offers(state):
                        return 0.0  # it was removed while the call waited: pick anew
            begun = cluster.begin(state)
            if not begun:
                yield self._local(self._overflow("max_requests", cluster.limits.thresholds.max_requests))
                return None
            outcome, sent = yield from self._send(state)
            wait = self._retry(outcome)
            if wait is None and (restart := self._redirected(outcome, sent)) is not None:
                yield restart
                self.call.restart(restart.view)
            elif wait is None:
                yield from self._finish(outcome, state)
            elif outcome.response is not None:
                yield Discard(outcome)
            return wait
        finally:
            if begun:
                cluster.end(state)
            if ticket is not None:
                cluster.limits.disconnect(ticket)

    def _multiplexed(self, cluster: ClusterState) -> bool:
        """Tell whether many requests share a connection, so that max_connections holds none of them up."""
        return cluster.config.http2 or self.record.protocol == "grpc"

    def _wait_for(self, ticket: ConnectionTicket) -> Generator[Effect, Answer, bool]:
        """Wait for a connection slot, for as long as the route's timeout leaves."""
        yield Park(ticket, self.deadlines.remaining(self.call.clock()))
        return ticket.granted

    def _pick(self) -> EndpointState | None:
        cluster, call, tried, key = self.cluster, self.call, self.tried, self.call.key
        balancing = cluster.config.balancing
        if balancing.override_headers and (named := self._named(balancing.override_headers)) is not None:
            return named
        if balancing.hashing.hash_policies:
            key = request_key(balancing.hashing.hash_policies, call.view)
        if cluster.config.discovery is Discovery.ORIGINAL_DST:
            return cluster.original(*self._original())
        avoid, tries, retry = None, 1, self.action.retry
        if tried and retry is not None:
            avoid, tries = avoided(retry, tried), retry.host_selection_max_attempts
        now, subset = call.clock(), self.drawn.subset
        if cluster.config.members:
            clusters = call.live.clusters
            return aggregate.pick(cluster, clusters, call.chance, now, avoid=avoid, tries=tries, key=key, subset=subset)
        return cluster.pick(now, avoid, tries, key, subset=subset)

    def _named(self, headers: Sequence[str]) -> EndpointState | None:
        """Return the next endpoint that the request names (``override_host``); each serves one attempt."""
        if self.named is None:
            values = (next(iter(self.call.view.values(header)), "") for header in headers)
            self.named = iter([address.strip() for value in values for address in value.split(",") if address.strip()])
        return next(filter(None, map(self.cluster.named, self.named)), None)

    def _redirected(self, outcome: Outcome, sent: Attempt) -> Restart | None:
        """Return the request that an internal redirect leads to, None for none."""
        policy = self.action.internal_redirects
        restart = redirecting.followed(self.call, policy, outcome, sent) if policy is not None else None
        if restart is not None:
            self._release_retry()
            self.failed, self.restarted = False, True
        return restart

    def _original(self) -> tuple[str, int]:
        """Return the address that the call is for: the caller's, or what an ORIGINAL_DST cluster takes in its place."""
        view, destination = self.call.view, self.choice.destination
        host, port = destination.address if destination else view.host, view.port
        instead = self.cluster.config.original_dst
        if instead.header and (named := address_in(view.header(instead.header))):
            host, port = named
        return host, port if instead.port is None else instead.port

    def _send(self, state: EndpointState) -> Generator[Effect, Answer, tuple[Outcome, Attempt]]:
        call, record = self.call, self.record
        now = call.clock()
        self.state = state
        endpoint = state.endpoint
        self.tried.add(endpoint.key)
        timeout = self.deadlines.attempt_timeout(now)
        attempt = AttemptRecord(len(record.attempts) + 1, endpoint, now, timeout)
        record.attempts.append(attempt)
        added = call.observer.attempt_started(record, attempt)
        try:
            effect = self._effect(attempt, state, added)
            if self.action.mirrors and attempt.number == 1:
                yield from self._mirrors(attempt, added)
            answer = yield effect
            if not isinstance(answer, Outcome):
                raise TypeError(f"the driver answered an Attempt with {answer!r}")
            self.deadlines.uploaded(answer.upload)
            attempt.status, attempt.grpc_status = answer.status, answer.grpc_status
            if answer.error is not None:
                attempt.error = answer.message or answer.error.value
                attempt.error_kind = answer.error
        except GeneratorExit:
            attempt.error = "cancelled"
            raise
        finally:
            attempt.ended = call.clock()
            call.observer.attempt_ended(record, attempt)
        upkeep = state.cluster.upkeep
        if upkeep is not None and answer.headers.get(UNHEALTHY_HEADER) is not None:
            upkeep.refused(state)
        if state.cluster.learns:
            state.cluster.learn(state, answer, attempt.ended - now, attempt.ended)
        verdict = self.verdict = self._judge(answer)
        if verdict is not None:
            state.cluster.observe(state, verdict, attempt.ended)
        return answer, effect

    def _mirrors(self, attempt: AttemptRecord, added: Sequence[tuple[str, str]]) -> Iterator[Mirror]:
        assert self.head is not None
        set_ = self.head.for_attempt(attempt.number, self._own_headers(attempt), added)
        merged = headers.merged(self.call.view, set_, self.call.steering | self.head.removed)
        return mirroring.mirrors(self.call, self.action, self.head.authority, self.head.target, merged)

    def _effect(self, attempt: AttemptRecord, state: EndpointState, added: Sequence[tuple[str, str]]) -> Attempt:
        cluster, endpoint = state.cluster, state.endpoint
        own = self._own_headers(attempt)
        head = self.head
        if head is None:
            head = self.head = headers.request_head(
                self.record, self.choice, self.action, self.drawn, (added, own), self.call.steering
            )
        sent, authority = head.for_attempt(attempt.number, own, added), head.authority
        host = headers.endpoint_authority(cluster.config, endpoint) if self.action.auto_host_rewrite else ""
        if host:
            sent = self._rewritten(sent, authority)
            authority = self.authority = host
        return Attempt(
            number=attempt.number,
            cluster=cluster.config,
            endpoint=endpoint,
            transport_socket=cluster.transport_socket(endpoint),
            timeout=attempt.timeout,
            headers=sent,
            authority=authority,
            target=head.target,
            removed=self.call.steering | head.removed if head.removed else self.call.steering,
        )

    def _rewritten(self, sent: Sequence[tuple[str, str]], authority: str) -> list[tuple[str, str]]:
        """Return the headers to set where ``auto_host_rewrite`` replaces ``authority``."""
        told, forwarded = not headers.suppressed(self.choice), self.action.append_forwarded_host
        if forwarded and not any(name == headers.FORWARDED_HOST for name, _ in sent):
            given = (pair for pair in self.call.view.headers if pair[0] == headers.FORWARDED_HOST)
            sent = [*sent, *given]
        return headers.authority_headers(sent, authority, told=told, forwarded=forwarded)

    def _own_headers(self, attempt: AttemptRecord) -> list[tuple[str, str]]:
        own = []
        # As Envoy, the first attempt tells what was configured, whatever its wait for a connection took.
        told = attempt.timeout if attempt.number > 1 else self.deadlines.configured
        if told is not None and not headers.suppressed(self.choice):
            own.append(("x-envoy-expected-rq-timeout-ms", str(round(told * 1000))))
        if self.choice.virtual_host is not None and self.choice.virtual_host.attempt_count:
            own.append(("x-envoy-attempt-count", str(attempt.number)))
        return own

    def _retry(self, outcome: Outcome) -> float | None:
        """Decide: the seconds to wait before a retry, or None when this outcome is the last."""
        policy = self.action.retry
        self._release_retry()  # Envoy: the slot is held from the decision to the next response head
        if policy is None or not wanted(policy, outcome, self.call.view):
            return None
        now = self.call.clock()
        if outcome.error is ErrorKind.TIMEOUT and self.deadlines.route_fired(now):
            return None
        record = self.record
        plan = self.call.plan_for(policy)
        state = RetryState(len(record.attempts), now - record.started, outcome)
        if plan.exhausted(state):
            record.flags |= flags.UPSTREAM_RETRY_LIMIT_EXCEEDED
            return None
        if not self.call.view.replayable:
            record.retry_skipped = "body not replayable"
            return None
        if not self.cluster.limits.try_retry():
            record.flags |= flags.UPSTREAM_OVERFLOW
            record.retry_skipped = f"{self.cluster.limits.retry_limit} reached"
            return None
        self.retrying = True
        return plan.back_off(state, self.call.chance)

    def _finish(self, outcome: Outcome, state: EndpointState) -> Policy:
        """Hand the final outcome over, holding every slot until its body ends."""
        record = self.record
        self._release_retry()
        if outcome.error is not None or outcome.status is None:
            self.failed = None if outcome.error is ErrorKind.APPLICATION else True
            yield self._local(self._error_reply(outcome))
            return
        self.failed = self.verdict is not Verdict.SUCCESS
        record.status, record.grpc_status, record.detail = outcome.status, outcome.grpc_status, "via_upstream"
        end = yield Respond(outcome, self.deadlines.remaining(self.call.clock()), self._edit(outcome.status))
        if not isinstance(end, BodyEnd):
            return
        record.bytes_received = end.received
        if self.state is not None and end.trailers:
            self.cluster.report(self.state, end.trailers, self.call.clock())
        if end.error is ErrorKind.TIMEOUT:
            record.flags |= flags.UPSTREAM_REQUEST_TIMEOUT
            record.detail = "response_timeout"
        elif end.error is ErrorKind.APPLICATION:
            record.flags |= flags.DOWNSTREAM_CONNECTION_TERMINATION
        elif end.error is not None:
            self.failed = True
            self._cut(end.error, http2=self._multiplexed(state.cluster))

    def _cut(self, error: ErrorKind, *, http2: bool) -> None:
        """Note why a body broke off. Measured: to Envoy's HTTP/1.1 codec one that is cut short breaks the protocol."""
        if error in (ErrorKind.REMOTE_RESET, ErrorKind.REFUSED):
            flag, why = flags.UPSTREAM_REMOTE_RESET, "remote_reset"
        elif http2:
            flag, why = flags.UPSTREAM_CONNECTION_TERMINATION, "connection_termination"
        else:
            flag, why = flags.UPSTREAM_PROTOCOL_ERROR, "protocol_error"
        self.record.flags |= flag
        self.record.detail = f"upstream_reset_after_response_started{{{why}}}"

    def _edit(self, status: int) -> Edit | None:
        mutations = headers.response_mutations(self.choice, self.drawn)
        host = self.choice.virtual_host
        if not mutations and (host is None or not host.attempt_count_in_response):
            return None
        facts = self._facts()
        return headers.response_edit(mutations, facts, status, headers.attempt_count(self.choice, facts))

    def _local(self, reply: Reply) -> Reply:
        return headers.edit_reply(reply, self.choice, self.drawn, self._facts())

    def _facts(self) -> CallFacts:
        facts = (self.head.facts if self.head else None) or CallFacts(self.record)
        facts.authority = self.authority or facts.authority
        return facts

    def _error_reply(self, outcome: Outcome) -> Reply:
        if outcome.error is ErrorKind.TIMEOUT:
            return self._timeout(route=self.deadlines.route_fired(self.call.clock()), cause=outcome.exception)
        reply = replies.attempt_failed(self.record, outcome)
        if self.cluster.config.discovery is Discovery.ORIGINAL_DST:
            # No service has this name, so the call was passed through: perhaps a slip of the pen.
            reply.message += routing.near_miss(self.call.view, self.choice)
        return reply

    def _timeout(self, *, route: bool, cause: BaseException | None = None) -> Reply:
        self.failed = True
        seconds = self.deadlines.route if route else self.deadlines.per_try
        status = self.action.timeout_status
        return replies.timed_out(self.record, route=route, seconds=seconds, cause=cause, status=status)

    def _no_endpoint(self) -> Reply:
        self.failed = True
        clusters = self._clusters()
        known = sum(len(each.endpoints) for each in clusters)
        reply = replies.no_healthy_upstream(self.record, known, sum(len(each.outliers.ejected) for each in clusters))
        trouble = [each.upkeep.trouble for each in clusters if each.upkeep is not None]
        reply.message += "".join(f"; {text}" for text in trouble if text)
        return reply

    def _overflow(self, threshold: str, limit: int) -> Reply:
        return replies.overflow(self.record, threshold, limit)

    def _judge(self, outcome: Outcome) -> Verdict | None:
        """Return what an outcome says of its endpoint, None when it says nothing."""
        if outcome.error is not None:
            silent = outcome.error in (ErrorKind.APPLICATION, ErrorKind.TLS_UNAVAILABLE)
            return None if silent else Verdict.LOCAL_ORIGIN
        status = outcome.status or 0
        if outcome.grpc_status is not None and (self.record.protocol == "grpc" or is_grpc(self.call.view)):
            status = GRPC_TO_HTTP.get(outcome.grpc_status, 200)
        if status < 500:
            return Verdict.SUCCESS
        return Verdict.GATEWAY_ERROR if status in GATEWAY_STATUSES else Verdict.SERVER_ERROR

    def _release_retry(self) -> None:
        if self.retrying:
            self.retrying = False
            self.cluster.limits.release_retry()
