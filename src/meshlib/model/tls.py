"""TLS towards an endpoint, as an ``UpstreamTlsContext`` and the secrets it names say it.

Values only: who reads the files and shakes hands is :mod:`meshlib.upstream.tls`. Nothing here
prints a key: what is inline is left out of every ``repr``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

from meshlib.model.match import StringMatch, StringOp


@dataclass(frozen=True, slots=True)
class DataSource:
    """``core.v3.DataSource``: bytes, or the file that holds them.

    Attributes:
        filename: the file; it is read again when it changes. Empty for inline bytes.
        inline: the bytes themselves.
    """

    filename: str = ""
    inline: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        return self.filename or "inline"


@dataclass(frozen=True, slots=True)
class TlsCertificate:
    """``tls.v3.TlsCertificate``: who we are.

    Attributes:
        chain: certificates in PEM, ours first.
        key: its private key in PEM.
        password: what the key is encrypted with.
    """

    chain: DataSource
    key: DataSource
    password: DataSource | None = None


class SanType(Enum):
    """``SubjectAltNameMatcher.SanType``, by the names that Python's ``getpeercert`` uses."""

    EMAIL = "email"
    DNS = "DNS"
    URI = "URI"
    IP_ADDRESS = "IP Address"


@dataclass(frozen=True, slots=True)
class SanMatch:
    """One of ``match_typed_subject_alt_names``; with ``kind`` None one of the untyped, older list."""

    kind: SanType | None
    match: StringMatch

    def matches(self, kind: str, value: str) -> bool:
        """Tell whether a name in a certificate is meant.

        As in Envoy an exact DNS name is matched as DNS names are: without regard to case, and a
        wildcard in the certificate stands for one label.
        """
        if kind not in _KINDS or (self.kind is not None and kind != self.kind.value):
            return False
        if kind == SanType.DNS.value and self.match.op is StringOp.EXACT:
            return dns_name_matches(self.match.value, value)
        return self.match.compile()(value)

    def __str__(self) -> str:
        return str(self.match) if self.kind is None else f"{self.kind.value} {self.match}"


_KINDS = frozenset(kind.value for kind in SanType)


def dns_name_matches(name: str, pattern: str) -> bool:
    """Tell whether a name in a certificate, perhaps a wildcard, stands for a DNS name (RFC 6125 §6.4).

    As Envoy has it: one ``*``, in the leftmost label, not in one of an internationalised name.
    """
    name, pattern = name.lower(), pattern.lower()
    if name == pattern:
        return True
    label, dot, rest = name.partition(".")
    wild, wild_dot, wild_rest = pattern.partition(".")
    if not (dot and wild_dot) or rest != wild_rest or wild.count("*") != 1 or wild.startswith("xn--"):
        return False
    before, after = wild.split("*")
    return len(label) >= len(wild) and label.startswith(before) and label.endswith(after)


def plain_address(text: str) -> str:
    """Return an IP address as Envoy compares it: IPv6 in its short form."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return text


@dataclass(frozen=True, slots=True)
class CertificateValidation:
    """``tls.v3.CertificateValidationContext``: whom we believe to be the server.

    Attributes:
        trusted_ca: the CAs that the server's certificate may be signed by.
        system_roots: the system's CAs, in place of ``trusted_ca``.
        sans: names, one of which the certificate must have; empty: any.
        spki: SHA-256 of public keys, one of which it must have; or
        hashes: SHA-256 of the certificate itself.
        accept_untrusted: ``ACCEPT_UNTRUSTED``: any certificate will do.
        allow_expired: whether the dates of certificates do not matter.
        crl: certificates that are revoked.
        crl_for_leaf_only: whether only the server's own certificate is looked up there.
    """

    trusted_ca: DataSource | None = None
    system_roots: bool = False
    sans: tuple[SanMatch, ...] = ()
    spki: tuple[bytes, ...] = ()
    hashes: tuple[bytes, ...] = ()
    accept_untrusted: bool = False
    allow_expired: bool = False
    crl: DataSource | None = None
    crl_for_leaf_only: bool = False

    @property
    def has_ca(self) -> bool:
        """Whether the server's chain is verified; else, as in Envoy, it is not."""
        return self.trusted_ca is not None or self.system_roots

    def merged(self, other: CertificateValidation) -> CertificateValidation:
        """Return this with ``other`` on top, as ``combined_validation_context`` merges: lists add up."""
        return CertificateValidation(
            trusted_ca=other.trusted_ca or self.trusted_ca,
            system_roots=self.system_roots or other.system_roots,
            sans=self.sans + other.sans,
            spki=self.spki + other.spki,
            hashes=self.hashes + other.hashes,
            accept_untrusted=self.accept_untrusted or other.accept_untrusted,
            allow_expired=self.allow_expired or other.allow_expired,
            crl=other.crl or self.crl,
            crl_for_leaf_only=self.crl_for_leaf_only or other.crl_for_leaf_only,
        )

    def fault(self) -> str:
        """Return what Envoy refuses about it, empty where it is sound."""
        if self.has_ca:
            return ""
        if self.sans:
            return "match_typed_subject_alt_names without trusted_ca prove nothing: any certificate may bear any name"
        return "crl without trusted_ca" if self.crl is not None else ""


