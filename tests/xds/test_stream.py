"""One stream, in bytes: events in order, and nothing read before its turn."""

import queue

import pytest

from meshlib.xds.bootstrap_parts import Server
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.stream import SOTW, AdsStream, StreamData, StreamEnded, StreamOpened
from meshlib.xds.type_urls import CLUSTER

TIMEOUT = 10.0


@pytest.fixture
def stream():
    opened: list[AdsStream] = []

    def make(address):
        events = queue.SimpleQueue()
        opened.append(AdsStream(Server(address), SOTW, events.put))
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
