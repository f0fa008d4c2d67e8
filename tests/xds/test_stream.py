"""One stream, in bytes: events in order, and nothing read before its turn."""

import queue

import grpc
import pytest

from meshlib.xds.protos import discovery_pb2
from meshlib.xds.stream import AdsStream, StreamData, StreamEnded, StreamOpened, describe
from meshlib.xds.type_urls import CLUSTER

TIMEOUT = 10.0


@pytest.fixture
def stream():
    opened: list[AdsStream] = []

    def make(address):
        events = queue.SimpleQueue()
        opened.append(AdsStream(address, events.put))
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


class Failed(grpc.RpcError):
    def __init__(self, code, details):
        self.code = lambda: code
        self.details = lambda: details


@pytest.mark.parametrize(
    ("code", "details", "said"),
    [
        (
            grpc.StatusCode.UNAVAILABLE,
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
            "Failed to connect to remote host: Connection refused",
            "connection refused",
        ),
        (
            grpc.StatusCode.UNAVAILABLE,
            "errors resolving x:1: [field:hostname lookup error:address lookup failed for x:1: Domain name not found]",
            "domain name not found",
        ),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", "UNAVAILABLE: Socket closed"),
        (grpc.StatusCode.UNAUTHENTICATED, "no token", "UNAUTHENTICATED: no token"),
        (grpc.StatusCode.CANCELLED, "", "CANCELLED"),
    ],
)
def test_errors_in_words(code, details, said):
    assert describe(Failed(code, details)) == said
