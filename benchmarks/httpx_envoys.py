"""Two Envoys in a row, as a client's and a server's sidecar: plain routing, no telemetry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xds_process import cpu_s

ENVOY = Path(sys.executable).parent / "envoy"


class Envoys:
    """The two; ``port`` is the client's one's.

    Args:
        routes: the client's configuration: listeners and clusters, whose endpoints become the server's Envoy.
        cpu: where they run.
    """

    def __init__(self, routes: dict[str, Any], cpu: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        server = json.loads(json.dumps(routes))
        for listener in server["static_resources"]["listeners"]:
            listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
        self._server = self._start("server", server, cpu)
        client = json.loads(json.dumps(server))
        for cluster in client["static_resources"]["clusters"]:
            for each in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]:
                at = each["endpoint"]["address"]["socket_address"]
                at["address"], at["port_value"] = "127.0.0.1", self._port_of("server")
        for cluster in client["static_resources"]["clusters"]:
            # The same address four times would be one host to Envoy.
            del cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][1:]
        self._client = self._start("client", client, cpu)
        self.port = self._port_of("client")

    def _start(self, name: str, config: dict[str, Any], cpu: int) -> subprocess.Popen[bytes]:
        folder = Path(self._folder.name)
        config["admin"] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
        file = folder / f"{name}.json"
        file.write_text(json.dumps(config))
        command = [ENVOY, "-c", file, "--admin-address-path", folder / f"{name}.admin", "--concurrency", "1"]
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([*command, "--use-dynamic-base-id"], stdout=log, stderr=log)
        if hasattr(os, "sched_setaffinity") and cpu in os.sched_getaffinity(0):
            os.sched_setaffinity(process.pid, {cpu})
        return process

    def _port_of(self, name: str) -> int:
        """Wait until an Envoy listens; return where."""
        admin = Path(self._folder.name) / f"{name}.admin"
        until = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://{admin.read_text()}/listeners?format=json", timeout=5) as answer:
                    return int(
                        json.load(answer)["listener_statuses"][0]["local_address"]["socket_address"]["port_value"]
                    )
            except (OSError, KeyError, IndexError, ValueError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def cpu_s(self) -> float:
        """Return the CPU seconds that both have used."""
        return cpu_s(self._client.pid) + cpu_s(self._server.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (self._client, self._server):
            process.kill()
            process.wait()
        self._folder.cleanup()
