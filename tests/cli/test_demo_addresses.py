import socket
from pathlib import Path

import pytest

from meshlib.cli.demo.addresses import assign
from meshlib.cli.demo.folder import MeshFolder, port_fields
from meshlib.cli.demo.ports import Ports, any_free_port

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def folder(tmp_path):
    """The examples' YAML, on ports that are free here whatever else is running."""
    folder = MeshFolder(EXAMPLES / "mesh", tmp_path / "mesh", EXAMPLES / "changes")
    chosen: dict[int, int] = {}
    folder.assign_ports(lambda field: chosen.setdefault(field.value, any_free_port()))
    return folder


def values(folder):
    return {(field.file.name, field.value) for field in port_fields(folder.path)}


def test_free_ports_stay_as_the_yaml_has_them(folder):
    before = values(folder)
    addresses = assign(folder, Ports(lambda _message: None))

    assert values(folder) == before
    assert ("catalog-v1.yaml", addresses.catalog["v1"]) in before
    assert ("catalog-v2.yaml", addresses.catalog["v2"]) in before
    assert ("webapp-v1.yaml", addresses.webapp) in before
    assert ("ingressgateway-service.yaml", addresses.gateway) in before


def test_taken_ports_are_replaced_everywhere(folder):
    gateway = next(value for name, value in values(folder) if name == "ingressgateway-service.yaml")
    catalog = next(value for name, value in values(folder) if name == "catalog-v1.yaml")
    messages: list[str] = []
    with socket.create_server(("127.0.0.1", gateway)), socket.create_server(("127.0.0.1", catalog)):
        addresses = assign(folder, Ports(messages.append))

    assert addresses.gateway != gateway
    assert addresses.catalog["v1"] != catalog
    assert {
        ("ingressgateway-service.yaml", addresses.gateway),
        ("ingressgateway-workload.yaml", addresses.gateway),
        ("catalog-v1.yaml", addresses.catalog["v1"]),
    } <= values(folder)
    assert f"port {gateway} is taken; using {addresses.gateway} for the sample app" in messages
    assert f"port {catalog} is taken; using {addresses.catalog['v1']} for catalog v1" in messages
