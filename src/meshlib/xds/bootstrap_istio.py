"""A bootstrap from an address and who this process is, with istiod's TLS as Istio's agent finds it.

The order in which files are looked for is that of pilot-agent (``FindRootCAForXDS``,
``GetKeyCertsForXDS``, ``SetupSecurityOptions``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from meshlib import __version__
from meshlib.errors import BootstrapError
from meshlib.model.snapshot import Style
from meshlib.settings import Identity
from meshlib.xds.bootstrap_parts import Bootstrap, Server, check_address
from meshlib.xds.credentials import PLAINTEXT, Credentials, Local, Pem, Tls, Token
from meshlib.xds.protos import base_pb2
from meshlib.xds.type_urls import CLUSTER, LISTENER, NAME_TABLE

# istiod turns features on by the version a node says it has; this is the one the sidecar
# resources that meshlib reads were recorded with.
ISTIO_VERSION = "1.31.0"

_SYSTEM = "SYSTEM"  # pilot-agent's word for the system's root CAs
_TLS_PORTS = ("15012", "443")  # never spoken to in plaintext; 15012 is istiod's
_TOKENS = {  # by JWT_POLICY
    "third-party-jwt": "var/run/secrets/tokens/istio-token",
    "first-party-jwt": "var/run/secrets/kubernetes.io/serviceaccount/token",
}
_MOUNTED_ROOT = "etc/certs/root-cert.pem"
_PROJECTED_ROOT = "var/run/secrets/istio/root-cert.pem"
_KUBERNETES_ROOT = "var/run/secrets/kubernetes.io/serviceaccount/ca.crt"


@dataclass(frozen=True, slots=True)
class Security:
    """What a caller says of the connection; what is not said is looked for.

    Attributes:
        root_ca: PEM file of the CAs that may have signed the server's certificate, or "SYSTEM".
        server_name: the name the server's certificate must be for.
        token_file: the file that holds the bearer token.
        certificate: PEM files of the client certificate's chain and of its key.
    """

    root_ca: str = ""
    server_name: str = ""
    token_file: str = ""
    certificate: tuple[str, str] | None = None

    @property
    def given(self) -> bool:
        """Whether anything is said, which asks for TLS."""
        return bool(self.root_ca or self.server_name or self.token_file or self.certificate)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where what is not said is looked for.

    Attributes:
        environ: the environment.
        root: the folder that paths start from.
    """

    environ: Mapping[str, str]
    root: Path = Path("/")

    def file(self, path: str) -> str:
        """Return the path of a file where one is, else an empty string."""
        found = self.root / path
        return str(found) if found.is_file() else ""


NOWHERE = Surroundings({}, Path("/nonexistent"))


def for_address(
    address: str,
    identity: Identity,
    security: Security = Security(),
    around: Surroundings = NOWHERE,
    *,
    delta: bool | None = None,
) -> Bootstrap:
    """Return a bootstrap for the server at ``address``, with Istio's node for ``identity``.

    A sidecar's node, since istiod's generator for gRPC nodes drops most of a DestinationRule;
    ISTIO_META_GENERATOR=grpc asks for that one.

    Raises:
        BootstrapError: the address is none, or TLS is due and what it needs is not found.
    """
    check_address(address, "address")
    headers = tuple(
        (name.removeprefix("XDS_HEADER_").lower(), value)
        for name, value in sorted(around.environ.items())
        if name.startswith("XDS_HEADER_")
    )
    grpc_node = identity.metadata.get("GENERATOR") == "grpc"
    if grpc_node and delta is None:
        delta = False  # istiod's delta for gRPC nodes loses watches
    server = Server(address, _credentials(address, identity, security, around), delta, headers)
    if grpc_node:
        return Bootstrap((server,), node_of(identity), Style.GRPC)
    return Bootstrap((server,), node_of(identity), Style.SIDECAR, wildcards=frozenset({LISTENER, CLUSTER, NAME_TABLE}))


def node_of(identity: Identity) -> Any:
    """Return the ``core.v3.Node`` that Istio's agent would send for ``identity``."""
    region, zone, sub_zone = identity.locality
    node = base_pb2.Node(
        id=identity.node_id("sidecar"),
        cluster=_cluster(identity),
        user_agent_name="meshlib",
        user_agent_version=__version__,
    )
    if region:
        node.locality.region, node.locality.zone, node.locality.sub_zone = region, zone, sub_zone
    metadata: dict[str, Any] = {
        "ISTIO_VERSION": ISTIO_VERSION,
        **identity.metadata,
        "NAME": identity.pod_name,
        "NAMESPACE": identity.namespace,
        "LABELS": {"app": identity.app, **identity.labels},
        "INSTANCE_IPS": identity.ip,
        "CLUSTER_ID": identity.cluster_id,
        "MESH_ID": identity.mesh_id,
        "SERVICE_ACCOUNT": identity.service_account,
        "WORKLOAD_NAME": identity.workload,
    }
    if identity.proxy_config:
        metadata["PROXY_CONFIG"] = identity.proxy_config
    try:
        json_format.ParseDict(metadata, node.metadata)
    except (json_format.ParseError, TypeError, ValueError) as error:  # such as a date of YAML's in PROXY_CONFIG
        raise BootstrapError(f"the node's metadata (PROXY_CONFIG, ISTIO_METAJSON_*) is no JSON: {error}") from error
    return node


