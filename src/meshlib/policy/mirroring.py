"""Request mirroring (shadowing): copies of a request that nobody waits for.

A copy is a call of its own on one cluster: it has that cluster's circuit breakers and endpoints,
the timeout of the request it was made of, one attempt, and an outcome that only the observer
sees. It is made when the first attempt has an endpoint, so that what is answered here is not
mirrored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from meshlib.model.headers import Pair
from meshlib.model.request import RequestView
from meshlib.model.route import RouteAction, WeightedCluster, without_port
from meshlib.model.traffic import MirrorPolicy
from meshlib.policy import flags
from meshlib.policy.effects import Mirror
from meshlib.policy.events import MirrorObserver
from meshlib.policy.headers import CallFacts
from meshlib.policy.record import CallRecord

if TYPE_CHECKING:
    from meshlib.policy.call import Call


def mirrors(call: Call, action: RouteAction, authority: str, target: str, headers: Sequence[Pair]) -> Iterator[Mirror]:
    """Yield the copies to send of a request.

    Args:
        call: the call.
        action: of its route.
        authority: of its first attempt, as it goes upstream, without ``auto_host_rewrite``.
        target: of that as well.
        headers: of that as well, all but the Host.
    """
    for policy in action.mirrors:
        if policy.percentage < 100.0 and not call.chance.random() * 100.0 < policy.percentage:
            continue
        name = policy.cluster or next(iter(call.view.values(policy.header)), "")
        if name not in call.live.clusters and name not in call.live.snapshot.dormant:
            continue  # as Envoy: a copy that has nowhere to go is no fault of the request's
        view = _copied(call, policy, authority, target, headers)
        record = CallRecord(view, call.clock(), protocol=call.record.protocol)
        record.listener, record.route_config = call.record.listener, call.record.route_config
        record.virtual_host, record.route = call.record.virtual_host, call.record.route
        record.cluster_name = name
        call.record.mirrors = (*call.record.mirrors, name)
        alone = RouteAction((WeightedCluster(name),), timeout=action.timeout)
        yield Mirror(call.copied(view, record, MirrorObserver(call.observer)), alone)


def dropped(call: Call) -> None:
    """End a copy that was never sent, since too many are under way."""
    record = call.record
    record.flags |= flags.UPSTREAM_OVERFLOW
    record.detail = "mirror_overflow"
    record.ended = call.clock()
    call.observer.call_ended(record)


def _copied(call: Call, policy: MirrorPolicy, authority: str, target: str, headers: Sequence[Pair]) -> RequestView:
    view = call.view
    edited = list(headers)
    if policy.request_headers:
        facts = CallFacts(call.record, edited)
        facts.authority, facts.target = authority, target
        policy.request_headers.apply(facts.headers, facts)
        edited = facts.headers
    host = policy.host_rewrite or (shadowed(authority) if policy.suffix else authority)
    return RequestView(
        method=view.method,
        scheme=view.scheme,
        host=view.host,
        port=view.port,
        authority=host,
        target=target,
        headers=[("host", host), *edited],
        replayable=True,
        tls=view.tls,
    )


def shadowed(authority: str) -> str:
    """Return an authority with ``-shadow`` before its port."""
    host = without_port(authority)
    return f"{host}-shadow{authority[len(host) :]}"
