"""HTTP/1.1 on blocking sockets: one connection, and the pool of one endpoint."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from meshlib.model.cluster import NO_BOUNDS, ConnectionLife
from meshlib.model.endpoint import Endpoint
from meshlib.policy.effects import ErrorKind
from meshlib.upstream import names
from meshlib.upstream.clock import AttemptClock
from meshlib.upstream.failure import AttemptFailed
from meshlib.upstream.http11.framing import LAST_CHUNK, FramingError, ResponseReader, Truncated, encode_chunk
from meshlib.upstream.tls import Handshake

READ_SIZE = 64 * 1024
CONTINUE_WAIT = 1.0  # RFC 9110 §10.1.1: a client "SHOULD NOT wait for an indefinite period"


@dataclass(slots=True)
class Outgoing:
    """One request as bytes to send.

    Attributes:
        method: for framing the response.
        head: request line and headers.
        body: whole, or in parts.
        chunked: whether parts go out as chunks.
        expects_continue: whether the body waits for ``100 Continue``.
    """

    method: bytes
    head: bytes
    body: bytes | Iterable[bytes]
    chunked: bool = False
    expects_continue: bool = False


class Connection:
    """One blocking connection. Used by one thread at a time.

    Attributes:
        reader: the response being read.
        made, idle_since: monotonic seconds at which it was made, and went idle.
        served: requests so far.
        broken: whether it can carry no further request.
    """

    __slots__ = ("_sock", "broken", "idle_since", "made", "reader", "served")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.reader = ResponseReader(b"GET")
        self.idle_since = 0.0
        self.made = time.monotonic()
        self.served = 0
        self.broken = False

    @property
    def socket(self) -> socket.socket:
        """The socket, for ``network_stream`` and upgrades."""
        return self._sock

    @property
    def session(self) -> ssl.SSLSession | None:
        """What another connection may resume, None for plaintext and after the end."""
        sock = self._sock
        return sock.session if isinstance(sock, ssl.SSLSocket) and not self.broken else None

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: the response is over and keeps the connection."""
        return not self.broken and self.reader.keep_alive

    def is_alive(self) -> bool:
        """Tell whether an idle connection still stands: nothing to read, not even its end."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        return not poll.poll(0)

    def request(self, outgoing: Outgoing, clock: AttemptClock, write_timeout: float | None) -> ResponseReader:
        """Send a request and read its response head.

        Raises:
            AttemptFailed: no head came; the connection is closed.
        """
        reader = self.reader = ResponseReader(outgoing.method)
        self.served += 1
        try:
            self._send(outgoing, clock, write_timeout)
            while not reader.head_complete:
                self._receive(clock, None)
        except BaseException:
            self.close()
            raise
        return reader

    def read_body(self, clock: AttemptClock, gap: float | None) -> bytes:
        """Return the next bytes of the body, empty at its end.

        Args:
            clock: bounds the body.
            gap: the application's read timeout, seconds between reads.

        Raises:
            AttemptFailed: the body broke off; the connection is closed.
        """
        reader = self.reader
        try:
            while not (part := reader.take()) and not reader.complete:
                self._receive(clock, gap)
        except BaseException:
            self.close()
            raise
        return part

    def read_raw(self, max_bytes: int, timeout: float | None) -> bytes:
        """Return the next bytes of an upgraded connection, empty at its end; raises ``OSError``."""
        if data := self.reader.surplus:
            self.reader.surplus = data[max_bytes:]
            return data[:max_bytes]
        self._sock.settimeout(timeout)
        return self._sock.recv(max_bytes)

    def write_raw(self, data: bytes, timeout: float | None) -> None:
        """Send bytes on an upgraded connection; raises ``OSError``."""
        self._sock.settimeout(timeout)
        self._sock.sendall(data)

    def abort(self) -> None:
        """Cut the connection from another thread: whoever reads or writes on it fails at once."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # not TLS's own, which would say good-bye first

    def close(self) -> None:
        """Close the connection."""
        self.broken = True
        self._sock.close()

    def _send(self, outgoing: Outgoing, clock: AttemptClock, timeout: float | None) -> None:
        body = outgoing.body
        try:
            if isinstance(body, bytes):
                self._write(outgoing.head + body if not outgoing.expects_continue else outgoing.head, clock, timeout)
                if outgoing.expects_continue and self._continues(clock):
                    self._write(body, clock, timeout)
                return
            self._write(outgoing.head, clock, timeout)
            if outgoing.expects_continue and not self._continues(clock):
                return
            self._stream(body, outgoing.chunked, clock, timeout)
        except (BrokenPipeError, ConnectionResetError):
            # The server may have answered and closed without reading the body: its answer stands.
            self.broken = True

    def _stream(self, parts: Iterable[bytes], chunked: bool, clock: AttemptClock, timeout: float | None) -> None:
        for part in parts:
            self._write(encode_chunk(part) if chunked else part, clock, timeout)
            # Under TLS a readable socket may hold no more than a session ticket, and reading would block.
            if not isinstance(self._sock, ssl.SSLSocket) and not self.is_alive():
                self._receive(clock, None)  # an early answer; what is left of the body is not sent
                if self.reader.head_complete:
                    self.broken = True
                    return
        if chunked:
            self._write(LAST_CHUNK, clock, timeout)

    def _continues(self, clock: AttemptClock) -> bool:
        """Wait for ``100 Continue``; returns whether the body should be sent."""
        wait = clock.bound(CONTINUE_WAIT)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if not poll.poll(1000 * (CONTINUE_WAIT if wait is None else wait)):
            return True  # an old server that never says it
        while not self.reader.head_complete and not self.reader.interim:
            self._receive(clock, None)
        self.broken = self.broken or self.reader.head_complete
        return not self.reader.head_complete

    def _write(self, data: bytes, clock: AttemptClock, timeout: float | None) -> None:
        if not data:
            return
        bound = clock.bound(timeout)
        if bound is not None and bound <= 0.0:
            raise AttemptFailed(ErrorKind.TIMEOUT, "no time left to send", phase="write", timed_out=True)
        self._sock.settimeout(bound)
        clock.sent = True
        try:
            self._sock.sendall(data)
        except TimeoutError:
            raise AttemptFailed(ErrorKind.TIMEOUT, "sending took too long", phase="write", timed_out=True) from None
        except (BrokenPipeError, ConnectionResetError):
            raise
        except OSError as error:
            raise AttemptFailed(ErrorKind.RESET, f"sending failed: {error}", phase="write") from error

    def _receive(self, clock: AttemptClock, timeout: float | None) -> None:
        bound = clock.bound(timeout)
        if bound is not None and bound <= 0.0:
            raise AttemptFailed(ErrorKind.TIMEOUT, "no time left to read", phase="read", timed_out=True)
        self._sock.settimeout(bound)
        try:
            data = self._sock.recv(READ_SIZE)
        except TimeoutError:
            raise AttemptFailed(ErrorKind.TIMEOUT, "nothing came in time", phase="read", timed_out=True) from None
        except OSError as error:
            raise AttemptFailed(ErrorKind.RESET, f"reading failed: {error}", phase="read") from error
        try:
            if data:
                self.reader.feed(data)
            else:
                self.broken = True
                self.reader.feed_eof()
        except Truncated as error:
            raise AttemptFailed(ErrorKind.RESET, str(error), phase="end") from None
        except FramingError as error:
            raise AttemptFailed(ErrorKind.PROTOCOL, str(error), phase="read") from None


