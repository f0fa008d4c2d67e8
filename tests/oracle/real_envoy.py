"""A real Envoy that takes its listeners from a file, and tells which of them it refuses."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

BINARY = Path(sys.executable).parent / "envoy"
_LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


class RealEnvoy:
    """One process, one worker; use it as a context manager.

    Args:
        folder: where its files and sockets go; a short path, for names of sockets are.
        clusters: the clusters that listeners may lead to.
    """

    def __init__(self, folder: Path, clusters: Sequence[Mapping[str, Any]]) -> None:
        self._folder = folder
        self._admin = folder / "admin"
        self._listeners = folder / "lds.json"
        self._version = 0
        self.log = folder / "envoy.log"
        self._write({"resources": []})
        config = {
            "node": {"id": "differential", "cluster": "differential"},
            "admin": {"address": {"pipe": {"path": str(self._admin)}}},
            "dynamic_resources": {
                "lds_config": {"resource_api_version": "V3", "path_config_source": {"path": str(self._listeners)}}
            },
            "static_resources": {"clusters": list(clusters)},
        }
        (folder / "envoy.json").write_text(json.dumps(config))

    def __enter__(self) -> Self:
        command = [BINARY, "-c", self._folder / "envoy.json", "--concurrency", "1", "--use-dynamic-base-id"]
        command += ["--file-flush-interval-msec", "20", "-l", "warning"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._until(lambda: self._admin.exists() and self._ask("/ready") is not None, "is not ready")
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def load(self, listeners: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Put ``listeners`` in place of those before; returns why each of the refused ones is, by name."""
        before = self._attempts()
        self._write({"resources": [{"@type": _LISTENER, **listener} for listener in listeners]})
        self._until(lambda: self._attempts() > before, "does not look at its listeners")
        refused: dict[str, str] = {}
        names = {str(listener["name"]) for listener in listeners}

        def settled() -> bool:
            dump = self._ask("/config_dump?resource=dynamic_listeners") or {}
            seen = set()
            warming = False
            for each in dump.get("configs", []):
                failure = each.get("error_state", {})
                name = each.get("name") or failure.get("failed_configuration", {}).get("name")
                if name not in names:
                    continue
                seen.add(name)
                warming = warming or (not failure and "warming_state" in each)
                if failure:
                    refused[name] = failure.get("details", "")
            return seen == names and not warming

        self._until(settled, "does not settle")
        return refused

    def _write(self, response: Mapping[str, Any]) -> None:
        self._version += 1
        new = self._folder / "lds.new"
        new.write_text(json.dumps({"version_info": str(self._version), **response}))
        new.rename(self._listeners)

    def _attempts(self) -> int:
        stats = self._ask("/stats?format=json&filter=listener_manager.lds.update_") or {"stats": []}
        counts = {each["name"].rpartition(".")[2]: each["value"] for each in stats["stats"] if "name" in each}
        if counts.get("update_failure"):
            raise RuntimeError(f"the real Envoy cannot read its listeners: {self.log.read_text()[:2000]}")
        return int(counts.get("update_success", 0) + counts.get("update_rejected", 0))

    def _ask(self, path: str) -> Any:
        connection = _UnixConnection(self._admin)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
        except OSError:
            return None
        finally:
            connection.close()
        if response.status != 200:
            return None
        return json.loads(text) if text.startswith("{") else text

    def _until(self, ready: Any, what: str, timeout: float = 30.0) -> None:
        until = time.monotonic() + timeout
        while not ready():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the real Envoy {what}: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)
