"""The example services on real sockets, inside the test's process."""

from __future__ import annotations

import importlib.util
import socket
import sys
import threading
from pathlib import Path

import uvicorn

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(service: str):
    """Import ``examples/SERVICE/app.py`` as a module of its own name."""
    folder = EXAMPLES / service
    name = f"examples_{service}_app"
    if name in sys.modules:
        return sys.modules[name]
    sys.path.insert(0, str(folder))  # as `python examples/SERVICE/app.py` would
    try:
        spec = importlib.util.spec_from_file_location(name, folder / "app.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


class Running:
    """An app under uvicorn in a thread."""

    def __init__(self, app):
        # By its protocol, for asyncio turns Nagle's algorithm off only where that is named.
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.settled = threading.Event()  # started, or ended before it started
        startup = self.server.startup

        async def announce(**options):
            await startup(**options)
            self.settled.set()

        self.server.startup = announce
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        assert self.settled.wait(10)
        if not self.server.started:
            self.stop()
            raise RuntimeError("the service did not start; its log says why")

    def _run(self):
        try:
            self.server.run(sockets=[self.socket])
        finally:
            self.settled.set()

    def stop(self):
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()


def free_port() -> int:
    """Return a port that was free a moment ago, for programs that must be told one."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
