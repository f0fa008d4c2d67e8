"""When the control plane fails: it is killed, stopped, replaced, talks rubbish. Calls go on throughout."""

import contextlib
import logging
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from tenacity.wait import wait_fixed

from meshlib import Mesh
from meshlib.errors import MeshClosed
from meshlib.settings import Identity
from meshlib.xds import channel, stream
from meshlib.xds.bootstrap import for_address
from meshlib.xds.bootstrap import load as load_bootstrap
from meshlib.xds.client import XdsClient
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, ROUTE
from waiting import TIMEOUT, until

URL = "http://catalog/"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Connect again after a tenth of a second rather than after one and more."""
    monkeypatch.setitem(XdsClient.__init__.__kwdefaults__, "reconnect", wait_fixed(0.1))


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_args):
        pass


@pytest.fixture(scope="module")
def upstream():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


class Process:
    """A management server that can be killed."""

    def __init__(self, port, upstream, version="1"):
        arguments = [str(Path(__file__).with_name("ads_process.py")), str(port), str(upstream), version]
        self._process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE)
        self.port = int(self._process.stdout.readline())
        self.address = f"127.0.0.1:{self.port}"

    def signal(self, number):
        self._process.send_signal(number)

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture
def process(upstream):
    processes = []

    def start(port=0, version="1"):
        processes.append(Process(port, upstream, version))
        return processes[-1]

    yield start
    for one in processes:
        one.kill()


class Odd:
    """A server whose streams are a given function's."""

    def __init__(self, port, serve):
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        handler = grpc.stream_stream_rpc_method_handler(serve)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(stream.SERVICE, {stream.SOTW: handler}),)
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def stop(self):
        self._server.stop(None).wait()


class Load:
    """Calls without a pause to speak of; keeps every failure."""

    def __init__(self, mesh):
        self.mesh = mesh
        self.done = 0
        self.failures = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        with httpx.Client(transport=self.mesh.transport()) as client:
            while not self._stop.wait(0.005):
                try:
                    response = client.get(URL)
                    if response.status_code != 200:
                        self.failures.append(response.text)
                except Exception as error:  # noqa: BLE001  any failure at all is what the tests look for
                    self.failures.append(repr(error))
                self.done += 1

    @property
    def status(self):
        return self.mesh._source._client.status

    def more(self, number=20):
        """Wait for further calls: none may have failed."""
        aim = self.done + number
        until(lambda: self.done >= aim)
        assert self.failures == []

    def until(self, wanted, timeout=TIMEOUT):
        until(lambda: wanted(self.status), lambda: self.status, timeout)
        self.more()

    def close(self):
        self._stop.set()
        self._thread.join(TIMEOUT)
        self.mesh.close()
        assert self.failures == []


@pytest.fixture
def load():
    running = []

    def start(mesh):
        mesh.wait_ready(TIMEOUT)
        running.append(Load(mesh))
        running[-1].more()
        return running[-1]

    yield start
    for one in running:
        one.close()


def test_a_server_is_killed_and_restarted(process, load):
    server = process()
    calls = load(Mesh.connect(server.address, workload="webapp"))
    server.kill()
    calls.until(lambda s: not s.connected)
    process(server.port, version="2")
    calls.until(lambda s: s.connected and s.versions.get("CDS") == "2")


def test_a_server_flaps(give, ads_server, upstream, load):
    server = give(ads_server(), upstream)
    calls = load(Mesh.connect(server.address, workload="webapp"))
    for number in range(20):
        server.stop()
        calls.until(lambda s: not s.connected)
        server = give(ads_server(server.port), upstream, f"again-{number}")
        calls.until(lambda s, v=server.version: s.connected and s.versions.get("EDS") == v)


