"""Gateway: what an Envoy at the edge listens on."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from meshlib.controlplane.documents.fields import NOT_EMPTY, Labels, Message, Name, Port, one_of, text
from meshlib.controlplane.documents.place import Misfit, Place, Report
from meshlib.controlplane.documents.resource import Resource

HTTP_PROTOCOLS = frozenset({"HTTP", "HTTP2", "GRPC", "GRPC-WEB"})


def protocol(place: Place, report: Report) -> str:
    """Read a Gateway protocol, in any case."""
    allowed = (*sorted(HTTP_PROTOCOLS), "HTTPS", "TLS", "TCP", "MONGO")
    value = text(place, report)
    if value.upper() not in allowed:
        raise Misfit(place, f"expected one of {', '.join(allowed)}, got {value!r}")
    return value.upper()


def bind(place: Place, report: Report) -> str:
    """Read the address to listen on."""
    value = text(place, report)
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise Misfit(place, f"expected an IP address to listen on, got {value!r}") from None
    return value


Protocol = Annotated[str, protocol]
BindAddress = Annotated[str, bind]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPort(Message):
    """``Port``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"targetPort"})  # deprecated; Istio ignores it too

    number: Port
    name: str = ""
    protocol: Protocol


MODES = ("PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL")
VERSIONS = ("TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsCertificate(Message):
    """``TLSCertificate``: one of several certificates, as files."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"caCertificates"})

    server_certificate: Name
    private_key: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls(Message):
    """``ServerTLSSettings``."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"insecureSkipVerify"})

    https_redirect: bool = False
    mode: Annotated[str, one_of(*MODES)] = "PASSTHROUGH"
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    verify_certificate_hash: tuple[Name, ...] = ()
    verify_certificate_spki: tuple[Name, ...] = ()
    ca_crl: str = ""
    credential_name: str = ""
    credential_names: tuple[Name, ...] = ()
    ca_cert_credential_name: str = ""
    tls_certificates: tuple[TlsCertificate, ...] = ()
    subject_alt_names: tuple[Name, ...] = ()
    min_protocol_version: Annotated[str, one_of(*VERSIONS)] = "TLS_AUTO"
    max_protocol_version: Annotated[str, one_of(*VERSIONS)] = "TLS_AUTO"
    cipher_suites: tuple[Name, ...] = ()

    @property
    def terminates(self) -> bool:
        """Whether TLS ends at the gateway."""
        return not self.mode.endswith("PASSTHROUGH")

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Certificate and key of each certificate that is named as files."""
        several = tuple((item.server_certificate, item.private_key) for item in self.tls_certificates)
        return several or ((self.server_certificate, self.private_key),)

    def check(self, report: Report) -> None:
        """Istio's rules between mode and certificates."""
        named = bool(self.credential_name or self.credential_names)
        files = bool(self.server_certificate and self.private_key) or bool(self.tls_certificates)
        if self.mode in ("SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL") and not named and not files:
            report.error(
                self.at, f"expected serverCertificate and privateKey, or credentialName, with mode {self.mode}"
            )
        if self.mode in ("MUTUAL", "OPTIONAL_MUTUAL") and not named and not self.ca_certificates:
            report.error(self.at, f"expected caCertificates, or credentialName, with mode {self.mode}")
        if self.mode == "ISTIO_MUTUAL" and (named or self.server_certificate):
            report.error(self.at, "expected no certificates with mode ISTIO_MUTUAL: the mesh brings its own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server(Message):
    """``Server``: one port with the hosts it takes."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset({"defaultEndpoint"})

    port: GatewayPort
    hosts: Annotated[tuple[Name, ...], NOT_EMPTY]
    bind: BindAddress = ""
    name: str = ""
    tls: ServerTls | None = None

    @property
    def is_http(self) -> bool:
        """Whether it is plain HTTP in any dress."""
        return self.port.protocol in HTTP_PROTOCOLS

    @property
    def is_https(self) -> bool:
        """Whether it is HTTP over TLS that ends here."""
        return self.port.protocol == "HTTPS" and self.tls is not None and self.tls.terminates

    def check(self, report: Report) -> None:
        """TLS where the protocol has it, and none else (Istio's rules)."""
        if self.port.protocol in ("HTTPS", "TLS") and self.tls is None:
            report.error(self.at, f"expected a field 'tls' with protocol {self.port.protocol}")
        if self.is_http and self.tls is not None and (self.tls.terminates or self.tls.at.has("mode")):
            report.warning(self.tls.at, "of a plain HTTP server only httpsRedirect is obeyed")
        if self.port.protocol == "HTTPS" and not self.port.name:
            report.error(self.port.at, "expected a field 'name' with protocol HTTPS: the route table is named after it")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySpec(Message):
    """``Gateway.spec``."""

    selector: Labels = field(default_factory=dict)
    servers: Annotated[tuple[Server, ...], NOT_EMPTY]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway(Resource):
    """An Istio Gateway."""

    spec: GatewaySpec

    @property
    def qualified_name(self) -> str:
        """``namespace/name``, as VirtualServices are bound to it."""
        return f"{self.namespace}/{self.name}"
