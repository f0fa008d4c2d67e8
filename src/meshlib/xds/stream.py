"""AdsStream: one connection to a management server and one ADS stream on it, bytes in and out.

grpcio's stream is read by a blocking iterator, so each AdsStream has a reader thread, which
posts what happens to its owner and knows nothing else. It reads on only when the owner has
dealt with the last response, so that a fast server fills no queue here: HTTP/2 flow control
holds it back.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from meshlib.errors import BootstrapError
from meshlib.xds import diagnosis, forks
from meshlib.xds.bootstrap_parts import Server
from meshlib.xds.credentials import Metadata

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
SOTW = "StreamAggregatedResources"
DELTA = "DeltaAggregatedResources"

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # a full push to a sidecar is easily over the default 4 MiB
    # A server that is gone without a word (power, SIGSTOP) is noticed within 40 s. grpcio doubles the interval by
    # itself when a server finds that too often. Left to itself it waits a minute for the answer to a ping, whatever
    # the keepalive's timeout, and after two pings sends no more while nothing else goes out, which may be hours.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # also the time one connection attempt may take
    ("grpc.use_local_subchannel_pool", 1),  # or a new channel inherits the back-off of the last one
    ("grpc.enable_http_proxy", 0),  # http_proxy is for the application's requests, not for the mesh's own
)

_POLLED = 0.5  # seconds; see AdsStream._stream


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The server is connected and requests may be sent."""

    stream: AdsStream


@dataclass(frozen=True, slots=True)
class StreamData:
    """A response arrived; nothing more is read until :meth:`AdsStream.resume`."""

    stream: AdsStream
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream is over, or never came about.

    Attributes:
        stream: which one.
        reason: why, for people.
        code: the gRPC status's name ("UNIMPLEMENTED"; "OK" when the server ended it), empty where
            it did not come to a call.
        fork: whether it ended only because this process forked: nobody's failure, and to be
            opened again after :data:`~meshlib.xds.forks.REOPEN` seconds.
    """

    stream: AdsStream
    reason: str
    code: str = ""
    fork: bool = False


StreamEvent = StreamOpened | StreamData | StreamEnded


class AdsStream:
    """One attempt: connects, streams, ends. The owner makes a new one to reconnect.

    Args:
        server: whom to connect to, and how; its files are read at this connect.
        method: :data:`SOTW` or :data:`DELTA`.
        post: takes events; called on the reader thread, must not block.
    """

    def __init__(self, server: Server, method: str, post: Callable[[StreamEvent], None]) -> None:
        self._server = server
        self._method = method
        self._post = post
        self._call: grpc.Call | None = None
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # None ends the stream
        self._turn = threading.Semaphore(0)  # released once for each response dealt with
        self._decided = threading.Event()  # connected, refused or closed
        self._polled_until = 0.0
        self._connected = False
        self._closed = False
        self._forked = False
        self._thread = threading.Thread(target=self._run, name=f"meshlib-ads-{server.address}", daemon=True)

    def start(self) -> None:
        """Connect, in the reader thread."""
        self._thread.start()

    def send(self, request: bytes) -> None:
        """Send a request; returns at once. What a broken stream cannot send is lost with it."""
        self._outgoing.put(request)

    def resume(self) -> None:
        """Read the next response."""
        self._turn.release()

    def close(self) -> None:
        """End the stream; idempotent. Events may follow, to be ignored."""
        self._closed = True
        self._decided.set()
        self._outgoing.put(None)
        self._turn.release()
        if self._call is not None:
            self._call.cancel()

    def close_for_fork(self) -> None:
        """End the stream because the process forks; the owner is told."""
        self._forked = True
        self.close()

    def _run(self) -> None:
        forks.enter(self)
        try:
            reason, code = self._stream()
            self._post(StreamEnded(self, reason, code, self._forked))
            self._call = None  # a call keeps gRPC's core alive
        finally:
            forks.leave(self)

    def _stream(self) -> tuple[str, str]:
        """Open the channel, stream until that ends and close it; returns reason and code."""
        if forks.unusable:
            return forks.unusable, ""
        channel = None
        try:
            credentials = self._server.credentials
            metadata = (*self._server.metadata, *credentials.metadata())
            channel = credentials.channel(self._server.address, _OPTIONS)
            self._connect(channel)
            self._read(channel, metadata)
            return "the server ended the stream", "OK"
        except grpc.RpcError as error:
            code = error.code().name
            return diagnosis.reason(code, error.details() or "", self._server), code
        except BootstrapError as error:
            return str(error), ""
        except Exception as error:  # noqa: BLE001  whatever it was, the owner must hear that the stream is over
            return f"{type(error).__name__}: {error}", ""
        finally:
            if channel is not None:
                # After unsubscribing, a thread of grpcio's looks at the channel for another 0.2 s, and
                # throws its traceback at stderr should the channel be closed by then.
                time.sleep(max(0.0, self._polled_until - time.monotonic()))
                channel.close()

    def _connect(self, channel: grpc.Channel) -> None:
        """Wait until the channel is ready or failed: does-not-exist timers may only run on a
        connection that stands (gRFC A57), and a stream object alone does not tell.
        """
        channel.subscribe(self._on_connectivity, try_to_connect=True)
        self._decided.wait()
        channel.unsubscribe(self._on_connectivity)
        self._polled_until = time.monotonic() + _POLLED

    def _on_connectivity(self, state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            self._connected = True
        if state in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE):
            self._decided.set()

    def _read(self, channel: grpc.Channel, metadata: Metadata) -> None:
        """Stream until it ends; raises ``grpc.RpcError`` when it fails."""
        # No (de)serialisers: bytes go through as they are, so that the owner can say what was wrong with them.
        # On a channel that is not connected the call fails at once and says why.
        stream = channel.stream_stream(f"/{SERVICE}/{self._method}")
        self._call = call = stream(iter(self._outgoing.get, None), metadata=metadata)
        if self._closed:
            call.cancel()
        elif self._connected:
            self._post(StreamOpened(self))
        for data in call:
            self._post(StreamData(self, data))
            self._turn.acquire()
