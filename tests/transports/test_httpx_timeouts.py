"""Whose time is over, and when: the route's, the attempt's and the application's own timeouts on real sockets."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import httpx
import pytest

from meshlib import httpx as mesh_httpx
from meshlib.model.cluster import OutlierDetection, Thresholds
from meshlib.model.traffic import FaultDelay, FaultInjection
from meshlib.transports.httpx_async import AsyncMeshTransport
from policy.snapshots import forward, retry
from transports.callers import mesh_over
from transports.scripted import OK, Behaviour

HANG = Behaviour(hang=True)
TRICKLE = Behaviour(trickle=0.04)  # some 70 bytes of head: nearly 3 s
DRIP = Behaviour(body=b"x" * 100, drip=0.04)


class Stopwatch:
    def __enter__(self):
        self.began = time.monotonic()
        return self

    def __exit__(self, *exc):
        self.seconds = time.monotonic() - self.began


def quick(*tokens, **fields):
    return retry(*tokens, **{"base_interval": 0.001, "max_interval": 0.001, **fields})


class TestPerTry:
    def test_cuts_a_trickling_head(self, caller, upstreams):
        """Every byte in time, the head as a whole not: blocking code must not be fooled either."""
        server = upstreams.serve(TRICKLE, OK)
        policy = quick("5xx", per_try_timeout=0.3)
        call = caller(mesh_over(server, routes=[forward(retry=policy, timeout=0.0)]))
        with Stopwatch() as watch:
            response = call.request()
        assert (response.status_code, len(server.seen)) == (200, 2)
        assert 0.29 <= watch.seconds < 1.2

    @pytest.mark.skipif(sys.platform == "win32", reason="uvloop has no Windows wheels")
    def test_is_the_routes_where_timers_fire_early(self, upstreams):
        """uvloop counts whole milliseconds: what it cuts a moment early is no timeout of the application."""
        import uvloop

        server = upstreams.serve(*[HANG, OK] * 30)
        mesh = mesh_over(server, routes=[forward(retry=quick("5xx", per_try_timeout=0.0203), timeout=0.0)])

        async def call():
            async with httpx.AsyncClient(transport=AsyncMeshTransport(mesh)) as client:
                return [(await client.get("http://catalog/")).status_code for _ in range(30)]

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(call()) == [200] * 30

    def test_without_a_retry(self, caller, upstreams):
        policy = quick("connect-failure", per_try_timeout=0.2)
        call = caller(mesh_over(upstreams.serve(TRICKLE), routes=[forward(retry=policy, timeout=0.0)]))
        with Stopwatch() as watch, pytest.raises(mesh_httpx.PerTryTimeout, match=r"per_try_timeout of 0.2s .*\[UT\]"):
            call.request()
        assert 0.19 <= watch.seconds < 1.0

    def test_stops_at_the_head(self, caller, upstreams):
        server = upstreams.serve(Behaviour(body=b"late", body_delay=0.4))
        call = caller(mesh_over(server, routes=[forward(retry=quick("5xx", per_try_timeout=0.2), timeout=0.0)]))
        assert call.request().text == "late"
        assert len(server.seen) == 1

    def test_covers_connecting(self, caller, upstreams):
        hole = upstreams.serve(mode="blackhole")
        policy = quick("connect-failure", per_try_timeout=0.2, num_retries=0)
        call = caller(mesh_over(hole, routes=[forward(retry=policy, timeout=0.0)], connect_timeout=5.0))
        with Stopwatch() as watch, pytest.raises(mesh_httpx.PerTryTimeout):
            call.request()
        assert watch.seconds < 1.0


class TestRoute:
    def test_over_all_attempts(self, caller, upstreams):
        server = upstreams.serve(Behaviour(status=503, delay=0.15))
        call = caller(mesh_over(server, routes=[forward(retry=quick("5xx", num_retries=9), timeout=0.5)]))
        with Stopwatch() as watch, pytest.raises(mesh_httpx.RouteTimeout) as caught:
            call.request()
        assert 0.49 <= watch.seconds < 1.2
        assert len(caught.value.record.attempts) in (3, 4)

    def test_over_back_offs(self, caller, upstreams):
        policy = retry("5xx", base_interval=1e6, max_interval=1e6)
        call = caller(mesh_over(upstreams.serve(Behaviour(status=503)), routes=[forward(retry=policy, timeout=0.3)]))
        with Stopwatch() as watch, pytest.raises(mesh_httpx.RouteTimeout):
            call.request()
        assert 0.29 <= watch.seconds < 1.0

    def test_to_the_end_of_a_slow_body(self, caller, upstreams):
        server = upstreams.serve(DRIP)
        call = caller(mesh_over(server, routes=[forward(timeout=0.5)]))
        with Stopwatch() as watch, pytest.raises(mesh_httpx.RouteTimeout, match="while the body was read") as caught:
            call.request()
        assert 0.49 <= watch.seconds < 1.2
        record = caught.value.record
        assert (record.status, record.response_flags, record.detail) == (200, "UT", "response_timeout")
        server.wait(lambda s: s.open == 0)  # a broken connection is not kept

    def test_of_a_streamed_response(self, caller, upstreams):
        call = caller(mesh_over(upstreams.serve(DRIP), routes=[forward(timeout=0.4)]))
        with pytest.raises(mesh_httpx.RouteTimeout):
            call.stream(call.read_all)

    def test_starts_when_a_streamed_upload_is_complete(self, caller, upstreams):
        """A timeout of 0.3 s, an upload of 0.6 s: 200 on Envoy, and the body still has its 0.3 s."""
        server = upstreams.serve(Behaviour(delay=0.1, body=b"done", body_delay=0.05))
        call = caller(mesh_over(server, routes=[forward(timeout=0.3)]))

        def slowly():
            for _ in range(6):
                time.sleep(0.1)
                yield b"part"

        response = call.request("POST", content=call.body(slowly()))
        assert (response.text, server.seen[0].body) == ("done", b"part" * 6)

    def test_and_then_it_runs(self, caller, upstreams):
        call = caller(mesh_over(upstreams.serve(HANG), routes=[forward(timeout=0.2)]))

        def slowly():
            time.sleep(0.3)
            yield b"part"

        with Stopwatch() as watch, pytest.raises(mesh_httpx.RouteTimeout):
            call.request("POST", content=call.body(slowly()))
        assert 0.49 <= watch.seconds < 1.2

    def test_reply_in_response_mode(self, caller, upstreams):
        mesh = mesh_over(upstreams.serve(HANG), routes=[forward(timeout=0.15)])
        response = caller(mesh, local_replies="response").request()
        assert (response.status_code, response.text) == (504, "upstream request timeout")


class TestApplication:
    """httpx's own timeouts span the call, end it, are never retried and blame nobody."""

    RETRIES = quick("5xx", "reset", "connect-failure", num_retries=5)

    def test_read_spans_attempts(self, caller, upstreams):
        server = upstreams.serve(Behaviour(status=503, delay=0.15))
        call = caller(mesh_over(server, routes=[forward(retry=self.RETRIES)]))
        with Stopwatch() as watch, pytest.raises(httpx.ReadTimeout) as caught:
            call.request(timeout=httpx.Timeout(None, read=0.4))
        assert not isinstance(caught.value, mesh_httpx.MeshRequestError)
        assert 0.39 <= watch.seconds < 0.9
        record = caught.value.record
        assert len(record.attempts) in (2, 3)
        assert record.response_flags == "DC"
        assert caught.value.request.url.host == "catalog"

    def test_read_spans_back_offs(self, caller, upstreams):
        policy = retry("5xx", base_interval=1e6, max_interval=1e6)
        call = caller(mesh_over(upstreams.serve(Behaviour(status=503)), routes=[forward(retry=policy, timeout=0.0)]))
        with (
            Stopwatch() as watch,
            pytest.raises(httpx.ReadTimeout, match=r"read timeout of 0.3s passed after 1 attempt") as caught,
        ):
            call.request(timeout=httpx.Timeout(None, read=0.3))
        assert 0.29 <= watch.seconds < 0.9
        assert caught.value.record.response_flags == "DC"

    def test_read_spans_injected_delays(self, caller, upstreams):
        fault = FaultInjection(FaultDelay(30.0, 100.0))
        mesh = mesh_over(upstreams.serve(), routes=[forward(fault=fault)], http={"fault_filter": True})
        with Stopwatch() as watch, pytest.raises(httpx.ReadTimeout):
            caller(mesh).request(timeout=httpx.Timeout(None, read=0.2))
        assert watch.seconds < 0.9

    def test_read_cuts_a_trickling_head(self, caller, upstreams):
        server = upstreams.serve(TRICKLE)
        call = caller(mesh_over(server, routes=[forward(retry=self.RETRIES, timeout=0.0)]))
        with Stopwatch() as watch, pytest.raises(httpx.ReadTimeout):
            call.request(timeout=httpx.Timeout(None, read=0.3))
        assert watch.seconds < 1.0
        assert len(server.seen) == 1

    def test_then_read_bounds_the_gaps_of_the_body(self, caller, upstreams):
        server = upstreams.serve(Behaviour(body=b"x" * 10, drip=0.1), Behaviour(body_delay=1.0))
        call = caller(mesh_over(server))
        assert len(call.request(timeout=httpx.Timeout(None, read=0.5)).content) == 10
        with pytest.raises(httpx.ReadTimeout) as caught:
            call.request(timeout=httpx.Timeout(None, read=0.3))
        assert caught.value.record.response_flags == "DC"

    def test_blames_nobody(self, caller, upstreams):
        server = upstreams.serve(HANG, OK)
        outlier = OutlierDetection(consecutive_5xx=1, max_ejection_percent=100)
        call = caller(mesh_over(server, outlier=outlier, panic_threshold=0.0))
        with pytest.raises(httpx.ReadTimeout):
            call.request(timeout=httpx.Timeout(None, read=0.15))
        assert call.request().status_code == 200

    def test_connect(self, caller, upstreams):
        hole = upstreams.serve(mode="blackhole")
        call = caller(mesh_over(hole, routes=[forward(retry=self.RETRIES)], connect_timeout=5.0))
        with Stopwatch() as watch, pytest.raises(httpx.ConnectTimeout) as caught:
            call.request(timeout=httpx.Timeout(None, connect=0.2))
        assert not isinstance(caught.value, mesh_httpx.MeshRequestError)
        assert watch.seconds < 1.0
        assert len(caught.value.record.attempts) == 1

    def test_connect_counts_the_seconds_spent_connecting(self, caller, upstreams):
        """A slow first answer leaves the connect timeout of the retry whole."""
        servers = [upstreams.serve(Behaviour(status=503, delay=0.4), OK, name=f"up{n}") for n in range(2)]
        policy = quick("5xx", previous_hosts=True, host_selection_max_attempts=5, num_retries=2)
        call = caller(mesh_over(*servers, routes=[forward(retry=policy)]))
        response = call.request(timeout=httpx.Timeout(None, connect=0.3))
        assert response.status_code == 200
        assert len(response.extensions["meshlib"].attempts) >= 2

    def test_connect_is_summed_over_attempts(self, caller, upstreams):
        holes = [upstreams.serve(mode="blackhole") for _ in range(2)]
        policy = quick("connect-failure", num_retries=9)
        call = caller(mesh_over(*holes, routes=[forward(retry=policy, timeout=0.0)], connect_timeout=0.15))
        with Stopwatch() as watch, pytest.raises(httpx.ConnectTimeout) as caught:
            call.request(timeout=httpx.Timeout(None, connect=0.4))
        assert 0.39 <= watch.seconds < 1.0
        assert len(caught.value.record.attempts) == 3

    def test_pool_while_waiting_for_a_slot(self, caller, upstreams):
        gate = threading.Event()
        server = upstreams.serve(Behaviour(gate=gate))
        mesh = mesh_over(server, thresholds=Thresholds(max_connections=1), routes=[forward(timeout=0.0)])
        holder = _hold(mesh, server)
        call = caller(mesh)
        try:
            with (
                Stopwatch() as watch,
                pytest.raises(httpx.PoolTimeout, match=r"no connection slot of .c. within the pool timeout of 0\.2s"),
            ):
                call.request(timeout=httpx.Timeout(None, pool=0.2))
            assert 0.19 <= watch.seconds < 0.9
            with pytest.raises(httpx.ReadTimeout):
                call.request(timeout=httpx.Timeout(None, read=0.2))
        finally:
            gate.set()
            holder.join(10)

    def test_the_routes_timeout_while_waiting_for_a_slot(self, caller, upstreams):
        gate = threading.Event()
        server = upstreams.serve(Behaviour(gate=gate))
        mesh = mesh_over(server, thresholds=Thresholds(max_connections=1), routes=[forward(timeout=0.3)])
        holder = _hold(mesh, server)  # until its own route timeout at most
        call = caller(mesh)
        try:
            with pytest.raises(mesh_httpx.RouteTimeout):
                call.request(timeout=httpx.Timeout(None, pool=5.0))
        finally:
            gate.set()
            holder.join(10)

    def test_a_slot_that_comes_in_time(self, caller, upstreams):
        gate = threading.Event()
        server = upstreams.serve(Behaviour(gate=gate), OK)
        mesh = mesh_over(server, thresholds=Thresholds(max_connections=1))
        holder = _hold(mesh, server)
        threading.Timer(0.1, gate.set).start()
        assert caller(mesh).request(timeout=httpx.Timeout(None, pool=5.0)).status_code == 200
        holder.join(10)


