"""What comes back, through real sockets: the same table through the blocking and the async driver."""

from __future__ import annotations

import pickle

import httpx
import pytest

import meshlib
from meshlib import httpx as mesh_httpx
from meshlib.model.cluster import OutlierDetection, Thresholds, TransportSocket
from meshlib.model.endpoint import Endpoint
from meshlib.model.match import PathMatch, RouteMatch, StringOp
from meshlib.model.route import DirectResponse, Redirect, Route
from meshlib.model.traffic import FaultAbort, FaultDelay, FaultInjection
from policy.snapshots import ANY_PATH, cluster, forward, retry, snapshot
from runtime.handmade import runtime
from transports.callers import URL, mesh_over
from transports.scripted import OK, Behaviour

RESET = Behaviour(abort="before_headers")
CLOSE = Behaviour(abort="close")
HANG = Behaviour(hang=True)
GARBAGE = Behaviour(garbage=b"XTTP/9 what\r\n\r\n")


def status(code, *headers):
    return Behaviour(status=code, headers=headers)


def on(*tokens, **fields):
    return retry(*tokens, **{"num_retries": 2, "base_interval": 0.001, "max_interval": 0.002, **fields})


# name: behaviours, retry policy, (status, attempts, flags), error in the other mode
SCENARIOS = {
    "200": ([OK], None, (200, 1, "-"), None),
    "404": ([status(404)], on("5xx"), (404, 1, "-"), None),
    "503, no policy": ([status(503)], None, (503, 1, "-"), None),
    "500 then 200": ([status(500), OK], on("5xx"), (200, 2, "-"), None),
    "always 503": ([status(503)], on("5xx"), (503, 3, "URX"), None),
    "503 on gateway-error": ([status(503), OK], on("gateway-error"), (200, 2, "-"), None),
    "500 on gateway-error": ([status(500), OK], on("gateway-error"), (500, 1, "-"), None),
    "409": ([status(409), OK], on("retriable-4xx"), (200, 2, "-"), None),
    "418": (
        [status(418), OK],
        on("retriable-status-codes", retriable_status_codes=frozenset({418})),
        (200, 2, "-"),
        None,
    ),
    "ratelimited": ([status(503, ("x-envoy-ratelimited", "true")), OK], on("5xx"), (503, 1, "-"), None),
    "RST then 200": ([RESET, OK], on("reset"), (200, 2, "-"), None),
    "RST on connect-failure": ([RESET, OK], on("connect-failure"), (503, 1, "UC"), mesh_httpx.UpstreamReset),
    "always RST": ([RESET], on("5xx"), (503, 3, "URX,UC"), mesh_httpx.UpstreamReset),
    "FIN then 200": ([CLOSE, OK], on("reset"), (200, 2, "-"), None),
    "FIN": ([CLOSE], None, (503, 1, "UC"), mesh_httpx.UpstreamReset),
    "garbage": ([GARBAGE], None, (502, 1, "UPE"), mesh_httpx.UpstreamReset),
    "garbage then 200": ([GARBAGE, OK], on("5xx"), (200, 2, "-"), None),
    "hang, per try": ([HANG, OK], on("5xx", per_try_timeout=0.15), (200, 2, "-"), None),
    "hang, per try, no retry": (
        [HANG],
        on("connect-failure", per_try_timeout=0.15),
        (504, 1, "UT"),
        mesh_httpx.PerTryTimeout,
    ),
    "1xx ahead": ([Behaviour(interim=(103,))], None, (200, 1, "-"), None),
    "204": ([status(204)], None, (204, 1, "-"), None),
    "304": ([status(304)], None, (304, 1, "-"), None),
    "chunked": ([Behaviour(chunked=True)], None, (200, 1, "-"), None),
    "connection: close": ([Behaviour(conn_close=True)], None, (200, 1, "-"), None),
}


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("local_replies", ["response", "raise"])
def test_scenarios(name, local_replies, caller, upstreams):
    behaviours, policy, (code, attempts, flags), error = SCENARIOS[name]
    server = upstreams.serve(*behaviours)
    mesh = mesh_over(server, routes=[forward(retry=policy, timeout=5.0)])
    call = caller(mesh, local_replies=local_replies)
    if error is not None and local_replies == "raise":
        with pytest.raises(error) as caught:
            call.request()
        record = caught.value.record
        assert str(caught.value).endswith(f"[{flags}]")
        assert caught.value.request.url == URL
    else:
        response = call.request()
        record = response.extensions["meshlib"]
        assert response.status_code == code
    assert (record.status, record.response_flags) == (code, flags)
    assert len(record.attempts) == attempts == len(server.seen)
    assert record.ended >= record.started


def refused(upstreams):
    return upstreams.serve(mode="refuse")


