"""Ports for the demo: the study's own where they are free, others where they are taken."""

from __future__ import annotations

import socket
from collections.abc import Callable


def is_free(port: int) -> bool:
    """Tell whether a listener on ``port`` could start now, on loopback and on every address."""
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError:
                return False
    return True


def any_free_port() -> int:
    """Return a port that the system says is free on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Ports:
    """Hands out ports, each once, and says so where another than the wanted one is given.

    Args:
        say: receives one line for each port that was taken.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._given: set[int] = set()

    def take(self, wanted: int, purpose: str) -> int:
        """Return ``wanted`` if it is free, else another port and a message."""
        port = wanted
        if wanted in self._given or not is_free(wanted):
            port = self.take_any()
            self._say(f"port {wanted} is taken; using {port} for {purpose}")
        self._given.add(port)
        return port

    def take_any(self) -> int:
        """Return a free port that nobody expects anything on."""
        while (port := any_free_port()) in self._given:
            pass
        self._given.add(port)
        return port
