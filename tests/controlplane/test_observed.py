"""Which nodes share a translation."""

import dataclasses

import pytest

from meshlib.controlplane.directory import Directory
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.observed import ObservedNode

SHOP = """\
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {selector: {app: catalog}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog, namespace: shop}
spec:
  hosts: [catalog]
  http:
  - match: [{sourceLabels: {version: v2}}]
    route: [{destination: {host: catalog}}]
    timeout: 1s
  - route: [{destination: {host: catalog}}]
"""


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "shop.yaml").write_text(SHOP)
    with Directory(tmp_path) as directory:
        yield directory


def node(number, **fields):
    return Node(id=f"sidecar~127.0.0.{number}~n-{number}.shop~shop.svc", ip=f"127.0.0.{number}", workload=f"n-{number}",
                **{"namespace": "shop", **fields})  # fmt: skip


def test_nodes_that_differ_in_nothing_that_counts_share_one_object(directory):
    first = directory.resources(node(1, labels={"app": "web"}))
    assert directory.resources(node(2, labels={"app": "other", "zone": "z"}, metadata={"X": 1})) is first


@pytest.mark.parametrize(
    "fields", [{"labels": {"version": "v2"}}, {"namespace": "elsewhere"}, {"kind": NodeKind.GRPC}], ids=str
)
def test_what_counts_makes_a_view_of_its_own(directory, fields):
    common = node(1)
    other = node(2, **fields)
    assert directory.resources(other) is not directory.resources(common)
    assert directory.resources(node(3, **fields)) is directory.resources(other)


def test_an_observed_node_is_as_the_node(directory):
    plain = node(1, labels={"a": "1"}, metadata={"b": "2"})
    observed = ObservedNode(plain)
    assert (observed.kind, observed.ip, dict(observed.labels)) == (plain.kind, plain.ip, plain.labels)
    assert observed.metadata.get("b") == "2"
    assert observed.metadata.get("c") is None


def test_what_was_not_there_counts_too():
    observed = ObservedNode(node(1, metadata={"a": 1}))
    assert "b" not in observed.metadata
    assert observed.fits(node(2, metadata={"a": 2}))
    assert not observed.fits(node(2, metadata={"b": 1}))


def test_what_was_looked_through_counts_whole():
    observed = ObservedNode(node(1, labels={"a": "1"}))
    assert len(observed.labels) == 1
    assert observed.fits(node(2, labels={"a": "1"}))
    assert not observed.fits(node(2, labels={"a": "1", "b": "2"}))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Node)])
def test_every_field_is_watched(name):
    plain = node(1, labels={"x": "1"}, metadata={"x": "1"})
    observed = ObservedNode(plain)
    value = getattr(observed, name)
    if name in ("labels", "metadata"):
        value.get("x")
    other = {"kind": NodeKind.ROUTER, "labels": {"x": "2"}, "metadata": {"x": "2"}}.get(name, "other")
    assert observed.fits(plain)
    assert not observed.fits(dataclasses.replace(plain, **{name: other}))
