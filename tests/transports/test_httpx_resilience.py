"""Hedging, the rarer timeouts, the application's deadline, strict retries and traces, on real sockets."""

import asyncio
import socket
import threading
import time
from types import SimpleNamespace

import httpx
import pytest

import meshlib
from meshlib.model.cluster import ConnectionLife, Thresholds
from meshlib.model.endpoint import Endpoint
from meshlib.model.route import StreamDuration
from meshlib.model.traffic import FaultInjection, FaultRate
from meshlib.policy.safety import RetrySafety
from meshlib.transports import httpx_errors as mesh_httpx
from policy.snapshots import forward, retry
from transports.callers import URL, assert_idle, mesh_over
from transports.scripted import OK, Behaviour

QUICK = {"base_interval": 0.001, "max_interval": 0.001}
HEDGED = retry("5xx", num_retries=1, per_try_timeout=0.1, previous_hosts=True, **QUICK)


def refused_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def hedged(*servers, policy=HEDGED, timeout=5.0, **fields):
    return mesh_over(*servers, routes=[forward(retry=policy, hedge=True, timeout=timeout)], **fields)


class TestHedging:
    def test_the_late_first_answer_wins_when_it_comes_first(self, caller, upstreams):
        server = upstreams.serve(Behaviour(delay=0.3, body=b"first"), Behaviour(delay=3.0, body=b"second"))
        call = caller(hedged(server))
        began = time.monotonic()
        response = call.request()
        assert (response.text, time.monotonic() - began < 2.0) == ("first", True)
        record = response.extensions["meshlib"]
        assert [(a.number, a.status, a.error) for a in record.attempts] == [(1, 200, ""), (2, None, "cancelled")]
        assert record.attempts[0].ended > record.attempts[1].started
        assert_idle(call.mesh)

    def test_the_second_wins_over_one_that_hangs(self, caller, upstreams):
        server = upstreams.serve(Behaviour(hang=True), Behaviour(body=b"second"))
        call = caller(hedged(server))
        response = call.request("POST", content=b"once more")
        assert (response.text, [seen.body for seen in server.seen]) == ("second", [b"once more"] * 2)
        assert [a.error for a in response.extensions["meshlib"].attempts] == ["cancelled", ""]
        assert_idle(call.mesh)

    def test_the_loser_is_hung_up_on(self, caller, upstreams):
        gone = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def serve():
                accepted, _ = listening.accept()
                with accepted:
                    accepted.settimeout(10.0)
                    while accepted.recv(65536):
                        pass
                gone.set()

            thread = threading.Thread(target=serve)
            thread.start()
            silent = SimpleNamespace(endpoint=Endpoint(*listening.getsockname()[:2]))
            policy = retry("5xx", num_retries=3, per_try_timeout=0.1, previous_hosts=True, **QUICK)
            call = caller(hedged(silent, upstreams.serve(), policy=policy))
            for _ in range(2):  # one of two goes to the silent one first
                assert call.request().status_code == 200
            assert gone.wait(10.0), "the connection of the loser was left open"
            thread.join()

    def test_a_bad_answer_is_given_up_while_another_may_be_good(self, caller, upstreams):
        server = upstreams.serve(Behaviour(status=503, delay=0.3), Behaviour(delay=0.5, body=b"good"))
        response = caller(hedged(server)).request()
        assert (response.status_code, response.text) == (200, "good")

    def test_all_hang(self, caller, upstreams):
        call = caller(hedged(upstreams.serve(Behaviour(hang=True)), timeout=0.5), local_replies="response")
        response = call.request()
        record = response.extensions["meshlib"]
        assert (response.status_code, record.response_flags, len(record.attempts)) == (504, "URX,UT", 2)
        assert_idle(call.mesh)

    def test_the_applications_timeout_ends_them_all(self, caller, upstreams):
        call = caller(hedged(upstreams.serve(Behaviour(hang=True)), timeout=0.0), client={"timeout": 0.4})
        with pytest.raises(httpx.ReadTimeout):
            call.request()
        assert_idle(call.mesh)

    def test_waits_for_a_connection_slot_while_the_first_goes_on(self, caller, upstreams):
        server = upstreams.serve(Behaviour(delay=0.4, body=b"first"), OK)
        call = caller(hedged(server, thresholds=Thresholds(max_connections=1)))
        response = call.request()
        assert (response.text, len(server.seen)) == ("first", 1)
        assert_idle(call.mesh)

    def test_not_without_retry_on(self, caller, upstreams):
        server = upstreams.serve(Behaviour(delay=0.3, body=b"first"), OK)
        response = caller(hedged(server, policy=retry(per_try_timeout=0.1))).request()
        assert (response.text, len(server.seen)) == ("first", 1)

    def test_a_cancelled_task_leaves_nothing_behind(self, caller, upstreams):
        call = caller(hedged(upstreams.serve(Behaviour(hang=True)), timeout=0.0))
        if call.kind == "sync":
            pytest.skip("a thread cannot be cancelled")

        async def cancelled():
            task = asyncio.ensure_future(call.client.get(URL))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        call.run(cancelled())
        assert_idle(call.mesh)


