"""meshlib's router and the real Envoy's, side by side, on random configurations: ``make differential``.

A configuration is loaded by both; both take it or both refuse it. Then both get the same requests, over sockets to
Envoy and to the transport's own code here, whose attempts end in a function instead of a socket. Compared is what
came of each: status, response headers and body, route, cluster, host, and the request as it went upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Self

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest's `pythonpath` does

import httpx
from google.protobuf import json_format

import meshlib
from meshlib.xds.protos import route_pb2
from oracle.clients import Records
from oracle.damaging import damaged
from oracle.generating import CLUSTERS, RINGS, Generator
from oracle.real_envoy import RealEnvoy

_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_LOGGED = {
    "case": "%REQ(X-CASE)%",
    "route": "%ROUTE_NAME%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "host": "%UPSTREAM_HOST%",
    "flags": "%RESPONSE_FLAGS%",
}
# What every hop adds or takes away, whatever the configuration says.
_NOISE_SENT = frozenset(
    {
        "x-forwarded-proto",
        "x-request-id",
        "x-envoy-internal",
        "content-length",
        "transfer-encoding",
        "connection",
        "host",
    }
)
_NOISE_RECEIVED = frozenset(
    {"date", "server", "x-envoy-upstream-service-time", "content-length", "transfer-encoding", "connection"}
)
# docs/envoy-parity.md: what is taken here, and not there.
_NAMELESS = "VirtualHostValidationError.Name"
_ANSWERED = [("x-up", "u"), ("x-multi", "m1"), ("x-multi", "m2")]
Pairs = list[tuple[str, str]]


def clusters(port: int) -> list[dict[str, Any]]:
    """Return the clusters that routes lead to, all of which end at one port."""

    def host(address: str, name: str = "") -> dict[str, Any]:
        endpoint: dict[str, Any] = {"address": {"socket_address": {"address": address, "port_value": port}}}
        return {"endpoint": endpoint | ({"hostname": name} if name else {})}

    def cluster(name: str, hosts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}
        return {"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": assignment, **more}

    plain = [cluster(name, [host(f"127.0.12.{n + 1}", f"{name}.host" if n else "")]) for n, name in enumerate(CLUSTERS)]
    ring = {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 128}}
    maglev = {"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 251}}
    hashed = [
        cluster(name, [host(f"127.0.13.{n}") for n in range(1, 6)], **policy)
        for name, policy in zip(RINGS, (ring, maglev), strict=True)
    ]
    return [*plain, *hashed]


def chain(config: Mapping[str, Any], log: str = "") -> dict[str, Any]:
    """Return a listener's filter chain with a connection manager of this configuration."""
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "d",
        "generate_request_id": False,
        "route_config": config["route_config"],
        "http_filters": [
            *config["http_filters"],
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router", **config["router"]},
            },
        ],
        **config["hcm"],
    }
    if log:
        file = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
        logger = {"@type": file, "path": log, "log_format": {"json_format": _LOGGED}}
        manager["access_log"] = [{"name": "log", "typed_config": logger}]
    return {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}


def _is_message(config: Mapping[str, Any]) -> bool:
    """Tell whether protobuf can read a configuration: Envoy takes none of the listeners where one is unreadable."""
    try:
        json_format.ParseDict(config["route_config"], route_pb2.RouteConfiguration())
    except json_format.ParseError:
        return False
    return True


@dataclass(slots=True)
class Decision:
    """What came of one request."""

    status: int | None = None
    headers: Pairs = field(default_factory=list)
    body: str = ""
    route: str | None = None
    cluster: str | None = None
    flags: str = "-"
    host: str | None = None
    sent: tuple[str, str, str, Pairs] | None = None

    def differences(self, ours: Decision) -> Iterator[str]:
        """Yield how ``ours`` differs from this one, Envoy's."""
        for name in ("status", "body", "route", "cluster", "flags", "host"):
            if getattr(self, name) != getattr(ours, name):
                yield f"{name}: {getattr(self, name)!r}, not {getattr(ours, name)!r}"
        if _by_name(self.headers) != _by_name(ours.headers):
            yield f"response headers: {self.headers}, not {ours.headers}"
        if self.sent is None or ours.sent is None:
            if self.sent != ours.sent:
                yield f"upstream: {self.sent}, not {ours.sent}"
            return
        for name, theirs, own in zip(("method", "path", "host"), self.sent, ours.sent, strict=False):
            if theirs != own:
                yield f"upstream {name}: {theirs!r}, not {own!r}"
        if _by_name(self.sent[3]) != _by_name(ours.sent[3]):
            yield f"upstream headers: {self.sent[3]}, not {ours.sent[3]}"


