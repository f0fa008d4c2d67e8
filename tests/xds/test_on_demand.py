"""Only what is used: endpoints are asked for when a call first needs them, and given up when none does."""

import asyncio
import http.server
import threading

import httpx
import pytest
from tenacity.wait import wait_fixed

import meshlib
from meshlib.model.snapshot import Style
from meshlib.xds.assembly import Assembly, pack
from meshlib.xds.bootstrap import load
from meshlib.xds.client import XdsClient
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE

TIMEOUT = 10.0
ADS = {"ads": {}}
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def resources(parse, *names, targets=None):
    """The resources of services behind port 80; ``targets`` gives a service other clusters than its own."""
    hcm = {"@type": HCM, "rds": {"config_source": ADS, "route_config_name": "80"}}
    listener = {
        "name": "0.0.0.0_80",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": hcm}]}],
    }

    def route(cluster):
        if cluster.startswith(":"):
            return {"match": {"prefix": "/"}, "route": {"cluster_header": cluster[1:]}}
        return {"match": {"prefix": f"/{cluster}"}, "route": {"cluster": cluster}}

    hosts = [
        {"name": name, "domains": [name], "routes": [route(t) for t in (targets or {}).get(name, [name])]}
        for name in names
    ]
    clusters = [n for name in names for n in (targets or {}).get(name, [name]) if not n.startswith(":")]
    data = {LISTENER: {"0.0.0.0_80": listener}, ROUTE: {"80": {"name": "80", "virtual_hosts": hosts}}}
    data[CLUSTER] = {n: {"name": n, "type": "EDS", "eds_cluster_config": {"eds_config": ADS}} for n in clusters}
    data[ENDPOINT] = {n: assignment(n, 1) for n in clusters}
    return {url: {name: parse(url, value) for name, value in by_name.items()} for url, by_name in data.items()}


def assignment(name, port):
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


class Harness:
    """An assembly on demand, fed by hand."""

    def __init__(self, parse):
        self.parse = parse
        self.assembly = Assembly(Style.SIDECAR, wildcards={LISTENER, CLUSTER}, on_demand=True)
        self.dependencies = self.assembly.dependencies
        self.asked = {ENDPOINT: set(), ROUTE: set()}

    def give(self, given, *urls):
        for url in urls:
            self.assembly.offer(url, "1", [pack(url, message) for message in given[url].values()])
            self.assembly.complete(url)
            self.ask()
        return self.assembly.snapshot()

    def ask(self):
        added, gone = self.dependencies.take_names()
        for url, names in self.asked.items():
            names |= added[url]
            names -= gone[url]

    def endpoints(self, *names):
        for name in names:
            self.assembly.offer(ENDPOINT, "1", [pack(ENDPOINT, self.parse(ENDPOINT, assignment(name, 1)))])
        self.ask()
        return self.assembly.snapshot()


@pytest.fixture
def harness(parse):
    return Harness(parse)


def test_clusters_sleep_until_they_are_woken(harness, parse):
    snapshot = harness.give(resources(parse, "a", "b"), CLUSTER, LISTENER, ROUTE)
    assert snapshot.destination("a", 80).routes is snapshot.routes["80"], "routes of all are there"
    assert (list(snapshot.clusters), harness.asked[ENDPOINT]) == ([], set())
    assert "a" in snapshot.dormant
    assert "no such cluster" not in snapshot.dormant
    assert harness.dependencies.wake("a")
    harness.ask()
    assert harness.asked[ENDPOINT] == {"a"}
    assert "a" in harness.assembly.snapshot().dormant, "not before its endpoints are there"
    snapshot = harness.endpoints("a")
    assert list(snapshot.clusters) == ["a"]
    assert "a" not in snapshot.dormant
    assert "b" in snapshot.dormant


def aggregate(parse, name, *members):
    config = {"@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig", "clusters": members}
    custom = {"name": "envoy.clusters.aggregate", "typed_config": config}
    return parse(CLUSTER, {"name": name, "lb_policy": "CLUSTER_PROVIDED", "cluster_type": custom})


def test_an_aggregate_wakes_its_members_and_waits_for_them(harness, parse):
    given = resources(parse, "a", "b", "c")
    given[CLUSTER]["all"] = aggregate(parse, "all", "a", "b", "no such cluster")
    harness.give(given, CLUSTER, LISTENER, ROUTE)
    assert harness.dependencies.wake("all")
    harness.ask()
    assert harness.asked[ENDPOINT] == {"a", "b"}
    assert "all" in harness.endpoints("a").dormant
    snapshot = harness.endpoints("b")
    assert sorted(snapshot.clusters) == ["a", "all", "b"]
    given[CLUSTER]["all"] = aggregate(parse, "all", "c")
    harness.give(given, CLUSTER)
    assert harness.asked[ENDPOINT] == {"a", "b", "c"}, "and those that an update brings"


