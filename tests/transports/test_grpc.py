"""The gRPC channels end to end, on real servers: every scenario blocking and asyncio, with equal answers."""

from __future__ import annotations

import asyncio
import pickle
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

import meshlib
import meshlib.grpc
from meshlib.model.cluster import OutlierDetection, Thresholds, TransportSocket
from meshlib.model.match import HeaderMatch, StringMatch, StringOp
from meshlib.model.route import DirectResponse
from meshlib.model.traffic import FaultAbort, FaultDelay, FaultInjection, RetryPolicy
from transports.grpc_peers import (
    METHOD,
    TARGET,
    BlockingCaller,
    Peer,
    aborting,
    connecting,
    forwarder,
    http2_request,
    raw_server,
    refusing_port,
    serving,
)
from transports.snapshots import no_counts, one_cluster, retries, route, runtime_on, static_cluster, static_snapshot

connect = connecting()


# Routing and balancing


def test_round_robin_over_two_servers(connect):
    one, two = Peer("one"), Peer("two")
    with serving(one, two):
        caller = connect(one_cluster(one.port, two.port))
        answers = [caller.call().message for _ in range(6)]
    assert sorted(answers) == [b"one"] * 3 + [b"two"] * 3
    assert answers[0] != answers[1]


def test_a_header_routes_to_another_cluster(connect):
    stable, canary = Peer("stable"), Peer("canary")
    beta = HeaderMatch("x-user", string=StringMatch(StringOp.EXACT, "beta"))
    with serving(stable, canary):
        clusters = [static_cluster("stable", [stable.port]), static_cluster("canary", [canary.port])]
        runtime = runtime_on(
            static_snapshot(clusters=clusters, routes=[route("canary", headers=(beta,)), route("stable")])
        )
        caller = connect(runtime)
        assert caller.call(metadata=(("x-user", "beta"),)).message == b"canary"
        assert caller.call(metadata=(("x-user", "else"),)).message == b"stable"
        assert caller.call().message == b"stable"


def test_the_path_routes_and_the_content_type_is_grpc(connect):
    orders, rest = Peer("orders"), Peer("rest")
    content = HeaderMatch("content-type", string=StringMatch(StringOp.EXACT, "application/grpc"))
    with serving(orders, rest):
        clusters = [static_cluster("orders", [orders.port]), static_cluster("rest", [rest.port])]
        routes = [route("orders", prefix="/shop.Orders/", headers=(content,)), route("rest")]
        caller = connect(runtime_on(static_snapshot(clusters=clusters, routes=routes)))
        assert caller.call(method="/shop.Orders/Get").message == b"orders"
        assert caller.call(method="/shop.Catalog/Get").message == b"rest"


def test_metadata_and_authority_as_the_server_sees_them(connect):
    server = Peer("server")
    with serving(server):
        caller = connect(one_cluster(server.port, routing={"timeout": 3.0}))
        answer = caller.call(metadata=(("x-user", "me"), ("trace-bin", b"\x00\xff")), timeout=9)
    seen = server.seen[0]
    assert seen.method == METHOD
    assert seen.authority == TARGET
    assert seen.metadata["x-user"] == "me"
    assert seen.metadata["trace-bin"] == b"\x00\xff"
    assert seen.metadata["x-envoy-attempt-count"] == "1"
    assert seen.metadata["x-envoy-expected-rq-timeout-ms"] == "3000"
    assert 2 < seen.time_remaining <= 3.1  # the nearer deadline: the route's
    assert answer.record.request.header("x-user") == "me"
    assert answer.record.request.header("trace-bin") is None


def test_host_and_path_rewrite(connect):
    server = Peer("server")
    with serving(server):
        routing = {"prefix_rewrite": "/v2.Catalog/", "host_rewrite": "real.example"}
        runtime = runtime_on(
            static_snapshot(
                clusters=[static_cluster("c", [server.port])], routes=[route("c", prefix="/shop.Catalog/", **routing)]
            )
        )
        assert connect(runtime).call().code == "OK"
    assert (server.seen[0].method, server.seen[0].authority) == ("/v2.Catalog/Get", "real.example")


