"""The management server of ``make bench NAME=xds``: SotW and delta ADS, in a process of its own.

What it sends is serialised before anybody asks, so that its own share of what is measured is
joining and writing bytes. It is steered over a control port (:class:`Control`), one JSON object a
line. Times are ``time.monotonic_ns()``, which is one clock for all processes of a machine.

As istiod towards a sidecar, it answers EDS and RDS requests with the names added alone, in every
variant, and a change of endpoints with that cluster alone. ``full`` sends all of CDS and EDS for
it, as go-control-plane does.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc

import xds_resources as resources
from meshlib.xds.protos import discovery_pb2
from xds_process import cpu_s, quantile

SERVER_CPU, CLIENT_CPU = 1, 0
MOVING = 3  # which endpoint of a service moves
_WILDCARD = "*"
_CDS, _EDS = resources.URLS["CDS"], resources.URLS["EDS"]
_FULL_STATE = (_CDS, resources.URLS["LDS"])
_SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"


def pin(cpu: int) -> None:
    """Keep this process on one CPU, where there are several."""
    if len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[cpu]})


# Clusters and endpoints: type -> name -> bytes, for SotW and for delta.
Edition = dict[str, tuple[dict[str, bytes], dict[str, bytes]]]


class Store:
    """Every resource by type and name, framed as field 2 of a DiscoveryResponse and of a delta one."""

    def __init__(self, count: int, form: str, port: int) -> None:
        self.count, self.form, self.port = count, form, port
        self.version = 1
        self.lock = threading.Lock()
        self.sotw: dict[str, dict[str, bytes]] = {url: {} for url in resources.URLS.values()}
        self.delta: dict[str, dict[str, bytes]] = {url: {} for url in resources.URLS.values()}
        self.moved = [-1] * count
        self._edition = 0
        listener = resources.listener(form)
        table = resources.route_table(count, form)
        self.put(resources.URLS["LDS"], listener.name, listener)
        self.put(resources.URLS["RDS"], table.name, table)
        self._lay_out(self._prepared(0))
        self._other_edition: Edition = {}

    def put(self, url: str, name: str, message: Any) -> None:
        self.sotw[url][name], self.delta[url][name] = _framed(name, message, str(self.version))

    def move(self, i: int) -> str:
        """Move one endpoint of service ``i``, or move it back; returns its address now."""
        self.version += 1
        self.moved[i] = MOVING if self.moved[i] < 0 else -1
        assignment = resources.endpoints(i, self.port, self.moved[i], self._edition)
        self.put(_EDS, assignment.cluster_name, assignment)
        return resources.address(i, MOVING, spare=self.moved[i] == MOVING)

    def change_all(self) -> int:
        """Change every cluster and the weights of all endpoints, or change them back; returns the weight."""
        self.version += 1
        for i, moved in enumerate(self.moved):
            if moved >= 0:
                self.move(i)  # back, for no edition holds what was moved
        other = self._other_edition or self._prepared(1)
        self._other_edition = {url: (self.sotw[url], self.delta[url]) for url in (_CDS, _EDS)}
        self._lay_out(other)
        self._edition = 1 - self._edition
        return 1 + self._edition

    def _lay_out(self, edition: Edition) -> None:
        for url, (sotw, delta) in edition.items():
            self.sotw[url], self.delta[url] = sotw, delta

    def _prepared(self, edition: int) -> Edition:
        made: Edition = {_CDS: ({}, {}), _EDS: ({}, {})}
        for i in range(self.count):
            name = resources.cluster_name(i)
            cluster = resources.cluster(i, self.form, edition)
            assignment = resources.endpoints(i, self.port, edition=edition)
            for url, message in ((_CDS, cluster), (_EDS, assignment)):
                made[url][0][name], made[url][1][name] = _framed(name, message, str(edition))
        if self.form == resources.SIDECAR:
            name, message = "PassthroughCluster", resources.passthrough()
            made[_CDS][0][name], made[_CDS][1][name] = _framed(name, message, "0")
        return made


def _framed(name: str, message: Any, version: str) -> tuple[bytes, bytes]:
    wrapped = discovery_pb2.DeltaDiscoveryResponse()
    resource = wrapped.resources.add(name=name, version=version)
    resource.resource.Pack(message, deterministic=True)
    plain = discovery_pb2.DiscoveryResponse(resources=[resource.resource])
    return plain.SerializeToString(), wrapped.SerializeToString()


class Stream:
    """One stream: what it subscribed to, what is on its way to it, when that was sent and acknowledged."""

    def __init__(self, store: Store, *, delta: bool) -> None:
        self.store, self.delta = store, delta
        self.outbox: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self.names: dict[str, set[str]] = {}  # by type; {"*"} is a wildcard
        self.opened = time.monotonic_ns()
        self.sent: dict[str, int] = {}  # nonce -> when its response was handed to gRPC
        self.acked: dict[str, int] = {}
        self.nacks: list[str] = []
        self.latest: dict[str, str] = {}  # type -> nonce of the last response
        self.requests = self.bytes_sent = 0
        self.changed = threading.Condition()
        self._serial = 0

    def take(self, request: Any) -> None:
        """Answer what a request asks for anew."""
        url, nonce = request.type_url, request.response_nonce
        self.requests += 1
        with self.changed:
            if nonce:
                self.acked[nonce] = time.monotonic_ns()
                if request.error_detail.message:
                    self.nacks.append(request.error_detail.message)
                self.changed.notify_all()
        if url not in self.store.sotw:
            return
        if self.delta:
            self._subscribe(url, request)
        elif not nonce or nonce == self.latest.get(url):  # else another request will follow
            self._ask(url, set(request.resource_names))

    def _ask(self, url: str, asked: set[str]) -> None:
        if not asked and url in _FULL_STATE:
            asked = {_WILDCARD}
        before = self.names.get(url)
        if before == asked:
            return
        self.names[url] = asked
        names: Iterable[str] = asked if url in _FULL_STATE else asked - (before or set())
        if names:
            self.push(url, None if _WILDCARD in asked else names)

    def _subscribe(self, url: str, request: Any) -> None:
        added = set(request.resource_names_subscribe)
        if url in _FULL_STATE and url not in self.names and not added:
            added = {_WILDCARD}
        names = self.names.setdefault(url, set())
        names.difference_update(request.resource_names_unsubscribe)
        names |= added
        if added:
            self.push(url, None if _WILDCARD in added else added)

    def push(self, url: str, names: Iterable[str] | None) -> str:
        """Send these resources of a type, or all of them; returns the nonce."""
        held = (self.store.delta if self.delta else self.store.sotw)[url]
        chosen = held.values() if names is None else [held[name] for name in names if name in held]
        self._serial += 1
        nonce = f"{id(self):x}-{self._serial}"
        version = str(self.store.version)
        if self.delta:
            unknown = [] if names is None else [name for name in names if name not in held]
            rest = discovery_pb2.DeltaDiscoveryResponse(
                system_version_info=version, type_url=url, nonce=nonce, removed_resources=unknown
            )
        else:
            rest = discovery_pb2.DiscoveryResponse(version_info=version, type_url=url, nonce=nonce)
        # Serialised messages that are joined are one message: repeated fields add up.
        self.latest[url] = nonce
        self.outbox.put((nonce, b"".join((*chosen, rest.SerializeToString()))))
        return nonce

    def responses(self) -> Iterator[bytes]:
        while (item := self.outbox.get()) is not None:
            nonce, data = item
            self.bytes_sent += len(data)
            self.sent[nonce] = time.monotonic_ns()
            yield data

    def settled(self, nonces: Iterable[str], timeout: float) -> bool:
        """Wait until these responses were acknowledged, or refused."""
        with self.changed:
            return self.changed.wait_for(lambda: all(nonce in self.acked for nonce in nonces), timeout)


class AdsServer(grpc.GenericRpcHandler):
    """Both methods of ADS, and the commands."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.streams: list[Stream] = []
        self._methods = {
            _SERVICE + "StreamAggregatedResources": (False, discovery_pb2.DiscoveryRequest),
            _SERVICE + "DeltaAggregatedResources": (True, discovery_pb2.DeltaDiscoveryRequest),
        }

    def service(self, handler_call_details: Any) -> Any:
        found = self._methods.get(handler_call_details.method)
        if found is None:
            return None
        delta, message = found

        def serve(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[bytes]:
            stream = Stream(self.store, delta=delta)
            context.add_callback(lambda: self._ended(stream))

            def read() -> None:
                try:
                    for request in requests:
                        with self.store.lock:
                            stream.take(request)
                except Exception as error:  # noqa: BLE001  grpc raises a bare Exception when a stream is cancelled
                    if context.is_active():
                        print(f"ads server: {type(error).__name__}: {error}", file=sys.stderr)

            self.streams.append(stream)
            threading.Thread(target=read, daemon=True).start()
            return stream.responses()

        return grpc.stream_stream_rpc_method_handler(serve, request_deserializer=message.FromString)

    def _ended(self, stream: Stream) -> None:
        stream.outbox.put(None)
        if stream in self.streams:
            self.streams.remove(stream)

    def command(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry a command out; returns its answer once every stream has acknowledged what was pushed."""
        kind = command["do"]
        with self.store.lock:
            streams = list(self.streams)
            pushed: list[tuple[Stream, list[str]]] = []
            answer: dict[str, Any] = {}
            if kind == "move":
                answer |= {"service": command["service"], "address": self.store.move(command["service"])}
                name, full = resources.cluster_name(command["service"]), command["full"]
                pushed = [(s, self._push_full(s) if full else [s.push(_EDS, [name])]) for s in streams]
            elif kind == "change_all":
                answer["weight"] = self.store.change_all()
                pushed = [(s, self._push_full(s)) for s in streams]
        if pushed:
            settled = all(stream.settled(nonces, command["timeout"]) for stream, nonces in pushed)
            times = [(s.sent[n], s.acked.get(n, 0)) for s, nonces in pushed for n in nonces if n in s.sent]
            answer |= {"settled": settled, "sent": min(t[0] for t in times), "acked": max(t[1] for t in times)}
        cpu = time.process_time()
        answer["streams"] = [
            {"opened": s.opened, "requests": s.requests, "bytes": s.bytes_sent, "responses": len(s.sent)}
            for s in streams
        ]
        return {**answer, "nacks": [nack for s in streams for nack in s.nacks][:3], "cpu": cpu}

    def _push_full(self, stream: Stream) -> list[str]:
        """Send all clusters and endpoints a stream subscribed to."""
        nonces = []
        for url in (_CDS, _EDS):
            names = stream.names.get(url, set())
            nonces.append(stream.push(url, None if _WILDCARD in names else names))
        return nonces


def listen_for_commands(server: AdsServer, listener: socket.socket) -> None:
    """Serve the control port, one connection at a time."""
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as lines:
            for line in lines:
                lines.write(json.dumps(server.command(json.loads(line))) + "\n")
                lines.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clusters", type=int, required=True)
    parser.add_argument("--form", choices=(resources.SIDECAR, resources.GRPC), required=True)
    parser.add_argument("--port", type=int, default=9, help="of every endpoint")
    given = parser.parse_args()
    pin(SERVER_CPU)
    servicer = AdsServer(Store(given.clusters, given.form, given.port))
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    server = grpc.server(futures.ThreadPoolExecutor(64), handlers=[servicer], options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    control = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": port, "control": control.getsockname()[1]}), flush=True)
    listen_for_commands(servicer, control)


class Control:
    """Steers a server from another process; one user at a time."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._lines = self._socket.makefile("rw")

    def _say(self, **command: Any) -> dict[str, Any]:
        self._lines.write(json.dumps(command) + "\n")
        self._lines.flush()
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def move(self, service: int, *, full: bool = False, timeout: float = 60.0) -> dict[str, Any]:
        """Move one endpoint of a service; ``full`` resends everything. Returns when that is acknowledged."""
        return self._say(do="move", service=service, full=full, timeout=timeout)

    def change_all(self, timeout: float = 60.0) -> dict[str, Any]:
        """Change every cluster and every endpoint."""
        return self._say(do="change_all", timeout=timeout)

    def stats(self) -> dict[str, Any]:
        """Return the server's CPU seconds and, a stream, what was asked and sent."""
        return self._say(do="stats")

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@contextmanager
def running(clusters: int, form: str, port: int = 9) -> Iterator[dict[str, int]]:
    """Run a server; yields its ``port`` and its ``control`` port."""
    command = [sys.executable, __file__, "--clusters", str(clusters), "--form", form, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def updates(
    control: Control, count: int, changes: int, seconds: float, *, full: bool, seen: Callable[[dict[str, Any]], int]
) -> tuple[list[float], bool]:
    """Move one endpoint again and again; returns the milliseconds each took, and whether all were acknowledged.

    ``seen(answer)``, given the server's answer, waits until the client has it and returns when it
    had. Stops after ``changes`` of them, or after ``seconds``.
    """
    took: list[float] = []
    until = time.monotonic() + seconds
    for turn in range(changes):
        answer = control.move(turn * 7919 % count, full=full)  # all over the place
        if not answer["settled"] or answer["nacks"]:
            return took, False
        took.append((seen(answer) - answer["sent"]) / 1e6)
        if time.monotonic() > until:
            break
    return took, True


def acked(answer: dict[str, Any]) -> int:
    """Return when an update was acknowledged: what of it can be seen from outside."""
    at: int = answer["acked"]
    return at


def series(
    control: Control,
    given: argparse.Namespace,
    pid: int,
    seen: Callable[[dict[str, Any]], int],
    *,
    whole: bool = False,
) -> dict[str, Any]:
    """Measure single changes of client ``pid``, then full pushes; ``whole`` demands that all were acknowledged."""
    found: dict[str, Any] = {}
    for full, changes in ((False, given.changes), (True, given.full_changes)):
        if changes:
            cpu = cpu_s(pid)
            took, taken = updates(control, given.clusters, changes, given.seconds, full=full, seen=seen)
            if whole and not taken:
                raise SystemExit(f"an update was not taken: {control.stats()['nacks']}")
            found["full" if full else "update"] = {
                "n": len(took),
                "p50_ms": quantile(took, 0.5),
                "p99_ms": quantile(took, 0.99),
                "cpu_ms": 1000 * (cpu_s(pid) - cpu) / len(took),
            }
    return found


if __name__ == "__main__":
    main()
