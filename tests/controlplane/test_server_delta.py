"""Delta xDS over real sockets, asked by a raw gRPC client."""

import time

import grpc
import pytest

from controlplane.serving import DeltaClient, Source, build, decode, names, statuses
from meshlib.controlplane.pacing import Limits
from meshlib.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meshlib.controlplane.server import Server
from waiting import until

GRPC = {"GENERATOR": "grpc"}


@pytest.fixture
def source():
    return Source(build(clusters=("catalog", "forum"), ports=(1, 2)))


@pytest.fixture
def server(source):
    with Server(source, port=0) as server:
        yield server


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def client(channel):
    client = DeltaClient(channel)
    yield client
    client.close()


def versions(response):
    return {item.name: item.version for item in response.resources}


def test_a_wildcard_gets_everything_and_an_ack_without_names_nothing(client, server):
    response = client.get(CLUSTER)
    assert names(response) == ["catalog", "forum"]
    assert all(item.version for item in response.resources)
    assert response.system_version_info == "v1"
    assert names(client.get(LISTENER)) == ["0.0.0.0_80"]
    assert names(client.get(ENDPOINT, "catalog", "forum")) == ["catalog", "forum"]
    client.barrier()
    until(lambda: statuses(server)["cds"] == "SYNCED")


def test_the_wildcard_has_a_name_too(client):
    assert names(client.get(CLUSTER, "*")) == ["catalog", "forum"]


def test_only_what_changed_is_sent(client, source):
    client.get(ENDPOINT, "catalog", "forum")
    source.publish(build(clusters=("catalog", "forum"), ports=(1, 3)))
    response = client.receive()
    assert (names(response), list(response.removed_resources)) == (["forum"], [])
    client.ack(response)
    client.barrier()


def test_what_is_gone_is_named(client, source):
    client.get(CLUSTER)
    client.get(ENDPOINT, "catalog", "forum")
    source.publish(build(ports=(1,)))
    got = [client.receive(), client.receive()]
    assert [response.type_url for response in got] == [CLUSTER, ENDPOINT]
    assert [list(response.removed_resources) for response in got] == [["forum"], ["forum"]]
    assert [names(response) for response in got] == [[], []]


def test_pushes_are_in_order(client, source):
    for url, name in ((ROUTE, "80"), (LISTENER, ""), (ENDPOINT, "catalog"), (CLUSTER, "")):
        client.get(url, *filter(None, [name]))
    source.publish(build(timeout=2, ports=(7,), listeners=("0.0.0.0_80", "0.0.0.0_81"), body=3))
    assert [client.receive().type_url for _ in range(4)] == [CLUSTER, ENDPOINT, LISTENER, ROUTE]


def test_a_changed_cluster_brings_its_endpoints_again_for_envoy_warms_it(client, source):
    client.get(CLUSTER)
    client.get(ENDPOINT, "catalog", "forum")
    source.publish(build(clusters=("catalog", "forum"), ports=(1, 2), timeout=2))
    assert names(client.receive()) == ["catalog", "forum"]
    response = client.receive()
    assert (response.type_url, names(response)) == (ENDPOINT, ["catalog", "forum"])


def test_a_reconnected_client_is_not_sent_what_it_has(channel, client, source):
    has = versions(client.get(CLUSTER))
    client.close()
    source.publish(build(clusters=("forum", "new"), ports=(1, 2)))
    again = DeltaClient(channel)
    response = again.get(CLUSTER, has=has)
    assert (names(response), list(response.removed_resources)) == (["new"], ["catalog"])
    again.close()


def test_a_version_is_that_of_the_content(client, source):
    first = versions(client.get(ENDPOINT, "catalog"))
    source.publish(build(ports=(9,)))
    second = versions(client.receive())
    source.publish(build(ports=(1,)))
    assert versions(client.receive()) == first != second


def test_a_name_subscribed_again_is_sent_again(client):
    client.get(ENDPOINT, "catalog")
    assert names(client.get(ENDPOINT, "forum")) == ["forum"]
    assert names(client.get(ENDPOINT, "catalog")) == ["catalog"]


def test_after_unsubscribing_nothing_is_sent(client, source):
    client.get(ENDPOINT, "catalog", "forum")
    client.send(ENDPOINT, unsubscribe=["forum"])
    client.barrier()
    source.publish(build(clusters=("catalog", "forum"), ports=(5, 6)))
    assert names(client.receive()) == ["catalog"]


def test_after_unsubscribing_from_the_wildcard_only_the_names_are_left(channel, source):
    client = DeltaClient(channel, metadata=GRPC)
    assert names(client.get(CLUSTER)) == ["catalog", "forum"]
    client.send(CLUSTER, "forum", unsubscribe=["*"])
    assert names(client.receive()) == ["forum"]
    source.publish(build(clusters=("catalog", "forum"), ports=(1, 2), timeout=2))
    assert names(client.receive()) == ["forum"]
    client.close()


def test_a_grpc_node_keeps_its_watches_and_hears_when_what_was_missing_appears(channel, source):
    """istiod's delta forgets both (shared observations of it): ours must not."""
    client = DeltaClient(channel, metadata=GRPC)
    response = client.get(CLUSTER, "catalog", "late")
    assert (names(response), list(response.removed_resources)) == (["catalog"], ["late"])
    client.get(CLUSTER, "forum")
    source.publish(build(clusters=("catalog", "forum", "late"), ports=(1, 2, 3), timeout=4))
    assert sorted(names(client.receive())) == ["catalog", "forum", "late"]
    client.close()


def test_a_route_table_that_does_not_exist_is_empty_for_an_envoy_and_absent_for_grpc(channel, client):
    response = client.get(ROUTE, "nowhere")
    assert names(response) == ["nowhere"]
    assert not decode(response.resources[0]).virtual_hosts
    proxyless = DeltaClient(channel, metadata=GRPC)
    assert list(proxyless.get(ROUTE, "nowhere").removed_resources) == ["nowhere"]
    proxyless.close()


def test_what_was_refused_shows_and_subscriptions_beside_a_stale_nonce_count(client, server, source):
    first = client.get(ENDPOINT, "catalog")
    source.publish(build(clusters=("catalog", "forum"), ports=(8, 2)))
    second = client.receive()
    client.send(ENDPOINT, nonce=second.nonce, error="rejected on purpose")
    until(lambda: statuses(server)["eds"] == "ERROR")
    assert server.clients[0].errors == {"eds": "rejected on purpose"}
    client.send(ENDPOINT, "forum", nonce=first.nonce)
    assert names(client.receive()) == ["forum"]


def test_a_row_of_changes_is_one_push():
    source = Source(build())
    with (
        Server(source, port=0, limits=Limits(quiet=0.3, longest=5)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        client = DeltaClient(channel)
        client.get(ENDPOINT, "catalog")
        for port in range(50, 60):
            source.publish(build(ports=(port,)))
        response = client.receive()
        assert response.system_version_info == "v11"
        client.ack(response)
        client.barrier()
        client.close()


def test_changes_that_never_cease_are_pushed_all_the_same():
    source = Source(build())
    with (
        Server(source, port=0, limits=Limits(quiet=0.5, longest=0.6)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        client = DeltaClient(channel)
        client.get(ENDPOINT, "catalog")
        for port in range(50, 70):
            source.publish(build(ports=(port,)))
            time.sleep(0.1)
        assert client.receive().system_version_info != source.version
        client.close()
