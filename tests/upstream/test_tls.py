"""The mesh's own TLS on real sockets, blocking and async: who is believed, who is not, and what is sent."""

import asyncio
import hashlib
import os
import ssl
import time

import httpx
import pytest

import meshlib
from meshlib.model.cluster import TransportSocket, TransportSocketMatch, UpstreamHttpProtocolOptions
from meshlib.model.endpoint import Endpoint
from meshlib.model.match import StringMatch, StringOp
from meshlib.model.request import RequestView
from meshlib.model.tls import (
    CertificateValidation,
    DataSource,
    SanMatch,
    SanType,
    TlsCertificate,
    TlsVersion,
    UpstreamTls,
    dns_name_matches,
)
from meshlib.policy.effects import Attempt, ErrorKind
from meshlib.policy.flags import names as flag_names
from meshlib.transports.driving import handshake
from meshlib.transports.httpx_async import AsyncMeshTransport
from meshlib.upstream.failure import AttemptFailed
from meshlib.upstream.tls_contexts import TlsContexts
from policy.snapshots import cluster, forward, retry, snapshot
from runtime.handmade import HandmadeSource, runtime
from transports.callers import AsyncCaller, SyncCaller
from upstream.tls_peers import Authority, TlsServer

SPIFFE = "spiffe://cluster.local/ns/istioinaction/sa/catalog"
CA = Authority()
OTHER_CA = Authority()
SERVER = CA.issue(SPIFFE, "catalog.example", "127.0.0.1", "shop@catalog.example")


@pytest.fixture(params=[SyncCaller, AsyncCaller], ids=["sync", "async"])
def calling(request):
    """Make a caller over a source of snapshots."""
    made = []

    def make(source, **options):
        made.append(request.param(runtime(source), **options))
        return made[-1]

    yield make
    for caller in made:
        caller.close()


