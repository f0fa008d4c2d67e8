"""The client against a real gRPC server: it subscribes, ACKs, NACKs, reconnects, and never loses what was good."""

import logging
import socket
import threading

import pytest
from tenacity.wait import wait_base, wait_fixed

from meshlib.model.snapshot import Style
from meshlib.settings import Identity
from meshlib.xds.bootstrap import for_address, load
from meshlib.xds.channel import RECONNECT, _attempt
from meshlib.xds.client import XdsClient
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER, NAME_TABLE, ROUTE
from waiting import Watch, until

ADS = {"ads": {}}
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def hcm(table):
    return {"@type": HCM, "rds": {"config_source": ADS, "route_config_name": table}}


def listener(name="0.0.0.0_80", port=80, table="80"):
    chain = {"filters": [{"name": "hcm", "typed_config": hcm(table)}]}
    address = {"socket_address": {"address": "0.0.0.0", "port_value": port}}
    return LISTENER, {"name": name, "address": address, "filter_chains": [chain]}


def api_listener(name, table):
    return LISTENER, {"name": name, "api_listener": {"api_listener": hcm(table)}}


def table(name, *clusters, timeout="1s"):
    hosts = [
        {"name": c, "domains": [c], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": c, "timeout": timeout}}]}
        for c in clusters
    ]
    return ROUTE, {"name": name, "virtual_hosts": hosts}


def cluster(name, **fields):
    return CLUSTER, {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": ADS}, **fields}


def endpoints(name, *ports):
    at = [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": p}}}} for p in ports]
    return ENDPOINT, {"cluster_name": name, "endpoints": [{"lb_endpoints": at}]}


@pytest.fixture
def named(parse):
    """Make resources of one type, by name."""

    def make(*described):
        messages = [parse(url, data) for url, data in described]
        return {getattr(m, "name", "") or m.cluster_name: m for m in messages}

    return make


@pytest.fixture
def mesh(named):
    """Give a server the resources of one service behind port 80."""

    def give(server, version="1", ports=(1001, 1002)):
        server.version = version
        server.resources[LISTENER] = named(listener())
        server.resources[ROUTE] = named(table("80", "catalog"))
        server.resources[CLUSTER] = named(cluster("catalog"))
        server.resources[ENDPOINT] = named(endpoints("catalog", *ports))

    return give


@pytest.fixture
def start():
    clients = []

    def make(bootstrap, **options):
        watch = Watch()
        client = XdsClient(bootstrap, watch, **{"reconnect": wait_fixed(0.05), **options})
        clients.append(client)
        client.start()
        return client, watch

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def sidecar(start):
    return lambda address, **options: start(
        for_address(address, Identity(workload="webapp", namespace="ns")), **options
    )


@pytest.fixture
def grpc_style(start):
    def make(address, **options):
        servers = [{"server_uri": address, "channel_creds": [{"type": "insecure"}]}]
        return start(load({"xds_servers": servers, "node": {"id": "n", "metadata": {"X": 1}}}), **options)

    return make


def ports(snapshot, name="catalog"):
    found = snapshot.clusters.get(name)
    if found is None or found.assignment is None:
        return None
    return [e.port for group in found.assignment.localities for e in group.endpoints]


def test_a_sidecar_follows_lds_rds_cds_eds_and_publishes_the_whole(ads_server, mesh, sidecar):
    server = ads_server()
    mesh(server)
    client, watch = sidecar(server.address)
    snapshot = watch.until(lambda s: True)
    assert snapshot.style is Style.SIDECAR
    assert ports(snapshot) == [1001, 1002]
    destination = snapshot.destination("catalog", 80)
    assert destination.routes.virtual_hosts[0].routes[0].action.timeout == 1.0
    assert len(watch.snapshots) == 1, "nothing is published before it is whole"
    server.expect(lambda r: r.type_url == ROUTE and r.version_info == "1")
    until(lambda: client.status.versions == {"LDS": "1", "RDS": "1", "CDS": "1", "EDS": "1", "NDS": "1"})
    assert client.status.connected
    assert client.status.last_error == ""
    assert client.status.waiting == ()
    assert client.answered("anything", 1)


def test_the_first_request_alone_carries_the_node(ads_server, mesh, sidecar):
    server = ads_server()
    mesh(server)
    _, watch = sidecar(server.address)
    watch.until(lambda s: True)
    first, *rest = [request for _, request in server.requests]
    assert first.node.id.startswith("sidecar~127.0.0.1~")
    assert first.node.metadata["NAMESPACE"] == "ns"
    assert not any(request.HasField("node") for request in rest)


def test_an_endpoint_change_makes_one_cluster_anew(ads_server, mesh, sidecar, named):
    server = ads_server()
    mesh(server)
    server.resources[CLUSTER] |= named(cluster("forum"))
    server.resources[ENDPOINT] |= named(endpoints("forum", 5))
    _, watch = sidecar(server.address)
    before = watch.until(lambda s: True)
    server.update("2", ENDPOINT, endpoints=named(endpoints("catalog", 1003), endpoints("forum", 5)))
    after = watch.until(lambda s: ports(s) == [1003])
    assert after.version == "2"
    assert after.clusters["forum"] is before.clusters["forum"]
    assert after.routes is before.routes
    assert after.listeners is before.listeners


def test_a_bad_resource_is_refused_by_name_and_the_good_ones_beside_it_are_used(
    ads_server, mesh, sidecar, named, caplog
):
    server = ads_server()
    mesh(server)
    client, watch = sidecar(server.address)
    watch.until(lambda s: True)
    bad = cluster("catalog", connect_timeout="0s")
    server.resources[ENDPOINT] |= named(endpoints("new", 7))
    server.update("2", CLUSTER, clusters=named(bad, cluster("new")))
    nack = server.expect(lambda r: r.type_url == CLUSTER and r.HasField("error_detail"))
    assert nack.error_detail.message == "CDS catalog: connect_timeout: must be more than 0s"
    assert nack.version_info == "1"
    snapshot = watch.until(lambda s: ports(s, "new") == [7])
    assert ports(snapshot) == [1001, 1002], "the last good value stays"
    until(lambda: [f.resource for f in client.status.faults] == ["catalog"])
    assert "last good kept" in caplog.text
    server.update("3", CLUSTER, clusters=named(cluster("catalog"), cluster("new")))
    ack = server.expect(lambda r: r.type_url == CLUSTER and r.version_info == "3")
    assert not ack.HasField("error_detail")
    until(lambda: client.status.faults == ())


def test_a_refused_response_deletes_nothing_when_a_name_cannot_be_read(ads_server, mesh, sidecar, named):
    server = ads_server()
    mesh(server)
    client, watch = sidecar(server.address, deletion_grace=0.0)
    watch.until(lambda s: True)
    server.update("2", CLUSTER, clusters={"": _broken(named)})
    nack = server.expect(lambda r: r.type_url == CLUSTER and r.HasField("error_detail"))
    assert "(no name)" in nack.error_detail.message
    server.update("3", ENDPOINT, endpoints=named(endpoints("catalog", 9)))
    assert watch.until(lambda s: ports(s) == [9])
    assert client.status.faults[0].message == "must not be empty"


def _broken(named):
    (message,) = named(cluster("x")).values()
    message.name = ""
    return message


def test_what_is_absent_from_cds_is_deleted_after_the_grace(ads_server, mesh, sidecar, named):
    server = ads_server()
    mesh(server)
    server.resources[CLUSTER] |= named(cluster("forum"))
    server.resources[ENDPOINT] |= named(endpoints("forum", 5))
    _, watch = sidecar(server.address, deletion_grace=0.05)
    watch.until(lambda s: ports(s, "forum") == [5])
    server.update("2", CLUSTER, clusters=named(cluster("catalog")))
    assert "catalog" in watch.until(lambda s: "forum" not in s.clusters).clusters


def test_a_cluster_that_comes_back_within_the_grace_was_never_gone(ads_server, mesh, sidecar, named):
    server = ads_server()
    mesh(server)
    server.resources[CLUSTER] |= named(cluster("other"))
    server.resources[ENDPOINT] |= named(endpoints("other", 5))
    _, watch = sidecar(server.address, deletion_grace=0.2)
    watch.until(lambda s: True)
    for version, clusters in [("2", [cluster("other")]), ("3", [cluster("catalog"), cluster("other")])]:
        server.update(version, CLUSTER, clusters=named(*clusters))
        server.expect(lambda r, version=version: r.type_url == CLUSTER and r.version_info == version)
    server.update("4", CLUSTER, clusters=named(cluster("catalog")))
    watch.until(lambda s: "other" not in s.clusters)  # its grace ended after that of catalog would have
    assert all("catalog" in snapshot.clusters for snapshot in watch.snapshots)


def test_a_cluster_that_goes_and_comes_has_the_whole_grace_each_time(ads_server, mesh, sidecar):
    server = ads_server()
    mesh(server)
    _, watch = sidecar(server.address, deletion_grace=1.0)
    watch.until(lambda s: ports(s) is not None)
    there = dict(server.resources[CLUSTER])
    for number in range(8):
        server.update(f"{number} gone", CLUSTER, clusters={})
        threading.Event().wait(0.2)
        server.update(f"{number} there", CLUSTER, clusters=there)
        server.expect(lambda r, n=number: r.version_info == f"{n} there")
    assert all(ports(snapshot) is not None for snapshot in watch.snapshots)


def test_a_table_waits_for_the_endpoints_of_a_new_cluster_and_holds_up_nothing_else(ads_server, mesh, sidecar, named):
    server = ads_server()
    mesh(server)
    _, watch = sidecar(server.address)
    watch.until(lambda s: True)
    server.answers = False  # the endpoints of the new cluster do not come yet
    server.update("2", CLUSTER, clusters=named(cluster("catalog"), cluster("v2")))
    server.expect(lambda r: r.type_url == ENDPOINT and "v2" in r.resource_names)
    server.update("2", ROUTE, routes=named(table("80", "v2")))
    server.update("2", ENDPOINT, endpoints=named(endpoints("catalog", 8)))
    snapshot = watch.until(lambda s: ports(s) == [8])
    assert snapshot.routes["80"].virtual_hosts[0].name == "catalog", "v2 is not ready: the old table stands"
    server.update("3", ENDPOINT, endpoints=named(endpoints("v2", 9)))
    snapshot = watch.until(lambda s: s.routes["80"].virtual_hosts[0].name == "v2")
    assert ports(snapshot, "v2") == [9]


def test_names_nobody_answers_do_not_exist_after_a_while(ads_server, mesh, sidecar):
    server = ads_server()
    mesh(server)
    server.resources[ENDPOINT] = {}
    client, watch = sidecar(server.address, does_not_exist=1.0)
    snapshot = watch.until(lambda s: True)
    assert snapshot.clusters["catalog"].assignment is None
    assert client.status.waiting == ()


def test_a_server_that_dies_takes_nothing_with_it_and_is_found_again(ads_server, mesh, sidecar, caplog):
    server = ads_server()
    mesh(server)
    client, watch = sidecar(server.address)
    watch.until(lambda s: True)
    server.stop()
    until(lambda: not client.status.connected)
    assert client.status.last_error.startswith(f"{server.address}: ")
    assert len(watch.snapshots) == 1
    again = ads_server(server.port)
    mesh(again, "2", ports=(2001,))
    watch.until(lambda s: ports(s) == [2001])
    until(lambda: client.status.last_error == "")
    first = again.requests[0][1]
    assert first.node.id
    assert first.response_nonce == ""
    assert again.expect(lambda r: r.type_url == ENDPOINT).resource_names == ["catalog"], "all names go out again"
    assert again.expect(lambda r: r.type_url == ROUTE).version_info == "1", "and what was accepted"
    assert "reconnect_in" in caplog.text


class CountedWait(wait_base):
    """Waits no time, and keeps which attempt it was asked about."""

    def __init__(self):
        self.attempts = []

    def __call__(self, retry_state):
        self.attempts.append(retry_state.attempt_number)
        return 0.02


def test_the_wait_between_attempts_grows_until_a_response_comes(ads_server, mesh, sidecar):
    server = ads_server()
    mesh(server)
    wait = CountedWait()
    _, watch = sidecar(server.address, reconnect=wait)
    watch.until(lambda s: True)
    server.stop()
    until(lambda: len(wait.attempts) >= 3)
    again = ads_server(server.port)
    mesh(again, "2", ports=(2001,))
    watch.until(lambda s: ports(s) == [2001])
    before = len(wait.attempts)
    assert wait.attempts == list(range(1, before + 1))
    again.stop()
    until(lambda: len(wait.attempts) > before)
    assert wait.attempts[before] == 1


def test_the_wait_is_a_second_and_up_to_thirty_more():
    for failures, longest in ((1, 2), (3, 5), (9, 31)):
        waits = [RECONNECT(_attempt(failures)) for _ in range(200)]
        assert min(waits) >= 1
        assert longest - 1 <= max(waits) + 0.2 * longest
        assert max(waits) <= longest


def test_a_server_that_is_not_there_is_named_with_the_reason(sidecar):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        client, watch = sidecar(address)
        until(lambda: client.status.last_error == f"{address}: connection refused")
    assert watch.snapshots == []
    assert not client.status.connected


def test_garbage_ends_the_stream_and_not_the_client(ads_server, mesh, sidecar):
    server = ads_server()
    mesh(server)
    client, watch = sidecar(server.address)
    watch.until(lambda s: True)
    server.push(b"\xff\xff\xff")
    server.expect(lambda r: r.HasField("node"), since=len(server.requests))
    server.update("5", ENDPOINT)
    until(lambda: client.status.connected and client.status.last_error == "")
    assert ports(watch.snapshots[-1]) == [1001, 1002]


def test_a_server_that_ends_the_stream_over_nds_is_not_asked_for_it_for_ever(ads_server, mesh, sidecar, caplog):
    server = ads_server()
    mesh(server)
    server.unknown = frozenset({NAME_TABLE})
    client, watch = sidecar(server.address)
    until(lambda: "seems not to know NDS" in caplog.text)
    watch.until(lambda s: ports(s) == [1001, 1002])
    mesh(server, "2", ports=(2001,))
    server.update("2", ENDPOINT)
    watch.until(lambda s: ports(s) == [2001])
    assert client.status.connected
    assert sum(request.type_url == NAME_TABLE for _, request in server.requests) == 2


def test_a_type_nobody_asked_for_is_ignored(ads_server, mesh, sidecar, caplog):
    server = ads_server()
    mesh(server)
    _, watch = sidecar(server.address)
    watch.until(lambda s: True)
    response = next(iter(server.resources[CLUSTER].values()))
    odd = discovery_pb2.DiscoveryResponse(type_url="type.googleapis.com/odd.Type", version_info="9", nonce="n")
    odd.resources.add().Pack(response)
    server.push(odd)
    until(lambda: "answered without being asked" in caplog.text)


def test_grpc_style_asks_on_demand(ads_server, grpc_style, named):
    server = ads_server()
    server.resources[LISTENER] = named(api_listener("catalog:80", "catalog-routes"))
    server.resources[ROUTE] = named(table("catalog-routes", "catalog", "other"))
    server.resources[CLUSTER] = named(cluster("catalog"), cluster("other"), cluster("unused"))
    server.resources[ENDPOINT] = named(endpoints("catalog", 1), endpoints("other", 2))
    client, watch = grpc_style(server.address)
    empty = watch.until(lambda s: True)
    assert empty.listeners == {}
    assert not client.answered("catalog", 80)
    client.demand("catalog", 80)
    snapshot = watch.until(lambda s: s.destination("catalog", 80) is not None)
    assert ports(snapshot) == [1]
    assert ports(snapshot, "other") == [2]
    assert "unused" not in snapshot.clusters, "clusters are asked for by name"
    until(lambda: client.answered("catalog", 80))
    first = server.requests[0][1]
    assert (first.node.id, first.node.metadata["X"]) == ("n", 1)
    assert not any(r.type_url in (LISTENER, CLUSTER) and not r.resource_names for _, r in server.requests)


def test_grpc_style_answers_for_what_does_not_exist_and_wakes_who_waits(ads_server, grpc_style):
    server = ads_server()
    client, watch = grpc_style(server.address, does_not_exist=0.2)
    watch.count(1)
    at_wake = []
    watch.on_publish = lambda: at_wake.append(client.answered("nowhere", 80))
    client.demand("nowhere", 80)
    watch.count(2)
    assert at_wake == [True], "answered before the snapshot that wakes the waiting is published"
    assert watch.snapshots[-1].destination("nowhere", 80) is None


def test_grpc_style_a_listener_that_is_dropped_does_not_exist(ads_server, grpc_style, named):
    server = ads_server()
    server.resources[LISTENER] = named(api_listener("catalog:80", "r1"))
    server.resources[ROUTE] = named(table("r1"))
    client, watch = grpc_style(server.address, deletion_grace=0.0)
    watch.count(1)
    client.demand("catalog", 80)
    watch.until(lambda s: "catalog:80" in s.listeners)
    server.update("2", LISTENER, listeners={})
    watch.until(lambda s: "catalog:80" not in s.listeners)
    until(lambda: client.status.waiting == ())
    assert client.answered("catalog", 80)


def test_grpc_style_does_not_lose_a_listener_while_its_new_table_comes(ads_server, grpc_style, named):
    server = ads_server()
    server.resources[LISTENER] = named(api_listener("catalog:80", "r1"))
    server.resources[ROUTE] = named(table("r1", "a"))
    server.resources[CLUSTER] = named(cluster("a"))
    server.resources[ENDPOINT] = named(endpoints("a", 1))
    client, watch = grpc_style(server.address)
    watch.count(1)
    client.demand("catalog", 80)
    watch.until(lambda s: ports(s, "a") == [1])
    server.answers = False
    server.update("2", ROUTE, routes=named(table("r1", "b")))
    server.expect(lambda r: r.type_url == CLUSTER and "b" in r.resource_names and "a" in r.resource_names)
    server.update("2", CLUSTER, clusters=named(cluster("a"), cluster("b")))
    server.expect(lambda r: r.type_url == ENDPOINT and "b" in r.resource_names)
    assert watch.snapshots[-1].routes["r1"].virtual_hosts[0].name == "a"
    assert ports(watch.snapshots[-1], "a") == [1]
    server.update("2", ENDPOINT, endpoints=named(endpoints("a", 1), endpoints("b", 2)))
    watch.until(lambda s: ports(s, "b") == [2] and s.routes["r1"].virtual_hosts[0].name == "b")
    server.expect(lambda r: r.type_url == CLUSTER and list(r.resource_names) == ["b"])


def test_a_unix_socket_serves_as_well(tmp_path, ads_server, mesh, sidecar):
    server = ads_server(socket=tmp_path / "XDS")
    mesh(server)
    assert server.address.startswith("unix://")
    _, watch = sidecar(server.address)
    assert ports(watch.until(lambda s: True)) == [1001, 1002]


def test_closing_ends_the_thread_and_the_stream(ads_server, mesh, sidecar):
    server = ads_server()
    mesh(server)
    client, watch = sidecar(server.address)
    watch.until(lambda s: True)
    client.close()
    client.close()
    assert not any(t.name == "meshlib-xds" and t is client._thread for t in threading.enumerate())
    until(lambda: not server._streams)
    assert not client.status.connected


def test_a_note_is_said_once(ads_server, mesh, sidecar, named, caplog):
    caplog.set_level(logging.WARNING, "meshlib.xds")
    server = ads_server()
    mesh(server)
    many = [cluster(f"c{i}", preconnect_policy={"per_upstream_preconnect_ratio": 2.0}) for i in range(3)]
    server.resources[CLUSTER] |= named(*many)
    server.resources[ENDPOINT] |= named(*(endpoints(f"c{i}", 1) for i in range(3)))
    client, watch = sidecar(server.address)
    watch.until(lambda s: True)
    server.update("2", ENDPOINT)
    server.expect(lambda r: r.type_url == ENDPOINT and r.version_info == "2")
    said = [r.message for r in caplog.records if "preconnect" in r.message]
    assert said == ["not honoured: CDS c0: preconnect_policy: no connection is made ahead (and 2 more)"]
    assert [n.resource for n in client.notes()] == ["c0", "c1", "c2"]


def test_who_asks_again_for_what_was_dropped_is_answered_anew(ads_server, give, grpc_style):
    server = give(give(ads_server(), 1001), 1002, host="orders")
    client, watch = grpc_style(server.address, deletion_grace=0.5)
    for host in ("catalog", "orders"):
        client.demand(host, 80)
    watch.until(lambda s: ports(s, "orders") == [1002] and ports(s) == [1001])
    dropped = server.resources[LISTENER].pop("orders:80")
    server.update("2", LISTENER)
    server.expect(lambda r: r.type_url == LISTENER and r.version_info == "2")
    client.ask(lambda: client._assembly.undemand("orders:80"))  # as when nobody has used it for a while
    client.ask(client.settle)
    server.expect(lambda r: list(r.resource_names) == ["catalog:80"])
    server.answers = False
    client.demand("orders", 80)
    threading.Event().wait(1.0)
    assert not client.answered("orders", 80), "the grace of what was dropped before has nothing to do with it"
    server.answers = True
    server.resources[LISTENER]["orders:80"] = dropped
    server.update("3", LISTENER)
    until(lambda: client.answered("orders", 80))