class TestDeadline:
    """``extensions={"meshlib": {"deadline": s}}`` bounds everything."""

    @staticmethod
    def within(seconds):
        return {"meshlib": {"deadline": seconds}}

    def test_head(self, caller, upstreams):
        call = caller(mesh_over(upstreams.serve(HANG)))
        with Stopwatch() as watch, pytest.raises(httpx.ReadTimeout):
            call.request(extensions=self.within(0.2))
        assert 0.19 <= watch.seconds < 0.9

    def test_back_off(self, caller, upstreams):
        policy = retry("5xx", base_interval=1e6, max_interval=1e6)
        call = caller(mesh_over(upstreams.serve(Behaviour(status=503)), routes=[forward(retry=policy)]))
        with pytest.raises(httpx.ReadTimeout, match=r"deadline timeout of 0\.2s passed"):
            call.request(extensions=self.within(0.2))

    def test_the_shorter_one_is_named(self, caller, upstreams):
        policy = retry("5xx", base_interval=1e6, max_interval=1e6)
        call = caller(mesh_over(upstreams.serve(Behaviour(status=503)), routes=[forward(retry=policy)]))
        with pytest.raises(httpx.ReadTimeout, match=r"read timeout of 0\.1s passed"):
            call.request(extensions=self.within(5.0), timeout=httpx.Timeout(None, read=0.1))

    def test_body(self, caller, upstreams):
        call = caller(mesh_over(upstreams.serve(DRIP)))
        with (
            Stopwatch() as watch,
            pytest.raises(httpx.ReadTimeout, match="application's deadline passed while the body") as caught,
        ):
            call.request(extensions=self.within(0.4))
        assert 0.39 <= watch.seconds < 1.1
        assert caught.value.record.response_flags == "DC"

    def test_is_never_longer_than_the_routes(self, caller, upstreams):
        call = caller(mesh_over(upstreams.serve(HANG), routes=[forward(timeout=0.2)]))
        with pytest.raises(mesh_httpx.RouteTimeout):
            call.request(extensions=self.within(5.0))


def _swallow(mesh):
    from transports.callers import SyncCaller

    call = SyncCaller(mesh)
    try:
        call.request()
    except httpx.TransportError:
        pass
    finally:
        call.close()


def _hold(mesh, server):
    """A thread whose request holds the only connection until its gate opens."""
    thread = threading.Thread(target=_swallow, args=(mesh,))
    thread.start()
    server.wait(lambda s: s.seen)
    return thread
