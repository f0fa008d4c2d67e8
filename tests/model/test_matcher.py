"""Matcher trees: which routes they lead to. What Envoy does was measured on it (1.40)."""

from __future__ import annotations

import pytest

from meshlib.model.match import PathMatch, RouteMatch, StringMatch, StringOp
from meshlib.model.matcher import (
    Combined,
    Hashed,
    HeaderInput,
    InNetworks,
    MapKind,
    MatcherTree,
    OnMatch,
    Single,
    TreeRoutes,
)
from meshlib.model.route import RouteConfiguration, VirtualHost
from policy.driving import Lab
from policy.snapshots import cluster, endpoints, forward, request, snapshot


def leads(name):
    return OnMatch((forward(name=name),))


def when(header, value, op=StringOp.EXACT):
    return Single(HeaderInput(header), StringMatch(op, value))


def names(tree, **headers):
    view = request(headers=[(k, v) for k, vs in headers.items() for v in (vs if isinstance(vs, list) else [vs])])
    return [route.name for route in TreeRoutes(tree).of(view)]


DEEP = OnMatch(MatcherTree(input=HeaderInput("k"), values={"x": leads("deep")}))
MAP = {"p": leads("p"), "pre": leads("pre"), "prefix": DEEP}
PREFIXES = MatcherTree(input=HeaderInput("h"), values=MAP, kind=MapKind.PREFIX, on_no_match=leads("no"))
NAMES = {"*.b.c": leads("wild"), "a.b.c": leads("exact"), "*.a.b.c": DEEP, "*": leads("star")}
SUFFIXES = MatcherTree(input=HeaderInput("h"), values=NAMES, kind=MapKind.SERVER_NAME)
RANGES = {"10.0.0.0/8": leads("ten"), "10.1.0.0/16": DEEP}
NETWORKS = MatcherTree(input=HeaderInput("h"), values=RANGES, kind=MapKind.NETWORK)
RULES = MatcherTree(
    rules=(
        (Combined((when("a", "1"), when("b", "2")), every=True), leads("both")),
        (Combined((when("a", "1"), when("b", "2"))), leads("either")),
        (Combined((when("n", "no"),), inverted=True), DEEP),
        (when("l", "1,2"), leads("joined")),
    ),
    on_no_match=leads("no"),
)


@pytest.mark.parametrize(
    ("tree", "headers", "found"),
    [
        (RULES, {"a": "1", "b": "2"}, ["both"]),
        (RULES, {"b": "2"}, ["either"]),
        (RULES, {"k": "x"}, ["deep"]),
        (RULES, {"n": "no", "k": "x"}, ["no"]),
        (RULES, {"l": ["1", "2"]}, ["joined"]),
        (RULES, {}, ["no"]),
        (PREFIXES, {"h": "pr"}, ["p"]),
        (PREFIXES, {"h": "present"}, ["pre"]),
        (PREFIXES, {"h": "prefixed", "k": "x"}, ["deep"]),
        (PREFIXES, {"h": "prefixed"}, ["pre"]),
        (PREFIXES, {"h": "other"}, ["no"]),
        (PREFIXES, {}, ["no"]),
        (SUFFIXES, {"h": "a.b.c"}, ["exact"]),
        (SUFFIXES, {"h": "z.b.c"}, ["wild"]),
        (SUFFIXES, {"h": "z.a.b.c", "k": "x"}, ["deep"]),
        (SUFFIXES, {"h": "z.a.b.c"}, ["wild"]),
        (SUFFIXES, {"h": "q"}, ["star"]),
        (NETWORKS, {"h": "10.2.0.1"}, ["ten"]),
        (NETWORKS, {"h": "10.1.0.1", "k": "x"}, ["deep"]),
        (NETWORKS, {"h": "10.1.0.1"}, ["ten"]),
        (NETWORKS, {"h": "11.0.0.1"}, []),
        (NETWORKS, {"h": "no address"}, []),
        (MatcherTree(), {}, []),
    ],
)
def test_where_a_tree_leads(tree, headers, found):
    assert names(tree, **headers) == found


def test_all_routes_of_a_tree_are_known():
    assert [route.name for route in TreeRoutes(RULES)] == ["both", "either", "deep", "joined", "no"]


def test_the_routes_it_leads_to_have_conditions_of_their_own():
    tree = MatcherTree(on_no_match=OnMatch((forward(name="never", match=request_path("/x")), forward(name="here"))))
    table = RouteConfiguration("table", (VirtualHost("host", ("*",), TreeRoutes(tree), by_tree=True),))
    run = Lab(snapshot(cluster(endpoints(1)), routes=table)).run()
    assert run.record.route == "here"


def request_path(prefix):
    return RouteMatch(PathMatch(StringOp.PREFIX, prefix))


@pytest.mark.parametrize(
    ("match", "text", "matches"),
    [
        (InNetworks(("10.0.0.0/8", "::1/128")), "10.1.2.3", True),
        (InNetworks(("10.0.0.0/8", "::1/128")), "::1", True),
        (InNetworks(("10.0.0.0/8",)), "11.1.2.3", False),
        (InNetworks(("10.0.0.0/8",)), "", False),
        (Hashed(7, 4, 0, 4), "any", True),
        (Hashed(7, 4, 4, 4), "any", False),
    ],
)
def test_matchers_of_an_input(match, text, matches):
    assert match.compile()(text) is matches
