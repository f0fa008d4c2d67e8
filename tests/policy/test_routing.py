"""Which route, which cluster, and what is sent upstream."""

import random
from collections import Counter

import pytest

from meshlib.model.match import PathMatch, RouteMatch, StringOp
from meshlib.model.route import Redirect, Route, RouteAction, WeightedCluster
from meshlib.policy import routing
from policy.driving import Lab, ScriptedRandom
from policy.snapshots import ANY_PATH, cluster, endpoints, forward, request, retry, snapshot


def prefix(path, **fields):
    return RouteMatch(PathMatch(StringOp.PREFIX, path), **fields)


def test_the_first_match_wins():
    routes = [forward("a", match=prefix("/a")), forward("b"), forward("c")]
    snap = snapshot(*(cluster(endpoints(1), name=n) for n in "abc"), routes=routes)
    test = Lab(snap)
    assert [test.run(view=request(t)).record.cluster_name for t in ("/a/x", "/b")] == ["a", "b"]


@pytest.mark.parametrize("weights", [(30, 10), (1, 1, 1), (95, 5), (0, 7), (3, 0, 3)])
def test_weights_are_divided_by_their_sum(weights):
    clusters = tuple(WeightedCluster(f"c{n}", w) for n, w in enumerate(weights))
    chance, draws = random.Random(11), 6000
    counts = Counter(routing.draw_cluster(RouteAction(clusters), chance).name for _ in range(draws))
    chi = 0.0
    for target in clusters:
        want = draws * target.weight / sum(weights)
        if not want:
            assert counts[target.name] == 0
        else:
            chi += (counts[target.name] - want) ** 2 / want
    assert chi < 16.3  # 0.1 % at 3 degrees of freedom


@pytest.mark.parametrize(("drawn", "want"), [(0.0, "a"), (0.7499, "a"), (0.7501, "b"), (0.9999, "b")])
def test_the_borders_of_a_draw(drawn, want):
    clusters = (WeightedCluster("a", 30), WeightedCluster("none", 0), WeightedCluster("b", 10))
    assert routing.draw_cluster(RouteAction(clusters), ScriptedRandom(drawn)).name == want


def test_every_attempt_stays_on_the_drawn_cluster():
    action = RouteAction(
        (WeightedCluster("a", 1), WeightedCluster("b", 1)),
        timeout=0.0,
        retry=retry("5xx", num_retries=3, base_interval=0.0, max_interval=0.0),
    )
    snap = snapshot(cluster(endpoints(2), name="a"), cluster(endpoints(2), name="b"), routes=[Route(ANY_PATH, action)])
    test, seen = Lab(snap), Counter()
    for _ in range(40):
        run = test.run(503)
        assert len({attempt.cluster.name for attempt in run.attempts}) == 1
        seen[run.record.cluster_name] += 1
    assert set(seen) == {"a", "b"}


def test_runtime_fraction_falls_through():
    routes = [forward("a", match=prefix("/", runtime_fraction=25.0)), forward("b")]
    test = Lab(snapshot(cluster(endpoints(1), name="a"), cluster(endpoints(1), name="b"), routes=routes))
    share = sum(test.run().record.cluster_name == "a" for _ in range(2000))
    assert 400 < share < 600


@pytest.mark.parametrize(
    ("match", "rewrite", "target", "sent"),
    [
        (PathMatch(StringOp.PREFIX, "/api"), "/v2", "/api/items?x=1", "/v2/items?x=1"),
        (PathMatch(StringOp.PREFIX, "/api/"), "/", "/api/items", "/items"),
        (PathMatch(StringOp.EXACT, "/api"), "/v2", "/api?x=1", "/v2?x=1"),
        (PathMatch(StringOp.REGEX, "/a.*"), "/v2", "/api/items?x=1", "/v2?x=1"),
        (PathMatch(StringOp.PREFIX, "/API", case_sensitive=False), "/v2", "/api/Items", "/v2/Items"),
        (PathMatch(StringOp.PREFIX, "/api"), "", "/api/items?x=1", "/api/items?x=1"),
    ],
)
def test_prefix_rewrite(match, rewrite, target, sent):
    test = Lab(snapshot(cluster(endpoints(1)), routes=[forward(match=RouteMatch(match), prefix_rewrite=rewrite)]))
    assert test.run(view=request(target)).attempts[0].target == sent


