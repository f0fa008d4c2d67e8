"""A service in two upstreams, a folder and a control plane that name one or the other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from greeting import greeter, grpc_bootstrap
from meshlib.controlplane.directory import Directory
from meshlib.controlplane.server import Server

YAML = """\
apiVersion: v1
kind: Service
metadata: {{name: catalog, namespace: outdoor}}
spec:
  selector: {{app: catalog}}
  ports: [{{name: http, port: 80}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: catalog-1, namespace: outdoor}}
spec: {{address: 127.0.0.1, ports: {{http: {http}}}, labels: {{app: catalog}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: greeter, namespace: outdoor}}
spec:
  selector: {{app: greeter}}
  ports: [{{name: grpc, port: 50051}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: greeter-1, namespace: outdoor}}
spec: {{address: 127.0.0.1, ports: {{grpc: {grpc}}}, labels: {{app: greeter}}}}
"""


class Upstream(ThreadingHTTPServer):
    """Answers every GET with its name."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, name: str) -> None:
        answer = f"HTTP/1.1 200 OK\r\ncontent-length: {len(name)}\r\n\r\n{name}".encode()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        pass  # processes that end leave their connections as they are


class Home:
    """The service ``catalog``, first at ``old``; :meth:`move` takes it to ``new``."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self.path = path
        self.folder = path / "mesh"
        self.folder.mkdir()
        self.upstreams = {}
        for name in ("old", "new"):
            upstream = self.upstreams[name] = Upstream(name)
            stack.callback(upstream.server_close)
            stack.callback(upstream.shutdown)
        self._greeter = stack.enter_context(greeter("hello", workers=16))
        self.move("old")
        self.directory = stack.enter_context(Directory(self.folder))
        self.server = stack.enter_context(Server(self.directory, port=0))

    def move(self, name: str) -> None:
        """Have the configuration name another upstream."""
        text = YAML.format(http=self.upstreams[name].port, grpc=self._greeter)
        whole = self.path / "catalog.yaml"
        whole.write_text(text)
        whole.replace(self.folder / whole.name)  # at once: what stays empty for 100 ms counts as removed

    @property
    def streams(self) -> int:
        """How many ADS streams the control plane serves."""
        return len(self.server.clients)

    def bootstrap(self) -> Path:
        """Return a gRPC bootstrap: hosts are asked for by name."""
        return grpc_bootstrap(self.path / "bootstrap.json", self.server.address, "webapp-1")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with contextlib.ExitStack() as stack:
        yield Home(tmp_path, stack)
