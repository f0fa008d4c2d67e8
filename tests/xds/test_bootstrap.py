"""Bootstraps: both kinds, and what is wrong with one, in words."""

import json

import pytest

from meshlib.errors import BootstrapError
from meshlib.model.snapshot import Style
from meshlib.settings import Identity
from meshlib.xds.assembly import Assembly
from meshlib.xds.bootstrap import Server, for_address, from_env, load
from meshlib.xds.type_urls import CLUSTER, LISTENER

EXT = "type.googleapis.com/envoy.extensions."
INSECURE = [{"type": "insecure"}]


def grpc_bootstrap(**fields):
    server = {"server_uri": "istiod:15010", "channel_creds": INSECURE}
    return {"xds_servers": [server], "node": {"id": "me", "metadata": {"A": {"b": [1]}}}, **fields}


ENVOY_YAML = """
node: {id: me, cluster: mine}
static_resources:
  listeners:
  - address:
      socket_address: {address: 0.0.0.0, port_value: 8080}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          http_filters:
          - name: cors
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            name: local
            virtual_hosts:
            - name: catalog
              domains: ["*"]
              routes:
              - match: {prefix: /}
                route: {cluster: catalog, timeout: 0.5s}
  clusters:
  - name: catalog
    type: STATIC
    load_assignment:
      cluster_name: catalog
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 3000}}}
"""


def xds_cluster(address="127.0.0.1", **fields):
    socket = {"socket_address": {"address": address, "port_value": 15010}}
    groups = [{"lb_endpoints": [{"endpoint": {"address": socket}}]}]
    assignment = {"cluster_name": "xds", "endpoints": groups}
    return {"name": "xds", "type": "STATIC", "load_assignment": assignment, **fields}


def with_ads(cluster=None, ads=None, **dynamic):
    ads = ads or {"api_type": "GRPC", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}
    return {
        "node": {"id": "me", "cluster": "mine"},
        "static_resources": {"clusters": [cluster or xds_cluster()]},
        "dynamic_resources": {"ads_config": ads, "lds_config": {"ads": {}}, "cds_config": {"ads": {}}, **dynamic},
    }


def test_grpc_s_own():
    found = load(grpc_bootstrap())
    assert found.servers == (Server("istiod:15010"),)
    assert found.style is Style.GRPC
    assert found.wildcards == frozenset()
    assert found.node.id == "me"
    assert found.node.metadata["A"]["b"][0] == 1
    assert found.node.user_agent_name == "", "the node goes out as it is"


@pytest.mark.parametrize("generator", ["grpc", "other"])
def test_a_grpc_bootstrap_is_grpc_style_whatever_its_generator(generator):
    assert load(grpc_bootstrap(node={"id": "x", "metadata": {"GENERATOR": generator}})).style is Style.GRPC


def test_what_is_not_honoured_is_said(caplog):
    server = {"server_uri": "a:1", "channel_creds": INSECURE, "server_features": ["xds_v3", "b", "a"], "x": 1}
    found = load(grpc_bootstrap(xds_servers=[server], client_side={}))
    assert found.servers == (Server("a:1", features=frozenset({"xds_v3"})),)
    assert [r.getMessage() for r in caplog.records] == [
        "bootstrap=bootstrap not honoured: client_side",
        "bootstrap=bootstrap: xds_servers[0] not honoured: x",
        "bootstrap=bootstrap: xds_servers[0].server_features not honoured: a, b",
    ]


def test_the_first_credentials_that_are_supported_count():
    server = {"server_uri": "unix:///etc/istio/proxy/XDS", "channel_creds": [{"type": "google_default"}, *INSECURE]}
    assert load(grpc_bootstrap(xds_servers=[server])).servers == (Server("unix:///etc/istio/proxy/XDS"),)


def test_envoy_s_static_in_yaml(tmp_path):
    path = tmp_path / "envoy.yaml"
    path.write_text(ENVOY_YAML)
    found = load(path)
    assert (found.style, found.servers) == (Style.STATIC, ())
    assert list(found.static[LISTENER]) == ["0.0.0.0_8080"], "Envoy makes up a name, too"
    assembly = Assembly(found.style)
    assert assembly.apply("static", found.static) == ()
    snapshot = assembly.snapshot()
    for port in (80, 8080):
        assert snapshot.destination("anything", port).routes.name == "local"
    assert str(snapshot.clusters["catalog"].assignment.localities[0].endpoints[0]) == "127.0.0.1:3000"


def test_envoy_s_with_ads(tmp_path):
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(with_ads()))
    found = load(str(path))
    assert found.servers == (Server("127.0.0.1:15010", delta=False),)
    assert found.style is Style.SIDECAR
    assert found.wildcards == {LISTENER, CLUSTER}
    assert list(found.static[CLUSTER]) == ["xds"]


