"""Header mutations and rewrites: tables over the policy of a call."""

import pytest

from meshlib.model.cluster import Cluster
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint, LocalityEndpoints
from meshlib.model.headers import AppendAction, FilterMutations, HeaderMutations, HeaderToAdd, MutationStep
from meshlib.model.match import PathMatch, RouteMatch, StringOp
from meshlib.model.rewrite import RegexRewrite
from meshlib.model.route import DirectResponse, Redirect, Route, RouteAction, WeightedCluster
from meshlib.model.template import Template
from meshlib.model.traffic import FaultAbort, FaultInjection
from meshlib.policy.effects import ErrorKind, Respond
from policy.driving import Lab, Met
from policy.snapshots import ANY_PATH, cluster, endpoints, request, retry, snapshot, table

APPEND, ABSENT, OVERWRITE, IF_EXISTS = AppendAction


def adding(*headers, remove=()):
    """Mutations of one level; a header is (name, value[, action[, keep_empty]])."""
    add = tuple(HeaderToAdd(name, Template(value), *rest) for name, value, *rest in headers)
    return HeaderMutations((MutationStep(frozenset(remove), add),))


def run(*script, view=None, route=None, http=None, host=None, target=None, **action):
    target = target or WeightedCluster("c")
    made = Route(ANY_PATH, RouteAction((target,), **action), name="r", **(route or {}))
    lab = Lab(snapshot(cluster(endpoints(1, hostname="node")), routes=table(made, **(host or {})), **(http or {})))
    done = lab.run(*script, view=view)
    lab.assert_idle()
    return done


def sent(done, number=0):
    """Every header of an attempt as a server would see it, sorted; what Envoy tells of timeouts left out."""
    attempt = done.attempts[number]
    replaced = {*attempt.removed, *(name for name, _ in attempt.headers)}
    own = [pair for pair in done.record.request.headers if pair[0] not in replaced]
    return sorted(pair for pair in (*own, *attempt.headers) if pair[0] != "x-envoy-expected-rq-timeout-ms")


@pytest.mark.parametrize(
    ("mutations", "headers", "expected"),
    [
        (adding(("a", "new")), [], [("a", "new")]),
        (adding(("a", "new")), [("a", "old")], [("a", "new"), ("a", "old")]),
        (adding(("a", "new", ABSENT)), [("a", "old")], [("a", "old")]),
        (adding(("a", "new", ABSENT)), [], [("a", "new")]),
        (adding(("a", "1", ABSENT), ("a", "2", ABSENT)), [], [("a", "1"), ("a", "2")]),
        (adding(("a", "new", OVERWRITE)), [("a", "1"), ("a", "2")], [("a", "new")]),
        (adding(("a", "new", IF_EXISTS)), [("a", "old")], [("a", "new")]),
        (adding(("a", "new", IF_EXISTS)), [], []),
        (adding(remove=["a"]), [("a", "1"), ("b", "2"), ("a", "3")], [("b", "2")]),
        (adding(("a", "new"), remove=["a"]), [("a", "old")], [("a", "new")]),
        (adding(("a", "1", APPEND), ("a", "2", OVERWRITE)), [("a", "old")], [("a", "1"), ("a", "2")]),
        (adding(("a", "1", OVERWRITE), ("b", "%REQ(a)%")), [("a", "0")], [("a", "1"), ("b", "0")]),
        (adding(("a", "")), [], []),
        (adding(("a", "", APPEND, True)), [], [("a", "")]),
        (adding(("a", "%REQ(none)%", OVERWRITE)), [("a", "old")], [("a", "old")]),
        (adding(("a", "%REQ(none)%", OVERWRITE, True)), [("a", "old")], [("a", "")]),
    ],
)
def test_append_actions(mutations, headers, expected):
    done = run(view=request(headers=headers), route={"request_headers": mutations})
    assert sent(done) == expected


