"""One stream, in bytes: events in order, and nothing read before its turn."""

import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from meshlib.xds.bootstrap_parts import Server
from meshlib.xds.credentials import Local
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.stream import SERVICE, SOTW, AdsStream, StreamData, StreamEnded, StreamOpened
from meshlib.xds.type_urls import CLUSTER

TIMEOUT = 10.0


@pytest.fixture
def stream():
    opened: list[AdsStream] = []

    def make(address, **options):
        events = queue.SimpleQueue()
        opened.append(AdsStream(Server(address), SOTW, events.put, **options))
        opened[-1].start()
        return opened[-1], events

    yield make
    for one in opened:
        one.close()
        one._thread.join(TIMEOUT)


def test_the_next_response_is_read_when_the_last_was_dealt_with(ads_server, stream):
    server = ads_server()
    server.answers = False
    one, events = stream(server.address)
    assert isinstance(events.get(timeout=TIMEOUT), StreamOpened)
    one.send(discovery_pb2.DiscoveryRequest(type_url=CLUSTER).SerializeToString())
    server.expect(lambda r: r.type_url == CLUSTER)
    for number in range(3):
        server.push(b"%d" % number)
    for number in range(3):
        event = events.get(timeout=TIMEOUT)
        assert isinstance(event, StreamData)
        assert event.data == b"%d" % number
        with pytest.raises(queue.Empty):
            events.get(timeout=0.1)
        one.resume()


def test_the_end_comes_with_its_reason(ads_server, stream):
    server = ads_server()
    one, events = stream(server.address)
    assert isinstance(events.get(timeout=TIMEOUT), StreamOpened)
    one.send(discovery_pb2.DiscoveryRequest(type_url="x").SerializeToString())
    server.expect(lambda r: r.type_url == "x")
    server.stop()
    event = events.get(timeout=TIMEOUT)
    assert isinstance(event, StreamEnded)
    assert event.reason.startswith(("UNAVAILABLE", "CANCELLED"))


def test_closing_before_anything_happened_leaves_no_thread(ads_server, stream):
    one, _ = stream(ads_server().address)
    one.close()
    one._thread.join(TIMEOUT)
    assert not one._thread.is_alive()


class Echo:
    """A server of grpcio's that echoes, as large and compressed as it is asked to."""

    def __init__(self, address="127.0.0.1:0", **options):
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)], **options)
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {SOTW: handler}),))
        self.port = self._server.add_insecure_port(address)
        self._server.start()
        self.sent = 0

    def _serve(self, incoming, _context):
        for request in incoming:
            word, _, count = request.partition(b"*")
            if count.startswith(b"="):  # so many of them, one after the other
                for _ in range(int(count[1:])):
                    self.sent += 1
                    yield word * 1000
            else:
                yield word * int(count or b"1")

    def stop(self, grace=None):
        return self._server.stop(grace)


@pytest.fixture
def echo():
    servers = []

    def start(*arguments, **options):
        servers.append(Echo(*arguments, **options))
        return servers[-1]

    yield start
    for one in servers:
        one.stop().wait()


def opened(events):
    event = events.get(timeout=TIMEOUT)
    assert isinstance(event, StreamOpened), event


def answer(one, events, request):
    one.send(request)
    event = events.get(timeout=TIMEOUT)
    assert isinstance(event, StreamData), event
    one.resume()
    return event.data


@pytest.mark.parametrize("compression", list(grpc.Compression)[::2], ids=str)  # none and gzip
def test_messages_of_all_sizes(echo, stream, compression):
    server = echo(compression=compression)
    one, events = stream(f"127.0.0.1:{server.port}")
    opened(events)
    for size in (0, 1, 5, 16_384, 65_536, 1_000_000, 40_000_000):
        assert answer(one, events, b"x*%d" % size) == b"x" * size
    large = b"y" * 3_000_000
    assert answer(one, events, large) == large


def test_a_fast_server_is_held_back(echo, stream):
    server = echo()
    one, events = stream(f"127.0.0.1:{server.port}")
    opened(events)
    one.send(b"x" * 1000 + b"*=60")  # 60 MB, one at a time
    assert events.get(timeout=TIMEOUT).data == b"x" * 1_000_000
    before = -1
    while server.sent != before:  # it goes on for as long as there is room
        before = server.sent
        threading.Event().wait(0.3)
    assert server.sent < 40  # a window, and what gRPC and the sockets hold
    for _ in range(59):
        one.resume()
        assert len(events.get(timeout=TIMEOUT).data) == 1_000_000
    assert server.sent == 60


