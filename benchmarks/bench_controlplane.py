"""The control plane at work: ``make bench NAME=controlplane``.

Edit to effect: from a closed YAML file to a call of a process that is steered over ADS taking the new route, with 10
services and with 600 resources in one file (200 Services, Gateways and VirtualServices, the shape of chapter 11 of
"Istio in Action"). Scale: services of ten endpoints each, and many clients; a full push (every cluster changes) and a
change of one endpoint, from the closed file to each client having it. The control plane is a process of its own, on one
core where the system can say so; the clients are in this one, and read no more of a response than its nonce.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import meshlib
from pairing import last_line

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {{name: s{n}, namespace: demo}}
spec: {{selector: {{app: s{n}}}, ports: [{{name: http, port: 80, targetPort: 3000}}]}}
"""
ENDPOINT = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: s{n}-{k}, namespace: demo}}
spec: {{address: 10.{k}.{high}.{low}, labels: {{app: s{n}}}}}
"""
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: s{n}, namespace: demo}}
spec:
  hosts: [s{n}]
  http:
  - route: [{{destination: {{host: s{n}}}}}]
    timeout: {seconds}s
"""
GATEWAY = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: s{n}, namespace: demo}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [s{n}.example]}}]
"""
RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: all, namespace: demo}}
spec: {{host: "*.demo.svc.cluster.local", trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {seconds}s}}}}}}}}
"""
CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


def _header() -> Any:
    """Return a message class for what a client needs of a DeltaDiscoveryResponse; the rest is skipped."""
    file = descriptor_pb2.FileDescriptorProto(name="bench/header.proto", package="bench", syntax="proto3")
    message = file.message_type.add(name="Header")
    for name, number in (("type_url", 4), ("nonce", 5)):
        message.field.add(name=name, number=number, type=9, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("bench.Header"))


Header = _header()


def write(path: Path, text: str) -> float:
    """Put a file in its place whole; returns when it was there."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(text)
    os.replace(draft, path)
    return time.perf_counter()


@contextmanager
def control_plane(folder: Path, *, core: int | None = None) -> Iterator[tuple[str, int]]:
    """Serve the folder from a process of its own; yields its address and process id."""
    command = [sys.executable, "-m", "meshlib", "control-plane", str(folder), "--port", "0", "--log-level", "error"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {core})
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r"control plane on (\S+),", line)
        if not found:
            raise SystemExit(f"the control plane did not start: {line!r}")
        yield found[1], process.pid
    finally:
        process.terminate()
        process.wait()


def percentile(values: list[float], share: float) -> float:
    """Return the value that ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# ---------------------------------------------------------------- edit to effect


