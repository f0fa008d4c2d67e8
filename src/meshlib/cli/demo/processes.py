"""The demo's processes: started together, logged to files, gone when the demo is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from meshlib.errors import MeshError

# Asks Linux to end the process when the demo dies without having ended it (SIGKILL), then
# becomes the program. A preexec_fn would do the same but is not safe beside threads.
_LAUNCHER = """
import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
except AttributeError:
    pass
if os.getppid() != int(sys.argv[1]):
    sys.exit("the demo is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class DemoError(MeshError):
    """The demo cannot go on: names the part, and the end of its log."""


class Part:
    """One running program of the demo.

    Args:
        name: what the story calls it.
        process: its handle; the demo ends it by nothing else.
        log: the file with its stdout and stderr.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def wait(self, ready: Callable[[], bool], timeout: float, what: str) -> None:
        """Return once ``ready()`` holds; raise DemoError when the process ends or time is up."""
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name}: {what} did not happen within {timeout:g} s\n{self.tail()}")
            time.sleep(0.01)

    def check(self) -> None:
        """Raise DemoError if the process has ended."""
        if (code := self.process.poll()) is not None:
            raise DemoError(f"{self.name} ended with exit code {code}\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log, indented."""
        text = self.log.read_text("utf-8", errors="replace").splitlines()[-lines:]
        return "\n".join(f"    {line}" for line in text)

    def stop(self, grace: float = 3.0) -> None:
        """End the process: SIGTERM, then SIGKILL after ``grace`` seconds. Returns when it is gone."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Processes:
    """Starts parts and, as a context manager, ends them all; the last started ends first.

    Must be used from one thread that lives as long as the demo: Linux ends the children
    with the *thread* that started them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.parts: list[Part] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        # All are asked first and waited for after, so that the end takes as long as the slowest.
        for part in self.parts:
            if part.process.poll() is None:
                part.process.terminate()
        for part in reversed(self.parts):
            part.stop()

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Part:
        """Start ``command``, whose first item is a path; its own process group keeps Ctrl-C to us."""
        log = self._directory / f"{name.replace(' ', '-')}.log"
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*launcher, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                process_group=0,
            )
        part = Part(name, process, log)
        self.parts.append(part)
        return part