def _cluster(identity: Identity) -> str:
    name = identity.proxy_config.get("serviceCluster")
    return str(name) if name and name != "istio-proxy" else f"{identity.app}.{identity.namespace}"


def _credentials(address: str, identity: Identity, security: Security, around: Surroundings) -> Credentials:
    if address.startswith("unix:"):
        if security.root_ca or security.server_name or security.certificate:
            raise BootstrapError(f"{address}: a unix socket is not spoken to by TLS: leave root_ca and the like out")
        return Local(Token(_existing(security.token_file, "token_file"))) if security.token_file else PLAINTEXT
    port = address.rpartition(":")[2]
    # Istio's agent speaks TLS to its discoveryAddress, whatever the port, unless told otherwise.
    wants_tls = port in _TLS_PORTS or address == identity.proxy_config.get("discoveryAddress")
    if identity.proxy_config.get("controlPlaneAuthPolicy") == "NONE" and not security.given:
        if port in _TLS_PORTS:
            raise BootstrapError(
                f"{address}: PROXY_CONFIG says controlPlaneAuthPolicy NONE, and port {port} is for TLS: "
                "nothing is sent there in plaintext; istiod's plaintext port is 15010"
            )
        return PLAINTEXT
    if not wants_tls and not security.given:
        return PLAINTEXT
    certificate = _certificate(identity, security, around)
    token = _token(security, around)
    return Tls(
        root_ca=_root_ca(address, identity, security, around),
        certificate=Pem(certificate[0]) if certificate else None,
        private_key=Pem(certificate[1]) if certificate else None,
        server_name=security.server_name or around.environ.get("ISTIOD_SAN", ""),
        token=Token(token) if token else None,
    )


def _root_ca(address: str, identity: Identity, security: Security, around: Surroundings) -> Pem | None:
    environ = around.environ
    named = security.root_ca or environ.get("XDS_ROOT_CA", "")
    if named == _SYSTEM:
        return None
    if named:
        return Pem(_existing(named, "root_ca" if security.root_ca else "XDS_ROOT_CA"))
    if mounted := around.file(_MOUNTED_ROOT):
        return Pem(mounted)
    if provisioned := environ.get("PROV_CERT"):
        return Pem(f"{provisioned}/root-cert.pem")  # may come later, as pilot-agent has it
    looked = [str(around.root / _MOUNTED_ROOT)]
    if _file_mounted(environ):
        path = str(identity.metadata.get("TLS_CLIENT_ROOT_CERT", ""))
        return Pem(_existing(path, "FILE_MOUNTED_CERTS: ISTIO_META_TLS_CLIENT_ROOT_CERT"))
    if environ.get("PILOT_CERT_PROVIDER") != "none":
        kubernetes = environ.get("PILOT_CERT_PROVIDER") == "kubernetes"
        default = _KUBERNETES_ROOT if kubernetes else _PROJECTED_ROOT
        if found := around.file(default):
            return Pem(found)
        looked.append(str(around.root / default))
    if address.endswith(":443"):
        return None  # a public name, with a certificate of a public CA
    raise BootstrapError(
        f"{address}: TLS needs a root CA, and there is none in {' or '.join(looked)}: give root_ca (or XDS_ROOT_CA) "
        f"a PEM file, or \"{_SYSTEM}\" for the system's; nothing was sent. istiod's plaintext port is 15010"
    )


def _certificate(identity: Identity, security: Security, around: Surroundings) -> tuple[str, str] | None:
    if security.certificate is not None:
        chain, key = security.certificate
        return _existing(chain, "certificate"), _existing(key, "certificate (its key)")
    if provisioned := around.environ.get("PROV_CERT"):
        return f"{provisioned}/cert-chain.pem", f"{provisioned}/key.pem"
    if _file_mounted(around.environ):
        chain, key = (str(identity.metadata.get(f"TLS_CLIENT_{name}", "")) for name in ("CERT_CHAIN", "KEY"))
        place = "FILE_MOUNTED_CERTS: ISTIO_META_TLS_CLIENT"
        return _existing(chain, f"{place}_CERT_CHAIN"), _existing(key, f"{place}_KEY")
    return None


def _token(security: Security, around: Surroundings) -> str:
    if security.token_file:
        return _existing(security.token_file, "token_file")
    return around.file(_TOKENS.get(around.environ.get("JWT_POLICY") or "third-party-jwt", ""))


def _file_mounted(environ: Mapping[str, str]) -> bool:
    return environ.get("FILE_MOUNTED_CERTS", "").lower() in ("true", "1", "t")


def _existing(path: str, what: str) -> str:
    if not Path(path).is_file():
        raise BootstrapError(f"{what}: there is no file {path!r}")
    return path
