"""AdsStream: one connection to a management server and one ADS stream on it, bytes in and out.

gRPC over HTTP/2 on a plain socket, without gRPC's own core, which does not survive a fork and
which a process that calls nothing by gRPC need not load. Each AdsStream has a thread, which
posts what happens to its owner and knows nothing else. It hands out the next response only when
the owner has dealt with the last, and acknowledges no more than that to HTTP/2's flow control,
so that a fast server fills one window here and no more.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from meshlib.errors import BootstrapError
from meshlib.xds import diagnosis
from meshlib.xds.bootstrap_parts import Server
from meshlib.xds.connection import Closed, Connection, Wakeup, context_of, dial
from meshlib.xds.credentials import Local, Metadata, Tls
from meshlib.xds.frames import NotHttp2
from meshlib.xds.grpc_call import Ended, GrpcCall
from meshlib.xds.target import Address, Target, parse_target

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
SOTW = "StreamAggregatedResources"
DELTA = "DeltaAggregatedResources"

CONNECT_TIMEOUT = 10.0  # seconds that each address has to connect, and again to speak HTTP/2
# A server that is gone without a word (power, SIGSTOP) is noticed within 40 s.
KEEPALIVE_TIME = 30.0  # seconds without a byte from the server, after which it is pinged
KEEPALIVE_TIMEOUT = 10.0  # seconds that it has to answer

# What waits for a server that does not read. Many times what ten thousand names in one request take.
MAX_UNSENT = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The server is connected and requests may be sent."""

    stream: AdsStream


