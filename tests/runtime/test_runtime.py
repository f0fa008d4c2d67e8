"""The runtime: start, wait, publish, close, fork."""

import asyncio
import gc
import random
import threading
import time
import weakref

import anyio
import pytest

from meshlib.errors import MeshClosed, MeshNotReady
from meshlib.model.filter_chain import HttpConnectionManager
from meshlib.model.listener import Listener
from meshlib.model.route import RouteConfiguration
from meshlib.model.snapshot import Snapshot, Style
from meshlib.runtime.store import SnapshotStore
from meshlib.runtime.waking import wait_until
from policy.snapshots import cluster, endpoints, request, snapshot
from runtime.handmade import HandmadeSource, runtime

READY = snapshot(cluster(endpoints(2)))


def test_nothing_starts_before_it_is_used():
    source = HandmadeSource(READY)
    mesh = runtime(source)
    assert source.started == 0
    assert mesh.live(request()).snapshot is READY
    mesh.live(request())
    assert source.started == 1


def test_many_threads_start_it_once():
    source = HandmadeSource(READY)
    mesh, barrier = runtime(source), threading.Barrier(8)

    def use():
        barrier.wait()
        mesh.live(request())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert source.started == 1


class TestWaiting:
    def test_until_the_first_configuration(self):
        source = HandmadeSource()
        mesh = runtime(source)
        mesh.start()
        timer = source.publish_later(0.05, READY)
        assert mesh.wait(request(), 5.0).snapshot is READY
        timer.join()

    def test_in_vain(self):
        mesh = runtime(HandmadeSource())
        began = time.monotonic()
        with pytest.raises(MeshNotReady, match=r"no configuration after 0.05s from the test \(last error"):
            mesh.wait(request(), 0.05)
        assert time.monotonic() - began < 2.0

    def test_async(self):
        async def main():
            source = HandmadeSource()
            mesh = runtime(source)
            mesh.start()
            timer = source.publish_later(0.05, READY)
            live = await mesh.await_(request(), 5.0)
            await asyncio.to_thread(timer.join)
            return live

        assert asyncio.run(main()).snapshot is READY

    def test_async_in_vain(self):
        with pytest.raises(MeshNotReady, match="no configuration"):
            asyncio.run(runtime(HandmadeSource()).await_(request(), 0.05))

    def test_a_closed_mesh_ends_the_wait(self):
        source = HandmadeSource()
        mesh = runtime(source)
        mesh.start()
        timer = threading.Timer(0.05, mesh.close)
        timer.start()
        with pytest.raises(MeshClosed):
            mesh.wait(request(), 10.0)
        timer.join()


class TestDemand:
    """gRPC style: a listener is asked for by name, when it is first needed."""

    EMPTY = Snapshot("1", Style.GRPC)
    WITH = Snapshot(
        "2",
        Style.GRPC,
        {"catalog:80": Listener("catalog:80", api=HttpConnectionManager(route_config=RouteConfiguration("r", ())))},
    )

    def test_waits_while_the_answer_is_out(self):
        source = HandmadeSource(self.EMPTY)
        source.awaited = {("catalog", 80)}
        mesh = runtime(source)
        assert mesh.live(request()) is None
        timer = source.publish_later(0.05, self.WITH)
        assert mesh.wait(request(), 5.0).snapshot is self.WITH
        timer.join()

    def test_an_answer_that_never_comes(self):
        source = HandmadeSource(self.EMPTY)
        source.awaited = {("catalog", 80)}
        with pytest.raises(MeshNotReady, match=r"no answer for catalog after 0\.05s"):
            runtime(source).wait(request(), 0.05)

    def test_does_not_exist_is_an_answer(self):
        mesh = runtime(HandmadeSource(self.EMPTY))
        assert mesh.live(request()).snapshot is self.EMPTY

    def test_known_listeners_are_not_demanded(self):
        source = HandmadeSource(self.WITH)
        runtime(source).live(request())
        assert source.demanded == []


def test_closed():
    source = HandmadeSource(READY)
    mesh = runtime(source)
    mesh.start()
    mesh.close()
    mesh.close()
    assert source.closed == 1
    with pytest.raises(MeshClosed, match="the mesh is closed; make a new Mesh"):
        mesh.live(request())
    with pytest.raises(MeshClosed):
        mesh.start()


def test_updates_reach_the_next_call_and_not_this_one():
    source = HandmadeSource(READY)
    mesh = runtime(source)
    before = mesh.live(request())
    source.publish(snapshot(cluster(endpoints(3)), version="2"))
    after = mesh.live(request())
    assert (before.snapshot.version, after.snapshot.version) == ("1", "2")
    assert before.clusters["c"] is after.clusters["c"]  # live state goes on


