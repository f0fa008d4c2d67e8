"""What routes tell and make besides: attempt counts, cookies, hosts, queries, bodies; measured on Envoy 1.40."""

from __future__ import annotations

import pytest

from meshlib.model.balancing import LbPolicy
from meshlib.model.body_format import BodyFormat
from meshlib.model.endpoint import Endpoint
from meshlib.model.headers import (
    AppendAction,
    FilterMutations,
    HeaderMutations,
    HeaderToAdd,
    MutationStep,
    QueryMutation,
    mutated_query,
)
from meshlib.model.match import StringMatch, StringOp
from meshlib.model.route import DirectResponse, Route
from meshlib.model.template import Template
from meshlib.model.traffic import CookieToMake, HashOn, HashPolicy
from meshlib.policy.effects import ErrorKind, Respond
from meshlib.policy.headers import CallFacts, forwarded_host
from meshlib.policy.record import CallRecord
from policy.driving import Lab, ScriptedRandom
from policy.snapshots import ANY_PATH, cluster, endpoints, forward, request, retry, snapshot, table


def seen(run, name):
    return [value for attempt in run.attempts for key, value in attempt.headers if key == name]


def answered(run):
    assert isinstance(run.effects[-1], Respond)
    edit = run.effects[-1].edit
    return [] if edit is None else edit([])


def test_attempts_are_told_to_the_caller():
    routes = table(forward(retry=retry("5xx", num_retries=3)), attempt_count_in_response=True)
    mesh = Lab(snapshot(cluster(endpoints(2)), routes=routes))
    assert answered(mesh.run(503, 503, 200)) == [("x-envoy-attempt-count", "3")]
    assert dict(mesh.run(ErrorKind.RESET).reply.headers)["x-envoy-attempt-count"] == "4"


def test_retries_are_told_whether_it_was_a_timeout():
    routes = table(forward(retry=retry("5xx", num_retries=2, per_try_timeout=1.0)), timeout_retry=True)
    run = Lab(snapshot(cluster(endpoints(2)), routes=routes)).run(ErrorKind.TIMEOUT, 503, 200)
    assert seen(run, "x-envoy-is-timeout-retry") == ["true", "false"]


@pytest.mark.parametrize(
    ("cookie", "header"),
    [
        (CookieToMake(60, "/p"), 's="8000000000000000"; Max-Age=60; Path=/p; HttpOnly'),
        (CookieToMake(0), 's="8000000000000000"; HttpOnly'),
        (
            CookieToMake(5, attributes=(("SameSite", "Lax"), ("Secure", ""))),
            's="8000000000000000"; Max-Age=5; SameSite=Lax; Secure; HttpOnly',
        ),
    ],
)
def test_a_cookie_is_made_for_a_request_without_it(cookie, header):
    policy = HashPolicy(HashOn.COOKIE, "s", cookie=cookie)
    hosts = cluster(endpoints(20), lb_policy=LbPolicy.RING_HASH)
    mesh = Lab(snapshot(hosts, routes=[forward(hash_policies=(policy,))]), chance=ScriptedRandom(0.5))
    run = mesh.run()
    assert answered(run) == [("set-cookie", header)]
    again = mesh.run(view=request(headers=[("cookie", 's="8000000000000000"')]))
    assert (answered(again), again.hosts) == ([], run.hosts)


@pytest.mark.parametrize(
    ("before", "after"), [([], "h"), (["a"], "a,h"), (["a", "b"], "a,b,h"), (["a, h"], "a, h"), (["h", "a"], "h,a,h")]
)
def test_a_rewritten_host_is_forwarded(before, after):
    assert forwarded_host([("x-forwarded-host", value) for value in before], "h") == after


@pytest.mark.parametrize("action", [{"host_rewrite": "new"}, {"auto_host_rewrite": True}])
def test_the_host_is_forwarded_where_it_is_rewritten(action):
    hosts = cluster([Endpoint("10.0.0.1", 80, hostname="new")])
    run = Lab(snapshot(hosts, routes=[forward(append_forwarded_host=True, **action)])).run()
    assert (run.attempts[0].authority, seen(run, "x-forwarded-host")) == ("new", ["catalog"])


