"""Active health checks at work, against real servers: what is sent, what an answer means, who gets calls."""

import contextlib
import logging
import os
import socketserver
import threading
import time
from concurrent import futures

import grpc
import httpx
import pytest

from meshlib import errors
from meshlib.model.cluster import TransportSocket
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint, EndpointCheck, HealthStatus, LocalityEndpoints
from meshlib.model.headers import AppendAction, HeaderMutations, HeaderToAdd, MutationStep
from meshlib.model.health_check import GrpcCheck, HealthCheck, HttpCheck, TcpCheck
from meshlib.model.match import StringMatch, StringOp
from meshlib.model.template import Template
from meshlib.model.tls import CertificateValidation, DataSource, SanMatch, SanType, UpstreamTls
from meshlib.policy.cluster_state import ClusterState
from meshlib.runtime import keeper
from meshlib.transports.httpx_sync import MeshTransport
from runtime.h2server import Reply, h2_server
from runtime.handmade import HandmadeSource
from runtime.upkept import Zone, eventually, named_cluster, serving, threads, upkept
from transports.scripted import Behaviour, Upstreams
from transports.snapshots import route, static_cluster, static_snapshot
from upstream.tls_peers import Authority, TlsServer

HEALTHY, UNHEALTHY, DEGRADED = HealthStatus.HEALTHY, HealthStatus.UNHEALTHY, HealthStatus.DEGRADED


def checked(how=None, **fields):
    given = {"timeout": 2.0, "interval": 0.02, "unhealthy_interval": 0.02, "no_traffic_interval": 30.0}
    given |= {"healthy_edge_interval": 0.02, "unhealthy_edge_interval": 0.02, "no_traffic_healthy_interval": 30.0}
    return HealthCheck(how or HttpCheck("/healthz"), **(given | fields))


def meshed(*endpoints, check, action=None, **fields):
    group = LocalityEndpoints(tuple(endpoints))
    cluster = static_cluster("c", (), health_checks=(check,), **fields)
    object.__setattr__(cluster, "assignment", ClusterLoadAssignment("c", (group,)))
    return static_snapshot(clusters=[cluster], routes=[route("c", **(action or {}))])


@contextlib.contextmanager
def calling(snapshot, zone=None, **options):
    mesh = upkept(snapshot, zone)
    with httpx.Client(transport=MeshTransport(mesh), **{"timeout": 10.0, **options}) as client:
        try:
            yield mesh, client
        finally:
            mesh.close()


def probes(mesh):
    return {str(state.endpoint): state.probe for state in mesh.store.current.clusters["c"].endpoints.values()}


def first_probe(snapshot):
    """Return what the first check makes of the only endpoint."""
    with calling(snapshot, timeout=2.0) as (mesh, client):
        with contextlib.suppress(httpx.HTTPError, errors.MeshError):
            client.get("http://svc/call")
        return next(iter(probes(mesh).values()))


class Script:
    """Answers checks, on /healthz, and calls; ``sick`` names servers whose checks get another status."""

    def __init__(self):
        self.sick = {}
        self.headers = []
        self.checks = []

    def __call__(self, server, seen):
        if seen.target != "/healthz":
            return Behaviour()
        self.checks.append(seen)
        return Behaviour(self.sick.get(server.name, 200), headers=self.headers)


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def pair(script):
    with serving("127.0.9.1", "127.0.9.2", script=script) as servers:
        yield servers


def test_a_call_waits_for_the_first_check_and_meets_only_who_passes(pair, script):
    script.sick["127.0.9.1"] = 500
    with calling(meshed(*(server.endpoint for server in pair), check=checked())) as (_, client):
        assert {client.get("http://svc/").text for _ in range(10)} == {"127.0.9.2"}


