"""Resources in a watched file: formats, renames, broken files, and a mesh steered by them alone."""

import json
import os
import queue
import time

import pytest
from google.protobuf import json_format, text_format

from meshlib import Mesh
from meshlib.errors import BootstrapError
from meshlib.xds.bootstrap_parts import PathSource
from meshlib.xds.files import FileBroken, FileSource, FileUpdate, parse
from meshlib.xds.protos import cluster_pb2, discovery_pb2
from meshlib.xds.type_urls import CLUSTER, LISTENER

TIMEOUT = 10.0
PREFIX = "type.googleapis.com/envoy."


def cluster(name, port=3000):
    return {
        "@type": CLUSTER,
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
                    ]
                }
            ],
        },
    }


def clusters(*names, version="1"):
    return {"version_info": version, "resources": [cluster(name) for name in names]}


def listener(cluster_name):
    manager = {
        "@type": PREFIX + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "http_filters": [
            {"name": "router", "typed_config": {"@type": PREFIX + "extensions.filters.http.router.v3.Router"}}
        ],
        "route_config": {
            "name": "local",
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster_name}}],
                }
            ],
        },
    }
    return {
        "@type": LISTENER,
        "name": "outbound",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 8080}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }


def names(event):
    assert isinstance(event, FileUpdate), event
    assert {resource.type_url for resource in event.resources} <= {CLUSTER}
    return [cluster_pb2.Cluster.FromString(resource.value).name for resource in event.resources]


@pytest.fixture
def watch():
    sources = []

    def start(path, directory=""):
        events: queue.SimpleQueue = queue.SimpleQueue()
        sources.append(FileSource(CLUSTER, PathSource(str(path), str(directory)), events.put))
        sources[-1].start()
        return events

    yield start
    for source in sources:
        source.close()
        assert not source._thread.is_alive()


def move_into(path, text):
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    os.replace(beside, path)


@pytest.mark.parametrize("suffix", ["json", "yaml", "YML", "conf", "pb", "pb_text"])
def test_every_format_of_envoy_s(suffix):
    data = clusters("a", "b", version="7")
    response = json_format.ParseDict(data, discovery_pb2.DiscoveryResponse())
    raw = {
        "yaml": f"version_info: '7'\nresources: {json.dumps(data['resources'])}\n".encode(),
        "pb": response.SerializeToString(),
        "pb_text": text_format.MessageToString(response).encode(),
    }.get(suffix, json.dumps(data, indent="\t").encode())
    assert parse(raw, f"x.{suffix}") == response


def test_a_rename_is_taken_up_and_a_broken_file_keeps_what_was_there(tmp_path, watch):
    path = tmp_path / "cds.yaml"
    path.write_text(json.dumps(clusters("a")))
    events = watch(path)
    first = events.get(timeout=TIMEOUT)
    assert (first.type_url, first.path, first.version, names(first)) == (CLUSTER, str(path), "1", ["a"])
    move_into(path, "resources:\n- '@type': [")
    broken = events.get(timeout=TIMEOUT)
    assert isinstance(broken, FileBroken)
    assert broken.reason.startswith(f"{path}:2:13: is neither JSON nor YAML")
    move_into(path, json.dumps(clusters("a", "b", version="2")))
    assert names(events.get(timeout=TIMEOUT)) == ["a", "b"]


def test_what_is_written_in_place_is_taken_up_whole(tmp_path, watch):
    path = tmp_path / "cds.yaml"
    path.write_text("resources: []\n")
    events = watch(path)
    assert names(events.get(timeout=TIMEOUT)) == []
    with path.open("w") as file:
        file.write("resources:\n")
        for number in range(5):
            file.write(f"- {json.dumps(cluster(str(number)))}\n")
            file.flush()
            time.sleep(0.02)
    assert names(events.get(timeout=TIMEOUT)) == [str(number) for number in range(5)]


def test_a_config_map_is_followed_through_its_link(tmp_path, watch):
    for version, name in (("..1", "a"), ("..2", "b")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "cds.json").write_text(json.dumps(clusters(name)))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "cds.json").symlink_to("..data/cds.json")
    events = watch(tmp_path / "cds.json", tmp_path)
    assert names(events.get(timeout=TIMEOUT)) == ["a"]
    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    assert names(events.get(timeout=TIMEOUT)) == ["b"]


def test_another_folder_may_be_the_one_to_watch(tmp_path, watch):
    (tmp_path / "files").mkdir()
    (tmp_path / "signals").mkdir()
    path = tmp_path / "files" / "cds.json"
    path.write_text(json.dumps(clusters("a")))
    events = watch(path, tmp_path / "signals")
    assert names(events.get(timeout=TIMEOUT)) == ["a"]
    move_into(path, json.dumps(clusters("b")))
    move_into(tmp_path / "signals" / "now", "")
    assert names(events.get(timeout=TIMEOUT)) == ["b"]


