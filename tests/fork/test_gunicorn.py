"""gunicorn with ``--preload``: the master has a mesh at work, and every worker a stream of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform"),
]

WORKERS = 3


class Gunicorn:
    """A master and its workers; what they said is in ``log``."""

    def __init__(self, home, arguments):
        self.log = home.path / "log"
        environment = {key: value for key, value in os.environ.items() if "GRPC" not in key}
        environment |= {"MESHLIB_XDS_ADDRESS": home.server.address, "POD_NAMESPACE": "outdoor"}
        command = [sys.executable, "-m", "gunicorn", "--preload", "--bind", "127.0.0.1:0", "--workers", str(WORKERS)]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*command, *arguments], cwd=Path(__file__).parent, env=environment, stdout=log, stderr=log
            )
        self.url = f"http://127.0.0.1:{self.wait(lambda: re.search(r'http://127.0.0.1:([0-9]+)', self.said()))[1]}/"

    def said(self):
        return self.log.read_text()

    def wait(self, condition):
        give_up = time.monotonic() + 30
        while not (found := condition()):
            assert time.monotonic() < give_up, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)
        return found

    def ask(self):
        """Return the worker that answered, and what it got from the service."""
        response = httpx.get(self.url, timeout=20)
        assert response.status_code == 200, self.said()
        return response.headers["x-worker"], response.text

    def heard(self, text):
        """Ask until so many workers as there are have answered ``text``; returns them."""
        workers = set()

        def all_have():
            worker, answer = self.ask()
            if answer == text:
                workers.add(worker)
            return len(workers) == WORKERS

        self.wait(all_have)
        return workers

    def stop(self):
        self.process.terminate()
        return self.process.wait(30)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--worker-class", "sync", "shop:wsgi"],
        ["--worker-class", "gthread", "--threads", "4", "shop:wsgi"],
        ["--worker-class", "uvicorn_worker.UvicornWorker", "shop:asgi"],
    ],
    ids=["sync", "gthread", "uvicorn"],
)
def test_preloaded_workers_follow_the_configuration(home, arguments):
    gunicorn = Gunicorn(home, arguments)
    try:
        first = gunicorn.heard("old")
        gunicorn.wait(lambda: home.streams == 1 + WORKERS)
        home.move("new")
        assert gunicorn.heard("new") == first
        os.kill(int(min(first)), 9)  # the master forks another in its place, under load
        assert len(gunicorn.heard("new") & first) >= WORKERS - 1
        gunicorn.wait(lambda: home.streams == 1 + WORKERS)
    finally:
        code = gunicorn.stop()
    assert code == 0
    assert "Traceback" not in gunicorn.said()
    assert gunicorn.said().count("SIGKILL") <= 1, gunicorn.said()
    assert "SIGABRT" not in gunicorn.said()
