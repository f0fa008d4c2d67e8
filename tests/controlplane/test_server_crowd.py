"""Clients that behave badly: the others are served."""

import contextlib
import queue
import threading

import grpc
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.serving import SIDECAR, AdsClient, Source, build, names
from meshlib.controlplane.pacing import Limits
from meshlib.controlplane.resources import CLUSTER, ENDPOINT
from meshlib.controlplane.server import ADS_SERVICE, Server
from waiting import until

SOTW, DELTA = f"/{ADS_SERVICE}/StreamAggregatedResources", f"/{ADS_SERVICE}/DeltaAggregatedResources"


@pytest.fixture
def source():
    return Source(build())


@pytest.fixture
def server(source):
    with Server(source, port=0, limits=Limits(streams=300, first_request=1.0)) as server:
        yield server


@pytest.fixture
def bystander(server, source):
    """A client that is served before and, which every test is about, after."""
    with grpc.insecure_channel(server.address) as channel:
        client = AdsClient(channel, "sidecar~127.0.0.2~quiet.shop~shop.svc.cluster.local")
        client.get(ENDPOINT, "catalog")
        yield client
        source.publish(build(ports=(4711,)))
        response = client.receive()
        assert names(response) == ["catalog"]
        client.close()


def raw(channel, method, requests):
    return channel.stream_stream(method)(iter(requests.get, None))


@pytest.mark.parametrize("method", [SOTW, DELTA])
@pytest.mark.parametrize("garbage", [b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f"])
def test_garbage_is_refused_in_words(bystander, server, method, garbage):
    with grpc.insecure_channel(server.address) as channel:
        requests = queue.Queue()
        requests.put(garbage)
        call = raw(channel, method, requests)
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "no discovery request" in call.details()
        requests.put(None)


def test_a_stream_that_says_nothing_is_ended(bystander, server):
    with grpc.insecure_channel(server.address) as channel:
        requests = queue.Queue()
        call = raw(channel, SOTW, requests)
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        requests.put(None)


def test_more_streams_than_there_may_be_are_refused(bystander, server):
    channels, calls, requests = [], [], queue.Queue()
    first = discovery_pb2.DiscoveryRequest(type_url=CLUSTER, node=base_pb2.Node(id=SIDECAR)).SerializeToString()
    for _ in range(4):
        channel = grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)])
        channels.append(channel)
        for _ in range(100):
            own = queue.Queue()
            own.put(first)
            calls.append(channel.stream_stream(SOTW)(iter(own.get, None)))
            requests.put(own)
    refused = threading.Semaphore(0)
    for call in calls:
        if not call.add_callback(lambda: refused.release()):  # it is over already
            refused.release()
    assert refused.acquire(timeout=20)
    codes = {call.code() for call in calls if not call.is_active()}
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    for call in calls:
        call.cancel()
    for channel in channels:
        channel.close()
    while not requests.empty():
        requests.get().put(None)
    until(lambda: len(server.clients) == 1)


def test_a_flood_is_read_slowly(source, server, bystander):
    """Each of these asks for everything anew."""
    with grpc.insecure_channel(server.address) as channel:
        client = AdsClient(channel)
        for _ in range(5_000):
            client.send(CLUSTER)
        for _ in range(1_000):
            client.receive()
        late = AdsClient(channel, "sidecar~127.0.0.3~late.shop~shop.svc.cluster.local")
        assert names(late.get(CLUSTER)) == ["catalog"]
        late.close()
        client.call.cancel()


def test_one_that_never_reads_holds_up_nobody(source, server, bystander):
    big = tuple(f"cluster-{number}" for number in range(20_000))
    with grpc.insecure_channel(server.address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        requests = queue.Queue()
        call = channel.stream_stream(SOTW)(iter(requests.get, None))
        requests.put(
            discovery_pb2.DiscoveryRequest(type_url=CLUSTER, node=base_pb2.Node(id=SIDECAR)).SerializeToString()
        )
        until(lambda: len(server.clients) == 2)
        for timeout in range(2, 6):
            source.publish(build(clusters=(*big, "catalog"), ports=(), timeout=timeout))
        bystander.receive()
        requests.put(None)
        call.cancel()


def test_one_whose_resources_cannot_be_made_keeps_what_it_had(server, source, bystander, caplog):
    with grpc.insecure_channel(server.address) as channel:
        client = AdsClient(channel)
        client.get(CLUSTER)
        made = source.resources

        def broken(node):
            if node.workload == "webapp-x":
                raise RuntimeError("cannot be translated")
            return made(node)

        source.resources = broken
        source.publish(build(ports=(1,)))
        bystander.receive()
        until(lambda: any("keeps what it has" in record.message for record in caplog.records))
        source.resources = made
        with contextlib.suppress(queue.Empty):
            client.barrier()
        client.close()
