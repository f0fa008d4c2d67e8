"""A whole mesh that speaks TLS: from a bootstrap, from watched files, from a folder of Istio's YAML."""

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest

import meshlib
from upstream.tls_peers import Authority, TlsServer

TIMEOUT = 15.0
TYPES = "type.googleapis.com/envoy."
TLS = TYPES + "extensions.transport_sockets.tls.v3.UpstreamTlsContext"
HCM = TYPES + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = {"name": "router", "typed_config": {"@type": TYPES + "extensions.filters.http.router.v3.Router"}}
SPIFFE = "spiffe://cluster.local/ns/shop/sa/catalog"
CA = Authority()
SERVER = CA.issue(SPIFFE, "catalog.shop.svc.cluster.local")


@pytest.fixture
def server():
    found = TlsServer(SERVER, client_ca=CA.pem)
    yield found
    found.close()


@pytest.fixture
def files(tmp_path):
    """Our certificate, its key and the CA, as files."""
    chain, key = CA.issue("spiffe://cluster.local/ns/shop/sa/webapp").written(tmp_path)
    (tmp_path / "ca.pem").write_bytes(CA.pem)
    return {"chain": chain, "key": key, "ca": str(tmp_path / "ca.pem")}


def eventually(told):
    deadline = time.monotonic() + TIMEOUT
    while not told():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def path_source(path):
    return {"path_config_source": {"path": str(path)}}


def move(path, version, kind, *resources):
    """Put a file in place as Envoy wants it: by moving it."""
    fresh = Path(f"{path}.new")
    resources = [{"@type": TYPES + kind, **resource} for resource in resources]
    fresh.write_text(json.dumps({"version_info": version, "resources": resources}))
    os.replace(fresh, path)


def assignment(*ports):
    at = [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": p}}}} for p in ports]
    return {"cluster_name": "catalog", "endpoints": [{"lb_endpoints": at}]}


def routes(cluster="catalog"):
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster}}
    return {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]}


def bootstrap(cluster, manager):
    chain = {"filters": [{"name": "h", "typed_config": {"@type": HCM, "http_filters": [ROUTER], **manager}}]}
    address = {"socket_address": {"address": "0.0.0.0", "port_value": 80}}
    socket = {"name": "tls", "typed_config": {"@type": TLS, **cluster.pop("tls")}}
    secrets = cluster.pop("secrets", [])
    return {
        "static_resources": {
            "listeners": [{"name": "l", "address": address, "filter_chains": [chain]}],
            "clusters": [{"name": "catalog", "connect_timeout": "5s", "transport_socket": socket, **cluster}],
            "secrets": secrets,
        }
    }


def mutual(files):
    certificate = {"certificate_chain": {"filename": files["chain"]}, "private_key": {"filename": files["key"]}}
    san = {"san_type": "URI", "matcher": {"exact": SPIFFE}}
    validation = {"trusted_ca": {"filename": files["ca"]}, "match_typed_subject_alt_names": [san]}
    return {"common_tls_context": {"tls_certificates": [certificate], "validation_context": validation}}


def get(mesh):
    with httpx.Client(transport=mesh.transport()) as client:
        return client.get("http://catalog/items")


def test_a_static_bootstrap_sync_and_async(server, files):
    config = bootstrap(
        {"type": "STATIC", "load_assignment": assignment(server.port), "tls": mutual(files)}, {"route_config": routes()}
    )

    async def call(mesh):
        async with httpx.AsyncClient(transport=mesh.async_transport()) as client:
            return await client.get("http://catalog/items")

    with meshlib.Mesh.from_bootstrap(config) as mesh:
        assert get(mesh).text == "ok"
        assert asyncio.run(call(mesh)).text == "ok"
        assert SPIFFE in str(mesh.explain("GET", "http://catalog/items"))
        assert mesh.capabilities() is not None
    assert [one.client["subjectAltName"][0][1] for one in server.seen] == [
        "spiffe://cluster.local/ns/shop/sa/webapp"
    ] * 2


def test_routes_endpoints_and_secrets_in_watched_files(server, files, tmp_path):
    """RDS, EDS and SDS, each with a file for its ConfigSource; each file is moved, each move counts."""
    rds, eds, sds = (tmp_path / f"{name}.json" for name in ("rds", "eds", "sds"))
    own = {"certificate_chain": {"filename": files["chain"]}, "private_key": {"filename": files["key"]}}
    secrets = [
        {"name": "own", "tls_certificate": own},
        {"name": "ca", "validation_context": {"trusted_ca": {"filename": files["ca"]}}},
    ]
    move(rds, "1", "config.route.v3.RouteConfiguration", routes())
    move(eds, "1", "config.endpoint.v3.ClusterLoadAssignment", assignment(server.port))
    move(sds, "1", "extensions.transport_sockets.tls.v3.Secret", *secrets)
    tls = {
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{"name": "own", "sds_config": path_source(sds)}],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": []},
                "validation_context_sds_secret_config": {"name": "ca", "sds_config": path_source(sds)},
            },
        }
    }
    cluster = {"type": "EDS", "eds_cluster_config": {"eds_config": path_source(eds)}, "tls": tls}
    config = bootstrap(cluster, {"rds": {"route_config_name": "r", "config_source": path_source(rds)}})
    other = TlsServer(SERVER, client_ca=CA.pem)
    with meshlib.Mesh.from_bootstrap(config) as mesh:
        mesh.wait_ready()
        assert get(mesh).text == "ok"
        move(eds, "2", "config.endpoint.v3.ClusterLoadAssignment", assignment(other.port))
        eventually(lambda: get(mesh).status_code == 200 and other.seen)
        stranger = Authority().pem.decode()
        secrets[1]["validation_context"] = {"trusted_ca": {"inline_string": stranger}}
        move(sds, "2", "extensions.transport_sockets.tls.v3.Secret", *secrets)

        def refused():
            try:
                get(mesh)
            except meshlib.UpstreamConnectFailed as error:
                return "not trusted" in str(error)
            return False

        eventually(refused)
        move(rds, "2", "config.route.v3.RouteConfiguration", routes("nowhere"))

        def unrouted():
            try:
                get(mesh)
            except meshlib.MeshError as error:
                return "cluster 'nowhere', which does not exist" in str(error)
            return False

        eventually(unrouted)
    other.close()