def test_the_record_of_a_call(connect):
    server = Peer("server")
    with serving(server):
        record = connect(one_cluster(server.port)).call(b"four").record
    assert (record.protocol, record.status, record.grpc_status, record.response_flags) == ("grpc", 200, 0, "-")
    assert (record.cluster_name, record.listener, record.virtual_host) == ("c", "listener", "vhost")
    assert (record.bytes_sent, record.bytes_received) == (4, 6)
    assert record.request.method == "POST"
    assert record.request.authority == TARGET
    assert record.ended >= record.started
    assert [attempt.grpc_status for attempt in record.attempts] == [0]


def test_serializers_of_the_stub(connect):
    server = Peer("server", behaviour=lambda request, _context: request.upper())
    with serving(server):
        caller = connect(one_cluster(server.port))
        method = caller.channel.unary_unary(METHOD, str.encode, bytes.decode)
        if caller.name == "sync":
            assert method("abc") == "ABC"
        else:

            async def call():
                return await method("abc")

            assert caller.runner.run(call()) == "ABC"


def test_a_new_configuration_is_followed_and_old_channels_are_closed(connect):
    one, two = Peer("one"), Peer("two")
    with serving(one, two):
        runtime = one_cluster(one.port)
        caller = connect(runtime)
        assert caller.call().message == b"one"
        runtime.publish(static_snapshot(clusters=[static_cluster("c", [two.port])], routes=[route("c")], version="2"))
        assert caller.call().message == b"two"
        assert [key[1] for key in caller.pool()._leases] == [("127.0.0.1", two.port)]


def test_a_call_under_way_survives_the_removal_of_its_endpoint(connect):
    entered, release = threading.Event(), threading.Event()

    def behave(*_):
        entered.set()
        release.wait(10)
        return b"one"

    one, two = Peer("one", behaviour=behave), Peer("two")
    with serving(one, two):
        runtime = one_cluster(one.port)
        caller = connect(runtime)
        later = static_snapshot(clusters=[static_cluster("c", [two.port])], routes=[route("c")], version="2")

        if caller.name == "sync":
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(caller.call)
                assert entered.wait(5)
                runtime.publish(later)
                second = caller.call()  # drops the channel to the first endpoint
                release.set()
                answers = [first.result(5), second]
        else:

            async def both():
                first = asyncio.create_task(caller.acall(b"?", method=METHOD, kind="unary_unary"))
                assert await asyncio.to_thread(entered.wait, 5)
                runtime.publish(later)
                second = await caller.acall(b"?", method=METHOD, kind="unary_unary")
                release.set()
                return [await first, second]

            answers = caller.runner.run(both())
        assert [answer.message for answer in answers] == [b"one", b"two"]
        assert caller.pool()._unused == []


# Retries


@pytest.mark.parametrize(
    ("on", "code", "retried"),
    [
        ("unavailable", grpc.StatusCode.UNAVAILABLE, True),
        ("cancelled", grpc.StatusCode.CANCELLED, True),
        ("deadline-exceeded", grpc.StatusCode.DEADLINE_EXCEEDED, True),
        ("internal", grpc.StatusCode.INTERNAL, True),
        ("resource-exhausted", grpc.StatusCode.RESOURCE_EXHAUSTED, True),
        ("unavailable", grpc.StatusCode.INTERNAL, False),
        ("5xx", grpc.StatusCode.UNAVAILABLE, False),  # the HTTP status of a gRPC failure is 200
        ("connect-failure,reset", grpc.StatusCode.UNAVAILABLE, False),
        ("unavailable", grpc.StatusCode.NOT_FOUND, False),
    ],
)
def test_retry_on_grpc_codes(connect, on, code, retried):
    server = Peer("server", behaviour=aborting(code, times=1))
    with serving(server):
        runtime = one_cluster(server.port, routing=retries(on))
        answer = connect(runtime).call()
        if retried:
            assert (answer.code, answer.message) == ("OK", b"ok")
            assert answer.attempts == [(server.port, code.value[0]), (server.port, 0)]
            assert [seen.metadata["x-envoy-attempt-count"] for seen in server.seen] == ["1", "2"]
        else:
            assert answer.code == code.name
            assert len(server.seen) == 1
        assert no_counts(runtime)


