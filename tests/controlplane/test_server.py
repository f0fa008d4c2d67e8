"""The ADS server over real sockets, asked by a raw gRPC client."""

import queue
import socket
from concurrent import futures

import grpc
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_pb2
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.serving import SIDECAR, AdsClient, Source, build, decode, names, statuses
from meshlib.controlplane import status
from meshlib.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meshlib.controlplane.server import ADS_SERVICE, Server
from meshlib.errors import ConfigError, MeshError
from waiting import until


@pytest.fixture
def source():
    return Source(build())


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
    client = AdsClient(channel)
    yield client
    client.close()


class TestSubscribing:
    def test_a_sidecar_gets_all_clusters_and_listeners_and_what_it_names_of_the_rest(self, client):
        assert names(client.get(CLUSTER)) == ["catalog"]
        assert names(client.get(ENDPOINT, "catalog")) == ["catalog"]
        assert names(client.get(LISTENER)) == ["0.0.0.0_80"]
        assert names(client.get(ROUTE, "80")) == ["80"]

    def test_an_ack_brings_nothing(self, client):
        client.get(CLUSTER)
        client.barrier()

    def test_a_grpc_node_gets_the_names_it_asks_for_and_no_others(self, channel, source):
        source.publish(build(clusters=("catalog", "forum"), ports=(1, 2)))
        client = AdsClient(channel, metadata={"GENERATOR": "grpc"})
        assert names(client.get(CLUSTER, "forum", "nowhere")) == ["forum"]
        client.close()

    def test_a_grpc_node_that_adds_a_name_gets_the_whole_set(self, channel, source):
        source.publish(build(clusters=("catalog", "forum"), ports=(1, 2)))
        client = AdsClient(channel, metadata={"GENERATOR": "grpc"})
        first = client.get(ENDPOINT, "catalog")
        client.ack(first, "catalog", "forum")
        assert names(client.receive()) == ["catalog", "forum"]
        client.close()

    def test_a_sidecar_that_adds_a_name_gets_that_one(self, client):
        first = client.get(ENDPOINT, "catalog")
        client.ack(first, "catalog", "forum")
        assert names(client.receive()) == ["forum"]

    def test_endpoints_and_routes_that_do_not_exist_are_answered_empty(self, client):
        endpoints = client.get(ENDPOINT, "nowhere")
        assert decode(endpoints.resources[0]) == endpoint_pb2.ClusterLoadAssignment(cluster_name="nowhere")
        routes = client.get(ROUTE, "nowhere")
        assert decode(routes.resources[0]) == route_pb2.RouteConfiguration(name="nowhere")

    def test_fewer_names_bring_nothing_and_the_dropped_one_comes_again_when_asked_for(self, client):
        first = client.get(ENDPOINT, "catalog", "forum")
        client.ack(first, "catalog")
        client.barrier()
        client.ack(first, "catalog", "forum")
        assert names(client.receive()) == ["forum"]

    def test_a_stale_nonce_is_ignored(self, client):
        first = client.get(ENDPOINT, "catalog")
        client.ack(first, "catalog", "forum")
        second = client.receive()
        client.ack(second, "catalog", "forum")
        client.ack(first, "catalog", "forum", "webapp")
        client.barrier()

    def test_an_empty_nonce_is_always_answered(self, client):
        client.get(CLUSTER)
        assert names(client.get(CLUSTER)) == ["catalog"]

    def test_a_nonce_of_a_former_stream_is_answered(self, channel, client):
        former = client.get(CLUSTER)
        client.close()
        client = AdsClient(channel)
        client.ack(former)
        assert names(client.receive()) == ["catalog"]
        client.close()

    def test_a_type_that_is_not_served_is_told_of_once(self, client, caplog):
        client.send("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "default")
        client.send("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "default")
        client.barrier()
        assert [record.message for record in caplog.records if "not served" in record.message] == [
            "webapp-x.istioinaction asks for type.googleapis.com/"
            "envoy.extensions.transport_sockets.tls.v3.Secret, which is not served here; it gets no answer"
        ]


class TestUpdates:
    def subscribe(self, client):
        client.get(CLUSTER)
        client.get(ENDPOINT, "catalog")
        client.get(LISTENER)
        client.get(ROUTE, "80")

    @pytest.mark.parametrize(
        ("change", "types"),
        [
            ({}, []),
            ({"ports": (3001,)}, [ENDPOINT]),
            # Envoy warms a changed listener, or cluster, until its routes, or endpoints, come again.
            ({"listeners": ("0.0.0.0_80", "0.0.0.0_81")}, [LISTENER, ROUTE]),
            ({"timeout": 2}, [CLUSTER, ENDPOINT]),
            ({"body": 2}, [ROUTE]),
            ({"clusters": ("catalog", "forum"), "ports": (3000, 1)}, [CLUSTER]),
            ({"listeners": ()}, [LISTENER]),
        ],
    )
    def test_only_what_changed_is_pushed_and_in_order(self, client, source, change, types):
        self.subscribe(client)
        source.publish(build(**change))
        got = [client.receive() for _ in types]
        assert [response.type_url for response in got] == types
        assert {response.version_info for response in got} <= {"v2"}
        client.send(ROUTE, "barrier")
        assert names(client.receive()) == ["barrier"]

    def test_a_sidecar_gets_the_changed_endpoints_alone_and_a_grpc_node_all_it_asked_for(self, channel, source):
        source.publish(build(clusters=("catalog", "forum"), ports=(1, 2)))
        sidecar, proxyless = AdsClient(channel), AdsClient(channel, metadata={"GENERATOR": "grpc"})
        for client in (sidecar, proxyless):
            client.get(ENDPOINT, "catalog", "forum")
        source.publish(build(clusters=("catalog", "forum"), ports=(1, 3)))
        assert names(sidecar.receive()) == ["forum"]
        assert names(proxyless.receive()) == ["catalog", "forum"]
        sidecar.close()
        proxyless.close()

    def test_a_removed_cluster_leaves_cds_and_its_endpoints_come_empty(self, client, source):
        source.publish(build(clusters=("catalog", "forum"), ports=(1, 2)))
        client.get(CLUSTER)
        client.get(ENDPOINT, "catalog", "forum")
        source.publish(build(ports=(1,)))
        assert names(client.receive()) == ["catalog"]
        endpoints = client.receive()
        assert names(endpoints) == ["forum"]
        assert not decode(endpoints.resources[0]).endpoints

    def test_after_unsubscribing_nothing_is_pushed(self, client, source):
        first = client.get(ENDPOINT, "catalog")
        client.ack(first)
        client.barrier()
        source.publish(build(ports=(3001,)))
        client.barrier()

    def test_what_was_refused_is_not_repeated_and_the_next_change_comes(self, client, source, server, caplog):
        self.subscribe(client)
        source.publish(build(ports=(3001,)))
        client.nack(client.receive(), "rejected on purpose", "catalog")
        until(lambda: statuses(server)["eds"] == "ERROR")
        assert server.clients[0].errors == {"eds": "rejected on purpose"}
        warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert warnings == ["webapp-x.istioinaction refused EDS version v2 and keeps what it had: rejected on purpose"]
        source.publish(build(ports=(3000,)))
        response = client.receive()
        assert response.version_info == "v3"
        client.ack(response, "catalog")
        until(lambda: statuses(server)["eds"] == "SYNCED")

    def test_changes_while_the_client_does_not_read_are_one_push(self, server, source):
        # The client's window takes one response of this size and no more.
        big = tuple(f"cluster-{number}" for number in range(20_000))
        source.publish(build(clusters=big, ports=()))
        with grpc.insecure_channel(server.address, options=[("grpc.max_receive_message_length", -1)]) as channel:
            requests = queue.Queue()
            stream = channel.stream_stream(
                f"/{ADS_SERVICE}/StreamAggregatedResources",
                request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
            )(iter(requests.get, None))
            requests.put(discovery_pb2.DiscoveryRequest(type_url=CLUSTER, node=base_pb2.Node(id=SIDECAR)))
            assert next(stream).version_info == "v2"
            for timeout in range(2, 32):
                source.publish(build(clusters=big, ports=(), timeout=timeout))
            versions = [next(stream).version_info]
            while versions[-1] != "v32":
                versions.append(next(stream).version_info)
            requests.put(None)
        assert len(versions) < 15, versions


class TestRefusals:
    @pytest.mark.parametrize(
        ("node_id", "details"),
        [("", "missing node information"), ("client-1", "client-1"), ("proxyless~127.0.0.21~a.b~b.svc", "proxyless")],
    )
    def test_a_first_request_needs_a_node(self, channel, node_id, details):
        client = AdsClient(channel, node_id)
        client.send(CLUSTER)
        assert client.call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details in client.call.details()
        client.close()

    def test_a_taken_port_is_an_error_that_says_so(self, server, source):
        with pytest.raises(
            ConfigError, match=rf"cannot listen on 127\.0\.0\.1 port {server.port}: Address already in use"
        ):
            Server(source, port=server.port).start()

    def test_a_closed_server_frees_its_port_and_ends_its_streams(self, source):
        server = Server(source, port=0)
        server.start()
        with grpc.insecure_channel(server.address) as channel:
            client = AdsClient(channel)
            client.get(CLUSTER)
            server.close()
            server.close()
            assert client.call.code() is not grpc.StatusCode.OK
            client.close()
        with Server(source, port=server.port) as again:
            assert again.port == server.port


class TestStatus:
    def test_not_sent_stale_synced(self, client, server):
        client.send(CLUSTER)
        response = client.receive()
        assert statuses(server) == {"cds": "STALE", "lds": "NOT SENT", "eds": "NOT SENT", "rds": "NOT SENT"}
        assert not server.clients[0].synced
        client.ack(response)
        until(lambda: server.clients[0].synced)
        assert server.clients[0].cds.version == "v1"

    def test_it_is_read_over_csds_as_another_process_would(self, channel, server):
        client = AdsClient(channel, metadata={"CLUSTER_ID": "home", "ISTIO_VERSION": "1.31.0", "GENERATOR": "grpc"})
        client.nack(client.get(LISTENER, "catalog:80"), "no", "catalog:80")
        until(lambda: server.clients[0].errors)
        (got,) = status.fetch(server.address)
        assert got.node_id == SIDECAR
        assert got.errors == server.clients[0].errors
        assert got.lds.sent_at == pytest.approx(server.clients[0].lds.sent_at, abs=1e-5)
        assert (got.name, got.kind, got.cluster, got.version) == ("webapp-x.istioinaction", "grpc", "home", "1.31.0")
        assert got.lds.status is status.SyncStatus.ERROR
        assert got.lds.error == "no"
        assert got.connected_at > 0
        client.close()

    def test_a_client_that_leaves_is_forgotten(self, client, server):
        client.get(CLUSTER)
        assert len(server.clients) == 1
        client.close()
        until(lambda: not server.clients)

    def test_nobody_there(self):
        with socket.socket() as bound:  # bound, and not listening: connections are refused
            bound.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{bound.getsockname()[1]}"
            with pytest.raises(MeshError, match=f"no control plane answers on {address} "):
                status.fetch(address)

    def test_an_address_without_a_port(self):
        with pytest.raises(ConfigError, match="expected HOST:PORT"):
            status.fetch("localhost")

    def test_somebody_else_there(self):
        other = grpc.server(futures.ThreadPoolExecutor(1))
        port = other.add_insecure_port("127.0.0.1:0")
        other.start()
        try:
            with pytest.raises(MeshError, match="does not serve CSDS"):
                status.fetch(f"127.0.0.1:{port}")
        finally:
            other.stop(None).wait()