@pytest.mark.parametrize(
    ("data", "address"),
    [
        (with_ads(xds_cluster("::1")), "[::1]:15010"),
        (with_ads(xds_cluster("istiod.local", type="STRICT_DNS")), "istiod.local:15010"),
        (with_ads(ads={"api_type": "GRPC", "grpc_services": [{"google_grpc": {"target_uri": "a:1"}}]}), "a:1"),
    ],
)
def test_where_ads_is(data, address):
    assert load(data).servers == (Server(address, delta=False),)


def test_a_unix_socket_of_envoy_s():
    pipe = {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "/run/xds"}}}}]}
    cluster = {"name": "xds", "type": "STATIC", "load_assignment": {"cluster_name": "xds", "endpoints": [pipe]}}
    assert load(with_ads(cluster)).servers == (Server("unix:///run/xds", delta=False),)


def test_only_what_is_configured_is_asked_for_whole():
    data = with_ads()
    del data["dynamic_resources"]["lds_config"]
    assert load(data).wildcards == {CLUSTER}


def test_camel_case_is_as_good():
    data = with_ads()
    dynamic = data.pop("dynamic_resources")
    data["staticResources"] = data.pop("static_resources")
    data["dynamicResources"] = {"adsConfig": dynamic["ads_config"], "ldsConfig": dynamic["lds_config"]}
    assert load(data).servers == (Server("127.0.0.1:15010", delta=False),)


TLS = {"name": "tls", "typed_config": {"@type": EXT + "transport_sockets.tls.v3.UpstreamTlsContext"}}
NO_SUCH_FILTER = {"typed_config": {"@type": "type.googleapis.com/no.Such"}}
XDS = "dynamic_resources.ads_config"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "is no bootstrap: expected xds_servers (gRPC's), or static_resources or dynamic_resources (Envoy's)"),
        (grpc_bootstrap(xds_servers=[]), "xds_servers: expected at least one server"),
        (grpc_bootstrap(xds_servers={}), "xds_servers: expected a list, not {}"),
        (grpc_bootstrap(xds_servers=[1]), "xds_servers[0]: expected a mapping, not 1"),
        (
            grpc_bootstrap(xds_servers=[{"channel_creds": INSECURE}]),
            "xds_servers[0].server_uri: expected a string, not None",
        ),
        (
            grpc_bootstrap(xds_servers=[{"server_uri": "istiod", "channel_creds": INSECURE}]),
            "xds_servers[0].server_uri: 'istiod' is no address: expected host:port, [ipv6]:port or unix:///path",
        ),
        (
            grpc_bootstrap(xds_servers=[{"server_uri": "a:1", "channel_creds": [{"type": "google_default"}]}]),
            "xds_servers[0].channel_creds: 'google_default' is not supported: expected type 'insecure' or 'tls'",
        ),
        (
            grpc_bootstrap(xds_servers=[{"server_uri": "a:1"}]),
            "xds_servers[0].channel_creds: none is not supported: expected type 'insecure' or 'tls'",
        ),
        (grpc_bootstrap(node={"id": 1}), "node: Failed to parse id field"),
        (grpc_bootstrap(node={"ids": "x"}), 'node: Message type "envoy.config.core.v3.Node" has no field named "ids"'),
        (grpc_bootstrap(node=[]), "node: expected a mapping, not []"),
        (
            {"static_resources": {"clusters": []}},
            "has neither static_resources.listeners nor dynamic_resources.lds_config: nothing would be routed",
        ),
        ({"static_resources": {"listeners": [{"nam": 1}]}}, "static_resources.listeners[0]: Message type"),
        (
            {
                "static_resources": {
                    "listeners": [{"filter_chains": [{"filters": [{"typed_config": {"@type": "x/no.Such"}}]}]}]
                }
            },
            "static_resources.listeners[0]: Failed to parse filter_chains field",
        ),
        (
            {"static_resources": {"clusters": [{"name": "a"}, {"name": "a"}]}},
            "static_resources.clusters[1].name: 'a' is there twice",
        ),
        (with_ads() | {"node": {}}, "node.id: expected the name of this client, which the server asks for"),
        (
            with_ads(lds_config={"api_config_source": {"api_type": "GRPC"}}),
            "dynamic_resources.lds_config: api_config_source is not supported: expected ads or path_config_source",
        ),
        (
            with_ads() | {"dynamic_resources": {"cds_config": {"ads": {}}}},
            "dynamic_resources: expected ads_config, which lds_config or cds_config refers to by ads",
        ),
        (with_ads(ads={"api_type": "REST"}), f"{XDS}.api_type: REST is not supported: expected GRPC or DELTA_GRPC"),
        (with_ads(ads={"api_type": "GRPC"}), f"{XDS}.grpc_services: expected envoy_grpc or google_grpc"),
        (
            with_ads(ads={"api_type": "GRPC", "grpc_services": [{"envoy_grpc": {"cluster_name": "no"}}]}),
            f"{XDS}.grpc_services[0].envoy_grpc.cluster_name: 'no' is not among static_resources.clusters (xds)",
        ),
        (
            with_ads(xds_cluster(transport_socket=TLS)),
            f"{XDS}.grpc_services[0].envoy_grpc.cluster_name: cluster 'xds': transport_socket.common_tls_context."
            "validation_context: expected trusted_ca or system_root_certs: any server would be believed",
        ),
        (
            with_ads({"name": "xds", "type": "STATIC"}),
            f"{XDS}.grpc_services[0].envoy_grpc.cluster_name: cluster 'xds' has no endpoint in its load_assignment",
        ),
        (
            with_ads(xds_cluster(connect_timeout="0s")),
            f"{XDS}.grpc_services[0].envoy_grpc.cluster_name: CDS xds: connect_timeout: must be more than 0s",
        ),
    ],
)
def test_what_is_wrong_says_where_and_what_was_expected(data, message):
    with pytest.raises(BootstrapError) as caught:
        load(data)
    assert str(caught.value).startswith(f"bootstrap: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", ":1:5: is neither JSON nor YAML: expected the node content, but found '<stream end>'"),
        ("- 1", ": expected a mapping, not [1]"),
        ("", ": expected a mapping, not None"),
    ],
)
def test_a_file_that_is_none_is_named_with_line_and_column(tmp_path, text, message):
    path = tmp_path / "b.yaml"
    path.write_text(text)
    with pytest.raises(BootstrapError) as caught:
        load(path)
    assert str(caught.value) == f"{path}{message}"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BootstrapError, match=r"none.json: cannot be read: .*No such file"):
        load(tmp_path / "none.json")