@pytest.fixture
def serve():
    """Start TLS servers."""
    started = []

    def start(identity=SERVER, **options):
        started.append(TlsServer(identity, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()


def inline(pem):
    return DataSource(inline=pem)


def exact(kind, value, **fields):
    return SanMatch(kind, StringMatch(StringOp.EXACT, value, **fields))


def trusting(ca=CA.pem, **fields):
    return CertificateValidation(trusted_ca=inline(ca), **fields)


def as_socket(tls):
    return TransportSocket("envoy.transport_sockets.tls", secure=True, detail="TLS", tls=tls)


def mesh(tls, *servers, version="1", routes=None, **fields):
    endpoints = [Endpoint("127.0.0.1", server.port) for server in servers]
    config = cluster(endpoints, transport_socket=as_socket(tls), **fields)
    return snapshot(config, routes=routes, version=version)


def source(*args, **fields):
    return HandmadeSource(mesh(*args, **fields))


def refused(caller, server, *words, error=meshlib.UpstreamConnectFailed):
    """A call fails before one byte of HTTP is sent, saying where and why."""
    with pytest.raises(error) as caught:
        caller.request()
    assert isinstance(caught.value, httpx.ConnectError)
    for word in (f"127.0.0.1:{server.port}", "cluster 'c'", *words):
        assert word in str(caught.value)
    assert flag_names(caught.value.record.flags) == "UF"
    assert server.http == b""
    return caught.value


def eventually(told):
    deadline = time.monotonic() + 10
    while not told() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert told()


class TestWhoIsBelieved:
    @pytest.mark.parametrize(
        "validation",
        [
            trusting(),
            trusting(sans=(exact(SanType.URI, SPIFFE),)),
            trusting(sans=(exact(SanType.DNS, "Catalog.Example"),)),
            trusting(sans=(exact(SanType.IP_ADDRESS, "127.0.0.1"),)),
            trusting(sans=(exact(SanType.EMAIL, "shop@catalog.example"),)),
            trusting(sans=(exact(None, SPIFFE),)),
            trusting(sans=(exact(SanType.URI, "spiffe://other"), exact(SanType.URI, SPIFFE))),
            trusting(sans=(SanMatch(SanType.URI, StringMatch(StringOp.PREFIX, "spiffe://cluster.local/")),)),
            trusting(sans=(SanMatch(SanType.URI, StringMatch(StringOp.SUFFIX, "/SA/CATALOG", ignore_case=True)),)),
            trusting(sans=(SanMatch(SanType.URI, StringMatch(StringOp.CONTAINS, "istioinaction")),)),
            trusting(sans=(SanMatch(SanType.URI, StringMatch(StringOp.REGEX, "spiffe://.*/sa/[a-z]+")),)),
            trusting(hashes=(hashlib.sha256(SERVER.der).digest(),)),
            CertificateValidation(hashes=(hashlib.sha256(SERVER.der).digest(),)),
            CertificateValidation(),
            trusting(OTHER_CA.pem, accept_untrusted=True, sans=(exact(SanType.URI, "spiffe://other"),)),
        ],
        ids=str,
    )
    def test_believed(self, validation, calling, serve):
        server = serve()
        caller = calling(source(UpstreamTls(validation=validation), server))
        assert caller.request().text == "ok"
        assert server.seen[0].requests == 1

    @pytest.mark.parametrize(
        ("sans", "said"),
        [
            ((exact(SanType.URI, "spiffe://other"),), "URI exact 'spiffe://other'"),
            ((exact(SanType.DNS, SPIFFE),), f"DNS exact '{SPIFFE}'"),
            ((SanMatch(SanType.URI, StringMatch(StringOp.REGEX, "spiffe://cluster.local")),), "regex"),
            ((SanMatch(SanType.DNS, StringMatch(StringOp.PREFIX, "Catalog")),), "prefix 'Catalog'"),
        ],
    )
    def test_wrong_names(self, sans, said, calling, serve):
        server = serve()
        caller = calling(source(UpstreamTls(validation=trusting(sans=sans)), server))
        refused(caller, server, f"the server's certificate is for URI {SPIFFE}", said)

    def test_wrong_ca(self, calling, serve):
        server = serve()
        caller = calling(source(UpstreamTls(validation=trusting(OTHER_CA.pem)), server))
        refused(caller, server, "unable to get local issuer certificate", "expected one signed by a CA of inline")

    def test_self_signed(self, calling, serve, tmp_path):
        other = Authority()
        server = serve(other.issue(SPIFFE))
        (tmp_path / "ca.pem").write_bytes(CA.pem)
        trust = CertificateValidation(trusted_ca=DataSource(str(tmp_path / "ca.pem")))
        refused(calling(source(UpstreamTls(validation=trust), server)), server, str(tmp_path / "ca.pem"))

    def test_expired(self, calling, serve):
        server = serve(CA.issue(SPIFFE, days=-1))
        refused(calling(source(UpstreamTls(validation=trusting()), server)), server, "certificate has expired")
        late = source(UpstreamTls(validation=trusting(allow_expired=True)), server)
        assert calling(late).request().status_code == 200

    def test_not_yet_valid(self, calling, serve):
        server = serve(CA.issue(SPIFFE, since=5))
        refused(calling(source(UpstreamTls(validation=trusting()), server)), server, "not yet valid")
        early = source(UpstreamTls(validation=trusting(allow_expired=True)), server)
        assert calling(early).request().status_code == 200

    def test_revoked(self, calling, serve):
        server, revoked = serve(), CA.revocations(SERVER)
        trust = trusting(crl=inline(revoked), crl_for_leaf_only=True)
        refused(calling(source(UpstreamTls(validation=trust), server)), server, "certificate revoked")
        other = trusting(crl=inline(CA.revocations()), crl_for_leaf_only=True)
        assert calling(source(UpstreamTls(validation=other), server)).request().status_code == 200

    def test_system_roots_do_not_know_it(self, calling, serve):
        server = serve()
        tls = UpstreamTls(validation=CertificateValidation(system_roots=True))
        refused(calling(source(tls, server)), server, "expected one signed by a CA of the system")

    def test_pins(self, calling, serve):
        server = serve()
        wrong = CertificateValidation(hashes=(b"\0" * 32,), spki=(b"\1" * 32,))
        refused(calling(source(UpstreamTls(validation=wrong), server)), server, "verify_certificate_spki")
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization

        key = x509.load_pem_x509_certificate(SERVER.chain).public_key()
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        right = CertificateValidation(spki=(hashlib.sha256(der).digest(),))
        assert calling(source(UpstreamTls(validation=right), server)).request().status_code == 200

    def test_a_plaintext_server(self, calling, serve):
        server = serve(None)
        with pytest.raises(meshlib.UpstreamConnectFailed) as caught:
            calling(source(UpstreamTls(validation=trusting()), server, connect_timeout=1.0)).request()
        assert b"GET" not in server.http
        assert "127.0.0.1" in str(caught.value)


class TestNames:
    def test_the_name_sent(self, calling, serve):
        server = serve()
        caller = calling(source(UpstreamTls(validation=trusting(), sni="outbound_.80_._.catalog.local"), server))
        caller.request()
        assert server.seen[0].sni == "outbound_.80_._.catalog.local"

    def test_no_name_is_sent_unasked(self, calling, serve):
        server = serve()
        calling(source(UpstreamTls(validation=trusting()), server)).request()
        assert server.seen[0].sni is None

    def test_auto_sni_and_san_validation(self, calling, serve):
        server = serve(CA.issue("*.shop.example"))
        options = UpstreamHttpProtocolOptions(auto_sni=True, auto_san_validation=True)
        tls = UpstreamTls(validation=trusting(), sni="literal")
        caller = calling(source(tls, server, upstream_http=options))
        caller.request(url="http://a.shop.example/")
        caller.request(url="http://b.shop.example:8080/")
        assert [one.sni for one in server.seen] == ["a.shop.example", "b.shop.example"]
        with pytest.raises(meshlib.UpstreamConnectFailed, match=r"DNS \*\.shop\.example; expected 'c\.d\.shop"):
            caller.request(url="http://c.d.shop.example/")

    def test_an_address_is_not_sent_but_checked(self, calling, serve):
        server = serve()
        options = UpstreamHttpProtocolOptions(auto_sni=True, auto_san_validation=True)
        caller = calling(source(UpstreamTls(validation=trusting()), server, upstream_http=options))
        caller.request(url="http://127.0.0.1/")
        assert server.seen[0].sni is None

    def test_auto_san_validation_needs_a_ca(self, calling, serve):
        server = serve()
        options = UpstreamHttpProtocolOptions(auto_san_validation=True)
        caller = calling(source(UpstreamTls(), server, upstream_http=options))
        refused(caller, server, "without trusted_ca", error=meshlib.TransportSecurityUnavailable)

    def test_auto_host_sni(self, calling, serve):
        server = serve()
        tls = UpstreamTls(validation=trusting(), sni="x", auto_host_sni=True, auto_sni_san_validation=True)
        endpoint = Endpoint("127.0.0.1", server.port, hostname="catalog.example")
        config = cluster([endpoint], transport_socket=as_socket(tls))
        calling(HandmadeSource(snapshot(config))).request()
        assert server.seen[0].sni == "catalog.example"

    def test_a_name_that_cannot_be_sent(self, calling, serve):
        server = serve()
        caller = calling(source(UpstreamTls(validation=trusting(), sni="." + "x" * 70), server))
        refused(caller, server, "server name")

    @pytest.mark.parametrize(
        ("name", "pattern", "matches"),
        [
            ("a.example.com", "a.example.com", True),
            ("A.example.com", "a.EXAMPLE.com", True),
            ("a.example.com", "*.example.com", True),
            ("a.b.example.com", "*.example.com", False),
            ("example.com", "*.example.com", False),
            ("abc.example.com", "a*c.example.com", True),
            ("ac.example.com", "a*c.example.com", False),
            ("abc.example.com", "*c.example.com", True),
            ("abd.example.com", "a*c.example.com", False),
            ("xn--a.example.com", "xn--*.example.com", False),
            ("a.b.com", "a.*.com", False),
            ("localhost", "*", False),
        ],
    )
    def test_dns_names(self, name, pattern, matches):
        assert dns_name_matches(name, pattern) is matches


class TestWhatIsSpoken:
    def test_alpn(self, calling, serve):
        server = serve(alpn=("h2", "http/1.1"))
        caller = calling(source(UpstreamTls(validation=trusting(), alpn=("h2", "http/1.1")), server))
        assert caller.request().status_code == 200
        assert server.seen[0].alpn == "http/1.1"

    def test_istio_is_told_that_it_is_http(self, calling, serve):
        server = serve(alpn=("istio-peer-exchange", "istio", "istio-http/1.1"))
        calling(source(UpstreamTls(validation=trusting(), alpn=("istio-peer-exchange", "istio")), server)).request()
        assert server.seen[0].alpn in ("istio", "istio-http/1.1")

    @pytest.mark.parametrize(
        ("minimum", "maximum", "spoken"),
        [
            (TlsVersion.TLS_1_2, TlsVersion.TLS_1_2, "TLSv1.2"),
            (TlsVersion.TLS_1_2, TlsVersion.TLS_1_3, "TLSv1.3"),
            (TlsVersion.TLS_1_3, TlsVersion.TLS_1_3, "TLSv1.3"),
        ],
    )
    def test_versions(self, minimum, maximum, spoken, calling, serve):
        server = serve()
        tls = UpstreamTls(validation=trusting(), minimum=minimum, maximum=maximum)
        calling(source(tls, server)).request()
        assert server.seen[0].version == spoken

    def test_a_server_too_old(self, calling, serve):
        server = serve(maximum=ssl.TLSVersion.TLSv1_2)
        tls = UpstreamTls(validation=trusting(), minimum=TlsVersion.TLS_1_3, maximum=TlsVersion.TLS_1_3)
        refused(calling(source(tls, server)), server, "protocol version")

    def test_ciphers_that_do_not_exist(self, calling, serve):
        server = serve()
        caller = calling(source(UpstreamTls(validation=trusting(), ciphers="NO-SUCH-SUITE"), server))
        refused(caller, server, "tls_params.cipher_suites", error=meshlib.TransportSecurityUnavailable)

    def test_http2(self, calling, serve):
        """HTTP/2 goes through httpcore and shakes hands alike."""
        server = serve(alpn=("h2",))
        tls = UpstreamTls(validation=trusting(sans=(exact(SanType.URI, SPIFFE),)), sni="s.example")
        caller = calling(source(tls, server, http2=True))
        answers = [caller.request() for _ in range(2)]
        assert [(answer.text, answer.http_version) for answer in answers] == [("ok", "HTTP/2")] * 2
        assert [(one.alpn, one.sni, one.requests) for one in server.seen] == [("h2", "s.example", 2)]

    def test_http2_of_the_wrong_server(self, calling, serve):
        server = serve(alpn=("h2",))
        tls = UpstreamTls(validation=trusting(sans=(exact(SanType.URI, "spiffe://other"),)))
        refused(calling(source(tls, server, http2=True)), server, f"URI {SPIFFE}", "spiffe://other")
        eventually(lambda: server.seen[0].alpn == "h2")

    def test_https_of_the_application_inside_the_meshs(self):
        attempt = Attempt(
            1, cluster([Endpoint("127.0.0.1", 1)]), Endpoint("127.0.0.1", 1), as_socket(UpstreamTls()), None, (), "", ""
        )
        view = RequestView(
            method="GET", scheme="https", host="catalog", port=443, authority="catalog", target="/", headers=[]
        )
        with pytest.raises(AttemptFailed, match="TLS inside TLS") as caught:
            handshake(TlsContexts(), attempt, view)
        assert caught.value.kind is ErrorKind.TLS_UNAVAILABLE


def test_uvloop(serve):
    """Another event loop, whose TLS is its own: names, refusals and sessions are the same."""
    uvloop = pytest.importorskip("uvloop")
    server, wrong = serve(closing=True), serve(OTHER_CA.issue(SPIFFE))
    tls = UpstreamTls(validation=trusting(sans=(exact(SanType.URI, SPIFFE),)))

    async def call(to, times):
        async with httpx.AsyncClient(transport=AsyncMeshTransport(runtime(source(tls, to)))) as client:
            return [(await client.get("http://catalog/")).text for _ in range(times)]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(call(server, 2)) == ["ok", "ok"]
        with pytest.raises(meshlib.UpstreamConnectFailed, match="unable to get local issuer certificate"):
            runner.run(call(wrong, 1))
    assert [(one.sni, one.resumed) for one in server.seen] == [(None, False), (None, True)]
    assert wrong.http == b""


class TestOurselves:
    def test_mutual(self, calling, serve):
        server = serve(client_ca=CA.pem)
        own = CA.issue("spiffe://cluster.local/ns/istioinaction/sa/webapp")
        tls = UpstreamTls(
            TlsCertificate(inline(own.chain), inline(own.key)), trusting(sans=(exact(SanType.URI, SPIFFE),))
        )
        assert calling(source(tls, server)).request().status_code == 200
        assert ("URI", "spiffe://cluster.local/ns/istioinaction/sa/webapp") in server.seen[0].client["subjectAltName"]

    def test_a_server_that_wants_a_certificate(self, calling, serve):
        server = serve(client_ca=CA.pem)
        caller = calling(source(UpstreamTls(validation=trusting()), server))
        refused(caller, server, "we sent no certificate")

    def test_a_key_that_is_not_the_certificates(self, calling, serve):
        server, a, b = serve(), CA.issue("a"), CA.issue("b")
        tls = UpstreamTls(TlsCertificate(inline(a.chain), inline(b.key)), trusting())
        caller = calling(source(tls, server))
        error = refused(caller, server, "key values mismatch", error=meshlib.TransportSecurityUnavailable)
        assert "PRIVATE" not in str(error)
        assert "PRIVATE" not in repr(tls)

    def test_a_file_that_is_missing_and_comes(self, calling, serve, tmp_path):
        server, own = serve(client_ca=CA.pem), CA.issue("webapp")
        chain, key = str(tmp_path / "own.pem"), str(tmp_path / "own-key.pem")
        tls = UpstreamTls(TlsCertificate(DataSource(chain), DataSource(key)), trusting())
        caller = calling(source(tls, server))
        refused(caller, server, "certificate_chain", chain, "No such file", error=meshlib.TransportSecurityUnavailable)
        own.written(tmp_path)
        assert caller.request().status_code == 200

    def test_an_encrypted_key(self, calling, serve):
        from cryptography.hazmat.primitives import serialization

        server, own = serve(client_ca=CA.pem), CA.issue("webapp")
        encrypted = serialization.load_pem_private_key(own.key, None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"sesame"),
        )
        certificate = TlsCertificate(inline(own.chain), inline(encrypted), inline(b"sesame"))
        assert calling(source(UpstreamTls(certificate, trusting()), server)).request().status_code == 200
        lacking = TlsCertificate(inline(own.chain), inline(encrypted))
        refused_caller = calling(source(UpstreamTls(lacking, trusting()), serve()))
        with pytest.raises(meshlib.TransportSecurityUnavailable):
            refused_caller.request()


class TestConnections:
    def test_they_are_kept(self, calling, serve):
        server = serve()
        caller = calling(source(UpstreamTls(validation=trusting()), server))
        for _ in range(3):
            caller.request()
        assert [one.requests for one in server.seen] == [3]

    def test_settings_that_change_nothing_keep_them(self, calling, serve):
        server = serve()
        feed = source(UpstreamTls(validation=trusting()), server)
        caller = calling(feed)
        caller.request()
        feed.publish(mesh(UpstreamTls(validation=trusting()), server, version="2"))
        caller.request()
        assert [one.requests for one in server.seen] == [2]

    def test_settings_that_change_end_them(self, calling, serve):
        server = serve()
        feed = source(UpstreamTls(validation=trusting()), server)
        caller = calling(feed)
        caller.request()
        feed.publish(mesh(UpstreamTls(validation=trusting(), sni="two"), server, version="2"))
        caller.request()
        assert [(one.sni, one.requests) for one in server.seen] == [(None, 1), ("two", 1)]

    def test_files_that_change_end_them(self, calling, serve, tmp_path):
        server = serve(client_ca=CA.pem)
        chain, key = CA.issue("one").written(tmp_path)
        tls = UpstreamTls(TlsCertificate(DataSource(chain), DataSource(key)), trusting())
        caller = calling(source(tls, server))
        caller.request()
        (tmp_path / "new").mkdir()
        for new, old in zip(CA.issue("two").written(tmp_path / "new"), (chain, key), strict=True):
            os.replace(new, old)
        deadline = time.monotonic() + 20
        while len(server.seen) < 2 and time.monotonic() < deadline:
            caller.request()
            time.sleep(0.1)
        names = [one.client["subjectAltName"][0][1] for one in server.seen]
        assert names == ["one", "two"]

    def test_a_half_written_rotation_keeps_what_was(self, calling, serve, tmp_path):
        server = serve(client_ca=CA.pem)
        chain, key = CA.issue("one").written(tmp_path)
        tls = UpstreamTls(TlsCertificate(DataSource(chain), DataSource(key)), trusting())
        caller = calling(source(tls, server))
        caller.request()
        (tmp_path / "own.pem").write_bytes(CA.issue("two").chain)  # and its key is still on its way
        time.sleep(1.2)
        assert caller.request().status_code == 200
        assert [one.requests for one in server.seen] == [2]

    def test_from_plaintext_to_tls(self, calling, serve):
        server = serve()
        endpoint = Endpoint("127.0.0.1", server.port)
        feed = HandmadeSource(snapshot(cluster([endpoint])))
        caller = calling(feed)
        with pytest.raises(meshlib.MeshError):
            caller.request()
        feed.publish(mesh(UpstreamTls(validation=trusting()), server, version="2"))
        assert caller.request().status_code == 200

    @pytest.mark.parametrize("maximum", [TlsVersion.TLS_1_2, TlsVersion.TLS_1_3])
    @pytest.mark.parametrize("resumption", [True, False])
    def test_they_resume_a_session(self, maximum, resumption, calling, serve):
        server = serve(closing=True)
        tls = UpstreamTls(
            validation=trusting(sans=(exact(SanType.URI, SPIFFE),)), maximum=maximum, resumption=resumption
        )
        caller = calling(source(tls, server))
        for _ in range(3):
            caller.request()
        assert [one.resumed for one in server.seen] == [False, resumption, resumption]

    def test_a_failed_handshake_is_retried_elsewhere(self, calling, serve):
        bad, good = serve(OTHER_CA.issue(SPIFFE)), serve()
        policy = retry("connect-failure", num_retries=3, base_interval=0.001, max_interval=0.002)
        caller = calling(source(UpstreamTls(validation=trusting()), bad, good, routes=[forward(retry=policy)]))
        assert [caller.request().status_code for _ in range(6)] == [200] * 6
        assert bad.http == b""

    def test_matches_by_metadata(self, calling, serve):
        secure, plain = serve(), serve(None)
        tls = as_socket(UpstreamTls(validation=trusting()))
        endpoints = [
            Endpoint("127.0.0.1", secure.port, metadata={"envoy.transport_socket_match": {"tlsMode": "istio"}}),
            Endpoint("127.0.0.1", plain.port),
        ]
        matches = (
            TransportSocketMatch("tlsMode-istio", (("tlsMode", "istio"),), tls),
            TransportSocketMatch("tlsMode-disabled", (), TransportSocket("raw", secure=False)),
        )
        caller = calling(HandmadeSource(snapshot(cluster(endpoints, transport_socket_matches=matches))))
        for _ in range(12):
            assert caller.request().text == "ok"
        assert secure.http.startswith(b"GET")
        assert plain.http.startswith(b"GET")
        assert secure.seen[0].version

    def test_an_inner_transport_that_dials_is_refused(self, serve):
        server = serve()
        config = source(UpstreamTls(validation=trusting()), server)
        caller = SyncCaller(runtime(config), inner=httpx.HTTPTransport())
        refused(caller, server, "would send without it", error=meshlib.TransportSecurityUnavailable)
        caller.close()
