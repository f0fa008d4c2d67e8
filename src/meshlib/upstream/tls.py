"""TLS to endpoints as the cluster's transport socket says: contexts, handshakes, who the server is.

Python's ssl verifies the chain and the dates during the handshake. What it cannot be told, the
SPIFFE and other names and the pins, is checked after it and before a byte of HTTP goes out
(design.md, decision 12). Files are looked at again while they are used, at most once a second;
connections made before a change are not used for calls after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from meshlib.model.tls import (
    CertificateValidation,
    DataSource,
    SanType,
    TlsCertificate,
    TlsVersion,
    UpstreamTls,
    dns_name_matches,
    plain_address,
)

_log = logging.getLogger("meshlib.upstream")

_LOOK_EVERY = 1.0  # seconds between looks at files in use
_MANY = 4096  # settings remembered; forgotten all at once
# X509_V_FLAG_NO_CHECK_TIME, which Python's ssl has no name for.
_NO_CHECK_TIME = 0x200000
_VERSIONS = {
    TlsVersion.TLS_1_0: ssl.TLSVersion.TLSv1,
    TlsVersion.TLS_1_1: ssl.TLSVersion.TLSv1_1,
    TlsVersion.TLS_1_2: ssl.TLSVersion.TLSv1_2,
    TlsVersion.TLS_1_3: ssl.TLSVersion.TLSv1_3,
}
# What Istio's sidecars offer one another for HTTP (filter istio.alpn) where the cluster says "istio":
# without it the other side takes the connection for TCP.
_ISTIO = {False: ("istio-http/1.1", "istio", "http/1.1"), True: ("istio-h2", "istio", "h2")}

Peer = ssl.SSLObject | ssl.SSLSocket


class TlsUnavailable(Exception):
    """TLS that cannot be spoken as configured: nothing was sent, nothing will be."""


class PeerRejected(ssl.SSLError):
    """The handshake went well, and the server is not who it should be."""

    def __str__(self) -> str:
        return str(self.args[-1])


@dataclass(eq=False, slots=True)
class Material:
    """A context made of one state of its files. Another state is another material, by identity."""

    context: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class Handshake:
    """How TLS is spoken on a connection; connections of equal ones may be shared.

    Attributes:
        material: certificates and CAs as they are now.
        tls: the settings.
        server_name: the server name to send, empty for none.
        peer_name: the name the certificate must be for, empty where only ``tls`` says.
    """

    material: Material
    tls: UpstreamTls
    server_name: str = ""
    peer_name: str = ""

    @property
    def context(self) -> ssl.SSLContext:
        """The context to shake hands with."""
        return self.material.context

    def verify(self, peer: Peer) -> None:
        """Check who the server is, as Envoy does after the chain; raises ``PeerRejected``."""
        validation = self.tls.validation
        if validation.accept_untrusted:
            return
        names = _names(peer)
        if self.peer_name and not any(_is_for(self.peer_name, kind, value) for kind, value in names):
            raise PeerRejected(f"{_said(names)}; expected {self.peer_name!r}")
        sans = validation.sans
        if sans and not any(san.matches(kind, value) for san in sans for kind, value in names):
            raise PeerRejected(f"{_said(names)}; expected {' or '.join(map(str, sans))}")
        if validation.hashes or validation.spki:
            _check_pins(peer, validation)

    def explain(self, error: BaseException) -> str:
        """Say for people why a handshake failed."""
        expected = _expectation(self.tls.validation)
        if isinstance(error, PeerRejected):
            return str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the server's certificate is not trusted: {error.verify_message}; expected {expected}"
        reason = getattr(error, "reason", None) or ""
        if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
            return f"the server does not answer in TLS ({reason.lower()}): does it speak plaintext?"
        if isinstance(error, ssl.SSLEOFError | ConnectionError | ssl.SSLZeroReturnError):
            return "the server closed the connection during the handshake"
        if "ALERT" in reason:
            sent = self.server_name or "none"
            own = "with our certificate" if self.tls.certificate else "we sent no certificate"
            return f"the server refused the handshake: {reason.lower().replace('_', ' ')} (server name {sent}, {own})"
        return reason.lower().replace("_", " ") or str(error)


class TlsContexts:
    """Makes handshakes; shares contexts among clusters that differ in names alone. Any thread."""

    def __init__(self) -> None:
        # Without a lock, which a fork could leave taken: two threads at once make two equal ones.
        self._by_tls: dict[tuple[UpstreamTls, bool], _Kept] = {}
        self._by_settings: dict[object, _Kept] = {}
        self._names: set[str] = {""}  # server names that can be sent

    def handshake(self, tls: UpstreamTls, *, http2: bool, server_name: str, peer_name: str) -> Handshake:
        """Return how to speak TLS now.

        Args:
            tls: the settings, with nothing left unresolved.
            http2: the protocol to be spoken inside.
            server_name: see :class:`Handshake`.
            peer_name: likewise.

        Raises:
            TlsUnavailable: it cannot be spoken.
        """
        if tls.refusal:
            raise TlsUnavailable(tls.refusal)
        if peer_name and not (tls.validation.has_ca or tls.validation.accept_untrusted):
            raise TlsUnavailable("auto_san_validation without trusted_ca: any certificate may bear any name")
        if server_name not in self._names:
            self._check(server_name)
        kept = self._by_tls.get((tls, http2))
        if kept is None:
            kept = self._keep(tls, http2)
        return Handshake(kept.material(time.monotonic()), tls, server_name, peer_name)

    def _check(self, server_name: str) -> None:
        try:
            if server_name.startswith("."):
                raise ValueError("it begins with a dot")
            server_name.encode("idna")  # as Python's ssl will
        except ValueError as error:
            raise TlsUnavailable(f"{server_name!r} cannot be sent as a server name: {error}") from error
        if len(self._names) >= _MANY:
            self._names = {""}
        self._names.add(server_name)

    def _keep(self, tls: UpstreamTls, http2: bool) -> _Kept:
        if len(self._by_tls) >= _MANY:
            self._by_tls, self._by_settings = {}, {}
        settings = _settings(tls, http2)
        kept = self._by_settings.get(settings)
        if kept is None:
            kept = self._by_settings[settings] = _Kept(tls, http2)
        self._by_tls[tls, http2] = kept
        return kept


class _Kept:
    """The context of some settings, made again when its files change."""

    __slots__ = ("_digest", "_failed", "_http2", "_looked", "_material", "_sources", "_stamps", "_tls")

    def __init__(self, tls: UpstreamTls, http2: bool) -> None:
        self._tls = tls
        self._http2 = http2
        self._sources = _sources(tls)
        self._stamps: object = None
        self._digest = b""
        self._failed: object = None
        self._looked = 0.0
        self._material: Material | None = None

    def material(self, now: float) -> Material:
        """Return the material as the files are, or were when they last could be used."""
        found = self._material
        if found is not None and (not self._stamps or now - self._looked < _LOOK_EVERY):
            return found
        self._looked = now
        stamps = tuple(_stamp(path) for path in sorted(s.filename for s in self._sources.values() if s.filename))
        if found is not None and stamps in (self._stamps, self._failed):
            return found
        try:
            return self._read(stamps)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            if found is None:
                raise TlsUnavailable(str(error)) from error
            self._failed = stamps
            _log.warning("tls=%s cannot be used, what it was stays: %s", " ".join(map(str, stamps)), error)
            return found

    def _read(self, stamps: object) -> Material:
        contents = {place: _content(place, source) for place, source in self._sources.items()}
        digest = hashlib.sha256(b"\0".join(contents.values())).digest()
        if self._material is None or digest != self._digest:
            self._material = Material(_context(self._tls, self._http2, contents))
        self._digest, self._stamps, self._failed = digest, stamps, None
        return self._material


def _settings(tls: UpstreamTls, http2: bool) -> object:
    """Return what a context depends on: all but the names."""
    v = tls.validation
    trust = (v.trusted_ca, v.system_roots, v.accept_untrusted, v.allow_expired, v.crl, v.crl_for_leaf_only)
    spoken = (tls.alpn, http2, tls.minimum, tls.maximum, tls.ciphers, tls.curve, tls.renegotiation)
    return (tls.certificate, trust, spoken)


def _sources(tls: UpstreamTls) -> dict[str, DataSource]:
    own, trust = tls.certificate, tls.validation
    found: dict[str, DataSource | None] = {"trusted_ca": trust.trusted_ca, "crl": trust.crl}
    if isinstance(own, TlsCertificate):
        found |= {"certificate_chain": own.chain, "private_key": own.key, "password": own.password}
    return {place: source for place, source in found.items() if source is not None}


def _stamp(path: str) -> tuple[str, int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (path, 0, 0, 0)
    return (path, status.st_ino, status.st_mtime_ns, status.st_size)


def _content(place: str, source: DataSource) -> bytes:
    if not source.filename:
        return source.inline
    try:
        with open(source.filename, "rb") as file:
            return file.read()
    except OSError as error:
        raise OSError(f"{place}: {source.filename}: {error.strerror}") from error


def _context(tls: UpstreamTls, http2: bool, contents: dict[str, bytes]) -> ssl.SSLContext:
    """Return a context; raises ``OSError`` or ``ValueError`` naming the field."""
    trust = tls.validation
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # names are checked by `Handshake.verify`
    verified = trust.has_ca and not trust.accept_untrusted
    context.verify_mode = ssl.CERT_REQUIRED if verified else ssl.CERT_NONE
    with _naming("tls_params"):
        context.minimum_version = _VERSIONS[tls.minimum]
        context.maximum_version = _VERSIONS[tls.maximum]
    if tls.ciphers:
        with _naming("tls_params.cipher_suites"):
            context.set_ciphers(tls.ciphers)
    if tls.curve:
        with _naming("tls_params.ecdh_curves"):
            context.set_ecdh_curve(tls.curve)
    if not tls.renegotiation:
        context.options |= ssl.OP_NO_RENEGOTIATION
    if not tls.resumption:
        context.options |= ssl.OP_NO_TICKET
    context.set_alpn_protocols(list(_alpn(tls.alpn, http2)))
    if verified:
        _trust(context, trust, contents)
    if isinstance(tls.certificate, TlsCertificate):
        _identify(context, tls.certificate, contents)
    return context


def _alpn(offered: tuple[str, ...], http2: bool) -> tuple[str, ...]:
    if "istio" in offered:
        return _ISTIO[http2]
    if not http2:  # HTTP/1.1 is what will be spoken, whatever the server would rather
        offered = tuple(protocol for protocol in offered if protocol != "h2")
    return offered or (("h2",) if http2 else ("http/1.1",))


def _trust(context: ssl.SSLContext, trust: CertificateValidation, contents: dict[str, bytes]) -> None:
    # Envoy takes any certificate in trusted_ca for an anchor, an intermediate one too.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if trust.system_roots:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    for place in ("trusted_ca", "crl"):
        if place in contents:
            with _naming(f"validation_context.{place}"), _named(contents[place]) as path:
                context.load_verify_locations(cafile=path)
    if trust.crl is not None:
        leaf, chain = ssl.VERIFY_CRL_CHECK_LEAF, ssl.VERIFY_CRL_CHECK_CHAIN
        context.verify_flags |= leaf if trust.crl_for_leaf_only else chain
    if trust.allow_expired:
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)


def _identify(context: ssl.SSLContext, own: TlsCertificate, contents: dict[str, bytes]) -> None:
    # An empty password, for otherwise OpenSSL asks at the terminal.
    password = contents.get("password", b"").rstrip(b"\r\n")
    place = f"tls_certificates: {own.chain} with the key {own.key}"
    chain, key = _named(contents["certificate_chain"]), _named(contents["private_key"])
    with _naming(place), chain as chain_path, key as key_path:
        context.load_cert_chain(chain_path, key_path, password)


@contextlib.contextmanager
def _naming(place: str) -> Iterator[None]:
    """Say in errors of ssl, which are about bytes, what the bytes are of."""
    try:
        yield
    except ssl.SSLError as error:
        reason = (getattr(error, "reason", None) or str(error)).lower().replace("_", " ")
        raise OSError(f"{place}: {reason}") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


@contextlib.contextmanager
def _named(data: bytes) -> Iterator[str]:
    """Give ``data`` the name of a file, for OpenSSL loads keys from files alone; not on disk where that can be."""
    if hasattr(os, "memfd_create") and os.path.exists("/proc/self/fd"):
        with os.fdopen(os.memfd_create("meshlib-tls"), "wb") as memory:
            memory.write(data)
            memory.flush()
            yield f"/proc/self/fd/{memory.fileno()}"
        return
    with tempfile.NamedTemporaryFile(prefix="meshlib-tls-") as file:  # 0600
        file.write(data)
        file.flush()
        yield file.name


def _names(peer: Peer) -> list[tuple[str, str]]:
    """Return the names in the server's certificate; empty where the chain was not verified."""
    certificate = peer.getpeercert() or {}
    names = certificate.get("subjectAltName", ())
    found = [(str(kind), str(value)) for kind, value in names]  # type: ignore[str-unpack]  typeshed's union
    address = SanType.IP_ADDRESS.value
    return [(kind, plain_address(value) if kind == address else value) for kind, value in found]


