"""A connection to a management server: dialled, by TLS where that is due, and never blocking.

Fork needs nothing of it. The parent's connections go on; a child closes its copies of their
sockets without a word, for what it said would be said in the parent's name. A fork waits only,
at most some milliseconds, until none of our threads is within OpenSSL: a lock of its own that
was held at the fork would be held in the child for ever.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import cast

from meshlib.xds.target import Address

_STAGGER = 0.25  # seconds after which the next address is tried, too (RFC 8305, 5)
_CHUNK = 256 * 1024
_IN_PROGRESS = (errno.EINPROGRESS, errno.EWOULDBLOCK)

# poll() holds no descriptor that a child would share with us, and takes those above 1023.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)

_ours: dict[socket.socket, int] = {}  # open sockets, and the process that opened them
_in_openssl = threading.Lock()  # held during every call of OpenSSL


Dialled = tuple[Address, socket.socket | OSError]


class Closed(Exception):
    """Whoever owns the connection wants no more of it."""


class Wakeup:
    """Interrupts a thread that waits for sockets; from any thread."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        for sock in (self._read, self._write):
            sock.setblocking(False)
            _ours[sock] = os.getpid()
        self._lock = threading.Lock()  # or a descriptor just closed, and another's by now, is written to
        self.closed = False

    def poke(self) -> None:
        """Wake the thread."""
        with self._lock, contextlib.suppress(OSError):  # full: it wakes anyway; closed: nobody waits
            self._write.send(b"\0")

    def wait(self, sockets: dict[socket.socket, int], until: float | None = None) -> set[socket.socket]:
        """Wait for sockets to be ready, a poke, or the time; returns the sockets that are.

        Args:
            sockets: with ``selectors.EVENT_READ``, ``EVENT_WRITE`` or both.
            until: monotonic seconds; None for no end.

        Raises:
            Closed: :attr:`closed` was set.
        """
        with _Selector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            for sock, events in sockets.items():
                selector.register(sock, events)
            timeout = None if until is None else max(0.0, until - time.monotonic())
            ready = {cast("socket.socket", key.fileobj) for key, _ in selector.select(timeout)}
        if self._read in ready:
            ready.remove(self._read)
            with contextlib.suppress(OSError):
                self._read.recv(4096)
        if self.closed:
            raise Closed
        return ready

    def close(self) -> None:
        """Free the descriptors; no thread may wait any more."""
        with self._lock:
            _close(self._read)
            _close(self._write)


def dial(addresses: Iterable[Address], wakeup: Wakeup, timeout: float) -> Generator[Dialled, None, None]:
    """Connect to all addresses, one a quarter of a second after the other, or when the last failed.

    Yields each with its socket, or why there is none, as that is known; the sockets are the
    caller's. Raises :class:`Closed`.

    Args:
        addresses: the best first.
        wakeup: interrupts.
        timeout: seconds that each may take.
    """
    left = deque(addresses)
    pending: dict[socket.socket, tuple[Address, float]] = {}  # and when it times out
    due = 0.0  # when the next is tried
    try:
        while left or pending:
            now = time.monotonic()
            if left and (not pending or now >= due):
                address, due = left.popleft(), now + _STAGGER
                try:
                    pending[_begin(address)] = address, now + timeout
                except OSError as error:
                    yield address, error
                    due = 0.0
                    continue
            until = min(due if left else math.inf, *(until for _, until in pending.values()))
            ready = wakeup.wait(dict.fromkeys(pending, selectors.EVENT_WRITE), until)
            now = time.monotonic()
            for sock, (address, until) in list(pending.items()):
                if sock not in ready and now < until:
                    continue
                del pending[sock]
                failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if sock in ready else errno.ETIMEDOUT
                if failed:
                    _close(sock)
                    due = 0.0
                yield address, OSError(failed, os.strerror(failed)) if failed else sock
    finally:
        for sock in pending:
            _close(sock)


def _begin(address: Address) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    _ours[sock] = os.getpid()
    try:
        sock.setblocking(False)
        if isinstance(address.sockaddr, tuple):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address.sockaddr)
        if code and (code not in _IN_PROGRESS or isinstance(address.sockaddr, str)):
            raise OSError(code, os.strerror(code))
    except OSError:
        _close(sock)
        raise
    return sock


