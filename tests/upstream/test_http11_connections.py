"""Both connection engines over raw sockets: the same scenario, the same answer."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import pytest

from meshlib.model.endpoint import Endpoint
from meshlib.policy.effects import ErrorKind
from meshlib.upstream.clock import AttemptClock
from meshlib.upstream.failure import AttemptFailed
from meshlib.upstream.http11 import asynchronous, blocking
from meshlib.upstream.http11.blocking import Origin, Outgoing
from meshlib.upstream.http11.framing import encode_head

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = encode_head(b"GET", b"/", [(b"Host", b"x")])
Serve = Callable[[socket.socket], None]


@contextmanager
def serving(*scripts: Serve) -> Iterator[Endpoint]:
    """Serve each connection by the next script, the last one again and again."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def accept() -> None:
        left = list(scripts)
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            script = left.pop(0) if len(left) > 1 else left[0]
            threading.Thread(target=run, args=(script, connection), daemon=True).start()

    def run(script: Serve, connection: socket.socket) -> None:
        with connection:
            try:
                script(connection)
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield Endpoint(*listener.getsockname())
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def heads(connection: socket.socket) -> Iterator[bytes]:
    """Yield each request head that comes (bodies are the script's to read)."""
    seen = b""
    while data := connection.recv(65536):
        seen += data
        while b"\r\n\r\n" in seen:
            head, _, seen = seen.partition(b"\r\n\r\n")
            yield head


def answers(*responses: bytes) -> Serve:
    """Answer the nth request of a connection with the nth response, the last one again and again."""

    def script(connection: socket.socket) -> None:
        left = list(responses)
        for _ in heads(connection):
            connection.sendall(left.pop(0) if len(left) > 1 else left[0])

    return script


class Client:
    """One engine: sends ``Outgoing`` and reads the whole response."""

    def __init__(self, endpoint: Endpoint, **limits) -> None:
        self.settings = {"max_connections": None, "max_idle": None, "idle_expiry": None, **limits}
        self.origin = Origin(endpoint)

    def run(self, *messages: Outgoing, timeout: float | None = 5.0) -> list[tuple[int, bytes]]:
        raise NotImplementedError


class Blocking(Client):
    def run(self, *messages, timeout=5.0):
        pool = self.pool = blocking.Pool(self.origin, **self.settings)
        try:
            return [self.one(pool, message, timeout) for message in messages]
        finally:
            pool.close()

    def one(self, pool, message, timeout):
        clock = AttemptClock(timeout, None, body_pending=False)
        connection = pool.acquire(clock, 2.0, 2.0)
        try:
            reader = connection.request(message, clock, None)
            body = b""
            while part := connection.read_body(clock, None):
                body += part
            return reader.status, body
        finally:
            pool.release(connection)


class Asynchronous(Client):
    def run(self, *messages, timeout=5.0):
        return asyncio.run(self.all(messages, timeout))

    async def all(self, messages, timeout):
        pool = self.pool = asynchronous.Pool(self.origin, **self.settings)
        try:
            return [await self.one(pool, message, timeout) for message in messages]
        finally:
            pool.close()
            await asyncio.sleep(0)  # let the transports close

    async def one(self, pool, message, timeout):
        if not isinstance(message.body, bytes):
            message = Outgoing(message.method, message.head, aiter_of(message.body), message.chunked)
        clock = AttemptClock(None, None, body_pending=False)
        connection = await pool.acquire(clock, 2.0, 2.0)
        try:
            try:
                async with asyncio.timeout(timeout):
                    reader = await connection.request(message, clock)
                    body = b""
                    while part := await connection.read_body(None):
                        body += part
            except TimeoutError:
                raise AttemptFailed(ErrorKind.TIMEOUT, "cut", phase="read", timed_out=True) from None
            return reader.status, body
        finally:
            pool.release(connection)


async def aiter_of(parts) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(0)


@pytest.fixture(params=[Blocking, Asynchronous], ids=["blocking", "asyncio"])
def client(request) -> type[Client]:
    return request.param