def edits(services: int, count: int, *, gateways: bool) -> list[float]:
    """Edit the timeout of one service's route again and again; returns the seconds until each was in force."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = [SERVICE, ROUTE, *([GATEWAY] if gateways else [])]
        documents = [kind.format(n=n, seconds=5) for n in range(services) for kind in kinds]
        path = folder / "resources.yaml"
        write(path, "---\n".join(documents))
        with control_plane(folder) as (address, _):
            mesh = meshlib.Mesh.connect(address, workload="bench", namespace="demo")
            changed = threading.Event()
            took = []
            with mesh:
                mesh.wait_ready(60)
                mesh.on_change(changed.set)
                mesh.explain("GET", "http://s1/")
                for number in range(count):
                    seconds = 10 + number
                    documents[len(kinds) + 1] = ROUTE.format(n=1, seconds=seconds)
                    closed = write(path, "---\n".join(documents))
                    while mesh.explain("GET", "http://s1/").timeout != seconds:
                        changed.wait(5.0)
                        changed.clear()
                    took.append(time.perf_counter() - closed)
                    time.sleep(0.05)
    return took


# ---------------------------------------------------------------- scale


class Clients:
    """Many delta clients in one event loop; what each got of each type, and when."""

    def __init__(self, address: str, count: int, services: int) -> None:
        self._address = address
        self._count = count
        self._names = [f"outbound|80||s{n}.demo.svc.cluster.local" for n in range(services)]
        self.got: dict[str, list[float]] = {url: [0.0] * count for url in (CDS, EDS, LDS, RDS)}
        self._news = asyncio.Event()

    async def run(self) -> list[asyncio.Task[None]]:
        """Connect them all; returns their tasks."""
        return [asyncio.create_task(self._one(number)) for number in range(self._count)]

    async def _one(self, number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        node = base_pb2.Node(
            id=f"sidecar~10.200.{number // 250}.{number % 250 + 1}~c{number}.demo~demo.svc.cluster.local"
        )
        async with grpc.aio.insecure_channel(self._address, options=options) as channel:
            stream = channel.stream_stream(METHOD)()
            for url, names in ((CDS, []), (EDS, self._names), (LDS, []), (RDS, ["80"])):
                request = discovery_pb2.DeltaDiscoveryRequest(node=node, type_url=url, resource_names_subscribe=names)
                await stream.write(request.SerializeToString())
            async for data in stream:
                header = Header.FromString(data)
                self.got[header.type_url][number] = time.perf_counter()
                self._news.set()
                ack = discovery_pb2.DeltaDiscoveryRequest(type_url=header.type_url, response_nonce=header.nonce)
                await stream.write(ack.SerializeToString())

    async def all_got(self, url: str, since: float, timeout: float = 120.0) -> list[float]:
        """Wait until every client got something of a type after ``since``; returns after how many seconds each."""
        async with asyncio.timeout(timeout):
            while min(self.got[url]) < since:
                self._news.clear()
                await self._news.wait()
        return [at - since for at in self.got[url]]


async def scale(folder: Path, address: str, services: int, clients: int, count: int) -> tuple[float, list[float]]:
    """Return the median of the full pushes, and of every endpoint change the seconds to each client."""
    crowd = Clients(address, clients, services)
    tasks = await crowd.run()
    started = time.perf_counter()
    for url in (CDS, EDS, LDS, RDS):
        await crowd.all_got(url, 1e-9)
    print(f"{clients} clients connected and served in {time.perf_counter() - started:.1f} s")
    pushes = []
    for number in range(3):
        await asyncio.sleep(0.5)
        closed = write(folder / "all.yaml", RULE.format(seconds=2 + number))
        # A changed cluster is followed by its endpoints: Envoy waits for them.
        took = [*await crowd.all_got(CDS, closed), *await crowd.all_got(EDS, closed)]
        pushes.append(max(took))
    changes: list[float] = []
    for number in range(count):
        await asyncio.sleep(0.2)
        closed = write(folder / "s1.yaml", service(1, moved=number + 1))
        changes += await crowd.all_got(EDS, closed)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return statistics.median(pushes), changes


def service(n: int, moved: int = 0) -> str:
    """Return a service and its ten endpoints; ``moved`` makes the first another."""
    places = [(k, n // 250, n % 250 + 1) for k in range(1, 11)]
    places[0] = (100 + moved, n // 250, n % 250 + 1) if moved else places[0]
    endpoints = [ENDPOINT.format(n=n, k=k, high=high, low=low) for k, high, low in places]
    return "---\n".join([SERVICE.format(n=n), *endpoints])


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index] - there is always one


def main() -> None:
    """Measure, print, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1_000, help="of the scale part")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--edits", type=int, default=50, help="of one route, and of one endpoint")
    options = parser.parse_args()
    few, many = (edits(n, options.edits, gateways=gateways) for n, gateways in ((10, False), (200, True)))
    for name, took in (("10 services", few), ("600 resources in one file", many)):
        middle, last = statistics.median(took) * 1000, percentile(took, 0.99) * 1000
        print(f"edit to effect, {name}: p50 {middle:.1f} ms, p99 {last:.1f} ms over {len(took)} edits")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n in range(options.services):
            (folder / f"s{n}.yaml").write_text(service(n))
        (folder / "all.yaml").write_text(RULE.format(seconds=1))
        with control_plane(folder, core=0) as (address, pid):
            full, changes = asyncio.run(scale(folder, address, options.services, options.clients, options.edits))
            memory = resident(pid)
    print(f"{options.services} services x 10 endpoints, {options.clients} clients: full push {full:.2f} s")
    middle, last = statistics.median(changes) * 1000, percentile(changes, 0.99) * 1000
    print(f"one endpoint to every client: p50 {middle:.0f} ms, p99 {last:.0f} ms; resident {memory:.0f} MiB")
    last_line(
        {
            "edit_ms_p99": {
                "10": round(percentile(few, 0.99) * 1000, 1),
                "ch11": round(percentile(many, 0.99) * 1000, 1),
            },
            "full_push_s": round(full, 3),
            "endpoint_ms_p99": round(last, 1),
            "rss_mib": round(memory, 1),
        }
    )


if __name__ == "__main__":
    main()