@pytest.mark.parametrize("wildcards", [{LISTENER, CLUSTER}, {LISTENER}])
def test_aggregates_that_name_each_other_wait_for_nothing(parse, wildcards):
    assembly = Assembly(Style.SIDECAR, wildcards=wildcards)
    for name, members in (("x", ("y", "x")), ("y", ("z",)), ("z", ("x",))):
        if CLUSTER not in wildcards:
            assembly.dependencies.root(CLUSTER, name)
        assembly.offer(CLUSTER, "1", [pack(CLUSTER, aggregate(parse, name, *members))])
    if CLUSTER in wildcards:
        assembly.complete(CLUSTER)
    assert sorted(assembly.snapshot().clusters) == ["x", "y", "z"]


def test_a_cluster_that_sleeps_again_gives_its_endpoints_up(harness, parse):
    harness.give(resources(parse, "a"), CLUSTER, LISTENER, ROUTE)
    harness.dependencies.wake("a")
    harness.ask()
    assert list(harness.endpoints("a").clusters) == ["a"]
    harness.dependencies.sleep("a")
    harness.ask()
    snapshot = harness.assembly.snapshot()
    assert (harness.asked[ENDPOINT], list(snapshot.clusters)) == (set(), [])
    assert "a" in snapshot.dormant
    harness.dependencies.wake("a")
    harness.ask()
    assert list(harness.endpoints("a").clusters) == ["a"], "and can be woken again"


def test_a_table_that_sends_a_used_service_elsewhere_waits_for_the_new_clusters(harness, parse):
    harness.give(resources(parse, "a", "b"), CLUSTER, LISTENER, ROUTE)
    harness.dependencies.wake("a")
    harness.ask()
    before = harness.endpoints("a")
    given = resources(parse, "a", "b", targets={"a": ["a", "a-v2"]})
    snapshot = harness.give(given, CLUSTER, ROUTE)
    assert snapshot.routes is before.routes, "the old table stands until a-v2 has its endpoints"
    assert harness.asked[ENDPOINT] == {"a", "a-v2"}, "b is not used, and sleeps on"
    snapshot = harness.endpoints("a-v2")
    assert snapshot.routes is not before.routes
    assert list(snapshot.clusters) == ["a", "a-v2"]


def test_a_cluster_that_is_deleted_while_it_is_awake_is_gone(harness, parse):
    harness.give(resources(parse, "a"), CLUSTER, LISTENER, ROUTE)
    harness.dependencies.wake("a")
    harness.ask()
    harness.endpoints("a")
    harness.assembly.absent(CLUSTER, "a")
    harness.ask()
    snapshot = harness.assembly.snapshot()
    assert (list(snapshot.clusters), harness.asked[ENDPOINT]) == ([], set())
    assert "a" not in snapshot.dormant


