"""Logical stays logical: what the application sees and what the endpoint gets."""

from __future__ import annotations

import pytest

from meshlib.model.match import HeaderMatch, PathMatch, RouteMatch, StringMatch, StringOp
from meshlib.model.route import Route, RouteAction, RouteConfiguration, VirtualHost, WeightedCluster
from meshlib.policy.events import NullObserver
from policy.snapshots import ANY_PATH, cluster, forward, retry, snapshot, table
from runtime.handmade import runtime
from transports.callers import mesh_over
from transports.scripted import OK, Behaviour

BAD = Behaviour(status=503)
RETRIES = retry("5xx", num_retries=2, base_interval=0.001, max_interval=0.001)


def test_the_url_stays_logical(caller, upstreams):
    server = upstreams.serve()
    response = caller(mesh_over(server)).request(url="http://catalog/items?color=red&x=%2F")
    assert str(response.url) == str(response.request.url) == "http://catalog/items?color=red&x=%2F"
    assert response.request.headers["host"] == "catalog"
    seen = server.seen[0]
    assert (seen.target, seen.header("host")) == ("/items?color=red&x=%2F", "catalog")


@pytest.mark.parametrize(
    ("url", "host"),
    [("http://catalog:8080/", "catalog:8080"), ("http://Catalog/", "catalog"), ("http://[::1]/", "[::1]")],
)
def test_host_header(url, host, caller, upstreams):
    server = upstreams.serve()
    caller(mesh_over(server)).request(url=url)
    assert server.seen[0].header("host") == host


def test_a_host_header_of_the_applications_own_routes(caller, upstreams):
    servers = [upstreams.serve(name=n) for n in ("one", "two")]
    clusters = [cluster([s.endpoint], name=s.name) for s in servers]
    hosts = tuple(VirtualHost(s.name, (f"{s.name}.test",), (forward(s.name),)) for s in servers)
    mesh = runtime(snapshot(*clusters, routes=RouteConfiguration("t", hosts)))
    response = caller(mesh).request(url="http://one.test/", headers={"Host": "two.test"})
    assert response.text == "two"
    assert servers[1].seen[0].header("host") == "two.test"


def test_cookies_belong_to_the_logical_host(caller, upstreams):
    server = upstreams.serve(Behaviour(headers=[("set-cookie", "a=1")]))
    call = caller(mesh_over(server))
    call.request()
    call.request()
    call.request(url="http://forum/")
    assert [seen.header("cookie") for seen in server.seen] == [None, "a=1", None]
    assert {cookie.domain for cookie in call.client.cookies.jar} <= {"catalog.local", "catalog", "forum.local", "forum"}


def test_redirects_of_the_upstream_are_followed_logically(caller, upstreams):
    server = upstreams.serve(Behaviour(status=302, headers=[("location", "/next")]), OK)
    response = caller(mesh_over(server)).request(follow_redirects=True)
    assert str(response.url) == "http://catalog/next"
    records = [r.extensions["meshlib"] for r in (*response.history, response)]
    assert [(r.status, r.request.target) for r in records] == [(302, "/items"), (200, "/next")]


class Numbering(NullObserver):
    """Adds a header to each attempt, as tracing does."""

    def attempt_started(self, record, attempt):
        return (("traceparent", f"attempt-{attempt.number}"), ("x-own", "replaced"))


def test_headers_are_added_to_each_attempt(caller, upstreams):
    server = upstreams.serve(BAD, BAD, OK)
    mesh = mesh_over(server, routes=table(forward(retry=RETRIES), attempt_count=True), mesh={"observer": Numbering()})
    response = caller(mesh).request(headers=[("X-Own", "a"), ("x-own", "b"), ("x-kept", "1"), ("X-Kept", "2")])
    assert [s.header("traceparent") for s in server.seen] == ["attempt-1", "attempt-2", "attempt-3"]
    assert [s.header("x-envoy-attempt-count") for s in server.seen] == ["1", "2", "3"]
    assert [value for key, value in server.seen[0].headers if key == "x-own"] == ["replaced"]
    assert [value for key, value in server.seen[0].headers if key == "x-kept"] == ["1", "2"]
    assert response.request.headers.get_list("x-own") == ["a", "b"]  # the application's request is as it was
    assert "traceparent" not in response.request.headers


