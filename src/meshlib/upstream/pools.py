"""Connection pools: one httpcore pool an endpoint, so that no pool walks another's connections.

``EndpointPools`` stands where httpx's transport keeps its ``_pool``: it reads which attempt the
request belongs to and hands it to that endpoint's pool. Blocking pools belong to the mesh, async
pools to one event loop (design.md, decision 3).
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpcore

from meshlib.model.cluster import Cluster
from meshlib.model.endpoint import Endpoint
from meshlib.upstream.network import AsyncDialBackend, DialBackend
from meshlib.upstream.tls import Handshake
from meshlib.upstream.tls_contexts import TlsContexts

ATTEMPT = "meshlib.attempt"


@dataclass(frozen=True, slots=True)
class Dial:
    """What an attempt's request carries in its extensions under ``ATTEMPT``.

    Attributes:
        cluster, endpoint: where to connect.
        tls: host name of the application's own TLS (``https://`` URLs), empty for plaintext.
        handshake: the mesh's own TLS, None for plaintext.
    """

    cluster: Cluster
    endpoint: Endpoint
    tls: str
    handshake: Handshake | None = None


@dataclass(frozen=True, slots=True)
class PoolKey:
    """What connections may be shared by.

    Attributes:
        cluster: clusters do not share connections (their settings differ).
        address: the endpoint's address.
        http2: the protocol.
        tls: host name of the application's own TLS, empty for plaintext.
        handshake: the mesh's own TLS, None for plaintext.
    """

    cluster: str
    address: tuple[str, int]
    http2: bool
    tls: str
    handshake: Handshake | None = None


def pool_key(dial: Dial) -> PoolKey:
    """Return the key of the pool for an attempt."""
    cluster, tls = dial.cluster, dial.tls
    return PoolKey(cluster.name, dial.endpoint.key, cluster.http2 and not tls, tls, dial.handshake)


def supersedes(new: Handshake | None, old: Handshake | None) -> bool:
    """Tell whether connections to an address by ``old`` are of no more use once there are some by ``new``.

    The settings or the certificates have changed. Where only the names differ, which are the requests', both stay.
    """
    if new is None or old is None:
        return new is not old
    return new.material is not old.material or new.tls != old.tls


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How pools of one transport are made.

    Attributes:
        max_connections: per endpoint, None = no limit (clusters set theirs).
        max_keepalive: idle connections kept per endpoint.
        keepalive_expiry: seconds an idle connection is kept.
        ssl_context: for ``https://`` URLs, the application's own TLS.
        http2: whether the application's own TLS may negotiate HTTP/2.
        contexts: makes the mesh's own TLS.
    """

    max_connections: int | None
    max_keepalive: int | None
    keepalive_expiry: float | None
    ssl_context: ssl.SSLContext | None
    http2: bool = False
    contexts: TlsContexts = field(default_factory=TlsContexts, compare=False)

    def arguments(self, key: PoolKey, idle_timeout: float | None) -> dict[str, Any]:
        """Return the keyword arguments of an httpcore pool for ``key``, of a cluster with this ``idle_timeout``."""
        expiries = [each for each in (self.keepalive_expiry, idle_timeout) if each is not None]
        return {
            "ssl_context": self.ssl_context if key.tls else None,
            "max_connections": self.max_connections,
            "max_keepalive_connections": self.max_keepalive,
            "keepalive_expiry": min(expiries, default=None),
            # Prior knowledge in plaintext (http2_protocol_options); ALPN under the application's TLS.
            "http1": not key.http2,
            "http2": key.http2 or (bool(key.tls) and self.http2),
        }


def _is_superseded(old: PoolKey, new: PoolKey) -> bool:
    same = (old.cluster, old.address, old.tls) == (new.cluster, new.address, new.tls)
    return same and supersedes(new.handshake, old.handshake)


def _addressed(request: httpcore.Request, endpoint: Endpoint, tls: str) -> httpcore.Request:
    """Name the endpoint in the origin, so that all logical hosts share its connections."""
    host = tls or endpoint.address
    request.url = httpcore.URL(
        scheme=b"https" if tls else b"http",
        host=host.encode("idna" if not host.isascii() else "ascii"),
        port=endpoint.port or None,
        target=request.url.target,
    )
    return request


