"""Credentials: how a channel to a management server is secured, and what is sent as our identity.

Small values that name files or hold PEM. Files are read anew at every connect, so that rotated
certificates and tokens are taken up without being watched. What is secret is kept out of ``repr``.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from meshlib.errors import BootstrapError

Metadata = tuple[tuple[str, str], ...]
Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Pem:
    """PEM text (certificates or a private key), in a file or here.

    Attributes:
        file: its path; empty where it is held here.
        inline: the text itself; never printed.
    """

    file: str = ""
    inline: bytes = field(default=b"", repr=False)

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return self.file or "the bootstrap"

    def read(self, what: str) -> bytes:
        """Return the text as it is now; raises ``BootstrapError`` naming ``what`` and the file."""
        return read_file(self.file, what) if self.file else self.inline


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token, sent with every stream.

    Attributes:
        file: the file that holds it, read anew for every stream.
        inline: the token itself; never printed.
        header: the metadata key it goes under.
        prefix: what precedes it there.
    """

    file: str = ""
    inline: str = field(default="", repr=False)
    header: str = "authorization"
    prefix: str = "Bearer "

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return self.file or "the bootstrap"

    def read(self) -> str:
        """Return the token as it is now; raises ``BootstrapError`` naming the file."""
        if not self.file:
            return self.inline
        token = read_file(self.file, "token").decode("latin-1").strip()
        if not token:
            raise BootstrapError(f"token: {self.file} is empty")
        return token

    def metadata(self) -> Metadata:
        """Return what is sent; raises ``BootstrapError`` naming the file."""
        token = self.read()
        if not (token.isascii() and token.isprintable()):  # gRPC would quote it in its own error
            raise BootstrapError(f"token: {self.place} holds bytes that no header may hold")
        return ((self.header, self.prefix + token),)


@dataclass(frozen=True, slots=True)
class Insecure:
    """Plaintext, and no identity of ours: a token is never sent in plaintext."""

    def channel(self, address: str, options: Options) -> grpc.Channel:
        """Return a channel; it connects on first use."""
        return grpc.insecure_channel(address, options=list(options))

    def metadata(self) -> Metadata:
        """Return nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class Local:
    """Plaintext that never leaves this machine: a unix socket or loopback, else the connection fails.

    gRPC's ``LocalCredentials``.

    Attributes:
        token: the bearer token; the connection counts as private, so one may be sent.
    """

    token: Token | None = None

    def channel(self, address: str, options: Options) -> grpc.Channel:
        """Return a channel; it connects on first use."""
        unix = address.startswith("unix:")
        kind = grpc.LocalConnectionType.UDS if unix else grpc.LocalConnectionType.LOCAL_TCP
        return grpc.secure_channel(address, grpc.local_channel_credentials(kind), options=list(options))

    def metadata(self) -> Metadata:
        """Return the token's metadata; raises ``BootstrapError`` naming the file."""
        return self.token.metadata() if self.token is not None else ()


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS, with a client certificate, a bearer token, both or neither.

    Attributes:
        root_ca: the CAs that may have signed the server's certificate; None for the system's.
        certificate: our certificate chain; None for none.
        private_key: its key, given exactly when ``certificate`` is.
        server_name: the DNS name or address the server's certificate must be for, and the SNI;
            empty for the host of the server's address.
        token: the bearer token.
    """

    root_ca: Pem | None = None
    certificate: Pem | None = None
    private_key: Pem | None = None
    server_name: str = ""
    token: Token | None = None

    def channel(self, address: str, options: Options) -> grpc.Channel:
        """Read the files and return a channel; it connects on first use.

        Raises:
            BootstrapError: a file cannot be read or holds something else, or key and certificate
                do not belong together.
        """
        root = self.root_ca.read("root CA") if self.root_ca is not None else _system_roots()
        if root is not None:
            _check_roots(root, self.root_ca.place if self.root_ca is not None else "the system's roots")
        certificate = key = None
        if self.certificate is not None and self.private_key is not None:
            certificate, key = self.certificate.read("certificate"), self.private_key.read("private key")
            if self.certificate.file and self.private_key.file:
                _check_pair(self.certificate.file, self.private_key.file)
        secure = grpc.ssl_channel_credentials(root, key, certificate)
        named = (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()
        return grpc.secure_channel(address, secure, options=[*options, *named])

    def metadata(self) -> Metadata:
        """Return the token's metadata; raises ``BootstrapError`` naming the file."""
        return self.token.metadata() if self.token is not None else ()


Credentials = Insecure | Local | Tls
PLAINTEXT = Insecure()


def read_file(path: str, what: str) -> bytes:
    """Return a file's bytes; raises ``BootstrapError`` naming ``what`` it was to hold."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BootstrapError(f"{what}: {path} cannot be read: {error.strerror or error}") from error


def _system_roots() -> bytes | None:
    """Return the system's CA bundle (OpenSSL's default, SSL_CERT_FILE), None to use gRPC's own."""
    path = ssl.get_default_verify_paths().cafile
    return Path(path).read_bytes() if path else None


def _check_roots(root: bytes, place: str) -> None:
    # gRPC would say "Failed to create security handshaker", and what is wrong only on stderr.
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=root.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise BootstrapError(f"root CA: {place} holds no PEM certificate that can be read") from error


def _check_pair(certificate: str, key: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", "") or "not PEM, or the key is encrypted"
        raise BootstrapError(f"certificate {certificate} with private key {key} cannot be used: {reason}") from error
