"""Circuit-breaker thresholds: what may run, wait and retry at once."""

import threading

import pytest

from meshlib.model.cluster import UINT32_MAX, Cluster, Thresholds
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import Endpoint
from meshlib.model.snapshot import Snapshot, Style
from meshlib.policy.effects import Attempt, Outcome, Park, Reply, ReplyKind, Respond
from policy.driving import Lab
from policy.snapshots import cluster, endpoints, forward, request, snapshot


def lab(*, hosts=1, **limits):
    thresholds = Thresholds(**limits)
    return Lab(snapshot(cluster(endpoints(hosts), thresholds=thresholds), routes=[forward(timeout=0.0)]))


def begin(test, count):
    """Start calls at once; returns their generators and what each asked for first."""
    calls = [test.start()[1] for _ in range(count)]
    return calls, [next(call) for call in calls]


def kinds(effects):
    return [type(effect).__name__ for effect in effects]


def finish(call):
    """Let a call that is sending end well."""
    call.send(Outcome(200, response=object()))
    with pytest.raises(StopIteration):
        call.send(None)


def test_one_connection_one_waiting_three_overflow():
    """Measured on Envoy with max_connections 1 and max_pending_requests 1."""
    test = lab(max_connections=1, max_pending_requests=1)
    calls, effects = begin(test, 5)
    assert kinds(effects) == ["Attempt", "Park", "Reply", "Reply", "Reply"]
    refused = effects[2]
    assert (refused.kind, refused.status) == (ReplyKind.OVERFLOW, 503)
    assert "max_pending_requests=1" in refused.message
    woken = []
    effects[1].ticket.on_grant(lambda: woken.append(True))
    assert woken == []
    finish(calls[0])
    assert woken == [True]
    assert isinstance(calls[1].send(None), Attempt)
    finish(calls[1])
    for call in calls:
        call.close()
    test.assert_idle()


def test_a_grant_before_anybody_listens_is_not_lost():
    test = lab(max_connections=1)
    calls, effects = begin(test, 2)
    finish(calls[0])
    woken = []
    effects[1].ticket.on_grant(lambda: woken.append(True))
    assert woken == [True]


def test_waiters_are_served_in_order():
    test = lab(max_connections=1)
    calls, effects = begin(test, 4)
    order = []
    for number, effect in enumerate(effects[1:], 1):
        effect.ticket.on_grant(lambda number=number: order.append(number))
    for number, call in enumerate(calls):
        if number:
            assert isinstance(call.send(None), Attempt)
        finish(call)
    assert order == [1, 2, 3]
    test.assert_idle()


def test_an_abandoned_waiter_leaves_its_place():
    test = lab(max_connections=1, max_pending_requests=1)
    calls, _ = begin(test, 2)
    calls[1].close()
    late, effects = begin(test, 1)
    assert isinstance(effects[0], Park)
    for call in (*calls, *late):
        call.close()
    test.assert_idle()


def test_a_waiter_abandoned_after_its_grant_passes_the_slot_on():
    test = lab(max_connections=1)
    calls, effects = begin(test, 3)
    finish(calls[0])
    calls[1].close()  # granted, but its caller has gone
    assert effects[2].ticket.granted
    assert isinstance(calls[2].send(None), Attempt)
    calls[2].close()
    test.assert_idle()


def test_every_endpoint_gets_its_first_connection():
    """Envoy's pools: an endpoint without a connection may make one over the limit."""
    test = lab(hosts=3, max_connections=1, max_pending_requests=0)
    calls, effects = begin(test, 4)
    assert kinds(effects) == ["Attempt", "Attempt", "Attempt", "Reply"]
    assert len({effect.endpoint.key for effect in effects[:3]}) == 3
    for call in calls:
        call.close()
    test.assert_idle()


def test_over_the_limit_a_slot_goes_to_whoever_waits_for_that_endpoint():
    test = lab(hosts=2, max_connections=1)
    calls, effects = begin(test, 4)  # round robin: one runs and one waits on each host
    assert kinds(effects) == ["Attempt", "Attempt", "Park", "Park"]
    finish(calls[1])
    assert [effects[2].ticket.granted, effects[3].ticket.granted] == [False, True]
    for call in calls:
        call.close()
    test.assert_idle()


def test_raised_limits_let_waiters_through_at_once():
    test = lab(max_connections=1)
    calls, effects = begin(test, 4)
    woken = []
    for effect in effects[1:]:
        effect.ticket.on_grant(lambda: woken.append(True))
    test.update(snapshot(cluster(endpoints(1), thresholds=Thresholds(max_connections=3)), version="2"))
    assert len(woken) == 2
    for call in calls:
        call.close()
    test.assert_idle()