def test_the_environment(tmp_path):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(grpc_bootstrap()))
    inline = json.dumps(grpc_bootstrap(xds_servers=[{"server_uri": "inline:1", "channel_creds": INSECURE}]))
    assert from_env({}) is None
    assert from_env({"GRPC_XDS_BOOTSTRAP_CONFIG": inline}).servers == (Server("inline:1"),)
    both = {"GRPC_XDS_BOOTSTRAP": str(path), "GRPC_XDS_BOOTSTRAP_CONFIG": inline}
    assert from_env(both).servers == (Server("istiod:15010"),)
    with pytest.raises(BootstrapError, match=r"^GRPC_XDS_BOOTSTRAP_CONFIG:1:2: is neither"):
        from_env({"GRPC_XDS_BOOTSTRAP_CONFIG": "{]"})


def test_an_address_and_who_we_are():
    identity = Identity(
        "webapp", "istioinaction", {"version": "v1"}, "sa", "10.1.1.1", "Kubernetes", "mesh1", pod="webapp-x"
    )
    found = for_address("127.0.0.1:15010", identity)
    assert found.servers == (Server("127.0.0.1:15010"),)
    assert (found.style, found.wildcards) == (Style.SIDECAR, {LISTENER, CLUSTER})
    assert found.node.id == "sidecar~10.1.1.1~webapp-x.istioinaction~istioinaction.svc.cluster.local"
    assert found.node.cluster == "webapp.istioinaction"
    metadata = found.node.metadata
    assert "GENERATOR" not in metadata
    assert dict(metadata["LABELS"]) == {"app": "webapp", "version": "v1"}
    assert {key: metadata[key] for key in metadata if key not in ("LABELS", "ISTIO_VERSION")} == {
        "NAME": "webapp-x",
        "NAMESPACE": "istioinaction",
        "INSTANCE_IPS": "10.1.1.1",
        "CLUSTER_ID": "Kubernetes",
        "MESH_ID": "mesh1",
        "SERVICE_ACCOUNT": "sa",
        "WORKLOAD_NAME": "webapp",
    }


@pytest.mark.parametrize("address", ["", "istiod", "http://istiod:15010", "istiod:x", ":1", "::1:80", "a:0", "a:70000"])
def test_an_address_that_is_none(address):
    with pytest.raises(BootstrapError, match="is no address: expected host:port"):
        for_address(address, Identity())


@pytest.mark.parametrize("address", ["a:1", "[::1]:80", "unix:///x", "dns:///a:1"])
def test_addresses(address):
    assert for_address(address, Identity()).servers == (Server(address),)
