"""A meshed httpx against a bare one, and against Envoys beside it: paired. Run by ``make bench NAME=httpx``.

The mesh is on: a table of ten routes, a weighted cluster, least request over four endpoints, retries
armed, outlier detection, Istio's metrics, one call in a hundred traced, no access log. The upstream
is a process of its own, a small asyncio server, on the other CPU.
sniffio is installed, without which bare httpx is a good deal slower; it is measured with its default
limits and with raised ones, and the *lower* ratio counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import httpx
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import set_tracer_provider

import meshlib
from httpx_envoys import Envoys
from pairing import Turn, last_line, report, summary, take_turns
from upstream import running

HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 5))
MESHED = "http://catalog/items"
CLIENT_CPU, SERVER_CPU = 0, 1
HTTP_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
NETWORK_FILTERS = "type.googleapis.com/envoy.extensions.filters.network"
RAISED = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)


def bootstrap(port: int) -> dict[str, object]:
    """An Envoy bootstrap with routes as Istio writes them; calls take the last of ten."""
    retry = {"retry_on": "5xx", "num_retries": 3, "per_try_timeout": "2s"}
    others = [{"match": {"prefix": f"/other/{n}"}, "route": {"cluster": "v1"}} for n in range(9)]
    route = {
        "match": {"prefix": "/"},
        "route": {
            "weighted_clusters": {"clusters": [{"name": "v1", "weight": 90}, {"name": "v2", "weight": 10}]},
            "retry_policy": retry,
        },
    }
    hosts = [{"name": "catalog", "domains": ["catalog"], "routes": [*others, route]}]
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{HTTP_FILTERS}.router.v3.Router"}}
    manager = {
        "@type": f"{NETWORK_FILTERS}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "out",
        "route_config": {"name": "80", "virtual_hosts": hosts},
        "http_filters": [router],
    }
    listener = {
        "name": "out",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster("v1", port), cluster("v2", port)]}}


def cluster(name: str, port: int) -> dict[str, object]:
    """A cluster of four endpoints with outlier detection."""
    endpoints = [{"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}} for host in HOSTS]
    return {
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "outlier_detection": {"consecutive_5xx": 5},
    }


# ---------------------------------------------------------------- turns


def blocking(client: httpx.Client, url: str, threads: int = 1) -> Turn:
    """Calls from so many threads over one client."""

    def work(end: float) -> list[float]:
        latencies: list[float] = []
        while (start := time.perf_counter()) < end:
            try:
                client.get(url).raise_for_status()
            except httpx.ReadError:
                if url == MESHED:
                    raise
                continue  # bare httpx's pool, with many threads: one closes a connection that another uses
            latencies.append(time.perf_counter() - start)
        return latencies

    def run(seconds: float) -> list[float]:
        end = time.perf_counter() + seconds
        if threads == 1:
            return work(end)
        with ThreadPoolExecutor(threads) as pool:
            return [each for found in pool.map(work, [end] * threads) for each in found]

    return run


def concurrent(loop: asyncio.AbstractEventLoop, call: Callable[[], Any], tasks: int) -> Turn:
    """Calls from so many tasks."""

    async def worker(end: float, latencies: list[float]) -> None:
        while (start := time.perf_counter()) < end:
            await call()
            latencies.append(time.perf_counter() - start)

    async def turn(seconds: float) -> list[float]:
        latencies: list[float] = []
        end = time.perf_counter() + seconds
        await asyncio.gather(*(worker(end, latencies) for _ in range(tasks)))
        return latencies

    return lambda seconds: loop.run_until_complete(turn(seconds))


def getting(client: httpx.AsyncClient, url: str) -> Callable[[], Any]:
    async def call() -> None:
        (await client.get(url)).raise_for_status()

    return call


def aiohttp_getting(session: aiohttp.ClientSession, url: str) -> Callable[[], Any]:
    async def call() -> None:
        async with session.get(url) as response:
            response.raise_for_status()
            await response.read()

    return call


# ---------------------------------------------------------------- comparisons

Table = dict[str, dict[str, float]]


def compared(title: str, engines: Mapping[str, Turn], base: str, options: argparse.Namespace) -> Table:
    slices = take_turns(engines, options.rounds, options.seconds)
    table = {name: summary(slices[name], slices[base]) for name in engines}
    report(title, table)
    return table


def lower(engine: str, *tables: Table) -> float:
    """Return an engine's calls a second against the base's, by whichever base it looks worse."""
    return min(table[engine]["per_s_ratio"] for table in tables)


def asynchronous(mesh: meshlib.Mesh, port: int, tasks: int, options: argparse.Namespace) -> dict[str, float]:
    direct = f"http://127.0.0.1:{port}/items"
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        async def opened() -> list[Any]:
            return [
                httpx.AsyncClient(),
                httpx.AsyncClient(limits=RAISED),
                httpx.AsyncClient(transport=mesh.async_transport()),
                mesh.async_client(),
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)),
            ]

        default, raised, transport, client, session = runner.run(opened())
        meshed = {
            "httpx + transport": concurrent(loop, getting(transport, MESHED), tasks),
            "mesh.async_client": concurrent(loop, getting(client, MESHED), tasks),
        }
        tables = []
        for limits, bare in (("default", default), ("raised", raised)):
            engines = {"httpx": concurrent(loop, getting(bare, direct), tasks), **meshed}
            tables.append(compared(f"async, {tasks} at once, httpx's {limits} limits", engines, "httpx", options))
        engines = {"aiohttp": concurrent(loop, aiohttp_getting(session, direct), tasks), **meshed}
        beside = compared(f"async, {tasks} at once, beside aiohttp without a mesh", engines, "aiohttp", options)

        async def closed() -> None:
            for each in (default, raised, transport, client):
                await each.aclose()
            await session.close()

        runner.run(closed())
    return {
        "async_ratio": lower("httpx + transport", *tables),
        "client_ratio": lower("mesh.async_client", *tables),
        "aiohttp_cpu_ratio": beside["mesh.async_client"]["cpu_ratio"],
    }


def synchronous(mesh: meshlib.Mesh, port: int, threads: int, options: argparse.Namespace) -> float:
    direct = f"http://127.0.0.1:{port}/items"
    tables = []
    with httpx.Client(transport=mesh.transport()) as meshed:
        for limits, made in (("default", {}), ("raised", {"limits": RAISED})):
            with httpx.Client(**made) as bare:
                engines = {
                    "httpx": blocking(bare, direct, threads),
                    "httpx + transport": blocking(meshed, MESHED, threads),
                }
                title = f"sync, {threads} threads, httpx's {limits} limits"
                tables.append(compared(title, engines, "httpx", options))
    return lower("httpx + transport", *tables)


def sidecars(mesh: meshlib.Mesh, port: int, tasks: int, options: argparse.Namespace) -> dict[str, float]:
    """Compare all CPU, of client and proxies, and the latency, with httpx through two Envoys."""
    with Envoys(bootstrap(port), SERVER_CPU) as envoys, asyncio.Runner() as runner:
        loop = runner.get_loop()

        async def opened() -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
            return httpx.AsyncClient(limits=RAISED), mesh.async_client()

        bare, client = runner.run(opened())
        through = {"host": "catalog"}
        bare.headers.update(through)
        turns = {
            "httpx + 2 Envoys": concurrent(loop, getting(bare, f"http://127.0.0.1:{envoys.port}/items"), tasks),
            "mesh.async_client": concurrent(loop, getting(client, MESHED), tasks),
        }
        spent = dict.fromkeys(turns, 0.0)
        made = dict.fromkeys(turns, 0)

        def counted(name: str, turn: Turn) -> Turn:
            def run(seconds: float) -> list[float]:
                before = time.process_time() + envoys.cpu_s()
                latencies = turn(seconds)
                spent[name] += time.process_time() + envoys.cpu_s() - before
                made[name] += len(latencies)
                return latencies

            return run

        engines = {name: counted(name, turn) for name, turn in turns.items()}
        table = compared(f"async, {tasks} at once, beside two sidecars", engines, "httpx + 2 Envoys", options)

        async def closed() -> None:
            await bare.aclose()
            await client.aclose()

        runner.run(closed())
    per_call = {name: spent[name] / made[name] for name in turns}
    ratio = per_call["mesh.async_client"] / per_call["httpx + 2 Envoys"]
    print(f"  all CPU a call: {', '.join(f'{name} {1e6 * cpu:.0f} µs' for name, cpu in per_call.items())}")
    return {"sidecar_cpu_ratio": round(ratio, 3), "sidecar_p50_ratio": table["mesh.async_client"]["p50_ratio"]}


# ---------------------------------------------------------------- the whole


@contextlib.contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Keep this process on one CPU, where the system can."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cpu in before and len(before) > 1:
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", "7")))
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--at-once", default="1,16,64", help="how many calls at once")
    parser.add_argument("--parts", default="async,sync,sidecar")
    options = parser.parse_args()
    numbers = [int(number) for number in options.at_once.split(",")]
    set_tracer_provider(TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.01))))
    results: dict[str, dict[str, float]] = {}
    with (
        running(*HOSTS, cpu=SERVER_CPU) as port,
        meshlib.Mesh.from_bootstrap(bootstrap(port)) as mesh,
        pinned(CLIENT_CPU),
    ):
        for number in numbers:
            found: dict[str, float] = {}
            if "async" in options.parts:
                found |= asynchronous(mesh, port, number, options)
            if "sync" in options.parts.split(","):
                found["sync_ratio"] = synchronous(mesh, port, number, options)
            if "sidecar" in options.parts and number <= 16:
                found |= sidecars(mesh, port, number, options)
            for name, value in found.items():
                results.setdefault(name, {})[str(number)] = value
    assert threading.active_count() < 100, "the mesh leaves no thread behind"
    last_line(results)


if __name__ == "__main__":
    main()