class TestConnecting:
    def test_refused(self, caller, upstreams):
        call = caller(mesh_over(refused(upstreams)))
        with pytest.raises(mesh_httpx.UpstreamConnectFailed, match=r"connection failed: 127.0.0.1:\d+ of cluster 'c'"):
            call.request()

    def test_refused_then_another_host(self, caller, upstreams):
        dead, alive = refused(upstreams), upstreams.serve()
        policy = on("connect-failure", previous_hosts=True, host_selection_max_attempts=5)
        call = caller(mesh_over(dead, alive, routes=[forward(retry=policy)]))
        for _ in range(6):
            assert call.request().status_code == 200
        assert len(alive.seen) == 6

    def test_reset_at_once(self, caller, upstreams):
        call = caller(mesh_over(upstreams.serve(mode="accept_close")), local_replies="response")
        response = call.request()
        assert response.status_code == 503
        assert response.extensions["meshlib"].response_flags in ("UC", "UF")

    def test_connect_timeout_of_the_cluster(self, caller, upstreams):
        hole, alive = upstreams.serve(mode="blackhole"), upstreams.serve()
        policy = on("connect-failure", previous_hosts=True, host_selection_max_attempts=5)
        mesh = mesh_over(hole, alive, routes=[forward(retry=policy, timeout=0.0)], connect_timeout=0.15)
        call = caller(mesh)
        responses = [call.request() for _ in range(2)]
        assert [r.status_code for r in responses] == [200, 200]
        met = [a.error for r in responses for a in r.extensions["meshlib"].attempts if a.error]
        assert met  # somebody met the black hole, and nobody was kept from an answer by it

    def test_connect_timeout_reply(self, caller, upstreams):
        mesh = mesh_over(upstreams.serve(mode="blackhole"), connect_timeout=0.15)
        response = caller(mesh, local_replies="response").request()
        assert (response.status_code, response.extensions["meshlib"].response_flags) == (503, "UF")
        assert response.text.endswith("reset reason: connection timeout")


class TestNowhereToGo:
    def test_no_endpoints(self, caller):
        with pytest.raises(mesh_httpx.NoHealthyUpstream, match=r"'c' has no endpoints \[UH\]"):
            caller(runtime(snapshot(cluster([])))).request()

    def test_no_cluster(self, caller):
        with pytest.raises(mesh_httpx.ClusterNotFound, match="which does not exist"):
            caller(runtime(snapshot())).request()

    def test_no_route(self, caller):
        nowhere = [forward(match=RouteMatch(PathMatch(StringOp.PREFIX, "/other")))]
        with pytest.raises(mesh_httpx.NoRoute, match=r"no route for GET /items \[NR\]"):
            caller(runtime(snapshot(routes=nowhere))).request()

    def test_overflow(self, caller, upstreams):
        mesh = mesh_over(upstreams.serve(), thresholds=Thresholds(max_requests=0))
        with pytest.raises(mesh_httpx.CircuitOverflow, match="max_requests=0"):
            caller(mesh).request()

    def test_ejected(self, caller, upstreams):
        server = upstreams.serve(status(500))
        outlier = OutlierDetection(consecutive_5xx=2, max_ejection_percent=100)
        call = caller(mesh_over(server, outlier=outlier, panic_threshold=0.0))
        assert [call.request().status_code for _ in range(2)] == [500, 500]
        with pytest.raises(mesh_httpx.NoHealthyUpstream, match="1 endpoints, none usable"):
            call.request()

    def test_open_breaker(self, caller, upstreams):
        import pybreaker

        from meshlib.clock import system_clock
        from meshlib.policy.breaker import ClusterBreaker

        def breaker(_name):
            return ClusterBreaker(pybreaker.CircuitBreaker(fail_max=1, reset_timeout=60), system_clock)

        call = caller(mesh_over(upstreams.serve(status(500)), mesh={"breaker": breaker}))
        assert call.request().status_code == 500
        with pytest.raises(mesh_httpx.BreakerOpen):
            call.request()

    @pytest.mark.parametrize("mode", ["raise", "response"])
    def test_tls_that_cannot_be_honoured_is_never_plaintext(self, mode, caller, upstreams):
        server = upstreams.serve()
        socket = TransportSocket("envoy.transport_sockets.tls", secure=True)
        policy = on("5xx", "reset", "connect-failure")
        mesh = mesh_over(server, transport_socket=socket, routes=[forward(retry=policy)])
        call = caller(mesh, local_replies=mode)
        if mode == "raise":
            with pytest.raises(mesh_httpx.TransportSecurityUnavailable, match="nothing was sent") as caught:
                call.request()
            assert str(server.port) in str(caught.value)
            assert "'c'" in str(caught.value)
        else:
            assert call.request().status_code == 503
        assert (server.connections, server.seen) == (0, [])


