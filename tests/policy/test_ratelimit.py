"""Local rate limit and buffer limit: who is answered with what. What Envoy does was measured on it (1.40)."""

from __future__ import annotations

import pytest

from meshlib.model.filters import (
    BufferLimit,
    Descriptor,
    DescriptorAction,
    Disabled,
    Faults,
    From,
    LocalRateLimit,
    RateLimitRule,
    RouteLimits,
    TokenBucket,
    VirtualHostLimits,
)
from meshlib.model.headers import HeaderMutations, HeaderToAdd, MutationStep
from meshlib.model.match import HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringOp
from meshlib.model.route import DirectResponse, Route, RouteAction, WeightedCluster
from meshlib.model.template import Template
from meshlib.model.traffic import FaultAbort, FaultInjection
from meshlib.policy.effects import Respond
from meshlib.policy.ratelimit import descriptor, rules
from policy.driving import Lab
from policy.snapshots import ANY_PATH, cluster, endpoints, request, snapshot

NAME = "limit"
SLOW = 1 / 60


def limit(tokens=1, rate=SLOW, **fields):
    fields = {"enabled": 100.0, "enforced": 100.0, **fields}
    return LocalRateLimit(fields.pop("place", "here"), bucket=TokenBucket(tokens, rate), **fields)


def lab(own=None, *filters, limits=None, target=(), action=None, match=ANY_PATH, **http):
    action = action or RouteAction((WeightedCluster("c", filters=target),))
    route = Route(match, action, "r", filters=((NAME, own),) if own else (), limits=limits)
    filters = filters or ((NAME, limit(3, place="base")),)
    return Lab(snapshot(cluster(endpoints(1)), routes=[route], filters=filters, **http))


def statuses(mesh, count, **fields):
    return [mesh.run(view=request(**fields)).status for _ in range(count)]


def adds(name, value):
    return HeaderMutations((MutationStep(add=(HeaderToAdd(name, Template(value)),)),))


def test_one_over_the_limit_is_answered():
    mesh = lab(limit(1))
    assert mesh.run().status == 200
    run = mesh.run()
    assert (run.status, run.flags, run.reply.body, run.record.detail) == (
        429,
        "RL",
        "local_rate_limited",
        "local_rate_limited",
    )
    mesh.assert_idle()


def test_tokens_come_back_continuously():
    mesh = lab(limit(2, rate=2.0))
    assert statuses(mesh, 3) == [200, 200, 429]
    mesh.clock.advance(0.5)
    assert statuses(mesh, 2) == [200, 429]
    mesh.clock.advance(100)
    assert statuses(mesh, 3) == [200, 200, 429]


def test_a_route_without_a_setting_has_the_filters_own():
    assert statuses(lab(), 4) == [200, 200, 200, 429]


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (Disabled.HERE, [200] * 5),
        (limit(1, enabled=0.0), [200] * 5),
        (limit(1, enforced=0.0), [200] * 5),
        (limit(0), [429] * 5),
    ],
)
def test_settings_of_a_route(own, found):
    assert statuses(lab(own), 5) == found


def test_the_cluster_that_is_drawn_says_last():
    assert statuses(lab(limit(9), target=((NAME, limit(1, place="target")),)), 2) == [200, 429]


def test_it_limits_what_is_answered_here_and_what_has_no_route():
    assert statuses(lab(limit(1), action=DirectResponse(201)), 2) == [201, 429]
    nowhere = lab(match=RouteMatch(PathMatch(StringOp.PREFIX, "/else")))
    assert statuses(nowhere, 4) == [404, 404, 404, 429]


def test_the_order_of_the_chain_counts():
    fault = FaultInjection(abort=FaultAbort(100.0, status=418))
    before = lab(None, (NAME, limit(1)), ("f", Faults.HERE), fault_filter=True, fault=fault)
    assert statuses(before, 2) == [418, 429]
    after = lab(None, ("f", Faults.HERE), (NAME, limit(1)), fault_filter=True, fault=fault)
    assert statuses(after, 2) == [418, 418]


def test_buckets_outlive_a_swap_that_leaves_them_alone():
    mesh = lab(limit(1))
    mesh.run()
    mesh.update(lab(limit(1)).live.snapshot)
    assert statuses(mesh, 1) == [429]
    mesh.update(lab(limit(2)).live.snapshot)
    assert statuses(mesh, 1) == [200]


def test_headers():
    mesh = lab(limit(1, response_headers=adds("x-lim", "%ROUTE_NAME%"), tells=True, status=503))
    respond = mesh.run().effects[-1]
    assert isinstance(respond, Respond)
    told = [("x-ratelimit-limit", "1"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "60")]
    assert respond.edit([("a", "b")]) == [("a", "b"), *told]
    reply = mesh.run().reply
    assert (reply.status, list(reply.headers)) == (503, [("x-lim", "r"), ("content-type", "text/plain"), *told])


def test_headers_of_what_goes_on_over_the_limit():
    mesh = lab(limit(0, enforced=0.0, request_headers=adds("x-over", "yes")))
    assert ("x-over", "yes") in mesh.run().attempts[0].headers


