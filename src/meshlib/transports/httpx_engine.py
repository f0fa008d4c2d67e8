"""The engine under the httpx drivers: attempts over our own HTTP/1.1 connections.

Mocks and instrumentation keep working because the function is looked at *now*: when somebody
replaced ``HTTPTransport.handle_request`` (pytest-httpx) or httpcore's pool (respx), the attempt
takes the carrier instead, httpx's own transport over our endpoint pools. A ``__wrapped__`` chain
that ends in httpx's own function is instrumentation and changes nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import httpcore
import httpx
import sniffio

from meshlib.policy.effects import Attempt, ErrorKind
from meshlib.transports.httpx_exchange import Exchange
from meshlib.transports.httpx_failures import to_httpx
from meshlib.transports.httpx_translate import attempt_headers, attempt_stream
from meshlib.upstream.clock import AttemptClock
from meshlib.upstream.failure import AttemptFailed
from meshlib.upstream.http11 import asynchronous, blocking
from meshlib.upstream.http11.blocking import Origin, Outgoing
from meshlib.upstream.http11.framing import BadRequest, Phase, ResponseReader, encode_head
from meshlib.upstream.pools import PoolSettings, supersedes
from meshlib.upstream.tls import Handshake

# What the first request would import, the standard library and anyio being lazy. A child that is
# forked while a thread of its parent imports a module waits for that module for ever.
for _lazy in ("encodings.idna", "anyio._backends._asyncio"):
    with contextlib.suppress(ImportError):  # anyio's name for its own part
        importlib.import_module(_lazy)

# Cluster, address, host name of the application's own TLS, the mesh's TLS: what connections may be shared by.
Key = tuple[str, tuple[str, int], str, Handshake | None]


def is_own(function: Callable[..., object], module: str) -> bool:
    """Tell whether ``function``, unwrapped, is defined in ``module``: nobody replaced it."""
    while (inner := getattr(function, "__wrapped__", None)) is not None:
        function = inner
    return getattr(function, "__module__", "").startswith(module)


def mocked() -> bool:
    """Tell whether httpx's blocking transport or httpcore's pool is replaced just now."""
    return not (
        is_own(httpx.HTTPTransport.handle_request, "httpx")
        and is_own(httpcore.ConnectionPool.handle_request, "httpcore")
    )


def async_mocked() -> bool:
    """Tell whether httpx's async transport or httpcore's pool is replaced just now."""
    return not (
        is_own(httpx.AsyncHTTPTransport.handle_async_request, "httpx")
        and is_own(httpcore.AsyncConnectionPool.handle_async_request, "httpcore")
    )


def carries(settings: PoolSettings, exchange: Exchange, effect: Attempt) -> bool:
    """Tell whether the engine can carry an attempt; HTTP/2 goes through httpcore."""
    return not (settings.http2 if exchange.tls else effect.cluster.http2)


def outgoing(exchange: Exchange, effect: Attempt, clock: AttemptClock) -> Outgoing:
    """Return an attempt as bytes to send; raises ``httpx.LocalProtocolError`` for what must not be sent."""
    view = exchange.call.view
    method = exchange.sent.method.encode("ascii")
    try:
        head = encode_head(method, effect.target.encode("ascii"), attempt_headers(exchange, effect))
    except BadRequest as error:
        raise httpx.LocalProtocolError(str(error)) from None
    expects = (view.header("expect") or "").lower() == "100-continue"
    stream = attempt_stream(exchange, clock)
    if view.replayable:
        return Outgoing(method, head, b"".join(stream), False, expects)
    chunked = (view.header("transfer-encoding") or "").lower() == "chunked"
    return Outgoing(method, head, stream, chunked, expects)


def _response(reader: ResponseReader, stream: Any, network_stream: Any) -> httpx.Response:
    extensions: dict[str, Any] = {
        "http_version": reader.version,
        "reason_phrase": reader.reason,
        "network_stream": network_stream,
        "trailers": reader.trailers,
    }
    return httpx.Response(reader.status, headers=reader.headers, stream=stream, extensions=extensions)


class Engine:
    """Blocking connections by endpoint. Thread-safe."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._pools: dict[Key, blocking.Pool] = {}
        self._lock = threading.Lock()

    def carries(self, exchange: Exchange, effect: Attempt) -> bool:
        """Tell whether this engine can carry an attempt."""
        return carries(self._settings, exchange, effect)

    def send(
        self, exchange: Exchange, effect: Attempt, secured: Handshake | None, clock: AttemptClock
    ) -> httpx.Response:
        """Send one attempt; raises ``AttemptFailed``."""
        timeouts = exchange.timeouts
        message = outgoing(exchange, effect, clock)
        pool = self._pool(effect, exchange.tls, secured)
        pool.life = effect.cluster.connections
        connection = pool.acquire(clock, timeouts.to_connect(effect), timeouts.left_to_wait())
        clock.on_cancel = connection.abort
        try:
            if clock.cancelled:
                raise AttemptFailed(ErrorKind.APPLICATION, "the attempt was given up", phase="connect")
            reader = connection.request(message, clock, timeouts.write)
        except BaseException:
            pool.release(connection)
            raise
        body = Body(connection, pool, clock, timeouts.read)
        return _response(reader, body, UpgradeStream(connection, pool))

    def retire(self, keeps: Callable[[str, tuple[str, int]], bool]) -> None:
        """Close the pools of endpoints that are gone; requests in flight end in peace."""
        self._retire(lambda key: not keeps(key[0], key[1]))

    def _retire(self, is_gone: Callable[[Key], bool]) -> None:
        with self._lock:
            gone = [key for key in self._pools if is_gone(key)]
            retired = [self._pools.pop(key) for key in gone]
        for pool in retired:
            pool.close()

    def close(self) -> None:
        """Close every connection that is not in use, and the others when they come back."""
        self.retire(lambda _cluster, _address: False)

    def forget(self) -> None:
        """Drop every connection unclosed: it belongs to the parent process."""
        self._lock = threading.Lock()
        self._pools = {}

    def _pool(self, effect: Attempt, tls: str, secured: Handshake | None) -> blocking.Pool:
        key = (effect.cluster.name, effect.endpoint.key, tls, secured)
        pool = self._pools.get(key)
        if pool is None:
            with self._lock:
                pool = self._pools.get(key)
                if pool is None:
                    origin = _origin(self._settings, effect, tls, secured)
                    pool = self._pools[key] = blocking.Pool(origin, *_limits(self._settings))
            self._retire(lambda other: _is_superseded(other, key))
        if effect.endpoint.resolved:
            pool.redirect(effect.endpoint)
        return pool