def test_rewrites_tell_what_was_asked_for():
    test = Lab(snapshot(cluster(endpoints(1)), routes=[forward(host_rewrite="other.test", prefix_rewrite="/v2/")]))
    attempt = test.run(view=request("/items?x=1")).attempts[0]
    assert (attempt.authority, attempt.target) == ("other.test", "/v2/items?x=1")
    headers = dict(attempt.headers)
    assert (headers["x-envoy-original-host"], headers["x-envoy-original-path"]) == ("catalog", "/items?x=1")
    plain = Lab(snapshot(cluster(endpoints(1)))).run().attempts[0]
    assert not [name for name, _ in plain.headers if name.startswith("x-envoy-original")]


def test_host_rewrite():
    test = Lab(snapshot(cluster(endpoints(1)), routes=[forward(host_rewrite="other.test")]))
    assert test.run().attempts[0].authority == "other.test"
    assert Lab(snapshot(cluster(endpoints(1)))).run().attempts[0].authority == "catalog"


REDIRECTS = [
    # redirect, authority, scheme, target, Location
    (Redirect(host="b.test"), "a.test", "http", "/x?q=1", "http://b.test/x?q=1"),
    (Redirect(host="b.test"), "a.test:8080", "http", "/x", "http://b.test/x"),
    (Redirect(scheme="https"), "a.test", "http", "/x", "https://a.test/x"),
    (Redirect(port=8443), "a.test", "http", "/x", "http://a.test:8443/x"),
    (Redirect(port=80), "a.test:8080", "http", "/x", "http://a.test:80/x"),
    (Redirect(scheme="https"), "a.test:80", "http", "/x", "https://a.test/x"),
    (Redirect(scheme="https"), "a.test:443", "http", "/x", "https://a.test:443/x"),
    (Redirect(scheme="http"), "a.test:80", "http", "/x", "http://a.test:80/x"),
    (Redirect(scheme="https"), "[::1]:80", "http", "/x", "https://[::1]/x"),
    (Redirect(path="/new?own=1", strip_query=True), "a.test", "http", "/old?q=1", "http://a.test/new?own=1"),
    (Redirect(path="/new"), "a.test", "http", "/old?q=1", "http://a.test/new?q=1"),
    (Redirect(path="/new?own=1"), "a.test", "http", "/old?q=1", "http://a.test/new?own=1"),
    (Redirect(path="/new", strip_query=True), "a.test", "http", "/old?q=1", "http://a.test/new"),
    (Redirect(prefix="/new"), "a.test", "http", "/old/x?q=1", "http://a.test/new/x?q=1"),
    (Redirect(path="/new"), "a.test:8080", "http", "/old", "http://a.test:8080/new"),
]


@pytest.mark.parametrize(("redirect", "authority", "scheme", "target", "want"), REDIRECTS)
def test_location(redirect, authority, scheme, target, want):
    route = Route(RouteMatch(PathMatch(StringOp.PREFIX, "/old" if redirect.prefix else "/")), redirect)
    port = int(authority.rpartition(":")[2]) if authority[-1].isdecimal() else 80
    view = request(target, host=authority, scheme=scheme, port=port)
    assert routing.location(redirect, route, view) == want


def test_attempt_count_header():
    from policy.snapshots import table

    policy = retry("5xx", num_retries=2, base_interval=0.0, max_interval=0.0)
    routes = table(forward(retry=policy, timeout=0.0), attempt_count=True)
    run = Lab(snapshot(cluster(endpoints(1)), routes=routes)).run(503)
    assert [dict(a.headers)["x-envoy-attempt-count"] for a in run.attempts] == ["1", "2", "3"]


def test_the_observers_headers_go_along():
    test = Lab(snapshot(cluster(endpoints(1))))
    test.journal._headers = (("traceparent", "00-1-2-01"),)
    assert ("traceparent", "00-1-2-01") in test.run().attempts[0].headers
