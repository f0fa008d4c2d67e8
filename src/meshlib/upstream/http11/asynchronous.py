"""HTTP/1.1 on asyncio: one connection as a Protocol, and the pool of one endpoint in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import select
import ssl
import time
from collections import deque
from collections.abc import AsyncIterable, Callable
from dataclasses import replace

from meshlib.model.cluster import NO_BOUNDS
from meshlib.model.endpoint import Endpoint
from meshlib.policy.effects import ErrorKind
from meshlib.upstream import names
from meshlib.upstream.clock import AttemptClock
from meshlib.upstream.failure import AttemptFailed
from meshlib.upstream.http11.blocking import CONTINUE_WAIT, Origin, Outgoing, spent
from meshlib.upstream.http11.framing import LAST_CHUNK, FramingError, ResponseReader, encode_chunk
from meshlib.upstream.tls import Handshake, resumed

HIGH_WATER = 256 * 1024  # body bytes held for a slow reader before the socket is no longer read


class Connection(asyncio.Protocol):
    """One connection of one event loop. Used by one task at a time.

    Attributes:
        reader: the response being read.
        made, idle_since: monotonic seconds at which it was made, and went idle.
        served: requests so far.
        broken: whether it can carry no further request.
    """

    __slots__ = (
        "_buffered",
        "_drained",
        "_failure",
        "_loop",
        "_paused",
        "_transport",
        "_waiter",
        "broken",
        "idle_since",
        "made",
        "reader",
        "served",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._failure: AttemptFailed | None = None
        self._paused = False
        self._buffered = 0
        self.reader = ResponseReader(b"GET")
        self.idle_since = 0.0
        self.made = time.monotonic()
        self.served = 0
        self.broken = False

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]  # create_connection makes asyncio.Transport

    def data_received(self, data: bytes) -> None:
        """Feed the reader and wake whoever waits."""
        if self.reader.complete:
            self.broken = True  # bytes nobody asked for
            return
        try:
            self.reader.feed(data)
        except FramingError as error:
            self._fail(AttemptFailed(ErrorKind.PROTOCOL, str(error), phase="read"))
            return
        self._buffered += len(data)
        if self._buffered > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """The server will send no more."""
        self.broken = True
        try:
            self.reader.feed_eof()
        except FramingError as error:
            self._fail(AttemptFailed(ErrorKind.RESET, str(error), phase="end"))
        self._wake()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self.broken = True
        if self._failure is None and not self.reader.complete:
            words = f"connection lost: {error}" if error else "connection lost"
            self._failure = AttemptFailed(ErrorKind.RESET, words, phase="read")
        self._wake()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """There is room again."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    # ---- for the pool and the driver

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: the response is over and keeps the connection."""
        return not self.broken and self.reader.keep_alive

    def is_alive(self) -> bool:
        """Tell whether an idle connection still stands: nothing to read, not even its end.

        Asks the socket, for the event loop may not have looked since the server closed it.
        """
        if self.broken or self._transport is None:
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    @property
    def transport(self) -> asyncio.Transport | None:
        """The transport, for ``network_stream`` and upgrades."""
        return self._transport

    @property
    def tls(self) -> ssl.SSLObject | None:
        """What is known of TLS on this connection, None for plaintext and after the end."""
        found: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object") if self._transport else None
        return found if not self.broken else None

    def verify(self, handshake: Handshake) -> None:
        """Check who the server is, before anything is sent; closes the connection and raises ``PeerRejected``."""
        assert self._transport is not None
        try:
            handshake.verify(self._transport.get_extra_info("ssl_object"))
        except BaseException:
            self.close()
            raise

    async def request(self, outgoing: Outgoing, clock: AttemptClock) -> ResponseReader:
        """Send a request and read its response head; the caller's cancel scope bounds it.

        Raises:
            AttemptFailed: no head came; the connection is closed.
        """
        reader = self.reader = ResponseReader(outgoing.method)
        self.served += 1
        self._failure = None
        self._buffered = 0
        try:
            await self._send(outgoing, clock)
            while not reader.head_complete:
                await self._wait()
        except BaseException:
            self.close()
            raise
        return reader

    async def read_body(self, gap: float | None) -> bytes:
        """Return the next bytes of the body, empty at its end.

        Args:
            gap: the application's read timeout, seconds between reads.

        Raises:
            AttemptFailed: the body broke off; the connection is closed.
        """
        reader = self.reader
        try:
            while not (part := reader.take()) and not reader.complete:
                self._resume()
                async with asyncio.timeout(gap):
                    await self._wait()
        except TimeoutError:
            self.close()
            raise AttemptFailed(ErrorKind.TIMEOUT, "nothing came in time", phase="read", timed_out=True) from None
        except BaseException:
            self.close()
            raise
        self._buffered = 0
        self._resume()
        return part

    async def read_raw(self) -> bytes:
        """Return the next bytes of an upgraded connection, empty at its end."""
        while not (data := self.reader.surplus):
            if self.broken:
                return b""
            self._resume()
            await self._wait()
        self.reader.surplus = b""
        self._buffered = 0
        return data

    async def write_raw(self, data: bytes) -> None:
        """Send bytes on an upgraded connection."""
        self._raise_failure()
        if self._transport is not None:
            self._transport.write(data)
        if self._drained is not None:
            await self._drained

    def hand_back(self, release: Callable[[Connection], None]) -> None:
        """Call ``release`` with this connection on its event loop; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(release, self)

    def close(self) -> None:
        """Close the connection."""
        self.broken = True
        if self._transport is not None:
            self._transport.abort()

    async def _send(self, outgoing: Outgoing, clock: AttemptClock) -> None:
        transport = self._transport
        assert transport is not None
        clock.sent = True
        body = outgoing.body
        if isinstance(body, bytes) and not outgoing.expects_continue:
            transport.write(outgoing.head + body)
            return
        transport.write(outgoing.head)
        if outgoing.expects_continue and not await self._continues():
            return
        if isinstance(body, bytes):
            transport.write(body)
            return
        assert isinstance(body, AsyncIterable)
        async for part in body:
            if self.reader.head_complete:
                self.broken = True  # an early answer; what is left of the body is not sent
                return
            self._raise_failure()
            transport.write(encode_chunk(part) if outgoing.chunked else part)
            if self._drained is not None:
                await self._drained
        if outgoing.chunked:
            transport.write(LAST_CHUNK)

    async def _continues(self) -> bool:
        """Wait for ``100 Continue``; returns whether the body should be sent."""
        try:
            async with asyncio.timeout(CONTINUE_WAIT):
                while not self.reader.head_complete and not self.reader.interim:
                    await self._wait()
        except TimeoutError:
            return True  # an old server that never says it
        self.broken = self.broken or self.reader.head_complete
        return not self.reader.head_complete

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _wait(self) -> None:
        self._raise_failure()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if not self.reader.complete:
            self._raise_failure()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, failure: AttemptFailed) -> None:
        self.broken = True
        self._failure = failure
        self._wake()

    def _resume(self) -> None:
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()