@pytest.fixture
def upstream():
    """An HTTP server that says its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def serve(server, parse, port, *names, **more):
    given = resources(parse, *names, **more)
    for name in given[ENDPOINT]:
        given[ENDPOINT][name] = parse(ENDPOINT, assignment(name, port))
    server.resources.update(given)


def asked_endpoints(server):
    return [set(r.resource_names) for _, r in server.requests if r.type_url == ENDPOINT]


def test_a_call_asks_for_what_it_needs_and_for_nothing_else(ads_server, parse, upstream):
    server = ads_server()
    serve(server, parse, upstream, *(f"s{i}" for i in range(50)))
    with meshlib.Mesh.connect(server.address, workload="w") as mesh:
        mesh.wait_ready(TIMEOUT)
        assert asked_endpoints(server) == []
        with httpx.Client(transport=mesh.transport()) as client:
            assert client.get("http://s7/s7").text == "ok"
            assert client.get("http://s7/s7").text == "ok"
        assert {name for names in asked_endpoints(server) for name in names} == {"s7"}


def test_async_calls_at_once_share_the_wait(ads_server, parse, upstream):
    asyncio.run(_async_calls(ads_server, parse, upstream))


async def _async_calls(ads_server, parse, upstream):
    server = ads_server()
    serve(server, parse, upstream, "a", "b")
    mesh = meshlib.Mesh.connect(server.address, workload="w")
    async with mesh, httpx.AsyncClient(transport=mesh.async_transport()) as client:
        answers = await asyncio.gather(*(client.get(f"http://{n}/{n}") for n in "abab" * 5))
        assert [answer.text for answer in answers] == ["ok"] * 20


def test_explain_wakes_what_it_explains(ads_server, parse, upstream):
    server = ads_server()
    serve(server, parse, upstream, "a", "b")
    with meshlib.Mesh.connect(server.address, workload="w") as mesh:
        (cluster,) = mesh.explain("GET", "http://a/a").clusters
        assert [endpoint.address for endpoint in cluster.endpoints] == [f"127.0.0.1:{upstream}"]


def test_what_never_comes_ends_the_call_by_its_own_timeout(ads_server, parse, upstream):
    server = ads_server()
    serve(server, parse, upstream, "a")
    with meshlib.Mesh.connect(server.address, workload="w") as mesh:
        mesh.wait_ready(TIMEOUT)
        server.answers = False
        with httpx.Client(transport=mesh.transport(), timeout=0.3) as client, pytest.raises(meshlib.MeshNotReady) as e:
            client.get("http://a/a")
        assert "no answer for cluster 'a' after 0." in str(e.value)


def test_what_is_idle_is_given_up_and_comes_again(ads_server, parse, upstream):
    server = ads_server()
    serve(server, parse, upstream, "a", "b")
    used, snapshots, changed = {"a"}, [], threading.Condition()

    def publish(snapshot):
        with changed:
            snapshots.append(snapshot)
            changed.notify_all()

    def until(wanted):
        """Wait for a snapshot later than those looked at, and look at no earlier one again."""
        with changed:
            assert changed.wait_for(lambda: any(map(wanted, snapshots)), TIMEOUT)
            while not wanted(snapshots.pop(0)):
                pass

    data = {
        "node": {"id": "n"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "grpc_services": [{"google_grpc": {"target_uri": server.address, "stat_prefix": "x"}}],
            },
            "lds_config": {"ads": {}},
            "cds_config": {"ads": {}},
        },
    }
    client = XdsClient(
        load(data), publish, reconnect=wait_fixed(0.05), on_demand=True, usage=lambda: used, idle_after=0.4
    )
    client.start()
    try:
        client.wake("a")
        client.wake("b")
        until(lambda s: len(s.clusters) == 2)
        until(lambda s: list(s.clusters) == ["a"])
        client.wake("b")
        until(lambda s: len(s.clusters) == 2)
    finally:
        client.close()


def test_a_cluster_that_a_header_names_is_asked_for_by_name(ads_server, parse, upstream):
    server = ads_server()
    serve(server, parse, upstream, "a", targets={"a": [":x-cluster"]})
    hcm = {"@type": HCM, "rds": {"config_source": ADS, "route_config_name": "80"}}
    listener = parse(LISTENER, {"name": "a:80", "api_listener": {"api_listener": hcm}})
    server.resources[LISTENER] = {"a:80": listener}
    cluster = {"name": "c", "type": "EDS", "eds_cluster_config": {"eds_config": ADS}}
    server.resources[CLUSTER] = {"c": parse(CLUSTER, cluster)}
    server.resources[ENDPOINT] = {"c": parse(ENDPOINT, assignment("c", upstream))}
    bootstrap = {
        "xds_servers": [{"server_uri": server.address, "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": "n"},
    }
    with (
        meshlib.Mesh.from_bootstrap(bootstrap) as mesh,
        httpx.Client(transport=mesh.transport()) as client,
    ):
        assert client.get("http://a/", headers={"x-cluster": "c"}).text == "ok"


@pytest.mark.parametrize(("timeout", "patience"), [(None, None), ("0s", 0.0), ("2.5s", 2.5)])
def test_how_long_a_name_is_awaited_is_said_where_it_is_named(parse, timeout, patience):
    source = ADS if timeout is None else {"ads": {}, "initial_fetch_timeout": timeout}
    hcm = {"@type": HCM, "rds": {"config_source": source, "route_config_name": "80"}}
    address = {"socket_address": {"address": "0.0.0.0", "port_value": 80}}
    chains = [{"filters": [{"name": "hcm", "typed_config": hcm}]}]
    assembly = Assembly(Style.SIDECAR, wildcards={LISTENER, CLUSTER})
    listener = parse(LISTENER, {"name": "l", "address": address, "filter_chains": chains})
    assembly.offer(LISTENER, "1", [pack(LISTENER, listener)])
    for name in ("a", "b"):  # the second by its shape
        cluster = {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": source}}
        assembly.offer(CLUSTER, "1", [pack(CLUSTER, parse(CLUSTER, cluster))])
    found = assembly.dependencies.patience
    assert [found.get(ref) for ref in ((ROUTE, "80"), (ENDPOINT, "a"), (ENDPOINT, "b"))] == [patience] * 3
