"""A mesh with housekeeping over configuration made by hand, and a resolver that answers as told."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

from meshlib.lookups import Answer
from meshlib.model.cluster import Cluster
from meshlib.model.discovery import Discovery, Dns, LookupFamily
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint, LocalityEndpoints
from meshlib.policy.events import NullObserver
from meshlib.policy.retrying import plan_for
from meshlib.policy.state import MeshState
from meshlib.runtime.runtime import Runtime
from meshlib.runtime.upkeep import Housekeeping
from meshlib.upstream.probing import probe_of
from runtime.handmade import HandmadeSource
from transports.scripted import Behaviour, Script, Seen, Server, Upstreams

AUTO = LookupFamily.AUTO


class Zone:
    """A resolver: names and their addresses, which may change; ``gate`` holds answers back."""

    def __init__(self, **names: object) -> None:
        self.names = {name.replace("_", "."): answer for name, answer in names.items()}
        self.asked: list[tuple[str, LookupFamily]] = []
        self.gate: threading.Event | None = None

    def __call__(self, name: str, family: LookupFamily, ttl: bool) -> Answer:
        self.asked.append((name, family))
        if self.gate is not None:
            self.gate.wait(30)
        answer = self.names.get(name, ())
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Answer) else Answer(tuple(answer))


def named_cluster(*names: str, port: int, discovery: Discovery = Discovery.STRICT_DNS, **fields) -> Cluster:
    dns = {key: fields.pop(key) for key in Dns.__slots__ if key in fields}
    group = LocalityEndpoints(tuple(Endpoint(name, port) for name in names))
    return Cluster("c", discovery, ClusterLoadAssignment("c", (group,)), dns=Dns(**dns), **fields)


def upkept(snapshot, zone: Zone | None = None) -> Runtime:
    source = snapshot if isinstance(snapshot, HandmadeSource) else HandmadeSource(snapshot)
    house = Housekeeping(time.monotonic, random.Random(7), probe_of, zone or Zone())
    state = MeshState(time.monotonic, random.Random(7), keeping=house.keep)
    return Runtime(source, state, NullObserver(), plan_for, name="the mesh", housekeeping=house)


@contextlib.contextmanager
def serving(*hosts: str, script: Script | None = None) -> Iterator[list[Server]]:
    """Serve on one port of several addresses; each answers with its address."""

    def answer(server: Server, seen: Seen) -> Behaviour:
        return Behaviour(conn_close=seen.header("connection") == "close")

    with Upstreams() as upstreams:
        port = 0
        servers = []
        for host in hosts:
            servers.append(upstreams.serve(name=host, script=script or answer, address=host, port=port))
            port = servers[0].port
        yield servers


def threads(prefix: str = "meshlib-") -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(prefix)]


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "in vain"
        time.sleep(0.005)
