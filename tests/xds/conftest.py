"""A management server that does as it is told, and readers of captures, for the tests of the xDS client."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.internal.decoder import _DecodeVarint

from meshlib.xds.protos import cluster_pb2, discovery_pb2, endpoint_pb2, listener_pb2, route_pb2
from meshlib.xds.stream import SERVICE, SOTW
from meshlib.xds.type_urls import ALL_TYPE_URLS, CLUSTER, ENDPOINT, FULL_STATE, LISTENER, ROUTE, TYPE_URLS

ROOT = Path(__file__).parents[2]
MESSAGES = {
    LISTENER: listener_pb2.Listener,
    ROUTE: route_pb2.RouteConfiguration,
    CLUSTER: cluster_pb2.Cluster,
    ENDPOINT: endpoint_pb2.ClusterLoadAssignment,
}
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
TIMEOUT = 10.0
# A test of the keepalive does not wait 30 s for a ping; by default a server takes one in five minutes for an attack.
_OPTIONS = [("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 100)]


class AdsServer:
    """A state-of-the-world ADS server over real gRPC.

    It answers what is asked from ``resources``, pushes what :meth:`update` changes, and keeps
    every request. With ``answers`` False it only listens.
    """

    def __init__(
        self, port: int = 0, socket: Path | None = None, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self.resources: dict[str, dict[str, object]] = {url: {} for url in ALL_TYPE_URLS}
        self.version = "1"
        self.answers = True
        self.unknown: frozenset[str] = frozenset()  # types that end the stream
        self.requests: list[tuple[int, object]] = []
        self._changed = threading.Condition()
        self._streams: dict[int, _ServedStream] = {}
        self._nonces = 0
        self._count = 0
        self._server = grpc.server(ThreadPoolExecutor(max_workers=8), options=_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=discovery_pb2.DiscoveryRequest.FromString,
            response_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {SOTW: handler}),))
        address = f"unix://{socket}" if socket else f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self.address = f"unix://{socket}" if socket else f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def update(self, version: str, *changed: str, **resources: Mapping[str, object]) -> None:
        """Replace resources by type (``clusters=``, …) and push ``changed`` types, in that order."""
        keys = {"clusters": CLUSTER, "endpoints": ENDPOINT, "listeners": LISTENER, "routes": ROUTE}
        self.version = version
        for key, by_name in resources.items():
            self.resources[keys[key]] = dict(by_name)
        for stream in list(self._streams.values()):
            for url in changed or TYPE_URLS:
                if url in stream.names:
                    self._respond(stream, url, stream.names[url])

    def push(self, data: object) -> None:
        """Send a response (or bytes) on every stream, as it is."""
        for stream in list(self._streams.values()):
            stream.outgoing.put(data)

    def expect(self, wanted: Callable[[object], bool], since: int = 0) -> object:
        """Wait for a request and return it."""
        found: list[object] = []

        def seen() -> bool:
            found[:] = [request for _, request in self.requests[since:] if wanted(request)]
            return bool(found)

        with self._changed:
            assert self._changed.wait_for(seen, TIMEOUT), [r for _, r in self.requests[since:]]
        return found[0]

    def _serve(self, incoming: Iterator[object], context: grpc.ServicerContext) -> Iterator[object]:
        with self._changed:
            self._count += 1
            stream = self._streams[self._count] = _ServedStream(self._count)
        if not context.add_callback(lambda: (self._streams.pop(stream.number, None), stream.outgoing.put(None))):
            return  # over before it began
        threading.Thread(target=self._listen, args=(incoming, stream), daemon=True).start()
        yield from iter(stream.outgoing.get, None)
        if stream.refused:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unknown type {stream.refused}")

    def _listen(self, incoming: Iterator[object], stream: _ServedStream) -> None:
        try:
            for request in incoming:
                names = frozenset(request.resource_names)
                before = stream.names.get(request.type_url)
                stream.names[request.type_url] = names
                with self._changed:
                    self.requests.append((stream.number, request))
                    self._changed.notify_all()
                if request.type_url in self.unknown:
                    stream.refused = request.type_url
                    stream.outgoing.put(None)
                if not self.answers or names == before:
                    continue
                added = names - (before or frozenset())
                if request.type_url in FULL_STATE or added:
                    self._respond(stream, request.type_url, names if request.type_url in FULL_STATE else added)
        except grpc.RpcError:
            pass  # the client is gone

    def _respond(self, stream: _ServedStream, url: str, names: frozenset[str]) -> None:
        self._nonces += 1
        response = discovery_pb2.DiscoveryResponse(version_info=self.version, type_url=url, nonce=str(self._nonces))
        for name, message in self.resources[url].items():
            if name in names or (url in FULL_STATE and not names):
                response.resources.add().Pack(message)
        stream.outgoing.put(response)


class _ServedStream:
    def __init__(self, number: int) -> None:
        self.number = number
        self.names: dict[str, frozenset[str]] = {}
        self.refused = ""
        self.outgoing: queue.SimpleQueue[object] = queue.SimpleQueue()


@pytest.fixture
def ads_server() -> Iterator[Callable[..., AdsServer]]:
    servers = []

    def start(
        port: int = 0, socket: Path | None = None, credentials: grpc.ServerCredentials | None = None
    ) -> AdsServer:
        servers.append(AdsServer(port, socket, credentials))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def parse(url: str, data: object) -> object:
    """Return a message of a resource type from its JSON."""
    return json_format.ParseDict(data, MESSAGES[url]())


def give(server: AdsServer, upstream: int, version: str = "1", host: str = "catalog", prefix: str = "") -> AdsServer:
    """Give a server one service, for sidecars on port 80 and for gRPC-style clients by its name; returns it.

    Args:
        server: the server.
        upstream: the port of the service's one endpoint.
        version: of all it says from now on.
        host: the service's name.
        prefix: what goes before the names of the listener for gRPC-style clients, and of all it names.
    """
    ads = {"ads": {}}
    hcm = {
        "@type": HCM,
        "rds": {"config_source": ads, "route_config_name": prefix.format("route") + host},
    }
    sidecar = {
        "name": "0.0.0.0_80",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": hcm}]}],
    }
    cluster = prefix.format("cluster") + host
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster}}
    at = {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}
    described = {
        LISTENER: [{"name": f"{prefix.format('listener')}{host}:80", "api_listener": {"api_listener": hcm}}],
        ROUTE: [
            {
                "name": prefix.format("route") + host,
                "virtual_hosts": [{"name": host, "domains": [host], "routes": [route]}],
            }
        ],
        CLUSTER: [{"name": cluster, "type": "EDS", "eds_cluster_config": {"eds_config": ads}}],
        ENDPOINT: [{"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at}}]}]}],
    }
    if not prefix:
        described[LISTENER].append(sidecar)
    server.version = version
    for url, found in described.items():
        for data in found:
            server.resources[url][data.get("name") or data["cluster_name"]] = parse(url, data)
    return server


@pytest.fixture(name="give", scope="session")
def give_fixture() -> Callable[..., AdsServer]:
    return give


@pytest.fixture(name="parse", scope="session")
def parse_fixture() -> Callable[[str, object], object]:
    return parse


def responses(path: Path) -> list[object]:
    """Return the responses in a ``.pb`` capture: a varint length before each."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        length, at = _DecodeVarint(data, at)
        found.append(discovery_pb2.DiscoveryResponse.FromString(data[at : at + length]))
        at += length
    return found


@pytest.fixture(name="responses", scope="session")
def responses_fixture() -> Callable[[Path], list[object]]:
    return responses


@pytest.fixture(scope="session")
def istiod() -> Path:
    """The folder of all istiod captures, which is not part of the repository."""
    folder = Path(os.environ.get("MESHLIB_ISTIOD_CAPTURES", ROOT.parent / "shared" / "istiod"))
    if not folder.is_dir():
        pytest.skip(f"no captures in {folder}")
    return folder