def test_timeouts_are_told_upstream(caller, upstreams):
    server = upstreams.serve()
    caller(mesh_over(server, routes=[forward(timeout=2.5)])).request()
    assert server.seen[0].header("x-envoy-expected-rq-timeout-ms") == "2500"


def test_rewrites(caller, upstreams):
    server = upstreams.serve()
    match = RouteMatch(PathMatch(StringOp.PREFIX, "/items"))
    routes = [forward(match=match, prefix_rewrite="/v2/items", host_rewrite="catalog.internal")]
    response = caller(mesh_over(server, routes=routes)).request(url="http://catalog/items/1?x=1")
    assert (server.seen[0].target, server.seen[0].header("host")) == ("/v2/items/1?x=1", "catalog.internal")
    assert str(response.url) == "http://catalog/items/1?x=1"


def test_routing_by_header_and_weight(caller, upstreams):
    v1, v2 = upstreams.serve(name="v1"), upstreams.serve(name="v2")
    dark = RouteMatch(PathMatch(StringOp.PREFIX, "/"), (HeaderMatch("x-dark", StringMatch(StringOp.EXACT, "on")),))
    split = Route(ANY_PATH, RouteAction((WeightedCluster("v1", 1), WeightedCluster("v2", 0))))
    clusters = [cluster([s.endpoint], name=s.name) for s in (v1, v2)]
    call = caller(runtime(snapshot(*clusters, routes=[forward("v2", match=dark), split])))
    assert call.request(headers={"X-Dark": "on"}).text == "v2"
    assert {call.request().text for _ in range(10)} == {"v1"}


def test_methods_and_bodies(caller, upstreams):
    server = upstreams.serve()
    call = caller(mesh_over(server))
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"):
        assert call.request(method, content=b"body").status_code == 200
    assert [(s.method, s.body) for s in server.seen][-1] == ("PURGE", b"body")
    assert len(server.seen) == 7


def test_the_record_is_on_the_response(caller, upstreams):
    server = upstreams.serve(BAD, OK)
    mesh = mesh_over(server, routes=[forward(name="items", source="catalog-vs.yaml:7", retry=RETRIES)])
    record = caller(mesh).request().extensions["meshlib"]
    assert (record.route, record.source, record.cluster_name) == ("items", "catalog-vs.yaml:7", "c")
    assert record.endpoint.port == server.port
    assert [a.status for a in record.attempts] == [503, 200]
    assert "cluster=c attempts=2 status=200" in repr(record)
    assert 0.0 < record.duration < 5.0


def test_the_record_of_a_local_reply(caller):
    response = caller(runtime(snapshot(cluster([]))), local_replies="response").request()
    assert (response.status_code, response.text) == (503, "no healthy upstream")
    assert response.extensions["meshlib"].response_flags == "UH"
    assert response.request.url.host == "catalog"


@pytest.mark.parametrize("value", ["maybe", ""])
def test_local_replies_is_one_of_two(value, caller):
    with pytest.raises(ValueError, match="'raise' or 'response'"):
        caller(runtime(snapshot()), local_replies=value)


def test_application_tls_goes_to_the_chosen_endpoint(caller, upstreams, tmp_path):
    """``https://``: the TLS is the application's, the endpoint the mesh's, and no HTTP policy applies."""
    import ssl
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    import trustme

    from meshlib.model.endpoint import Endpoint
    from meshlib.model.filter_chain import FilterChain, TcpProxy
    from meshlib.model.listener import Listener
    from meshlib.model.route import WeightedCluster
    from meshlib.model.snapshot import Snapshot, Style

    authority = trustme.CA()
    served = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            served.append(self.headers["host"])
            self.send_response(503)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("secure.test").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        chain = FilterChain(
            tcp=TcpProxy((WeightedCluster("c"),)), transport_protocol="tls", server_names=("secure.test",)
        )
        listener = Listener("l", "0.0.0.0", 443, chains=(chain,))
        config = cluster([Endpoint("127.0.0.1", server.server_port)])
        mesh = runtime(Snapshot("1", Style.STATIC, {"l": listener}, {}, {"c": config}))
        call = caller(mesh, verify=trusting)
        response = call.request(url="https://secure.test/")
        assert (response.status_code, served) == (503, ["secure.test"])
        assert response.extensions["meshlib"].cluster_name == "c"
        assert len(response.extensions["meshlib"].attempts) == 1
        call.close()
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
