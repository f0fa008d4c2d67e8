"""Internal redirects, as the real Envoy makes them: whom they follow, with what, and what is said of them."""

from __future__ import annotations

import pytest

from meshlib.model.match import PathMatch, RouteMatch, StringOp
from meshlib.model.route import DirectResponse, Route
from meshlib.model.traffic import InternalRedirects
from meshlib.policy.effects import Discard, Restart
from policy.driving import Lab, Met
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot


def on(prefix):
    return RouteMatch(PathMatch(StringOp.PREFIX, prefix))


def lab(policy=None, **action):
    policy = policy or InternalRedirects()
    routes = [
        forward(match=on("/from"), name="from", internal_redirects=policy, **action),
        forward("d", match=on("/to"), name="to"),
        Route(on("/here"), DirectResponse(203, "here"), "here"),
    ]
    return Lab(snapshot(cluster(endpoints(1)), cluster(endpoints(2), name="d"), routes=routes))


def elsewhere(location="http://catalog/to", status=302, **headers):
    return Met(status, headers={"location": location, **headers})


def at(target="/from", **fields):
    return request(target, headers=[("host", "catalog"), ("x-a", "1")], **fields)


def test_a_redirect_is_followed_with_the_headers_as_sent():
    run = lab().run(elsewhere("http://other/to?b=1#part"), 200, view=at("/from?a=1"))
    restart = next(effect for effect in run.effects if isinstance(effect, Restart))
    assert (restart.view.authority, restart.view.target, restart.view.host) == ("other", "/to?b=1", "catalog")
    sent = [pair for pair in restart.view.headers if pair[0] != "x-envoy-expected-rq-timeout-ms"]
    assert sent == [("host", "other"), ("x-a", "1"), ("x-envoy-original-url", "http://catalog/from?a=1")]
    assert (run.status, run.record.route, run.record.cluster_name, len(run.attempts)) == (200, "to", "d", 2)
    (hop,) = run.record.redirects
    assert (hop.url, hop.status, hop.route, hop.cluster) == ("http://catalog/from?a=1", 302, "from", "c")
    assert (hop.target, len(hop.attempts), len(run.record.attempts)) == ("to", 1, 1)


@pytest.mark.parametrize(
    ("policy", "response"),
    [
        ({}, elsewhere(status=301)),
        ({}, elsewhere("/to")),
        ({}, elsewhere("")),
        ({}, Met(302)),
        ({}, elsewhere("ftp://catalog/to")),
        ({}, elsewhere("http://catalog")),
        ({}, elsewhere("http://catalog/nowhere")),
        ({}, elsewhere("https://catalog/to")),
        ({"cross_scheme": True, "safe_cross_scheme": True}, elsewhere("https://catalog/to")),
        ({"limit": 0}, elsewhere()),
        ({"allowed_routes": (frozenset({"to"}), frozenset({"from"}))}, elsewhere()),
    ],
    ids=str,
)
def test_what_is_not_followed_is_the_applications(policy, response):
    run = lab(InternalRedirects(**policy)).run(response, view=at())
    assert (run.status, len(run.attempts), run.record.redirects) == (response.status, 1, ())


@pytest.mark.parametrize(
    ("policy", "response"),
    [
        ({"codes": frozenset({308})}, elsewhere(status=308)),
        ({"cross_scheme": True}, elsewhere("https://catalog/to")),
        ({"cross_scheme": True, "safe_cross_scheme": True}, elsewhere()),
        ({"allowed_routes": (frozenset({"to"}),)}, elsewhere("HTTP://catalog/to")),
        ({}, elsewhere("http://user:secret@catalog/to")),
    ],
    ids=str,
)
def test_what_is_followed(policy, response):
    assert len(lab(InternalRedirects(**policy)).run(response, 200, view=at()).record.redirects) == 1


def test_the_limit_is_of_the_call():
    run = lab(InternalRedirects(limit=2)).run(elsewhere("http://catalog/from"), view=at())
    assert (run.status, run.record.route, len(run.attempts)) == (302, "from", 3)


def test_previous_routes_forbids_the_same_way_twice():
    run = lab(InternalRedirects(limit=9, previous_routes=True)).run(elsewhere("http://catalog/from"), view=at())
    assert len(run.attempts) == 2


def test_a_refusal_names_the_route_that_was_refused():
    run = lab(InternalRedirects(allowed_routes=(frozenset(),))).run(elsewhere(), view=at())
    assert (run.record.route, run.record.cluster_name) == ("to", "d")
    run = lab().run(elsewhere("http://catalog/nowhere"), view=at())
    assert (run.record.route, run.record.cluster_name) == ("", "")


def test_303_becomes_get_without_a_body():
    policy = InternalRedirects(codes=frozenset({303, 307}))
    view = request("/from", method="POST", headers=[("content-length", "3")])
    (restart,) = (e for e in lab(policy).run(elsewhere(status=303), 200, view=view).effects if isinstance(e, Restart))
    assert (restart.view.method, restart.body, restart.view.header("content-length")) == ("GET", False, None)
    (restart,) = (e for e in lab(policy).run(elsewhere(status=307), 200, view=view).effects if isinstance(e, Restart))
    assert (restart.view.method, restart.body, restart.view.header("content-length")) == ("POST", True, "3")


def test_a_body_that_cannot_be_sent_again():
    run = lab().run(elsewhere(), view=request("/from", replayable=False))
    assert (run.status, run.record.retry_skipped) == (302, "body not replayable")


def test_headers_are_copied_or_taken_away():
    policy = InternalRedirects(copied=("x-a", "x-b", "x-c"))
    view = request("/from", headers=[("x-a", "1"), ("x-b", "1")])
    run = lab(policy).run(elsewhere(**{"x-b": "2"}), 200, view=view)
    assert [run.record.request.header(name) for name in ("x-a", "x-b", "x-c")] == [None, "2", None]


def test_a_redirect_to_a_direct_response():
    run = lab().run(elsewhere("http://catalog/here"), view=at())
    assert (run.reply.status, run.reply.body, run.record.cluster_name) == (203, "here", "")


def test_retries_come_first_and_begin_anew():
    policy = InternalRedirects(codes=frozenset({302}))
    routes = [
        forward(match=on("/from"), name="from", internal_redirects=policy, retry=retry("5xx")),
        forward("d", match=on("/to"), name="to", retry=retry("5xx")),
    ]
    both = Lab(snapshot(cluster(endpoints(1)), cluster(endpoints(1), name="d"), routes=routes))
    run = both.run(503, elsewhere(), 503, 200, view=at())
    assert (run.status, [attempt.number for attempt in run.attempts]) == (200, [1, 2, 1, 2])
    assert sum(isinstance(effect, Discard) for effect in run.effects) == 2
    both.assert_idle()


def test_each_hop_has_the_routes_timeout():
    made = lab(timeout=1.0).run(Met(302, after=0.9, headers={"location": "http://catalog/to"}), 200, view=at())
    assert made.status == 200
