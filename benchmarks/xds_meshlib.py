"""meshlib as a client of the bench's ADS server; each run is a process of its own.

What touches meshlib's insides is in the functions above ``Client``: how a mesh is opened, when it
is ready, where the endpoints of a service are and that every service routes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx

import meshlib
import meshlib.httpx
import meshlib.xds.bootstrap
import meshlib.xds.client  # imported here, so that it is not in the time to ready
from ads_server import CLIENT_CPU, Control, pin, series
from meshlib.clock import system_randomness
from meshlib.errors import BootstrapError
from meshlib.model.request import RequestView
from meshlib.model.route import RouteAction
from meshlib.policy.routing import choose, draw_cluster
from xds_process import peak_mib, pss_mib, quantile, rss_mib
from xds_resources import ENDPOINTS, cluster_name, service, used

START = time.process_time()  # of the interpreter and all imports
SETTLE = 1.0  # seconds from ready to reading the memory, for every client alike


def open_mesh(port: int, *, delta: bool) -> meshlib.Mesh:
    """Return a mesh over ADS that wants everything, not yet started; BootstrapError where it cannot do that."""
    ads = {"resource_api_version": "V3", "ads": {}}
    return meshlib.Mesh.from_bootstrap(
        {
            "node": {"id": "sidecar~127.0.0.1~bench.bench~bench.svc.cluster.local", "cluster": "bench"},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC" if delta else "GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [{"google_grpc": {"target_uri": f"127.0.0.1:{port}", "stat_prefix": "ads"}}],
                },
                "lds_config": ads,
                "cds_config": ads,
            },
        },
        on_demand=False,
    )


def open_mesh_on_demand(port: int) -> meshlib.Mesh:
    """Return a mesh as an application has it, which need not hold what it does not use."""
    return meshlib.Mesh.connect(f"127.0.0.1:{port}", workload="bench", namespace="bench")


def ready(mesh: meshlib.Mesh, count: int) -> bool:
    """Tell whether every service has its route and its endpoints: what is published first is whole.

    That it is, ``routed`` proves of the same snapshot, outside the timed part: a cluster is decoded
    when a call first needs it, which looking at all of them here would do.
    """
    current = mesh._runtime.store.current
    table = current.snapshot.routes.get("80") if current is not None else None
    return table is not None and len(table.virtual_hosts) > count and len(current.snapshot.clusters) > count


def addresses(mesh: meshlib.Mesh, i: int) -> set[str]:
    """Return where the endpoints of service ``i`` are now."""
    current = mesh._runtime.store.current
    return {host for host, _port in current.clusters[cluster_name(i)].endpoints} if current else set()


def weight(mesh: meshlib.Mesh, i: int) -> int:
    """Return the weight that the endpoints of service ``i`` have now."""
    current = mesh._runtime.store.current
    states = current.clusters[cluster_name(i)].endpoints.values() if current else ()
    return next((state.endpoint.weight for state in states), 0)


def routed(mesh: meshlib.Mesh, count: int) -> None:
    """Prove that a request to every service finds its route, its cluster and an endpoint of it."""
    live = mesh._runtime.store.current
    assert live is not None
    chance = system_randomness()
    for i in range(count):
        host = service(i)
        view = RequestView(method="GET", scheme="http", host=host, port=80, authority=host, target="/", headers=())
        choice = choose(live.snapshot, view, chance)
        action = choice.route.action if choice.route else None
        if not isinstance(action, RouteAction) or draw_cluster(action, chance).name != cluster_name(i):
            raise SystemExit(f"a request to {host} finds {choice}, not {cluster_name(i)}")
        state = live.clusters[cluster_name(i)]
        picked = state.pick(time.monotonic())
        if picked is None or picked.endpoint.key[0] not in addresses(mesh, i) or len(state.endpoints) != ENDPOINTS:
            raise SystemExit(f"{cluster_name(i)} offers {picked} of {len(state.endpoints)} endpoints")


class Client:
    """A mesh under measurement: started, and timed until it is ready."""

    def __init__(self, mesh: meshlib.Mesh, count: int, bound: float) -> None:
        self.mesh, self.count = mesh, count
        self._wake = threading.Event()
        self.published = 0
        mesh.on_change(self._changed)
        self.rss_before = rss_mib()
        cpu, began = time.process_time(), time.perf_counter()
        mesh.__enter__()
        while not ready(mesh, count):
            self._wake.wait(max(0.0, began + bound - time.perf_counter()))
            if time.perf_counter() - began > bound:
                raise SystemExit(f"not ready after {bound} s; {mesh._runtime._source.describe()}")
            self._wake.clear()
        self.ready_s = time.perf_counter() - began
        self.cpu_s = time.process_time() - cpu

    def _changed(self) -> None:
        self.published = time.monotonic_ns()
        self._wake.set()

    def seen(self, moved: dict[str, Any]) -> int:
        """Wait until an endpoint is where the server moved it; returns when that was published."""
        i, want = moved["service"], moved["address"]
        until = time.monotonic() + 60
        while want not in addresses(self.mesh, i):
            if not self._wake.wait(max(0.0, until - time.monotonic())):
                raise SystemExit(f"{cluster_name(i)} never got endpoint {want}")
            self._wake.clear()
        return self.published


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Time to ready, memory and CPU, then single changes."""
    client = Client(open_mesh(given.port, delta=given.delta), given.clusters, given.bound)
    time.sleep(SETTLE)
    result: dict[str, Any] = {
        "start_cpu_s": START,
        "ready_s": client.ready_s,
        "cpu_s": client.cpu_s,
        "rss_mib": rss_mib() - client.rss_before,
        "peak_mib": peak_mib(),
    }
    routed(client.mesh, given.clusters)
    control = Control(given.control)
    result |= series(control, given, os.getpid(), client.seen)
    stats = control.stats()
    if stats["nacks"]:
        raise SystemExit(f"meshlib refused: {stats['nacks']}")
    result["server"] = stats
    client.mesh.close()
    return result