def test_who_fails_leaves_and_who_recovers_comes_back(pair, script, caplog):
    caplog.set_level(logging.INFO, "meshlib.health")
    with calling(meshed(*(server.endpoint for server in pair), check=checked(healthy_threshold=2))) as (mesh, client):
        client.get("http://svc/")
        script.sick["127.0.9.1"] = 503
        eventually(lambda: UNHEALTHY in probes(mesh).values())
        assert {client.get("http://svc/").text for _ in range(10)} == {"127.0.9.2"}
        script.sick.clear()
        eventually(lambda: set(probes(mesh).values()) == {HEALTHY})
        assert {client.get("http://svc/").text for _ in range(10)} == {"127.0.9.1", "127.0.9.2"}
    said = [record.getMessage() for record in caplog.records if "127.0.9.1" in record.getMessage()]
    assert [text.partition("health=")[2] for text in said] == [
        "HEALTHY",
        "UNHEALTHY said that it is unhealthy: status 503",
        "HEALTHY",
    ]


def test_connections_of_who_fails_are_closed(pair, script):
    snapshot = meshed(*(server.endpoint for server in pair), check=checked(reuse_connection=False))
    with calling(snapshot) as (mesh, client):
        while not all(any(seen.target == "/" for seen in server.seen) for server in pair):
            client.get("http://svc/")
        script.sick["127.0.9.1"] = 503
        eventually(lambda: UNHEALTHY in probes(mesh).values())
        client.get("http://svc/")
        script.sick["127.0.9.2"] = 503
        eventually(lambda: pair[0].open <= 1)  # but for a check that is under way


def test_what_is_sent(pair):
    header = HeaderToAdd("x-added", Template("%REQ(:path)%yes"), AppendAction.APPEND_IF_EXISTS_OR_ADD)
    how = HttpCheck(
        "/healthz?a=b",
        host="conf.test",
        method="POST",
        send=b"ping",
        headers=HeaderMutations((MutationStep(frozenset({"user-agent"}), (header,)),)),
    )
    own = Endpoint(pair[1].address, pair[1].port, check=EndpointCheck(host="own.test"))
    with calling(meshed(pair[0].endpoint, own, check=checked(how))) as (_, client):
        client.get("http://svc/")
    seen = {server.name: server.seen[0] for server in pair}
    first = seen["127.0.9.1"]
    assert (first.method, first.target, first.body) == ("POST", "/healthz?a=b", b"ping")
    assert (first.header("host"), first.header("x-added"), first.header("user-agent")) == ("conf.test", "yes", None)
    assert seen["127.0.9.2"].header("host") == "own.test"


def test_by_default_the_cluster_s_name_is_asked_for(pair):
    with calling(meshed(pair[0].endpoint, check=checked())) as (_, client):
        client.get("http://svc/")
    seen = pair[0].seen[0]
    assert (seen.method, seen.header("host"), seen.header("user-agent")) == ("GET", "c", "Envoy/HC")


@pytest.mark.parametrize(
    ("how", "behaviour", "expected"),
    [
        ({}, {}, HEALTHY),
        ({}, {"status": 201}, UNHEALTHY),
        ({"expected": ((200, 300), (404, 405))}, {"status": 404}, HEALTHY),
        ({"expected": ((200, 300),)}, {"status": 300}, UNHEALTHY),
        ({"receive": (b"one", b"two")}, {"body": b"..one..two.."}, HEALTHY),
        ({"receive": (b"two", b"one")}, {"body": b"..one..two.."}, UNHEALTHY),
        ({"receive": (b"late",)}, {"body": b"x" * 2000 + b"late"}, UNHEALTHY),
        ({"receive": (b"late",), "buffer": 0}, {"body": b"x" * 2000 + b"late"}, HEALTHY),
        ({}, {"headers": [("x-envoy-degraded", "")]}, DEGRADED),
        ({}, {"chunked": True}, HEALTHY),
        ({"method": "HEAD"}, {}, HEALTHY),
        ({}, {"conn_close": True}, HEALTHY),
        ({}, {"garbage": b"not HTTP at all\r\n\r\n"}, UNHEALTHY),
        ({}, {"abort": "before_headers"}, UNHEALTHY),
        ({}, {"abort": "mid_body"}, UNHEALTHY),
        ({"service_name": StringMatch(StringOp.PREFIX, "shop")}, {}, UNHEALTHY),
        (
            {"service_name": StringMatch(StringOp.PREFIX, "shop")},
            {"headers": [("x-envoy-upstream-healthchecked-cluster", "shop-1")]},
            HEALTHY,
        ),
    ],
)
def test_what_an_answer_means(how, behaviour, expected):
    with Upstreams() as upstreams:
        server = upstreams.serve(script=lambda _s, seen: Behaviour(**behaviour) if seen.target == "/h" else Behaviour())
        assert first_probe(meshed(server.endpoint, check=checked(HttpCheck("/h", **how)))) is expected


