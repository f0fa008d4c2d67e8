"""An address and the environment of an Istio pod: the node, and istiod's TLS as its agent finds it."""

import json
import logging

import pytest

from meshlib.errors import BootstrapError, ConfigError
from meshlib.model.snapshot import Style
from meshlib.settings import Identity, discovery_address, identity_from_env
from meshlib.xds.bootstrap import Security, Server, Surroundings, for_address
from meshlib.xds.credentials import Insecure, Local, Pem, Tls, Token

ISTIOD = "istiod.istio-system.svc:15012"
ROOT = "var/run/secrets/istio/root-cert.pem"
MOUNTED = "etc/certs/root-cert.pem"
TOKEN = "var/run/secrets/tokens/istio-token"
ACCOUNT = "var/run/secrets/kubernetes.io/serviceaccount"

# What the injector gives a container, but for what only a real pod has.
INJECTED = {
    "PILOT_CERT_PROVIDER": "istiod",
    "CA_ADDR": ISTIOD,
    "POD_NAME": "webapp-7d9-x",
    "POD_NAMESPACE": "istioinaction",
    "INSTANCE_IP": "10.1.2.3",
    "SERVICE_ACCOUNT": "webapp",
    "HOST_IP": "192.168.0.1",
    "PROXY_CONFIG": "{}\n",
    "ISTIO_META_CLUSTER_ID": "Kubernetes",
    "ISTIO_META_INTERCEPTION_MODE": "REDIRECT",
    "ISTIO_META_WORKLOAD_NAME": "webapp",
    "ISTIO_META_OWNER": "kubernetes://apis/apps/v1/namespaces/istioinaction/deployments/webapp",
    "ISTIO_META_MESH_ID": "mesh1",
    "ISTIO_METAJSON_ANNOTATIONS": '{"a/b": "c"}',
    "TRUST_DOMAIN": "example.org",
}
LABELS = 'app="webapp"\npod-template-hash="7d9"\nversion="v1"\nistio-locality="us-west1.zone-a.rack"\n'


@pytest.fixture
def put(tmp_path):
    def write(path, text="x"):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return str(file)

    return write


def test_the_node_of_an_injected_pod(tmp_path, put):
    put("etc/istio/pod/labels", LABELS)
    put(ROOT)
    put(TOKEN)
    identity = identity_from_env(INJECTED, tmp_path)
    assert discovery_address(INJECTED, identity) == ISTIOD
    found = for_address(ISTIOD, identity, around=Surroundings(INJECTED, tmp_path))
    assert found.servers == (Server(ISTIOD, Tls(Pem(str(tmp_path / ROOT)), token=Token(str(tmp_path / TOKEN)))),)
    assert found.style is Style.SIDECAR
    node = found.node
    assert node.id == "sidecar~10.1.2.3~webapp-7d9-x.istioinaction~istioinaction.svc.cluster.local"
    assert (node.locality.region, node.locality.zone, node.locality.sub_zone) == ("us-west1", "zone-a", "rack")
    metadata = node.metadata
    assert dict(metadata["LABELS"]) == {"app": "webapp", "version": "v1", "istio-locality": "us-west1.zone-a.rack"}
    assert {key: metadata[key] for key in ("INTERCEPTION_MODE", "MESH_ID", "NAMESPACE", "SERVICE_ACCOUNT", "a/b")} == {
        "INTERCEPTION_MODE": "REDIRECT",
        "MESH_ID": "mesh1",
        "NAMESPACE": "istioinaction",
        "SERVICE_ACCOUNT": "webapp",
        "a/b": "c",
    }
    assert metadata["OWNER"] == INJECTED["ISTIO_META_OWNER"]


def test_proxy_config_is_read_and_sent():
    proxy = {
        "discoveryAddress": "istiod-canary.istio-system.svc:15012",
        "serviceCluster": "mine",
        "proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true", "OTHER": "x"},
        "concurrency": 2,
    }
    for text in (json.dumps(proxy), "discoveryAddress: istiod-canary.istio-system.svc:15012\n"):
        env = {**INJECTED, "PROXY_CONFIG": text}
        assert discovery_address(env, identity_from_env(env)) == proxy["discoveryAddress"]
    env = {**INJECTED, "PROXY_CONFIG": json.dumps(proxy)}
    node = for_address("a:1", identity_from_env(env)).node
    assert node.cluster == "mine"
    assert node.metadata["DNS_CAPTURE"] == "true"
    assert "OTHER" not in node.metadata
    assert node.metadata["PROXY_CONFIG"]["concurrency"] == 2


