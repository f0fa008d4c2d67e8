import pytest
import yaml

from meshlib.cli.demo.folder import MeshFolder, port_fields
from meshlib.errors import ConfigError

YAML = """\
# a comment that stays
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: catalog-v1}
spec:
  address: 127.0.0.1
  labels: {app: catalog, version: v1}
  ports: {http: 3000}   # 3000 in the book, too
---
apiVersion: v1
kind: Service
metadata:
  name: istio-ingressgateway
spec:
  selector:
    istio: ingressgateway
  ports:
  - {name: http2, port: 80, targetPort: 30000}
  - {name: named, port: 81, targetPort: http}
"""


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "mesh"
    folder.mkdir()
    (folder / "catalog.yaml").write_text(YAML)
    (folder / "broken.yaml").write_text("a: [1,\nb: }")
    changes = tmp_path / "changes"
    changes.mkdir()
    return folder


def test_ports_are_found_with_their_labels(source):
    found = [(field.kind, field.value, field.labels, field.port) for field in port_fields(source)]

    assert found == [
        ("WorkloadEntry", 3000, {"app": "catalog", "version": "v1"}, 0),
        ("Service", 30000, {"istio": "ingressgateway"}, 80),
    ]


def test_only_the_numbers_change(source, tmp_path):
    folder = MeshFolder(source, tmp_path / "copy", tmp_path / "changes")
    folder.assign_ports(lambda field: {3000: 41234, 30000: 8}[field.value])

    want = YAML.replace("{http: 3000}", "{http: 41234}").replace("targetPort: 30000", "targetPort: 8")
    assert (folder.path / "catalog.yaml").read_text() == want
    assert (source / "catalog.yaml").read_text() == YAML


CHANGE = """\
# why
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: catalog-v1}
spec: {address: 127.0.0.9}
"""


def test_a_change_of_something_new_is_a_new_file(source, tmp_path):
    (tmp_path / "changes/new.yaml").write_text("kind: VirtualService\nmetadata: {name: catalog}\n")
    folder = MeshFolder(source, tmp_path / "copy", tmp_path / "changes")

    assert folder.apply("new.yaml") == folder.path / "new.yaml"
    assert (folder.path / "new.yaml").read_text().startswith("kind: VirtualService")
    assert sorted(path.name for path in folder.path.iterdir()) == ["broken.yaml", "catalog.yaml", "new.yaml"]


def test_a_change_replaces_the_resource_of_its_name_among_others(source, tmp_path):
    (tmp_path / "changes/change.yaml").write_text(CHANGE)
    folder = MeshFolder(source, tmp_path / "copy", tmp_path / "changes")

    assert folder.apply("change.yaml") == folder.path / "catalog.yaml"
    first, second = list(yaml.safe_load_all((folder.path / "catalog.yaml").read_text()))
    assert first["spec"] == {"address": "127.0.0.9"}
    assert second["kind"] == "Service"


def test_a_change_replaces_a_file_that_holds_nothing_else(source, tmp_path):
    (source / "catalog.yaml").write_text(YAML.partition("---")[0])
    (tmp_path / "changes/change.yaml").write_text(CHANGE)
    folder = MeshFolder(source, tmp_path / "copy", tmp_path / "changes")
    folder.apply("change.yaml")

    assert (folder.path / "catalog.yaml").read_text() == CHANGE


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        MeshFolder(tmp_path / "nowhere", tmp_path / "copy", tmp_path)


def test_what_is_wrong_with_a_change_is_known(source, tmp_path):
    (tmp_path / "changes/change.yaml").write_text("kind: VirtualService\n")
    folder = MeshFolder(source, tmp_path / "copy", tmp_path / "changes")
    before = folder.faults()
    folder.apply("change.yaml")

    assert {fault.file for fault in {*folder.faults()} - {*before}} == {"change.yaml"}
