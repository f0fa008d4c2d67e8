"""The capability report: every source says what it does not honour, by resource and field."""

import json
import logging
import time

import pytest
from google.protobuf import json_format

import meshlib
from meshlib.capabilities import Capabilities, Capability
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER, LISTENER, ROUTE

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ADDRESS = {"socket_address": {"address": "127.0.0.1", "port_value": 8080}}


def listener(**hcm):
    http = {"@type": HCM, "route_config": {"name": "r"}, **hcm}
    filters = [{"name": "http", "typed_config": http}]
    return {"name": "l", "address": ADDRESS, "filter_chains": [{"filters": filters}]}


def cluster(**fields):
    return {"name": "c", "type": "STATIC", "load_assignment": {"cluster_name": "c"}, **fields}


def static_mesh(listeners=(), clusters=(), **bootstrap):
    resources = {"listeners": list(listeners) or [listener()], "clusters": list(clusters)}
    return meshlib.Mesh.from_bootstrap({"static_resources": resources, **bootstrap}, metrics=False)


def test_a_static_bootstrap(caplog):
    clusters = [
        cluster(name=name, preconnect_policy={}, protocol_selection="USE_DOWNSTREAM_PROTOCOL") for name in ("a", "b")
    ]
    with caplog.at_level(logging.INFO), static_mesh(clusters=clusters) as mesh:
        found = mesh.capabilities()
        assert mesh.capabilities() == found
    assert found.counts == {"refused": 0, "not honoured": 2, "approximated": 2}
    assert found.entries[0] == Capability(
        "not honoured", "CDS", "a", "preconnect_policy", "no connection is made ahead"
    )
    assert str(found).splitlines() == [
        "not honoured: CDS a preconnect_policy: no connection is made ahead (and 1 more)",
        "approximated: CDS a protocol_selection: HTTP/1.1 is spoken unless HTTP/2 is asked for (and 1 more)",
    ]
    assert json.loads(json.dumps(found.to_dict()))["entries"][0]["resource"] == "a"
    logged = [record for record in caplog.records if record.name == "meshlib"]
    assert sorted((r.levelname, r.getMessage().partition(":")[0]) for r in logged) == [
        ("INFO", "approximated"),
        ("WARNING", "not honoured"),
    ]


def test_a_folder_where_all_is_honoured(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    with meshlib.Mesh.from_directory(tmp_path, metrics=False) as mesh:
        found = mesh.capabilities()
    assert found.counts["refused"] == found.counts["not honoured"] == 0


def test_nothing_to_say():
    assert str(Capabilities()) == "every field of the configuration is honoured"


def test_a_control_plane_and_an_update_that_is_refused(ads_server):
    server = ads_server()
    made = json_format.ParseDict(cluster(preconnect_policy={}), RESOURCE_TYPES[CLUSTER].message())
    server.resources[CLUSTER] = {"c": made}
    with meshlib.Mesh.connect(server.address, workload="w", metrics=False) as mesh:
        found = mesh.capabilities()
        assert [(e.status, e.resource, e.field) for e in found.entries] == [("not honoured", "c", "preconnect_policy")]
        bad = RESOURCE_TYPES[CLUSTER].message(name="c", cluster_type={"name": "aggregate"})
        server.update("2", CLUSTER, clusters={"c": bad})
        server.expect(lambda request: request.HasField("error_detail"))
        deadline = time.monotonic() + 5
        while (found := mesh.capabilities()).counts["refused"] == 0:  # the NACK goes out before it shows
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert [(e.status, e.field) for e in found.entries] == [
        ("refused", "cluster_type"),
        ("not honoured", "preconnect_policy"),
    ]
    assert found.entries[0].consequence.endswith("the update is refused, what was in force stays")


def test_a_mesh_without_configuration_says_so():
    mesh = meshlib.Mesh.connect("127.0.0.1:1", metrics=False)
    with mesh, pytest.raises(meshlib.MeshNotReady):
        mesh.capabilities(timeout=0.05)


def decoded(url, data):
    return RESOURCE_TYPES[url].decode("it", json_format.ParseDict(data, RESOURCE_TYPES[url].message()))


@pytest.mark.parametrize(
    ("service", "url", "data", "path"),
    [
        ("VHDS", ROUTE, {"name": "r", "vhds": {"config_source": {"ads": {}}}}, "vhds"),
        (
            "ECDS",
            LISTENER,
            listener(http_filters=[{"name": "f", "config_discovery": {"config_source": {"ads": {}}}}]),
            "filter_chains[0].filters[0].typed_config.http_filters[0].config_discovery",
        ),
        (
            "ECDS",
            LISTENER,
            {
                "name": "l",
                "filter_chains": [{"filters": [{"name": "f", "config_discovery": {"config_source": {"ads": {}}}}]}],
            },
            "filter_chains[0].filters[0].config_discovery",
        ),
        (
            "ECDS",
            CLUSTER,
            cluster(filters=[{"name": "f", "config_discovery": {"config_source": {"ads": {}}}}]),
            "filters[0].config_discovery",
        ),
        ("LRS", CLUSTER, cluster(lrs_server={"self": {}}), "lrs_server"),
    ],
)
def test_services_that_are_refused_aloud(service, url, data, path):
    found = decoded(url, data)
    assert found.faults == ()
    assert [(note.field_path, note.status) for note in found.notes] == [(path, "refused")]
    assert service in found.notes[0].consequence


def test_scoped_routes_are_refused_with_their_listener():
    scoped = {"name": "s", "scope_key_builder": {}, "rds_config_source": {"ads": {}}, "scoped_rds": {}}
    http = {"@type": HCM, "scoped_routes": scoped}
    data = {"name": "l", "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}]}
    found = decoded(LISTENER, data)
    assert [fault.field_path for fault in found.faults] == ["filter_chains[0].filters[0].typed_config.scoped_routes"]


def test_a_bootstrap_that_asks_for_rtds_and_lrs():
    runtime = {"layers": [{"name": "r", "rtds_layer": {"name": "r", "rtds_config": {"ads": {}}}}]}
    load = {"load_stats_config": {"api_type": "GRPC"}}
    with static_mesh(layered_runtime=runtime, cluster_manager=load) as mesh:
        found = mesh.capabilities()
    said = {entry.field: (entry.type, entry.status, entry.consequence) for entry in found.entries}
    assert set(said) == {"layered_runtime", "cluster_manager.load_stats_config"}
    assert said["layered_runtime"][:2] == said["cluster_manager.load_stats_config"][:2] == ("bootstrap", "refused")
    assert "RTDS" in said["layered_runtime"][2]
    assert "LRS" in said["cluster_manager.load_stats_config"][2]
