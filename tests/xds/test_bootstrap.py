"""Bootstraps: both kinds, and what is wrong with one, in words."""

import json

import pytest

from meshlib.errors import BootstrapError
from meshlib.model.endpoint import Locality
from meshlib.model.names import listener_name
from meshlib.model.snapshot import Home, Style
from meshlib.settings import Identity
from meshlib.xds.assembly import Assembly
from meshlib.xds.bootstrap import Server, for_address, from_env, load
from meshlib.xds.bootstrap_parts import Authority, CertificateFiles, PathSource
from meshlib.xds.credentials import Insecure, Local, Pem, Tls, Token
from meshlib.xds.type_urls import CLUSTER, LISTENER, NAME_TABLE

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


def test_where_this_process_is():
    data = {
        "node": {"id": "n", "locality": {"region": "r", "zone": "z", "sub_zone": "s"}},
        "cluster_manager": {"local_cluster_name": "callers"},
        "static_resources": {"listeners": [{"name": "l"}]},
    }
    assert load(data).home == Home(Locality("r", "z", "s"), "callers")


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
    assert (found.style, found.wildcards) == (Style.SIDECAR, {LISTENER, CLUSTER, NAME_TABLE})
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


# gRPC's bootstrap: TLS, tokens, authorities, templates, certificate providers.

TLS_FILES = {"certificate_file": "/c", "private_key_file": "/k", "ca_certificate_file": "/r"}


def grpc_server(*creds, **fields):
    return {"server_uri": "istiod:15012", "channel_creds": list(creds)} | fields


@pytest.mark.parametrize(
    ("server", "credentials"),
    [
        (grpc_server({"type": "tls"}), Tls()),
        (
            grpc_server({"type": "tls", "config": {**TLS_FILES, "refresh_interval": "1.5s"}}),
            Tls(Pem("/r"), Pem("/c"), Pem("/k")),
        ),
        (grpc_server({"type": "alts"}, {"type": "tls", "config": {}}, {"type": "insecure"}), Tls()),
        (grpc_server({"type": "insecure"}, {"type": "tls"}), Insecure()),
        (
            grpc_server(
                {"type": "tls"},
                call_creds=[{"type": "other"}, {"type": "jwt_token_file", "config": {"jwt_token_file": "/t"}}],
            ),
            Tls(token=Token("/t")),
        ),
    ],
)
def test_grpc_s_credentials(server, credentials):
    assert load(grpc_bootstrap(xds_servers=[server])).servers == (Server("istiod:15012", credentials),)


def test_several_servers_are_kept_in_order_with_their_features():
    features = ["ignore_resource_deletion", "trusted_xds_server"]
    first = {"server_uri": "a:1", "channel_creds": INSECURE, "server_features": features}
    second = {"server_uri": "b:1", "channel_creds": INSECURE}
    found = load(grpc_bootstrap(xds_servers=[first, second]))
    assert found.servers == (Server("a:1", features=frozenset(features)), Server("b:1"))


def test_authorities():
    own = [{"server_uri": "other:1", "channel_creds": INSECURE}]
    found = load(
        grpc_bootstrap(
            authorities={
                "a.com": {},
                "b.com": {"xds_servers": own, "client_listener_resource_name_template": "xdstp://b.com/L/%s?p=1"},
                "": {},
            },
            client_default_listener_resource_name_template="xdstp://a.com/envoy.config.listener.v3.Listener/%s",
            server_listener_resource_name_template="xdstp:///envoy.config.listener.v3.Listener/%s",
        )
    )
    listener = "envoy.config.listener.v3.Listener/%s"
    assert found.authorities == {
        "a.com": Authority(found.servers, f"xdstp://a.com/{listener}"),
        "b.com": Authority((Server("other:1"),), "xdstp://b.com/L/%s?p=1"),
        "": Authority(found.servers, f"xdstp:///{listener}"),
    }
    assert found.listener_template == f"xdstp://a.com/{listener}"
    assert found.server_listener_template == f"xdstp:///{listener}"


@pytest.mark.parametrize(
    ("template", "target", "name"),
    [
        ("%s", "catalog:80", "catalog:80"),
        ("x/%s/%s", "a b", "x/a b/a b"),
        ("fixed", "catalog:80", "fixed"),
        ("xdstp://a/L/%s", "catalog.ns:80", "xdstp://a/L/catalog.ns:80"),
        ("xdstp://a/L/%s?x=%s", "[::1]:80", "xdstp://a/L/%5B::1%5D:80?x=%5B::1%5D:80"),
        ("xdstp://a/L/%s", "a/b?c#d%e é", "xdstp://a/L/a/b%3Fc%23d%25e%20%C3%A9"),
        ("xdstp:L/%s", "a:@!$&'()*+,;=-._~", "xdstp:L/a:@!$&'()*+,;=-._~"),
    ],
)
def test_names_by_template(template, target, name):
    assert listener_name(template, target) == name


