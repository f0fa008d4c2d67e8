"""TLS to endpoints as the cluster's transport socket says: how hands are shaken, and who the server is.

Python's ssl verifies the chain and the dates during the handshake. What it cannot be told, the
SPIFFE and other names and the pins, is checked after it and before a byte of HTTP goes out
(design.md, decision 12).
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from meshlib.model.tls import CertificateValidation, SanType, UpstreamTls, dns_name_matches, plain_address

Peer = ssl.SSLObject | ssl.SSLSocket


# The session that the connection being made may resume; event loops have no argument for it.
resumed: ContextVar[ssl.SSLSession | None] = ContextVar("meshlib_resumed_session", default=None)


class ResumingContext(ssl.SSLContext):
    """A context whose connections on an event loop resume the session that is given in :data:`resumed`."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As that of ``ssl``."""
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session or resumed.get())


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


def _names(peer: Peer) -> list[tuple[str, str]]:
    """Return the names in the server's certificate; empty where the chain was not verified."""
    certificate: Mapping[str, Any] = peer.getpeercert() or {}
    names = certificate.get("subjectAltName", ())
    found = [(str(kind), str(value)) for kind, value in names]
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