def test_a_server_that_hangs_is_noticed_by_the_keepalive_and_works_when_it_goes_on(process, load, monkeypatch):
    for name in ("CONNECT_TIMEOUT", "KEEPALIVE_TIMEOUT"):
        monkeypatch.setattr(stream, name, 0.5)
    monkeypatch.setattr(channel, "KEEPALIVE_TIME", 0.5)
    server = process()
    calls = load(Mesh.connect(server.address, workload="webapp"))
    threading.Event().wait(3.0)  # some pings later, on a stream with nothing to say
    assert calls.status.connected, calls.status.last_error
    server.signal(signal.SIGSTOP)
    calls.until(lambda s: not s.connected)
    calls.more(100)
    server.signal(signal.SIGCONT)
    calls.until(lambda s: s.connected)


def test_a_server_that_finds_pings_too_frequent_is_pinged_less(give, ads_server, upstream, load, monkeypatch):
    monkeypatch.setattr(channel, "KEEPALIVE_TIME", 0.03)  # this server takes one in 0.1 s
    calls = load(Mesh.connect(give(ads_server(), upstream).address, workload="webapp"))
    (one,) = calls.mesh._source._client._channels()
    calls.until(lambda _: one._keepalive >= 0.1)
    calls.until(lambda s: s.connected)
    threading.Event().wait(2.0)
    assert calls.status.connected
    assert one._keepalive < 1.0


def garbage(_incoming, _context):
    yield b"\xff\xff\xff no protobuf at all"


def wrong_type(incoming, _context):
    next(incoming)
    wrong = discovery_pb2.DiscoveryResponse(version_info="wrong", type_url=CLUSTER, nonce="1")
    wrong.resources.add(type_url=ROUTE, value=b"")
    yield wrong.SerializeToString()
    for _ in incoming:
        pass


def unknown_type(incoming, _context):
    next(incoming)
    yield discovery_pb2.DiscoveryResponse(type_url="type.googleapis.com/foreign.Thing", nonce="1").SerializeToString()
    for _ in incoming:
        pass


def answer_and_close(incoming, _context):
    asked = (discovery_pb2.DiscoveryRequest.FromString(data) for data in incoming)
    url = next(request.type_url for request in asked if request.type_url == ENDPOINT)
    yield discovery_pb2.DiscoveryResponse(type_url=url, version_info="closing", nonce="1").SerializeToString()


def close_at_once(_incoming, _context):
    return iter(())


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        (garbage, "no DiscoveryResponse"),
        (wrong_type, "expected a"),
        (unknown_type, "without being asked"),
        (answer_and_close, "ended the stream"),
        (close_at_once, "ended the stream"),
    ],
)
def test_a_server_that_talks_rubbish_changes_nothing(serve, said, give, ads_server, upstream, load, caplog):
    caplog.set_level(logging.INFO, "meshlib.xds")
    server = give(ads_server(), upstream)
    calls = load(Mesh.connect(server.address, workload="webapp"))
    server.stop()
    odd = Odd(server.port, serve)
    until(lambda: said in caplog.text)
    calls.more(100)
    odd.stop()
    give(ads_server(server.port), upstream, "good-again")
    calls.until(lambda s: s.versions.get("LDS") == "good-again")


def test_an_expired_certificate(give, ads_server, upstream, load, tmp_path):
    ca = trustme.CA()
    root = tmp_path / "root.pem"
    root.write_bytes(ca.cert_pem.bytes())

    def credentials(**validity):
        issued = ca.issue_cert("127.0.0.1", **validity)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), chain)])

    server = give(ads_server(credentials=credentials()), upstream)
    calls = load(Mesh.connect(server.address, workload="webapp", root_ca=str(root)))
    server.stop()
    past = datetime.now(UTC) - timedelta(hours=1)
    expired = give(ads_server(server.port, credentials=credentials(not_after=past)), upstream, "expired")
    calls.until(lambda s: "has expired" in s.last_error and not s.connected)
    expired.stop()
    give(ads_server(server.port, credentials=credentials()), upstream, "renewed")
    calls.until(lambda s: s.connected and s.versions.get("LDS") == "renewed")


