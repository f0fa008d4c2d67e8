"""Certificates and TLS servers: what the other side of a connection is, and what it saw."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class Identity:
    """A certificate chain and its key, in PEM."""

    chain: bytes
    key: bytes
    der: bytes = b""

    def written(self, folder: Path, name: str = "own") -> tuple[str, str]:
        """Write both as files and return their paths."""
        paths = folder / f"{name}.pem", folder / f"{name}-key.pem"
        paths[0].write_bytes(self.chain)
        paths[1].write_bytes(self.key)
        return str(paths[0]), str(paths[1])


class Authority:
    """A CA that signs whatever is asked of it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"CA {id(self)}")])
        self._certificate = self._signed(self._name, self._key, [], ca=True)

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: str, days: int = 30, since: int = -30) -> Identity:
        """Issue a certificate for names: URIs, IP addresses, mail addresses, else DNS names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a server of the tests")])
        certificate = self._signed(subject, key, list(names), days=days, since=since)
        return Identity(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            certificate.public_bytes(serialization.Encoding.DER),
        )

    def revocations(self, *identities: Identity) -> bytes:
        """Return a CRL that revokes certificates."""
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self._name,
            last_update=_days(-1),
            next_update=_days(30),
            revoked_certificates=[
                x509.RevokedCertificateBuilder()
                .serial_number(x509.load_pem_x509_certificate(identity.chain).serial_number)
                .revocation_date(_days(-1))
                .build()
                for identity in identities
            ],
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _signed(
        self, subject: x509.Name, key: Any, names: list[str], *, days: int = 30, since: int = -30, ca: bool = False
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(_days(since))
            .not_valid_after(_days(days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        return builder.sign(self._key, hashes.SHA256())


def _days(count: int) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=count)


def _general(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    if "@" in name:
        return x509.RFC822Name(name)
    with contextlib.suppress(ValueError):
        import ipaddress

        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


@dataclass
class Seen:
    """One connection as the server saw it."""

    sni: str | None = None
    alpn: str | None = None
    version: str | None = None
    resumed: bool | None = None
    client: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    requests: int = 0


class TlsServer:
    """Answers HTTP/1.1 over TLS with keep-alive; writes down every connection and every byte of HTTP."""

    def __init__(
        self,
        identity: Identity | None,
        *,
        client_ca: bytes | None = None,
        alpn: tuple[str, ...] = (),
        maximum: ssl.TLSVersion | None = None,
        closing: bool = False,
    ) -> None:
        self._head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + (b"connection: close\r\n" if closing else b"")
        self.seen: list[Seen] = []
        self.http = b""
        self._client_ca, self._alpn, self._maximum = client_ca, alpn, maximum
        self.context: ssl.SSLContext | None = None
        if identity is not None:
            self.use(identity)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def use(self, identity: Identity) -> None:
        """Show this certificate from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with _files(identity) as (chain, key):
            context.load_cert_chain(chain, key)
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self._client_ca.decode())
        if self._alpn:
            context.set_alpn_protocols(list(self._alpn))
        if self._maximum is not None:
            context.maximum_version = self._maximum
        self.context = context

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # which wakes the thread that accepts
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        seen = Seen()
        self.seen.append(seen)
        stream = sock
        self._open.add(sock)
        try:
            if self.context is not None:
                context = self.context
                context.sni_callback = lambda _sock, name, _context: setattr(seen, "sni", name)
                self._open.discard(sock)
                stream = context.wrap_socket(sock, server_side=True)
                self._open.add(stream)
                seen.alpn, seen.version = stream.selected_alpn_protocol(), stream.version()
                seen.resumed, seen.client = stream.session_reused, stream.getpeercert() or {}
            if seen.alpn == "h2":
                self._answer_http2(stream, seen)
            else:
                self._answer(stream, seen)
        except OSError as error:
            seen.error = str(error)
        finally:
            self._open.discard(stream)
            stream.close()

    def _answer(self, stream: socket.socket, seen: Seen) -> None:
        pending = b""
        while data := stream.recv(65536):
            self.http += data
            pending += data
            while b"\r\n\r\n" in pending:
                _, _, pending = pending.partition(b"\r\n\r\n")
                seen.requests += 1
                stream.sendall(self._head + b"\r\nok")

    def _answer_http2(self, stream: socket.socket, seen: Seen) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        stream.sendall(connection.data_to_send())
        while data := stream.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    self.http += b"h2"
                    seen.requests += 1
                    connection.send_headers(event.stream_id, [(":status", "200")])
                    connection.send_data(event.stream_id, b"ok", end_stream=True)
            stream.sendall(connection.data_to_send())


@contextlib.contextmanager
def _files(identity: Identity) -> Iterator[tuple[str, str]]:
    with trustme.Blob(identity.chain).tempfile() as chain, trustme.Blob(identity.key).tempfile() as key:
        yield chain, key
