"""The decision trace: what it says, and that it costs nobody anything who does not ask."""

import pickle

import pytest

from meshlib.model.endpoint import Endpoint, HealthStatus
from meshlib.model.match import HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch, StringOp
from meshlib.model.route import Route, RouteAction, WeightedCluster
from meshlib.policy.trace import Trace, domain_takes, why_not
from policy.driving import Lab, ScriptedRandom
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot


def traced(*routes, clusters=None, chance=0.5, script=(200,), view=None, **fields):
    test = Lab(
        snapshot(*(clusters or [cluster(endpoints(2), **fields)]), routes=list(routes) or None),
        chance=ScriptedRandom(chance),
        trace=Trace(),
    )
    test.run(*script, view=view)
    return test.options["trace"]


def said(trace, kind):
    return [step.text for step in trace if step.kind == kind]


def test_routes_that_were_tried_and_on_what_they_failed():
    tester = RouteMatch(
        PathMatch(StringOp.PREFIX, "/"), (HeaderMatch("x-user", StringMatch(StringOp.EXACT, "tester")),)
    )
    orders = RouteMatch(PathMatch(StringOp.PREFIX, "/orders"))
    trace = traced(
        forward(match=orders, name="orders", source="vs.yaml:3"),
        forward(match=tester, name="testers"),
        forward(name="all"),
        view=request("/items", headers=[("x-user", "someone")]),
    )
    assert said(trace, "route") == [
        "orders  (vs.yaml:3): no, the path /items is not prefix /orders",
        "testers: no, header x-user exact 'tester': it is 'someone'",
        "all: matches prefix /",
    ]
    assert said(trace, "virtual host") == ["host takes 'catalog' by '*'"]


def test_no_route():
    trace = traced(forward(match=RouteMatch(PathMatch(StringOp.EXACT, "/x")), name="x"))
    assert said(trace, "route") == ["x: no, the path / is not path /x", "none matches"]


def test_the_draw():
    action = RouteAction((WeightedCluster("c", 30), WeightedCluster("d", 10)))
    route = Route(RouteMatch(PathMatch(StringOp.PREFIX, "/")), action)
    trace = traced(route, clusters=[cluster(endpoints(1)), cluster(endpoints(1), name="d")], chance=0.8)
    assert said(trace, "weights") == ["d of c 30, d 10; drew 32 of 40"]


def test_load_exclusions_attempts_and_retries():
    sick = Endpoint("10.0.0.9", 80, health=HealthStatus.UNHEALTHY)
    policy = retry(
        "5xx", num_retries=1, previous_hosts=True, per_try_timeout=0.5, base_interval=0.01, max_interval=0.01
    )
    trace = traced(forward(retry=policy), clusters=[cluster((*endpoints(1), sick))], script=(503, 503))
    assert said(trace, "excluded") == [
        "10.0.0.9:80: EDS says UNHEALTHY",
        "10.0.0.9:80: EDS says UNHEALTHY",
        "10.0.0.1:80: retry_host_predicate passes it over",
    ]
    first, second = said(trace, "attempt")
    assert first.startswith("1 to 10.0.0.1:80, 500ms (per_try_timeout); requests 1/1024, connections 1/1024")
    assert second.startswith("2 to 10.0.0.1:80")
    made, refused = said(trace, "retry")
    assert made == "after 503: in 5ms; retries 1/3 (max_retries=3)"
    assert refused.startswith("after 503: not made, num_retries are used up")


@pytest.mark.parametrize(
    ("domain", "authority", "takes"),
    [
        ("*", "anything", True),
        ("catalog", "Catalog", True),
        ("catalog", "catalog:80", True),
        ("*.default", "catalog.default:80", True),
        ("catalog.*", "catalog.local", True),
        ("orders", "catalog", False),
    ],
)
def test_which_domain_it_was(domain, authority, takes):
    assert domain_takes(domain, authority) is takes


@pytest.mark.parametrize(
    ("match", "view", "why"),
    [
        (RouteMatch(PathMatch(StringOp.PREFIX, "/"), grpc=True), request(), "the content-type is not gRPC's"),
        (
            RouteMatch(PathMatch(StringOp.PREFIX, "/"), query=(QueryMatch("q", StringMatch(StringOp.EXACT, "1")),)),
            request("/?q=2"),
            "query q exact '1': it is 'q=2'",
        ),
        (
            RouteMatch(PathMatch(StringOp.PREFIX, "/"), (HeaderMatch("x", present=True),)),
            request(),
            "header x present: there is none",
        ),
        (
            RouteMatch(PathMatch(StringOp.PREFIX, "/"), runtime_fraction=5.0),
            request(),
            "runtime_fraction 5% did not draw it",
        ),
    ],
)
def test_why_not(match, view, why):
    assert why_not(Route(match, RouteAction((WeightedCluster("c"),))), view) == why


def test_it_goes_along_with_a_record_over_process_borders():
    trace = traced()
    assert pickle.loads(pickle.dumps(trace)).to_list() == trace.to_list()
