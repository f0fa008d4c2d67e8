"""The parts of a bootstrap, and how its fields are read and complained about."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format

from meshlib.errors import BootstrapError
from meshlib.model.endpoint import Locality
from meshlib.model.snapshot import Home, Style
from meshlib.xds.credentials import PLAINTEXT, Credentials
from meshlib.xds.faults import Note, Status
from meshlib.xds.fields import NOT_HONOURED
from meshlib.xds.newer import parse_dict
from meshlib.xds.target import parse_target

Json = Mapping[str, Any]
# Keys of a bootstrap that ask for a discovery service, or another, that is not spoken.
_CONSEQUENCES: Mapping[str, tuple[str, Status]] = {
    "layered_runtime": ("there is no runtime: its layers are not read, and RTDS is not asked for", Status.REFUSED),
    "cluster_manager.load_stats_config": ("load is not reported (LRS)", Status.REFUSED),
}
_log = logging.getLogger("meshlib.xds")


# What a server_features entry may say (gRFC A53, A88, A81); "xds_v3" is all we speak (A30).
FEATURES = frozenset(
    {"xds_v3", "ignore_resource_deletion", "fail_on_data_errors", "resource_timer_is_transient_error"}
    | {"trusted_xds_server"}
)


@dataclass(frozen=True, slots=True)
class Server:
    """One management server. Equal servers may share a stream.

    Attributes:
        address: a gRPC target: ``host:port``, ``unix:///path``, ``dns:///host:port``.
        credentials: how the connection is secured, and who we prove to be.
        delta: whether the delta protocol is spoken; None: where the server speaks it.
        metadata: further metadata of every stream; never printed, for tokens may be in it.
        features: what gRPC's ``server_features`` say of it.
    """

    address: str
    credentials: Credentials = PLAINTEXT
    delta: bool | None = None
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    features: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Authority:
    """Who answers for the resource names of one authority (gRFC A47).

    Attributes:
        servers: its management servers, best first.
        listener_template: the listener's name for a target, with ``%s`` for the target.
    """

    servers: tuple[Server, ...]
    listener_template: str


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A ``file_watcher`` certificate provider (gRFC A29): files by path, empty where not given.

    Attributes:
        certificate_file: the identity's certificate chain.
        private_key_file: its key.
        ca_certificate_file: the CAs that peers may be signed by.
        refresh_interval: seconds between looks at the files.
    """

    certificate_file: str = ""
    private_key_file: str = ""
    ca_certificate_file: str = ""
    refresh_interval: float = 600.0


@dataclass(frozen=True, slots=True)
class PathSource:
    """A file that holds resources (``core.v3.PathConfigSource``).

    Attributes:
        path: the file: a DiscoveryResponse.
        watched_directory: the folder whose changes count; empty for the file's own.
    """

    path: str
    watched_directory: str = ""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How configuration is got.

    Attributes:
        servers: management servers, best first; empty where there is none to ask.
        node: the ``core.v3.Node`` of every first request, verbatim where the user gave one.
        style: how destinations are looked up.
        static: resources known from the start: type URL -> name -> message.
        wildcards: the types asked for whole, rather than by name.
        authorities: who answers for ``xdstp:`` names, by authority.
        listener_template: the listener's name for a target that names no authority.
        server_listener_template: the listener's name for an address served; empty for none.
        certificate_providers: where certificates come from, by instance name.
        files: the types whose resources are in a file, watched.
        ads_clusters: the clusters that ADS goes to: what is to be asked of them is asked in its stream.
        local_cluster: the cluster whose endpoints this process is one of, empty for none.
        notes: what of the bootstrap itself is not honoured.
    """

    servers: tuple[Server, ...]
    node: Any
    style: Style
    static: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    wildcards: frozenset[str] = frozenset()
    authorities: Mapping[str, Authority] = field(default_factory=dict)
    listener_template: str = "%s"
    server_listener_template: str = ""
    certificate_providers: Mapping[str, CertificateFiles] = field(default_factory=dict)
    files: Mapping[str, PathSource] = field(default_factory=dict)
    ads_clusters: frozenset[str] = frozenset()
    notes: tuple[Note, ...] = ()
    local_cluster: str = ""

    @property
    def home(self) -> Home:
        """Where this process is, by the node."""
        where = self.node.locality
        return Home(Locality(where.region, where.zone, where.sub_zone), self.local_cluster)

    @property
    def hint(self) -> str:
        """Words for when nothing asked for by name is answered, empty where nothing looks wrong."""
        if self.style is not Style.GRPC or "GENERATOR" in self.node.metadata.fields:
            return ""
        return "the bootstrap's node has no metadata GENERATOR: grpc, without which Istio serves it as a sidecar"


def authority_of(name: str) -> str | None:
    """Return the authority of an ``xdstp:`` name or template, perhaps empty; None for another name."""
    if not name.startswith("xdstp:"):
        return None
    rest = name.removeprefix("xdstp:")
    return rest[2:].partition("/")[0] if rest.startswith("//") else ""


def check_address(address: str, origin: str) -> None:
    """Raise ``BootstrapError`` for what cannot be dialled."""
    try:
        parse_target(address)
    except BootstrapError as error:
        raise BootstrapError(f"{origin}: {error}") from error


def parse_message(data: Any, message: Any, origin: str) -> Any:
    """Fill ``message`` from plain JSON; raises ``BootstrapError`` with protobuf's own path."""
    try:
        return parse_dict(expect(data, Mapping, origin), message)
    except json_format.ParseError as error:
        raise BootstrapError(f"{origin}: {error}") from error
    except (TypeError, AttributeError, ValueError) as error:  # what ParseDict lets slip for wrong shapes
        name = message.DESCRIPTOR.full_name
        raise BootstrapError(f"{origin}: expected a {name}, not {data!r:.80}: {error}") from error


def unused(data: Json, known: str, origin: str) -> tuple[Note, ...]:
    """Warn once of keys that are not honoured, and return a note of each."""
    rest = sorted(set(data) - set(known.split()))
    if rest:
        _log.warning("bootstrap=%s not honoured: %s", origin, ", ".join(rest))
    return tuple(Note(origin, "bootstrap", key, *_CONSEQUENCES.get(key, (NOT_HONOURED,))) for key in rest)


def expect(data: object, kind: type[Any], origin: str) -> Any:
    """Return ``data`` if it is a ``kind`` (a mapping or a list), else raise ``BootstrapError``."""
    if not isinstance(data, kind):
        wanted = {"list": "a list", "Mapping": "a mapping", "str": "a string"}[kind.__name__]
        raise BootstrapError(f"{origin}: expected {wanted}, not {data!r:.80}")
    return data