class TestTimeouts:
    def test_a_silent_stream(self, caller, upstreams):
        server = upstreams.serve(Behaviour(hang=True))
        call = caller(mesh_over(server, routes=[forward(idle_timeout=0.2, timeout=0.0)]), local_replies="response")
        response = call.request()
        told = response.extensions["meshlib"]
        assert (response.status_code, response.text) == (504, "stream timeout"), told
        assert (told.response_flags, told.detail) == ("SI", "stream_idle_timeout")

    def test_a_body_that_falls_silent(self, caller, upstreams):
        server = upstreams.serve(Behaviour(body=b"x" * 100, body_delay=3.0))
        call = caller(mesh_over(server, routes=[forward(idle_timeout=0.3, timeout=0.0)]))
        with pytest.raises(mesh_httpx.RouteTimeout) as caught:
            call.request()
        assert caught.value.record.response_flags == "SI"
        assert_idle(call.mesh)

    def test_a_body_that_drips_is_not_idle(self, caller, upstreams):
        server = upstreams.serve(Behaviour(body=b"x" * 10, drip=0.05))
        call = caller(mesh_over(server, routes=[forward(idle_timeout=0.3, timeout=0.0)]))
        assert call.request().text == "x" * 10

    def test_per_try_idle(self, caller, upstreams):
        server = upstreams.serve(Behaviour(hang=True), OK)
        policy = retry("5xx", per_try_idle_timeout=0.15, **QUICK)
        response = caller(mesh_over(server, routes=[forward(retry=policy, timeout=0.0)])).request()
        assert (response.status_code, len(server.seen)) == (200, 2)

    def test_max_stream_duration_bounds_the_body(self, caller, upstreams):
        server = upstreams.serve(Behaviour(body=b"x" * 100, drip=0.05))
        call = caller(mesh_over(server, routes=[forward(stream_duration=StreamDuration(0.4), timeout=0.0)]))
        began = time.monotonic()
        with pytest.raises(mesh_httpx.RouteTimeout) as caught:
            call.request()
        assert time.monotonic() - began < 3.0
        assert caught.value.record.detail == "max_duration_timeout"

    def test_the_clusters_max_stream_duration_is_retried(self, caller, upstreams):
        server = upstreams.serve(Behaviour(hang=True), OK)
        routes = [forward(retry=retry("reset", **QUICK), timeout=0.0)]
        response = caller(mesh_over(server, routes=routes, max_stream_duration=0.2)).request()
        assert (response.status_code, len(server.seen)) == (200, 2)


class TestDeadline:
    def test_shortens_every_try_and_is_told(self, caller, upstreams):
        server = upstreams.serve(Behaviour(delay=2.0))
        call = caller(mesh_over(server, routes=[forward(retry=retry("5xx", num_retries=3, **QUICK))]))
        began = time.monotonic()
        with meshlib.deadline(0.4), pytest.raises(httpx.ReadTimeout):
            call.request()
        assert time.monotonic() - began < 1.5
        assert 0 < int(server.seen[0].header("x-envoy-expected-rq-timeout-ms")) <= 400
        assert_idle(call.mesh)

    def test_is_inherited_and_only_comes_nearer(self, caller, upstreams):
        server = upstreams.serve()
        call = caller(mesh_over(server))
        with meshlib.deadline(5.0), meshlib.deadline(60.0):
            call.request()
        assert 4000 < int(server.seen[0].header("x-envoy-expected-rq-timeout-ms")) <= 5000
        call.request()
        assert server.seen[1].header("x-envoy-expected-rq-timeout-ms") == "15000"

    def test_a_spent_one_sends_nothing(self, caller, upstreams):
        server = upstreams.serve()
        call = caller(mesh_over(server))
        with meshlib.deadline(0.0), pytest.raises(httpx.TimeoutException):
            call.request()
        assert server.seen == []

    def test_is_told_to_grpc_services_too(self, caller, upstreams):
        server = upstreams.serve()
        call = caller(mesh_over(server))
        with meshlib.deadline(2.0):
            call.request("POST", headers={"content-type": "application/grpc"}, content=b"x")
        assert server.seen[0].header("grpc-timeout").endswith("m")


