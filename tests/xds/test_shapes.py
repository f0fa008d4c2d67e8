"""Shapes: what is taken for valid by its shape is what decoding it whole finds valid, no more and no less."""

import random
from pathlib import Path

import pytest
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

from meshlib.xds.assembly import pack
from meshlib.xds.protos import cluster_pb2, endpoint_pb2, route_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, ROUTE

DATA = Path(__file__).parents[1] / "data" / "xds"


@pytest.fixture
def captured(responses):
    """The clusters, endpoints and tables of a captured sidecar."""
    return [
        (response.type_url, packed.value)
        for response in responses(DATA / "default-sidecar-webapp.pb")
        if response.type_url in (CLUSTER, ENDPOINT, ROUTE)
        for packed in response.resources
    ]


def whole(url, value):
    """What decoding everything at once finds."""
    kind = RESOURCE_TYPES[url]
    message = kind.message.FromString(value)
    name = getattr(message, kind.name_field)
    return kind.decode(name, message)


def as_found(notes):
    return sorted((note.field_path, note.consequence) for note in notes)


def test_a_captured_resource_comes_to_the_same_value_and_notes(captured):
    assert len(captured) > 10
    for url, value in captured * 2:  # the second time by its shape
        raw = any_pb2.Any(type_url=url, value=value).SerializeToString()
        examined, decoded = RESOURCE_TYPES[url].examine(raw), whole(url, value)
        assert examined.faults == decoded.faults == ()
        assert examined.resource.value == decoded.value
        assert as_found(examined.resource.notes(url)) == as_found(decoded.notes)


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_judged_as_decoding_whole_judges_it(captured, seed):
    chance = random.Random(seed)
    judged = 0
    for url, value in captured * 40:
        damaged = bytearray(value)
        for _ in range(chance.randint(1, 2)):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        try:
            decoded = whole(url, bytes(damaged))
        except DecodeError:
            continue
        raw = any_pb2.Any(type_url=url, value=bytes(damaged)).SerializeToString()
        examined = RESOURCE_TYPES[url].examine(raw)
        if not examined.name:
            continue  # nobody's name: refused before anything is decoded
        assert bool(examined.faults) == bool(decoded.faults), (url, examined.faults, decoded.faults)
        if examined.resource is not None:
            assert examined.resource.value == decoded.value
            assert as_found(examined.resource.notes(url)) == as_found(decoded.notes)
        judged += 1
    assert judged > 100


def endpoints(address="10.0.0.1", port=80, **fields):
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name="a")
    lb = message.endpoints.add().lb_endpoints.add(**fields)
    lb.endpoint.address.socket_address.address = address
    if port is not None:
        lb.endpoint.address.socket_address.port_value = port
    return message


@pytest.mark.parametrize("address", ["10.0.0.1", "::1", "fd00::a", "10.0.0.256", "010.0.0.1", "a.b", "", "10.0.0.1\0"])
@pytest.mark.parametrize("port", [1, 65535, 65536, 0, None])
def test_addresses_and_ports_are_looked_at_one_by_one(address, port):
    RESOURCE_TYPES[ENDPOINT].examine(pack(ENDPOINT, endpoints()))  # its shape is known
    message = endpoints(address, port)
    examined = RESOURCE_TYPES[ENDPOINT].examine(pack(ENDPOINT, message))
    decoded = RESOURCE_TYPES[ENDPOINT].decode("a", message)
    assert examined.faults == decoded.faults
    if examined.resource is not None:
        assert examined.resource.value == decoded.value


def test_what_a_cluster_names_is_its_own_though_its_shape_is_shared():
    def cluster(name, service=""):
        message = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS)
        message.eds_cluster_config.eds_config.ads.SetInParent()
        message.eds_cluster_config.service_name = service
        return RESOURCE_TYPES[CLUSTER].examine(pack(CLUSTER, message)).resource

    for one in (cluster("a"), cluster("b"), cluster("c", "elsewhere")):
        wanted = "elsewhere" if one.name == "c" else one.name
        assert one.references == ((ENDPOINT, wanted),)
        assert (one.value.name, one.value.eds_name) == (one.name, wanted)


def table(*hosts):
    message = route_pb2.RouteConfiguration(name="80")
    for name, domains, cluster in hosts:
        host = message.virtual_hosts.add(name=name, domains=domains)
        route = host.routes.add()
        route.match.prefix = "/"
        route.route.cluster = cluster
    return message


def test_a_virtual_host_that_did_not_change_is_taken_over():
    kind = RESOURCE_TYPES[ROUTE]
    first = kind.examine(pack(ROUTE, table(("a", ["a"], "a"), ("b", ["b"], "b")))).resource
    second = kind.examine(pack(ROUTE, table(("a", ["a"], "a"), ("b", ["b"], "c"))), lambda _: first).resource
    before, after = first.value.virtual_hosts, second.value.virtual_hosts
    assert after[0] is before[0]
    assert after[1] is not before[1]
    assert after[1].routes[0].action.clusters[0].name == "c"
    assert second.references == ((CLUSTER, "a"), (CLUSTER, "c"))


@pytest.mark.parametrize("domains", [["b"], ["A"], ["x\n"], []])
def test_domains_are_checked_over_the_whole_table(domains):
    kind = RESOURCE_TYPES[ROUTE]
    kind.examine(pack(ROUTE, table(("a", ["a"], "a"), ("b", ["b2"], "b"))))
    bad = table(("a", ["a", "b"], "a"), ("b", domains, "b"))
    assert kind.examine(pack(ROUTE, bad)).faults == kind.decode("80", bad).faults != ()


def test_many_routes_in_one_host():
    message = table(("a", ["a"], "a"))
    for i in range(50):
        route = message.virtual_hosts[0].routes.add()
        route.match.path = f"/{i}"
        route.route.cluster = f"c{i}"
    kind = RESOURCE_TYPES[ROUTE]
    for _ in range(2):
        resource = kind.examine(pack(ROUTE, message)).resource
        assert len(resource.references) == 51
        assert len(resource.value.virtual_hosts[0].routes) == 51
    message.virtual_hosts[0].routes[7].route.timeout.seconds = -1
    assert [f.field_path for f in kind.examine(pack(ROUTE, message)).faults] == [
        "virtual_hosts[0].routes[7].route.timeout"
    ]