class Pool:
    """Connections to one origin in one event loop: the last used is used first, waiters in line.

    Args:
        origin: where to connect.
        max_connections: None = no limit; at the limit callers wait in line.
        max_idle: idle connections kept, None = all.
        idle_expiry: seconds an idle connection is kept, None = for ever.

    Attributes:
        life: the cluster's own bounds on connections, as last configured.
    """

    def __init__(
        self, origin: Origin, max_connections: int | None, max_idle: int | None, idle_expiry: float | None
    ) -> None:
        self._origin = origin
        self._max_connections = max_connections
        self._max_idle = max_idle
        self._idle_expiry = idle_expiry
        self.life = NO_BOUNDS
        self._idle: deque[Connection] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._open = 0
        self._closed = False
        self._session: ssl.SSLSession | None = None  # resumed by the next connection

    def redirect(self, endpoint: Endpoint) -> None:
        """Open new connections to where ``endpoint`` is now (LOGICAL_DNS); those that are open serve on."""
        if endpoint.resolved != self._origin.endpoint.resolved:
            self._origin = replace(self._origin, endpoint=endpoint)

    async def acquire(
        self, clock: AttemptClock, connect_timeout: float | None, pool_timeout: float | None
    ) -> Connection:
        """Return a connection, idle or new; raises ``AttemptFailed``."""
        while True:
            while self._idle:
                connection = self._idle.pop()
                fresh = self.life is NO_BOUNDS or not spent(connection, self.life, time.monotonic())
                if fresh and connection.is_alive():
                    return connection
                self._discard(connection)
            if self._max_connections is None or self._open < self._max_connections:
                break
            await self._queue(pool_timeout)
        self._open += 1
        began = time.monotonic()
        try:
            return await self._connect(connect_timeout)
        except BaseException:
            self._count_out()
            raise
        finally:
            clock.connecting += time.monotonic() - began

    def release(self, connection: Connection) -> None:
        """Take a connection back, to keep or to close."""
        if self._origin.handshake is not None and self._session is None and (tls := connection.tls) is not None:
            self._session = tls.session  # TLS 1.3 gives it with the response
        full = self._max_idle is not None and len(self._idle) >= self._max_idle
        now = connection.idle_since = time.monotonic()
        fresh = self.life is NO_BOUNDS or not spent(connection, self.life, now)
        if not connection.reusable or not fresh or self._closed or full:
            self._discard(connection)
            return
        self._idle.append(connection)
        while self._idle_expiry is not None and now - self._idle[0].idle_since > self._idle_expiry:
            self._discard(self._idle.popleft())
        self._next()

    def close(self) -> None:
        """Close idle connections now, and the others when they come back."""
        self._closed = True
        while self._idle:
            self._discard(self._idle.pop())

    async def _queue(self, timeout: float | None) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except BaseException as error:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.cancelled():
                self._next()  # it was called up and left: the next one's turn
            if not isinstance(error, TimeoutError):
                raise
            message = f"all {self._max_connections} connections to {self._origin.endpoint} are in use"
            raise AttemptFailed(ErrorKind.TIMEOUT, message, phase="pool", timed_out=True) from None

    def _next(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _discard(self, connection: Connection) -> None:
        connection.close()
        self._count_out()

    def _count_out(self) -> None:
        self._open -= 1
        self._next()

    async def _connect(self, timeout: float | None) -> Connection:
        origin = self._origin
        endpoint = origin.endpoint
        hostname = origin.server_hostname if origin.ssl_context is not None else None
        session = self._session if origin.handshake is not None and origin.handshake.tls.resumption else None
        token = resumed.set(session)
        try:
            async with asyncio.timeout(timeout):
                connection = await self._dial(hostname)
                if origin.handshake is not None:
                    connection.verify(origin.handshake)
                    if session is not None and (tls := connection.tls) is not None and not tls.session_reused:
                        self._session = None
        except TimeoutError:
            message = f"connecting to {endpoint} took too long"
            raise AttemptFailed(ErrorKind.CONNECT_TIMEOUT, message, phase="connect", timed_out=True) from None
        except OSError as error:
            # A reset can only come of the handshake: connecting has refusals and routes that are missing.
            if hostname is not None and isinstance(error, ssl.SSLError | ConnectionResetError):
                raise origin.handshake_failed(error) from error
            raise AttemptFailed(ErrorKind.CONNECT, f"{endpoint}: {error.strerror or error}", phase="connect") from error
        finally:
            resumed.reset(token)
        return connection

    async def _dial(self, hostname: str | None) -> Connection:
        """Connect to the first address that takes a connection: where the endpoint is a name there may be several."""
        loop, origin, endpoint = asyncio.get_running_loop(), self._origin, self._origin.endpoint
        factory: Callable[[], Connection] = lambda: Connection(loop)  # noqa: E731  typed, and used twice
        if not endpoint.port:
            _, connection = await loop.create_unix_connection(
                factory, endpoint.address, ssl=origin.ssl_context, server_hostname=hostname
            )
            return connection

        async def connect_to(host: str) -> Connection:
            _, connection = await loop.create_connection(
                factory, host, endpoint.port, ssl=origin.ssl_context, server_hostname=hostname
            )
            return connection

        addresses = await names.addresses(endpoint.host)
        for host in addresses[:-1]:
            with contextlib.suppress(OSError):
                return await connect_to(host)
        return await connect_to(addresses[-1])