def _redirect(pool: httpcore.ConnectionPool | httpcore.AsyncConnectionPool, endpoint: Endpoint) -> None:
    """Open new connections to where an endpoint is now (LOGICAL_DNS); those that are open serve on."""
    backend = pool._network_backend
    if endpoint.resolved and isinstance(backend, DialBackend | AsyncDialBackend):
        backend.endpoint = endpoint


class EndpointPools(httpcore.ConnectionPool):
    """Blocking pools by endpoint. Thread-safe."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._by_key: dict[PoolKey, httpcore.ConnectionPool] = {}
        self._lock = threading.Lock()

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send ``request`` to the endpoint of the attempt it carries."""
        attempt: Dial = request.extensions[ATTEMPT]
        key = pool_key(attempt)
        pool = self._by_key.get(key)
        if pool is None:
            with self._lock:
                pool = self._by_key.get(key)
                if pool is None:
                    pool = httpcore.ConnectionPool(
                        network_backend=DialBackend(attempt.endpoint, attempt.handshake),
                        **self._settings.arguments(key, attempt.cluster.connections.idle_timeout),
                    )
                    self._by_key[key] = pool
            self._retire(lambda other: _is_superseded(other, key))
        _redirect(pool, attempt.endpoint)
        return pool.handle_request(_addressed(request, attempt.endpoint, attempt.tls))

    def retire(self, keeps: Callable[[str, tuple[str, int]], bool]) -> None:
        """Close idle connections of endpoints that are gone; requests in flight end in peace.

        Args:
            keeps: tells of (cluster name, address) whether it still stands.
        """
        self._retire(lambda key: not keeps(key.cluster, key.address))

    def _retire(self, is_gone: Callable[[PoolKey], bool]) -> None:
        with self._lock:
            gone = [key for key in self._by_key if is_gone(key)]
            retired = [self._by_key.pop(key) for key in gone]
        for pool in retired:
            # In httpcore's own words, so that no request takes a connection while it closes:
            # keep nothing, now and when the requests in flight give theirs back.
            pool._max_keepalive_connections = 0
            with pool._optional_thread_lock:
                closing = pool._assign_requests_to_connections()
            pool._close_connections(closing)

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            closing, self._by_key = list(self._by_key.values()), {}
        for pool in closing:
            pool.close()

    def forget(self) -> None:
        """Drop every connection unclosed: it belongs to the parent process."""
        self._lock = threading.Lock()
        self._by_key = {}


class AsyncEndpointPools(httpcore.AsyncConnectionPool):
    """Async pools by endpoint, of one event loop."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._by_key: dict[PoolKey, httpcore.AsyncConnectionPool] = {}

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send ``request`` to the endpoint of the attempt it carries."""
        attempt: Dial = request.extensions[ATTEMPT]
        key = pool_key(attempt)
        pool = self._by_key.get(key)
        if pool is None:
            pool = self._by_key[key] = httpcore.AsyncConnectionPool(
                network_backend=AsyncDialBackend(attempt.endpoint, attempt.handshake),
                **self._settings.arguments(key, attempt.cluster.connections.idle_timeout),
            )
            await self._retire(lambda other: _is_superseded(other, key))
        _redirect(pool, attempt.endpoint)
        return await pool.handle_async_request(_addressed(request, attempt.endpoint, attempt.tls))

    async def retire(self, keeps: Callable[[str, tuple[str, int]], bool]) -> None:
        """Close idle connections of endpoints that are gone, as :meth:`EndpointPools.retire`."""
        await self._retire(lambda key: not keeps(key.cluster, key.address))

    async def _retire(self, is_gone: Callable[[PoolKey], bool]) -> None:
        gone = [key for key in self._by_key if is_gone(key)]
        for pool in [self._by_key.pop(key) for key in gone]:
            pool._max_keepalive_connections = 0
            await pool._close_connections(pool._assign_requests_to_connections())

    async def aclose(self) -> None:
        """Close every connection."""
        closing, self._by_key = list(self._by_key.values()), {}
        for pool in closing:
            await pool.aclose()
