"""One way to call, blocking or async: the same scenario through both drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import httpx

from meshlib.model.route import Route, RouteConfiguration
from meshlib.model.snapshot import Snapshot
from meshlib.runtime.runtime import Runtime
from meshlib.transports.httpx_async import AsyncMeshTransport
from meshlib.transports.httpx_sync import MeshTransport
from meshlib.transports.options import TransportOptions
from policy.snapshots import cluster, snapshot
from runtime.handmade import HandmadeSource, assert_idle, runtime
from transports.scripted import Server

URL = "http://catalog/items"


def mesh_over(*servers: Server, routes: Any = None, mesh: dict[str, Any] | None = None, **fields: Any) -> Runtime:
    """A mesh whose cluster ``c`` has these servers as endpoints."""
    return runtime(HandmadeSource(config_over(*servers, routes=routes, **fields)), **(mesh or {}))


def config_over(
    *servers: Server,
    routes: RouteConfiguration | Iterable[Route] | None = None,
    version: str = "1",
    http: dict[str, Any] | None = None,
    **fields: Any,
) -> Snapshot:
    config = cluster([server.endpoint for server in servers], **fields)
    chosen = routes if routes is None or isinstance(routes, RouteConfiguration) else list(routes)
    return snapshot(config, routes=chosen, version=version, **(http or {}))


class SyncCaller:
    """An ``httpx.Client`` over the mesh."""

    kind = "sync"

    def __init__(self, mesh: Runtime, *, client: dict[str, Any] | None = None, **options: Any) -> None:
        self.mesh = mesh
        self.transport = MeshTransport(mesh, TransportOptions(**{"verify": False, **options}))
        self.client = httpx.Client(transport=self.transport, **{"timeout": None, **(client or {})})

    def request(self, method: str = "GET", url: str = URL, **arguments: Any) -> httpx.Response:
        return self.client.request(method, url, **arguments)

    def stream(
        self, use: Callable[[httpx.Response], Any], method: str = "GET", url: str = URL, **arguments: Any
    ) -> Any:
        """Open a streamed response, ``use`` it, close it."""
        with self.client.stream(method, url, **arguments) as response:
            return use(response)

    def read_some(self, response: httpx.Response) -> bytes:
        """The first part of a streamed body; the rest stays unread."""
        return next(response.iter_raw(1))

    def read_all(self, response: httpx.Response) -> bytes:
        return response.read()

    def body(self, parts: Iterable[bytes]) -> Any:
        """A streamed request body."""
        return iter(parts)

    def close(self) -> None:
        self.client.close()


class AsyncCaller:
    """An ``httpx.AsyncClient`` over the mesh, on an event loop of its own."""

    kind = "async"

    def __init__(self, mesh: Runtime, *, client: dict[str, Any] | None = None, **options: Any) -> None:
        self.mesh = mesh
        self.transport = AsyncMeshTransport(mesh, TransportOptions(**{"verify": False, **options}))
        self.client = httpx.AsyncClient(transport=self.transport, **{"timeout": None, **(client or {})})
        self.loop = asyncio.new_event_loop()

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def request(self, method: str = "GET", url: str = URL, **arguments: Any) -> httpx.Response:
        return self.run(self.client.request(method, url, **arguments))

    def stream(
        self, use: Callable[[httpx.Response], Any], method: str = "GET", url: str = URL, **arguments: Any
    ) -> Any:
        async def streaming() -> Any:
            async with self.client.stream(method, url, **arguments) as response:
                used = use(response)
                return await used if asyncio.iscoroutine(used) else used

        return self.run(streaming())

    async def read_some(self, response: httpx.Response) -> bytes:
        async for part in response.aiter_raw(1):
            return part
        raise AssertionError("the body is empty")

    async def read_all(self, response: httpx.Response) -> bytes:
        return await response.aread()

    def body(self, parts: Iterable[bytes]) -> AsyncIterator[bytes]:
        async def produce() -> AsyncIterator[bytes]:
            for part in parts:
                await asyncio.sleep(0)
                yield part

        return produce()

    def close(self) -> None:
        if self.loop.is_closed():
            return
        self.run(self.client.aclose())
        self.run(self.loop.shutdown_asyncgens())
        self.loop.close()


CALLERS = {"sync": SyncCaller, "async": AsyncCaller}

__all__ = ["CALLERS", "URL", "AsyncCaller", "SyncCaller", "assert_idle", "config_over", "mesh_over"]