def test_static_secrets(server, files):
    own = {"certificate_chain": {"filename": files["chain"]}, "private_key": {"filename": files["key"]}}
    tls = {
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{"name": "own"}],
            "validation_context_sds_secret_config": {"name": "ca"},
        }
    }
    config = bootstrap(
        {
            "type": "STATIC",
            "load_assignment": assignment(server.port),
            "tls": tls,
            "secrets": [
                {"name": "own", "tls_certificate": own},
                {"name": "ca", "validation_context": {"trusted_ca": {"filename": files["ca"]}}},
            ],
        },
        {"route_config": routes()},
    )
    with meshlib.Mesh.from_bootstrap(config) as mesh:
        assert get(mesh).text == "ok"


MESH = """
apiVersion: v1
kind: Service
metadata: {{name: catalog, namespace: shop}}
spec:
  clusterIP: 10.0.0.1
  ports: [{{name: http, port: 80, targetPort: {port}}}]
  selector: {{app: catalog}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: catalog-1, namespace: shop}}
spec: {{address: 127.0.0.1, labels: {{app: catalog}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: catalog, namespace: shop}}
spec:
  host: catalog
  trafficPolicy:
    tls:
      mode: {mode}
      clientCertificate: {chain}
      privateKey: {key}
      caCertificates: {ca}
      subjectAltNames: ["{san}"]
"""


@pytest.mark.parametrize(("san", "believed"), [(SPIFFE, True), ("spiffe://cluster.local/ns/shop/sa/other", False)])
def test_a_folder_with_a_destination_rule(san, believed, server, files, tmp_path):
    folder = tmp_path / "mesh"
    folder.mkdir()
    text = MESH.format(port=server.port, mode="MUTUAL", san=san, **files)
    (folder / "mesh.yaml").write_text(text)
    with meshlib.Mesh.from_directory(folder, workload="webapp", namespace="shop") as mesh:
        if believed:
            assert get(mesh).text == "ok"
            assert server.seen[0].sni == "catalog"
        else:
            with pytest.raises(meshlib.UpstreamConnectFailed, match=r"expected .*sa/other"):
                get(mesh)
            assert server.http == b""


def test_istio_mutual_without_an_identity_is_refused(server, files, tmp_path):
    folder = tmp_path / "mesh"
    folder.mkdir()
    text = MESH.format(port=server.port, mode="ISTIO_MUTUAL", san=SPIFFE, **files)
    kept = [
        line for line in text.splitlines() if not line.strip().startswith(("client", "private", "caC", "subjectAlt"))
    ]
    (folder / "mesh.yaml").write_text("\n".join(kept))
    with meshlib.Mesh.from_directory(folder, workload="webapp", namespace="shop") as mesh:
        with pytest.raises(meshlib.TransportSecurityUnavailable, match="'default' of the cluster 'sds-grpc'"):
            get(mesh)
        assert "are not called" in str(mesh.explain("GET", "http://catalog/items"))
    assert server.seen == []


PROCESS = """
import sys, time
sys.path.insert(0, {tests!r})
from upstream.tls_peers import Identity, TlsServer
chain, key, ca = (open(path, "rb").read() for path in sys.argv[1:])
server = TlsServer(Identity(chain, key), client_ca=ca)
print(server.port, flush=True)
sys.stdin.read()
"""


def test_two_processes_with_spiffe_identities(files, tmp_path):
    (tmp_path / "catalog").mkdir()
    chain, key = SERVER.written(tmp_path / "catalog")
    code = textwrap.dedent(PROCESS.format(tests=str(Path(__file__).parents[1])))
    with subprocess.Popen(
        [sys.executable, "-c", code, chain, key, files["ca"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        port = int(process.stdout.readline())
        config = bootstrap(
            {"type": "STATIC", "load_assignment": assignment(port), "tls": mutual(files)}, {"route_config": routes()}
        )
        with meshlib.Mesh.from_bootstrap(config) as mesh:
            assert [get(mesh).text for _ in range(3)] == ["ok"] * 3
        process.stdin.close()
