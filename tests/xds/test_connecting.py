"""Connecting for real: TLS, tokens, client certificates, unix sockets, and what is said when it fails."""

import base64
import json
import os
import queue
import socket
import socketserver
import ssl
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import pytest
import trustme

from meshlib import Mesh
from meshlib.model.snapshot import Style
from meshlib.xds import diagnosis
from meshlib.xds.bootstrap_parts import Bootstrap, Server
from meshlib.xds.client import XdsClient
from meshlib.xds.credentials import Insecure, Local, Pem, Tls, Token
from meshlib.xds.frames import NotHttp2
from meshlib.xds.protos import base_pb2
from meshlib.xds.stream import DELTA, SERVICE, SOTW, AdsStream, StreamData, StreamEnded, StreamOpened

TIMEOUT = 10.0
PAST = datetime.now(UTC) - timedelta(hours=1)
SERVER = "istiod.istio-system.svc"


def jwt(**claims):
    parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + ".SIGNATURE"


class Peer:
    """A management server that admits, keeps what it was shown, and echoes."""

    def __init__(self, credentials=None, address="127.0.0.1:0", refuse=None):
        self.seen: queue.SimpleQueue = queue.SimpleQueue()
        self._refuse = refuse
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        handlers = {
            method: grpc.stream_stream_rpc_method_handler(lambda it, ctx, method=method: self._serve(method, it, ctx))
            for method in (SOTW, DELTA)
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        self.address = address if address.startswith("unix") else f"127.0.0.1:{port}"
        self._server.start()

    def _serve(self, method, incoming, context):
        metadata = dict(context.invocation_metadata())
        names = context.auth_context().get("x509_common_name") or context.auth_context().get(
            "x509_subject_alternative_name"
        )
        self.seen.put((method, metadata, names))
        if self._refuse is not None:
            context.abort(*self._refuse)
        yield from incoming

    def stop(self):
        self._server.stop(None).wait()


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture
def pem(tmp_path):
    """Write the files of a certificate, and return their paths."""

    def write(issued, name="own"):
        chain, key = tmp_path / f"{name}-chain.pem", tmp_path / f"{name}-key.pem"
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return Pem(str(chain)), Pem(str(key))

    return write


@pytest.fixture
def root(ca, tmp_path):
    path = tmp_path / "root.pem"
    path.write_bytes(ca.cert_pem.bytes())
    return Pem(str(path))


@pytest.fixture
def peer():
    peers = []

    def start(*args, **kwargs):
        peers.append(Peer(*args, **kwargs))
        return peers[-1]

    yield start
    for one in peers:
        one.stop()


def serving(issued, clients=None):
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    roots = clients.cert_pem.bytes() if clients else None
    return grpc.ssl_server_credentials(
        [(issued.private_key_pem.bytes(), chain)], root_certificates=roots, require_client_auth=clients is not None
    )


def connect(server, method=SOTW):
    """Return the first event after the connection is up or has failed: data echoed, or the end."""
    events: queue.SimpleQueue = queue.SimpleQueue()
    stream = AdsStream(server, method, events.put)
    stream.start()
    try:
        event = events.get(timeout=TIMEOUT)
        if isinstance(event, StreamOpened):
            stream.send(b"hello")
            event = events.get(timeout=TIMEOUT)
        return event
    finally:
        stream.close()
        stream._thread.join(TIMEOUT)


def admitted(event):
    assert isinstance(event, StreamData), event
    assert event.data == b"hello"


def test_the_host_of_the_address_is_the_default_name(ca, root, peer):
    one = peer(serving(ca.issue_cert("127.0.0.1")))
    admitted(connect(Server(one.address, Tls(root))))


@pytest.mark.parametrize("method", [SOTW, DELTA])
def test_a_server_by_its_name_with_metadata(ca, root, peer, method):
    one = peer(serving(ca.issue_cert(SERVER)))
    admitted(connect(Server(one.address, Tls(root, server_name=SERVER), metadata=(("x-tenant", "one"),)), method))
    seen, metadata, _ = one.seen.get(timeout=TIMEOUT)
    assert seen == method
    assert metadata["x-tenant"] == "one"


def test_root_ca_given_inline(ca, peer):
    one = peer(serving(ca.issue_cert("127.0.0.1")))
    admitted(connect(Server(one.address, Tls(Pem(inline=ca.cert_pem.bytes())))))


def test_the_system_s_roots(ca, root, peer, monkeypatch):
    one = peer(serving(ca.issue_cert("127.0.0.1")))
    monkeypatch.setenv("SSL_CERT_FILE", root.file)
    admitted(connect(Server(one.address, Tls())))
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "not signed by a CA in the system's roots" in connect(Server(one.address, Tls())).reason


def test_a_client_certificate_read_anew_at_every_connect(ca, root, peer, pem):
    one = peer(serving(ca.issue_cert("127.0.0.1"), clients=ca))
    for name in ("first", "second"):
        chain, key = pem(ca.issue_cert("webapp.example", common_name=name))
        admitted(connect(Server(one.address, Tls(root, chain, key))))
        assert one.seen.get(timeout=TIMEOUT)[2] == [name.encode()]


@pytest.mark.parametrize("memory", [True, False])
def test_a_client_certificate_given_inline_is_left_in_no_file(ca, root, peer, tmp_path, monkeypatch, memory):
    if not memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    one = peer(serving(ca.issue_cert("127.0.0.1"), clients=ca))
    issued = ca.issue_cert("webapp.example", common_name="inline")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    admitted(connect(Server(one.address, Tls(root, Pem(inline=chain), Pem(inline=issued.private_key_pem.bytes())))))
    assert one.seen.get(timeout=TIMEOUT)[2] == [b"inline"]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_token_read_anew_at_every_connect(ca, root, peer, tmp_path):
    one = peer(serving(ca.issue_cert("127.0.0.1")))
    file = tmp_path / "token"
    server = Server(one.address, Tls(root, token=Token(str(file))))
    for token in ("one", "two"):
        file.write_text(token + "\n")
        admitted(connect(server))
        assert one.seen.get(timeout=TIMEOUT)[1]["authorization"] == f"Bearer {token}"
    file.unlink()
    event = connect(server)
    assert isinstance(event, StreamEnded)
    assert event.code == ""
    assert event.reason == f"token: {file} cannot be read: No such file or directory"


@pytest.mark.parametrize("credentials", [Insecure(), Local(), Local(Token(inline="local"))])
def test_a_unix_socket(peer, tmp_path, credentials):
    secure = None if isinstance(credentials, Insecure) else grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
    one = peer(secure, address=f"unix://{tmp_path}/XDS")
    admitted(connect(Server(one.address, credentials)))
    assert one.seen.get(timeout=TIMEOUT)[1].get("authorization") == (
        "Bearer local" if credentials == Local(Token(inline="local")) else None
    )


def test_local_credentials_on_loopback(peer):
    admitted(connect(Server(peer().address, Local())))


@pytest.mark.parametrize(
    ("issue", "message"),
    [
        (
            lambda ca: ca.issue_cert("elsewhere.example"),
            "the server's certificate is not for 'istiod.istio-system.svc': wrong server, or name the one it is for",
        ),
        (
            lambda ca: ca.issue_cert(SERVER, not_after=PAST),
            "the server's certificate (or one of its chain) has expired",
        ),
        (
            lambda ca: ca.issue_cert(SERVER, not_before=datetime.now(UTC) + timedelta(days=1)),
            "the server's certificate is not valid yet",
        ),
        (lambda ca: trustme.CA().issue_cert(SERVER), "the server's certificate is not signed by a CA in "),
    ],
)
def test_what_is_wrong_with_the_server_s_certificate_is_named(ca, root, peer, issue, message):
    one = peer(serving(issue(ca)))
    event = connect(Server(one.address, Tls(root, server_name=SERVER)))
    assert isinstance(event, StreamEnded)
    assert event.reason.startswith(message)
    assert event.code == "UNAVAILABLE"
    assert one.seen.empty()


def test_a_server_that_mends_its_certificate_is_connected_to(ca, root, peer):
    expired = peer(serving(ca.issue_cert(SERVER, not_after=PAST)))
    assert "has expired" in connect(Server(expired.address, Tls(root, server_name=SERVER))).reason
    port = expired.address.rpartition(":")[2]
    expired.stop()
    mended = peer(serving(ca.issue_cert(SERVER)), address=f"127.0.0.1:{port}")
    admitted(connect(Server(mended.address, Tls(root, server_name=SERVER))))


def test_plaintext_to_a_tls_port_and_the_other_way_round(ca, root, peer):
    secure, plain = peer(serving(ca.issue_cert("127.0.0.1"))), peer()
    assert connect(Server(secure.address)).reason == (
        "closed the plaintext connection at once: does it want TLS on this port?"
    )
    assert connect(Server(plain.address, Tls(root))).reason == "the server does not speak TLS on this port"


class Http1(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


@pytest.fixture
def web(ca):
    """Start a web server that speaks HTTP/1 alone; returns its address."""
    servers = []

    def start(*, secure):
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Http1)
        server.handle_error = lambda *_: None
        servers.append(server)
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            ca.issue_cert("127.0.0.1").configure_cert(context)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_server_that_speaks_no_http2(root, web):
    assert connect(Server(web(secure=True), Tls(root))).reason == (
        "the server does not speak HTTP/2 by TLS (ALPN), so no gRPC"
    )
    assert connect(Server(web(secure=False))).reason == (
        "the server speaks HTTP/1 on this port, not HTTP/2, so no gRPC"
    )


@pytest.mark.parametrize(
    ("issue", "message"),
    [
        (None, "does it want a client certificate?"),
        (lambda ca: trustme.CA().issue_cert("x.y"), "refused the client certificate in "),
        (lambda ca: ca.issue_cert("x.y", not_after=PAST), "refused the client certificate in "),
    ],
)
def test_a_client_certificate_that_is_wanted(ca, root, peer, pem, issue, message):
    one = peer(serving(ca.issue_cert("127.0.0.1"), clients=ca))
    own = pem(issue(ca)) if issue else (None, None)
    event = connect(Server(one.address, Tls(root, *own)))
    assert isinstance(event, StreamEnded)
    assert message in event.reason


def test_files_that_hold_something_else(ca, root, pem, tmp_path):
    chain, key = pem(ca.issue_cert("a.b"))
    _, other = pem(ca.issue_cert("a.b"), "other")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\xff not PEM, but SECRET")
    for tls, message in (
        (Tls(Pem(str(garbage))), f"root CA: {garbage} holds no PEM certificate that can be read"),
        (
            Tls(root, chain, other),
            f"certificate {chain.file} with private key {other.file} cannot be used: KEY_VALUES_",
        ),
        (Tls(root, chain, Pem(str(garbage))), f"certificate {chain.file} with private key {garbage} cannot be used: "),
        (Tls(root, chain, Pem("/no")), "private key: /no cannot be read: No such file"),
        (Tls(root, token=Token(str(garbage))), f"token: {garbage} holds bytes that no header may hold"),
        (Tls(root, token=Token(root.file)), f"token: {root.file} holds bytes that no header may hold"),
    ):
        event = connect(Server("127.0.0.1:1", tls))
        assert isinstance(event, StreamEnded)
        assert event.reason.startswith(message), event.reason
        assert "SECRET" not in event.reason
    assert key.file.endswith("own-key.pem")


def test_an_encrypted_key_asks_for_no_password_at_the_terminal(ca, root, pem, tmp_path):
    from cryptography.hazmat.primitives import serialization

    chain, key = pem(ca.issue_cert("a.b"))
    loaded = serialization.load_pem_private_key(key.read("key"), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    event = connect(Server("127.0.0.1:1", Tls(root, chain, Pem(str(locked)))))
    assert event.reason.startswith(f"certificate {chain.file} with private key {locked} cannot be used")


NODE = base_pb2.Node(id="x")
NODE.metadata.update({"NAMESPACE": "istioinaction", "SERVICE_ACCOUNT": "webapp"})
DENIED = (grpc.StatusCode.PERMISSION_DENIED, "authorization failed")
UNKNOWN = (grpc.StatusCode.UNAUTHENTICATED, "authentication failure")


@pytest.mark.parametrize(
    ("refusal", "token", "advice"),
    [
        (
            UNKNOWN,
            jwt(exp=1000, aud=["istio-ca"], iss="kubernetes"),
            ": it expired at 1970-01-01 00:16:40Z, its audience is istio-ca, its issuer kubernetes",
        ),
        (
            UNKNOWN,
            jwt(exp=4102444800, aud="other"),
            ": it is valid until 2100-01-01 00:00:00Z, its audience is other",
        ),
        (UNKNOWN, "opaque", ": it is no JWT"),
        (UNKNOWN, None, "neither a token nor a client certificate was sent"),
        (
            DENIED,
            jwt(sub="system:serviceaccount:other:webapp"),
            "which says NAMESPACE istioinaction, SERVICE_ACCOUNT webapp: the token in ",
        ),
        (DENIED, None, "no token and no client certificate was sent"),
    ],
)
def test_refusals_say_what_to_check(ca, root, peer, tmp_path, refusal, token, advice):
    one = peer(serving(ca.issue_cert("127.0.0.1")), refuse=refusal)
    file = tmp_path / "token"
    file.write_text(token or "")
    server = Server(one.address, Tls(root, token=Token(str(file)) if token else None))
    event = connect(server)
    assert isinstance(event, StreamEnded)
    assert event.code == refusal[0].name
    assert event.reason == f"{refusal[0].name}: {refusal[1]}"
    said = diagnosis.advice(event.code, server, NODE)
    assert advice in said
    assert "SIGNATURE" not in said
    if token and "other:webapp" in diagnosis.claims(token).get("sub", ""):
        assert "is of system:serviceaccount:other:webapp" in said


def alert(name):
    """An error of OpenSSL's: the server's alert."""
    error = ssl.SSLError(1, f"[SSL: {name}] (_ssl.c:1)")
    error.reason = name
    return error


OWN = Tls(certificate=Pem("/own.pem"), private_key=Pem("/own-key.pem"))


@pytest.mark.parametrize(
    ("error", "credentials", "said"),
    [
        (ConnectionRefusedError(111, "Connection refused"), Insecure(), "connection refused"),
        (socket.gaierror(-2, "Name or service not known"), Insecure(), "name or service not known"),
        (TimeoutError(110, "timed out"), Tls(), "timed out"),
        (EOFError(), Insecure(), "closed the plaintext connection at once: does it want TLS on this port?"),
        (NotHttp2(b"\x15\x03\x01\0\2\2\x16"), Insecure(), "closed the plaintext connection at once: does it want TLS"),
        (NotHttp2(b"HTTP/1.1 "), Insecure(), "the server speaks HTTP/1 on this port, not HTTP/2"),
        (NotHttp2(b"SSH-2.0-O"), Insecure(), "the server does not speak HTTP/2 on this port"),
        (
            ConnectionResetError(104, "reset"),
            Tls(),
            "closed the connection in the TLS handshake: does it want a client",
        ),
        (alert("WRONG_VERSION_NUMBER"), Tls(), "the server does not speak TLS on this port"),
        (
            alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
            Tls(),
            "closed the connection in the TLS handshake: does it want a",
        ),
        (alert("SSLV3_ALERT_CERTIFICATE_EXPIRED"), OWN, "refused the client certificate in /own.pem: expired"),
        (alert("TLSV1_ALERT_UNKNOWN_CA"), OWN, "refused the client certificate in /own.pem: of a CA it does not know"),
        (alert("TLSV1_ALERT_NO_APPLICATION_PROTOCOL"), Tls(), "the server does not speak HTTP/2 by TLS (ALPN)"),
        (alert("TLSV1_UNRECOGNIZED_NAME"), Tls(), "the server knows no certificate for this name"),
        (alert("TLSV1_ALERT_INTERNAL_ERROR"), Tls(), "TLS failed: tlsv1 alert internal error"),
    ],
)
def test_errors_in_words(error, credentials, said):
    assert diagnosis.unreachable(error, Server("a:1", credentials)).startswith(said)


def test_plaintext_cannot_prove_who_asks():
    assert "use TLS" in diagnosis.advice("UNAUTHENTICATED", Server("a:1"), NODE)
    assert diagnosis.advice("UNAVAILABLE", Server("a:1"), NODE) == ""


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.!!!.c", "a.W10.c", f"a.{'A' * 5}.c"])
def test_tokens_that_are_no_jwt_have_no_claims(token):
    assert diagnosis.claims(token) == {}


def test_no_thread_outlives_its_stream(ca, root, peer):
    connect(Server(peer(serving(ca.issue_cert("elsewhere"))).address, Tls(root)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("meshlib-ads")]


def test_the_client_says_it_in_its_status(ca, root, peer, tmp_path):
    one = peer(serving(ca.issue_cert("127.0.0.1")), refuse=UNKNOWN)
    token = tmp_path / "token"
    token.write_text(jwt(exp=1000))
    server = Server(one.address, Tls(root, token=Token(str(token))))
    client = XdsClient(Bootstrap((server,), NODE, Style.SIDECAR), lambda snapshot: None)
    client.start()
    try:
        one.seen.get(timeout=TIMEOUT)
        deadline = time.monotonic() + TIMEOUT
        while not client.status.last_error and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.status.last_error.startswith(
            f"{one.address}: UNAUTHENTICATED: authentication failure; check the token in {token}: it expired at 1970"
        )
    finally:
        client.close()


def test_a_mesh_finds_istiod_by_what_istio_gives_a_pod(ca, root, ads_server, monkeypatch):
    server = ads_server(credentials=serving(ca.issue_cert(SERVER)))
    for name, value in {
        "PROXY_CONFIG": json.dumps({"discoveryAddress": server.address}),
        "XDS_ROOT_CA": root.file,
        "ISTIOD_SAN": SERVER,
        "POD_NAME": "webapp-x",
        "POD_NAMESPACE": "istioinaction",
        "ISTIO_META_CLUSTER_ID": "Kubernetes",
    }.items():
        monkeypatch.setenv(name, value)
    with Mesh.from_env() as mesh:
        mesh.wait_ready(TIMEOUT)
        node = server.expect(lambda request: request.HasField("node")).node
    assert node.id == "sidecar~127.0.0.1~webapp-x.istioinaction~istioinaction.svc.cluster.local"