def _by_name(pairs: Pairs) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _clean(pairs: Pairs, noise: frozenset[str]) -> Pairs:
    return [(k.lower(), v.strip()) for k, v in pairs if k.lower() not in noise and k.lower() != "x-case"]


class Upstream:
    """An HTTP/1.1 server that answers everything alike, and keeps what it was asked."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[str, str, str, Pairs]] = {}
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "0.0.0.0", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, pairs = _parsed(head)
                method, _, path = line.removesuffix(" HTTP/1.1").partition(" ")
                case = next((value for key, value in pairs if key == "x-case"), "")
                host = next((value for key, value in pairs if key == "host"), "")
                self.seen[case] = (method, path, host, _clean(pairs, _NOISE_SENT))
                extra = "".join(f"{key}: {value}\r\n" for key, value in _ANSWERED)
                writer.write(f"HTTP/1.1 200 OK\r\n{extra}content-length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _parsed(head: bytes) -> tuple[str, Pairs]:
    lines = head[:-4].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:])
    return lines[0], [(key.strip().lower(), value.strip()) for key, _, value in pairs]


async def ask_envoy(path: str, request: Mapping[str, Any], case: str) -> Decision:
    """Send one request on a connection of its own."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        pairs = [("Host", request["authority"]), *request["headers"], ("x-case", case)]
        head = (
            f"{request['method']} {request['path']} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in pairs) + "\r\n"
        )
        writer.write(head.encode("latin-1"))
        line, headers = _parsed(await reader.readuntil(b"\r\n\r\n"))
        status = int(line.split(" ")[1])
        length = int(next((v for k, v in headers if k == "content-length"), "0"))
        silent = request["method"] == "HEAD" or status in (204, 304)
        body = "" if silent else (await reader.readexactly(length)).decode("utf-8", "replace")
        return Decision(status, _clean(headers, _NOISE_RECEIVED), body)
    except (asyncio.IncompleteReadError, ConnectionError):
        return Decision()
    finally:
        writer.close()