@pytest.mark.parametrize("reuses", [True, False])
def test_connections_are_kept_or_not(pair, script, reuses):
    with calling(meshed(pair[0].endpoint, check=checked(reuse_connection=reuses))) as (_, client):
        client.get("http://svc/")
        eventually(lambda: len(script.checks) >= 5)
    kept = {seen.connection for seen in script.checks}
    assert len(kept) == (1 if reuses else len(script.checks))


def test_a_check_that_takes_too_long():
    with Upstreams() as upstreams:
        server = upstreams.serve(script=lambda _s, seen: Behaviour(hang=seen.target == "/healthz"))
        assert first_probe(meshed(server.endpoint, check=checked(timeout=0.1))) is UNHEALTHY


def test_retriable_statuses_count_like_lost_checks(pair, script):
    how = HttpCheck("/healthz", retriable=((503, 504),))
    with calling(meshed(pair[0].endpoint, check=checked(how, unhealthy_threshold=10_000))) as (mesh, client):
        client.get("http://svc/")
        script.sick["127.0.9.1"] = 503
        asked = len(script.checks)
        eventually(lambda: len(script.checks) > asked + 3)
        assert set(probes(mesh).values()) == {HEALTHY}
        script.sick["127.0.9.1"] = 500
        eventually(lambda: set(probes(mesh).values()) == {UNHEALTHY})


def test_another_address_or_port_is_checked(pair, script):
    with Upstreams() as upstreams:
        other = upstreams.serve(script=script, name="other")
        by_port = Endpoint(pair[0].address, pair[0].port, check=EndpointCheck(port=pair[1].port))
        by_address = Endpoint("127.0.9.3", 1, check=EndpointCheck(address=(other.address, other.port)))
        script.sick["other"] = 500
        snapshot = meshed(by_port, by_address, check=checked(HttpCheck("/healthz", expected=((200, 201),))))
        with calling(snapshot) as (mesh, client):
            assert client.get("http://svc/").text == "127.0.9.1"
            assert list(probes(mesh).values()) == [HEALTHY, UNHEALTHY]


def test_an_endpoint_may_be_left_out():
    lonely = Endpoint("127.0.9.9", 9, check=EndpointCheck(disabled=True))
    assert first_probe(meshed(lonely, check=checked())) is HEALTHY


def test_a_transport_socket_that_asks_for_tls_is_never_checked_in_plaintext(pair, caplog):
    socket = TransportSocket("tls", secure=True)
    assert first_probe(meshed(pair[0].endpoint, check=checked(), transport_socket=socket)) is UNHEALTHY
    assert "asks for TLS" in caplog.text
    assert not pair[0].seen


def test_a_call_that_is_told_so_takes_the_endpoint_out(pair, script):
    telling = {"on": False}

    def answer(server, seen):
        if seen.target == "/healthz":
            return script(server, seen)
        bad = telling["on"] and server.name == "127.0.9.1"
        return Behaviour(headers=[("x-envoy-immediate-health-check-fail", "true")] if bad else [])

    with serving("127.0.9.1", "127.0.9.2", script=answer) as servers:
        check = checked(interval=60.0, no_traffic_interval=600.0)
        with calling(meshed(*(server.endpoint for server in servers), check=check)) as (mesh, client):
            client.get("http://svc/")
            telling["on"] = True
            while client.get("http://svc/").text != "127.0.9.1":
                pass
            eventually(lambda: UNHEALTHY in probes(mesh).values())
            assert {client.get("http://svc/").text for _ in range(10)} == {"127.0.9.2"}


