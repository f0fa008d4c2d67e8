"""From a closed YAML file to calls being routed by it: ``make bench NAME=push``.

Measures ``Mesh.from_directory`` (embedded) and ``Mesh.connect`` (over ADS on loopback, from a
control plane in a process of its own), each over the same edits of one VirtualService.
"""

from __future__ import annotations

import argparse
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

import meshlib
from pairing import last_line

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: demo}
spec:
  selector: {app: catalog}
  ports: [{name: http, port: 80, targetPort: 3000}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: catalog-1, namespace: demo}
spec: {address: 127.0.0.1, labels: {app: catalog}}
"""
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: catalog, namespace: demo}}
spec:
  hosts: [catalog]
  http:
  - route: [{{destination: {{host: catalog}}}}]
    timeout: {seconds}s
"""


def measure(mesh: meshlib.Mesh, folder: Path, edits: int) -> list[float]:
    """Edit the timeout again and again; returns the seconds until each edit was in force."""
    changed = threading.Event()
    stop = mesh.on_change(changed.set)
    took = []
    for number in range(edits):
        seconds = 10 + number
        with open(folder / "route.yaml", "w") as file:
            file.write(ROUTE.format(seconds=seconds))
        closed = time.perf_counter()
        while mesh.explain("GET", "http://catalog/").timeout != seconds:
            changed.wait(5.0)
            changed.clear()
            if time.perf_counter() - closed > 10.0:
                raise SystemExit(f"edit {number} did not take effect within 10 s")
        took.append(time.perf_counter() - closed)
        time.sleep(0.02)
    stop()
    return took


@contextmanager
def control_plane(folder: Path) -> Iterator[str]:
    """Run ``meshlib control-plane``; yields its address."""
    command = [sys.executable, "-m", "meshlib", "control-plane", str(folder), "--port", "0", "--log-level", "warning"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
        if found is None:
            raise SystemExit("the control plane did not say where it listens")
        yield found.group()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def connect(address: str) -> meshlib.Mesh:
    return meshlib.Mesh.connect(address, workload="bench", namespace="demo")


def figures(took: list[float]) -> dict[str, float]:
    ordered = sorted(took)
    return {
        "p50_ms": round(1000 * statistics.median(ordered), 1),
        "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 1),
        "max_ms": round(1000 * ordered[-1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=200)
    edits = parser.parse_args().edits
    results: dict[str, object] = {"edits": edits}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "service.yaml").write_text(SERVICE)
        (folder / "route.yaml").write_text(ROUTE.format(seconds=1))
        with meshlib.Mesh.from_directory(folder, workload="bench", namespace="demo") as mesh:
            mesh.wait_ready()
            results["embedded"] = figures(measure(mesh, folder, edits))
        with (
            control_plane(folder) as address,
            meshlib.Mesh.connect(address, workload="bench", namespace="demo") as mesh,
        ):
            mesh.wait_ready()
            results["ads"] = figures(measure(mesh, folder, edits))
    for kind in ("embedded", "ads"):
        print(f"{kind:<10} {results[kind]}")
    last_line(results)


if __name__ == "__main__":
    main()