def get(head: bytes = HEAD, method: bytes = b"GET", body: bytes = b"") -> Outgoing:
    return Outgoing(method, head, body)


def failure(client: Client, *messages: Outgoing, timeout: float = 5.0) -> AttemptFailed:
    with pytest.raises(AttemptFailed) as caught:
        client.run(*messages, timeout=timeout)
    return caught.value


def test_a_connection_is_used_again_until_the_server_closes_it(client):
    accepted = []

    def script(connection):
        accepted.append(connection)
        answers(OK, OK, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n!")(connection)

    with serving(script) as endpoint:
        assert client(endpoint).run(*[get()] * 4) == [(200, b"ok"), (200, b"ok"), (200, b"!"), (200, b"ok")]
    assert len(accepted) == 2


def test_a_connection_closed_while_idle_is_not_used_again(client):
    closed = threading.Event()

    def first(connection):
        next(heads(connection))
        connection.sendall(OK)
        connection.close()
        closed.set()

    def parts():
        yield b"x"

    with serving(first, answers(OK)) as endpoint:
        engine = client(endpoint)
        if client is Blocking:
            pool = blocking.Pool(engine.origin, **engine.settings)
            assert engine.one(pool, get(), 5.0) == (200, b"ok")
            assert closed.wait(5)
            assert engine.one(pool, get(), 5.0) == (200, b"ok")
            pool.close()
            return

        async def twice():
            pool = asynchronous.Pool(engine.origin, **engine.settings)
            first_answer = await engine.one(pool, get(), 5.0)
            await asyncio.to_thread(closed.wait, 5)
            await asyncio.sleep(0.01)  # the end of the connection reaches the loop
            second_answer = await engine.one(pool, get(), 5.0)
            pool.close()
            return first_answer, second_answer

        assert asyncio.run(twice()) == ((200, b"ok"), (200, b"ok"))


def test_garbage_after_a_response_spoils_its_connection(client):
    accepted = []

    def script(connection):
        accepted.append(connection)
        answers(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", OK)(connection)

    with serving(script, answers(OK)) as endpoint:
        assert client(endpoint).run(get(), get()) == [(200, b"ok"), (200, b"ok")]


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (lambda c: next(heads(c)), ErrorKind.RESET),
        (lambda c: (next(heads(c)), c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")), ErrorKind.RESET),
        (lambda c: (next(heads(c)), c.sendall(b"SSH-2.0-OpenSSH_9\r\n"), c.recv(1)), ErrorKind.PROTOCOL),
        (lambda c: (next(heads(c)), c.recv(1)), ErrorKind.TIMEOUT),
    ],
    ids=["closed before the head", "closed in the body", "not HTTP", "silent"],
)
def test_what_breaks_off_is_told_apart(client, script, kind):
    with serving(script) as endpoint:
        assert failure(client(endpoint), get(), timeout=0.3).kind is kind


def test_a_reset_before_the_head(client):
    def script(connection):
        next(heads(connection))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    with serving(script) as endpoint:
        assert failure(client(endpoint), get()).kind is ErrorKind.RESET


def test_a_head_that_trickles_in_is_cut(client):
    def script(connection):
        next(heads(connection))
        for byte in OK:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    with serving(script) as endpoint:
        started = time.monotonic()
        assert failure(client(endpoint), get(), timeout=0.3).timed_out
        assert 0.25 < time.monotonic() - started < 1.5


def test_nobody_listens(client):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(*listener.getsockname())
    error = failure(client(endpoint), get())
    assert (error.kind, error.phase) == (ErrorKind.CONNECT, "connect")
    assert str(endpoint) in error.message


def test_a_streamed_body_goes_out_in_chunks(client):
    received = []

    def script(connection):
        seen = b""
        while not seen.endswith(b"0\r\n\r\n"):
            seen += connection.recv(65536)
        received.append(seen.partition(b"\r\n\r\n")[2])
        connection.sendall(OK)

    with serving(script) as endpoint:
        head = encode_head(b"POST", b"/", [(b"Host", b"x"), (b"Transfer-Encoding", b"chunked")])
        message = Outgoing(b"POST", head, [b"ab", b"", b"cde"], chunked=True)
        assert client(endpoint).run(message) == [(200, b"ok")]
    assert received == [b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"]


def test_an_early_answer_ends_the_upload(client):
    sent = []

    def script(connection):
        next(heads(connection))
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    def parts():
        for number in range(1000):
            sent.append(number)
            yield b"x" * 100
            time.sleep(0.005)

    with serving(script) as endpoint:
        head = encode_head(b"POST", b"/", [(b"Host", b"x"), (b"Transfer-Encoding", b"chunked")])
        assert client(endpoint).run(Outgoing(b"POST", head, parts(), chunked=True)) == [(413, b"")]
    assert len(sent) < 900


def test_a_body_that_expects_100_waits_for_it(client):
    order = []

    def script(connection):
        next(heads(connection))
        order.append("head")
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        order.append(connection.recv(65536))
        connection.sendall(OK)

    with serving(script) as endpoint:
        head = encode_head(b"PUT", b"/", [(b"Host", b"x"), (b"Content-Length", b"4"), (b"Expect", b"100-continue")])
        message = Outgoing(b"PUT", head, b"body", expects_continue=True)
        assert client(endpoint).run(message) == [(200, b"ok")]
    assert order == ["head", b"body"]


def test_a_refused_expectation_sends_no_body(client):
    received = []
    over = threading.Event()

    def script(connection):
        next(heads(connection))
        connection.sendall(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
        received.append(connection.recv(65536))
        over.set()

    with serving(script) as endpoint:
        head = encode_head(b"PUT", b"/", [(b"Host", b"x"), (b"Content-Length", b"4"), (b"Expect", b"100-continue")])
        assert client(endpoint).run(Outgoing(b"PUT", head, b"body", expects_continue=True)) == [(417, b"")]
        assert over.wait(5)
    assert received == [b""]


def test_a_large_body_comes_whole(client):
    body = bytes(range(256)) * 8192

    with serving(answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))) as endpoint:
        assert client(endpoint).run(get(), get()) == [(200, body), (200, body)]


def test_idle_connections_expire(client):
    accepted = []

    def script(connection):
        accepted.append(connection)
        answers(OK)(connection)

    with serving(script) as endpoint:
        client(endpoint, max_idle=0).run(get(), get(), get())
    assert len(accepted) == 3


def test_waiters_stand_in_line_and_one_that_left_passes_its_turn_on():
    with serving(answers(OK)) as endpoint:

        async def scenario():
            pool = asynchronous.Pool(Origin(endpoint), 1, None, None)
            clock = AttemptClock(None, None, body_pending=False)
            held = await pool.acquire(clock, 1.0, 1.0)
            with pytest.raises(AttemptFailed, match="in use"):
                await pool.acquire(clock, 1.0, 0.02)
            waiters = [asyncio.create_task(pool.acquire(clock, 1.0, 5.0)) for _ in range(3)]
            await asyncio.sleep(0.01)
            waiters[0].cancel()
            await asyncio.sleep(0)
            pool.release(held)
            second = await asyncio.wait_for(waiters[1], 2)
            pool.release(second)
            third = await asyncio.wait_for(waiters[2], 2)
            pool.release(third)
            pool.close()
            await asyncio.gather(*waiters, return_exceptions=True)

        asyncio.run(scenario())


def test_threads_wait_for_a_connection_and_time_out():
    with serving(answers(OK)) as endpoint:
        pool = blocking.Pool(Origin(endpoint), 1, None, None)
        clock = AttemptClock(None, None, body_pending=False)
        held = pool.acquire(clock, 1.0, 1.0)
        with pytest.raises(AttemptFailed, match="in use"):
            pool.acquire(clock, 1.0, 0.05)
        threading.Timer(0.05, pool.release, [held]).start()
        pool.release(pool.acquire(clock, 1.0, 5.0))
        pool.close()
