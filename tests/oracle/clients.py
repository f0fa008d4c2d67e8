"""The client under test: meshlib in the process, blocking or async, in either mode of local replies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from google.protobuf import json_format

import meshlib
from meshlib.model.snapshot import Snapshot, Style
from meshlib.policy.events import NullObserver
from meshlib.settings import Identity
from meshlib.xds import bootstrap as bootstraps
from meshlib.xds.assembly import Assembly
from meshlib.xds.protos import endpoint_pb2
from meshlib.xds.type_urls import ENDPOINT

Answer = dict[str, Any]


class EdsSource:
    """A static bootstrap whose EDS clusters get their endpoints from the test, as over ADS."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._lock = threading.Lock()
        self._assignments: dict[str, Any] = {}
        for cluster in config["static_resources"]["clusters"]:
            if cluster.get("type") == "EDS":
                eds = cluster.setdefault("eds_cluster_config", {})
                eds["eds_config"] = {"ads": {}, "resource_api_version": "V3"}
                self._assign(cluster["name"], cluster.pop("load_assignment"), eds.get("service_name"))
        self._resources = dict(bootstraps.load(config).static)
        self._assembly = Assembly(Style.STATIC)
        self._publish: Callable[[Snapshot], None] | None = None
        self._version = 0

    def _assign(self, cluster: str, assignment: Mapping[str, Any], service: str | None = None) -> None:
        name = service or cluster
        message = json_format.ParseDict({**assignment, "cluster_name": name}, endpoint_pb2.ClusterLoadAssignment())
        self._assignments[name] = message

    def update(self, cluster: str, assignment: Mapping[str, Any]) -> None:
        with self._lock:
            self._assign(cluster, assignment)
            self._apply()

    def _apply(self) -> None:
        self._version += 1
        faults = self._assembly.apply(str(self._version), {**self._resources, ENDPOINT: self._assignments})
        if faults:
            raise meshlib.BootstrapError("; ".join(map(str, faults)))
        if self._publish is not None:
            self._publish(self._assembly.snapshot())

    def start(self, publish: Callable[[Snapshot], None], usage: object = None) -> None:
        self._publish = publish
        self._apply()

    def close(self) -> None: ...

    def describe(self) -> str:
        return "the corpus"

    def demand(self, host: str, port: int) -> bool:
        return False

    def wake(self, cluster: str) -> None:
        pass

    def forked(self) -> None: ...


class Records(NullObserver):
    """Keeps the record of every call, by its ``x-case`` header."""

    def __init__(self) -> None:
        self.by_case: dict[str, meshlib.CallRecord] = {}

    def call_ended(self, record: meshlib.CallRecord) -> None:
        self.by_case[record.request.header("x-case") or ""] = record


class Client:
    """One mesh for one case file; asked like a proxy."""

    def __init__(self, config: Mapping[str, Any], *, blocking: bool, local_replies: str) -> None:
        quiet: Any = {"metrics": False, "tracing": False}
        self._records = Records()
        quiet["observers"] = (self._records,)
        self._source: EdsSource | None = None
        if any(cluster.get("type") == "EDS" for cluster in config["static_resources"]["clusters"]):
            self._source = EdsSource(config)
            self._mesh = meshlib.Mesh(self._source, Identity(), **quiet)
        else:
            self._mesh = meshlib.Mesh.from_bootstrap(config, **quiet)
        options: Any = {"local_replies": local_replies, "verify": False}
        self._blocking = self._mesh.transport(**options) if blocking else None
        self._transport = None if blocking else self._mesh.async_transport(**options)

    def start(self) -> None:
        """Load the configuration; raises ``BootstrapError`` when it is refused."""
        self._mesh.wait_ready(5.0)

    async def request(self, request: httpx.Request) -> Answer:
        """Send a request; returns status, headers and body, or nothing where the mesh raised."""
        try:
            if self._blocking is not None:
                return await asyncio.to_thread(self._request_blocking, request)
            return await self._request_async(request)
        except httpx.TransportError as error:
            if "record" not in error.__dict__:
                raise
            return {"raised": type(error).__name__}

    async def _request_async(self, request: httpx.Request) -> Answer:
        assert self._transport is not None
        response = await self._transport.handle_async_request(request)
        answer = _head(response)
        try:
            answer["body"] = (await response.aread()).decode("latin-1")
        except httpx.TransportError:
            answer["body_truncated"] = True
        finally:
            await response.aclose()
        return answer

    def _request_blocking(self, request: httpx.Request) -> Answer:
        assert self._blocking is not None
        response = self._blocking.handle_request(request)
        answer = _head(response)
        try:
            answer["body"] = response.read().decode("latin-1")
        except httpx.TransportError:
            answer["body_truncated"] = True
        finally:
            response.close()
        return answer

    def told(self, case: str) -> Answer:
        """Return what the record of a call says, the call of an exception or a cancelled one, too."""
        record = self._records.by_case.get(case)
        if record is None:
            return {}
        # Envoy names no cluster that does not exist.
        cluster = record.cluster_name if record.cluster_name and "NC" not in record.response_flags else None
        told = {"route": record.route or None, "cluster": cluster, "flags": record.response_flags}
        if record.redirects:
            # Envoy logs every hop of an internal redirect; kept was the line of the first, which names where it led.
            told.update(route=record.redirects[0].target or None, flags="-")
        if len(record.redirects) > 1:
            told["cluster"] = record.redirects[1].cluster or None
        return {**told, "status": record.status}

    def update_endpoints(self, cluster: str, assignment: Mapping[str, Any]) -> None:
        assert self._source is not None, "the case has no EDS cluster"
        self._source.update(cluster, assignment)

    async def close(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()
        if self._blocking is not None:
            self._blocking.close()
        self._mesh.close()


def _head(response: httpx.Response) -> Answer:
    headers = [(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in response.headers.raw]
    return {"status": response.status_code, "headers": headers}
