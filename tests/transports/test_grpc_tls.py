"""TLS of gRPC channels, sync and asyncio: one DNS name is verified, and what asks for more is refused."""

from __future__ import annotations

import os

import grpc
import pytest

import meshlib
from meshlib.model.cluster import TransportSocket
from meshlib.model.match import StringMatch, StringOp
from meshlib.model.tls import (
    CertificateValidation,
    DataSource,
    SanMatch,
    SanType,
    TlsCertificate,
    TlsVersion,
    UpstreamTls,
)
from transports.grpc_peers import Peer, connecting, serving
from transports.snapshots import route, runtime_on, static_cluster, static_snapshot
from upstream.tls_peers import Authority

connect = connecting()
CA, OTHER = Authority(), Authority()
SERVER = CA.issue("catalog.example", "*.wild.example", "spiffe://a/catalog")


def peer(name="a", identity=SERVER, client_ca=None):
    pair = [(identity.key, identity.chain)]
    credentials = grpc.ssl_server_credentials(pair, client_ca, require_client_auth=client_ca is not None)
    return Peer(name, credentials=credentials)


def dns(name):
    return SanMatch(SanType.DNS, StringMatch(StringOp.EXACT, name))


def trusting(ca=CA.pem, **fields):
    return CertificateValidation(trusted_ca=DataSource(inline=ca), **fields)


def mesh(tls, port):
    socket = TransportSocket("tls", secure=True, detail="TLS", tls=tls)
    return runtime_on(
        static_snapshot(clusters=[static_cluster("c", [port], transport_socket=socket)], routes=[route("c")])
    )


@pytest.mark.parametrize(
    "tls",
    [
        UpstreamTls(validation=trusting(sans=(dns("catalog.example"),))),
        UpstreamTls(validation=trusting(sans=(dns("x.wild.example"),)), alpn=("h2",)),
        UpstreamTls(validation=trusting(), sni="catalog.example", maximum=TlsVersion.TLS_1_3),
        UpstreamTls(validation=trusting(sans=(dns("catalog.example"),)), sni="catalog.example"),
    ],
    ids=str,
)
def test_the_right_server(connect, tls):
    server = peer()
    with serving(server):
        assert connect(mesh(tls, server.port)).call(timeout=10).code == "OK"
    assert server.seen[0].authority == "catalog", "grpc takes no port of a host that is not the certificate's"


@pytest.mark.parametrize(
    "tls",
    [
        UpstreamTls(validation=trusting(OTHER.pem), sni="catalog.example"),
        UpstreamTls(validation=trusting(sans=(dns("forum.example"),))),
        UpstreamTls(validation=trusting(), sni="forum.example"),
    ],
    ids=str,
)
def test_another_server(connect, tls):
    server = peer()
    with serving(server):
        answer = connect(mesh(tls, server.port)).call(timeout=10)
    assert isinstance(answer.error, meshlib.UpstreamConnectFailed)
    assert server.seen == []


def test_mutual_with_files_that_change(connect, tmp_path):
    server = peer(client_ca=CA.pem)
    chain, key = CA.issue("webapp").written(tmp_path)
    certificate = TlsCertificate(DataSource(chain), DataSource(key))
    tls = UpstreamTls(certificate, trusting(sans=(dns("catalog.example"),)))
    with serving(server):
        channel = connect(mesh(tls, server.port))
        assert channel.call(timeout=10).code == "OK"
        (tmp_path / "new").mkdir()
        for new, old in zip(OTHER.issue("webapp").written(tmp_path / "new"), (chain, key), strict=True):
            os.replace(new, old)
        assert channel.call(timeout=10).code != "OK"
        os.remove(key)
        error = channel.call(timeout=10).error
        assert isinstance(error, meshlib.TransportSecurityUnavailable)
        assert "No such file" in str(error)
    assert len(server.seen) == 1


SPIFFE = SanMatch(SanType.URI, StringMatch(StringOp.EXACT, "spiffe://a/catalog"))


@pytest.mark.parametrize(
    ("tls", "reason"),
    [
        (UpstreamTls(validation=trusting(sans=(SPIFFE,)), sni="s"), "no SPIFFE name or pattern"),
        (UpstreamTls(validation=trusting(sans=(dns("a"), dns("b")))), "one exact DNS name"),
        (UpstreamTls(validation=trusting(sans=(dns("a"),)), sni="b"), "the settings say a and b"),
        (UpstreamTls(validation=trusting()), "the settings say none"),
        (UpstreamTls(sni="s"), "whose CA is not given"),
        (UpstreamTls(validation=trusting(hashes=(b"0" * 32,)), sni="s"), "pins"),
        (UpstreamTls(validation=trusting(), sni="s", minimum=TlsVersion.TLS_1_3), "minimum of TLS 1.3"),
        (UpstreamTls(validation=trusting(), sni="s", refusal="sni: no"), "sni: no"),
    ],
)
def test_what_asks_for_more_is_refused(connect, tls, reason):
    server = peer()
    with serving(server):
        error = connect(mesh(tls, server.port)).call(timeout=10).error
    assert isinstance(error, meshlib.TransportSecurityUnavailable)
    assert reason in str(error)
    assert server.seen == []
