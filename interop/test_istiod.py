"""meshlib against a real istiod and a real istioctl: ``make istiod``.

istiod (pilot-discovery) runs on loopback beside an empty cluster, on a folder of YAML. Its TLS port has a
CA of the test's own and believes tokens that the test signs.
"""

import base64
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

import meshlib
from empty_cluster import EmptyCluster
from peers import WAIT, Backend, answers, eventually

BUILD = Path(__file__).resolve().parent.parent / "build" / "interop"
NODE = "sidecar~127.0.0.21~webapp-x.shop~shop.svc.cluster.local"
ISTIOD_NAME = "istiod.istio-system.svc"

pytestmark = pytest.mark.skipif(not (BUILD / "pilot-discovery").exists(), reason="istiod is not built")

SERVICE = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: [{name}.shop.svc.cluster.local]
  addresses: [{vip}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  workloadSelector: {{labels: {{app: {name}}}}}
---
"""
WORKLOAD = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}-{version}, namespace: shop}}
spec:
  address: 127.0.0.1
  ports: {{http: {port}}}
  labels: {{app: {name}, version: {version}, security.istio.io/tlsMode: disabled}}
---
"""
RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: catalog, namespace: shop}
spec:
  host: catalog
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
"""
ROUTES = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: catalog, namespace: shop}}
spec:
  hosts: [catalog]
  http:
  - match: [{{headers: {{x-cohort: {{exact: internal}}}}}}]
    route: [{{destination: {{host: catalog, subset: v2}}}}]
  - retries: {{attempts: 3, retryOn: 5xx, perTryTimeout: 2s}}
    route:
    - {{destination: {{host: catalog, subset: v1}}, weight: {v1}}}
    - {{destination: {{host: catalog, subset: v2}}, weight: {v2}}}
---
"""
MESH = "trustDomain: cluster.local\nrootNamespace: istio-system\n"


def free_ports(number):
    """Return ports that nobody listens at, below those that the system gives to connections."""
    found = []
    while len(found) < number:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