def test_certificate_providers(caplog):
    providers = {
        "default": {"plugin_name": "file_watcher", "config": {**TLS_FILES, "refresh_interval": "900s"}},
        "ca": {"plugin_name": "file_watcher", "config": {"ca_certificate_file": "/r"}},
        "other": {"plugin_name": "mine"},
    }
    found = load(grpc_bootstrap(certificate_providers=providers))
    assert found.certificate_providers == {
        "default": CertificateFiles("/c", "/k", "/r", 900.0),
        "ca": CertificateFiles(ca_certificate_file="/r", refresh_interval=600.0),
    }
    assert "certificate_providers['other'] not honoured: plugin_name 'mine'" in caplog.text


def tls_config(**config):
    return grpc_bootstrap(xds_servers=[grpc_server({"type": "tls", "config": config})])


CREDS = "xds_servers[0].channel_creds[0].config"
JWT = {"type": "jwt_token_file", "config": {"jwt_token_file": "/t"}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            tls_config(certificate_file="/c"),
            f"{CREDS}: expected both certificate_file and private_key_file, or neither",
        ),
        (
            tls_config(private_key_file="/k"),
            f"{CREDS}: expected both certificate_file and private_key_file, or neither",
        ),
        (tls_config(ca_certificate_file=1), f"{CREDS}.ca_certificate_file: expected a string, not 1"),
        (tls_config(spiffe_trust_bundle_map_file="/s"), f"{CREDS}.spiffe_trust_bundle_map_file: is not supported"),
        (
            tls_config(refresh_interval="soon"),
            f"{CREDS}.refresh_interval: expected a duration like \"600s\", not 'soon'",
        ),
        (tls_config(refresh_interval="0s"), f"{CREDS}.refresh_interval: expected more than 0s, not '0s'"),
        (tls_config(refresh_interval=6), f"{CREDS}.refresh_interval: expected a string, not 6"),
        (
            grpc_bootstrap(xds_servers=[grpc_server({"type": "tls"}, server_uri="unix:///x")]),
            f"{CREDS}: TLS to a unix socket",
        ),
        (
            grpc_bootstrap(xds_servers=[grpc_server({"type": "insecure"}, call_creds=[JWT])]),
            "xds_servers[0].channel_creds[0]: insecure: the token of call_creds is never sent in plaintext",
        ),
        (
            grpc_bootstrap(xds_servers=[grpc_server({"type": "tls"}, call_creds=[JWT, JWT])]),
            "xds_servers[0].call_creds: expected one token, not 2",
        ),
        (
            grpc_bootstrap(authorities={"a": {"client_listener_resource_name_template": "xdstp://b/%s"}}),
            "authorities['a'].client_listener_resource_name_template: 'xdstp://b/%s' must start with 'xdstp://a/'",
        ),
        (
            grpc_bootstrap(authorities={"a": {}}, client_default_listener_resource_name_template="xdstp://b/%s"),
            "client_default_listener_resource_name_template: authority 'b' is not among authorities ('a')",
        ),
        (
            grpc_bootstrap(server_listener_resource_name_template="xdstp:/L/%s"),
            "server_listener_resource_name_template: authority '' is not among authorities (none)",
        ),
        (
            grpc_bootstrap(certificate_providers={"a": {"plugin_name": "file_watcher", "config": {}}}),
            "certificate_providers['a'].config: expected certificate_file or ca_certificate_file",
        ),
    ],
)
def test_what_a_grpc_bootstrap_may_not_say(data, message):
    with pytest.raises(BootstrapError) as caught:
        load(data)
    assert str(caught.value).startswith(f"bootstrap: {message}")


# Envoy's bootstrap: TLS to the server, tokens, several servers, files.


def tls_socket(**context):
    typed = {"@type": EXT + "transport_sockets.tls.v3.UpstreamTlsContext", **context}
    return {"transport_socket": {"name": "tls", "typed_config": typed}}


def validation(**fields):
    return {"common_tls_context": {"validation_context": {"trusted_ca": {"filename": "/r"}, **fields}}}


def typed_san(kind, **matcher):
    return {"san_type": kind, "matcher": matcher}