def test_the_servers_last_status_is_raised_unchanged(connect):
    server = Peer("server", behaviour=aborting(grpc.StatusCode.UNAVAILABLE, times=9, last=(("why", "tired"),)))
    with serving(server):
        answer = connect(one_cluster(server.port, routing=retries("unavailable", 2))).call()
    assert not isinstance(answer.error, meshlib.MeshError)
    assert answer.error.details() == "the server says no"
    assert dict(answer.error.trailing_metadata())["why"] == "tired"
    assert len(server.seen) == 3
    assert (answer.record.status, answer.record.grpc_status, answer.record.response_flags) == (200, 14, "URX")


def test_a_response_that_has_begun_is_not_retried(connect):
    behaviour = aborting(grpc.StatusCode.UNAVAILABLE, times=9, first=(("begun", "yes"),))
    server = Peer("server", behaviour=behaviour)
    with serving(server):
        answer = connect(one_cluster(server.port, routing=retries("unavailable", 2))).call()
    assert answer.code == "UNAVAILABLE"
    assert len(server.seen) == 1
    assert answer.record.grpc_status == 14


def test_refused_connections_are_retried_elsewhere(connect):
    server = Peer("server")
    with serving(server), refusing_port() as refused:
        runtime = one_cluster(refused, server.port, routing=retries("connect-failure"))
        caller = connect(runtime)
        answers = [caller.call() for _ in range(4)]
        assert [answer.message for answer in answers] == [b"server"] * 4
        assert any(len(answer.attempts) == 2 for answer in answers)
        assert no_counts(runtime)


def test_a_refused_connection_is_dialled_anew(connect):
    # grpc alone would wait for its back-off, a second at first, and fail every call meanwhile.
    server = Peer("server")
    with serving(server), forwarder(server.port) as (port, listen):
        caller = connect(one_cluster(port))
        assert isinstance(caller.call().error, meshlib.UpstreamConnectFailed)
        listen()
        assert caller.call().message == b"server"


def test_connection_refused(connect):
    with refusing_port() as port:
        answer = connect(one_cluster(port)).call()
    error = answer.error
    assert isinstance(error, meshlib.grpc.UpstreamConnectFailed)
    assert isinstance(error, meshlib.UpstreamConnectFailed)
    assert isinstance(error, grpc.RpcError)
    assert isinstance(error, grpc.aio.AioRpcError)
    assert isinstance(error, grpc.Call)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert f"127.0.0.1:{port}" in error.details()
    assert answer.record.response_flags == "UF"
    assert (answer.record.status, answer.record.grpc_status) == (503, 14)


def test_connect_timeout_of_the_cluster(connect):
    silent = threading.Event()
    with raw_server(lambda _connection: silent.wait(10)) as port:  # accepts, and says nothing
        started = time.monotonic()
        answer = connect(one_cluster(port, connect_timeout=0.3)).call()
        silent.set()
    assert isinstance(answer.error, meshlib.UpstreamConnectFailed)
    assert answer.record.detail == "upstream_reset_before_response_started{connection_timeout}"
    assert 0.25 < time.monotonic() - started < 2


def hangs_up(connection) -> None:
    http2_request(connection)


def goes_away(connection) -> None:
    http2_request(connection)
    connection.sendall(b"\0\0\x08\7\0\0\0\0\0" + struct.pack(">II", 0, 0))
    connection.recv(4096)


def resets_the_stream(connection) -> None:
    http2_request(connection)
    connection.sendall(b"\0\0\4\3\0" + struct.pack(">II", 1, 2))
    connection.recv(4096)


def refuses_the_stream(connection) -> None:
    http2_request(connection)
    connection.sendall(b"\0\0\4\3\0" + struct.pack(">II", 1, 7))
    connection.recv(4096)


@pytest.mark.parametrize(("on", "attempts"), [("refused-stream", 2), ("connect-failure,unavailable", 1)])
def test_a_refused_stream_is_told_from_a_reset(connect, on, attempts):
    """Istio's default policy retries it: the server has not begun on it."""
    with raw_server(refuses_the_stream) as port:
        server = Peer("server")
        with serving(server):
            caller = connect(one_cluster(port, server.port, routing=retries(on)))
            answer = caller.call(timeout=10)
            if answer.record.attempts[0].endpoint.port != port:
                answer = caller.call(timeout=10)
    assert len(answer.attempts) == attempts
    if attempts == 2:
        assert answer.message == b"server"
    else:
        assert isinstance(answer.error, meshlib.grpc.UpstreamReset)
        assert answer.record.response_flags == "UR"