class Istiod:
    """A control plane on a folder; ``plain`` and ``secure`` are the addresses of its two xDS ports."""

    def __init__(self, folder, work, ports=None, **environment):
        self.ports = ports or free_ports(5)
        plain, secure, web, monitoring, control = self.ports
        self.plain, self.secure = f"127.0.0.1:{plain}", f"127.0.0.1:{secure}"
        self._cluster = EmptyCluster(work)
        mesh = work / "mesh.yaml"
        mesh.write_text(MESH)
        command = [
            BUILD / "pilot-discovery", "discovery", f"--kubeconfig={self._cluster.kubeconfig}",
            f"--configDir={folder}", f"--meshConfig={mesh}",
            f"--grpcAddr={self.plain}", f"--secureGRPCAddr={self.secure}",
            f"--httpAddr=127.0.0.1:{web}", "--httpsAddr=", f"--ctrlz_port={control}",
            f"--monitoringAddr=127.0.0.1:{monitoring}",
        ]  # fmt: skip
        self._log = (work / "istiod.log").open("ab")
        known = {"POD_NAME": "istiod", "POD_NAMESPACE": "istio-system"}
        self.process = subprocess.Popen(
            command, cwd=work, env={**os.environ, **known, **environment}, stdout=self._log, stderr=self._log
        )
        try:
            eventually(lambda: self._listens(plain), f"istiod listens; see {self._log.name}")
        except BaseException:
            self.stop()
            raise

    def _listens(self, port):
        assert self.process.poll() is None, Path(self._log.name).read_text()[-3000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def stop(self):
        self.process.kill()
        self.process.wait()
        self._log.close()
        self._cluster.stop()


@pytest.fixture(scope="module")
def backends():
    made = {name: Backend(name) for name in ("v1", "v2", "forum")}
    yield made
    for backend in made.values():
        backend.stop()


def written(folder, backends, v1=100, v2=0, forum=True):
    """Write the configuration; each file at once, for istiod reads while we write."""
    port = {name: backend.endpoint["port"] for name, backend in backends.items()}
    files = {
        "catalog.yaml": SERVICE.format(name="catalog", vip="10.96.0.10")
        + "".join(WORKLOAD.format(name="catalog", version=v, port=port[v]) for v in ("v1", "v2")),
        "rules.yaml": RULE + ROUTES.format(v1=v1, v2=v2),
        "forum.yaml": SERVICE.format(name="forum", vip="10.96.0.30")
        + (WORKLOAD.format(name="forum", version="v1", port=port["forum"]) if forum else ""),
    }
    for name, text in files.items():
        path = folder / f".{name}"
        path.write_text(text)
        path.rename(folder / name)


@pytest.fixture
def istiod(tmp_path, backends):
    folder = tmp_path / "config"
    folder.mkdir()
    written(folder, backends)
    running = Istiod(folder, tmp_path)
    running.folder = folder
    yield running
    running.stop()


@contextlib.contextmanager
def asking(mesh):
    with mesh, httpx.Client(transport=mesh.transport()) as client:
        mesh.wait_ready(WAIT)

        def ask(url, **headers):
            response = client.get(url, headers=headers)
            assert response.status_code == 200
            return response.text

        yield ask


def sidecar(istiod, **options):
    return meshlib.Mesh.connect(istiod.plain, workload="webapp", namespace="shop", **options)


def grpc_style(istiod):
    metadata = {"GENERATOR": "grpc", "NAMESPACE": "shop", "CLUSTER_ID": "Kubernetes"}
    return meshlib.Mesh.from_bootstrap(
        {
            "xds_servers": [{"server_uri": istiod.plain, "channel_creds": [{"type": "insecure"}]}],
            "node": {"id": NODE, "metadata": metadata},
        }
    )


@pytest.mark.parametrize("style", [sidecar, grpc_style], ids=["sidecar", "grpc"])
def test_routes_and_follows_every_change_without_a_restart(istiod, backends, style):
    with asking(style(istiod)) as ask:
        urls = ("http://catalog/", "http://catalog.shop/", "http://catalog.shop.svc.cluster.local/")
        assert {ask(url) for url in (urls if style is sidecar else urls[2:])} == {"v1"}
        url = urls[2]
        assert ask(url, **{"x-cohort": "internal"}) == "v2"
        written(istiod.folder, backends, v1=0, v2=100)
        eventually(lambda: answers(ask, url, "v2"), "all goes to v2")
        written(istiod.folder, backends, v1=50, v2=50)
        eventually(lambda: answers(ask, url, "v1"), "v1 gets its share")
        drawn = Counter(ask(url) for _ in range(400))
        assert 120 < drawn["v1"] < 280
        forum = "http://forum.shop.svc.cluster.local/"
        assert ask(forum) == "forum"
        written(istiod.folder, backends, forum=False)

        def gone():
            try:
                return ask(forum) and None
            except meshlib.NoHealthyUpstream as error:
                return error

        assert "forum" in str(eventually(gone, "the forum has no endpoints"))
        written(istiod.folder, backends)
        eventually(lambda: answers(ask, forum, "forum"), "and has one again")


def test_istiods_death_is_nobodys_and_its_successor_is_followed(istiod, backends, tmp_path):
    with asking(sidecar(istiod)) as ask:
        assert (ask("http://catalog/"), ask("http://forum/")) == ("v1", "forum")
        istiod.process.send_signal(signal.SIGSTOP)
        for _ in range(50):
            assert ask("http://catalog/") == "v1"
        istiod.stop()
        for _ in range(50):
            assert ask("http://catalog/") == "v1"
        written(istiod.folder, backends, v1=0, v2=100)
        successor = Istiod(istiod.folder, tmp_path, istiod.ports)
        try:
            eventually(lambda: answers(ask, "http://catalog/", "v2"), "the successor is followed")
        finally:
            successor.stop()


def test_what_istiod_sends_is_honoured_or_told(istiod):
    with sidecar(istiod, on_demand=False) as mesh:
        mesh.wait_ready(WAIT)
        assert "outbound|80|v1|catalog.shop.svc.cluster.local" in str(mesh.explain("GET", "http://catalog/"))
        entries = mesh.capabilities().entries
        assert entries, "sidecars get filters that mean nothing in a client"
        assert {entry.field.partition("[")[0] for entry in entries if entry.status == "refused"} <= {
            "transport_socket_matches"  # mTLS, whose certificates are an agent's to give
        }
        assert all(entry.consequence for entry in entries)


# ---------------------------------------------------------------- the TLS port


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs service account tokens, and serves the keys that prove them."""

    def __init__(self):
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "one"}
        key |= {"n": encoded(numbers.n.to_bytes(256, "big")), "e": encoded(b"\1\0\1")}
        body = json.dumps({"keys": [key]}).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.rule = json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/keys", "audiences": ["istio-ca"]})

    def token(self, account="webapp", namespace="shop", audience="istio-ca", seconds=3600):
        now = int(time.time())
        claims = {"iss": self.url, "aud": [audience], "iat": now - 5, "exp": now + seconds}
        claims["sub"] = f"system:serviceaccount:{namespace}:{account}"
        claims["kubernetes.io"] = {"namespace": namespace, "serviceaccount": {"name": account}}
        head = {"alg": "RS256", "kid": "one"}
        signed = ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{encoded(signature)}"

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def secured(tmp_path, backends, monkeypatch):
    """An istiod with a CA and an issuer of tokens of its own."""
    monkeypatch.setenv("SERVICE_ACCOUNT", "webapp")
    issuer, ca = Issuer(), trustme.CA(key_type=trustme.KeyType.RSA)
    folder, certificates = tmp_path / "config", tmp_path / "ca"
    folder.mkdir()
    certificates.mkdir()
    written(folder, backends)
    for name in ("ca-cert.pem", "root-cert.pem", "cert-chain.pem"):
        ca.cert_pem.write_to_path(certificates / name)
    # istiod reads RSA keys as PKCS #1.
    key = load_pem_private_key(ca.private_key_pem.bytes(), None)
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    (certificates / "ca-key.pem").write_bytes(plain)
    running = Istiod(folder, tmp_path, ROOT_CA_DIR=str(certificates), JWT_RULE=issuer.rule, TOKEN_ISSUER=issuer.url)
    running.folder, running.issuer, running.ca = folder, issuer, ca
    running.root, running.token = certificates / "root-cert.pem", tmp_path / "token"
    yield running
    running.stop()
    issuer.stop()


def secure_mesh(istiod, **options):
    options = {"root_ca": str(istiod.root), "server_name": ISTIOD_NAME, **options}
    return meshlib.Mesh.connect(istiod.secure, workload="webapp", namespace="shop", **options)


def test_a_token_opens_the_tls_port_and_a_new_one_is_read_at_the_next_connect(secured):
    secured.token.write_text(secured.issuer.token())
    with asking(secure_mesh(secured, token_file=str(secured.token))) as ask:
        assert ask("http://catalog/") == "v1"


def test_a_certificate_of_the_mesh_opens_it_too(secured, tmp_path):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    signer = load_pem_private_key(secured.ca.private_key_pem.bytes(), None)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(serial_number=x509.random_serial_number(), public_key=key.public_key())
        .subject_name(x509.Name([]))
        .issuer_name(x509.load_pem_x509_certificate(secured.ca.cert_pem.bytes()).subject)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://cluster.local/ns/shop/sa/webapp")]),
            critical=True,
        )
        .sign(signer, hashes.SHA256())
    )
    chain, key_file = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(certificate.public_bytes(Encoding.PEM) + secured.ca.cert_pem.bytes())
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with asking(secure_mesh(secured, certificate=(str(chain), str(key_file)))) as ask:
        assert ask("http://catalog/") == "v1"


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "UNAUTHENTICATED"),
        ({"audience": "another"}, "UNAUTHENTICATED"),
        ({"seconds": -60}, "expired"),
        ({"namespace": "elsewhere"}, "PERMISSION_DENIED"),
    ],
    ids=["none", "audience", "expired", "another-namespace"],
)
def test_who_is_not_let_in_is_told_what_to_check(secured, token, words):
    options = {}
    if token is not None:
        secured.token.write_text(secured.issuer.token(**token))
        options["token_file"] = str(secured.token)
    with secure_mesh(secured, **options) as mesh:
        with pytest.raises(meshlib.MeshNotReady) as caught:
            mesh.wait_ready(5.0)
        assert words in str(caught.value)
        if token is not None:
            assert secured.token.read_text() not in str(caught.value)


# ---------------------------------------------------------------- istioctl


def istioctl(*arguments):
    done = subprocess.run(
        [BUILD / "istioctl", *arguments], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "KUBECONFIG": os.devnull, "HOME": os.environ.get("HOME", "/")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not (BUILD / "istioctl").exists(), reason="istioctl is not built")
def test_istioctl_reads_our_dump(istiod, tmp_path):
    path = tmp_path / "dump.json"
    with sidecar(istiod, on_demand=False) as mesh:
        mesh.wait_ready(WAIT)
        path.write_text(json.dumps(mesh.config_dump()))
    clusters = istioctl("proxy-config", "cluster", "-f", path)
    assert "catalog.shop.svc.cluster.local" in clusters
    assert clusters.split()[:6] == ["SERVICE", "FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE"]
    assert "v2" in clusters
    assert "0.0.0.0" in istioctl("proxy-config", "listener", "-f", path)
    routes = istioctl("proxy-config", "route", "-f", path, "--name", "80")
    assert "catalog.shop.svc.cluster.local" in routes or "catalog" in routes
    whole = json.loads(istioctl("proxy-config", "route", "-f", path, "--name", "80", "-o", "json"))
    assert whole[0]["name"] == "80"
    endpoints = istioctl("proxy-config", "eds", "-f", path)  # `endpoint` reads /clusters, not a dump
    assert "outbound|80|v1|catalog.shop.svc.cluster.local" in endpoints
    assert istioctl("proxy-config", "all", "-f", path)
