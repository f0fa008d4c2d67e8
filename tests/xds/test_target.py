"""gRPC targets: what they mean, what is dialled, what is refused."""

import socket

import pytest

from meshlib.errors import BootstrapError
from meshlib.xds.target import Address, Target, parse_target


@pytest.mark.parametrize(
    ("address", "target", "authority"),
    [
        ("istiod:15010", Target(hosts=(("istiod", 15010),)), "istiod:15010"),
        ("[::1]:80", Target(hosts=(("::1", 80),)), "[::1]:80"),
        ("dns:///istiod:15010", Target(hosts=(("istiod", 15010),)), "istiod:15010"),
        ("dns:istiod", Target(hosts=(("istiod", 443),)), "istiod:443"),
        ("dns:///::1", Target(hosts=(("::1", 443),)), "[::1]:443"),
        ("dns:[::1]", Target(hosts=(("::1", 443),)), "[::1]:443"),
        ("ipv4:10.0.0.1:80,10.0.0.2", Target(hosts=(("10.0.0.1", 80), ("10.0.0.2", 443))), "10.0.0.1:80"),
        ("ipv6:[::1]:80,[::2]:81", Target(hosts=(("::1", 80), ("::2", 81))), "[::1]:80"),
        ("unix:relative/path", Target(path="relative/path"), "localhost"),
        ("unix:/run/xds", Target(path="/run/xds"), "localhost"),
        ("unix:///run/xds", Target(path="/run/xds"), "localhost"),
    ],
)
def test_targets(address, target, authority):
    assert parse_target(address) == target
    assert target.authority == authority


NOT_DIALLED = """
    :80 istiod istiod: istiod:0 istiod:65536 istiod:http istiod:८० a/b:80 ::1 [::1] [a]:80 unix: unix://
    unix://relative dns: dns:/// dns://8.8.8.8/istiod:1 xds:///a ipv4:istiod:80 ipv4:[::1]:80 ipv6:10.0.0.1:80
    ipv4:10.0.0.1:80,
"""


@pytest.mark.parametrize("address", ["", *NOT_DIALLED.split()])
def test_what_is_no_target(address):
    with pytest.raises(BootstrapError, match=r"is no address|cannot be named"):
        parse_target(address)


def test_all_addresses_of_all_hosts_are_dialled_once():
    found = parse_target("ipv4:127.0.0.2:80,127.0.0.1:81,127.0.0.2:80").resolve()
    assert found == [Address(socket.AF_INET, ("127.0.0.2", 80)), Address(socket.AF_INET, ("127.0.0.1", 81))]
    assert list(map(str, found)) == ["127.0.0.2:80", "127.0.0.1:81"]


@pytest.mark.parametrize(
    ("family", "sockaddr", "local"),
    [
        (socket.AF_UNIX, "/x", True),
        (socket.AF_INET, ("127.0.0.9", 1), True),
        (socket.AF_INET, ("10.0.0.1", 1), False),
        (socket.AF_INET6, ("::1", 1, 0, 0), True),
        (socket.AF_INET6, ("::ffff:127.0.0.1", 1, 0, 0), True),
        (socket.AF_INET6, ("fe80::1%eth0", 1, 0, 0), False),
    ],
)
def test_what_stays_on_this_machine(family, sockaddr, local):
    assert Address(family, sockaddr).local is local
