"""What one call sends with each attempt, and what its response goes back with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from meshlib.model.headers import Pair
from meshlib.model.route import RouteAction, WeightedCluster
from meshlib.policy import headers
from meshlib.policy.call import Call
from meshlib.policy.cluster_state import ClusterState
from meshlib.policy.deadlines import Deadlines, as_grpc_timeout, is_grpc_call
from meshlib.policy.effects import Attempt, Reply
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
        multiplexed: whether many requests share a connection, so that ``max_connections`` holds none of them up.
        hedges: whether an attempt goes on when its per-try timeout passes, beside the next.
    """

    __slots__ = (
        "_action",
        "_call",
        "_choice",
        "_cluster",
        "_deadlines",
        "_drawn",
        "_head",
        "_plain",
        "hedges",
        "multiplexed",
    )

    def __init__(
        self,
        call: Call,
        choice: Choice,
        action: RouteAction,
        drawn: WeightedCluster,
        cluster: ClusterState,
        deadlines: Deadlines,
    ) -> None:
        self._call = call
        self._choice = choice
        self._action = action
        self._drawn = drawn
        self._cluster = cluster
        self._deadlines = deadlines
        self._head: RequestHead | None = None  # made with the first attempt, the same for all
        self.multiplexed = cluster.config.http2 or call.record.protocol == "grpc"
        self.hedges = action.hedge and call.races
        self._plain = headers.plain(choice, drawn)

    def attempt(self, record: AttemptRecord, now: float, added: Sequence[Pair]) -> Attempt:
        """Return the effect of an attempt; ``added`` are headers of the observer's."""
        own = self._own_headers(record, now)
        head, call, cluster = self._head, self._call, self._cluster
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
        if self._action.auto_host_rewrite:
            host = headers.endpoint_authority(cluster.config, endpoint)
            if host:
                sent = [pair for pair in sent if pair[0] != headers.ORIGINAL_HOST]
                sent.append((headers.ORIGINAL_HOST, authority))
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
        if self._choice.virtual_host is not None and self._choice.virtual_host.attempt_count:
            own.append(("x-envoy-attempt-count", str(record.number)))
        return own

    def edit(self, status: int) -> Edit | None:
        """Return the function that mutates the headers of the final response, None for no mutations."""
        if self._plain:
            return None
        mutations = headers.response_mutations(self._choice, self._drawn)
        return headers.response_edit(mutations, self._facts(), status) if mutations else None

    def local(self, reply: Reply) -> Reply:
        """Return a local reply with the mutations that apply to it."""
        mutations = headers.response_mutations(self._choice, self._drawn)
        return headers.edit_reply(reply, mutations, self._facts()) if mutations else reply

    def _facts(self) -> CallFacts:
        return (self._head.facts if self._head else None) or CallFacts(self._call.record)