A, OVERWRITE, P, X = (
    AppendAction.APPEND_IF_EXISTS_OR_ADD,
    AppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    AppendAction.ADD_IF_ABSENT,
    AppendAction.OVERWRITE_IF_EXISTS,
)


@pytest.mark.parametrize(
    ("target", "mutation", "made"),
    [
        ("/p", ("a", "new", A), "/p?a=new"),
        ("/p?b=2&a=1&a=2", ("a", "new", A), "/p?a=1&a=2&a=new&b=2"),
        ("/p?b&c=%20x", ("z", "1", A), "/p?b=&c=%20x&z=1"),
        ("/p?a=1", ("a", "new", P), "/p?a=1"),
        ("/p", ("a", "new", P), "/p?a=new"),
        ("/p", ("a", "new", X), "/p"),
        ("/p?a=1&a=2", ("a", "n&w=1%% é", X), "/p?a=n%26w%3D1%25%20%C3%A9"),
        ("/p?b=1", ("a", "%QUERY_PARAM(b)%", OVERWRITE), "/p?a=1&b=1"),
        ("/p?b=1", ("b", None, A), "/p"),
        ("/p?", ("b", None, A), "/p"),
    ],
)
def test_query_parameters_are_mutated(target, mutation, made):
    name, value, action = mutation
    facts = CallFacts(CallRecord(request(target), 0.0))
    changed = QueryMutation(name, None if value is None else Template(value), action)
    assert mutated_query(target, [changed], facts) == made


def filtered(levels=(), **own):
    route = Route(ANY_PATH, forward(prefix_rewrite="/new/").action, filter_mutations=levels)
    mesh = Lab(snapshot(cluster(endpoints(1)), routes=[route], header_mutation=FilterMutations(**own)))
    return mesh.run(view=request("/old?b=1", headers=[("x-rm-1", "1"), ("x-rm-2", "2"), ("x-keep", "3")]))


def test_the_filter_removes_headers_by_pattern_and_mutates_the_query():
    steps = HeaderMutations((MutationStep(remove_matching=StringMatch(StringOp.PREFIX, "x-rm")),))
    run = filtered(request=steps, query=(QueryMutation("a", Template("1")),))
    assert run.attempts[0].target == "/new/old?a=1&b=1"
    assert run.attempts[0].removed >= {"x-rm-1", "x-rm-2"}
    assert "x-keep" not in run.attempts[0].removed


def test_a_route_does_without_the_filter():
    adding = HeaderMutations((MutationStep(add=(HeaderToAdd("x-f", Template("1")),)),))
    assert seen(filtered(request=adding), "x-f") == ["1"]
    assert seen(filtered((FilterMutations(disabled=True),), request=adding), "x-f") == []


J = "application/json"


@pytest.mark.parametrize(
    ("made", "body", "kind"),
    [
        (BodyFormat(Template("%REQ(x-no)%|%LOCAL_REPLY_BODY%|%RESPONSE_CODE%", "-")), "-|B|0", "text/plain"),
        (BodyFormat(Template("%REQ(x-no)%|"), "text/x"), "|", "text/x"),
        (BodyFormat({"n": Template("%RESPONSE_CODE%"), "a": Template("v%ROUTE_NAME%")}, J), '{"a":"vr","n":0}\n', J),
        (
            BodyFormat({"l": (1.0, True, None, 1.5), "x": Template("%REQ(x-no)%")}, J),
            '{"l":[1,true,null,1.5],"x":null}\n',
            J,
        ),
        (BodyFormat({"x": Template("%REQ(x-no)%"), "y": {}}, J, omit_empty=True), '{"y":{}}\n', J),
    ],
)
def test_bodies_are_made_from_formats(made, body, kind):
    run = Lab(snapshot(routes=[Route(ANY_PATH, DirectResponse(200, "B", made), "r")])).run()
    assert (run.reply.body, run.reply.headers) == (body, (("content-type", kind),))