@pytest.mark.parametrize("script", [hangs_up, goes_away, resets_the_stream])
@pytest.mark.parametrize("on", ["reset", "connect-failure,unavailable,internal"])
def test_a_broken_connection_is_a_reset_and_no_status_of_the_servers(connect, script, on):
    with raw_server(script) as port:
        server = Peer("server")
        with serving(server):
            caller = connect(one_cluster(port, server.port, routing=retries(on)))
            answer = caller.call(timeout=10)
            if answer.record.attempts[0].endpoint.port != port:
                answer = caller.call(timeout=10)
    if on == "reset":
        assert answer.message == b"server"
        assert len(answer.attempts) == 2
    else:
        assert isinstance(answer.error, meshlib.grpc.UpstreamReset)
        assert answer.code == "UNAVAILABLE"
        assert answer.record.response_flags == "UC"


# Timeouts


def test_per_try_timeout_cuts_a_slow_server_and_retries_on_another(connect):
    release = threading.Event()
    slow, quick = Peer("slow", behaviour=lambda *_: release.wait(10) and b"late"), Peer("quick")
    with serving(slow, quick):
        routing = {**retries("5xx", 1, per_try_timeout=0.2), "timeout": 5.0}
        runtime = one_cluster(slow.port, quick.port, routing=routing)
        caller = connect(runtime)
        started = time.monotonic()
        answers = [caller.call() for _ in range(2)]
        took = time.monotonic() - started
        release.set()
        assert [answer.message for answer in answers] == [b"quick", b"quick"]
        retried = next(answer for answer in answers if len(answer.attempts) == 2)
        assert retried.attempts == [(slow.port, "no answer in time"), (quick.port, 0)]
        assert 0.2 <= took < 2
        assert no_counts(runtime)


def test_per_try_timeout_with_no_retry_left(connect):
    release = threading.Event()
    slow = Peer("slow", behaviour=lambda *_: release.wait(10) and b"late")
    with serving(slow):
        routing = {**retries("5xx", 1, per_try_timeout=0.15), "timeout": 0.0}
        answer = connect(one_cluster(slow.port, routing=routing)).call()
        release.set()
    assert isinstance(answer.error, meshlib.grpc.PerTryTimeout)
    assert answer.code == "DEADLINE_EXCEEDED"
    assert answer.record.response_flags == "URX,UT"
    assert len(answer.attempts) == 2


def test_route_timeout(connect):
    release = threading.Event()
    slow = Peer("slow", behaviour=lambda *_: release.wait(10) and b"late")
    with serving(slow):
        runtime = one_cluster(slow.port, routing={**retries("5xx,deadline-exceeded", 3), "timeout": 0.2})
        started = time.monotonic()
        answer = connect(runtime).call(timeout=10)
        took = time.monotonic() - started
        release.set()
        assert isinstance(answer.error, meshlib.grpc.RouteTimeout)
        assert (answer.record.response_flags, answer.record.grpc_status) == ("UT", 4)
        assert len(slow.seen) == 1
        assert 0.2 <= took < 2
        assert no_counts(runtime)


def test_the_applications_timeout_is_its_own(connect):
    release = threading.Event()
    slow = Peer("slow", behaviour=lambda *_: release.wait(10) and b"late")
    with serving(slow):
        outlier = OutlierDetection(consecutive_5xx=1, max_ejection_percent=100)
        runtime = one_cluster(slow.port, routing=retries("5xx,deadline-exceeded", 3), outlier=outlier)
        answer = connect(runtime).call(timeout=0.2)
        release.set()
        assert answer.code == "DEADLINE_EXCEEDED"
        assert not isinstance(answer.error, meshlib.MeshError)
        assert len(slow.seen) == 1  # never retried
        assert not runtime.store.current.clusters["c"].outliers.ejected  # never held against the endpoint
        assert answer.record.grpc_status == 4
        assert no_counts(runtime)