def servers(*addresses):
    return [{"server_uri": address, "channel_creds": [{"type": "insecure"}]} for address in addresses]


def test_a_fallback_server_is_used_only_when_something_is_lacking(give, ads_server, upstream, load):
    first, second = give(ads_server(), upstream, "first"), give(ads_server(), upstream, "second")
    for server in (first, second):
        give(server, upstream, server.version, host="orders")
    bootstrap = {"xds_servers": servers(first.address, second.address), "node": {"id": "n"}}
    calls = load(Mesh.from_bootstrap(bootstrap))
    first.stop()
    calls.until(lambda s: not s.connected)
    calls.more(50)
    assert second.requests == [], "nothing is lacking"
    with httpx.Client(transport=calls.mesh.transport()) as client:
        assert client.get("http://orders/").status_code == 200
    calls.until(lambda s: s.connected and s.server == second.address)
    again = give(ads_server(first.port), upstream, "first-again")
    give(again, upstream, "first-again", host="orders")
    calls.until(lambda s: s.server == first.address and s.versions.get("CDS") == "first-again")


class Followed:
    """A client of two servers, and what it has published: the port of each cluster's endpoint."""

    def __init__(self, bootstrap, **options):
        self._published = []
        self.client = XdsClient(bootstrap, self._published.append, **options)
        self.client.start()

    @property
    def ports(self):
        return {
            name: cluster.assignment.localities[0].endpoints[0].port if cluster.assignment is not None else None
            for name, cluster in (self._published[-1].clusters if self._published else {}).items()
        }


@pytest.fixture
def follow():
    running = []

    def start(bootstrap, **options):
        running.append(Followed(bootstrap, **options))
        return running[-1]

    yield start
    for one in running:
        one.client.close()


def test_what_only_the_fallback_server_had_goes_with_it(give, ads_server, follow):
    first, second = ads_server(), give(give(ads_server(), 2002), 2001, host="orders")
    first.stop()
    bootstrap = for_address(first.address, Identity(workload="webapp", namespace="ns"), delta=False)
    (one,) = bootstrap.servers
    mesh = follow(replace(bootstrap, servers=(one, replace(one, address=second.address))))
    until(lambda: mesh.ports == {"catalog": 2002, "orders": 2001})
    give(ads_server(first.port), 1001)
    until(lambda: mesh.ports == {"catalog": 1001})


def test_a_server_that_is_back_says_everything_again_and_takes_nothing_away_before(give, ads_server, follow):
    first, second = give(ads_server(), 1001), give(give(ads_server(), 2002), 2001, host="orders")
    mesh = follow(
        load_bootstrap({"xds_servers": servers(first.address, second.address), "node": {"id": "n"}}), does_not_exist=0.5
    )
    mesh.client.demand("catalog", 80)
    until(lambda: mesh.ports == {"catalog": 1001})
    first.stop()
    mesh.client.demand("orders", 80)
    until(lambda: mesh.ports == {"catalog": 2002, "orders": 2001})
    back = ads_server(first.port)
    back.answers = False
    asked = back.expect(lambda r: r.type_url == CLUSTER)
    assert asked.version_info == "", "what it said last is not in force any more"
    threading.Event().wait(2.0)
    assert mesh.ports == {"catalog": 2002, "orders": 2001}, "who says nothing does not say that it is not there"
    back.stop()
    give(ads_server(first.port), 1001)
    until(lambda: mesh.ports == {"catalog": 1001})