class TestFork:
    """What Runtime.forked does, without a fork; the real thing is in the transports' tests."""

    def test_counts_of_the_parent_are_forgotten(self):
        mesh = runtime(READY)
        state = mesh.live(request()).clusters["c"]
        endpoint = state.pick(0.0)
        state.begin(endpoint)
        held = threading.Event()
        lock_holder = threading.Thread(target=lambda: (state.limits.lock.acquire(), held.set()))
        lock_holder.start()  # a thread of the parent, which never gives the lock back
        lock_holder.join()
        mesh.forked()
        again = mesh.live(request()).clusters["c"]
        assert again is not state
        assert (again.limits.requests, again.pick(0.0).active) == (0, 0)

    def test_children_do_not_draw_alike(self):
        mesh = runtime(READY)
        mesh.chance.seed(5)
        mesh.forked()
        assert mesh.chance.random() != random.Random(5).random()

    def test_the_source_starts_anew_and_the_configuration_stays(self):
        source = HandmadeSource(READY)
        mesh = runtime(source)
        mesh.forked()
        assert source.forks == 0  # it never ran
        mesh.start()
        mesh.forked()
        assert mesh.store.current.snapshot is READY
        mesh.live(request())
        assert (source.started, source.forks) == (1, 1)

    def test_a_closed_mesh_stays_closed(self):
        mesh = runtime(READY)
        mesh.close()
        mesh.forked()
        with pytest.raises(MeshClosed):
            mesh.start()

    def test_transports_are_told_while_they_live(self):
        class Transport:
            told = 0

            def forked(self):
                Transport.told += 1

        mesh = runtime(READY)
        kept, gone = Transport(), Transport()
        mesh.on_fork(kept)
        mesh.on_fork(gone)
        seen = weakref.ref(gone)
        del gone
        gc.collect()
        assert seen() is None  # the mesh does not keep closed transports alive
        mesh.forked()
        assert Transport.told == 1


class TestStore:
    def test_watchers_hear_of_changes_until_they_stop(self):
        store, heard = SnapshotStore(), []
        stop = store.watch(lambda: heard.append(1))
        store.publish(None)
        stop()
        stop()
        store.publish(None)
        assert heard == [1]

    def test_lasting_watchers_hear_of_configurations_alone(self):
        store, heard = SnapshotStore(), []
        store.watch(lambda: heard.append(1), lasting=True)
        store.poke()
        assert heard == []
        store.publish(None)
        assert heard == [1]

    @pytest.mark.parametrize("lasting", [True, False])
    def test_a_watcher_that_fails_is_told_in_the_log_and_the_others_hear_all_the_same(self, lasting, caplog):
        store, heard = SnapshotStore(), []

        def fail():
            raise RuntimeError("an application's bug")

        store.watch(fail, lasting=lasting)
        store.watch(lambda: heard.append(1), lasting=lasting)
        store.publish(None)
        assert heard == [1]
        assert "an application's bug" in caplog.text

    def test_wait_times_out(self):
        assert SnapshotStore().wait(lambda: False, 0.01) is False


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_wait_until_is_woken_from_any_thread(backend):
    if backend == "trio":
        pytest.importorskip("trio")
    state = {"ready": False, "wake": None}

    def watch(wake):
        state["wake"] = wake
        threading.Timer(0.02, lambda: (state.update(ready=True), wake())).start()

    async def main():
        return await wait_until(lambda: state["ready"], watch, 5.0)

    assert anyio.run(main, backend=backend) is True


def test_wait_until_gives_up():
    stopped = []

    async def main():
        return await wait_until(lambda: False, lambda _wake: lambda: stopped.append(1), 0.01)

    assert asyncio.run(main()) is False
    assert stopped == [1]


def test_hints_for_people():
    mesh = runtime(READY)
    from meshlib.policy.routing import Choice
    from policy.snapshots import forward

    table = RouteConfiguration("t", ())
    host = runtime(snapshot(routes=[forward()])).live(request()).snapshot.destination("a", 80).routes.virtual_hosts[0]
    destination = snapshot(routes=table).destination("a", 80)
    assert "no listener takes catalog:80" in mesh._hint(request(), Choice())
    assert "no virtual host for 'catalog'" in mesh._hint(request(), Choice(destination))
    assert "'host' has no route for GET /x" in mesh._hint(request("/x"), Choice(destination, host))


def test_hints_suggest_what_comes_near():
    from meshlib.model.route import VirtualHost
    from meshlib.policy.routing import Choice

    table = RouteConfiguration("t", (VirtualHost("v", ("catalog", "forum")),))
    destination = snapshot(routes=table).destination("a", 80)
    hint = runtime(READY)._hint(request(host="catalogue"), Choice(destination))
    assert hint.endswith("did you mean 'catalog'?")