def test_the_interval_without_calls(pair, script):
    check = checked(no_traffic_interval=0.2, no_traffic_healthy_interval=60.0)
    with calling(meshed(pair[0].endpoint, check=check)) as (_, client):
        client.get("http://svc/")
        eventually(lambda: len(script.checks) >= 3)
        time.sleep(0.4)  # from here on there are no calls
        asked = len(script.checks)
        time.sleep(0.3)
        assert len(script.checks) <= asked + 1


def test_after_a_rest_the_next_call_waits_for_a_check(pair, script, monkeypatch):
    monkeypatch.setattr(keeper, "RESTING", 0.1)
    check = checked(no_traffic_interval=0.05, no_traffic_healthy_interval=0.05)
    with calling(meshed(*(server.endpoint for server in pair), check=check)) as (mesh, client):
        client.get("http://svc/")
        eventually(lambda: not threads("meshlib-upkeep"))
        asked = len(script.checks)
        script.sick["127.0.9.1"] = 500
        time.sleep(0.1)
        assert (len(script.checks), set(probes(mesh).values())) == (asked, {HEALTHY})
        assert {client.get("http://svc/").text for _ in range(5)} == {"127.0.9.2"}


def test_a_new_check_takes_the_place_of_the_old_one(pair, script):
    source = HandmadeSource(meshed(pair[0].endpoint, check=checked(HttpCheck("/old"))))
    with calling(source) as (_, client):
        client.get("http://svc/")
        source.publish(meshed(pair[0].endpoint, check=checked(HttpCheck("/new"))))
        eventually(lambda: any(seen.target == "/new" for seen in pair[0].seen))
        pair[0].seen.clear()
        eventually(lambda: len(pair[0].seen) > 3)
        assert {seen.target for seen in pair[0].seen} == {"/new"}
        source.publish(static_snapshot(clusters=[static_cluster("c", [pair[0].port])], routes=[route("c")]))
        eventually(lambda: not threads("meshlib-upkeep"))


def test_addresses_that_names_come_to_are_checked(pair, script):
    script.sick["127.0.9.1"] = 500
    zone = Zone(a_test=["127.0.9.1", "127.0.9.2"])
    cluster = named_cluster("a.test", port=pair[0].port, health_checks=(checked(),))
    with calling(static_snapshot(clusters=[cluster], routes=[route("c")]), zone) as (_, client):
        assert {client.get("http://svc/").text for _ in range(10)} == {"127.0.9.2"}
    assert {seen.header("host") for seen in script.checks} == {"c"}


def test_a_call_waits_no_longer_than_it_may():
    with Upstreams() as upstreams:
        server = upstreams.serve(script=lambda _s, seen: Behaviour(hang=seen.target == "/healthz"))
        snapshot = meshed(server.endpoint, check=checked(timeout=60.0), action={"timeout": 0.2})
        with calling(snapshot) as (_, client), pytest.raises(errors.RouteTimeout):
            client.get("http://svc/")