def spent(connection: Aged, life: ConnectionLife, now: float) -> bool:
    """Tell whether a cluster wants no further request on an idle connection."""
    if life.requests is not None and connection.served >= life.requests:
        return True
    if life.longest is not None and now - connection.made >= life.longest:
        return True
    return life.idle_timeout is not None and now - connection.idle_since >= life.idle_timeout


class Aged(Protocol):
    """What of a connection says how long it may be used."""

    made: float
    idle_since: float
    served: int


@dataclass(frozen=True, slots=True)
class Origin:
    """What a pool connects to.

    Attributes:
        endpoint: the address.
        ssl_context: None for plaintext.
        server_hostname: the server name sent; of the application's own TLS the name to verify too.
        handshake: the mesh's own TLS, None where TLS is the application's or there is none.
    """

    endpoint: Endpoint
    ssl_context: ssl.SSLContext | None = None
    server_hostname: str = ""
    handshake: Handshake | None = None

    def handshake_failed(self, error: OSError) -> AttemptFailed:
        """Return what a failed handshake, or a server that is another, comes to."""
        words = f"TLS with {self.endpoint}: {error}" if self.handshake is None else self.handshake.explain(error)
        failure = AttemptFailed(ErrorKind.TLS_FAILED, words, phase="connect")
        failure.__cause__ = error
        return failure


