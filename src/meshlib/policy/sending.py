"""What one call sends with each attempt, and what its response goes back with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from meshlib.model.headers import Pair
from meshlib.model.route import RouteAction, WeightedCluster
from meshlib.policy import headers, mirroring
from meshlib.policy.call import Call
from meshlib.policy.cluster_state import ClusterState
from meshlib.policy.deadlines import Deadlines, as_grpc_timeout, is_grpc_call
from meshlib.policy.effects import Attempt, ErrorKind, Mirror, Reply
from meshlib.policy.headers import CallFacts, Edit, RequestHead
from meshlib.policy.record import AttemptRecord
from meshlib.policy.routing import Choice
from meshlib.policy.steering import EXPECTED_TIMEOUT


@lru_cache(maxsize=1024)
def milliseconds(seconds: float) -> str:
    """Return seconds as whole milliseconds; of first attempts, a route's are always the same."""
    return str(round(seconds * 1000))


class Sending:
    """The requests of one call on one cluster.

    Attributes:
        hedges: whether an attempt goes on when its per-try timeout passes, beside the next.
    """

    __slots__ = (
        "_action",
        "_call",
        "_choice",
        "_deadlines",
        "_drawn",
        "_head",
        "_plain",
        "_unhosted",
        "hedges",
    )

    def __init__(
        self,
        call: Call,
        choice: Choice,
        action: RouteAction,
        drawn: WeightedCluster,
        deadlines: Deadlines,
    ) -> None:
        self._call = call
        self._choice = choice
        self._action = action
        self._drawn = drawn
        self._deadlines = deadlines
        self._head: RequestHead | None = None  # made with the first attempt, the same for all
        self._unhosted: tuple[Sequence[Pair], str] | None = None  # what went out but for auto_host_rewrite
        self.hedges = action.hedge and call.races
        self._plain = headers.plain(choice, drawn)

    def attempt(self, record: AttemptRecord, cluster: ClusterState, now: float, added: Sequence[Pair]) -> Attempt:
        """Return the effect of an attempt on a cluster; ``added`` are headers of the observer's."""
        own = self._own_headers(record, now)
        head, call = self._head, self._call
        if self._plain and not self._action.auto_host_rewrite:
            view, endpoint = call.view, record.endpoint
            return Attempt(
                record.number,
                cluster.config,
                endpoint,
                cluster.transport_socket(endpoint),
                record.timeout,
                [*added, *own] if added else own,
                view.authority,
                view.target,
                call.steering,
            )
        if head is None:
            head = self._head = headers.request_head(
                call.record, self._choice, self._action, self._drawn, (added, own), call.steering
            )
        sent, authority = head.for_attempt(record.number, own, added), head.authority
        endpoint = record.endpoint
        self._unhosted = sent, authority
        if self._action.auto_host_rewrite:
            host = headers.endpoint_authority(cluster.config, endpoint)
            if host:
                sent = [pair for pair in sent if pair[0] != headers.ORIGINAL_HOST]
                sent.append((headers.ORIGINAL_HOST, authority))
                if self._action.append_forwarded_host:
                    before = headers.merged(call.view, sent, call.steering)
                    sent = [pair for pair in sent if pair[0] != headers.FORWARDED_HOST]
                    sent.append((headers.FORWARDED_HOST, headers.forwarded_host(before, authority)))
                authority = host
        return Attempt(
            record.number,
            cluster.config,
            endpoint,
            cluster.transport_socket(endpoint),
            record.timeout,
            sent,
            authority,
            head.target,
            call.steering | head.removed if head.removed else call.steering,
        )

    def _own_headers(self, record: AttemptRecord, now: float) -> list[Pair]:
        own: list[Pair] = []
        deadlines, call = self._deadlines, self._call
        told = deadlines.told(now, record.number, hedging=self.hedges)
        if call.deadline is not None:
            left = max(0.001, call.deadline - now)
            told = left if told is None else min(told, left)
        if told is not None:
            own.append((EXPECTED_TIMEOUT, milliseconds(told)))
        more = deadlines.more
        if more is not None and more.grpc_header:
            own.append(("grpc-timeout", more.grpc_header))
        elif (
            told is not None
            and (self._action.grpc_timeout is not None or call.deadline is not None)
            and is_grpc_call(call.view, call.record.protocol)
        ):
            own.append(("grpc-timeout", as_grpc_timeout(told)))
        host = self._choice.virtual_host
        if host is not None and host.attempt_count:
            own.append((headers.ATTEMPT_COUNT, str(record.number)))
        if host is not None and host.timeout_retry and record.number > 1:
            late = call.record.attempts[-2].error_kind is ErrorKind.TIMEOUT
            own.append(("x-envoy-is-timeout-retry", "true" if late else "false"))
        return own

    def mirrors(self, sent: Attempt) -> Iterator[Mirror]:
        """Yield the copies of the first attempt that go elsewhere."""
        set_, authority = self._unhosted or (sent.headers, sent.authority)
        merged = headers.merged(self._call.view, set_, sent.removed)
        return mirroring.mirrors(self._call, self._action, authority, sent.target, merged)

    def edit(self, status: int) -> Edit | None:
        """Return the function that mutates the headers of the final response, None for no mutations."""
        call = self._call
        first, added = self._told(), call.answered
        if call.session is not None:
            added = [*added, *call.session.told(call.record.endpoint)]
        if self._plain and not (first or added):
            return None
        mutations = headers.response_mutations(self._choice, self._drawn)
        if not (mutations or first or added):
            return None
        return headers.response_edit(mutations, self._facts(), status, first, added)

    def _told(self) -> Sequence[Pair]:
        """Return what the router itself adds to a response, before the route's mutations."""
        host, call = self._choice.virtual_host, self._call
        counts = host is not None and host.attempt_count_in_response
        if not (counts or call.cookies):
            return ()
        told = [("set-cookie", cookie) for cookie in call.cookies]
        return [*told, (headers.ATTEMPT_COUNT, str(len(call.record.attempts)))] if counts else told

    def local(self, reply: Reply) -> Reply:
        """Return a local reply with the mutations that apply to it."""
        host = self._choice.virtual_host
        if host is not None and host.attempt_count_in_response:
            reply.headers = ((headers.ATTEMPT_COUNT, str(len(self._call.record.attempts))), *reply.headers)
        mutations = headers.response_mutations(self._choice, self._drawn)
        return headers.edit_reply(reply, mutations, self._facts(), self._call.answered)

    def _facts(self) -> CallFacts:
        return (self._head.facts if self._head else None) or CallFacts(self._call.record, choice=self._choice)
