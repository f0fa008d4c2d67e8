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
6. *respond*: the slot is held until the body ends.

Every ``finally`` gives its counts back, so closing the generator anywhere leaves nothing behind.
"""

from __future__ import annotations

from meshlib.model.route import DirectResponse, Redirect, RouteAction, WeightedCluster
from meshlib.model.traffic import FaultInjection
from meshlib.policy import faults, flags, headers, replies, routing, steering
from meshlib.policy.attempts import Attempts
from meshlib.policy.balancing.hashing import request_key
from meshlib.policy.breaker import Admission, ClusterBreaker
from meshlib.policy.call import Call, Policy
from meshlib.policy.effects import Await, Reply, Sleep
from meshlib.policy.headers import CallFacts
from meshlib.policy.trace import Listening


def execute(call: Call) -> Policy:
    """Run the policy of one call; see the module's text for the order of its steps."""
    record = call.record
    call.observer.call_started(record)
    try:
        # What is chosen is of one snapshot (gRFC A74): after a wait for a cluster, routing begins anew.
        while isinstance(step := _routed(call), str):
            yield Await(step)
        if isinstance(step, Reply):
            yield step
        else:
            yield from step
    except GeneratorExit:
        record.flags |= flags.DOWNSTREAM_CONNECTION_TERMINATION
        record.detail = record.detail or "downstream_remote_disconnect"
        raise
    finally:
        if call.fault is not None:
            call.fault.leave()
        record.ended = call.clock()
        call.observer.call_ended(record)


def _routed(call: Call) -> Policy | Reply | str:
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
    if route is None:
        return _local(call, choice, replies.no_route(record, call.hint(view, choice)))
    record.route, record.source = route.name, route.source
    action = route.action
    if isinstance(action, RouteAction):
        if action.hash_policies:
            call.key = request_key(action.hash_policies, view)
        target = _draw(call, action)
        name = record.cluster_name = routing.cluster_of(target, view)
        if name in snapshot.dormant:
            return name
        http = destination.http if destination is not None else None
        call.steering = steering.headers(view, respects_expected=http is not None and http.respect_expected_timeout)
        if call.steering:
            action = steering.obeyed(action, view, call.steering)
        fault = (target.fault or route.fault or http.fault) if http is not None and http.fault_filter else None
        if fault is None:
            return _forward(call, choice, action, target)
        return _faulty(call, choice, action, target, fault)
    if isinstance(action, DirectResponse):
        return _local(call, choice, replies.direct(record, action, routing.location(Redirect(), route, view)))
    return _local(call, choice, replies.redirect(record, action.status, routing.location(action, route, view)))


def _draw(call: Call, action: RouteAction) -> WeightedCluster:
    trace = call.trace
    if trace is None:
        return routing.draw_cluster(action, call.chance, call.key)
    chance = Listening(call.chance)
    target = routing.draw_cluster(action, chance, call.key)
    trace.weights(action, target, chance.last)
    return target


def _local(call: Call, choice: routing.Choice, reply: Reply, target: WeightedCluster | None = None) -> Reply:
    """Return a local reply with the mutations that apply to it."""
    mutations = headers.response_mutations(choice, target)
    return headers.edit_reply(reply, mutations, CallFacts(call.record)) if mutations else reply


def _faulty(
    call: Call, choice: routing.Choice, action: RouteAction, target: WeightedCluster, fault: FaultInjection
) -> Policy:
    """Delay, then abort; what is not aborted goes on."""
    if faults.applies(fault, call.view, call.record.cluster_name):
        rate = faults.draw_rate(fault, call.view, call.chance)
        if rate and _counted(call, fault):
            call.response_rate = rate
        seconds = faults.draw_delay(fault, call.view, call.chance)
        if seconds and _counted(call, fault):
            call.record.flags |= flags.DELAY_INJECTED
            yield Sleep(seconds)
        abort = faults.draw_abort(fault, call.view, call.chance)
        if abort is not None and _counted(call, fault):
            reply = replies.fault_abort(call.record, abort)
            mutations = headers.filter_response_mutations(choice, target)  # the router, below, never sees this reply
            yield headers.edit_reply(reply, mutations, CallFacts(call.record)) if mutations else reply
            return
    step = _forward(call, choice, action, target)
    if isinstance(step, Reply):
        yield step
    else:
        yield from step


def _counted(call: Call, fault: FaultInjection) -> bool:
    """Count the call as a faulty one, once, until it is over; False at ``max_active_faults``."""
    if call.fault is None and call.live.faults.enter(fault.max_active):
        call.fault = call.live.faults
    if call.trace is not None:
        call.trace.note("fault", "injected" if call.fault is not None else "not injected: max_active_faults")
    return call.fault is not None


def _forward(call: Call, choice: routing.Choice, action: RouteAction, target: WeightedCluster) -> Policy | Reply:
    """Return the attempts on the cluster that was drawn, or the reply where there can be none."""
    record = call.record
    name = record.cluster_name = record.cluster_name or target.name
    cluster = call.live.clusters.get(name)
    if cluster is None:
        return _local(call, choice, replies.cluster_not_found(record, name, action.cluster_not_found_code), target)
    record.cluster = cluster.config
    assignment = cluster.config.assignment
    drops = assignment.drop_percentage if assignment is not None else 0.0
    if drops and 100.0 * call.chance.random() < drops:
        return _local(call, choice, replies.dropped(record, drops), target)
    if cluster.breaker is None:
        return Attempts(call, choice, action, target, cluster).run()
    admission = cluster.breaker.admit()
    if admission is Admission.REFUSED:
        return _local(call, choice, replies.breaker_open(record), target)
    return _guarded(Attempts(call, choice, action, target, cluster), cluster.breaker, admission)


def _guarded(attempts: Attempts, breaker: ClusterBreaker, admission: Admission) -> Policy:
    """Run the attempts and tell the breaker how they ended."""
    try:
        yield from attempts.run()
    finally:
        if attempts.failed is None:
            breaker.abandon(admission)
        else:
            breaker.record(admission, failed=attempts.failed)
