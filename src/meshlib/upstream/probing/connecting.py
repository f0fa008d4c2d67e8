"""The connection of a health check."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, replace

from meshlib.model.cluster import Cluster, TransportSocket, UpstreamHttpProtocolOptions
from meshlib.model.endpoint import Endpoint
from meshlib.model.request import RequestView
from meshlib.policy.naming import tls_names
from meshlib.upstream.tls import Handshake, TlsUnavailable
from meshlib.upstream.tls_contexts import TlsContexts

READ_SIZE = 64 * 1024
_AS_CONFIGURED = UpstreamHttpProtocolOptions()

_contexts = TlsContexts()


class Connection:
    """A stream to an endpoint."""

    __slots__ = ("_reader", "_writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def ended(self) -> bool:
        """Whether the peer closed it."""
        return self._reader.at_eof() or self._writer.is_closing()

    async def receive(self) -> bytes:
        """Return what came, nothing at the end."""
        return await self._reader.read(READ_SIZE)

    async def send(self, data: bytes) -> None:
        """Send."""
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """Close it; a transport whose loop is over is left alone."""
        if not self._writer.transport.is_closing():
            self._writer.transport.abort()


@dataclass(frozen=True, slots=True)
class Dialled:
    """Where and how a check connects.

    Attributes:
        address: IP and port, or the path of a unix socket and 0.
        cluster: whose TLS and ``connect_timeout`` count.
        endpoint: whose TLS counts.
        socket: the transport socket in force, None is plaintext.
        http2: whether HTTP/2 is spoken, for what TLS offers.
    """

    address: tuple[str, int]
    cluster: Cluster
    endpoint: Endpoint
    socket: TransportSocket | None
    http2: bool = False

    async def connect(self) -> Connection:
        """Connect; raises ``OSError``. What the cluster's TLS cannot do is no reason for plaintext."""
        handshake = self._handshake()
        timeout = self.cluster.connect_timeout
        try:
            async with asyncio.timeout(timeout):
                return await self._open(handshake)
        except TimeoutError:
            raise OSError(f"connecting took more than {timeout:g}s") from None
        except OSError as error:
            if handshake is None or isinstance(error, ConnectionRefusedError):
                raise
            raise OSError(f"TLS: {handshake.explain(error)}") from error

    async def _open(self, handshake: Handshake | None) -> Connection:
        host, port = self.address
        context = None if handshake is None else handshake.context
        name = None if handshake is None else handshake.server_name
        if port:
            reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            reader, writer = await asyncio.open_unix_connection(host, ssl=context, server_hostname=name)
        connection = Connection(reader, writer)
        if handshake is not None:
            try:
                handshake.verify(writer.get_extra_info("ssl_object"))
            except BaseException:
                connection.close()
                raise
        return connection

    def _handshake(self) -> Handshake | None:
        """Return how TLS is spoken, None for plaintext; what it takes from a request there is none to take from."""
        asked = self.socket
        if asked is None or not asked.secure:
            return None
        if asked.tls is None or asked.refusal:
            raise OSError(f"transport socket {asked.name!r} asks for TLS, which cannot be honoured: {asked.refusal}")
        view = RequestView(method="", scheme="", host="", port=0, authority="", target="", headers=[])
        cluster = replace(self.cluster, upstream_http=_AS_CONFIGURED)
        server_name, peer_name = tls_names(cluster, asked.tls, self.endpoint, "", view)
        try:
            return _contexts.handshake(asked.tls, http2=self.http2, server_name=server_name, peer_name=peer_name)
        except TlsUnavailable as error:
            raise OSError(f"transport socket {asked.name!r} asks for TLS, which cannot be honoured: {error}") from None
