"""The real Envoy as a client of the bench's ADS server.

Ready is when ``/ready`` of its admin answers 200: every cluster has its endpoints, the listener
its routes. Time counts from its stream's opening, so that its own start is not in it. Its memory
is compared with that of an Envoy that got no service at all.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ads_server import CLIENT_CPU, Control, acked, pin, running, series
from xds_process import cpu_s, peak_mib, rss_mib
from xds_resources import ENDPOINTS, SIDECAR

ENVOY = Path(sys.executable).parent / "envoy"
SETTLE = 1.0  # as xds_meshlib's
_POLL = 0.002


def bootstrap(port: int, *, delta: bool) -> dict[str, Any]:
    """Return a bootstrap that takes everything from ADS."""
    ads = {"resource_api_version": "V3", "ads": {}}
    http2 = {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    server = {
        "name": "xds",
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                **http2,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "xds",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    return {
        "node": {"id": "sidecar~127.0.0.1~bench.bench~bench.svc.cluster.local", "cluster": "bench"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"clusters": [server]},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if delta else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "lds_config": ads,
            "cds_config": ads,
        },
    }


@dataclass
class Envoy:
    """One that runs."""

    pid: int
    admin: str

    def get(self, path: str, timeout: float = 60.0) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.admin, timeout=timeout)
        connection.request("GET", path)
        response = connection.getresponse()
        try:
            return response.status, response.read()
        finally:
            connection.close()

    def wait_ready(self, bound: float) -> int:
        """Wait until it takes requests; returns when, in monotonic nanoseconds, 0 when it did not."""
        until = time.monotonic() + bound
        while time.monotonic() < until:
            if self.get("/ready", timeout=bound)[0] == 200:
                return time.monotonic_ns()
            time.sleep(_POLL)
        return 0

    def clusters_with_endpoints(self) -> int:
        """Count the clusters that have all their endpoints."""
        _, body = self.get("/clusters?format=json")
        statuses = json.loads(body)["cluster_statuses"]
        return sum(len(s.get("host_statuses", ())) == ENDPOINTS for s in statuses)

    def stat(self, name: str) -> int:
        """Return one counter or gauge."""
        _, body = self.get(f"/stats?filter=^{name}$")
        return int(body.rpartition(b": ")[2] or 0)


@contextmanager
def envoy(port: int, *, delta: bool) -> Iterator[Envoy]:
    """Run Envoy; yields when its admin listens."""
    with tempfile.TemporaryDirectory() as folder:
        config, admin, log = (Path(folder) / name for name in ("envoy.json", "admin", "log"))
        config.write_text(json.dumps(bootstrap(port, delta=delta)))
        command = [ENVOY, "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"]
        with log.open("wb") as output:
            process = subprocess.Popen([*command, "--admin-address-path", admin], stdout=output, stderr=output)
            try:
                until = time.monotonic() + 20
                while not (admin.exists() and ":" in admin.read_text()):
                    if process.poll() is not None or time.monotonic() > until:
                        raise SystemExit(f"Envoy did not start:\n{log.read_text()[-2000:]}")
                    time.sleep(_POLL)
                yield Envoy(process.pid, admin.read_text().strip())
            finally:
                process.kill()
                process.wait()


def empty_rss_mib(*, delta: bool) -> float:
    """Return the memory of an Envoy that was sent no service."""
    with running(0, SIDECAR) as server, envoy(server["port"], delta=delta) as bare:
        bare.wait_ready(20)
        time.sleep(SETTLE)
        return rss_mib(bare.pid)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Time to ready, memory and CPU, then single changes, as far as the ACK."""
    with envoy(given.port, delta=given.delta) as client:
        control = Control(given.control)
        cpu = cpu_s(client.pid)
        ready, ready_cpu = client.wait_ready(given.bound), cpu_s(client.pid)
        if not ready:
            return {"not_ready_s": given.bound}
        opened = control.stats()["streams"][0]["opened"]
        result: dict[str, Any] = {
            "start_cpu_s": cpu,
            "ready_s": (ready - opened) / 1e9,
            "cpu_s": ready_cpu - cpu,
        }
        time.sleep(SETTLE)
        rss = rss_mib(client.pid)
        result |= {"rss_total_mib": rss, "rss_mib": rss - given.empty, "peak_mib": peak_mib(client.pid)}
        whole = client.clusters_with_endpoints()
        if whole != given.clusters or not client.stat("listener_manager.total_listeners_active"):
            raise SystemExit(f"Envoy says it is ready, with {whole} of {given.clusters} clusters")
        result |= series(control, given, client.pid, acked)
        stats = control.stats()
        if stats["nacks"]:
            raise SystemExit(f"Envoy refused: {stats['nacks']}")
        return {**result, "server": stats}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("measure",))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--clusters", type=int, required=True)
    parser.add_argument("--delta", action="store_true")
    parser.add_argument("--bound", type=float, default=60.0)
    parser.add_argument("--changes", type=int, default=0)
    parser.add_argument("--full-changes", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--empty", type=float, default=0.0, help="MiB of an Envoy without services")
    given = parser.parse_args()
    pin(CLIENT_CPU)
    print(json.dumps(measure(given)))


if __name__ == "__main__":
    main()
