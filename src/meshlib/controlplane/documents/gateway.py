"""Gateway: what an Envoy at the edge listens on."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from meshlib.controlplane.documents.fields import NOT_EMPTY, Labels, Message, Name, Port, text
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls(Message):
    """``ServerTLSSettings``, of which the redirect is obeyed."""

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset(
        {
            "caCertCredentialName", "caCertificates", "caCrl", "cipherSuites", "credentialName", "credentialNames",
            "maxProtocolVersion", "minProtocolVersion", "mode", "privateKey", "serverCertificate",
            "subjectAltNames", "tlsCertificates", "verifyCertificateHash", "verifyCertificateSpki",
        }
    )  # fmt: skip

    https_redirect: bool = False


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
        """Whether it is served now: plain HTTP in any dress."""
        return self.port.protocol in HTTP_PROTOCOLS

    def check(self, report: Report) -> None:
        """Only plain HTTP is served yet; the other servers are left out, and said to be."""
        if not self.is_http:
            report.warning(
                self.port.at.child("protocol"),
                f"{self.port.protocol} servers are not applied yet by the embedded control plane; "
                f"nothing listens on port {self.port.number}",
            )


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
