"""Raw clients of the ADS server, and resources made by hand."""

import contextlib
import queue
import threading

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from meshlib.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, Resources
from meshlib.controlplane.server import ADS_SERVICE

SIDECAR = "sidecar~127.0.0.1~webapp-x.istioinaction~istioinaction.svc.cluster.local"


class Source:
    """Resources made by hand, the same for every node."""

    def __init__(self, resources):
        self._state = ("v1", resources)
        self._callbacks = []

    @property
    def version(self):
        return self._state[0]

    def resources(self, node):
        return self._state[1]

    def subscribe(self, callback):
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def publish(self, resources):
        self._state = (f"v{int(self.version[1:]) + 1}", resources)
        for callback in self._callbacks:
            callback()


def build(*, clusters=("catalog",), ports=(3000,), timeout=1, listeners=("0.0.0.0_80",), body=1):
    return Resources.build(
        listeners=[listener_pb2.Listener(name=name) for name in listeners],
        routes=[
            route_pb2.RouteConfiguration(name="80", max_direct_response_body_size_bytes={"value": body}),
        ],
        clusters=[
            cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS, connect_timeout={"seconds": timeout})
            for name in clusters
        ],
        endpoints=[
            endpoint_pb2.ClusterLoadAssignment(
                cluster_name=name, endpoints=[{"lb_endpoints": [{"load_balancing_weight": {"value": port}}]}]
            )
            for name, port in zip(clusters, ports, strict=False)
        ],
    )


class Stream:
    """One stream of either form, driven request by request."""

    METHOD: str
    REQUEST: type
    RESPONSE: type

    def __init__(self, channel, node_id=SIDECAR, metadata=None):
        self.node = base_pb2.Node(id=node_id)
        self.node.metadata.update(metadata or {})
        self.first = True
        self._requests = queue.Queue()
        call = channel.stream_stream(
            f"/{ADS_SERVICE}/{self.METHOD}",
            request_serializer=self.REQUEST.SerializeToString,
            response_deserializer=self.RESPONSE.FromString,
        )
        self.call = call(iter(self._requests.get, None))
        self._responses = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with contextlib.suppress(grpc.RpcError):
            for response in self.call:
                self._responses.put(response)

    def _put(self, request, error):
        if self.first:
            request.node.CopyFrom(self.node)
            self.first = False
        if error:
            request.error_detail.CopyFrom(status_pb2.Status(code=3, message=error))
        self._requests.put(request)

    def receive(self):
        return self._responses.get(timeout=10)

    def close(self):
        self._requests.put(None)


class AdsClient(Stream):
    """One stream, driven request by request."""

    METHOD = "StreamAggregatedResources"
    REQUEST, RESPONSE = discovery_pb2.DiscoveryRequest, discovery_pb2.DiscoveryResponse

    def send(self, url, *names, nonce="", version="", error=None):
        request = discovery_pb2.DiscoveryRequest(
            type_url=url, resource_names=names, response_nonce=nonce, version_info=version
        )
        self._put(request, error)

    def ack(self, response, *names):
        self.send(response.type_url, *names, nonce=response.nonce, version=response.version_info)

    def nack(self, response, error, *names):
        self.send(response.type_url, *names, nonce=response.nonce, error=error)

    def get(self, url, *names):
        """Subscribe, take the answer, ACK it."""
        self.send(url, *names)
        response = self.receive()
        assert response.type_url == url
        self.ack(response, *names)
        return response

    def barrier(self):
        """Wait until the server has handled what was sent, and check that it sent nothing.

        A type asked for anew is always answered, after everything before it.
        """
        self.send(ROUTE, "barrier")
        response = self.receive()
        assert [decode(item).name for item in response.resources] == ["barrier"], response
        self.ack(response, "barrier")


class DeltaClient(Stream):
    """One delta stream, driven request by request."""

    METHOD = "DeltaAggregatedResources"
    REQUEST, RESPONSE = discovery_pb2.DeltaDiscoveryRequest, discovery_pb2.DeltaDiscoveryResponse

    def send(self, url, *subscribe, unsubscribe=(), nonce="", error=None, has=None):
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=url,
            resource_names_subscribe=subscribe,
            resource_names_unsubscribe=unsubscribe,
            response_nonce=nonce,
            initial_resource_versions=has or {},
        )
        self._put(request, error)

    def ack(self, response):
        self.send(response.type_url, nonce=response.nonce)

    def get(self, url, *names, **more):
        """Subscribe, take the answer, ACK it."""
        self.send(url, *names, **more)
        response = self.receive()
        assert response.type_url == url
        self.ack(response)
        return response

    def barrier(self):
        """Wait until the server has handled what was sent, and check that it sent nothing."""
        response = self.get(ENDPOINT, "barrier")
        assert (names(response), list(response.removed_resources)) == ([], ["barrier"]), response


MESSAGES = {
    LISTENER: listener_pb2.Listener,
    ROUTE: route_pb2.RouteConfiguration,
    CLUSTER: cluster_pb2.Cluster,
    ENDPOINT: endpoint_pb2.ClusterLoadAssignment,
}


def decode(packed):
    packed = getattr(packed, "resource", packed)  # delta wraps it once more
    return MESSAGES[packed.type_url].FromString(packed.value)


def names(response):
    return [
        getattr(decode(item), "cluster_name", "") or getattr(decode(item), "name", "") for item in response.resources
    ]


def statuses(server):
    (client,) = server.clients
    return {name: getattr(client, name).status.value for name in ("cds", "lds", "eds", "rds")}
