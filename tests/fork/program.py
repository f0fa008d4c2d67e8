"""A process that forks under load, for test_fork.py; it tells what happened in its last line, as JSON.

Every process, parent, child or grandchild, asks `http://catalog/` all the time, from several threads and an event
loop, through one mesh and the clients made before the fork. It is done when its answers come from the upstream that
the configuration names only after the last fork, so that it must have a stream, or a watched folder, of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import faulthandler
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time

import httpx

import meshlib

DEADLINE = 30.0  # seconds a process has to see the new configuration


class Load:
    """Requests from threads and an event loop of this process until the answer is ``until``."""

    def __init__(self, client: httpx.Client, aclient: httpx.AsyncClient, patience: float, channel=None) -> None:
        self.patience = patience
        self.client = client
        self.aclient = aclient
        self.channel = channel
        self.counts: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.slowest = 0.0
        self.last = ""
        self.stopping = threading.Event()
        self.threads: list[threading.Thread] = []

    def start(self, threads: int) -> None:
        self.threads = [threading.Thread(target=self.blocking, daemon=True) for _ in range(threads)]
        self.threads.append(threading.Thread(target=asyncio.run, args=(self.loop(),), daemon=True))
        if self.channel is not None:
            self.threads.append(threading.Thread(target=self.grpc, daemon=True))
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(10)
            if thread.is_alive():
                faulthandler.dump_traceback()
                self.failed(TimeoutError(f"{thread.name} hangs"))

    def answered(self, response: httpx.Response, began: float) -> None:
        self.slowest = max(self.slowest, time.monotonic() - began)
        text = response.text
        if response.status_code != 200 or text not in ("old", "new"):
            self.failures.append(f"{response.status_code} {response.headers!r} {text!r} {response.extensions}")
            return
        self.counts[text] += 1
        self.last = text

    def failed(self, error: Exception) -> None:
        self.failures.append(f"{type(error).__name__}: {error}")

    def one(self) -> None:
        began = time.monotonic()
        try:
            self.answered(self.client.get("http://catalog/"), began)
        except Exception as error:  # noqa: BLE001  every failure is counted and told
            self.failed(error)

    def blocking(self) -> None:
        while not self.stopping.wait(0.005):
            self.one()

    def grpc(self) -> None:
        greet = self.channel.unary_unary("/greeter.Greeter/Greet")
        while not self.stopping.wait(0.02):
            began = time.monotonic()
            try:
                self.counts["grpc " + greet(b"?", timeout=10).decode()] += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
            except Exception as error:  # noqa: BLE001  as above
                self.failed(error)

    async def loop(self) -> None:
        async def task() -> None:
            while not self.stopping.is_set():
                began = time.monotonic()
                try:
                    self.answered(await self.aclient.get("http://catalog/"), began)
                except Exception as error:  # noqa: BLE001  as above
                    self.failed(error)
                await asyncio.sleep(0.02)

        await asyncio.gather(task(), task())

    def until(self, text: str) -> float:
        """Wait for the answer ``text``; returns the seconds that took, or fails."""
        began = time.monotonic()
        while self.last != text:
            if time.monotonic() - began > self.patience:
                self.failed(TimeoutError(f"no answer {text!r}, the last was {self.last!r}"))
                break
            time.sleep(0.01)
        return time.monotonic() - began


def hold_locks(mesh: meshlib.Mesh) -> None:
    """Take the locks of the mesh in turn and mostly have one, as threads under load now and then do."""
    runtime = mesh._runtime
    while True:
        clusters = runtime.store.current.clusters.values()
        for lock in (runtime._lock, runtime.store._changed, *(cluster.limits.lock for cluster in clusters)):
            with lock:
                time.sleep(0.002)


class Forker:
    """One process of the family, with its pipe to the first."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        who = {"workload": "webapp", "namespace": "outdoor"}
        if options.folder:
            self.mesh = meshlib.Mesh.from_directory(options.folder, **who)
        elif options.bootstrap:
            self.mesh = meshlib.Mesh.from_bootstrap(options.bootstrap, **who)
        else:
            self.mesh = meshlib.Mesh.connect(options.connect, **who)
        self.client = httpx.Client(transport=self.mesh.transport(), timeout=15)
        self.aclient = httpx.AsyncClient(transport=self.mesh.async_transport(), timeout=15)
        self.processes = []
        self.pipes = []
        self.mesh.wait_ready()
        self.mesh.serve_metrics()
        self.read, self.write = os.pipe()

    def child(self, number: int, generation: int) -> dict:
        """Live as a child: request at once, fork once more perhaps, follow the change."""
        signal.alarm(int(DEADLINE) + 20)
        # A cookie jar has a lock, http.cookiejar's, that a thread of the parent may have held (docs/processes.md).
        self.client.cookies = None
        self.aclient.cookies = None
        began = time.monotonic()
        load = Load(self.client, self.aclient, self.options.patience, self.channel())
        load.one()
        first = time.monotonic() - began
        load.start(1)
        if generation == 1 and number % 4 == 0:
            time.sleep(random.uniform(0, 0.2))
            self.fork(number, 2)
        load.until("new")
        time.sleep(0.3)
        load.stop()
        return self.report(load, f"{generation}.{number}", first)

    def channel(self):
        return self.mesh.grpc_channel("greeter:50051") if self.options.grpc else None

    def report(self, load: Load, name: str, first: float) -> dict:
        return {
            "name": name,
            "pid": os.getpid(),
            "counts": dict(load.counts),
            "failures": load.failures[:5],
            "failed": len(load.failures),
            "first": round(first, 3),
            "slowest": round(load.slowest, 3),
        }

    def tell(self, report: dict) -> None:
        os.write(self.write, json.dumps(report).encode() + b"\n")  # below PIPE_BUF, so never torn

    def fork(self, number: int, generation: int) -> float:
        """Fork; returns the seconds that took the parent."""
        began = time.monotonic()
        if self.options.method == "spawn":
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=spawned, args=(self.options, number, theirs))
            process.start()
            self.processes.append(process)
            self.pipes.append(ours)
            return time.monotonic() - began
        if self.options.method == "multiprocessing":
            context = multiprocessing.get_context("fork")
            process = context.Process(target=lambda: self.tell(self.child(number, generation)))
            process.start()
            self.processes.append(process)
            return time.monotonic() - began
        pid = os.fork()
        if pid:
            return time.monotonic() - began
        try:
            self.tell(self.child(number, generation))
        except BaseException as error:  # noqa: BLE001  a child must not go on as the parent
            self.tell({"name": f"{generation}.{number}", "failed": 1, "failures": [repr(error)]})
            os._exit(1)
        if number % 2:
            sys.exit(0)
        os._exit(0)


