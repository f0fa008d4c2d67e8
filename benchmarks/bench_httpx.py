"""A meshed httpx call against a bare one: CPU and latency, paired. Run by ``make bench NAME=httpx``.

The mesh routes through a virtual host, a retry policy, a weighted cluster and outlier detection,
with Istio's metrics counted, as behind the demo's VirtualService. Tracing is off in both: spans
cost the same with and without a mesh.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time

import httpx

import meshlib
from pairing import Turn, last_line, report, summary, take_turns
from upstream import running

HTTP_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
NETWORK_FILTERS = "type.googleapis.com/envoy.extensions.filters.network"


def bootstrap(port: int) -> dict[str, object]:
    """An Envoy bootstrap with a route as Istio writes it."""
    retry = {"retry_on": "5xx", "num_retries": 3, "per_try_timeout": "2s"}
    route = {
        "match": {"prefix": "/"},
        "route": {
            "weighted_clusters": {"clusters": [{"name": "v1", "weight": 90}, {"name": "v2", "weight": 10}]},
            "retry_policy": retry,
        },
    }
    table = {"name": "80", "virtual_hosts": [{"name": "catalog", "domains": ["catalog"], "routes": [route]}]}
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{HTTP_FILTERS}.router.v3.Router"}}
    manager = {
        "@type": f"{NETWORK_FILTERS}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "out",
        "route_config": table,
        "http_filters": [router],
    }
    listener = {
        "name": "out",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster("v1", port), cluster("v2", port)]}}


def cluster(name: str, port: int) -> dict[str, object]:
    """A cluster of one endpoint with outlier detection."""
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    return {
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "outlier_detection": {"consecutive_5xx": 5},
    }


def blocking(client: httpx.Client, url: str) -> Turn:
    def run(seconds: float) -> list[float]:
        latencies: list[float] = []
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            client.get(url).raise_for_status()
            latencies.append(time.perf_counter() - start)
        return latencies

    return run


def concurrent(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient, url: str, tasks: int) -> Turn:
    async def worker(end: float, latencies: list[float]) -> None:
        while (start := time.perf_counter()) < end:
            (await client.get(url)).raise_for_status()
            latencies.append(time.perf_counter() - start)

    async def turn(seconds: float) -> list[float]:
        latencies: list[float] = []
        end = time.perf_counter() + seconds
        await asyncio.gather(*(worker(end, latencies) for _ in range(tasks)))
        return latencies

    return lambda seconds: loop.run_until_complete(turn(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", "7")))
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    results: dict[str, object] = {}
    with running() as port, meshlib.Mesh.from_bootstrap(bootstrap(port), tracing=False) as mesh:
        direct = f"http://127.0.0.1:{port}/items"
        with httpx.Client() as bare, httpx.Client(transport=mesh.transport()) as meshed:
            engines = {"httpx": blocking(bare, direct), "httpx + mesh": blocking(meshed, "http://catalog/items")}
            results["sync_1"] = compare("httpx.Client, one thread", engines, options)
        for tasks in (1, 16):
            with asyncio.Runner() as runner:
                loop = runner.get_loop()
                limits = httpx.Limits(max_connections=tasks, max_keepalive_connections=tasks)
                bare_async = httpx.AsyncClient(limits=limits)
                meshed_async = httpx.AsyncClient(transport=mesh.async_transport())
                engines = {
                    "httpx": concurrent(loop, bare_async, direct, tasks),
                    "httpx + mesh": concurrent(loop, meshed_async, "http://catalog/items", tasks),
                }
                results[f"async_{tasks}"] = compare(f"httpx.AsyncClient, {tasks} at once", engines, options)
                runner.run(bare_async.aclose())
                runner.run(meshed_async.aclose())
    last_line(results)


def compare(title: str, engines: dict[str, Turn], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    slices = take_turns(engines, options.rounds, options.seconds)
    table = {name: summary(slices[name], slices["httpx"]) for name in engines}
    report(title, table)
    return table


if __name__ == "__main__":
    main()
