"""One path for every source: what is good is in force, what is not never replaces it, what is the same stays."""

import pytest
from google.protobuf.any_pb2 import Any

from meshlib.model.snapshot import Style
from meshlib.nds import NameTable
from meshlib.xds.assembly import Assembly, pack
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER, NAME_TABLE, ROUTE, SINGLETON

ADS = {"ads": {}}
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


@pytest.fixture
def resources(parse):
    """The resources of services behind port 80, as dicts to patch."""

    def make(*names, **patches):
        data = {LISTENER: {}, ROUTE: {}, CLUSTER: {}, ENDPOINT: {}}
        hcm = {"@type": HCM, "rds": {"config_source": ADS, "route_config_name": "80"}}
        data[LISTENER]["0.0.0.0_80"] = {
            "name": "0.0.0.0_80",
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}},
            "filter_chains": [{"filters": [{"name": "hcm", "typed_config": hcm}]}],
        }
        hosts = [
            {"name": n, "domains": [n], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": n}}]} for n in names
        ]
        data[ROUTE]["80"] = {"name": "80", "virtual_hosts": hosts}
        for port, name in enumerate(names, 1):
            data[CLUSTER][name] = {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": ADS}}
            address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
            lb_endpoints = [{"endpoint": {"address": address}}]
            data[ENDPOINT][name] = {"cluster_name": name, "endpoints": [{"lb_endpoints": lb_endpoints}]}
        for name, patch in patches.items():
            data[CLUSTER][name].update(patch)
        return {url: {name: parse(url, value) for name, value in by_name.items()} for url, by_name in data.items()}

    return make


def port(snapshot, name):
    return snapshot.clusters[name].assignment.localities[0].endpoints[0].port


def test_everything_at_once(resources):
    assembly = Assembly(Style.SIDECAR)
    assert assembly.apply("v1", resources("a", "b")) == ()
    snapshot = assembly.snapshot()
    assert (snapshot.version, snapshot.style) == ("v1", Style.SIDECAR)
    assert (port(snapshot, "a"), port(snapshot, "b")) == (1, 2)
    assert snapshot.destination("a", 80).routes is snapshot.routes["80"]
    assert assembly.snapshot() is snapshot


def test_what_did_not_change_is_the_same_object(resources):
    assembly = Assembly(Style.SIDECAR)
    assembly.apply("v1", resources("a", "b"))
    before = assembly.snapshot()
    assembly.apply("v2", resources("a", "b"))
    assert assembly.snapshot() is before, "nothing changed but the version"
    assembly.apply("v3", resources("a", "b", b={"connect_timeout": "9s"}))
    after = assembly.snapshot()
    assert after.version == "v3"
    assert after.clusters["b"].connect_timeout == 9.0
    assert after.clusters["a"] is before.clusters["a"]
    assert (after.routes, after.listeners) == (before.routes, before.listeners)
    assert after.routes is before.routes
    assert after.inferred is before.inferred


def test_a_fault_keeps_the_last_good_value_and_lets_the_others_through(resources):
    assembly = Assembly(Style.SIDECAR)
    assembly.apply("v1", resources("a", "b"))
    before = assembly.snapshot()
    bad = resources("a", "b", a={"connect_timeout": "0s"}, b={"connect_timeout": "9s"})
    faults = assembly.apply("v2", bad)
    assert [str(fault) for fault in faults] == ["CDS a: connect_timeout: must be more than 0s"]
    assert assembly.faults == faults
    after = assembly.snapshot()
    assert after.clusters["a"] is before.clusters["a"]
    assert after.clusters["b"].connect_timeout == 9.0
    assert assembly.apply("v3", bad) == faults, "the same bytes, the same fault"
    assert assembly.apply("v4", resources("a", "b")) == assembly.faults == ()


def test_a_fault_in_what_was_never_good_leaves_it_out(resources):
    assembly = Assembly(Style.SIDECAR)
    assert len(assembly.apply("v1", resources("a", "b", a={"connect_timeout": "0s"}))) == 1
    assert list(assembly.snapshot().clusters) == ["b"]


def test_what_is_not_there_any_more_is_gone(resources):
    assembly = Assembly(Style.SIDECAR)
    assembly.apply("v1", resources("a", "b"))
    assembly.apply("v2", resources("b"))
    snapshot = assembly.snapshot()
    assert list(snapshot.clusters) == ["b"]
    assert port(snapshot, "b") == 1


def test_endpoints_nobody_gives_leave_a_cluster_without_any(resources):
    assembly = Assembly(Style.SIDECAR)
    given = resources("a")
    del given[ENDPOINT]
    assembly.apply("v1", given)
    assert assembly.snapshot().clusters["a"].assignment is None


def test_a_table_nobody_gives_routes_nothing(resources):
    assembly = Assembly(Style.SIDECAR)
    assembly.apply("v1", resources("a") | {ROUTE: {}})
    assert assembly.snapshot().destination("a", 80).routes.virtual_hosts == ()


def test_a_name_twice_in_one_response_is_a_fault(parse):
    assembly = Assembly(Style.SIDECAR)
    one, two = (
        pack(CLUSTER, parse(CLUSTER, {"name": "a", "type": "STATIC", "connect_timeout": f"{n}s"})) for n in (1, 2)
    )
    offered = assembly.offer(CLUSTER, "1", [one, two])
    assert [str(fault) for fault in offered.faults] == ["CDS a: is in the response twice; the first counts"]
    assert list(offered.names) == ["a"]


def test_no_resource_is_called_what_stands_for_all(parse):
    assembly = Assembly(Style.SIDECAR)
    named = [pack(CLUSTER, parse(CLUSTER, {"name": name, "type": "STATIC"})) for name in ("*", "a")]
    offered = assembly.offer(CLUSTER, "1", named)
    assert [str(fault) for fault in offered.faults] == ["CDS *: stands for all resources and cannot be the name of one"]
    assert list(assembly.snapshot().clusters) == ["a"]


@pytest.mark.parametrize("order", ["abcdef", "fedcba", "acdefb", "bcdef", "azbcdef"])
def test_what_is_known_is_not_looked_at_again_in_whatever_order_it_comes(parse, order):
    assembly = Assembly(Style.SIDECAR)

    def packed(names):
        return [pack(CLUSTER, parse(CLUSTER, {"name": name, "type": "STATIC"})) for name in names]

    assembly.offer(CLUSTER, "1", packed("abcdef"))
    offered = assembly.offer(CLUSTER, "2", packed(order))
    assert list(offered.names) == list(order)
    assert [resource.name for resource in offered.fresh] == (["z"] if "z" in order else [])
    assert assembly.cache.entry(CLUSTER, "c").version == "2"


def test_every_resource_gives_the_gil_a_chance(parse):
    turns = []
    assembly = Assembly(Style.SIDECAR, pause=lambda: turns.append(1))
    given = {f"c{i}": parse(CLUSTER, {"name": f"c{i}", "type": "STATIC"}) for i in range(5)}
    assembly.apply("1", {CLUSTER: given})
    assert len(turns) == 5


def vip_table(parse):
    address = {"socket_address": {"address": "10.0.0.1", "port_value": 5432}}
    proxy = {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster": "db"}
    chains = [{"filters": [{"name": "tcp", "typed_config": proxy}]}]
    listener = {"name": "any-name", "address": address, "filter_chains": chains}
    hosts = [
        {"name": "db", "domains": ["db.ns", "DB", "db.ns:80", "10.0.0.1", "*.db"]},
        {"name": "web", "domains": ["web", "10.0.0.2"]},
        {"name": "six", "domains": ["six", "[fd00::1]"]},
    ]
    six = {"name": "fd00::1_1", "address": {"socket_address": {"address": "fd00::1", "port_value": 1}}}
    return {
        LISTENER: {
            "any-name": parse(LISTENER, listener),
            "fd00::1_1": parse(LISTENER, {**six, "filter_chains": chains}),
        },
        ROUTE: {"80": parse(ROUTE, {"name": "80", "virtual_hosts": hosts})},
    }


def test_hosts_are_found_by_the_service_address_some_listener_is_bound_to(parse):
    assembly = Assembly(Style.SIDECAR)
    assert assembly.apply("1", vip_table(parse)) == ()
    snapshot = assembly.snapshot()
    assert snapshot.inferred.addresses == {
        "db.ns": ("10.0.0.1",),
        "db": ("10.0.0.1",),
        "db.ns:80": ("10.0.0.1",),
        "six": ("fd00::1",),
    }
    for host in ("db.ns", "db", "10.0.0.1"):
        assert snapshot.destination(host, 5432).tcp.clusters[0].name == "db"
    assert snapshot.destination("six", 1).tcp.clusters[0].name == "db"
    assert snapshot.destination("web", 5432) is None


def test_a_name_table_comes_before_the_domains_of_virtual_hosts(parse):
    assembly = Assembly(Style.SIDECAR, search=(".ns.svc.cluster.local",))
    table = NameTable()
    for host, ips in {
        "db.ns.svc.cluster.local": ["10.0.0.9"],
        "six": ["no address"],
        "*.Example.org": ["10.0.0.1"],
    }.items():
        table.table[host].ips.extend(ips)
    resources = vip_table(parse) | {NAME_TABLE: {SINGLETON: table}}
    assert assembly.apply("1", resources) == ()
    assert [str(note) for note in assembly.notes] == ["NDS nds: table[six].ips: what is no IP address is left out"]
    snapshot = assembly.snapshot()
    assert snapshot.resolve("db") == ("10.0.0.9",)
    assert snapshot.resolve("db.ns") == ("10.0.0.1",), "where the table knows nothing, the domains do"
    assert snapshot.resolve("six") == ("fd00::1",)
    assert snapshot.destination("www.example.org", 5432).tcp.clusters[0].name == "db"
    assert assembly.apply("2", resources) == ()
    assert assembly.snapshot() is snapshot
    del table.table["db.ns.svc.cluster.local"]
    assembly.apply("3", resources)
    assert assembly.snapshot().resolve("db") == ("10.0.0.1",)
    assert assembly.snapshot().listeners is snapshot.listeners


def test_a_name_table_has_no_name_and_parses_from_the_wire():
    message = NameTable()
    message.table["a"].ips.append("10.0.0.1")
    kind = RESOURCE_TYPES[NAME_TABLE]
    received = kind.examine(pack(NAME_TABLE, message))
    assert (received.name, received.faults) == (SINGLETON, ())
    assert received.resource.value.addresses == {"a": ("10.0.0.1",)}
    broken = kind.examine(Any(type_url=NAME_TABLE, value=b"\xff").SerializeToString())
    assert broken.resource is None
    assert broken.faults