def test_a_file_that_goes_is_told_of_and_may_come_again(tmp_path, watch):
    path = tmp_path / "cds.json"
    events = watch(path)
    missing = events.get(timeout=TIMEOUT)
    assert missing == FileBroken(CLUSTER, str(path), f"{path}: cannot be read or is not there")
    move_into(path, json.dumps(clusters("a")))
    assert names(events.get(timeout=TIMEOUT)) == ["a"]
    path.unlink()
    assert isinstance(events.get(timeout=TIMEOUT), FileBroken)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.yaml", "- 1\n", "a.yaml:1:1: expected a DiscoveryResponse, not [1]"),
        ("a.yaml", "", "a.yaml:1:1: expected a DiscoveryResponse, not None"),
        ("a.yaml", "version: 1\n", "a.yaml:1:1: Message type"),
        ("a.yaml", "version_info: x\nresources: 1\n", "a.yaml:2:12: resources: expected a list, not 1"),
        ("a.yaml", "resources:\n- 1\n", "a.yaml:2:3: resources[0]: "),
        ("a.yaml", "resources:\n- '@type': x/no.Such\n", "a.yaml:2:3: resources[0]: "),
        (
            "a.yaml",
            f"resources:\n- '@type': {CLUSTER}\n  name: a\n- '@type': {CLUSTER}\n  name: b\n  nam: c\n",
            "a.yaml:6:3: resources[1]: ",
        ),
        (
            "a.json",
            f'{{"resources": [\n  {{"@type": "{CLUSTER}",\n   "connect_timeout": "soon"}}]}}',
            "a.json:3:4: resources[0]: Failed to parse connect_timeout field",
        ),
        ("a.pb_text", 'version_info: "1"\nresource {}\n', "a.pb_text:2:1: Message type"),
        ("a.pb", "no", "a.pb: "),
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_line_and_column(name, text, reason):
    with pytest.raises(BootstrapError) as caught:
        parse(text.encode(), name)
    assert str(caught.value).startswith(reason)


def answers(mesh, wanted):
    deadline = time.monotonic() + TIMEOUT
    while True:
        said = str(mesh.explain("GET", "http://anything:8080/"))
        if wanted in said or time.monotonic() > deadline:
            return said
        time.sleep(0.02)


def test_a_mesh_steered_by_files_alone(tmp_path, caplog):
    lds, cds = tmp_path / "lds.yaml", tmp_path / "cds.yaml"
    lds.write_text(json.dumps({"resources": [listener("a")]}))
    cds.write_text(json.dumps(clusters("a", "b")))
    bootstrap = {
        "dynamic_resources": {
            "lds_config": {"path_config_source": {"path": str(lds)}},
            "cds_config": {"path_config_source": {"path": str(cds), "watched_directory": {"path": str(tmp_path)}}},
        }
    }
    with Mesh.from_bootstrap(bootstrap) as mesh:
        mesh.wait_ready(TIMEOUT)
        assert "127.0.0.1:3000" in answers(mesh, "127.0.0.1:3000")
        move_into(cds, json.dumps({"resources": [cluster("a", port=3001)]}))
        assert "127.0.0.1:3001" in answers(mesh, "127.0.0.1:3001")
        move_into(lds, "resources: [")
        deadline = time.monotonic() + TIMEOUT
        while "lds.yaml:1:13" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
        assert f"file={lds} cannot be used, what it held stays: {lds}:1:13" in caplog.text
        assert "127.0.0.1:3001" in answers(mesh, "127.0.0.1:3001")


def test_files_beside_ads(tmp_path, ads_server, parse):
    cds = tmp_path / "cds.yaml"
    cds.write_text(json.dumps(clusters("a")))
    server = ads_server()
    listener_message = listener("a")
    del listener_message["@type"]
    listener_message["name"] = "0.0.0.0_8080"
    server.update("1", listeners={"0.0.0.0_8080": parse(LISTENER, listener_message)})
    bootstrap = {
        "node": {"id": "me"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "grpc_services": [{"google_grpc": {"target_uri": server.address, "stat_prefix": "x"}}],
            },
            "lds_config": {"ads": {}},
            "cds_config": {"path_config_source": {"path": str(cds)}},
        },
    }
    with Mesh.from_bootstrap(bootstrap) as mesh:
        mesh.wait_ready(TIMEOUT)
        assert "127.0.0.1:3000" in answers(mesh, "127.0.0.1:3000")
        move_into(cds, json.dumps({"resources": [cluster("a", port=3001)]}))
        assert "127.0.0.1:3001" in answers(mesh, "127.0.0.1:3001")
    assert CLUSTER not in {request.type_url for _, request in server.requests}