@pytest.mark.parametrize(
    ("env", "address"),
    [
        ({}, ""),
        ({"POD_NAME": "x"}, ""),
        ({"CA_ADDR": "cert-manager-istio-csr.cert-manager.svc:443"}, ISTIOD),
        ({"PROXY_CONFIG": "{}"}, ISTIOD),
        ({"PROXY_CONFIG": ""}, ISTIOD),
        ({"PROXY_CONFIG": "discoveryAddress: x:1"}, "x:1"),
    ],
)
def test_where_istio_s_environment_says_istiod_is(env, address):
    assert discovery_address(env, identity_from_env(env)) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "PROXY_CONFIG: is neither JSON nor YAML"),
        ("- 1", r"PROXY_CONFIG: expected a mapping, not \[1\]"),
        ("discoveryAddress: 1", "PROXY_CONFIG: discoveryAddress: expected a string, not 1"),
    ],
)
def test_a_proxy_config_that_is_none(text, message):
    env = {"PROXY_CONFIG": text}
    with pytest.raises(ConfigError, match=message):
        discovery_address(env, identity_from_env(env))


def test_labels_by_precedence_and_what_is_wrong_with_them(tmp_path, put, caplog):
    put("etc/istio/pod/labels", 'a="pod"\nb="q\\"\\u00e9\\x41"\n\nc=unquoted\nd="open\n')
    env = {"ISTIO_METAJSON_LABELS": '{"a": "json", "e": "json"}', "MESHLIB_LABELS": "b=ours, f = g"}
    with caplog.at_level(logging.WARNING):
        found = identity_from_env(env, tmp_path).labels
        assert found == {"a": "pod", "b": "ours", "e": "json", "f": "g"}
        assert identity_from_env({}, tmp_path).labels == {"a": "pod", "b": 'q"éA'}
        assert identity_from_env({"ISTIO_METAJSON_LABELS": "[secret"}, tmp_path / "no").labels == {}
    assert "labels:4 is ignored" in caplog.text
    assert "labels:5 is ignored" in caplog.text
    assert "variable=ISTIO_METAJSON_LABELS is ignored" in caplog.text
    assert "secret" not in caplog.text


def test_a_node_of_gRPC_s_generator_is_asked_for_by_name_and_by_sotw():
    found = for_address("a:1", identity_from_env({"ISTIO_META_GENERATOR": "grpc"}))
    assert (found.style, found.wildcards) == (Style.GRPC, frozenset())
    assert found.servers[0].delta is False, "istiod's delta loses watches of these nodes"


def test_headers_of_the_environment():
    found = for_address("a:1", Identity(), around=Surroundings({"XDS_HEADER_X-Tenant": "one"}))
    assert found.servers[0].metadata == (("x-tenant", "one"),)


@pytest.mark.parametrize(
    ("files", "env", "security", "root"),
    [
        ([MOUNTED, ROOT], {}, Security(), MOUNTED),
        ([ROOT], {}, Security(), ROOT),
        ([ROOT, f"{ACCOUNT}/ca.crt"], {"PILOT_CERT_PROVIDER": "kubernetes"}, Security(), f"{ACCOUNT}/ca.crt"),
        ([ROOT], {"XDS_ROOT_CA": "SYSTEM"}, Security(), None),
        ([ROOT], {}, Security(root_ca="SYSTEM"), None),
    ],
)
def test_the_root_ca(tmp_path, put, files, env, security, root):
    for file in files:
        put(file)
    credentials = for_address(ISTIOD, Identity(), security, Surroundings(env, tmp_path)).servers[0].credentials
    assert credentials == Tls(Pem(str(tmp_path / root)) if root else None)


def test_certificates_provisioned_on_a_virtual_machine(tmp_path):
    around = Surroundings({"PROV_CERT": "/etc/certs", "ISTIOD_SAN": "istiod.istio-system.svc"}, tmp_path)
    assert for_address("10.0.0.1:15012", Identity(), around=around).servers[0].credentials == Tls(
        Pem("/etc/certs/root-cert.pem"),
        Pem("/etc/certs/cert-chain.pem"),
        Pem("/etc/certs/key.pem"),
        "istiod.istio-system.svc",
    )


def test_mounted_certificates(tmp_path, put):
    paths = {name: put(f"{name}.pem") for name in ("root", "chain", "key")}
    metadata = {
        "ISTIO_META_TLS_CLIENT_ROOT_CERT": paths["root"],
        "ISTIO_META_TLS_CLIENT_CERT_CHAIN": paths["chain"],
        "ISTIO_META_TLS_CLIENT_KEY": paths["key"],
    }
    env = {"FILE_MOUNTED_CERTS": "true", "PROXY_CONFIG": json.dumps({"proxyMetadata": metadata})}
    found = for_address(ISTIOD, identity_from_env(env), around=Surroundings(env, tmp_path))
    assert found.servers[0].credentials == Tls(Pem(paths["root"]), Pem(paths["chain"]), Pem(paths["key"]))