def test_the_applications_timeout_in_a_back_off(connect):
    server = Peer("server", behaviour=aborting(grpc.StatusCode.UNAVAILABLE, times=1000))
    with serving(server):
        policy = RetryPolicy(frozenset({"unavailable"}), 100, base_interval=5.0, max_interval=5.0)
        runtime = one_cluster(server.port, routing={"retry": policy})
        started = time.monotonic()
        answer = connect(runtime).call(timeout=0.2)
        assert isinstance(answer.error, meshlib.grpc.DeadlineExceeded)
        assert "application's timeout of 0.2s passed" in answer.error.details()
        assert time.monotonic() - started < 2
        assert answer.record.retry_skipped == ""
        assert no_counts(runtime)


# Refusals


def refusals() -> dict[str, tuple]:
    aborted = FaultInjection(abort=FaultAbort(100.0, status=503))
    coded = FaultInjection(abort=FaultAbort(100.0, grpc_status=9))
    tls = TransportSocket("tls", secure=True, detail="mTLS")
    ours = meshlib.grpc
    here = static_cluster("c", [1])

    def on(*clusters, **kwargs):
        return runtime_on(static_snapshot(clusters=clusters, **kwargs))

    return {
        "no endpoint": (
            on(static_cluster("c", []), routes=[route("c")]),
            ours.NoHealthyUpstream,
            "UNAVAILABLE",
            "UH",
            503,
        ),
        "no cluster": (on(routes=[route("gone")]), ours.ClusterNotFound, "UNAVAILABLE", "NC", 503),
        "no route": (on(here, routes=[]), ours.NoRoute, "UNIMPLEMENTED", "NR", 404),
        "no virtual host": (
            on(here, routes=[route("c")], domains=("x",)),
            ours.NoRoute,
            "UNIMPLEMENTED",
            "NR",
            404,
        ),
        "max_requests": (
            on(static_cluster("c", [1], thresholds=Thresholds(max_requests=0)), routes=[route("c")]),
            ours.CircuitOverflow,
            "UNAVAILABLE",
            "UO",
            503,
        ),
        "tls": (
            on(static_cluster("c", [1], transport_socket=tls), routes=[route("c")]),
            ours.TransportSecurityUnavailable,
            "UNAVAILABLE",
            "UF",
            503,
        ),
        "fault abort by HTTP status": (
            on(here, routes=[route("c", fault=aborted)]),
            ours.ConfiguredStatus,
            "UNAVAILABLE",
            "FI",
            503,
        ),
        "fault abort by gRPC status": (
            on(here, routes=[route("c", fault=coded)]),
            ours.ConfiguredStatus,
            "FAILED_PRECONDITION",
            "FI",
            200,
        ),
        "direct response": (
            on(here, routes=[route(DirectResponse(401, "who?"))]),
            ours.ConfiguredStatus,
            "UNAUTHENTICATED",
            "-",
            401,
        ),
    }


@pytest.mark.parametrize("case", refusals())
def test_refusals(connect, case):
    runtime, kind, code, flags, status = refusals()[case]
    answer = connect(runtime).call()
    assert type(answer.error) is kind
    assert isinstance(answer.error, meshlib.RequestError)
    assert isinstance(answer.error, grpc.aio.AioRpcError)
    assert answer.code == code
    assert answer.record.response_flags == flags
    assert (answer.record.status, answer.record.grpc_status) == (status, grpc.StatusCode[code].value[0])
    assert no_counts(runtime)
    revived = pickle.loads(pickle.dumps(answer.error))
    assert (type(revived), str(revived), revived.code()) == (kind, str(answer.error), answer.error.code())
    assert revived.record.response_flags == flags


def test_overflow_while_another_call_is_under_way():
    entered, release = threading.Event(), threading.Event()

    def behave(*_):
        entered.set()
        release.wait(10)
        return b"done"

    server = Peer("server", behaviour=behave)
    with serving(server):
        runtime = one_cluster(server.port, thresholds=Thresholds(max_requests=1))
        with BlockingCaller(runtime, TARGET).channel as channel:
            first = channel.unary_unary(METHOD).future(b"?")
            assert entered.wait(5)
            with pytest.raises(meshlib.CircuitOverflow, match="max_requests=1"):
                channel.unary_unary(METHOD)(b"?")
            release.set()
            assert first.result(5) == b"done"


def test_fault_delay(connect):
    server = Peer("server")
    with serving(server):
        fault = FaultInjection(delay=FaultDelay(0.15, 100.0))
        snapshot = static_snapshot(clusters=[static_cluster("c", [server.port])], routes=[route("c", fault=fault)])
        started = time.monotonic()
        answer = connect(runtime_on(snapshot)).call()
    assert answer.message == b"server"
    assert time.monotonic() - started >= 0.15
    assert answer.record.response_flags == "DI"