def test_levels_see_what_the_one_before_left():
    first, second = adding(("a", "1", OVERWRITE), remove=["b"]), adding(("b", "%REQ(a)%"))
    done = run(view=request(headers=[("a", "0"), ("b", "0")]), route={"request_headers": first + second})
    assert sent(done) == [("a", "1"), ("b", "1")]


def test_the_drawn_cluster_comes_before_the_route_and_its_host_between_them():
    target = WeightedCluster("c", host_rewrite="w.test", request_headers=adding(("a", "c"), ("h", "%REQ(:authority)%")))
    done = run(target=target, route={"request_headers": adding(("a", "%REQ(a)%r", OVERWRITE), ("h", "%REQ(host)%"))})
    assert sent(done) == [("a", "cr"), ("h", "catalog"), ("h", "w.test")]
    assert done.attempts[0].authority == "w.test"


def test_retries_send_the_same_but_for_what_tells_attempts_apart():
    mutations = adding(("n", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"), remove=["x-envoy-attempt-count"])
    done = run(
        503, 200, retry=retry("5xx"), route={"request_headers": mutations}, host={"attempt_count": True}
    )  # fmt: skip
    assert [sent(done, n) for n in (0, 1)] == [[("n", "1")], [("n", "1"), ("x-envoy-attempt-count", "2")]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("100%%", "100%"),
        ("[%REQ(x-a)%]", "[aval]"),
        ("%REQ(X-A):2%", "av"),
        ("%REQ(none?x-a)%", "aval"),
        ("a%REQ(none)%b", "ab"),
        ("%REQ(:method)% %REQ(:scheme)%://%REQ(:authority)%%REQ(:path)%", "GET http://catalog/p?x=1&y"),
        ("%PATH(NQ)%|%PATH(WQ:PATH)%|%QUERY_PARAM(x)%", "/p|/p?x=1&y|1"),
        ("%PROTOCOL% %ROUTE_NAME% %UPSTREAM_CLUSTER% %UPSTREAM_HOST%", "HTTP/1.1 r c "),
        ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%", " "),
        ("%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED%", "0 - 0"),
        ("%ENVIRONMENT(MESHLIB_NOT_SET)%", "-"),
        ("x%DURATION%", "x"),
    ],
)
def test_commands(text, expected):
    view = request("/p?x=1&y", headers=[("x-a", "aval"), ("x-a", "second")])
    done = run(view=view, route={"request_headers": adding(("v", text))})
    assert ("v", expected) in sent(done)


@pytest.mark.parametrize(
    ("action", "authority", "target", "told"),
    [
        ({"prefix_rewrite": "/z"}, "catalog", "/za/b?q", [("x-envoy-original-path", "/a/b?q")]),
        ({"regex_rewrite": RegexRewrite("^/a/(.*)$", r"/\1/a")}, "catalog", "/b/a?q",
         [("x-envoy-original-path", "/a/b?q")]),
        ({"regex_rewrite": RegexRewrite("zzz", "y")}, "catalog", "/a/b?q", [("x-envoy-original-path", "/a/b?q")]),
        ({"path_rewrite": Template("/%REQ(x-p)%")}, "catalog", "/pv?q", [("x-envoy-original-path", "/a/b?q")]),
        ({"path_rewrite": Template("%REQ(none)%")}, "catalog", "/a/b?q", []),
        ({"host_rewrite": "h"}, "h", "/a/b?q", [("x-envoy-original-host", "catalog")]),
        ({"host_rewrite": "catalog"}, "catalog", "/a/b?q", [("x-envoy-original-host", "catalog")]),
        ({"host_rewrite_header": "x-p"}, "pv", "/a/b?q", [("x-envoy-original-host", "catalog")]),
        ({"host_rewrite_header": "none"}, "catalog", "/a/b?q", []),
        ({"host_rewrite_path_regex": RegexRewrite("^/(.+)/.*$", r"\1.test")}, "a.test", "/a/b?q",
         [("x-envoy-original-host", "catalog")]),
        ({"auto_host_rewrite": True}, "node", "/a/b?q", [("x-envoy-original-host", "catalog")]),
    ],
)  # fmt: skip
def test_rewrites(action, authority, target, told):
    done = run(view=request("/a/b?q", headers=[("x-p", "pv")]), **action)
    attempt = done.attempts[0]
    assert (attempt.authority, attempt.target) == (authority, target)
    assert [pair for pair in sent(done) if pair[0].startswith("x-envoy-original")] == told


@pytest.mark.parametrize(("discovery", "authority"), [(Discovery.STRICT_DNS, "db.test"), (Discovery.STATIC, "catalog")])
def test_auto_host_rewrite_of_a_host_without_a_name(discovery, authority):
    assignment = ClusterLoadAssignment("c", (LocalityEndpoints((Endpoint("db.test", 80),)),))
    made = Route(ANY_PATH, RouteAction((WeightedCluster("c"),), auto_host_rewrite=True))
    test = Lab(snapshot(Cluster("c", discovery, assignment), routes=[made]))
    test.cluster().resolve({"db.test": ["10.0.0.9"]})
    assert test.run().attempts[0].authority == authority


def test_rewrites_see_mutated_headers_and_mutations_the_path_as_it_came():
    mutations = adding(("x-p", "/new"), ("x-was", "%REQ(:path)%"))
    done = run(view=request("/old"), route={"request_headers": mutations}, path_rewrite=Template("%REQ(x-p)%"))
    assert done.attempts[0].target == "/new"
    assert ("x-was", "/old") in sent(done)


@pytest.mark.parametrize(
    ("pattern", "substitution", "text", "expected"),
    [
        ("X", "--", "/aXbX", "/a--b--"),
        ("(a)(b)?", r"[\2\1]", "/ab-a", "/[ba]-[a]"),
        ("abc", r"[\0]", "/abc", "/[abc]"),
        ("1", "\\\\", "/1", "/\\"),
        ("b", "", "/abc", "/ac"),
        ("b", r"\9", "/abc", "/abc"),
        ("b", r"\x", "/abc", "/abc"),
        ("x*", "-", "axxb", "-a-b-"),
    ],
)
def test_regex_rewrites_as_re2(pattern, substitution, text, expected):
    assert RegexRewrite(pattern, substitution).replace(text) == expected


def edited(done, headers=()):
    respond = done.final
    assert isinstance(respond, Respond)
    return list(headers) if respond.edit is None else respond.edit(headers)


def test_responses():
    mutations = adding(("x-code", "%RESPONSE_CODE%:%RESP(x-up)%:%REQ(:path)%", OVERWRITE), remove=["x-gone"])
    done = run(201, view=request("/a"), route={"response_headers": mutations}, prefix_rewrite="/b/")
    assert edited(done, [("x-up", "v"), ("x-gone", "1")]) == [("x-up", "v"), ("x-code", "201:v:/b/a")]


def test_the_drawn_cluster_changes_responses_before_the_route():
    target = WeightedCluster("c", response_headers=adding(("a", "c", OVERWRITE)))
    done = run(target=target, route={"response_headers": adding(("a", "%RESP(a)%r", OVERWRITE))})
    assert edited(done) == [("a", "cr")]


def test_nothing_configured_changes_nothing():
    done = run(view=request(headers=[("a", "1")]))
    assert sent(done) == [("a", "1")]
    assert done.final.edit is None
    assert done.attempts[0].removed == frozenset()


@pytest.mark.parametrize(
    ("script", "flags"), [(ErrorKind.RESET, "UC"), (ErrorKind.CONNECT, "UF"), (Met(200, after=20.0), "UT")]
)
def test_local_replies(script, flags):
    mutations = adding(("x-f", "%RESPONSE_FLAGS%:%RESPONSE_CODE%"))
    done = run(script, route={"response_headers": mutations})
    assert done.reply.headers == (("x-f", f"{flags}:0"), ("content-type", "text/plain"))


def test_a_missing_cluster_is_a_reply_of_the_router_too():
    done = run(target=WeightedCluster("gone"), route={"response_headers": adding(("x", "1"))})
    assert (done.flags, done.reply.headers) == ("NC", (("x", "1"),))


@pytest.mark.parametrize(
    ("action", "headers"),
    [
        (DirectResponse(200, "{}"), [("content-type", "application/json")]),
        (DirectResponse(204), [("content-type", "application/json")]),
        (DirectResponse(201), [("location", "http://catalog/a"), ("content-type", "application/json")]),
        (Redirect(host="n"), [("location", "http://n/a"), ("content-type", "application/json")]),
    ],
)
def test_a_configured_response_may_be_given_its_content_type(action, headers):
    route = Route(ANY_PATH, action, response_headers=adding(("content-type", "application/json")))
    done = Lab(snapshot(routes=[route])).run(view=request("/a"))
    assert list(done.reply.headers) == headers


def test_redirects_by_regex_keep_the_query():
    route = Route(ANY_PATH, Redirect(regex_rewrite=RegexRewrite("^/re/(.)/(.*)$", r"/\2/\1")))
    done = Lab(snapshot(routes=[route])).run(view=request("/re/1/two?q"))
    assert done.reply.headers == (("location", "http://catalog/two/1?q"),)


@pytest.mark.parametrize(("wins", "expected"), [(False, "frvt"), (True, "ftvr")])
def test_the_filter_comes_before_the_routes_own(wins, expected):
    def level(letter):
        return FilterMutations(
            adding(("x", f"%REQ(x)%{letter}", OVERWRITE)), adding(("y", f"%RESP(y)%{letter}", OVERWRITE))
        )

    own = level("f")
    levels = {
        "filter_mutations": (level("r"), level("v"), level("t")),
        "request_headers": adding(("x", "%REQ(x)%!", OVERWRITE)),
    }
    done = run(http={"header_mutation": FilterMutations(own.request, own.response, wins)}, route=levels)
    assert sent(done) == [("x", f"{expected}!")]
    assert edited(done) == [("y", expected)]
    assert sent(run(route=levels)) == [("x", "!")]  # without the filter in the chain


@pytest.mark.parametrize(("kind", "routes"), [("no route", False), ("direct response", False), ("fault", True)])
def test_replies_of_filters_have_the_mutations_of_a_route_that_forwards(kind, routes):
    """Measured on Envoy 1.40."""
    http = {"header_mutation": FilterMutations(response=adding(("f", "1"))), "fault_filter": True}
    abort = FaultInjection(abort=FaultAbort(100.0, status=503))
    if kind == "fault":
        done = run(http=http, route={"fault": abort, "response_headers": adding(("r", "1"))})
    else:
        match = RouteMatch(PathMatch(StringOp.PREFIX, "/" if kind == "direct response" else "/x"))
        route = Route(match, DirectResponse(200), fault=abort, response_headers=adding(("r", "1")))
        done = Lab(snapshot(routes=[route], **http)).run()
    assert ("f", "1") in done.reply.headers
    assert (("r", "1") in done.reply.headers) is routes


@pytest.mark.parametrize(
    ("headers", "cluster", "flags"), [([("x-to", " c ")], "c", "-"), ([("x-to", "d")], "d", "NC"), ([], "", "NC")]
)
def test_a_header_names_the_cluster(headers, cluster, flags):
    done = run(view=request(headers=headers), target=WeightedCluster("", header="x-to"))
    assert (done.record.cluster_name, done.flags) == (cluster, flags)


@pytest.mark.parametrize(
    "text",
    ["%NOPE%", "100%", "%REQ%", "%REQ()%", "%PROTOCOL(x)%", "%PROTOCOL:3%", "%REQ(a?b?c)%", "%req(x)%", "%PATH(X)%"],
)
def test_what_envoy_refuses(text):
    with pytest.raises(ValueError, match=r"%|header name"):
        Template(text)