class TestWhatConfigurationSays:
    """Direct responses, redirects and injected aborts are responses, in both modes."""

    @pytest.mark.parametrize("mode", ["raise", "response"])
    def test_direct_response(self, mode, caller):
        routes = [Route(ANY_PATH, DirectResponse(418, "tea"))]
        response = caller(runtime(snapshot(routes=routes)), local_replies=mode).request()
        assert (response.status_code, response.text) == (418, "tea")

    def test_redirect_is_followed_as_the_client_likes(self, caller, upstreams):
        server = upstreams.serve()
        moved = Route(RouteMatch(PathMatch(StringOp.EXACT, "/items")), Redirect(302, path="/things"))
        call = caller(mesh_over(server, routes=[moved, forward()]))
        response = call.request()
        assert (response.status_code, response.headers["location"]) == (302, "http://catalog/things")
        followed = call.request(follow_redirects=True)
        assert (followed.status_code, followed.url) == (200, "http://catalog/things")
        assert [r.extensions["meshlib"].status for r in (*followed.history, followed)] == [302, 200]

    @pytest.mark.parametrize("mode", ["raise", "response"])
    def test_fault(self, mode, caller, upstreams):
        server = upstreams.serve()
        fault = FaultInjection(FaultDelay(0.1, 100.0), FaultAbort(100.0, status=555))
        mesh = mesh_over(server, routes=[forward(fault=fault, retry=on("5xx"))], http={"fault_filter": True})
        response = caller(mesh, local_replies=mode).request()
        assert (response.status_code, response.text) == (555, "fault filter abort")
        assert response.extensions["meshlib"].response_flags == "DI,FI"
        assert response.extensions["meshlib"].duration >= 0.1
        assert server.seen == []


ERRORS = {
    "NoRoute": httpx.ConnectError,
    "ClusterNotFound": httpx.ConnectError,
    "NoHealthyUpstream": httpx.ConnectError,
    "CircuitOverflow": httpx.ConnectError,
    "BreakerOpen": httpx.ConnectError,
    "UpstreamConnectFailed": httpx.ConnectError,
    "TransportSecurityUnavailable": httpx.ConnectError,
    "UpstreamReset": httpx.ReadError,
    "PerTryTimeout": httpx.ReadTimeout,
    "RouteTimeout": httpx.ReadTimeout,
    "MeshNotReady": httpx.ConnectTimeout,
}


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_of_both_families(name):
    leaf = getattr(mesh_httpx, name)
    assert issubclass(leaf, getattr(meshlib, name))
    assert issubclass(leaf, ERRORS[name])
    assert issubclass(leaf, httpx.TransportError)


def test_tls_unavailable_is_a_connect_failure():
    assert issubclass(mesh_httpx.TransportSecurityUnavailable, mesh_httpx.UpstreamConnectFailed)
    assert issubclass(mesh_httpx.TransportSecurityUnavailable, meshlib.UpstreamConnectFailed)


def test_errors_survive_pickling(caller, upstreams):
    call = caller(mesh_over(refused(upstreams), routes=[forward(name="items", retry=on("connect-failure"))]))
    with pytest.raises(mesh_httpx.UpstreamConnectFailed) as caught:
        call.request()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is mesh_httpx.UpstreamConnectFailed
    assert str(copy) == str(caught.value)
    assert (copy.record.route, copy.record.response_flags, len(copy.record.attempts)) == ("items", "URX,UF", 3)
    assert isinstance(copy.record.attempts[0].endpoint, Endpoint)
    assert copy.request.url == URL


def test_the_cause_is_chained(caller, upstreams):
    with pytest.raises(mesh_httpx.UpstreamConnectFailed) as caught:
        caller(mesh_over(refused(upstreams))).request()
    assert isinstance(caught.value.__cause__, Exception)


def test_an_error_carries_its_record(caller, upstreams):
    call = caller(mesh_over(upstreams.serve(RESET), routes=[forward(source="catalog-vs.yaml:7")]))
    with pytest.raises(meshlib.UpstreamReset) as caught:
        call.request()
    assert caught.value.record.source == "catalog-vs.yaml:7"
    assert caught.value.record.attempts[0].error


def test_a_stale_connection_is_not_seen_by_the_caller(caller, upstreams):
    """The server closes an idle connection: the next call opens another."""
    server = upstreams.serve()
    call = caller(mesh_over(server))
    call.request()
    upstreams.reset_connections(server)
    assert call.request().status_code == 200
    assert server.connections == 2


def test_connections_are_kept_alive(caller, upstreams):
    server = upstreams.serve()
    call = caller(mesh_over(server))
    for host in ("http://catalog/a", "http://forum/b", "http://catalog/c"):
        assert call.request(url=host).status_code == 200
    assert server.connections == 1  # logical hosts share the endpoint's connections
    assert len({seen.connection for seen in server.seen}) == 1


def test_balancing(caller, upstreams):
    servers = [upstreams.serve(name=f"up{n}") for n in range(3)]
    call = caller(mesh_over(*servers))
    order = [call.request().text for _ in range(9)]
    assert order[:3] == order[3:6] == order[6:]
    assert sorted(order[:3]) == ["up0", "up1", "up2"]