def test_outlier_detection_ejects_after_consecutive_failures(connect):
    bad = Peer("bad", behaviour=aborting(grpc.StatusCode.UNAVAILABLE, times=1000))
    good = Peer("good")
    with serving(bad, good):
        outlier = OutlierDetection(consecutive_5xx=2, max_ejection_percent=100)
        caller = connect(one_cluster(bad.port, good.port, outlier=outlier))
        answers = [caller.call() for _ in range(10)]
    assert [answer.code for answer in answers].count("UNAVAILABLE") == 2
    assert {answer.message for answer in answers[-5:]} == {b"good"}
    assert len(bad.seen) == 2


def test_not_found_is_no_fault_of_the_endpoint(connect):
    server = Peer("server", behaviour=aborting(grpc.StatusCode.NOT_FOUND, times=5))
    with serving(server):
        outlier = OutlierDetection(consecutive_5xx=2, max_ejection_percent=100)
        runtime = one_cluster(server.port, outlier=outlier)
        caller = connect(runtime)
        assert [caller.call().code for _ in range(6)] == ["NOT_FOUND"] * 5 + ["OK"]
        assert not runtime.store.current.clusters["c"].outliers.ejected


def test_no_configuration(connect):
    caller = connect(runtime_on(None))
    started = time.monotonic()
    answer = caller.call(timeout=0.2)
    assert isinstance(answer.error, meshlib.MeshNotReady)
    assert answer.code == "UNAVAILABLE"
    assert "the hand of a test" in answer.error.details()
    assert 0.2 <= time.monotonic() - started < 2


def test_a_call_waits_for_the_first_configuration(connect):
    server = Peer("server")
    with serving(server):
        runtime = runtime_on(None)
        caller = connect(runtime)
        snapshot = static_snapshot(clusters=[static_cluster("c", [server.port])], routes=[route("c")])
        timer = threading.Timer(0.1, lambda: runtime.publish(snapshot))
        timer.start()
        assert caller.call(timeout=5).message == b"server"
        timer.join()


def test_a_closed_mesh_refuses(connect):
    server = Peer("server")
    with serving(server):
        runtime = one_cluster(server.port)
        caller = connect(runtime)
        assert caller.call().code == "OK"
        runtime.close()
        with pytest.raises(meshlib.MeshClosed):
            caller.call()


def test_closing_a_channel_leaves_the_mesh_open(connect):
    server = Peer("server")
    with serving(server):
        runtime = one_cluster(server.port)
        first = BlockingCaller(runtime, TARGET)
        assert first.call().code == "OK"
        first.close()
        first.close()
        with pytest.raises(ValueError, match="closed channel"):
            first.call()
        assert connect(runtime).call().code == "OK"


# Messages


def test_a_message_too_large_is_not_the_endpoints_fault(connect):
    server = Peer("server", behaviour=lambda *_: b"x" * 2000)
    with serving(server):
        runtime = one_cluster(server.port, routing=retries("resource-exhausted", 3))
        answer = connect(runtime, options=[("grpc.max_receive_message_length", 1000)]).call()
    assert answer.code == "RESOURCE_EXHAUSTED"
    assert len(server.seen) == 1
    assert not isinstance(answer.error, meshlib.MeshError)


def test_concurrent_calls_give_everything_back(connect):
    server = Peer("server", behaviour=aborting(grpc.StatusCode.UNAVAILABLE, times=20))
    with serving(server):
        runtime = one_cluster(server.port, routing=retries("unavailable", 3), thresholds=Thresholds(max_retries=100))
        caller = connect(runtime)
        if caller.name == "sync":
            with ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(lambda _: caller.call(), range(64)))
        else:

            async def many():
                return await asyncio.gather(*(caller.acall(b"?", method=METHOD, kind="unary_unary") for _ in range(64)))

            answers = caller.runner.run(many())
        assert sum(len(answer.attempts) for answer in answers) == len(server.seen)
        assert no_counts(runtime)


def test_constructors_start_nothing(connect):
    runtime = runtime_on(None)
    connect(runtime)
    assert not runtime._started