class AsyncEngine:
    """Async connections by endpoint, of one event loop."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._pools: dict[Key, asynchronous.Pool] = {}

    def carries(self, exchange: Exchange, effect: Attempt) -> bool:
        """Tell whether this engine can carry an attempt; trio goes through httpcore."""
        return carries(self._settings, exchange, effect) and sniffio.current_async_library() == "asyncio"

    async def send(
        self, exchange: Exchange, effect: Attempt, secured: Handshake | None, clock: AttemptClock
    ) -> httpx.Response:
        """Send one attempt; raises ``AttemptFailed``."""
        timeouts, tls = exchange.timeouts, exchange.tls
        message = outgoing(exchange, effect, clock)
        key = (effect.cluster.name, effect.endpoint.key, tls, secured)
        pool = self._pools.get(key)
        if pool is None:
            origin = _origin(self._settings, effect, tls, secured)
            pool = self._pools[key] = asynchronous.Pool(origin, *_limits(self._settings))
            self._retire(lambda other: _is_superseded(other, key))
        if effect.endpoint.resolved:
            pool.redirect(effect.endpoint)
        pool.life = effect.cluster.connections
        connection = await pool.acquire(clock, timeouts.to_connect(effect), timeouts.left_to_wait())
        try:
            reader = await connection.request(message, clock)
        except BaseException:
            pool.release(connection)
            raise
        body = AsyncBody(connection, pool, timeouts.read)
        return _response(reader, body, AsyncUpgradeStream(connection, pool))

    def retire(self, keeps: Callable[[str, tuple[str, int]], bool]) -> None:
        """Close the pools of endpoints that are gone; requests in flight end in peace."""
        self._retire(lambda key: not keeps(key[0], key[1]))

    def _retire(self, is_gone: Callable[[Key], bool]) -> None:
        for key in [key for key in self._pools if is_gone(key)]:
            self._pools.pop(key).close()

    def close(self) -> None:
        """Close every connection that is not in use, and the others when they come back."""
        self.retire(lambda _cluster, _address: False)


def _origin(settings: PoolSettings, effect: Attempt, tls: str, secured: Handshake | None) -> Origin:
    if secured is not None:
        return Origin(effect.endpoint, secured.context, secured.server_name, secured)
    return Origin(effect.endpoint, settings.ssl_context if tls else None, tls)


def _is_superseded(old: Key, new: Key) -> bool:
    return old[:3] == new[:3] and supersedes(new[3], old[3])


def _limits(settings: PoolSettings) -> tuple[int | None, int | None, float | None]:
    return settings.max_connections, settings.max_keepalive, settings.keepalive_expiry


class Body(httpx.SyncByteStream):
    """A response body; gives its connection back at its end or when closed."""

    def __init__(
        self, connection: blocking.Connection, pool: blocking.Pool, clock: AttemptClock, gap: float | None
    ) -> None:
        self._connection = connection
        # Released, the connection is another thread's, and its reader that of another response.
        self._reader = connection.reader
        self._pool: blocking.Pool | None = pool
        self._clock = clock
        self._gap = gap
        if self._reader.complete:
            self._release()

    def __iter__(self) -> Iterator[bytes]:
        connection = self._connection
        try:
            while part := connection.read_body(self._clock, self._gap) if self._pool else self._reader.take():
                if self._reader.complete:
                    self._release()
                yield part
        except AttemptFailed as failure:
            raise to_httpx(failure) from None
        finally:
            self.close()

    def take(self) -> bytes | None:
        """Return what is left of the body where all of it is here, else None."""
        return self._reader.take() if self._pool is None and self._reader.complete else None

    def close(self) -> None:
        """Give the connection back; a body not read to its end closes it."""
        self._release()

    def __del__(self) -> None:
        # A response dropped without being closed must not keep a slot of its pool for ever.
        self._release()

    def _release(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None and self._reader.phase is not Phase.UPGRADED:
            pool.release(self._connection)


class AsyncBody(httpx.AsyncByteStream):
    """A response body; gives its connection back at its end or when closed."""

    def __init__(self, connection: asynchronous.Connection, pool: asynchronous.Pool, gap: float | None) -> None:
        self._connection = connection
        self._pool: asynchronous.Pool | None = pool
        self._gap = gap
        self._rest = b""
        self._whole = False
        if connection.reader.complete:
            self._finish()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection = self._connection
        try:
            while self._pool is not None and (part := await connection.read_body(self._gap)):
                if connection.reader.complete:
                    self._finish()
                yield part
            if self._rest:
                rest, self._rest = self._rest, b""
                yield rest
        except AttemptFailed as failure:
            raise to_httpx(failure) from None
        finally:
            await self.aclose()

    def take(self) -> bytes | None:
        """Return what is left of the body where all of it is here, else None."""
        if self._pool is not None or not self._whole:
            return None
        rest, self._rest = self._rest, b""
        return rest

    async def aclose(self) -> None:
        """Give the connection back; a body not read to its end closes it."""
        pool, self._pool = self._pool, None
        if pool is not None and self._connection.reader.phase is not Phase.UPGRADED:
            pool.release(self._connection)

    def __del__(self) -> None:
        # A response dropped without being closed must not keep a slot of its pool for ever; the
        # garbage collector may run on another thread than the event loop's.
        pool, self._pool = self._pool, None
        if pool is not None and self._connection.reader.phase is not Phase.UPGRADED:
            self._connection.hand_back(pool.release)

    def _finish(self) -> None:
        # The response is over: its connection serves the next call while this body is read.
        pool, self._pool = self._pool, None
        self._rest = self._connection.reader.take()
        self._whole = True
        if pool is not None:
            pool.release(self._connection)


class UpgradeStream(httpcore.NetworkStream):
    """``extensions["network_stream"]``: the connection, after an upgrade yours to speak on."""

    def __init__(self, connection: blocking.Connection, pool: blocking.Pool) -> None:
        self._connection = connection
        self._pool = pool

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what the upgraded peer sends."""
        try:
            return self._connection.read_raw(max_bytes, timeout)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send to the upgraded peer."""
        try:
            self._connection.write_raw(buffer, timeout)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        """Close the connection."""
        if not self._connection.broken:
            self._connection.close()
            self._pool.release(self._connection)

    def get_extra_info(self, info: str) -> Any:
        """Return ``socket``, ``client_addr`` or ``server_addr``."""
        sock = self._connection.socket
        names: dict[str, Callable[[], Any]] = {
            "socket": lambda: sock,
            "client_addr": sock.getsockname,
            "server_addr": sock.getpeername,
        }
        with contextlib.suppress(OSError):
            return names[info]() if info in names else None
        return None


class AsyncUpgradeStream(httpcore.AsyncNetworkStream):
    """``extensions["network_stream"]``: the connection, after an upgrade yours to speak on."""

    def __init__(self, connection: asynchronous.Connection, pool: asynchronous.Pool) -> None:
        self._connection = connection
        self._pool = pool

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what the upgraded peer sends."""
        try:
            with anyio.fail_after(timeout):
                data = await self._connection.read_raw()
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except AttemptFailed as error:
            raise httpcore.ReadError(error.message) from error
        self._connection.reader.surplus = data[max_bytes:]
        return data[:max_bytes]

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send to the upgraded peer."""
        try:
            with anyio.fail_after(timeout):
                await self._connection.write_raw(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except AttemptFailed as error:
            raise httpcore.WriteError(error.message) from error

    async def aclose(self) -> None:
        """Close the connection."""
        if not self._connection.broken:
            self._connection.close()
            self._pool.release(self._connection)

    def get_extra_info(self, info: str) -> Any:
        """Return ``socket``, ``client_addr`` or ``server_addr``."""
        transport = self._connection.transport
        names = {"socket": "socket", "client_addr": "sockname", "server_addr": "peername", "ssl_object": "ssl_object"}
        return transport.get_extra_info(names[info]) if transport is not None and info in names else None