class TestStrict:
    def strict(self, *servers, **fields):
        routes = [forward(retry=retry("5xx", num_retries=2, **QUICK), **fields)]
        return mesh_over(*servers, routes=routes, mesh={"safety": RetrySafety.STRICT})

    @pytest.mark.parametrize(
        ("method", "headers", "attempts"),
        [("GET", {}, 2), ("PUT", {}, 2), ("POST", {}, 1), ("PATCH", {}, 1), ("POST", {"Idempotency-Key": "7"}, 2)],
    )
    def test_only_what_can_do_no_harm(self, caller, upstreams, method, headers, attempts):
        server = upstreams.serve(Behaviour(status=503), OK)
        response = caller(self.strict(server)).request(method, headers=headers, content=b"x")
        assert len(server.seen) == attempts
        assert ("not idempotent" in response.extensions["meshlib"].retry_skipped) is (attempts == 1)

    def test_a_connection_that_never_was_is_always_safe(self, caller, upstreams):
        refusing = SimpleNamespace(endpoint=Endpoint("127.0.0.1", refused_port()))
        call = caller(self.strict(refusing, upstreams.serve()))
        assert {call.request("POST", content=b"x").status_code for _ in range(4)} == {200}

    def test_retry_after_is_waited_for(self, caller, upstreams):
        server = upstreams.serve(Behaviour(status=503, headers=[("retry-after", "1")]), OK)
        began = time.monotonic()
        assert caller(self.strict(server)).request().status_code == 200
        assert time.monotonic() - began >= 1.0

    def test_retry_after_beyond_the_deadline_is_not(self, caller, upstreams):
        server = upstreams.serve(Behaviour(status=503, headers=[("retry-after", "30")]), OK)
        response = caller(self.strict(server, timeout=2.0)).request()
        assert (response.status_code, len(server.seen)) == (503, 1)
        assert response.extensions["meshlib"].retry_skipped.startswith("Retry-After of 30s")


class TestTrace:
    def test_a_call_that_asks_is_told_why(self, caller, upstreams):
        server = upstreams.serve(Behaviour(status=503), OK)
        routes = [forward(retry=retry("5xx", **QUICK), name="all")]
        response = caller(mesh_over(server, routes=routes)).request(extensions={"meshlib": {"trace": True}})
        trace = response.extensions["meshlib"].trace
        kinds = [step.kind for step in trace]
        assert kinds == ["virtual host", "route", "weights", "load", "attempt", "retry", "load", "attempt"]
        assert "max_retries=3" in str(trace)

    def test_others_are_not(self, caller, upstreams):
        response = caller(mesh_over(upstreams.serve())).request()
        assert response.extensions["meshlib"].trace is None

    def test_a_sample_of_all(self, caller, upstreams):
        call = caller(mesh_over(upstreams.serve(), mesh={"trace_decisions": 0.5}))
        traced = [call.request().extensions["meshlib"].trace is not None for _ in range(60)]
        assert 10 < sum(traced) < 50


class TestSlowedResponses:
    def test_a_fault_s_rate(self, caller, upstreams):
        server = upstreams.serve(Behaviour(body=b"x" * 600))
        fault = FaultInjection(rate=FaultRate(1, 100.0))
        call = caller(mesh_over(server, routes=[forward(fault=fault)], http={"fault_filter": True}))
        began = time.monotonic()
        assert call.request().text == "x" * 600
        assert time.monotonic() - began > 0.4  # 600 of 1024 bytes a second, the first 51 at once
        assert_idle(call.mesh)


class TestConnections:
    def served(self, caller, upstreams, **life):
        server = upstreams.serve()
        call = caller(mesh_over(server, connections=ConnectionLife(**life)))
        for _ in range(4):
            call.request()
        return len({seen.connection for seen in server.seen})

    def test_are_kept_without_bounds(self, caller, upstreams):
        assert self.served(caller, upstreams) == 1

    def test_carry_so_many_requests(self, caller, upstreams):
        assert self.served(caller, upstreams, requests=2) == 2

    def test_live_so_long(self, caller, upstreams):
        assert self.served(caller, upstreams, longest=1e-6) == 4

    def test_are_not_used_again_after_being_idle_for_long(self, caller, upstreams):
        server = upstreams.serve()
        call = caller(mesh_over(server, connections=ConnectionLife(idle_timeout=0.2)))
        call.request()
        call.request()
        time.sleep(0.5)
        call.request()
        assert len({seen.connection for seen in server.seen}) == 2
