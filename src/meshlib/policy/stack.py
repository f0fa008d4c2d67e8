"""One call, as policy: a generator that yields effects and receives outcomes.

The order of the stack, top to bottom, and why each step stands where it does:

1. *route*: nothing else is known before it.
2. *filters* (:mod:`meshlib.policy.filtering`): faults, local rate limit, buffer limit, in the order of
   the listener's chain. Envoy's filters sit above its router, so what they answer is never retried
   and an injected delay does not eat the route's timeout.
3. *cluster*: drawn once; every attempt stays on it.
4. *breaker* (opt-in): guards the call as a whole, so one refusal costs no attempt.
5. *attempts*: pick → connection slot → request slot → send → outlier detection → retry?
   As in Envoy, who waits for a connection does not count as a request yet.
   Outlier detection sees every attempt, timeouts too, and before the retry is decided, so that
   the retry already avoids an endpoint that this attempt ejected.
6. *respond*: the slot is held until the body ends. An internal redirect begins at 1 instead, with
   another request: Envoy recreates the stream, filters and all.

Beside them, *mirrors*: with the first attempt, once it has an endpoint, copies of the request begin
calls of their own at *cluster* (:func:`mirrored`), and nothing here waits for them.

Every ``finally`` gives its counts back, so closing the generator anywhere leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from meshlib.model.route import DirectResponse, Redirect, RouteAction, WeightedCluster
from meshlib.policy import filtering, flags, headers, replies, routing, steering
from meshlib.policy.attempts import Attempts
from meshlib.policy.balancing.hashing import request_key
from meshlib.policy.breaker import Admission, ClusterBreaker
from meshlib.policy.call import Call, Policy, Steps
from meshlib.policy.effects import Await, Reply
from meshlib.policy.headers import CallFacts
from meshlib.policy.trace import Listening


def execute(call: Call) -> Policy:
    """Run the policy of one call; see the module's text for the order of its steps."""
    record = call.record
    call.observer.call_started(record)
    try:
        while True:
            # What is chosen is of one snapshot (gRFC A74): after a wait for a cluster, routing begins anew.
            while isinstance(step := _routed(call), str):
                yield Await(step)
            if isinstance(step, Reply):
                yield step
                return
            if not (yield from step):
                return
    except GeneratorExit:
        record.flags |= flags.DOWNSTREAM_CONNECTION_TERMINATION
        record.detail = record.detail or "downstream_remote_disconnect"
        raise
    finally:
        if call.fault is not None:
            call.fault.leave()
        record.ended = call.clock()
        call.observer.call_ended(record)


def mirrored(call: Call, action: RouteAction) -> Policy:
    """Run the policy of a copy of a request (:class:`~meshlib.policy.effects.Mirror`): one attempt on one cluster."""
    target = action.clusters[0]
    try:
        if target.name in call.live.snapshot.dormant:
            yield Await(target.name)
        step = _forward(call, routing.Choice(), action, target)
        if isinstance(step, Reply):
            yield step
        else:
            yield from step
    finally:
        call.record.ended = call.clock()
        call.observer.call_ended(call.record)


def _routed(call: Call) -> Steps | Reply | str:
    """Route the call: returns how it goes on, its reply, or the cluster that has to be waited for first."""
    record, view = call.record, call.view
    snapshot = call.live.snapshot
    choice = routing.choose(snapshot, view, call.chance)
    destination, host, route = choice
    if call.trace is not None:
        call.trace.routed(destination, host, route, view)
    if destination is not None:
        record.listener = destination.listener
        record.route_config = destination.routes.name if destination.routes is not None else ""
        if destination.tcp is not None:
            # Bytes to a cluster: HTTP policies do not apply (a TCP chain, or TLS of the application's own).
            to_cluster = RouteAction(destination.tcp.clusters, timeout=0.0)
            target = _draw(call, to_cluster)
            return target.name if target.name in snapshot.dormant else _forward(call, choice, to_cluster, target)
    if host is not None:
        record.virtual_host = host.name
    filtered = filtering.needed(choice)
    if route is None:
        return _filtered(call, choice, None, _answered) if filtered else _answered(call, choice)
    record.route, record.source = route.name, route.source
    action = route.action
    if not isinstance(action, RouteAction):
        return _filtered(call, choice, None, _answered) if filtered else _answered(call, choice)
    if action.hash_policies:
        call.key = request_key(action.hash_policies, view, call.make_cookie)
    target = _draw(call, action)
    name = record.cluster_name = routing.cluster_of(target, view)
    if name in snapshot.dormant:
        return name
    if filtered:
        return _filtered(call, choice, target, partial(_steered, action=action, target=target))
    return _steered(call, choice, action, target)