def test_what_waits_for_a_server_that_does_not_read_is_bounded(stream, monkeypatch):
    monkeypatch.setattr("meshlib.xds.stream.MAX_UNSENT", 5_000_000)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one, events = stream(f"127.0.0.1:{listening.getsockname()[1]}")
        served, _ = listening.accept()
        with served:
            served.sendall(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS, all by default
            opened(events)
            for _ in range(4):
                one.send(b"x" * 1_000_000)
            with pytest.raises(queue.Empty):
                events.get(timeout=0.5)
            for _ in range(2):
                one.send(b"x" * 1_000_000)
            assert events.get(timeout=TIMEOUT).reason == (
                "UNAVAILABLE: the server leaves 5,000,000 bytes of requests unread"
            )


def test_a_server_that_stops_gracefully_ends_its_streams_in_its_own_time(echo, stream):
    server = echo()
    one, events = stream(f"127.0.0.1:{server.port}")
    opened(events)
    assert answer(one, events, b"here") == b"here"
    stopped = server.stop(1.5)
    threading.Event().wait(0.3)
    assert answer(one, events, b"still here") == b"still here"
    assert stopped.wait(TIMEOUT)
    event = events.get(timeout=TIMEOUT)
    assert isinstance(event, StreamEnded)
    assert event.code in ("UNAVAILABLE", "CANCELLED")


@pytest.mark.parametrize(
    "target", ["ipv4:127.0.0.9:{free},127.0.0.1:{port}", "dns:///localhost:{port}", "ipv6:[::1]:{port}", "[::1]:{port}"]
)
def test_all_addresses_are_tried(echo, stream, target, unused):
    server = echo("[::1]:0" if "::1" in target else "127.0.0.1:0")
    one, events = stream(target.format(port=server.port, free=unused))
    opened(events)
    assert answer(one, events, b"hello") == b"hello"


@pytest.fixture
def unused():
    """Return a port on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.9", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def silent():
    """Return the port of a server that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_silent_address_does_not_keep_from_the_others(echo, stream, silent, monkeypatch):
    monkeypatch.setattr("meshlib.xds.stream.CONNECT_TIMEOUT", 0.5)
    server = echo()
    one, events = stream(f"ipv4:127.0.0.1:{silent},127.0.0.1:{server.port}")
    opened(events)
    assert answer(one, events, b"hello") == b"hello"


def test_each_address_is_named_with_what_is_wrong_with_it(stream, silent, unused, monkeypatch):
    monkeypatch.setattr("meshlib.xds.stream.CONNECT_TIMEOUT", 0.5)
    _, events = stream(f"ipv4:127.0.0.1:{silent},127.0.0.9:{unused}")
    assert events.get(timeout=TIMEOUT).reason == (
        f"127.0.0.1:{silent}: no word from the server in 0.5 s; 127.0.0.9:{unused}: connection refused"
    )


def test_a_name_that_nobody_knows(stream):
    _, events = stream("nobody.invalid:1")
    assert events.get(timeout=TIMEOUT).reason.startswith("nobody.invalid cannot be resolved: ")


@pytest.mark.parametrize("when", ["connecting", "waiting for the server", "an owner that is busy"])
def test_closing_from_another_thread(echo, stream, silent, when):
    server = echo()
    port = silent if when == "waiting for the server" else server.port
    one, events = stream(f"127.0.0.1:{port}")
    if when == "an owner that is busy":
        opened(events)
        one.send(b"x*3")
        events.get(timeout=TIMEOUT)
    one.close()
    one.close()
    one.send(b"lost")
    one._thread.join(TIMEOUT)
    assert not one._thread.is_alive()


def test_a_server_that_thinks_it_is_pinged_too_often(echo, stream):
    server = echo()  # by default it takes one in five minutes
    _, events = stream(f"127.0.0.1:{server.port}", keepalive=0.05)
    opened(events)
    event = events.get(timeout=TIMEOUT)
    assert event.too_many_pings
    assert event.code == "UNAVAILABLE"


def test_local_credentials_go_no_further_than_this_machine():
    events = queue.SimpleQueue()
    one = AdsStream(Server("192.0.2.1:80", Local()), SOTW, events.put)
    one.start()
    assert events.get(timeout=TIMEOUT).reason == (
        "local credentials: 192.0.2.1:80 is neither a unix socket nor loopback"
    )


def test_a_stream_that_rests_uses_no_processor(echo, stream):
    server = echo()
    _, events = stream(f"127.0.0.1:{server.port}")
    opened(events)
    began = time.process_time()
    threading.Event().wait(1.0)
    assert time.process_time() - began < 0.1
