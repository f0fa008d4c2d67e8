"""One call, as policy: a generator that yields effects and receives outcomes.

The order of the stack, top to bottom, and why each step stands where it does:

1. *route*: nothing else is known before it.
2. *fault injection*: Envoy's fault filter sits above its router, so an injected abort is never
   retried and an injected delay does not eat the route's timeout.
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

from collections.abc import Generator

from meshlib.model.route import DirectResponse, Redirect, RouteAction, WeightedCluster
from meshlib.policy import faults, flags, headers, replies, routing, steering
from meshlib.policy.attempts import Attempts
from meshlib.policy.balancing.hashing import request_key
from meshlib.policy.breaker import Admission
from meshlib.policy.call import Call, Policy
from meshlib.policy.effects import (
    Answer,
    Await,
    Effect,
    Reply,
    Sleep,
)


def execute(call: Call) -> Policy:
    """Run the policy of one call; see the module's text for the order of its steps."""
    record = call.record
    call.observer.call_started(record)
    try:
        yield from _route(call)
    except GeneratorExit:
        record.flags |= flags.DOWNSTREAM_CONNECTION_TERMINATION
        record.detail = record.detail or "downstream_remote_disconnect"
        raise
    finally:
        record.ended = call.clock()
        call.observer.call_ended(record)


def mirrored(call: Call, action: RouteAction) -> Policy:
    """Run the policy of a copy of a request (:class:`~meshlib.policy.effects.Mirror`): one attempt on one cluster."""
    target = action.clusters[0]
    try:
        if target.name in call.live.snapshot.dormant:
            yield Await(target.name)
        yield from _forward(call, routing.Choice(), action, target)
    finally:
        call.record.ended = call.clock()
        call.observer.call_ended(call.record)


def _route(call: Call) -> Policy:
    """Route, and again after a wait for a cluster: what is chosen is of one snapshot (gRFC A74)."""
    while (cluster := (yield from _routed(call))) is not None:
        if cluster:
            yield Await(cluster)


def _routed(call: Call) -> Generator[Effect, Answer, str | None]:
    """Route and run the call.

    Returns:
        None when it is over, the cluster that has to be waited for first, or the empty string where
        an internal redirect makes it begin anew.
    """
    record, view = call.record, call.view
    snapshot = call.live.snapshot
    choice = routing.choose(snapshot, view, call.chance)
    destination, route = choice.destination, choice.route
    if choice.view is not None and choice.view is not view:
        view = call.view = record.request = choice.view
    if destination is not None:
        record.listener = destination.listener
        record.route_config = destination.routes.name if destination.routes else ""
    if choice.virtual_host is not None:
        record.virtual_host = choice.virtual_host.name
    if destination is not None and destination.tcp is not None:
        # Bytes to a cluster: HTTP policies do not apply (a TCP chain, or TLS of the application's own).
        action = RouteAction(destination.tcp.clusters, timeout=0.0)
        target = routing.draw_cluster(action, call.chance)
        if target.name in snapshot.dormant:
            return target.name
        yield from _forward(call, choice, action, target)
        return None
    if route is None:
        yield _local(call, choice, replies.no_route(record, call.hint(view, choice)))
        return None
    record.route, record.source = route.name, route.source
    if isinstance(route.action, DirectResponse):
        location = route.action.location or routing.location(Redirect(), route, view)
        yield _local(call, choice, replies.direct(record, route.action, location))
    elif isinstance(route.action, Redirect):
        location = routing.location(route.action, route, view)
        yield _local(call, choice, replies.redirect(record, route.action.status, location))
    else:
        if route.action.hash_policies:
            call.key = request_key(route.action.hash_policies, view)
        target = routing.draw_cluster(route.action, call.chance, call.key, view, snapshot.runtime)
        record.cluster_name = routing.cluster_of(target, view)
        if route.action.hash_policies:
            mutated = headers.hashed_view(record, choice, route.action, target)
            if mutated is not view:
                call.key = request_key(route.action.hash_policies, mutated)
        if record.cluster_name in snapshot.dormant:
            return record.cluster_name
        if not (yield from _inject_faults(call, choice, target)):
            call.steering = steering.headers(view)
            action = steering.obeyed(route.action, view, call.steering) if call.steering else route.action
            return "" if (yield from _forward(call, choice, action, target)) else None
    return None


def _local(call: Call, choice: routing.Choice, reply: Reply, target: WeightedCluster | None = None) -> Reply:
    """Return a local reply with the mutations that apply to it."""
    return headers.edit_reply(reply, choice, target, headers.facts_of(call.record, choice, target))


def _inject_faults(call: Call, choice: routing.Choice, target: WeightedCluster) -> Generator[Effect, Answer, bool]:
    """Delay, then abort; returns whether the call was answered here."""
    http = choice.destination.http if choice.destination else None
    if http is None or not http.fault_filter or choice.route is None:
        return False
    fault = target.fault or choice.route.fault or http.fault
    if fault is None or not faults.applies(fault, call.view, call.record.cluster_name):
        return False
    seconds = faults.draw_delay(fault, call.view, call.chance)
    if seconds:
        call.record.flags |= flags.DELAY_INJECTED
        yield Sleep(seconds)
    abort = faults.draw_abort(fault, call.view, call.chance)
    if abort is None:
        return False
    reply = replies.fault_abort(call.record, abort)
    facts = headers.facts_of(call.record, choice, target)
    yield headers.edit_reply(reply, choice, target, facts, routed=False)  # the router is below
    return True


def _forward(
    call: Call, choice: routing.Choice, action: RouteAction, target: WeightedCluster
) -> Generator[Effect, Answer, bool]:
    """Send the call to a cluster; returns whether it has to begin anew."""
    record = call.record
    name = record.cluster_name = record.cluster_name or target.name
    cluster = call.live.clusters.get(name)
    if cluster is None:
        reply = replies.cluster_not_found(record, name, action.cluster_not_found_code)
        yield _local(call, choice, reply, target)
        return False
    record.cluster = cluster.config
    if choice.virtual_host is not None and choice.virtual_host.virtual_clusters:
        record.virtual_cluster = choice.virtual_host.virtual_cluster(call.view)
    assignment = cluster.assignment
    drops = assignment.drop_percentage if assignment is not None else 0.0
    if drops and 100.0 * call.chance.random() < drops:
        yield _local(call, choice, replies.dropped(record, drops), target)
        return False
    breaker = cluster.breaker
    attempts = Attempts(call, choice, action, target, cluster)
    if breaker is None:
        yield from attempts.run()
        return attempts.restarted
    admission = breaker.admit()
    if admission is Admission.REFUSED:
        yield _local(call, choice, replies.breaker_open(record), target)
        return False
    try:
        yield from attempts.run()
    finally:
        if attempts.failed is None:
            breaker.abandon(admission)
        else:
            breaker.record(admission, failed=attempts.failed)
    return attempts.restarted
