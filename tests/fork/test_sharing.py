"""One mesh for many threads and event loops, while the configuration changes."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest

import meshlib

THREADS, LOOPS, TASKS = 8, 4, 4


@pytest.mark.parametrize("source", ["folder", "control plane"])
def test_threads_and_loops_share_a_mesh(home, source):
    who = {"workload": "webapp", "namespace": "outdoor"}
    if source == "folder":
        mesh = meshlib.Mesh.from_directory(home.folder, **who)
    else:
        mesh = meshlib.Mesh.connect(home.server.address, **who)
    client = httpx.Client(transport=mesh.transport(), timeout=10)
    shared = mesh.async_transport()
    stop = threading.Event()
    answers: dict[str, list[str]] = {}
    failures: list[BaseException] = []

    def note(text):
        answers.setdefault(threading.current_thread().name, []).append(text)

    def thread():
        while not stop.is_set():
            note(client.get("http://catalog/").text)

    async def loop():
        async with httpx.AsyncClient(transport=shared, timeout=10) as aclient:

            async def task():
                while not stop.is_set():
                    note((await aclient.get("http://catalog/")).text)

            await asyncio.gather(*(task() for _ in range(TASKS)))

    def guarded(run):
        try:
            run()
        except BaseException as error:
            failures.append(error)
            raise

    jobs = [thread] * THREADS + [lambda: asyncio.run(loop())] * LOOPS
    workers = [threading.Thread(target=guarded, args=(job,), name=str(number)) for number, job in enumerate(jobs)]
    with mesh, client:
        for worker in workers:
            worker.start()
        try:
            for name in ("new", "old", "new", "old", "new"):
                home.move(name)
                wait_until_all(lambda name=name: all_last(answers) == {name}, failures)
        finally:
            stop.set()
            for worker in workers:
                worker.join(20)
    assert failures == []
    assert not any(worker.is_alive() for worker in workers)
    assert len(answers) == THREADS + LOOPS
    assert {text for texts in answers.values() for text in texts} == {"old", "new"}


def all_last(answers):
    """Return what the threads and loops heard last, once all have heard something."""
    return {texts[-1] for texts in list(answers.values())} if len(answers) == THREADS + LOOPS else set()


def wait_until_all(condition, failures):
    give_up = time.monotonic() + 30
    while not condition():
        assert not failures, failures
        assert time.monotonic() < give_up
        time.sleep(0.02)
