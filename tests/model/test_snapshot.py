"""How a host and port find their listener and chain."""

import pytest

from meshlib.model.filter_chain import FilterChain, HttpConnectionManager, TcpProxy
from meshlib.model.listener import Listener
from meshlib.model.names import NameTable, search_list
from meshlib.model.route import RouteConfiguration, WeightedCluster
from meshlib.model.snapshot import Bindings, Snapshot, Style


def http(name):
    return FilterChain(http=HttpConnectionManager(route_config=RouteConfiguration(name, ())))


def tcp(cluster, **match):
    return FilterChain(tcp=TcpProxy((WeightedCluster(cluster),)), **match)


def listener(name, **fields):
    address, _, port = name.rpartition("_")
    return Listener(name, address, int(port), chains=(http(name),), **fields)


def listeners(*names, **fields):
    return {name: listener(name, **fields) for name in names}


def sidecar(found, **fields):
    return Snapshot("1", Style.SIDECAR, found, bindings=Bindings.of(found), **fields)


def cluster_of(destination):
    return destination.tcp.clusters[0].name


class TestSidecar:
    ALL = Listener("virtualOutbound", "0.0.0.0", 15001, chains=(tcp("PassthroughCluster"),), use_original_dst=True)
    SNAPSHOT = sidecar(
        {
            **listeners("10.1.0.5_80", "0.0.0.0_80", "0.0.0.0_8080", "127.0.0.1_81", "fd00::5_80", "::_8080"),
            **listeners("0.0.0.0_9000", inbound=True),
            "named": Listener(
                "named", "10.1.0.6", 80, (("10.1.0.7", 81), ("2001:db8:0:0::1", 81)), chains=(http("n"),)
            ),
            "all": ALL,
        },
        inferred=NameTable({"catalog": ("10.1.0.5",)}),
        names=NameTable(
            {"six.shop.svc.cluster.local": ("fd00::5",)}, search=search_list("a~b~c~shop.svc.cluster.local")
        ),
    )

    @pytest.mark.parametrize(
        ("host", "port", "found"),
        [
            ("catalog", 80, "10.1.0.5_80"),
            ("catalog", 8080, "0.0.0.0_8080"),
            ("forum", 80, "0.0.0.0_80"),
            ("10.1.0.5", 80, "10.1.0.5_80"),
            ("catalog", 443, "virtualOutbound"),
            ("catalog", 9000, "virtualOutbound"),  # inbound listeners are not for calls out
            ("catalog", 81, "virtualOutbound"),  # a loopback listener is for who calls that
            ("127.0.0.1", 81, "127.0.0.1_81"),
            ("six", 80, "fd00::5_80"),
            ("fd00:0::5", 80, "fd00::5_80"),
            ("six", 8080, "::_8080"),
            ("fd00::9", 80, "virtualOutbound"),  # 0.0.0.0 takes no IPv6
            ("10.1.0.6", 80, "named"),
            ("10.1.0.7", 81, "named"),
            ("2001:db8::1", 81, "named"),
        ],
    )
    def test_listener(self, host, port, found):
        assert self.SNAPSHOT.destination(host, port).listener == found

    def test_nowhere(self):
        assert Snapshot("1", Style.SIDECAR).destination("a", 80) is None

    def test_where_nothing_takes_all_the_sidecars_own_address_is_called(self):
        snapshot = sidecar(listeners("127.0.0.1_80", "::1_81"))
        assert snapshot.destination("catalog", 80).listener == "127.0.0.1_80"
        assert snapshot.destination("catalog", 81).listener == "::1_81"
        assert snapshot.destination("catalog", 82) is None

    def test_an_ipv6_wildcard_takes_names_and_ipv6(self):
        snapshot = sidecar(listeners("::_80"))
        assert snapshot.destination("catalog", 80).listener == "::_80"
        assert snapshot.destination("fd00::1", 80).listener == "::_80"
        assert snapshot.destination("10.0.0.1", 80) is None