class Ours:
    """The same configuration in a mesh whose attempts end here."""

    def __init__(self, config: Mapping[str, Any], port: int) -> None:
        listener = {
            "name": "l",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 10000}},
            "filter_chains": [chain(config)],
        }
        resources = {"listeners": [listener], "clusters": clusters(port)}
        self._records = Records()
        quiet: Any = {"metrics": False, "tracing": False, "observers": (self._records,)}
        self._mesh = meshlib.Mesh.from_bootstrap({"static_resources": resources}, **quiet)
        self._sent: tuple[str, str, str, Pairs] | None = None
        options: Any = {"local_replies": "response", "inner": httpx.MockTransport(self._attempt)}
        self._transport = self._mesh.transport(**options)
        self._mesh.wait_ready(5.0)

    def close(self) -> None:
        self._transport.close()
        self._mesh.close()

    def _attempt(self, request: httpx.Request) -> httpx.Response:
        target = request.extensions.get("target") or request.url.raw_path
        pairs = [(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in request.headers.raw]
        host = next((value for key, value in pairs if key == "host"), "")
        self._sent = (request.method, target.decode("latin-1"), host, _clean(pairs, _NOISE_SENT))
        return httpx.Response(200, headers=_ANSWERED)

    def ask(self, request: Mapping[str, Any], case: str) -> Decision:
        headers = [("Host", request["authority"]), *map(tuple, request["headers"]), ("x-case", case)]
        extensions = {"target": request["path"].encode("latin-1")}
        self._sent = None
        made = httpx.Request(request["method"], "http://svc.test/", headers=headers, extensions=extensions)
        response = self._transport.handle_request(made)
        body = "" if request["method"] == "HEAD" else response.read().decode("utf-8", "replace")
        pairs = [(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in response.headers.raw]
        record = self._records.by_case[case]
        known = record.cluster_name if "NC" not in record.response_flags else ""
        return Decision(
            status=response.status_code,
            headers=_clean(pairs, _NOISE_RECEIVED),
            body=body,
            route=record.route or None,
            cluster=known or None,
            flags=record.response_flags,
            host=str(record.endpoint) if record.endpoint else None,
            sent=self._sent,
        )


@dataclass(slots=True)
class Tally:
    """How far the run is."""

    decisions: int = 0
    refused: int = 0
    accepted: int = 0
    differing: int = 0
    explained: int = 0
    statuses: Counter[int | None] = field(default_factory=Counter)


class Run:
    """One run: as many decisions as asked for, in batches of configurations that an Envoy loads at once."""

    def __init__(self, seed: int, decisions: int, *, batch: int = 60, requests: int = 40, damage: float = 0.3) -> None:
        self._seed, self._decisions = seed, decisions
        self._batch, self._requests, self._damage = batch, requests, damage
        self.tally = Tally()

    def configuration(self, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the configuration and the requests of one seed."""
        generator = Generator(seed, 0)
        config = generator.configuration()
        requests = [generator.request() for _ in range(self._requests)]
        chance = Random(f"damage {seed}")
        if chance.random() < self._damage:
            broken = damaged(config, chance)
            config = broken if _is_message(broken) else config
        return config, requests

    async def differences(self) -> Any:
        """Yield every difference, as a line that begins with its seed."""
        with tempfile.TemporaryDirectory(prefix="d") as name:
            async with Upstream() as upstream:
                with RealEnvoy(Path(name), clusters(upstream.port)) as envoy:
                    seed = self._seed
                    while self.tally.decisions < self._decisions:
                        seeds = range(seed, seed + self._batch)
                        async for line in self._of(seeds, Path(name), upstream, envoy):
                            self.tally.differing += 1
                            yield line
                        seed += self._batch

    async def _of(self, seeds: range, folder: Path, upstream: Upstream, envoy: RealEnvoy) -> Any:
        made = {seed: self.configuration(seed) for seed in seeds}
        log = folder / f"log{seeds.start}"
        listeners = [
            {
                "name": f"l{seed}",
                "address": {"pipe": {"path": str(folder / f"s{seed}")}},
                "filter_chains": [chain(config, str(log))],
            }
            for seed, (config, _) in made.items()
        ]
        refused = await asyncio.to_thread(envoy.load, listeners)
        asked: dict[str, tuple[dict[str, Any], Decision, Decision]] = {}
        for seed, (config, requests) in made.items():
            theirs = refused.get(f"l{seed}")
            try:
                ours = Ours(config, upstream.port)
            except meshlib.BootstrapError as error:
                self.tally.refused += 1
                if theirs is None:
                    yield f"{seed}: accepted, not refused: {error}"
                continue
            try:
                if theirs is not None and _NAMELESS in theirs:
                    self.tally.explained += 1
                    continue
                if theirs is not None:
                    yield f"{seed}: refused, not accepted: {theirs}"
                    continue
                self.tally.accepted += 1
                for n, request in enumerate(requests):
                    case = f"{seed}.{n}"
                    envoys = await ask_envoy(str(folder / f"s{seed}"), request, case)
                    asked[case] = (request, envoys, ours.ask(request, case))
            finally:
                ours.close()
        await self._read(log, asked, upstream)
        for case, (request, envoys, own) in asked.items():
            self.tally.decisions += 1
            self.tally.statuses[envoys.status] += 1
            if envoys.flags == "DPE":  # Envoy's codec refuses to send on what the configuration makes
                self.tally.explained += 1
            elif found := list(envoys.differences(own)):
                yield f"{case}: {json.dumps(request)}: " + "; ".join(found)

    async def _read(self, log: Path, asked: Mapping[str, Any], upstream: Upstream) -> None:
        """Add to Envoy's decisions what its access log and the upstream know of them."""
        until = time.monotonic() + 10
        lines: list[str] = []
        while len(lines) < len(asked) and time.monotonic() < until:
            await asyncio.sleep(0.05)
            lines = log.read_text().splitlines() if log.exists() else []
        for line in lines:
            told = json.loads(line)
            if told["case"] in asked:
                decision: Decision = asked[told["case"]][1]
                decision.route, decision.cluster, decision.host = told["route"], told["cluster"], told["host"]
                decision.flags = told["flags"] or "-"
        for case, (_, decision, _ours) in asked.items():
            decision.sent = upstream.seen.get(case)


async def run(options: argparse.Namespace) -> int:
    job = Run(options.seed, options.decisions, requests=options.requests, damage=options.damage)
    began = time.monotonic()
    async for line in job.differences():
        print(line)
    tally = job.tally
    print(f"{tally.statuses}", file=sys.stderr)
    print(
        json.dumps(
            {
                "decisions": tally.decisions,
                "configurations": tally.accepted,
                "refused": tally.refused,
                "explained": tally.explained,
                "differences": tally.differing,
                "seed": options.seed,
                "seconds": round(time.monotonic() - began, 1),
            }
        )
    )
    return 1 if tally.differing else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make differential", description=__doc__)
    parser.add_argument("--decisions", type=int, default=10_000, help="how many requests are routed by both")
    parser.add_argument("--requests", type=int, default=40, help="for each configuration")
    parser.add_argument(
        "--damage", type=float, default=0.3, help="share of configurations that are damaged in one place"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first configuration; the next ones follow")
    logging.disable()
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
