"""The connection of a health check."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

from meshlib.model.cluster import TransportSocket

READ_SIZE = 64 * 1024


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
        socket: the transport socket in force, None is plaintext.
        timeout: the cluster's ``connect_timeout``, seconds.
    """

    address: tuple[str, int]
    socket: TransportSocket | None
    timeout: float

    async def connect(self) -> Connection:
        """Connect; raises ``OSError``. What the cluster's TLS cannot do is no reason for plaintext."""
        if self.socket is not None and self.socket.secure:
            raise OSError(f"transport socket {self.socket.name!r} asks for TLS, which checks cannot speak")
        host, port = self.address
        try:
            async with asyncio.timeout(self.timeout):
                if not port:
                    return Connection(*await asyncio.open_unix_connection(host))
                reader, writer = await asyncio.open_connection(host, port)
        except TimeoutError:
            raise OSError(f"connecting took more than {self.timeout:g}s") from None
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(reader, writer)
