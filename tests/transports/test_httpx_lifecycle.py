"""Before the first configuration, updates, many threads and loops, cancellation, close, fork."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time

import httpx
import pytest

import meshlib
from meshlib import httpx as mesh_httpx
from meshlib.model.cluster import Thresholds
from policy.snapshots import forward, retry
from runtime.handmade import HandmadeSource, runtime
from transports.callers import AsyncCaller, SyncCaller, assert_idle, config_over, mesh_over
from transports.scripted import OK, Behaviour


class TestBeforeTheFirstConfiguration:
    def test_calls_wait(self, caller, upstreams):
        source = HandmadeSource()
        mesh = runtime(source)
        mesh.start()
        timer = source.publish_later(0.1, config_over(upstreams.serve()))
        assert caller(mesh).request().status_code == 200
        timer.join()

    def test_and_then_raise_naming_the_source(self, caller):
        began = time.monotonic()
        with pytest.raises(mesh_httpx.MeshNotReady, match=r"no configuration after 0\.\d+s from the test \(last error"):
            caller(runtime(HandmadeSource())).request(timeout=0.2)
        assert time.monotonic() - began < 2.0

    def test_it_is_of_both_families(self, caller):
        with pytest.raises(meshlib.MeshNotReady) as caught:
            caller(runtime(HandmadeSource())).request(timeout=0.1)
        assert isinstance(caught.value, httpx.ConnectTimeout)
        assert caught.value.request.url.host == "catalog"

    def test_nothing_slips_past(self, caller, upstreams):
        """The URL itself would work: it is not used."""
        server = upstreams.serve()
        with pytest.raises(meshlib.MeshNotReady):
            caller(runtime(HandmadeSource())).request(url=f"http://127.0.0.1:{server.port}/", timeout=0.1)
        assert server.connections == 0


class TestClosing:
    def test_a_closed_mesh(self, caller, upstreams):
        mesh = mesh_over(upstreams.serve())
        call = caller(mesh)
        assert call.request().status_code == 200
        mesh.close()
        with pytest.raises(meshlib.MeshClosed):
            call.request()

    def test_closing_a_client_never_closes_the_mesh(self, upstreams):
        server = upstreams.serve()
        mesh = mesh_over(server)
        for _ in range(2):
            call = SyncCaller(mesh)
            assert call.request().status_code == 200
            call.close()
            server.wait(lambda s: s.open == 0)
        assert mesh.store.current is not None

    def test_async_close_closes_its_connections(self, upstreams):
        server = upstreams.serve()
        call = AsyncCaller(mesh_over(server))
        call.request()
        call.close()
        server.wait(lambda s: s.open == 0)

    def test_requests_in_flight_end_in_peace(self, caller, upstreams):
        gate = threading.Event()
        mesh = mesh_over(upstreams.serve(Behaviour(gate=gate)))
        call = caller(mesh)
        call.mesh.start()
        threading.Timer(0.1, lambda: (mesh.close(), gate.set())).start()
        assert call.request().status_code == 200


class TestUpdates:
    def test_apply_to_the_next_call(self, caller, upstreams):
        old, new = upstreams.serve(name="old"), upstreams.serve(name="new")
        source = HandmadeSource(config_over(old))
        call = caller(runtime(source))
        assert call.request().text == "old"
        source.publish(config_over(new, version="2"))
        assert call.request().text == "new"

    def test_removed_endpoints_lose_their_idle_connections(self, caller, upstreams):
        old, new = upstreams.serve(name="old"), upstreams.serve(name="new")
        source = HandmadeSource(config_over(old))
        call = caller(runtime(source))
        call.request()
        source.publish(config_over(new, version="2"))
        call.request()
        old.wait(lambda s: s.open == 0)
        assert new.open == 1

    def test_requests_to_a_removed_endpoint_finish_and_its_connection_goes_then(self, caller, upstreams):
        old, new = upstreams.serve(Behaviour(body=b"x" * 30, drip=0.01), name="old"), upstreams.serve(name="new")
        source = HandmadeSource(config_over(old))
        call = caller(runtime(source))

        def use(response):
            source.publish(config_over(new, version="2"))
            _other_call(call.mesh)
            return call.read_all(response)

        assert call.stream(use) == b"x" * 30
        if call.kind == "async":  # that loop's own pools look at the news with its next call
            call.request()
        call.request()
        old.wait(lambda s: s.open == 0)

    def test_a_retry_does_not_go_to_a_removed_endpoint(self, caller, upstreams):
        source = HandmadeSource()

        def removed_meanwhile(_server, _seen):
            source.publish(config_over(new, version="2", routes=routes))
            return Behaviour(status=503)

        routes = [forward(retry=retry("5xx", num_retries=3, base_interval=0.001, max_interval=0.001))]
        old, new = upstreams.serve(script=removed_meanwhile, name="old"), upstreams.serve(name="new")
        source.snapshot = config_over(old, routes=routes)
        response = caller(runtime(source)).request()
        assert (response.text, len(old.seen), len(new.seen)) == ("new", 1, 1)

    def test_ejections_and_counts_go_on(self, caller, upstreams):
        server = upstreams.serve()
        limits = {"thresholds": Thresholds(max_requests=0)}
        source = HandmadeSource(config_over(server, **limits))
        call = caller(runtime(source), local_replies="response")
        assert call.request().status_code == 503
        source.publish(config_over(server, version="2"))
        assert call.request().status_code == 200


def _other_call(mesh):
    call = SyncCaller(mesh)
    call.request()
    call.close()


class TestConcurrency:
    def test_threads(self, upstreams):
        servers = [upstreams.serve(name=f"up{n}") for n in range(3)]
        mesh = mesh_over(*servers)
        call, statuses, lock = SyncCaller(mesh), [], threading.Lock()

        def work():
            mine = [call.request().status_code for _ in range(8)]
            with lock:
                statuses.extend(mine)

        threads = [threading.Thread(target=work) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert statuses == [200] * (32 * 8)
        assert sum(len(s.seen) for s in servers) == 32 * 8
        assert max(len(s.seen) for s in servers) - min(len(s.seen) for s in servers) <= 1
        assert_idle(mesh)
        call.close()

    def test_threads_under_one_limit(self, upstreams):
        """At most two at once upstream, whoever asks."""
        now, most, lock = [0], [0], threading.Lock()

        def count(_server, _seen):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            return Behaviour(delay=0.01, headers=[("x-done", "1")])

        server = upstreams.serve(script=count)
        mesh = mesh_over(server, thresholds=Thresholds(max_connections=2))
        call = SyncCaller(mesh)

        def work():
            for _ in range(3):

                def done(response):
                    body = response.read()
                    with lock:
                        now[0] -= 1
                    return body

                call.stream(done)

        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(server.seen) == 36
        assert most[0] <= 2
        assert_idle(mesh)
        call.close()

    def test_event_loops_share_a_transport(self, upstreams):
        server = upstreams.serve()
        mesh = mesh_over(server)
        from meshlib.transports.httpx_async import AsyncMeshTransport
        from meshlib.transports.options import TransportOptions

        transport = AsyncMeshTransport(mesh, TransportOptions(verify=False))
        counts, lock = [], threading.Lock()

        async def main():
            async with httpx.AsyncClient(transport=transport) as client:
                responses = await asyncio.gather(*[client.get("http://catalog/") for _ in range(10)])
            with lock:
                counts.append([r.status_code for r in responses])

        threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert counts == [[200] * 10] * 4
        assert_idle(mesh)
        server.wait(lambda s: s.open == 0)

    def test_waiters_of_different_loops_and_threads(self, upstreams):
        """A slot that a thread gives back wakes a task on a loop, and the other way round."""
        server = upstreams.serve(Behaviour(delay=0.01))
        mesh = mesh_over(server, thresholds=Thresholds(max_connections=1))
        statuses, lock = [], threading.Lock()

        def blocking():
            call = SyncCaller(mesh)
            for _ in range(5):
                status = call.request(timeout=20.0).status_code
                with lock:
                    statuses.append(status)
            call.close()

        def looping():
            call = AsyncCaller(mesh)

            async def many():
                return await asyncio.gather(*[call.client.get("http://catalog/", timeout=20.0) for _ in range(5)])

            found = [r.status_code for r in call.run(many())]
            with lock:
                statuses.extend(found)
            call.close()

        threads = [threading.Thread(target=t) for t in (blocking, looping, blocking, looping)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert statuses == [200] * 20
        assert_idle(mesh)

    def test_fifty_cancelled_tasks(self, upstreams):
        server = upstreams.serve(Behaviour(hang=True))
        mesh = mesh_over(server, thresholds=Thresholds(max_connections=20))
        call = AsyncCaller(mesh)

        async def main():
            tasks = [asyncio.create_task(call.client.get("http://catalog/")) for _ in range(50)]
            await asyncio.to_thread(server.wait, lambda s: len(s.seen) == 20)
            limits = mesh.store.current.clusters["c"].limits
            assert (limits.requests, limits.connections, len(limits.pending)) == (20, 20, 30)
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(error, asyncio.CancelledError) for error in done)

        call.run(main())
        assert_idle(mesh)
        server.wait(lambda s: s.open == 0)
        call.close()

    @pytest.mark.parametrize("where", ["attempt", "back-off", "body"])
    def test_cancelled_anywhere(self, where, upstreams):
        behaviour = {
            "attempt": Behaviour(hang=True),
            "back-off": Behaviour(status=503),
            "body": Behaviour(body=b"x" * 100, drip=0.05),
        }[where]
        server = upstreams.serve(behaviour)
        policy = retry("5xx", num_retries=5, base_interval=30.0, max_interval=30.0)
        records = []

        class Recorder(_Observer):
            def call_ended(self, record):
                records.append(record)

        mesh = mesh_over(server, routes=[forward(retry=policy, timeout=0.0)], mesh={"observer": Recorder()})
        call = AsyncCaller(mesh)

        async def main():
            task = asyncio.create_task(call.client.get("http://catalog/"))
            await asyncio.to_thread(server.wait, lambda s: s.seen)
            await asyncio.sleep(0.05)  # into the back-off, or the body
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        call.run(main())
        assert_idle(mesh)
        assert len(server.seen) == 1
        assert [r.response_flags for r in records] in (["DC"], ["-"] if where == "body" else ["DC"])
        call.close()

    def test_a_caller_that_gives_up(self, upstreams):
        """asyncio.timeout around a call: nothing stays, no further attempts."""
        server = upstreams.serve(Behaviour(hang=True), OK)
        call = AsyncCaller(mesh_over(server, routes=[forward(retry=retry("5xx", per_try_timeout=5.0))]))

        async def main():
            async with asyncio.timeout(0.1):
                await call.client.get("http://catalog/")

        with pytest.raises(TimeoutError):
            call.run(main())
        assert_idle(call.mesh)
        assert len(server.seen) == 1
        call.close()


class _Observer:
    def call_started(self, record): ...

    def attempt_started(self, record, attempt):
        return ()

    def attempt_ended(self, record, attempt): ...

    def call_ended(self, record): ...


def _child(mesh, transport, pipe):
    """Runs in a forked child: the inherited mesh and transport must work."""
    client = httpx.Client(transport=transport)
    response = client.get("http://catalog/", timeout=10.0)
    limits = mesh.store.current.clusters["c"].limits
    pipe.send((os.getpid(), response.status_code, response.text, limits.requests, mesh.chance.random()))
    pipe.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_children_use_the_inherited_mesh(upstreams):
    server = upstreams.serve(Behaviour(delay=0.02))
    mesh = mesh_over(server, thresholds=Thresholds(max_requests=1))
    call = SyncCaller(mesh)
    assert call.request().status_code == 200
    context = multiprocessing.get_context("fork")
    answers = []
    # The parent has a request in flight and its cluster's lock taken while the children are forked.
    state = mesh.store.current.clusters["c"]
    endpoint = state.pick(0.0)
    assert state.begin(endpoint)
    taken, release = threading.Event(), threading.Event()

    def hold_the_lock():
        with state.limits.lock:
            taken.set()
            release.wait(30)

    holder = threading.Thread(target=hold_the_lock)
    holder.start()
    taken.wait(10)
    try:
        for _ in range(2):
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(mesh, call.transport, theirs))
            child.start()
            theirs.close()
            assert ours.poll(20), "the child is stuck"
            answers.append(ours.recv())
            child.join(20)
            ours.close()
            assert child.exitcode == 0
            child.close()
    finally:
        release.set()
        holder.join(10)
        state.end(endpoint)
    assert [answer[1:4] for answer in answers] == [(200, "up", 0)] * 2
    assert len({answer[0] for answer in answers} | {os.getpid()}) == 3
    assert len({answer[4] for answer in answers}) == 2  # children do not draw alike
    assert call.request().status_code == 200  # on the connection that the children left alone
    assert server.seen[-1].connection == server.seen[0].connection
    call.close()
