"""Credentials: how a connection to a management server is secured, and what is sent as our identity.

Small values that name files or hold PEM. Files are read anew at every connect, so that rotated
certificates and tokens are taken up without being watched. What is secret is kept out of ``repr``.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from meshlib.errors import BootstrapError

Metadata = tuple[tuple[str, str], ...]


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

    @contextlib.contextmanager
    def as_file(self, what: str) -> Iterator[str]:
        """Give a path to the text, for :mod:`ssl` takes nothing else; what is held here never outlasts that.

        Raises:
            BootstrapError: the file cannot be read.
        """
        text = self.read(what)
        if self.file:
            yield self.file
        elif hasattr(os, "memfd_create"):
            with open(os.memfd_create("meshlib"), "wb") as memory:
                memory.write(text)
                memory.flush()
                yield f"/proc/self/fd/{memory.fileno()}"
        else:
            number, path = tempfile.mkstemp()  # readable by its owner alone
            try:
                with open(number, "wb") as file:
                    file.write(text)
                yield path
            finally:
                os.unlink(path)


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

    def context(self) -> None:
        """Return that there is no TLS."""

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

    def context(self) -> None:
        """Return that there is no TLS."""

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

    def context(self) -> ssl.SSLContext:
        """Read the files and return what is to be used for one connection, and offers HTTP/2 alone.

        Raises:
            BootstrapError: a file cannot be read or holds something else, or key and certificate
                do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the chain and the name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate CA may be the root, as in gRPC
        context.set_alpn_protocols(["h2"])
        if self.root_ca is not None:
            _load_roots(context, self.root_ca)
        else:
            _load_system_roots(context)
        if self.certificate is not None and self.private_key is not None:
            _load_pair(context, self.certificate, self.private_key)
        return context

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


def _load_system_roots(context: ssl.SSLContext) -> None:
    context.load_default_certs()  # OpenSSL's default, SSL_CERT_FILE
    if not context.cert_store_stats()["x509_ca"] and not ssl.get_default_verify_paths().capath:
        raise BootstrapError("root CA: this system has no CA certificates where OpenSSL looks; name a file of them")


def _load_roots(context: ssl.SSLContext, roots: Pem) -> None:
    text = roots.read("root CA").decode("ascii", "ignore")
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise BootstrapError(f"root CA: {roots.place} holds no PEM certificate that can be read") from error


def _load_pair(context: ssl.SSLContext, certificate: Pem, key: Pem) -> None:
    with certificate.as_file("certificate") as chain, key.as_file("private key") as private:
        try:
            context.load_cert_chain(chain, private, password=lambda: b"")  # or OpenSSL asks at the terminal
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", "") or "not PEM, or the key is encrypted"
            raise BootstrapError(
                f"certificate {certificate.place} with private key {key.place} cannot be used: {reason}"
            ) from error