@contextlib.contextmanager
def tcp_server(answer):
    """Serve ``answer(bytes) -> bytes``; yields the server, with what each connection received."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            received = []
            server.received.append(received)
            with contextlib.suppress(OSError):
                while data := self.request.recv(1000):
                    received.append(data)
                    self.request.sendall(answer(data))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        server.received = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class TestTcp:
    def probe(self, server, **how):
        endpoint = Endpoint("127.0.0.1", server.server_address[1])
        return first_probe(meshed(endpoint, check=checked(TcpCheck(**how), timeout=0.3)))

    def test_connecting_is_enough(self):
        with tcp_server(lambda _data: b"") as server:
            assert self.probe(server) is HEALTHY

    def test_nobody_listens(self):
        with tcp_server(lambda _data: b"") as server:
            port = server.server_address[1]
        assert first_probe(meshed(Endpoint("127.0.0.1", port), check=checked(TcpCheck()))) is UNHEALTHY

    @pytest.mark.parametrize(
        ("answer", "expected"), [(b"xxABxxCDxx", HEALTHY), (b"CDAB", UNHEALTHY), (b"", UNHEALTHY), (b"ABCD", HEALTHY)]
    )
    def test_what_has_to_come_back(self, answer, expected):
        with tcp_server(lambda _data: answer) as server:
            assert self.probe(server, send=b"\0", receive=(b"AB", b"CD")) is expected

    def test_one_connection_serves_many_checks(self):
        with tcp_server(lambda _data: b"yes") as server:
            endpoint = Endpoint("127.0.0.1", server.server_address[1])
            snapshot = meshed(endpoint, check=checked(TcpCheck(b"?", (b"yes",))))
            with calling(snapshot, timeout=1.0) as (_, client):
                with contextlib.suppress(httpx.HTTPError, errors.MeshError):
                    client.get("http://svc/")
                eventually(lambda: any(received.count(b"?") >= 3 for received in server.received))


class TestHttp2:
    OK = Reply([(":status", "200"), ("x-envoy-degraded", "1")], b"fine")

    @pytest.mark.parametrize(
        ("reply", "expected"),
        [
            (OK, DEGRADED),
            (Reply([(":status", "503")]), UNHEALTHY),
            (Reply([], reset=True), UNHEALTHY),
            (Reply([(":status", "200")], b"fine", goaway=True), HEALTHY),
        ],
    )
    def test_what_an_answer_means(self, reply, expected):
        with h2_server(lambda _asked: reply) as server:
            how = HttpCheck("/h", method="POST", send=b"ping", http2=True)
            endpoint = Endpoint("127.0.0.1", server.port)
            assert first_probe(meshed(endpoint, check=checked(how), http2=True)) is expected
        headers, body = server.asked[0]
        assert (headers[":method"], headers[":path"], headers[":authority"], body) == ("POST", "/h", "c", b"ping")

    def test_one_connection_serves_many_checks_until_the_server_leaves(self):
        with h2_server(lambda _asked: self.OK) as server:
            snapshot = meshed(Endpoint("127.0.0.1", server.port), check=checked(HttpCheck("/h", http2=True)))
            with calling(snapshot, timeout=1.0) as (_, client):
                with contextlib.suppress(httpx.HTTPError, errors.MeshError):
                    client.get("http://svc/call")
                eventually(lambda: sum(headers[":path"] == "/h" for headers, _ in server.asked) >= 5)
                assert server.connections <= 2  # the checks', and the call's, which spoke HTTP/1.1
                server.reply = lambda _asked: Reply([(":status", "200")], goaway=True)
                eventually(lambda: server.connections >= 5)


class TestGrpc:
    @staticmethod
    @contextlib.contextmanager
    def server(answer):
        """Serve gRPC's health checking with grpcio's own server."""
        asked = []

        def check(request, context):
            asked.append((request, dict(context.invocation_metadata())))
            return answer(context)

        handler = grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
        )
        server = grpc.server(futures.ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port, asked
        finally:
            server.stop(0).wait()

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (lambda _context: b"\x08\x01", HEALTHY),
            (lambda _context: b"\x08\x02", UNHEALTHY),
            (lambda _context: b"", UNHEALTHY),
            (lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "no"), UNHEALTHY),
        ],
    )
    def test_what_an_answer_means(self, answer, expected):
        header = HeaderToAdd("x-added", Template("yes"), AppendAction.APPEND_IF_EXISTS_OR_ADD)
        how = GrpcCheck("shop.Catalog", headers=HeaderMutations((MutationStep(add=(header,)),)))
        with self.server(answer) as (port, asked):
            assert first_probe(meshed(Endpoint("127.0.0.1", port), check=checked(how), http2=True)) is expected
        request, metadata = asked[0]
        assert request == b"\x0a\x0cshop.Catalog"
        assert metadata["x-added"] == "yes"

    def test_the_authority(self):
        good = Reply(
            [(":status", "200"), ("content-type", "application/grpc")], b"\0\0\0\0\2\x08\1", [("grpc-status", "0")]
        )
        with h2_server(lambda _asked: good) as server:
            endpoint = Endpoint("127.0.0.1", server.port)
            for how, expected in ((GrpcCheck(), "c"), (GrpcCheck(authority="conf"), "conf")):
                server.asked.clear()
                assert first_probe(meshed(endpoint, check=checked(how), http2=True)) is HEALTHY
                assert server.asked[0][0][":authority"] == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_checks_for_itself(pair, script):
    with calling(meshed(*(server.endpoint for server in pair), check=checked())) as (_, client):
        client.get("http://svc/")
        script.sick["127.0.9.1"] = 500
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                met = {client.get("http://svc/").text for _ in range(10)}
                os.write(writer, ",".join(sorted(met)).encode() + b" " + str(len(threads("meshlib-upkeep"))).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        with open(reader) as told:
            assert told.read() == "127.0.9.2 1"
        assert os.waitpid(child, 0)[1] == 0
        eventually(lambda: {client.get("http://svc/").text for _ in range(5)} == {"127.0.9.2"})


class TestTls:
    """Checks speak the cluster's own TLS, and believe whom calls believe."""

    NAME = "spiffe://cluster.local/ns/shop/sa/catalog"
    CA = Authority()

    def cluster_socket(self, ca, name=NAME):
        san = SanMatch(SanType.URI, StringMatch(StringOp.EXACT, name))
        tls = UpstreamTls(validation=CertificateValidation(trusted_ca=DataSource(inline=ca.pem), sans=(san,)))
        return TransportSocket("tls", secure=True, tls=tls)

    @pytest.mark.parametrize(
        ("trusted", "name", "said"),
        [
            (CA, NAME, ""),
            (Authority(), NAME, "not trusted"),
            (CA, "spiffe://cluster.local/ns/shop/sa/other", "sa/other'"),
        ],
    )
    def test_who_is_believed(self, trusted, name, said, caplog):
        server = TlsServer(self.CA.issue(self.NAME))
        try:
            snapshot = meshed(
                Endpoint("127.0.0.1", server.port),
                check=checked(),
                transport_socket=self.cluster_socket(trusted, name),
            )
            assert first_probe(snapshot) is (UNHEALTHY if said else HEALTHY)
            assert said in caplog.text
            assert (b"Envoy/HC" in server.http) is (not said)
        finally:
            server.close()


def test_many_results_at_once_are_put_into_force_together(monkeypatch):
    refreshed = []
    real = ClusterState.refresh
    monkeypatch.setattr(ClusterState, "refresh", lambda self: (refreshed.append(1), real(self)))
    with tcp_server(lambda _data: b"") as server:
        port = server.server_address[1]
        endpoints = [Endpoint(f"127.0.{n // 200 + 20}.{n % 200 + 1}", port) for n in range(600)]
        real_port = [Endpoint("127.0.0.1", port), *endpoints]  # where nobody listens but at the first
        with calling(meshed(*real_port, check=checked(TcpCheck(), interval=60.0, unhealthy_interval=60.0))) as (
            mesh,
            client,
        ):
            with contextlib.suppress(httpx.HTTPError, errors.MeshError):
                client.get("http://svc/", timeout=5.0)
            counts = list(probes(mesh).values())
    assert counts.count(HEALTHY) == 1
    assert counts.count(UNHEALTHY) == 600
    assert len(refreshed) < 100
