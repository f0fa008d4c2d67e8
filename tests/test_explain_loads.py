"""``explain`` says what a decision trace says, without a call."""

import random

from meshlib.explain import explain
from meshlib.model.match import HeaderMatch, PathMatch, RouteMatch, StringMatch, StringOp
from policy.driving import Lab
from policy.snapshots import cluster, endpoints, forward, request, snapshot


def explained(*groups, routes=None, view=None):
    live = Lab(snapshot(cluster(*groups), routes=routes)).live
    return str(explain(live, view or request("/items"), random.Random(7)))


def test_what_of_a_request_a_route_did_not_match():
    tester = RouteMatch(
        PathMatch(StringOp.PREFIX, "/"), (HeaderMatch("x-user", StringMatch(StringOp.EXACT, "tester")),)
    )
    text = explained(
        endpoints(1),
        routes=[forward(match=tester, name="testers"), forward(name="all")],
        view=request("/items", headers=[("x-user", "someone")]),
    )
    assert "header x-user exact 'tester': it is 'someone'" in text


def test_the_load_table_where_there_is_more_than_one_priority():
    first, second = endpoints(2)
    text = explained([first], [second])
    assert "load        priority 0: 100% over 1 of 1 endpoints, ROUND_ROBIN" in text
    assert "load        priority 1: 0% over 1 of 1 endpoints, ROUND_ROBIN" in text
    assert "load  " not in explained(endpoints(2))