class Connection:
    """A connected socket, perhaps under TLS. One thread's.

    Args:
        sock: connected, non-blocking; this owns it from now on.
        context: for TLS; None for plaintext.
        name: the DNS name or IP address that the server's certificate must be for, and the SNI.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None, name: str) -> None:
        self._secure = None if context is None else _secured(sock, context, name)
        self._sock = self._secure or sock
        self._unsent = bytearray()
        self._buffer = memoryview(bytearray(_CHUNK))
        self._blocked = 0  # what OpenSSL waits for, where that is not what one would think

    @property
    def unsent(self) -> int:
        """Bytes that :meth:`write` keeps."""
        return len(self._unsent)

    def shake_hands(self, wakeup: Wakeup, until: float) -> None:
        """Set up TLS, where it is due; raises ``OSError``, of which ``ssl.SSLError`` is one, or :class:`Closed`."""
        if self._secure is None:
            return
        while True:
            try:
                with _in_openssl:
                    self._secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                wanted = selectors.EVENT_READ
            except ssl.SSLWantWriteError:
                wanted = selectors.EVENT_WRITE
            wakeup.wait({self._sock: wanted}, until)
            if time.monotonic() >= until:
                raise TimeoutError(errno.ETIMEDOUT, "timed out in the TLS handshake")
        if self._secure.selected_alpn_protocol() != "h2":
            raise ConnectionError("the server does not speak HTTP/2 by TLS (ALPN), so no gRPC")

    def wait(self, wakeup: Wakeup, until: float | None) -> bool:
        """Wait until there is something to read, or to go on writing; tells whether there is."""
        if self._secure is not None and self._secure.pending():
            return True
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0) | self._blocked
        return bool(wakeup.wait({self._sock: events}, until))

    def read(self) -> memoryview | None:
        """Return what is there, in a buffer used again by the next call; empty for nothing, None for the end.

        Raises:
            OSError: the connection is broken, and nothing was read before.
        """
        size = 0
        self._blocked = 0
        try:
            while size < _CHUNK and (more := self._recv_into(self._buffer[size:])):
                size += more
            if not size:
                return None
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except ssl.SSLWantWriteError:
            self._blocked = selectors.EVENT_WRITE
        except OSError:
            if not size:
                raise  # else the next call meets it again
        return self._buffer[:size]

    def write(self, data: bytes) -> None:
        """Send as much as goes out now; the rest is kept for the next call. Raises ``OSError``."""
        self._unsent += data
        try:
            while self._unsent:
                del self._unsent[: self._send()]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass  # reading is always waited for

    def close(self) -> None:
        """Close at once, also where a forked child has a copy."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # not SSLSocket's, which forgets TLS first
        _close(self._sock)

    def _recv_into(self, buffer: memoryview) -> int:
        if self._secure is None:
            return self._sock.recv_into(buffer)
        with _in_openssl:
            return self._secure.recv_into(buffer)

    def _send(self) -> int:
        if self._secure is None:
            return self._sock.send(self._unsent)
        with _in_openssl:
            return self._secure.send(self._unsent)


def context_of(make: Callable[[], ssl.SSLContext | None]) -> ssl.SSLContext | None:
    """Return ``make()``, with no fork meanwhile."""
    with _in_openssl:
        return make()


def _secured(sock: socket.socket, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    try:
        with _in_openssl:  # also, that no child is forked while the descriptor is nobody's
            _ours.pop(sock)
            secure = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
            _ours[secure] = os.getpid()
    except BaseException:
        sock.close()
        raise
    return secure


def _close(sock: socket.socket) -> None:
    sock.close()
    _ours.pop(sock, None)


def _after_fork_in_child() -> None:
    _in_openssl.release()  # not a new one: threads of the child's may be waiting for it already
    for sock, owner in list(_ours.items()):
        if owner != os.getpid():  # a child's stream may be under way, too
            del _ours[sock]
            number = sock.detach()  # closing the object would be as silent, were it not for TLS
            if number >= 0:
                os.close(number)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_in_openssl.acquire, after_in_parent=_in_openssl.release, after_in_child=_after_fork_in_child
    )
