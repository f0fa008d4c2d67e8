"""Shapes: what is taken for valid by its shape is what decoding it whole finds valid, no more and no less."""

import random
from pathlib import Path

import pytest
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from meshlib.xds import wire
from meshlib.xds.assembly import pack
from meshlib.xds.protos import cluster_pb2, endpoint_components_pb2, endpoint_pb2, route_pb2
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


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def fields(*parts):
    """Fields of a message as they are on the wire, in that order: (number, bytes or a number)."""
    return b"".join(
        varint(number << 3 | 2) + varint(len(value)) + value
        if isinstance(value, bytes)
        else varint(number << 3) + varint(value)
        for number, value in parts
    )


def socket_address(address=b"10.0.0.1", port=80, *more):
    return fields((1, fields((2, address), (3, port), *more)))  # a core.v3.Address


def lb_endpoint(*more, address=b"10.0.0.1", port=80):
    return fields((1, fields((1, socket_address(address, port)))), *more)


def assignment(*members):
    return fields((1, b"a"), (2, fields(*((2, member) for member in members))))


WEIGHT, HEALTHY = (4, fields((1, 5))), (2, 1)
PLAIN = lb_endpoint(WEIGHT, HEALTHY)
ADDRESS = (1, fields((1, socket_address())))
KNOWN = [
    assignment(lb_endpoint()),
    assignment(PLAIN, PLAIN),
    assignment(lb_endpoint(), lb_endpoint(WEIGHT)),
    assignment(lb_endpoint(address=b"fd00::1"), lb_endpoint(address=b"1.2.3.4", port=9)),
]


def is_judged_as_decoding_whole_judges(value):
    for learned in KNOWN:
        assert not RESOURCE_TYPES[ENDPOINT].examine(wrapped(ENDPOINT, learned)).faults
    for _ in range(2):  # what is learned from it, too
        examined, decoded = RESOURCE_TYPES[ENDPOINT].examine(wrapped(ENDPOINT, value)), whole(ENDPOINT, value)
        assert examined.faults == decoded.faults
        if examined.resource is not None:
            assert examined.resource.value == decoded.value
            assert as_found(examined.resource.notes(ENDPOINT)) == as_found(decoded.notes)


def wrapped(url, value):
    return any_pb2.Any(type_url=url, value=value).SerializeToString()


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([fields(ADDRESS, ADDRESS, WEIGHT, HEALTHY), fields(WEIGHT, HEALTHY)], id="two addresses and none"),
        pytest.param(
            [fields((1, fields((1, socket_address()), (1, socket_address())))), b""], id="two in one endpoint"
        ),
        pytest.param(
            [
                fields((1, fields((1, socket_address(b"10.0.0.1", 80, (3, 81)))))),
                fields((1, fields((1, fields((1, fields((2, b"10.0.0.1"), (1, 0)))))))),
            ],
            id="two ports and none",
        ),
        pytest.param([lb_endpoint((5, b"x")), lb_endpoint()], id="a name after the endpoint"),
        pytest.param([lb_endpoint((5, b"")), lb_endpoint()], id="an empty name after the endpoint"),
        pytest.param([fields((5, b"x"), ADDRESS), lb_endpoint()], id="a name before the endpoint"),
        pytest.param([lb_endpoint((4, b"")), lb_endpoint()], id="a weight of nothing"),
        pytest.param([lb_endpoint(WEIGHT, (4, b"")), lb_endpoint()], id="a weight in two parts"),
        pytest.param([lb_endpoint(WEIGHT), lb_endpoint((4, b""))], id="the same parts, of two"),
        pytest.param([lb_endpoint((2, 77), (2, 1)), lb_endpoint()], id="a health status taken back"),
        pytest.param([lb_endpoint((2, 77)), lb_endpoint((2, 1))], id="the same, of two"),
        pytest.param([lb_endpoint((3, fields((1, fields((1, b"\xff")))))), lb_endpoint()], id="metadata that is none"),
        pytest.param([lb_endpoint(address=b"10.0.0"), lb_endpoint()], id="no address"),
        pytest.param([lb_endpoint(address=b"fd00::g"), lb_endpoint()], id="no IPv6 address"),
        pytest.param([lb_endpoint(port=0), lb_endpoint()], id="port 0"),
        pytest.param([fields((1, fields((1, socket_address()), (3, b"host")))), lb_endpoint()], id="a host name"),
        pytest.param([fields((1, fields((1, socket_address(b"1.2.3.4", 80, (4, b"web")))))), PLAIN], id="a named port"),
        pytest.param(
            [fields(ADDRESS, (1, fields((1, socket_address(b"nowhere")))))], id="another address, which is none"
        ),
        pytest.param([fields((1, fields((1, fields((1, fields((4, b"10.0.0.1\x18P"))))))))], id="what looks like them"),
        pytest.param([], id="no endpoints"),
    ],
)
def test_what_comes_twice_or_not_at_all_is_judged_as_decoding_whole_judges_it(members):
    value = assignment(*members)
    try:
        whole(ENDPOINT, value)
    except DecodeError:
        examined = RESOURCE_TYPES[ENDPOINT].examine(wrapped(ENDPOINT, value))
        assert "does not parse" in str(examined.faults)
        return
    is_judged_as_decoding_whole_judges(value)