@pytest.mark.parametrize("ignores", [True, False])
def test_a_server_whose_deletions_are_ignored(ignores, give, ads_server, follow, caplog):
    server = give(ads_server(), 1001)
    (described,) = servers(server.address)
    described["server_features"] = ["ignore_resource_deletion"] if ignores else []
    mesh = follow(load_bootstrap({"xds_servers": [described], "node": {"id": "n"}}), does_not_exist=0.3)
    mesh.client.demand("catalog", 80)
    mesh.client.demand("orders", 80)
    until(lambda: mesh.ports == {"catalog": 1001} and mesh.client.answered("orders", 80))
    server.update("2", CLUSTER, clusters={})
    server.expect(lambda r: r.type_url == CLUSTER and r.version_info == "2")
    threading.Event().wait(1.0)
    assert mesh.ports == ({"catalog": 1001} if ignores else {})
    server.stop()
    give(ads_server(server.port), 1002, host="orders")  # which has never heard of the other
    until(lambda: mesh.ports == ({"catalog": 1001, "orders": 1002} if ignores else {"orders": 1002}))
    threading.Event().wait(1.0)
    assert mesh.ports == ({"catalog": 1001, "orders": 1002} if ignores else {"orders": 1002})
    assert ("kept by ignore_resource_deletion: catalog" in caplog.text) is ignores


def test_the_servers_of_an_authority_answer_for_its_names(give, ads_server, upstream, load):
    near = give(ads_server(), upstream)
    far = give(ads_server(), upstream, prefix="xdstp://far/envoy.config.{}/")
    bootstrap = {
        "xds_servers": servers(near.address),
        "node": {"id": "n"},
        "authorities": {
            "far": {
                "xds_servers": servers(far.address),
                "client_listener_resource_name_template": "xdstp://far/envoy.config.listener/%s",
            }
        },
        "client_default_listener_resource_name_template": "xdstp://far/envoy.config.listener/%s",
    }
    calls = load(Mesh.from_bootstrap(bootstrap))
    assert far.expect(lambda r: list(r.resource_names) == ["xdstp://far/envoy.config.listener/catalog:80"])
    assert not any(r.resource_names for _, r in near.requests), "the default server is not asked for them"
    far.stop()
    calls.more(50)


def test_an_unknown_authority_does_not_exist_at_once(give, ads_server, upstream, caplog):
    server = give(ads_server(), upstream)
    route = server.resources[ROUTE]["catalog"].virtual_hosts[0].routes[0].route
    route.cluster = "xdstp://elsewhere/cluster/catalog"
    bootstrap = {"xds_servers": servers(server.address), "node": {"id": "n"}, "authorities": {"far": {}}}
    with Mesh.from_bootstrap(bootstrap) as mesh, httpx.Client(transport=mesh.transport(), timeout=TIMEOUT) as client:
        began = time.monotonic()
        with pytest.raises(httpx.HTTPError, match="xdstp://elsewhere/cluster/catalog"):
            client.get(URL)
        assert time.monotonic() - began < TIMEOUT / 2
    assert "type=CDS xdstp://elsewhere/cluster/catalog: its authority is not in the bootstrap" in caplog.text


def test_an_application_that_fails_when_it_is_told_does_not_lose_its_control_plane(give, ads_server, upstream, load):
    def fail():
        raise RuntimeError("an application's bug")

    server = give(ads_server(), upstream)
    mesh = Mesh.connect(server.address, workload="webapp")
    mesh.on_change(fail)
    calls = load(mesh)
    give(server, upstream, "2")
    server.update("2")
    calls.until(lambda s: s.versions.get("EDS") == "2")
    assert len({number for number, _ in server.requests}) == 1, "all on one stream"


def test_an_application_may_close_and_ask_when_it_is_told(give, ads_server, upstream):
    mesh = Mesh.connect(give(ads_server(), upstream).address, workload="webapp")
    told = []
    mesh.on_change(lambda: told.append(mesh.capabilities()))
    mesh.on_change(mesh.close)
    with contextlib.suppress(MeshClosed):  # whichever of the two it sees
        mesh.wait_ready(TIMEOUT)
    until(lambda: told and mesh._runtime._closed)
    with pytest.raises(MeshClosed):
        mesh.capabilities()
