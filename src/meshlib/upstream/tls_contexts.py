"""TLS contexts out of certificates, CAs and parameters, made again when their files change.

Files are looked at while they are used, at most once a second; connections made before a change
are not used for calls after it.
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

from meshlib.model.tls import CertificateValidation, DataSource, TlsCertificate, TlsVersion, UpstreamTls
from meshlib.upstream.tls import Handshake, Material, ResumingContext, TlsUnavailable

_log = logging.getLogger("meshlib.upstream")

_LOOK_EVERY = 1.0  # seconds between looks at files in use
_MANY = 4096  # settings remembered; forgotten all at once
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which Python's ssl has no name for
_VERSIONS = {
    TlsVersion.TLS_1_0: ssl.TLSVersion.TLSv1,
    TlsVersion.TLS_1_1: ssl.TLSVersion.TLSv1_1,
    TlsVersion.TLS_1_2: ssl.TLSVersion.TLSv1_2,
    TlsVersion.TLS_1_3: ssl.TLSVersion.TLSv1_3,
}
# What Istio's sidecars offer one another for HTTP (filter istio.alpn) where the cluster says "istio":
# without it the other side takes the connection for TCP.
_ISTIO = {False: ("istio-http/1.1", "istio", "http/1.1"), True: ("istio-h2", "istio", "h2")}


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
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
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
    with _naming("alpn_protocols"):
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