def test_lowered_limits_hold_back_newcomers():
    test = lab(max_connections=3)
    calls, _ = begin(test, 3)
    test.update(snapshot(cluster(endpoints(1), thresholds=Thresholds(max_connections=1)), version="2"))
    finish(calls[0])
    late, effects = begin(test, 1)
    assert isinstance(effects[0], Park)
    for call in (*calls, *late):
        call.close()
    test.assert_idle()


def test_a_waiter_whose_endpoint_was_removed_goes_to_another():
    test = lab(max_connections=1)
    calls, _ = begin(test, 2)
    elsewhere = (Endpoint("10.9.9.9", 80),)
    test.update(snapshot(cluster(elsewhere, thresholds=Thresholds(max_connections=1)), version="2"))
    finish(calls[0])
    attempt = calls[1].send(None)
    assert attempt.endpoint.address == "10.9.9.9"
    calls[1].close()
    test.assert_idle()


def test_max_requests():
    test = lab(max_requests=2)
    calls, effects = begin(test, 5)
    assert kinds(effects) == ["Attempt", "Attempt", "Reply", "Reply", "Reply"]
    assert "max_requests=2" in effects[2].message
    finish(calls[0])
    assert test.run().status == 200
    for call in calls:
        call.close()
    test.assert_idle()


def test_who_waits_for_a_connection_is_no_request_yet():
    test = lab(max_connections=1, max_pending_requests=1, max_requests=1)
    calls, effects = begin(test, 3)
    assert kinds(effects) == ["Attempt", "Park", "Reply"]
    finish(calls[0])
    assert isinstance(calls[1].send(None), Attempt)
    for call in calls:
        call.close()
    test.assert_idle()


def test_the_slot_is_held_until_the_body_ends():
    test = lab(max_requests=1)
    _, call = test.start()
    next(call)
    assert isinstance(call.send(Outcome(200, response=object())), Respond)
    assert test.run().flags == "UO"
    call.close()
    assert test.run().flags == "-"
    test.assert_idle()


def test_no_limit_takes_no_ticket():
    test = lab(max_connections=UINT32_MAX)
    calls, _ = begin(test, 1)
    assert test.cluster().limits.connections == 0
    calls[0].close()


def test_http2_streams_share_connections():
    config = cluster(endpoints(1), thresholds=Thresholds(max_connections=1), http2=True)
    test = Lab(snapshot(config))
    calls, effects = begin(test, 5)
    assert kinds(effects) == ["Attempt"] * 5
    for call in calls:
        call.close()
    test.assert_idle()


def test_passed_through_addresses_are_limited_each():
    config = Cluster("c", Discovery.ORIGINAL_DST, thresholds=Thresholds(max_connections=1, max_pending_requests=0))
    test = Lab(snapshot(config))
    _, one = test.start(request(host="one.example"))
    _, again = test.start(request(host="one.example"))
    _, other = test.start(request(host="other.example"))
    assert kinds([next(one), next(again), next(other)]) == ["Attempt", "Reply", "Attempt"]
    for call in (one, again, other):
        call.close()
    test.assert_idle()


def test_counts_survive_an_update():
    test = lab(max_requests=1)
    calls, _ = begin(test, 1)
    test.update(snapshot(cluster(endpoints(2), thresholds=Thresholds(max_requests=1)), version="2"))
    assert test.run().flags == "UO"
    calls[0].close()
    test.assert_idle()


def test_a_cluster_that_left_and_came_back_starts_at_zero():
    test = lab(max_requests=1)
    calls, _ = begin(test, 1)
    test.update(Snapshot("2", Style.STATIC))
    test.update(snapshot(cluster(endpoints(1), thresholds=Thresholds(max_requests=1)), version="3"))
    assert test.run().status == 200
    calls[0].close()  # gives back to the state it took from
    test.assert_idle()


def test_threads_never_pass_the_limit():
    limit, state = 5, lab(hosts=2, max_requests=5).cluster()
    over, done = [], threading.Barrier(8)

    def work():
        done.wait()
        for _ in range(400):
            endpoint = state.pick(0.0)
            if state.begin(endpoint):
                if state.limits.requests > limit:
                    over.append(state.limits.requests)
                state.end(endpoint)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert over == []
    assert state.limits.requests == 0
    assert all(s.active == 0 for s in state.endpoints.values())


def test_overflow_reply_is_envoys():
    test = lab(max_requests=0)
    run = test.run()
    reply: Reply = run.reply
    assert reply.body == "upstream connect error or disconnect/reset before headers. reset reason: overflow"
    assert dict(reply.headers)["x-envoy-overloaded"] == "true"
    assert (run.flags, run.record.detail) == ("UO", "upstream_reset_before_response_started{overflow}")
