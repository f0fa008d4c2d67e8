"""Dialling endpoints: httpcore network backends that go where the mesh says.

The logical URL stays on the request; only the connection knows the endpoint. Every operation is
bounded by the attempt's clock, so a response head that trickles in is cut in sync code too.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore

from meshlib.model.endpoint import Endpoint
from meshlib.upstream import names
from meshlib.upstream.clock import AttemptClock, attempt_clock
from meshlib.upstream.tls import Handshake


@contextmanager
def _connecting(clock: AttemptClock | None) -> Iterator[None]:
    """Count the time spent inside as time spent connecting."""
    began = time.monotonic()
    try:
        yield
    finally:
        if clock is not None:
            clock.connecting += time.monotonic() - began


@contextmanager
def _looking_up() -> Iterator[None]:
    """Turn what a look-up raises into httpcore's errors; those of connecting are already."""
    try:
        yield
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(str(error)) from error
    except OSError as error:
        raise httpcore.ConnectError(str(error)) from error


@contextmanager
def _securing(handshake: Handshake) -> Iterator[None]:
    """Say for people why a handshake failed; the cause keeps ssl's own error."""
    try:
        yield
    except ssl.SSLError as error:
        raise httpcore.ConnectError(handshake.explain(error)) from error
    except httpcore.ConnectError as error:
        cause = error.__cause__ or error.__context__ or error
        raise httpcore.ConnectError(handshake.explain(cause)) from cause


def _left(timeout: float | None, began: float) -> float | None:
    """Return what is left for the handshake of the time to connect in."""
    return None if timeout is None else max(0.001, timeout - (time.monotonic() - began))


class BoundStream(httpcore.NetworkStream):
    """A blocking stream whose every read and write is bounded by the current attempt's clock."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read, for as long as the clock leaves."""
        clock = attempt_clock.get()
        if clock is None:
            return self._inner.read(max_bytes, timeout)
        timeout = clock.bound(timeout)
        if timeout is not None and timeout <= 0.0:
            raise httpcore.ReadTimeout("the attempt's time is over")
        data = self._inner.read(max_bytes, timeout)
        clock.ended = not data
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write, for as long as the clock leaves."""
        clock = attempt_clock.get()
        if clock is not None:
            timeout = clock.bound(timeout)
            if timeout is not None and timeout <= 0.0:
                raise httpcore.WriteTimeout("the attempt's time is over")
            clock.sent = clock.sent or bool(buffer)
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Speak TLS from here on."""
        clock = attempt_clock.get()
        with _connecting(clock):
            return BoundStream(
                self._inner.start_tls(ssl_context, server_hostname, timeout if clock is None else clock.bound(timeout))
            )

    def get_extra_info(self, info: str) -> Any:
        """Return what the socket knows."""
        return self._inner.get_extra_info(info)


class DialBackend(httpcore.NetworkBackend):
    """Connects to one endpoint, whatever host and port are asked for."""

    def __init__(self, endpoint: Endpoint, handshake: Handshake | None = None) -> None:
        self.endpoint = endpoint
        self._handshake = handshake
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002  the logical host; the endpoint is dialled
        port: int,  # noqa: ARG002  as above
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the endpoint."""
        clock = attempt_clock.get()
        if clock is not None:
            timeout = clock.bound(timeout)
            if timeout is not None and timeout <= 0.0:
                raise httpcore.ConnectTimeout("the attempt's time is over")
        endpoint, handshake, began = self.endpoint, self._handshake, time.monotonic()

        def connect_to(address: str, left: float | None) -> httpcore.NetworkStream:
            return self._inner.connect_tcp(address, endpoint.port, left, local_address, socket_options)

        with _connecting(clock):
            if endpoint.port:
                with _looking_up():
                    stream = names.connect(endpoint.host, timeout, connect_to)
            else:
                stream = self._inner.connect_unix_socket(endpoint.address, timeout, socket_options)
            if handshake is not None:
                with _securing(handshake):
                    left = _left(timeout, began)
                    stream = stream.start_tls(handshake.context, handshake.server_name or None, left)
                    try:
                        handshake.verify(stream.get_extra_info("ssl_object"))
                    except BaseException:
                        stream.close()
                        raise
            return BoundStream(stream)


class AsyncBoundStream(httpcore.AsyncNetworkStream):
    """An async stream that tells the attempt's clock what happened; cancel scopes bound it."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read."""
        data = await self._inner.read(max_bytes, timeout)
        clock = attempt_clock.get()
        if clock is not None:
            clock.ended = not data
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write."""
        clock = attempt_clock.get()
        if clock is not None:
            clock.sent = clock.sent or bool(buffer)
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Speak TLS from here on."""
        with _connecting(attempt_clock.get()):
            return AsyncBoundStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """Return what the socket knows."""
        return self._inner.get_extra_info(info)


class AsyncDialBackend(httpcore.AsyncNetworkBackend):
    """Connects to one endpoint, whatever host and port are asked for; asyncio or trio."""

    def __init__(self, endpoint: Endpoint, handshake: Handshake | None = None) -> None:
        self.endpoint = endpoint
        self._handshake = handshake
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002  the logical host; the endpoint is dialled
        port: int,  # noqa: ARG002  as above
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the endpoint."""
        endpoint, handshake, began = self.endpoint, self._handshake, time.monotonic()
        with _connecting(attempt_clock.get()):
            if endpoint.port:
                stream = await self._inner.connect_tcp(
                    endpoint.host, endpoint.port, timeout, local_address, socket_options
                )
            else:
                stream = await self._inner.connect_unix_socket(endpoint.address, timeout, socket_options)
            if handshake is not None:
                with _securing(handshake):
                    left = _left(timeout, began)
                    stream = await stream.start_tls(handshake.context, handshake.server_name or None, left)
                    try:
                        handshake.verify(stream.get_extra_info("ssl_object"))
                    except BaseException:
                        await stream.aclose()
                        raise
            return AsyncBoundStream(stream)
