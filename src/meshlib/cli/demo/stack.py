"""Everything the demo runs: control plane, catalog v1 and v2, webapp, and Envoy as the gateway."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx

from meshlib.cli.demo import gateway
from meshlib.cli.demo.addresses import Addresses, assign
from meshlib.cli.demo.folder import MeshFolder, examples
from meshlib.cli.demo.ports import Ports
from meshlib.cli.demo.processes import DemoError, Part, Processes
from meshlib.cli.demo.screen import Screen
from meshlib.cli.demo.traces import SpanReceiver

_NAMESPACE = "istioinaction"
_PATIENCE = 15.0  # seconds for a part to be ready: generous, for a busy machine


class Stack:
    """The parts of the demo: started by :meth:`start`, gone when the context ends.

    Args:
        source: the folder of YAML, of which a copy runs; None for that of the examples.
        screen: told of ports that were taken.
        keep: whether the copy of the YAML and the logs stay behind.
    """

    def __init__(self, source: Path | None, screen: Screen, *, keep: bool = False) -> None:
        self._source = source
        self._screen = screen
        self._keep = keep
        self._exit = ExitStack()
        self._addresses = Addresses()
        self._last_answer = "none"
        self._envoy = gateway.find_envoy()
        self.envoy_version = gateway.envoy_version(self._envoy) if self._envoy else None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.directory = Path(tempfile.mkdtemp(prefix="meshlib-demo-"))
            if not self._keep:
                stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self._home = examples()
            self.folder = MeshFolder(
                self._source or self._home / "mesh", self.directory / "mesh", self._home / "changes"
            )
            self._addresses = assign(self.folder, Ports(self._screen.say))
            self._processes = stack.enter_context(Processes(self.directory))
            self._http = stack.enter_context(httpx.Client(timeout=10, trust_env=False))
            self.spans = stack.enter_context(SpanReceiver(self._addresses.otlp))
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._exit.close()

    @property
    def app_url(self) -> str:
        """The sample app: through the gateway, or webapp itself where there is no Envoy."""
        return f"http://127.0.0.1:{self._addresses.gateway if self._envoy else self._addresses.webapp}"

    @property
    def metrics_url(self) -> str:
        """Istio's metrics of webapp's calls."""
        return f"http://127.0.0.1:{self._addresses.metrics}/metrics"

    @property
    def control_plane(self) -> str:
        """``host:port`` of the control plane."""
        return f"127.0.0.1:{self._addresses.control_plane}"

    def catalog_url(self, version: str) -> str:
        """One catalog instance, past the mesh."""
        return f"http://127.0.0.1:{self._addresses.catalog[version]}"

    def start(self) -> None:
        """Start every part; those that need no other start at the same time."""
        control_plane = self._start_control_plane()
        for version, port in self._addresses.catalog.items():
            self._start_service("catalog", version, port)
        self._start_service("webapp", "v1", self._addresses.webapp)
        if self._envoy is None:
            return
        control_plane.wait(lambda: _listens(self._addresses.control_plane), _PATIENCE, "listening")
        ports = self._addresses
        command = gateway.command(self._envoy, self.directory, control_plane=ports.control_plane, admin=ports.admin)
        self._processes.start("gateway", command)

    def wait_for_app(self) -> None:
        """Return when the sample app answers with 200 for the first time.

        Raises:
            DemoError: it does not in time, or a part has ended; has the end of that part's log.
        """
        try:
            self._processes.parts[-1].wait(self._answers, _PATIENCE, f"the first 200 from {self.app_url}")
        except DemoError as error:
            raise DemoError(f"{error}\nthe last answer: {self._last_answer}") from None

    def get(self, path: str, *, trace_id: str) -> httpx.Response:
        """GET from the sample app as a part of the trace ``trace_id``, sampled."""
        return self._http.get(f"{self.app_url}{path}", headers={"traceparent": f"00-{trace_id}-{'1' * 16}-01"})

    def blow_up(self, version: str, **fault: Any) -> None:
        """Make a catalog instance fail as ``fault`` says; ``rate=0`` heals it."""
        self._http.post(f"{self.catalog_url(version)}/blowup", json=fault).raise_for_status()

    def received(self) -> dict[str, int]:
        """Return how many requests for items each catalog instance has counted."""
        counts = {}
        for version in self._addresses.catalog:
            stats = self._http.get(f"{self.catalog_url(version)}/stats").raise_for_status().json()
            counts[version] = sum(stats["received"].values())
        return counts

    def check(self) -> None:
        """Raise DemoError if a part has ended by itself."""
        for part in self._processes.parts:
            part.check()

    def _answers(self) -> bool:
        self.check()
        try:
            response = self._http.get(f"{self.app_url}/api/catalog")
        except httpx.HTTPError as error:
            self._last_answer = repr(error)
            return False
        self._last_answer = f"{response.status_code} {response.text}"
        return response.status_code == 200

    def _start_control_plane(self) -> Part:
        port, otlp = self._addresses.control_plane, f"127.0.0.1:{self._addresses.otlp}"
        arguments = ["control-plane", str(self.folder.path), "--port", str(port), "--otlp", otlp]
        return self._processes.start("control plane", [sys.executable, "-m", "meshlib", *arguments])

    def _start_service(self, app: str, version: str, port: int) -> Part:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._addresses.otlp}",
            "OTEL_SERVICE_NAME": app,
            "SERVICE_VERSION": version,
            "NO_PROXY": "127.0.0.1",
            "MESHLIB_XDS_ADDRESS": self.control_plane,
            "MESHLIB_METRICS_PORT": str(self._addresses.metrics),
            "MESHLIB_WORKLOAD": app,
            "MESHLIB_LABELS": f"app={app},version={version}",
            "POD_NAME": f"{app}-{version}",
            "POD_NAMESPACE": _NAMESPACE,
        }
        name = f"{app} {version}"
        program = self._home / app / "app.py"
        return self._processes.start(name, [sys.executable, program, "--port", str(port)], environment)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.5).close()
    except OSError:
        return False
    return True