class TestNames:
    TABLE = NameTable(
        {
            "catalog.shop.svc.cluster.local": ("10.1.0.5",),
            "forum.other.svc.cluster.local": ("10.1.0.6",),
            "pod-0.db.shop.svc.cluster.local": ("10.2.0.1",),
            "api.example.com": ("192.0.2.1",),
            "a.shop": ("192.0.2.3",),
            "a.shop.svc.cluster.local": ("10.1.0.7",),
        },
        {".example.org": ("192.0.2.2",)},
        search_list("sidecar~127.0.0.1~webapp-1.shop~shop.svc.cluster.local"),
    )

    @pytest.mark.parametrize(
        ("host", "address"),
        [
            ("catalog", "10.1.0.5"),
            ("catalog.shop", "10.1.0.5"),
            ("catalog.shop.svc", "10.1.0.5"),
            ("catalog.shop.svc.cluster.local", "10.1.0.5"),
            ("catalog.shop.svc.cluster.local.", "10.1.0.5"),
            ("catalog.", None),
            ("forum", None),
            ("forum.other", "10.1.0.6"),
            ("pod-0.db", "10.2.0.1"),
            ("pod-1.db", None),
            ("api.example.com", "192.0.2.1"),
            ("www.example.org", "192.0.2.2"),
            ("a.b.example.org", "192.0.2.2"),
            ("example.org", None),
            ("a.shop", "10.1.0.7"),  # the search list comes first
            ("a.shop.", "192.0.2.3"),
        ],
    )
    def test_lookup(self, host, address):
        assert self.TABLE.lookup(host) == ((address,) if address else ())

    @pytest.mark.parametrize("node", ["webapp-1", "", "a~b~c~", "a~b~c~x"])
    def test_a_node_that_is_not_istios_searches_nothing_of_kubernetes(self, node):
        assert not any("svc" in suffix for suffix in search_list(node))

    def test_before_what_is_inferred(self):
        found = listeners("10.1.0.5_80", "10.9.9.9_80")
        inferred = NameTable({"catalog": ("10.9.9.9",), "alias": ("10.9.9.9",)})
        snapshot = sidecar(found, names=self.TABLE, inferred=inferred)
        assert snapshot.destination("catalog", 80).listener == "10.1.0.5_80"
        assert snapshot.destination("alias", 80).listener == "10.9.9.9_80"


class TestStatic:
    def test_by_port_else_the_only_one(self):
        two = Snapshot("1", Style.STATIC, listeners("l_80", "l_81"))
        assert two.destination("a", 81).listener == "l_81"
        assert two.destination("a", 82) is None
        one = Snapshot("1", Style.STATIC, listeners("l_10000"))
        assert one.destination("a", 82).listener == "l_10000"

    def test_the_named_one(self):
        named = Snapshot("1", Style.STATIC, listeners("l_80", "l_81"), listener="l_80")
        assert named.destination("a", 81).listener == "l_80"


def test_grpc_style_looks_up_host_and_port():
    api = HttpConnectionManager(route_config=RouteConfiguration("r", ()))
    snapshot = Snapshot("1", Style.GRPC, {"catalog:80": Listener("catalog:80", api=api)})
    assert snapshot.destination("catalog", 80).routes.name == "r"
    assert snapshot.destination("catalog", 81) is None


def test_routes_by_name():
    manager = HttpConnectionManager(route_name="80")
    found = {"l": Listener("l", port=80, chains=(FilterChain(http=manager),))}
    table = RouteConfiguration("80", ())
    assert Snapshot("1", Style.STATIC, found, {"80": table}).destination("a", 80).routes is table
    missing = Snapshot("1", Style.STATIC, found).destination("a", 80)
    assert missing.routes.virtual_hosts == ()


def test_an_http_chain_cannot_read_the_applications_tls():
    snapshot = Snapshot("1", Style.STATIC, listeners("l_443"))
    assert snapshot.destination("a", 443).routes.name == "l_443"
    found = snapshot.destination("a", 443, tls=True)
    assert (found.routes, found.tcp) == (None, None)