def _draw(call: Call, action: RouteAction) -> WeightedCluster:
    trace = call.trace
    if trace is None:
        return routing.draw_cluster(action, call.chance, call.key)
    chance = Listening(call.chance)
    target = routing.draw_cluster(action, chance, call.key)
    trace.weights(action, target, chance.last)
    return target


def _filtered(
    call: Call, choice: routing.Choice, target: WeightedCluster | None, then: Callable[..., Steps | Reply]
) -> Steps:
    """Run the filters; a call that none of them answers goes on with ``then``."""
    if (yield from filtering.run(call, choice, target)):
        return False
    step = then(call, choice)
    if isinstance(step, Reply):
        yield step
        return False
    return (yield from step)


def _answered(call: Call, choice: routing.Choice) -> Reply:
    """Return the reply of a route that leads to no cluster, or to a call that no route takes."""
    record, view, route = call.record, call.view, choice.route
    if route is None:
        return _local(call, choice, replies.no_route(record, call.hint(view, choice)))
    action = route.action
    if isinstance(action, DirectResponse):
        return _local(call, choice, replies.direct(record, action, routing.location(Redirect(), route, view)))
    assert isinstance(action, Redirect)
    return _local(call, choice, replies.redirect(record, action.status, routing.location(action, route, view)))


def _local(call: Call, choice: routing.Choice, reply: Reply, target: WeightedCluster | None = None) -> Reply:
    """Return a local reply with the mutations that apply to it."""
    mutations = headers.response_mutations(choice, target)
    return headers.edit_reply(reply, mutations, CallFacts(call.record, choice=choice), call.answered)


def _steered(call: Call, choice: routing.Choice, action: RouteAction, target: WeightedCluster) -> Steps | Reply:
    """Forward a call as its own headers steer it."""
    http = choice.destination.http if choice.destination is not None else None
    respects = http is not None and http.respect_expected_timeout
    call.steering = steering.headers(call.view, respects_expected=respects)
    if call.steering:
        action = steering.obeyed(action, call.view, call.steering)
    if call.removed:
        call.steering |= call.removed
    return _forward(call, choice, action, target)


def _forward(call: Call, choice: routing.Choice, action: RouteAction, target: WeightedCluster) -> Steps | Reply:
    """Return the attempts on the cluster that was drawn, or the reply where there can be none."""
    record = call.record
    name = record.cluster_name = record.cluster_name or target.name
    cluster = call.live.clusters.get(name)
    if cluster is None:
        return _local(call, choice, replies.cluster_not_found(record, name, action.cluster_not_found_code), target)
    record.cluster = cluster.config
    assignment = cluster.assignment
    drops = assignment.drop_percentage if assignment is not None else 0.0
    if drops and 100.0 * call.chance.random() < drops:
        return _local(call, choice, replies.dropped(record, drops), target)
    if cluster.breaker is None:
        return Attempts(call, choice, action, target, cluster).run()
    admission = cluster.breaker.admit()
    if admission is Admission.REFUSED:
        return _local(call, choice, replies.breaker_open(record), target)
    return _guarded(Attempts(call, choice, action, target, cluster), cluster.breaker, admission)


def _guarded(attempts: Attempts, breaker: ClusterBreaker, admission: Admission) -> Steps:
    """Run the attempts and tell the breaker how they ended."""
    try:
        return (yield from attempts.run())
    finally:
        if attempts.failed is None:
            breaker.abandon(admission)
        else:
            breaker.record(admission, failed=attempts.failed)