@pytest.mark.parametrize(
    ("context", "credentials"),
    [
        (validation() | {"sni": "istiod.svc"}, Tls(Pem("/r"), server_name="istiod.svc")),
        (validation(trusted_ca={"inline_string": "PEM"}), Tls(Pem(inline=b"PEM"))),
        ({"common_tls_context": {"validation_context": {"system_root_certs": {}}}}, Tls()),
        (validation(match_typed_subject_alt_names=[typed_san("DNS", exact="a")]), Tls(Pem("/r"), server_name="a")),
        (
            validation(match_subject_alt_names=[{"exact": "a"}, {"exact": "b"}]) | {"sni": "b"},
            Tls(Pem("/r"), server_name="b"),
        ),
        (
            {
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_params": {
                        "tls_minimum_protocol_version": "TLSv1_2",
                        "tls_maximum_protocol_version": "TLSv1_3",
                    },
                    "tls_certificates": [
                        {"certificate_chain": {"filename": "/c"}, "private_key": {"inline_bytes": "a2V5"}}
                    ],
                    "validation_context": {"trusted_ca": {"filename": "/r"}},
                }
            },
            Tls(Pem("/r"), Pem("/c"), Pem(inline=b"key")),
        ),
    ],
)
def test_tls_of_envoy_s_cluster(context, credentials):
    assert load(with_ads(xds_cluster(**tls_socket(**context)))).servers == (
        Server("127.0.0.1:15010", credentials, delta=False),
    )


def google(**fields):
    service = {"google_grpc": {"target_uri": "a:1", "stat_prefix": "x", **fields}}
    return with_ads(ads={"api_type": "DELTA_GRPC", "grpc_services": [service]})


SSL = {"ssl_credentials": {"root_certs": {"filename": "/r"}}}
FILE_TOKEN = {
    "from_plugin": {
        "name": "envoy.grpc_credentials.file_based_metadata",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.grpc_credential.v3.FileBasedMetadataConfig",
            "secret_data": {"filename": "/var/run/secrets/tokens/istio-token"},
            "header_prefix": "Bearer ",
            "header_key": "Authorization",
        },
    }
}


@pytest.mark.parametrize(
    ("data", "credentials"),
    [
        (google(), Insecure()),
        (google(channel_credentials={"local_credentials": {}}), Local()),
        (google(channel_credentials=SSL), Tls(Pem("/r"))),
        (google(channel_credentials={"ssl_credentials": {}}), Tls()),
        (
            google(channel_credentials=SSL, call_credentials=[{"access_token": "secret"}]),
            Tls(Pem("/r"), token=Token(inline="secret")),
        ),
        (
            google(
                channel_credentials=SSL,
                call_credentials=[FILE_TOKEN],
                credentials_factory_name="envoy.grpc_credentials.file_based_metadata",
            ),
            Tls(Pem("/r"), token=Token("/var/run/secrets/tokens/istio-token")),
        ),
    ],
)
def test_google_grpc_s_credentials(data, credentials):
    assert load(data).servers == (Server("a:1", credentials, delta=True),)


def test_several_services_and_their_metadata():
    metadata = [{"key": "X-Tenant", "value": "one"}]
    services = [
        {"google_grpc": {"target_uri": "a:1", "stat_prefix": "x"}, "initial_metadata": metadata},
        {"envoy_grpc": {"cluster_name": "xds"}},
    ]
    found = load(with_ads(ads={"api_type": "GRPC", "grpc_services": services}))
    assert found.servers == (
        Server("a:1", delta=False, metadata=(("x-tenant", "one"),)),
        Server("127.0.0.1:15010", delta=False),
    )


def test_secrets_are_not_printed():
    data = google(
        channel_credentials={
            "ssl_credentials": {"cert_chain": {"inline_string": "c"}, "private_key": {"inline_string": "SECRET-1"}}
        },
        call_credentials=[{"access_token": "SECRET-2"}],
    )
    data["dynamic_resources"]["ads_config"]["grpc_services"][0]["initial_metadata"] = [
        {"key": "authorization", "value": "SECRET-3"}
    ]
    found = load(data)
    assert "SECRET" in found.servers[0].credentials.private_key.inline.decode()
    assert "SECRET" not in repr(found)


def test_files_of_envoy_s(caplog):
    path = {"path_config_source": {"path": "/etc/lds.yaml", "watched_directory": {"path": "/etc/x"}}}
    data = with_ads(lds_config={**path, "initial_fetch_timeout": "0s", "resource_api_version": "V3"})
    found = load(data)
    assert found.files == {LISTENER: PathSource("/etc/lds.yaml", "/etc/x")}
    assert (found.style, found.wildcards) == (Style.SIDECAR, {CLUSTER})
    assert caplog.text == ""
    only = load({"dynamic_resources": {"lds_config": path, "cds_config": {"path": "/etc/cds.yaml"}}})
    assert only.files[CLUSTER] == PathSource("/etc/cds.yaml")
    assert (only.style, only.servers) == (Style.STATIC, ())
    load(with_ads(lds_config={"ads": {}, "initial_fetch_timeout": "5s"}))
    assert "lds_config not honoured: initial_fetch_timeout" in caplog.text