@pytest.mark.parametrize(("exhausted", "code"), [(False, 14), (True, 8)])
def test_grpc_callers(exhausted, code):
    view = request(headers=[("content-type", "application/grpc")])
    reply = lab(limit(0, resource_exhausted=exhausted)).run(view=view).reply
    assert (reply.status, dict(reply.headers)["grpc-status"]) == (200, str(code))


USER = RateLimitRule((DescriptorAction(From.HEADER, "user", name="x-user"),))


def per_user(*names, **fields):
    found = tuple(Descriptor((("user", name),), TokenBucket(1, SLOW)) for name in names)
    return lab(limit(fields.pop("tokens", 9), descriptors=found, **fields), limits=RouteLimits((USER,), (), False))


def by(user):
    return {"headers": [("x-user", user)]}


def test_descriptors_have_buckets_of_their_own():
    mesh = per_user("amy", "bob")
    assert statuses(mesh, 2, **by("amy")) == [200, 429]
    assert statuses(mesh, 2, **by("bob")) == [200, 429]
    assert statuses(mesh, 3, **by("cid")) == [200, 200, 200]


def test_the_default_bucket_counts_as_well_unless_it_is_told_not_to():
    assert statuses(per_user("amy", tokens=0), 1, **by("amy")) == [429]
    assert statuses(per_user("amy", tokens=0, always_default=False), 1, **by("amy")) == [200]


def test_a_descriptor_for_any_value():
    mesh = per_user("", most_values=2)
    assert statuses(mesh, 2, **by("amy")) == [200, 429]
    assert statuses(mesh, 2, **by("bob")) == [200, 429]
    statuses(mesh, 1, **by("cid"))  # the third: the oldest is forgotten
    assert statuses(mesh, 1, **by("amy")) == [200]


SAYS_HI = HeaderMatch("x-hi", present=True)


@pytest.mark.parametrize(
    ("action", "value"),
    [
        (DescriptorAction(From.CONSTANT, "k", "v"), "v"),
        (DescriptorAction(From.HEADER, "k", name="x-hi"), "1,2"),
        (DescriptorAction(From.HEADER, "k", name="x-no"), None),
        (DescriptorAction(From.QUERY, "k", name="q"), "a%20b"),
        (DescriptorAction(From.QUERY, "k", name="no"), None),
        (DescriptorAction(From.ADDRESS, "k"), "127.0.0.1"),
        (DescriptorAction(From.CLUSTER, "k"), "c"),
        (DescriptorAction(From.HEADERS_MATCH, "k", "v", headers=(SAYS_HI,)), "v"),
        (DescriptorAction(From.HEADERS_MATCH, "k", "v", headers=(SAYS_HI,), expect=False), None),
        (DescriptorAction(From.QUERY_MATCH, "k", "v", query=(QueryMatch("q"),)), "v"),
        (DescriptorAction(From.QUERY_MATCH, "k", "v", query=(QueryMatch("no"),)), None),
    ],
)
def test_actions(action, value):
    view = request("/?q=a%20b", headers=[("x-hi", "1"), ("x-hi", "2")])
    made = descriptor(RateLimitRule((action,)), view, "c")
    assert made == (None if value is None else (("k", value),))


def test_an_entry_that_may_be_skipped():
    optional = DescriptorAction(From.HEADER, "h", name="x-no", skip_if_absent=True)
    assert descriptor(RateLimitRule((optional,)), request(), "c") is None
    both = RateLimitRule((optional, DescriptorAction(From.CONSTANT, "k", "v")))
    assert descriptor(both, request(), "c") == (("k", "v"),)


@pytest.mark.parametrize(
    ("option", "own", "include", "found"),
    [
        (VirtualHostLimits.OVERRIDE, True, False, ["route"]),
        (VirtualHostLimits.OVERRIDE, False, False, ["host"]),
        (VirtualHostLimits.OVERRIDE, True, True, ["route", "host"]),
        (VirtualHostLimits.INCLUDE, True, False, ["route", "host"]),
        (VirtualHostLimits.IGNORE, False, False, []),
    ],
)
def test_rules_of_route_and_virtual_host(option, own, include, found):
    route, host = (RateLimitRule((DescriptorAction(From.CONSTANT, "k", name),)) for name in ("route", "host"))
    config = limit(virtual_host=option)
    others = (RateLimitRule(route.actions, stage=1),)
    made = rules(config, (route, *others) if own else others, (host,), include=include)
    assert [rule.actions[0].value for rule in made] == found


@pytest.mark.parametrize(("length", "status"), [("5", 200), ("6", 413), (None, 200)])
def test_the_buffer_limit(length, status):
    mesh = lab(None, ("buffer", BufferLimit(5)))
    view = request(method="POST", headers=[] if length is None else [("content-length", length)])
    run = mesh.run(view=view)
    assert run.status == status
    if status == 413:
        assert (run.reply.body, run.record.detail) == ("Payload Too Large", "request_payload_too_large")