@dataclass(frozen=True, slots=True)
class StreamData:
    """A response arrived; no further one is handed out until :meth:`AdsStream.resume`."""

    stream: AdsStream
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream is over, or never came about.

    Attributes:
        stream: which one.
        reason: why, for people.
        code: the gRPC status's name ("UNIMPLEMENTED"; "OK" when the server ended it), empty where
            it did not come to a connection.
        too_many_pings: whether the server finds that we ping it too often.
    """

    stream: AdsStream
    reason: str
    code: str = ""
    too_many_pings: bool = False


StreamEvent = StreamOpened | StreamData | StreamEnded


class AdsStream:
    """One attempt: connects, streams, ends. The owner makes a new one to reconnect.

    :meth:`send`, :meth:`resume` and :meth:`close` may be called from any thread.

    Args:
        server: whom to connect to, and how; its files are read at this connect.
        method: :data:`SOTW` or :data:`DELTA`.
        post: takes events; called on the stream's thread, must not block.
        keepalive: seconds of silence after which the server is pinged.
    """

    def __init__(
        self, server: Server, method: str, post: Callable[[StreamEvent], None], keepalive: float = KEEPALIVE_TIME
    ) -> None:
        self._server = server
        self._method = method
        self._post = post
        self._keepalive = keepalive
        self._wakeup = Wakeup()
        self._outgoing: deque[bytes] = deque()
        self._turn = True  # whether the owner has dealt with the last response
        self._thread = threading.Thread(target=self._run, name=f"meshlib-ads-{server.address}", daemon=True)

    def start(self) -> None:
        """Connect, in the stream's thread."""
        self._thread.start()

    def send(self, request: bytes) -> None:
        """Send a request; returns at once. What a broken stream cannot send is lost with it."""
        self._outgoing.append(request)
        self._wakeup.poke()

    def resume(self) -> None:
        """Hand out the next response."""
        self._turn = True
        self._wakeup.poke()

    def close(self) -> None:
        """End the stream; idempotent. Events may follow, to be ignored."""
        self._wakeup.closed = True
        self._wakeup.poke()

    def _run(self) -> None:
        try:
            ended = self._stream()
        except Closed:
            ended = StreamEnded(self, "closed by the client", "CANCELLED")
        except BootstrapError as error:
            ended = StreamEnded(self, str(error))
        except Exception as error:  # noqa: BLE001  whatever it was, the owner must hear that the stream is over
            ended = StreamEnded(self, f"{type(error).__name__}: {error}")
        self._wakeup.close()
        self._post(ended)

    def _stream(self) -> StreamEnded:
        """Connect, stream until that ends and close the connection; returns how it ended."""
        credentials = self._server.credentials
        metadata = (*self._server.metadata, *credentials.metadata())
        opened = self._connect(metadata)
        if isinstance(opened, str):
            return StreamEnded(self, opened, "UNAVAILABLE")
        connection, call = opened
        try:
            self._post(StreamOpened(self))
            ended = self._converse(connection, call)
        finally:
            with contextlib.closing(connection), contextlib.suppress(OSError):
                call.cancel()
                connection.write(call.outgoing())
        pings = call.goaway is not None and call.goaway.too_many_pings
        if ended.code == "OK":
            return StreamEnded(self, "the server ended the stream", "OK", pings)
        reason = f"{ended.code}: {ended.details}" if ended.details else ended.code
        return StreamEnded(self, reason, ended.code, pings)

    def _connect(self, metadata: Metadata) -> tuple[Connection, GrpcCall] | str:
        """Return a connection on which the server speaks HTTP/2, or why there is none.

        Does-not-exist timers may only run on a connection that stands (gRFC A57), and a socket
        alone does not tell.
        """
        credentials = self._server.credentials
        target = parse_target(self._server.address)
        context = context_of(credentials.context)
        name = credentials.server_name if isinstance(credentials, Tls) else ""
        path, scheme = f"/{SERVICE}/{self._method}", "https" if context else "http"
        failed: dict[str, str] = {}
        try:
            addresses = self._addresses(target)
        except OSError as error:
            return f"{target.host} cannot be resolved: {diagnosis.unreachable(error, self._server)}"
        with contextlib.closing(dial(addresses, self._wakeup, CONNECT_TIMEOUT)) as dialled:
            for address, sock in dialled:
                try:
                    if isinstance(sock, OSError):
                        raise sock
                    connection = Connection(sock, context, name or target.host)
                    call = GrpcCall(path, name or target.authority, scheme, metadata)
                    self._begin(connection, call)
                    return connection, call
                except (OSError, EOFError, NotHttp2) as error:
                    failed[str(address)] = diagnosis.unreachable(error, self._server)
        reasons = set(failed.values())
        if len(reasons) == 1:
            return reasons.pop()
        return "; ".join(f"{address}: {reason}" for address, reason in failed.items())

    def _addresses(self, target: Target) -> list[Address]:
        found = target.resolve()
        if isinstance(self._server.credentials, Local):
            for address in found:
                if not address.local:
                    raise BootstrapError(f"local credentials: {address} is neither a unix socket nor loopback")
        return found

    def _begin(self, connection: Connection, call: GrpcCall) -> None:
        """Exchange HTTP/2's first words, and open the call; closes the connection where it cannot."""
        until = time.monotonic() + CONNECT_TIMEOUT
        try:
            connection.shake_hands(self._wakeup, until)
            while not call.ready:
                connection.write(call.outgoing())
                connection.wait(self._wakeup, until)
                data = connection.read()
                if data is None:
                    call.lost("")
                    raise EOFError
                call.receive(data)
                if call.ended is not None:
                    raise ConnectionError(call.ended.details)
                if not call.ready and time.monotonic() >= until:
                    raise TimeoutError(f"no word from the server in {CONNECT_TIMEOUT:g} s")
        except BaseException:
            connection.close()
            raise

    def _converse(self, connection: Connection, call: GrpcCall) -> Ended:
        """Carry messages both ways until the call has ended and its last message is handed out."""
        due = time.monotonic() + self._keepalive
        pinged = False
        while True:
            if self._turn and (message := call.next_message()) is not None:
                self._turn = False
                self._post(StreamData(self, message))
                continue
            if call.ended is not None:
                if self._turn:
                    return call.ended
                self._wakeup.wait({})
                continue
            while self._outgoing:
                call.send(self._outgoing.popleft())
            try:
                connection.write(call.outgoing())
                if call.unsent + connection.unsent > MAX_UNSENT:
                    call.lost(f"the server leaves {MAX_UNSENT:,} bytes of requests unread")
                    continue
                if connection.wait(self._wakeup, due):
                    data = connection.read()
                    if data is None:
                        call.lost("the server closed the connection")
                    elif data:
                        due, pinged = time.monotonic() + self._keepalive, False
                        call.receive(data)
                    continue
            except OSError as error:
                call.lost(diagnosis.broken(error))
                continue
            if time.monotonic() < due:
                continue
            if pinged:
                call.lost(f"the server has not answered a ping in {KEEPALIVE_TIMEOUT:g} s")
            else:
                call.ping()
                due, pinged = time.monotonic() + KEEPALIVE_TIMEOUT, True
