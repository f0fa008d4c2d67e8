"""Which virtual host takes an authority: exact, longest suffix, longest prefix, any."""

import pytest

from meshlib.model.route import RouteConfiguration, VirtualHost, without_port
from policy.snapshots import request

DOMAINS = ("a.b.com", "*.b.com", "*.com", "a.b.*", "a.*", "*-x.b.com", "*")


def find(authority, domains=DOMAINS, **fields):
    table = RouteConfiguration("t", tuple(VirtualHost(d, (d,)) for d in domains), **fields)
    host = authority.rpartition(":")[0] if ":" in authority and "]" not in authority else authority
    found = table.virtual_host(request(host=host, authority=authority))
    return found and found.name


@pytest.mark.parametrize(
    ("authority", "domain"),
    [
        ("a.b.com", "a.b.com"),
        ("A.B.COM", "a.b.com"),
        ("z.b.com", "*.b.com"),
        ("y.z.b.com", "*.b.com"),
        ("1-x.b.com", "*-x.b.com"),  # the longest suffix
        ("-x.b.com", "*.b.com"),  # a wildcard takes at least one character
        ("z.com", "*.com"),
        ("a.b.org", "a.b.*"),
        ("a.org", "a.*"),
        ("b.org", "*"),
        (".b.com", "*.com"),
        ("a.b.com:80", "a.b.*"),  # the port is part of the string
    ],
)
def test_precedence(authority, domain):
    assert find(authority) == domain


def test_nobody():
    assert find("b.org", ("a.org", "*.com")) is None


@pytest.mark.parametrize("authority", ["a.b.com:80", "a.b.com", "A.b.com:8080"])
def test_the_port_can_be_ignored(authority):
    assert find(authority, ignore_port=True) == "a.b.com"


def test_the_host_header_decides_not_the_url():
    """The URL leads to a listener; the authority, which may differ, to a virtual host."""
    table = RouteConfiguration("t", (VirtualHost("v", ("other",)), VirtualHost("u", ("url",))), ignore_port=True)
    assert table.virtual_host(request(host="url", authority="other:80")).name == "v"


@pytest.mark.parametrize(
    ("authority", "bare"),
    [
        ("a", "a"),
        ("a:80", "a"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("10.0.0.1:8080", "10.0.0.1"),
        ("a:x", "a:x"),
    ],
)
def test_without_port(authority, bare):
    assert without_port(authority) == bare


def test_several_domains_lead_to_one_host():
    table = RouteConfiguration("t", (VirtualHost("v", ("a", "a.ns", "a.ns.svc:80")),))
    assert {table.virtual_host(request(host=h, authority=h)).name for h in ("a", "a.ns", "a.ns.svc:80")} == {"v"}
