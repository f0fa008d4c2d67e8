"""The control plane's clients, watched while they become SYNCED."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from meshlib.controlplane.status import ClientStatus, SyncStatus, fetch
from meshlib.errors import MeshError

_TYPES = ("cds", "lds", "eds", "rds")
_PAUSE = 0.005  # seconds between two looks


class ClientWatch:
    """Looks at the clients of a control plane again and again, in a thread, while the context lasts.

    Args:
        address: ``host:port`` of the control plane, which need not answer yet.

    Attributes:
        seen: for each client and type, the different states in the order they were seen.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="demo-clients", daemon=True)
        self.seen: dict[tuple[str, str], list[str]] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ending.set()
        self._thread.join()

    def first_states(self, proxies: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        """Return ``proxies`` with the first state seen of each type."""
        return [
            {**proxy, **{kind: states[0] for kind in _TYPES if (states := self.seen.get((proxy["name"], kind)))}}
            for proxy in proxies
        ]

    def _watch(self) -> None:
        first: list[str] = []  # what is known of a client that is new
        while not self._ending.wait(_PAUSE):
            try:
                found = fetch(self._address, timeout=1.0)
            except MeshError:
                continue
            for client in found:
                for kind in _TYPES:
                    states = self.seen.setdefault((client.name, kind), first.copy())
                    state = getattr(client, kind).status.value
                    if states[-1:] != [state]:
                        states.append(state)
            # The control plane has answered, so to any client it did not name it has sent nothing.
            first = [SyncStatus.NOT_SENT.value]


def clients(address: str) -> tuple[ClientStatus, ...]:
    """Return the clients connected now; none while the control plane does not answer."""
    try:
        return fetch(address, timeout=1.0)
    except MeshError:
        return ()


def rows(address: str) -> list[dict[str, str]]:
    """Return the clients as `meshlib demo --json` lists them."""
    return [
        {"name": client.name, "kind": client.kind, **{kind: getattr(client, kind).status.value for kind in _TYPES}}
        for client in clients(address)
    ]


def wait_until_synced(address: str, count: int, timeout: float = 10.0) -> None:
    """Return when ``count`` clients have acknowledged everything they were sent.

    Raises:
        MeshError: not within ``timeout`` seconds; names the clients and their states.
    """
    deadline = time.monotonic() + timeout
    while not (len(found := clients(address)) >= count and all(client.synced for client in found)):
        if time.monotonic() > deadline:
            raise MeshError(f"not every client is SYNCED after {timeout:g} s: {rows(address)}")
        time.sleep(_PAUSE)


def push_ms(address: str, edit: Callable[[], object], timeout: float = 5.0) -> float | None:
    """Return the milliseconds from the end of ``edit`` until a client has acknowledged what came of it.

    That is: a client has taken another version of something, and none is behind any more. The
    clients are asked every few milliseconds, so the figure is late by as much at the most. None
    where nobody took anything new within ``timeout`` seconds.
    """
    before = _versions(clients(address))
    edit()
    edited = time.monotonic()
    while time.monotonic() < edited + timeout:
        found = clients(address)
        if _versions(found) != before and all(client.synced for client in found):
            return round(1000 * (time.monotonic() - edited), 1)
        time.sleep(_PAUSE)
    return None


def _versions(found: Iterable[ClientStatus]) -> dict[tuple[str, str], str]:
    return {(client.name, kind): getattr(client, kind).version for client in found for kind in _TYPES}