PARTS = [
    ADDRESS,
    (1, fields((1, socket_address(b"::1", 7)))),
    (1, b""),
    (1, fields((3, b"h"))),
    WEIGHT,
    (4, b""),
    HEALTHY,
]
PARTS += [
    (2, 0),
    (2, 9),
    (3, b""),
    (5, b"n"),
    (5, b""),
    (4, fields((1, 0))),
    (1, fields((1, fields((2, b""))))),
    (15, 1),
]


@given(st.lists(st.lists(st.sampled_from(PARTS), max_size=5), max_size=4), st.sampled_from(PARTS))
def test_fields_in_any_order_and_number(members, spare):
    is_judged_as_decoding_whole_judges(assignment(*(fields(*parts) for parts in members)))
    # The same fields, dealt out otherwise: alike as lists.
    dealt = [part for parts in members for part in parts]
    half = len(dealt) // 2
    is_judged_as_decoding_whole_judges(assignment(fields(*dealt[:half]), fields(*dealt[half:]), fields(spare)))


@given(
    st.one_of(
        st.ip_addresses().map(str),
        st.text("0123456789abcdef:.%", max_size=46),
        st.tuples(st.ip_addresses(v=6).map(lambda ip: ip.exploded), st.text("0:.%", max_size=3)).map("".join),
    )
)
def test_addresses_of_either_family(address):
    RESOURCE_TYPES[ENDPOINT].examine(pack(ENDPOINT, endpoints()))
    message = endpoints(address)
    examined = RESOURCE_TYPES[ENDPOINT].examine(pack(ENDPOINT, message))
    assert examined.faults == RESOURCE_TYPES[ENDPOINT].decode("a", message).faults


def test_an_any_is_taken_apart_as_protobuf_does():
    for size in (0, 1, 127, 128, 200, 16383, 16384, 20000):
        raw = wrapped(ENDPOINT, b"x" * size)
        head = wire.any_head(ENDPOINT)
        assert wire.any_value(raw, head) == (b"x" * size if 0 < size < 16384 else None)
        for other in (raw + raw[len(head) - 1 :], raw + b"\x1a\x00", raw[:-1], raw[: len(head)]):
            assert wire.any_value(other, head) is None
    assert wire.any_value(wrapped(CLUSTER, b"x"), wire.any_head(ENDPOINT)) is None


def test_every_field_of_an_endpoint_is_one_that_its_shape_knows():
    known = {"endpoint", "endpoint_name", "health_status", "metadata", "load_balancing_weight"}
    assert set(endpoint_components_pb2.LbEndpoint.DESCRIPTOR.fields_by_name) == known


def test_a_cluster_with_its_endpoints_in_a_file_of_its_own_is_no_example_for_others():
    """Where the file is, and the name in it, are parts of the reference, which a shape does not know."""

    def examined(name):
        config = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS)
        config.eds_cluster_config.eds_config.path_config_source.path = "/etc/eds.yaml"
        packed = any_pb2.Any()
        packed.Pack(config)
        return RESOURCE_TYPES[CLUSTER].examine(packed.SerializeToString())

    first, second = examined("a"), examined("b")
    assert first.resource.references != second.resource.references
    assert all("a" in name for _, name in first.resource.references)
    assert all("b" in name for _, name in second.resource.references)