class Pool:
    """Connections to one origin: the last used is used first. Thread-safe.

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
        self._open = 0
        # Holds the connections in use, so that one whose response is dropped is closed, not collected.
        self._busy: set[Connection] = set()
        self._session: ssl.SSLSession | None = None  # resumed by the next connection
        self._closed = False
        self._freed = threading.Condition(threading.RLock())

    def redirect(self, endpoint: Endpoint) -> None:
        """Open new connections to where ``endpoint`` is now (LOGICAL_DNS); those that are open serve on."""
        if endpoint.resolved != self._origin.endpoint.resolved:
            self._origin = replace(self._origin, endpoint=endpoint)

    def acquire(self, clock: AttemptClock, connect_timeout: float | None, pool_timeout: float | None) -> Connection:
        """Return a connection, idle or new; raises ``AttemptFailed``."""
        while (connection := self._pop_idle(clock, pool_timeout)) is not None:
            fresh = self.life is NO_BOUNDS or not spent(connection, self.life, time.monotonic())
            if fresh and connection.is_alive():
                self._busy.add(connection)
                return connection
            self._drop(connection)
        began = time.monotonic()
        try:
            connection = Connection(self._connect(clock, connect_timeout))
            self._busy.add(connection)
            return connection
        except BaseException:
            self._count_out()
            raise
        finally:
            clock.connecting += time.monotonic() - began

    def release(self, connection: Connection) -> None:
        """Take a connection back, to keep or to close."""
        now = time.monotonic()
        with self._freed:
            self._busy.discard(connection)
            if self._origin.handshake is not None and self._session is None:
                self._session = connection.session  # TLS 1.3 gives it with the response
            full = self._max_idle is not None and len(self._idle) >= self._max_idle
            connection.idle_since = now
            fresh = self.life is NO_BOUNDS or not spent(connection, self.life, now)
            if connection.reusable and fresh and not self._closed and not full:
                self._idle.append(connection)
                self._freed.notify()
                stale = list(self._expired(now))
                self._open -= len(stale)
            else:
                stale = [connection]
                self._open -= 1
                self._freed.notify()
        for gone in stale:
            gone.close()

    def close(self) -> None:
        """Close idle connections now, and the others when they come back."""
        with self._freed:
            self._closed = True
            idle, self._idle = list(self._idle), deque()
            self._open -= len(idle)
            self._freed.notify_all()
        for connection in idle:
            connection.close()

    def _pop_idle(self, clock: AttemptClock, timeout: float | None) -> Connection | None:
        """Return an idle connection, or None with a new one counted in."""
        with self._freed:
            if not self._freed.wait_for(self._available, clock.bound(timeout)):
                message = f"all {self._max_connections} connections to {self._origin.endpoint} are in use"
                raise AttemptFailed(ErrorKind.TIMEOUT, message, phase="pool", timed_out=True)
            if self._idle:
                return self._idle.pop()
            self._open += 1
            return None

    def _available(self) -> bool:
        return bool(self._idle) or self._max_connections is None or self._open < self._max_connections

    def _expired(self, now: float) -> Iterator[Connection]:
        expiry = self._idle_expiry
        while expiry is not None and self._idle and now - self._idle[0].idle_since > expiry:
            yield self._idle.popleft()

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._count_out()

    def _count_out(self) -> None:
        with self._freed:
            self._open -= 1
            self._freed.notify()

    def _connect(self, clock: AttemptClock, timeout: float | None) -> socket.socket:
        origin, bound, began = self._origin, clock.bound(timeout), time.monotonic()
        endpoint = origin.endpoint
        if bound is not None and bound <= 0.0:
            raise AttemptFailed(ErrorKind.CONNECT_TIMEOUT, "no time left to connect", phase="connect", timed_out=True)
        try:
            if endpoint.port:
                sock = names.connect(
                    endpoint.host, bound, lambda host, left: socket.create_connection((host, endpoint.port), left)
                )
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            else:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.settimeout(bound)
                sock.connect(endpoint.address)
            if origin.ssl_context is None:
                return sock
            left = None if bound is None else max(0.001, bound - (time.monotonic() - began))
            return self._secure(sock, left)
        except TimeoutError:
            message = f"connecting to {endpoint} took too long"
            raise AttemptFailed(ErrorKind.CONNECT_TIMEOUT, message, phase="connect", timed_out=True) from None
        except OSError as error:
            raise AttemptFailed(ErrorKind.CONNECT, f"{endpoint}: {error.strerror or error}", phase="connect") from error

    def _secure(self, sock: socket.socket, timeout: float | None) -> socket.socket:
        origin, session = self._origin, self._session
        assert origin.ssl_context is not None
        try:
            sock.settimeout(timeout)
            # Without a handshake yet, so that it is closed here whatever comes of that.
            sock = origin.ssl_context.wrap_socket(
                sock,
                server_hostname=origin.server_hostname or None,
                do_handshake_on_connect=False,
                session=session if origin.handshake is None or origin.handshake.tls.resumption else None,
            )
            sock.do_handshake()
            if origin.handshake is not None:
                origin.handshake.verify(sock)
            if session is not None and not sock.session_reused:
                self._session = None
            return sock
        except TimeoutError:
            sock.close()
            raise
        except OSError as error:
            sock.close()
            raise origin.handshake_failed(error) from error
        except BaseException:
            sock.close()
            raise
