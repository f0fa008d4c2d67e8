"""Host names: a table for each rule."""

import pytest

from meshlib.controlplane import hosts

DOMAIN = "cluster.local"


@pytest.mark.parametrize(
    ("host", "full"),
    [
        ("catalog", "catalog.shop.svc.cluster.local"),
        ("catalog.shop", "catalog.shop"),  # Istio completes only names without a dot
        ("catalog.shop.svc.cluster.local", "catalog.shop.svc.cluster.local"),
        ("api.example.com", "api.example.com"),
        ("*", "*"),
        ("*.example.com", "*.example.com"),
    ],
)
def test_qualify(host, full):
    assert hosts.qualify(host, "shop", DOMAIN) == full


@pytest.mark.parametrize(
    ("pattern", "host", "covers"),
    [
        ("*", "a.com", True),
        ("a.com", "a.com", True),
        ("a.com", "b.com", False),
        ("*.com", "a.com", True),
        ("*.com", "a.b.com", True),
        ("*.a.com", "a.com", False),
        ("*.com", "*.a.com", True),
        ("*.a.com", "*.com", False),
        ("*.com", "*", False),
        ("a.com", "*", False),
    ],
)
def test_matches(pattern, host, covers):
    assert hosts.matches(pattern, host) is covers


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("*", "a.com", "a.com"),
        ("a.com", "*", "a.com"),
        ("*.com", "*.a.com", "*.a.com"),
        ("a.com", "a.com", "a.com"),
        ("a.com", "b.com", None),
        ("*.a.com", "*.b.com", None),
    ],
)
def test_meet(one, other, common):
    assert hosts.meet(one, other) == common


@pytest.mark.parametrize(
    ("host", "namespace", "names"),
    [
        (
            "catalog.shop.svc.cluster.local",
            "shop",
            ["", ".", "catalog", "catalog.shop.svc", "catalog.shop"],
        ),
        ("catalog.shop.svc.cluster.local", "other", ["", ".", "catalog.shop", "catalog.shop.svc"]),
        ("api.example.com", "shop", ["", "."]),
        ("*.example.com", "shop", ["", "."]),
    ],
)
def test_domains(host, namespace, names):
    expected = [host + name if name in ("", ".") else name for name in names]
    assert hosts.domains(host, namespace, DOMAIN) == expected


def test_patterns_find_the_narrowest():
    patterns = hosts.Patterns()
    for pattern in ("*", "*.com", "*.a.com", "b.a.com"):
        patterns.add(pattern, pattern)
    patterns.add("b.a.com", "again")
    found = {host: patterns.find(host) for host in ("b.a.com", "c.a.com", "x.com", "x.org", "*.a.com")}
    assert found == {
        "b.a.com": ["b.a.com", "again"],
        "c.a.com": ["*.a.com"],
        "x.com": ["*.com"],
        "x.org": ["*"],
        "*.a.com": ["*.a.com"],
    }
    assert hosts.Patterns().find("a.com") == []