def _is_for(name: str, kind: str, value: str) -> bool:
    if kind == SanType.DNS.value:
        return dns_name_matches(name, value)
    return kind in (SanType.URI.value, SanType.IP_ADDRESS.value) and name == value


def _said(names: list[tuple[str, str]]) -> str:
    shown = ", ".join(f"{kind} {value}" for kind, value in names[:8])
    return f"the server's certificate is for {shown or 'no name'}{' and others' if len(names) > 8 else ''}"


def _expectation(trust: CertificateValidation) -> str:
    if not trust.has_ca:
        return "no certain CA"
    return f"one signed by a CA of {'the system' if trust.trusted_ca is None else trust.trusted_ca}"


def _check_pins(peer: Peer, validation: CertificateValidation) -> None:
    certificate = peer.getpeercert(binary_form=True) or b""
    digest = hashlib.sha256(certificate).digest()
    key = hashlib.sha256(public_key_info(certificate)).digest()
    if digest not in validation.hashes and key not in validation.spki:
        raise PeerRejected(
            f"the server's certificate has the SHA-256 {digest.hex()} and its public key {key.hex()}: neither is "
            "among verify_certificate_hash and verify_certificate_spki"
        )


def public_key_info(certificate: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a DER certificate (RFC 5280 §4.1), empty for what is none."""
    try:
        start, end = _element(certificate, _element(certificate, 0)[0])[:2]  # into the TBSCertificate
        fields = []
        while start < end:
            _, after = _element(certificate, start)
            fields.append((start, after))
            start = after
        # [0] version, where it is there: serial, signature, issuer, validity, subject, and then the key.
        key = fields[6 if certificate[fields[0][0]] == 0xA0 else 5]
        return certificate[slice(*key)]
    except IndexError:
        return b""


def _element(data: bytes, at: int) -> tuple[int, int]:
    """Return where the content of a DER element begins, and where the element ends."""
    length, start = data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(data[start : start + count], "big"), start + count
    return start, start + length
