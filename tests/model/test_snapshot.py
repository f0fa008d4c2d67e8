"""How a host and port find their listener and chain."""

import pytest

from meshlib.model.listener import FilterChain, HttpConnectionManager, Listener, TcpProxy
from meshlib.model.route import RouteConfiguration
from meshlib.model.snapshot import Snapshot, Style


def http(name):
    return FilterChain(http=HttpConnectionManager(route_config=RouteConfiguration(name, ())))


def tcp(cluster, **match):
    return FilterChain(tcp=TcpProxy(cluster), **match)


def listeners(*names, **fields):
    return {n: Listener(n, port=int(n.rpartition("_")[2] or 0), chains=(http(n),), **fields) for n in names}


class TestSidecar:
    SNAPSHOT = Snapshot(
        "1",
        Style.SIDECAR,
        {
            **listeners("10.1.0.5_80", "0.0.0.0_80", "0.0.0.0_8080"),
            "virtualOutbound": Listener("virtualOutbound", port=15001, chains=(tcp("PassthroughCluster"),)),
            "0.0.0.0_9000": Listener("0.0.0.0_9000", port=9000, chains=(http("in"),), inbound=True),
        },
        addresses={"catalog": "10.1.0.5"},
    )

    @pytest.mark.parametrize(
        ("host", "port", "listener"),
        [
            ("catalog", 80, "10.1.0.5_80"),
            ("catalog", 8080, "0.0.0.0_8080"),
            ("forum", 80, "0.0.0.0_80"),
            ("10.1.0.5", 80, "10.1.0.5_80"),
            ("catalog", 443, "virtualOutbound"),
            ("catalog", 9000, "virtualOutbound"),  # inbound listeners are not for calls out
        ],
    )
    def test_listener(self, host, port, listener):
        assert self.SNAPSHOT.destination(host, port).listener == listener

    def test_nowhere(self):
        assert Snapshot("1", Style.SIDECAR).destination("a", 80) is None


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
    listener = Listener("l", port=80, chains=(FilterChain(http=manager),))
    table = RouteConfiguration("80", ())
    assert Snapshot("1", Style.STATIC, {"l": listener}, {"80": table}).destination("a", 80).routes is table
    missing = Snapshot("1", Style.STATIC, {"l": listener}).destination("a", 80)
    assert missing.routes.virtual_hosts == ()


class TestChains:
    def destination(self, *chains, host="a.test", tls=True, default=None):
        listener = Listener("l", port=443, chains=chains, default_chain=default)
        return Snapshot("1", Style.STATIC, {"l": listener}).destination(host, 443, tls=tls)

    def test_server_name_decides(self):
        chains = (tcp("any", transport_protocol="tls"), tcp("a", transport_protocol="tls", server_names=("a.test",)))
        assert self.destination(*chains).tcp_cluster == "a"
        assert self.destination(*chains, host="b.test").tcp_cluster == "any"

    def test_wildcard_server_name(self):
        chain = tcp("w", transport_protocol="tls", server_names=("*.test",))
        assert self.destination(chain).tcp_cluster == "w"
        assert self.destination(chain, host="a.other") is None

    def test_the_applications_tls_gets_no_http_chain(self):
        assert self.destination(http("r")) is None
        assert self.destination(http("r"), tls=False).routes.name == "r"

    def test_default_chain(self):
        chain = tcp("tls-only", transport_protocol="tls", server_names=("b.test",))
        assert self.destination(chain, default=tcp("rest")).tcp_cluster == "rest"