class TlsVersion(Enum):
    """``TlsParameters.TlsProtocol``."""

    TLS_1_0 = 1
    TLS_1_1 = 2
    TLS_1_2 = 3
    TLS_1_3 = 4


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A certificate or validation context that is elsewhere.

    Attributes:
        name: what it is called there.
        source: where, in words for people ("ADS", "the cluster 'sds-grpc'").
        resource: the name of its SDS resource among ours, empty where it is none; see
            :mod:`meshlib.xds.config_source`.
    """

    name: str
    source: str
    resource: str = ""

    def __str__(self) -> str:
        return f"{self.name!r} of {self.source}"


Secret = TlsCertificate | CertificateValidation
"""What a ``tls.v3.Secret`` holds."""

SecretLookup = Callable[[SecretRef, type[Secret]], Secret | str]
"""Returns what a reference means, or why it cannot be had."""


@dataclass(frozen=True, slots=True, eq=True)
class UpstreamTls:
    """``tls.v3.UpstreamTlsContext``.

    Attributes:
        certificate: ours for the server, None for none.
        validation: whom we believe to be the server.
        trust: a validation context that is elsewhere, to be merged over ``validation``.
        sni: the server name sent; empty for none.
        auto_host_sni: whether the endpoint's host name is sent, where it has one.
        auto_sni_san_validation: whether the certificate must be for the name sent.
        alpn: protocols offered; empty for the one that is spoken.
        minimum, maximum: versions.
        ciphers: cipher suites of TLS 1.2 and before in OpenSSL's words; empty for the library's.
        curve: the curve of the key exchange; empty for the library's.
        renegotiation: whether the server may renegotiate (TLS 1.2).
        resumption: whether sessions are resumed.
        refusal: why it cannot be honoured ("field: reason"); empty where it can.
    """

    certificate: TlsCertificate | SecretRef | None = None
    validation: CertificateValidation = CertificateValidation()
    trust: SecretRef | None = None
    sni: str = ""
    auto_host_sni: bool = False
    auto_sni_san_validation: bool = False
    alpn: tuple[str, ...] = ()
    minimum: TlsVersion = TlsVersion.TLS_1_2
    maximum: TlsVersion = TlsVersion.TLS_1_2
    ciphers: str = ""
    curve: str = ""
    renegotiation: bool = False
    resumption: bool = True
    refusal: str = ""
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Connections are found by it at every call.
        shown = (self.certificate, self.validation, self.trust, self.sni, self.alpn, self.minimum, self.maximum)
        object.__setattr__(self, "_hash", hash(shown))

    def __hash__(self) -> int:
        return self._hash

    @property
    def references(self) -> tuple[SecretRef, ...]:
        """What of it is elsewhere."""
        found = (self.certificate, self.trust)
        return tuple(one for one in found if isinstance(one, SecretRef))

    def resolved(self, lookup: SecretLookup) -> UpstreamTls:
        """Return it with everything in place; what cannot be had refuses the connection."""
        certificate, validation, refusal = self.certificate, self.validation, self.refusal
        if isinstance(certificate, SecretRef):
            found = lookup(certificate, TlsCertificate)
            if isinstance(found, TlsCertificate):
                certificate = found
            else:
                refusal = refusal or f"the certificate {certificate}: {found}"
        if self.trust is not None:
            trusted = lookup(self.trust, CertificateValidation)
            if isinstance(trusted, CertificateValidation):
                validation = validation.merged(trusted)
            else:
                refusal = refusal or f"the validation context {self.trust}: {trusted}"
        refusal = refusal or validation.fault()
        return replace(self, certificate=certificate, validation=validation, trust=None, refusal=refusal)