CLUSTER_TLS = f"{XDS}.grpc_services[0].envoy_grpc.cluster_name: cluster 'xds': transport_socket"
VALIDATION = f"{CLUSTER_TLS}.common_tls_context.validation_context"
GOOGLE = f"{XDS}.grpc_services[0].google_grpc"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            with_ads(xds_cluster(**tls_socket(**validation(verify_certificate_hash=["00"])))),
            f"{VALIDATION}.verify_certificate_hash: cannot be honoured",
        ),
        (
            with_ads(
                xds_cluster(
                    **tls_socket(**validation(match_typed_subject_alt_names=[typed_san("URI", exact="spiffe://a")]))
                )
            ),
            f"{VALIDATION}.match_typed_subject_alt_names[0].san_type: gRPC checks DNS names and IP addresses alone",
        ),
        (
            with_ads(xds_cluster(**tls_socket(**validation(match_subject_alt_names=[{"exact": "spiffe://a"}])))),
            f"{VALIDATION}: gRPC checks DNS names and IP addresses alone, not spiffe://a",
        ),
        (
            with_ads(xds_cluster(**tls_socket(**validation(match_subject_alt_names=[{"prefix": "a"}])))),
            f"{VALIDATION}.match_subject_alt_names[0]: gRPC cannot check patterns: expected exact",
        ),
        (
            with_ads(xds_cluster(**tls_socket(**validation(match_subject_alt_names=[{"exact": "a"}]), sni="b"))),
            f"{VALIDATION}: gRPC checks the certificate for one name, which is the SNI: b is not among a",
        ),
        (
            with_ads(
                xds_cluster(
                    **tls_socket(common_tls_context={"validation_context_sds_secret_config": {"name": "ROOTCA"}})
                )
            ),
            f"{CLUSTER_TLS}.common_tls_context.validation_context_sds_secret_config: cannot be honoured",
        ),
        (
            with_ads(
                xds_cluster(
                    **tls_socket(common_tls_context={"tls_params": {"tls_minimum_protocol_version": "TLSv1_3"}})
                )
            ),
            f"{CLUSTER_TLS}.common_tls_context.tls_params.tls_minimum_protocol_version: gRPC speaks TLS 1.2 and 1.3",
        ),
        (
            with_ads(xds_cluster(**tls_socket(**validation(trusted_ca={"environment_variable": "NO_SUCH_PEM"})))),
            f"{VALIDATION}.trusted_ca.environment_variable: NO_SUCH_PEM is not set",
        ),
        (
            with_ads(xds_cluster(transport_socket_matches=[{"name": "a", **tls_socket(**validation())}])),
            f"{CLUSTER_TLS}_matches: is not supported here: expected transport_socket",
        ),
        (
            google(call_credentials=[{"access_token": "x"}]),
            f"{GOOGLE}.call_credentials: a token is never sent in plaintext",
        ),
        (
            google(channel_credentials=SSL, call_credentials=[{"google_compute_engine": {}}]),
            f"{GOOGLE}.call_credentials[0]: google_compute_engine is not supported",
        ),
        (
            google(channel_credentials={"google_default": {}}),
            f"{GOOGLE}.channel_credentials: google_default is not supported",
        ),
        (
            google(channel_credentials={"ssl_credentials": {"private_key": {"filename": "/k"}}}),
            f"{GOOGLE}.channel_credentials.ssl_credentials: expected both cert_chain and private_key, or neither",
        ),
        (google(credentials_factory_name="mine"), f"{GOOGLE}.credentials_factory_name: mine is not supported"),
        (
            with_ads(lds_config={"path_config_source": {}, "resource_api_version": "V2"}),
            "dynamic_resources.lds_config.resource_api_version: V2 is gone: expected V3",
        ),
        (
            with_ads(lds_resources_locator="xdstp://a/b"),
            "dynamic_resources.lds_resources_locator: is not supported: expected lds_config",
        ),
    ],
)
def test_what_envoy_s_bootstrap_may_not_say(data, message):
    with pytest.raises(BootstrapError) as caught:
        load(data)
    assert str(caught.value).startswith(f"bootstrap: {message}")
