"""The TLS port: its certificate, read anew, and certificates asked of clients."""

import os
import time

import grpc
import pytest
import trustme

from controlplane.serving import AdsClient, Source, build, names
from meshlib.controlplane import status
from meshlib.controlplane.resources import CLUSTER
from meshlib.controlplane.server import Server
from meshlib.controlplane.server_tls import ServerTls
from meshlib.errors import ConfigError
from waiting import until


class Files:
    """A CA, and a certificate of it for 127.0.0.1 in files."""

    def __init__(self, folder):
        self.folder = folder
        self.certificate, self.key, self.roots = (folder / name for name in ("cert.pem", "key.pem", "ca.pem"))
        self.renew()

    def renew(self):
        self.ca = trustme.CA()
        issued = self.ca.issue_cert("127.0.0.1")
        self.ca.cert_pem.write_to_path(self.roots)
        for path, content in (
            (self.key, issued.private_key_pem.bytes()),
            (self.certificate, b"".join(item.bytes() for item in issued.cert_chain_pems)),
        ):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            os.replace(new, path)

    def channel(self, address, identity=None):
        key, chain = (None, None) if identity is None else identity
        credentials = grpc.ssl_channel_credentials(self.roots.read_bytes(), key, chain)
        return grpc.secure_channel(address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_both_ports_serve_the_same(files):
    with Server(Source(build()), port=0, tls=ServerTls(files.certificate, files.key), tls_port=0) as server:
        for channel in (grpc.insecure_channel(server.address), files.channel(server.tls_address)):
            with channel:
                client = AdsClient(channel)
                assert names(client.get(CLUSTER)) == ["catalog"]
                client.close()
        assert status.fetch(server.tls_address, ca=files.roots) is not None


def test_plaintext_can_be_left_out(files):
    with Server(Source(build()), port=None, tls=ServerTls(files.certificate, files.key), tls_port=0) as server:
        assert server.port is None
        with pytest.raises(ConfigError, match="no plaintext port"):
            _ = server.address
        with grpc.insecure_channel(server.tls_address) as channel:
            client = AdsClient(channel)
            client.send(CLUSTER)
            assert client.call.code() is grpc.StatusCode.UNAVAILABLE
            client.close()


def test_neither_port_is_an_error():
    with pytest.raises(ConfigError, match="needs a certificate"):
        Server(Source(build()), port=None)


def test_a_new_certificate_is_taken_up_and_a_broken_one_is_not(files, caplog):
    with Server(Source(build()), port=0, tls=ServerTls(files.certificate, files.key), tls_port=0) as server:

        def answered():
            with files.channel(server.tls_address) as channel:
                try:
                    grpc.channel_ready_future(channel).result(timeout=2)
                except grpc.FutureTimeoutError:
                    return False
                return True

        assert answered()
        files.renew()
        until(answered)
        files.key.write_text("no key at all")
        assert answered()
        assert answered()
        told = [record.message for record in caplog.records if "the certificate read before stays" in record.message]
        assert len(told) == 1
        assert "cert.pem" in told[0]
        files.renew()
        until(answered)


def test_without_a_certificate_of_the_right_ca_a_client_is_refused(files):
    tls = ServerTls(files.certificate, files.key, client_ca=files.roots)
    with Server(Source(build()), port=None, tls=tls, tls_port=0) as server:
        mine = files.ca.issue_cert("client.example")
        theirs = trustme.CA().issue_cert("client.example")
        answers = []
        for issued in (mine, theirs, None):
            identity = issued and (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
            with files.channel(server.tls_address, identity) as channel:
                client = AdsClient(channel)
                client.send(CLUSTER)
                try:
                    answers.append(names(client.receive()) if issued is mine else client.call.code())
                finally:
                    client.close()
        assert answers == [["catalog"], grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE]


@pytest.mark.parametrize("broken", ["certificate", "key", "roots"])
def test_unusable_files_are_an_error_at_the_start_that_names_them(files, broken):
    path = getattr(files, broken)
    path.write_text("nothing of the kind")
    tls = ServerTls(files.certificate, files.key, client_ca=files.roots)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=path.name):
        Server(Source(build()), port=0, tls=tls, tls_port=0).start()
    assert time.monotonic() - started < 10
