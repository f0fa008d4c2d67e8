"""Looking inside: Envoy's config dump, CSDS, and the xDS client's metrics, of every source."""

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from google.protobuf import any_pb2, json_format
from prometheus_client import CollectorRegistry, generate_latest

import meshlib
from meshlib.model.snapshot import Style
from meshlib.xds.admin_protos import base_pb2, config_dump_pb2
from meshlib.xds.assembly import Assembly, pack
from meshlib.xds.config_dump import as_json, config_dump
from meshlib.xds.inventory import inventory
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.shown import shown
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
ROUTER = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
ADDRESS = {"socket_address": {"address": "127.0.0.1", "port_value": 8080}}
STATUS = csds_pb2.ClientConfig.GenericXdsConfig.DESCRIPTOR.fields_by_name["client_status"].enum_type


def resource(url, **fields):
    return json_format.ParseDict(fields, RESOURCE_TYPES[url].message())


def eds_cluster(name):
    return resource(CLUSTER, name=name, type="EDS", eds_cluster_config={"eds_config": {"ads": {}}})


def static_cluster(name="c", **fields):
    return resource(CLUSTER, name=name, type="STATIC", load_assignment={"cluster_name": name}, **fields)


def bad_cluster(name):
    return RESOURCE_TYPES[CLUSTER].message(name=name, cluster_type={"name": "aggregate"})


def listener(name="l"):
    http = {"@type": HCM, "rds": {"route_config_name": "r", "config_source": {"ads": {}}}}
    return resource(LISTENER, name=name, address=ADDRESS, filter_chains=[{"filters": [{"typed_config": http}]}])


def api_listener(name):
    http = {"@type": HCM, "route_config": {"name": "r"}, "http_filters": [{"name": "router", "typed_config": ROUTER}]}
    return resource(LISTENER, name=name, api_listener={"api_listener": http})