async def rise(given: argparse.Namespace) -> dict[str, Any]:
    """p99 of concurrent requests, while nothing happens and while every cluster changes.

    Requests fall due at a fixed rate and are timed from when they were due: were the next one only
    sent after the last, a process held for a second would show in a handful of requests alone.
    """
    client = Client(open_mesh(given.port, delta=given.delta), given.clusters, given.bound)
    control = Control(given.control)
    spans: list[tuple[int, int]] = []
    stopping = False

    async def ask(http: httpx.AsyncClient, due: int) -> None:
        response = await http.get(f"http://{service(0)}/", timeout=60)
        response.raise_for_status()
        spans.append((due, time.monotonic_ns()))

    async def keep_asking(http: httpx.AsyncClient) -> None:
        due = time.monotonic_ns()
        async with asyncio.TaskGroup() as group:
            while not stopping:
                due += 1_000_000_000 // given.rate
                await asyncio.sleep(max(0.0, (due - time.monotonic_ns()) / 1e9))
                group.create_task(ask(http, due))

    windows: list[tuple[int, int]] = []

    def change() -> None:
        """Change everything; the window ends when the last of it is published."""
        answer = control.change_all()
        while weight(client.mesh, given.clusters - 1) != answer["weight"]:
            time.sleep(0.01)
        windows.append((answer["sent"], client.published))

    async with httpx.AsyncClient(transport=client.mesh.async_transport()) as http:
        asking = asyncio.create_task(keep_asking(http))
        await asyncio.sleep(1.0)
        before = time.monotonic_ns()
        await asyncio.sleep(5.0)
        calm = (before, time.monotonic_ns())
        until = time.monotonic() + given.seconds
        while len(windows) < given.repeats and time.monotonic() < until:
            await asyncio.to_thread(change)
            await asyncio.sleep(0.5)
        stopping = True
        await asking

    quiet = [(ended - due) / 1e6 for due, ended in spans if calm[0] <= due < calm[1]]
    busy = [(ended - due) / 1e6 for due, ended in spans if any(since <= due < until for since, until in windows)]
    client.mesh.close()
    return {
        "applied_s": [(until - since) / 1e9 for since, until in windows],
        "quiet": {"n": len(quiet), "p50_ms": quantile(quiet, 0.5), "p99_ms": quantile(quiet, 0.99)},
        "busy": {"n": len(busy), "p50_ms": quantile(busy, 0.5), "p99_ms": quantile(busy, 0.99), "max_ms": max(busy)},
    }


def prefork(given: argparse.Namespace) -> dict[str, Any]:
    """Memory of workers forked after the mesh was made, each of which calls a few of the services, or none."""
    mesh = open_mesh_on_demand(given.port)
    return {
        "idle": _forked(given, lambda: None),
        "busy": _forked(given, lambda: _work(mesh, given.clusters)),
    }


def _forked(given: argparse.Namespace, work: Callable[[], None]) -> dict[str, Any]:
    children: list[int] = []
    pipes: list[int] = []
    hold_read, hold_write = os.pipe()
    for _ in range(given.workers):
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(hold_write)
            said = b"1"
            try:
                work()
            except Exception as error:  # noqa: BLE001  told to the parent, whatever it is
                said = f"{type(error).__name__}: {error}".encode()
            os.write(write_end, said)
            os.read(hold_read, 1)  # until the parent has looked
            os._exit(0)
        os.close(write_end)
        children.append(pid)
        pipes.append(read_end)
    said = [os.read(pipe, 4096).decode() for pipe in pipes]
    time.sleep(SETTLE)
    try:
        if any(word != "1" for word in said):
            raise SystemExit(f"workers failed: {set(said) - {'1'}}")
        pss = [pss_mib(pid) for pid in children]
        return {"pss_mib": sum(pss), "worker_mib": pss, "parent_mib": pss_mib(os.getpid())}
    finally:
        os.close(hold_write)
        for pid in children:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _work(mesh: meshlib.Mesh, count: int) -> None:
    with httpx.Client(transport=mesh.transport()) as http:
        for i in used(count):
            http.get(f"http://{service(i)}/", timeout=60).raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("measure", "rise", "prefork"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--clusters", type=int, required=True)
    parser.add_argument("--delta", action="store_true")
    parser.add_argument("--bound", type=float, default=60.0)
    parser.add_argument("--changes", type=int, default=0)
    parser.add_argument("--full-changes", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="bound of each series of changes")
    parser.add_argument("--rate", type=int, default=100, help="requests a second of the rise part")
    parser.add_argument("--repeats", type=int, default=10, help="of the rise part, within --seconds")
    parser.add_argument("--workers", type=int, default=8)
    given = parser.parse_args()
    pin(CLIENT_CPU)
    try:
        if given.part == "rise":
            result = asyncio.run(rise(given))
        else:
            result = measure(given) if given.part == "measure" else prefork(given)
    except BootstrapError as error:
        result = {"unsupported": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