def spawned(options: argparse.Namespace, number: int, pipe) -> None:
    """Live as a spawned child, which has nothing of its parent but the arguments."""
    family = Forker(options)
    with family.mesh:
        pipe.send(family.child(number, 2))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--connect", default="")
    parser.add_argument("--folder", default="")
    parser.add_argument("--bootstrap", default="")
    parser.add_argument("--children", type=int, default=4)
    parser.add_argument("--grpc", action="store_true")
    parser.add_argument("--method", choices=("fork", "multiprocessing", "spawn"), default="fork")
    parser.add_argument("--patience", type=float, default=DEADLINE, help="seconds to wait for the new configuration")
    run(parser.parse_args())


def run(options: argparse.Namespace) -> None:
    logging.basicConfig(level=os.environ.get("LOG", "WARNING"), format="%(process)d %(name)s %(message)s")
    faulthandler.enable()
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)  # faulthandler's own watchdog hangs in forks
    family = Forker(options)
    with family.mesh as mesh:
        load = Load(family.client, family.aclient, options.patience, family.channel())
        load.start(3)
        threading.Thread(target=hold_locks, args=(mesh,), daemon=True).start()
        load.until("old")
        while options.grpc and not load.counts["grpc hello"]:  # its channel is open when the process forks
            time.sleep(0.01)
        stalls = []
        for number in range(options.children):
            stalls.append(family.fork(number, 1))
            time.sleep(random.uniform(0.01, 0.1))
        print("forked", flush=True)
        load.until("new")
        grandchildren = 0 if options.method == "spawn" else (options.children + 3) // 4
        reports, ended = collect(family, options.children + grandchildren)
        load.stop()
        parent = family.report(load, "parent", 0.0)
        print(json.dumps({"parent": parent, "children": reports, "ended": ended, "stall": round(max(stalls), 3)}))


def collect(family: Forker, expected: int) -> tuple[list[dict], list[int]]:
    """Read the reports of all; reap our own children."""
    reports, ended, buffer = [], [], b""
    give_up = time.monotonic() + DEADLINE + 30
    os.set_blocking(family.read, False)
    waiting = family.options.children
    while (len(reports) < expected or waiting) and time.monotonic() < give_up:
        for pipe in family.pipes:
            if pipe.poll():
                family.tell(pipe.recv())
                family.pipes.remove(pipe)
                break
        with contextlib.suppress(BlockingIOError):
            buffer += os.read(family.read, 65536)
        *lines, buffer = buffer.split(b"\n")
        reports += [json.loads(line) for line in lines]
        if waiting:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid:
                    ended.append(os.waitstatus_to_exitcode(status))
                    waiting -= 1
        time.sleep(0.02)
    return reports, ended


if __name__ == "__main__":
    main()