def routes(*clusters):
    hosts = [
        {"name": c, "domains": [c], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": c}}]} for c in clusters
    ]
    return resource(ROUTE, name="r", virtual_hosts=hosts)


def assignment(cluster):
    return resource(ENDPOINT, cluster_name=cluster, endpoints=[{"lb_endpoints": [{"endpoint": {"address": ADDRESS}}]}])


def section(dump, name):
    (found,) = [one for one in dump["configs"] if one["@type"].endswith(f".{name}ConfigDump")]
    return found


def eventually(look, wanted):
    deadline = time.monotonic() + 10
    while not wanted(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


@pytest.fixture
def steered(ads_server):
    """A mesh whose server sent a refused cluster after a good one, and one that never was good."""
    server = ads_server()
    server.resources[LISTENER] = {"l": listener()}
    server.resources[ROUTE] = {"r": routes("a", "b")}
    server.resources[CLUSTER] = {name: eds_cluster(name) for name in ("a", "b")}
    server.resources[ENDPOINT] = {"a": assignment("a"), "b": assignment("b")}
    with meshlib.Mesh.connect(server.address, workload="w", namespace="n", on_demand=False) as mesh:
        mesh.wait_ready()
        clusters = {"a": eds_cluster("a"), "b": bad_cluster("b"), "never": bad_cluster("never")}
        server.update("2", CLUSTER, clusters=clusters)
        server.expect(lambda request: request.HasField("error_detail"))
        yield server, mesh


def test_a_control_plane_dumps_what_is_in_force_and_what_was_refused(steered):
    _, mesh = steered
    dump = mesh.config_dump()
    assert [one["@type"].rpartition(".")[2] for one in dump["configs"]] == [
        f"{part}ConfigDump" for part in ("Bootstrap", "Clusters", "Endpoints", "Listeners", "Routes", "Secrets")
    ]
    assert section(dump, "Bootstrap")["bootstrap"]["node"]["metadata"]["WORKLOAD_NAME"] == "w"
    (found,) = section(dump, "Listeners")["dynamic_listeners"]
    assert (found["name"], found["active_state"]["version_info"], found["client_status"]) == ("l", "1", "ACKED")
    assert found["active_state"]["listener"]["filter_chains"][0]["filters"][0]["typed_config"]["@type"] == HCM
    assert found["active_state"]["last_updated"].startswith("20")
    good, refused, never = section(dump, "Clusters")["dynamic_active_clusters"]
    assert (good["cluster"]["name"], good["version_info"], good.get("error_state")) == ("a", "2", None)
    assert (refused["cluster"]["type"], refused["version_info"], refused["client_status"]) == ("EDS", "1", "NACKED")
    error = refused["error_state"]
    assert error["version_info"] == "2"
    assert "CDS b: cluster_type" in error["details"]
    assert error["failed_configuration"]["cluster_type"] == {"name": "aggregate"}
    assert "cluster" not in never
    assert never["error_state"]["failed_configuration"]["name"] == "never"
    (table,) = section(dump, "Routes")["dynamic_route_configs"]
    assert table["route_config"]["name"] == "r"
    assert len(section(dump, "Endpoints")["dynamic_endpoint_configs"]) == 2
    parsed = json_format.ParseDict(json.loads(json.dumps(dump)), config_dump_pb2.ConfigDump())
    assert len(parsed.configs) == 6


def test_a_dump_of_a_mesh_that_is_not_ready_and_of_a_closed_one():
    with meshlib.Mesh.connect("127.0.0.1:1") as mesh:
        assert "dynamic_listeners" not in section(mesh.config_dump(), "Listeners")
    with pytest.raises(meshlib.MeshClosed):
        mesh.config_dump()


def states(response):
    (config,) = response.config
    return {
        (one.type_url, one.name): STATUS.values_by_number[one.client_status].name for one in config.generic_xds_configs
    }


def test_csds_tells_the_state_of_every_resource(steered):
    server, mesh = steered
    del server.resources[ENDPOINT]["b"]
    clusters = {"a": eds_cluster("a"), "b": bad_cluster("b"), "never": bad_cluster("never"), "new": eds_cluster("new")}
    server.update("3", CLUSTER, clusters=clusters)
    with mesh.serve_csds() as csds, grpc.insecure_channel(f"127.0.0.1:{csds.port}") as channel:
        stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
        request = csds_pb2.ClientStatusRequest()
        response = eventually(
            lambda: stub.FetchClientStatus(request, timeout=10), lambda r: (ENDPOINT, "new") in states(r)
        )
        assert {key: value for key, value in states(response).items() if key[0] in (CLUSTER, ENDPOINT)} == {
            (CLUSTER, "a"): "ACKED",
            (CLUSTER, "b"): "NACKED",
            (CLUSTER, "never"): "NACKED",
            (CLUSTER, "new"): "ACKED",
            (ENDPOINT, "a"): "ACKED",
            (ENDPOINT, "b"): "ACKED",
            (ENDPOINT, "new"): "REQUESTED",
        }
        (config,) = response.config
        assert config.node.metadata["NAMESPACE"] == "n"
        by_name = {one.name: one for one in config.generic_xds_configs if one.type_url == CLUSTER}
        kept = RESOURCE_TYPES[CLUSTER].message()
        assert by_name["b"].xds_config.Unpack(kept)
        assert kept == eds_cluster("b")
        assert (by_name["b"].version_info, by_name["b"].error_state.version_info) == ("1", "3")
        assert "cluster_type" in by_name["b"].error_state.details
        assert by_name["b"].last_updated.seconds <= by_name["b"].error_state.last_update_attempt.seconds
        assert not by_name["never"].HasField("xds_config")

        brief = stub.FetchClientStatus(csds_pb2.ClientStatusRequest(exclude_resource_contents=True), timeout=10)
        assert states(brief) == states(response)
        for one in brief.config[0].generic_xds_configs:
            assert not one.HasField("xds_config")
            assert not one.error_state.HasField("failed_configuration")
        assert [states(one) for one in stub.StreamClientStatus(iter([request, request]), timeout=10)] == [
            states(response)
        ] * 2
        with pytest.raises(grpc.RpcError) as refused:
            stub.FetchClientStatus(csds_pb2.ClientStatusRequest(node_matchers=[{}]), timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    csds.close()


def test_csds_on_a_server_of_the_applications_own_tells_what_does_not_exist(ads_server):
    ads = ads_server()
    ads.resources[LISTENER] = {"somewhere:80": api_listener("somewhere:80")}
    bootstrap = {
        "xds_servers": [{"server_uri": ads.address, "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": "me"},
    }
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    with meshlib.Mesh.from_bootstrap(bootstrap) as mesh:
        mesh.add_csds(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                fetch = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel).FetchClientStatus

                def look():
                    return states(fetch(csds_pb2.ClientStatusRequest(), timeout=10))

                mesh.explain("GET", "http://somewhere/")
                assert look() == {(LISTENER, "somewhere:80"): "ACKED"}
                ads.update("2", LISTENER, listeners={})
                eventually(look, lambda found: found == {(LISTENER, "somewhere:80"): "DOES_NOT_EXIST"})
        finally:
            server.stop(None).wait()


def scrape(mesh):
    registry = CollectorRegistry()
    registry.register(mesh.collector)
    lines = generate_latest(registry).decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if line.startswith("grpc_xds_client"))


def test_the_clients_metrics(steered):
    server, mesh = steered
    kind = 'grpc_xds_resource_type="envoy.config.cluster.v3.Cluster"'
    asked = f'grpc_xds_server="{server.address}"'
    found = scrape(mesh)
    assert found[f"grpc_xds_client_connected{{{asked}}}"] == "1.0"
    assert found[f"grpc_xds_client_server_failure_total{{{asked}}}"] == "0.0"
    assert found[f"grpc_xds_client_resource_updates_valid_total{{{kind},{asked}}}"] == "3.0"
    assert found[f"grpc_xds_client_resource_updates_invalid_total{{{kind},{asked}}}"] == "2.0"
    resources = 'grpc_xds_client_resources{grpc_xds_authority="#old",grpc_xds_cache_state='
    counted = {
        key.removeprefix(resources).split('"')[1]: value
        for key, value in found.items()
        if kind in key and resources in key
    }
    assert counted == {"acked": "1.0", "nacked": "1.0", "nacked_but_cached": "1.0"}

    server.stop()
    failed = eventually(lambda: scrape(mesh), lambda f: f[f"grpc_xds_client_connected{{{asked}}}"] == "0.0")
    assert failed[f"grpc_xds_client_server_failure_total{{{asked}}}"] == "1.0"
    time.sleep(2.5)  # another attempt or two fail; the server was not working before them
    assert scrape(mesh)[f"grpc_xds_client_server_failure_total{{{asked}}}"] == "1.0"


def test_a_scrape_neither_starts_a_mesh_nor_fails_with_it(ads_server):
    server = ads_server()
    mesh = meshlib.Mesh.connect(server.address)
    assert scrape(mesh) == {}
    assert not server.requests
    assert not mesh.is_ready


def test_a_static_bootstrap_and_its_file(tmp_path):
    file = tmp_path / "cds.json"
    packed = {"@type": CLUSTER, **json_format.MessageToDict(static_cluster("filed"))}
    file.write_text(json.dumps({"version_info": "7", "resources": [packed]}))
    http = {"@type": HCM, "route_config": {"name": "r"}}
    first = {"name": "l", "address": ADDRESS, "filter_chains": [{"filters": [{"typed_config": http}]}]}
    bootstrap = {
        "node": {"id": "me"},
        "static_resources": {"listeners": [first], "clusters": [json_format.MessageToDict(static_cluster("fixed"))]},
        "dynamic_resources": {"cds_config": {"path_config_source": {"path": str(file)}}},
    }
    with meshlib.Mesh.from_bootstrap(bootstrap) as mesh:
        mesh.wait_ready()
        dump = mesh.config_dump()
    assert section(dump, "Bootstrap")["bootstrap"]["node"]["id"] == "me"
    assert [one["listener"]["name"] for one in section(dump, "Listeners")["static_listeners"]] == ["l"]
    clusters = section(dump, "Clusters")
    assert "fixed" in [one["cluster"]["name"] for one in clusters.get("static_clusters", ())]
    assert [one["cluster"]["name"] for one in clusters["dynamic_active_clusters"]] == ["filed"]
    assert clusters["dynamic_active_clusters"][0]["version_info"] == "7"


def test_a_folder(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    with meshlib.Mesh.from_directory(tmp_path, workload="w", namespace="n") as mesh:
        dump = mesh.config_dump()
    names = [one["cluster"]["name"] for one in section(dump, "Clusters")["dynamic_active_clusters"]]
    assert "PassthroughCluster" in names
    assert section(dump, "Bootstrap")["bootstrap"]["node"]["metadata"]["NAMESPACE"] == "n"


def packed(message):
    found = any_pb2.Any()
    found.Pack(message)
    return found


def of_a_folder(tmp_path, _server):
    (tmp_path / "empty.yaml").write_text("")
    return meshlib.Mesh.from_directory(tmp_path)


def of_a_file(tmp_path, _server):
    file = tmp_path / "lds.json"
    file.write_text(json.dumps({"resources": [json_format.MessageToDict(packed(listener()))]}))
    dynamic = {"lds_config": {"path_config_source": {"path": str(file)}}}
    return meshlib.Mesh.from_bootstrap({"node": {"id": "me"}, "dynamic_resources": dynamic})


def of_a_server(_tmp_path, server):
    return meshlib.Mesh.connect(server.address)


@pytest.mark.parametrize("made", [of_a_folder, of_a_file, of_a_server])
def test_who_is_told_of_a_change_may_look(made, tmp_path, ads_server):
    """The watcher runs where the state is changed: on the publishing thread."""
    mesh, seen = made(tmp_path, ads_server()), []
    stop = mesh.on_change(lambda: seen.append(mesh._source.inventory()))
    with mesh:
        mesh.wait_ready()
        eventually(lambda: seen, bool)
        stop()


def test_a_closed_client_answers_at_once(ads_server):
    with meshlib.Mesh.connect(ads_server().address) as mesh:
        mesh.wait_ready()
    with mesh.serve_csds() as csds, grpc.insecure_channel(csds.address) as channel:
        fetch = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel).FetchClientStatus
        with pytest.raises(grpc.RpcError) as error:
            fetch(csds_pb2.ClientStatusRequest(), timeout=4)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "closed" in error.value.details()
    assert scrape(mesh) == {}


def test_a_version_that_waits_is_warming():
    assembly = Assembly(Style.SIDECAR, wildcards={LISTENER, CLUSTER})
    assembly.offer(LISTENER, "1", [pack(LISTENER, listener())])
    assembly.offer(CLUSTER, "1", [pack(CLUSTER, static_cluster())])
    assembly.offer(CLUSTER, "2", [pack(CLUSTER, eds_cluster("c"))])
    dump = as_json(inventory(assembly, base_pb2.Node(id="me")))
    (active,) = section(dump, "Clusters")["dynamic_active_clusters"]
    (warming,) = section(dump, "Clusters")["dynamic_warming_clusters"]
    assert active["cluster"].get("type", "STATIC") == "STATIC"
    assert (warming["cluster"]["type"], warming["version_info"]) == ("EDS", "2")
    (waiting,) = section(dump, "Listeners")["dynamic_listeners"]
    assert "active_state" not in waiting
    assert waiting["warming_state"]["listener"]["name"] == "l"


SECRETS = {
    "tls_certificates": [
        {"certificate_chain": {"inline_string": "public"}, "private_key": {"inline_string": "hidden key"}},
        {
            "private_key": {"inline_bytes": base64.b64encode(b"hidden bytes").decode()},
            "password": {"inline_string": "hidden word"},
        },
    ]
}


def test_secrets_are_blotted_out_in_good_and_in_refused_resources():
    socket = {"name": "tls", "typed_config": {"@type": TLS, "common_tls_context": SECRETS}}
    assembly = Assembly(Style.SIDECAR)
    refused = resource(CLUSTER, name="b", cluster_type={"name": "aggregate"}, transport_socket=socket)
    good = static_cluster("a", transport_socket_matches=[{"name": "m", "match": {}, "transport_socket": socket}])
    assembly.offer(CLUSTER, "1", [pack(CLUSTER, refused), pack(CLUSTER, good)])
    found = inventory(assembly, base_pb2.Node())
    assert {one.name for one in found.resources} == {"a", "b"}
    assert b"hidden" not in config_dump(found).SerializeToString()
    text = json.dumps(as_json(found))
    assert "hidden" not in text
    assert base64.b64encode(b"hidden bytes").decode() not in text
    assert text.count('"[redacted]"') == 2 * text.count('"public"') > 0
    assert base64.b64encode(b"[redacted]").decode() in text


def test_what_nobody_can_read_is_named_and_nothing_else():
    strange = any_pb2.Any(type_url="type.googleapis.com/acme.Secret", value=b"hidden")
    cluster = static_cluster()
    cluster.metadata.typed_filter_metadata["acme"].CopyFrom(strange)
    broken = any_pb2.Any(type_url=CLUSTER, value=b"\xff hidden")
    cluster.metadata.typed_filter_metadata["broken"].CopyFrom(broken)
    found = shown(pack(CLUSTER, cluster))
    assert b"hidden" not in found.SerializeToString()
    metadata = json_format.MessageToDict(found)["metadata"]["typedFilterMetadata"]
    assert (metadata["acme"]["typeUrl"], metadata["acme"]["value"]["bytes"]) == ("type.googleapis.com/acme.Secret", 6)
    assert metadata["broken"]["typeUrl"] == CLUSTER
    assert json_format.MessageToDict(shown(b"\xff\xff"))["value"]["bytes"] == 2