@pytest.mark.parametrize(
    ("policy", "token"),
    [({}, TOKEN), ({"JWT_POLICY": "first-party-jwt"}, f"{ACCOUNT}/token"), ({"JWT_POLICY": "none"}, None)],
)
def test_the_token(tmp_path, put, policy, token):
    for file in (ROOT, TOKEN, f"{ACCOUNT}/token"):
        put(file)
    credentials = for_address(ISTIOD, Identity(), around=Surroundings(policy, tmp_path)).servers[0].credentials
    assert credentials.token == (Token(str(tmp_path / token)) if token else None)


def test_arguments_ask_for_tls_on_any_port_and_come_first(tmp_path, put):
    put(ROOT)
    put(TOKEN)
    mine = {name: put(name) for name in ("ca", "t", "c", "k")}
    security = Security(mine["ca"], "name", mine["t"], (mine["c"], mine["k"]))
    found = for_address("a:9", Identity(), security, Surroundings({"ISTIOD_SAN": "x"}, tmp_path), delta=True)
    tls = Tls(Pem(mine["ca"]), Pem(mine["c"]), Pem(mine["k"]), "name", Token(mine["t"]))
    assert found.servers == (Server("a:9", tls, True),)


@pytest.mark.parametrize(
    ("address", "security", "credentials"),
    [
        ("istiod:15010", Security(), Insecure()),
        ("unix:///etc/istio/proxy/XDS", Security(), Insecure()),
        ("xds.example.com:443", Security(), Tls()),
    ],
)
def test_what_is_found_with_nothing_there(tmp_path, address, security, credentials):
    around = Surroundings({}, tmp_path)
    assert for_address(address, Identity(), security, around).servers == (Server(address, credentials),)


def test_a_unix_socket_with_a_token(put):
    token = put("t")
    found = for_address("unix:///x", Identity(), Security(token_file=token))
    assert found.servers == (Server("unix:///x", Local(Token(token))),)


NONE = Identity(proxy_config={"controlPlaneAuthPolicy": "NONE"})


def test_istio_s_word_for_plaintext():
    assert for_address("istiod:9000", NONE).servers == (Server("istiod:9000"),)


def test_istio_s_own_address_is_spoken_to_by_tls_on_any_port():
    system = Security(root_ca="SYSTEM")
    identity = Identity(proxy_config={"discoveryAddress": "istiod:9000"})
    with pytest.raises(BootstrapError, match="TLS needs a root CA"):
        for_address("istiod:9000", identity)
    assert for_address("istiod:9000", identity, system).servers == (Server("istiod:9000", Tls()),)
    assert for_address("istiod:9001", identity).servers == (Server("istiod:9001"),)
    told = Identity(proxy_config={"discoveryAddress": "istiod:9000", "controlPlaneAuthPolicy": "NONE"})
    assert for_address("istiod:9000", told).servers == (Server("istiod:9000"),)


@pytest.mark.parametrize(
    ("address", "identity", "security", "env", "message"),
    [
        (
            ISTIOD,
            Identity(),
            Security(),
            {},
            "TLS needs a root CA, and there is none in .*etc/certs.* or .*istio/root-cert",
        ),
        (ISTIOD, Identity(), Security(), {"PILOT_CERT_PROVIDER": "none"}, "TLS needs a root CA"),
        ("a:9", Identity(), Security(server_name="x"), {}, "TLS needs a root CA"),
        (ISTIOD, NONE, Security(), {}, "port 15012 is for TLS: nothing is sent there in plaintext"),
        (ISTIOD, Identity(), Security(root_ca="/no"), {}, "root_ca: there is no file '/no'"),
        (ISTIOD, Identity(), Security(), {"XDS_ROOT_CA": "/no"}, "XDS_ROOT_CA: there is no file '/no'"),
        (ISTIOD, Identity(), Security("SYSTEM", token_file="/no"), {}, "token_file: there is no file '/no'"),
        (ISTIOD, Identity(), Security("SYSTEM", certificate=("/c", "/k")), {}, "certificate: there is no file '/c'"),
        (ISTIOD, Identity(), Security(), {"FILE_MOUNTED_CERTS": "true"}, "FILE_MOUNTED_CERTS: .*: there is no file ''"),
        ("unix:///x", Identity(), Security(root_ca="SYSTEM"), {}, "a unix socket is not spoken to by TLS"),
    ],
)
def test_tls_that_cannot_be_had_is_refused_before_connecting(tmp_path, address, identity, security, env, message):
    with pytest.raises(BootstrapError, match=message):
        for_address(address, identity, security, Surroundings(env, tmp_path))
