"""Which clients a control plane has, and whether they took what they were sent.

The server answers over CSDS (``envoy.service.status.v3.ClientStatusDiscoveryService``), the
protocol made for the question, so that :func:`fetch` and other people's tools can ask it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import grpc
from envoy.admin.v3 import config_dump_shared_pb2
from envoy.config.core.v3 import base_pb2
from envoy.service.status.v3 import csds_pb2

from meshlib.controlplane.node import Node
from meshlib.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meshlib.controlplane.session import Session, Watch
from meshlib.errors import ConfigError, MeshError

SERVICE = "envoy.service.status.v3.ClientStatusDiscoveryService"

# What the server adds to the metadata of a node that it reports.
_CONNECTED_AT = "meshlib.dev/connected-at"

_FIELDS = {CLUSTER: "cds", LISTENER: "lds", ENDPOINT: "eds", ROUTE: "rds"}


class SyncStatus(StrEnum):
    """What became of one type on one client, in istioctl's words."""

    NOT_SENT = "NOT SENT"
    SYNCED = "SYNCED"
    STALE = "STALE"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """One resource type on one client.

    Attributes:
        status: NOT SENT (never asked for, or nothing sent yet), SYNCED (took the last
            response), STALE (has not answered yet) or ERROR (refused the last response).
        version: the version last taken; empty before.
        sent_at: wall-clock seconds of the last response; 0 before.
        error: why the last response was refused.
    """

    status: SyncStatus = SyncStatus.NOT_SENT
    version: str = ""
    sent_at: float = 0.0
    error: str = ""

    @classmethod
    def of(cls, watch: Watch | None) -> TypeStatus:
        """Return what ``watch`` comes to."""
        if watch is None or not watch.nonce:
            return cls()
        if watch.error:
            status = SyncStatus.ERROR
        else:
            status = SyncStatus.SYNCED if watch.acked_nonce == watch.nonce else SyncStatus.STALE
        return cls(status, watch.acked_version, watch.sent_at, watch.error)


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """One connected client.

    Attributes:
        name: ``webapp-x.istioinaction``.
        kind: ``sidecar``, ``grpc`` or ``router``.
        node_id: the whole node id.
        cluster: the Kubernetes cluster it says it is of.
        version: the version it says it is: Istio's, else the client library's.
        connected_at: wall-clock seconds of the stream's first request.
        cds: of Clusters.
        lds: of Listeners.
        eds: of ClusterLoadAssignments.
        rds: of RouteConfigurations.
    """

    name: str
    kind: str
    node_id: str
    cluster: str = ""
    version: str = ""
    connected_at: float = 0.0
    cds: TypeStatus = field(default_factory=TypeStatus)
    lds: TypeStatus = field(default_factory=TypeStatus)
    eds: TypeStatus = field(default_factory=TypeStatus)
    rds: TypeStatus = field(default_factory=TypeStatus)

    @property
    def synced(self) -> bool:
        """Whether the client took the last of everything it was sent, and was sent something."""
        found = {status.status for status in (self.cds, self.lds, self.eds, self.rds)}
        return SyncStatus.SYNCED in found and found <= {SyncStatus.SYNCED, SyncStatus.NOT_SENT}

    @property
    def errors(self) -> Mapping[str, str]:
        """Type -> why its last response was refused: ``{"rds": "..."}``."""
        return {name: status.error for name in _FIELDS.values() if (status := getattr(self, name)).error}


@dataclass(frozen=True, slots=True)
class Client:
    """One stream as the server holds it: the node as it was sent, and the session."""

    node: Any
    session: Session
    connected_at: float

    @property
    def status(self) -> ClientStatus:
        """What the stream comes to now."""
        types = {name: TypeStatus.of(self.session.watches.get(url)) for url, name in _FIELDS.items()}
        return _client_status(self.node, self.connected_at, types)


def client_status_response(clients: Iterable[Client], request: Any) -> Any:
    """Return the ClientStatusResponse that answers ``request``.

    Without ``node_matchers`` it says of each client what became of each type. With them it is about the clients
    whose node id they match, and has every resource that these were sent, unless ``exclude_resource_contents``.

    Raises:
        ValueError: matchers of another kind.
    """
    matchers = [_node_matcher(matcher) for matcher in request.node_matchers]
    chosen = [client for client in clients if not matchers or any(match(client.node.id) for match in matchers)]
    detailed = bool(matchers)
    contents = detailed and not request.exclude_resource_contents
    return csds_pb2.ClientStatusResponse(
        config=[_client_config(client, detailed=detailed, contents=contents) for client in chosen]
    )


def _node_matcher(matcher: Any) -> Callable[[str], bool]:
    pattern = matcher.node_id
    which = pattern.WhichOneof("match_pattern")
    test = _TESTS.get(which)
    if matcher.node_metadatas or test is None:
        raise ValueError("of node_matchers only node_id by exact, prefix, suffix and contains is supported")
    wanted = getattr(pattern, which)
    if pattern.ignore_case:
        return lambda node_id: test(node_id.lower(), wanted.lower())
    return lambda node_id: test(node_id, wanted)


_TESTS: Mapping[str | None, Callable[[str, str], bool]] = {
    "exact": str.__eq__,
    "prefix": str.startswith,
    "suffix": str.endswith,
    "contains": str.__contains__,
}


def _client_config(client: Client, *, detailed: bool, contents: bool) -> Any:
    node = base_pb2.Node()
    node.CopyFrom(client.node)
    node.metadata[_CONNECTED_AT] = client.connected_at
    config = csds_pb2.ClientConfig(node=node)
    for url in _FIELDS:
        status = TypeStatus.of(client.session.watches.get(url))
        entry = config.generic_xds_configs.add(
            type_url=url,
            version_info=status.version,
            config_status=csds_pb2.ConfigStatus.Value(status.status.name),
            client_status=_CLIENT_RESOURCE_STATUS[status.status],
        )
        if status.sent_at:
            entry.last_updated.FromMicroseconds(round(status.sent_at * 1e6))
        if status.error:
            entry.error_state.details = status.error
        for resource in client.session.resources(url) if detailed else ():
            single = config.generic_xds_configs.add()
            single.CopyFrom(entry)
            single.name, single.version_info = resource.name, resource.version
            if contents:
                single.xds_config.CopyFrom(resource.packed)
    return config


_CLIENT_RESOURCE_STATUS = {
    SyncStatus.NOT_SENT: config_dump_shared_pb2.UNKNOWN,
    SyncStatus.SYNCED: config_dump_shared_pb2.ACKED,
    SyncStatus.STALE: config_dump_shared_pb2.REQUESTED,
    SyncStatus.ERROR: config_dump_shared_pb2.NACKED,
}


def fetch(address: str, *, timeout: float = 5.0, ca: Path | None = None) -> tuple[ClientStatus, ...]:
    """Ask the control plane at ``address`` for its clients, in the order of their names.

    Args:
        address: ``host:port`` of its xDS port.
        timeout: seconds for connecting and answering together.
        ca: PEM file of the roots of its certificate; None for plaintext.

    Raises:
        ConfigError: ``address`` is not ``host:port``, or ``ca`` cannot be read.
        MeshError: nobody answers there, or somebody who does not serve CSDS.
    """
    response = _ask(address, csds_pb2.ClientStatusRequest(exclude_resource_contents=True), timeout, ca)
    return tuple(sorted((_read(config) for config in response.config), key=lambda client: client.name))


@dataclass(frozen=True, slots=True)
class Held:
    """What one client holds, or was sent: type URL -> name -> the resource as an Any."""

    node_id: str
    by_type: Mapping[str, Mapping[str, Any]]


def fetch_resources(address: str, name: str = "", *, timeout: float = 5.0, ca: Path | None = None) -> Held:
    """Ask over CSDS for the resources of one client: a control plane for what it sent, a client for what it has.

    Args:
        address: ``host:port`` of a control plane's xDS port, or of a client's own CSDS.
        name: which client: ``webapp-x.istioinaction``, or without the namespace, or a prefix that only one has.
            Empty: the only one.
        timeout: as :func:`fetch`.
        ca: as :func:`fetch`.

    Raises:
        ConfigError: as :func:`fetch`; or several clients are meant.
        MeshError: as :func:`fetch`; or no client is meant.
    """
    summary = _ask(address, csds_pb2.ClientStatusRequest(exclude_resource_contents=True), timeout, ca)
    node_id = _chosen(address, name, [config.node for config in summary.config])
    own = any(entry.name for config in summary.config for entry in config.generic_xds_configs)
    # A client answers for itself and refuses matchers (gRFC A40).
    request = csds_pb2.ClientStatusRequest(node_matchers=() if own else [{"node_id": {"exact": node_id}}])
    response = _ask(address, request, timeout, ca)
    found: dict[str, dict[str, Any]] = {}
    for config in response.config:
        for entry in config.generic_xds_configs if config.node.id == node_id else ():
            if entry.name and entry.HasField("xds_config"):
                found.setdefault(entry.type_url, {})[entry.name] = entry.xds_config
    return Held(node_id, found)


def _chosen(address: str, name: str, nodes: Sequence[Any]) -> str:
    names: dict[str, str] = {}
    for node in nodes:
        parts = node.id.split("~")
        names.setdefault(parts[2] if len(parts) == 4 else node.id, node.id)
    meant = [known for known in names if known == name or known.rpartition(".")[0] == name]
    meant = meant or [known for known in names if known.startswith(name)]
    if len(meant) == 1:
        return names[meant[0]]
    connected = ", ".join(sorted(names)) or "none"
    if meant:
        raise ConfigError(f"name one of the clients of {address}: {', '.join(sorted(meant))}")
    raise MeshError(f"{address} has no client {name!r}; its clients: {connected}")


def _ask(address: str, request: Any, timeout: float, ca: Path | None) -> Any:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"expected HOST:PORT as the address of a control plane, got {address!r}")
    # A proxy of the environment is for the internet; the control plane is a peer.
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
    with _channel(address, ca, options) as channel:
        ask = channel.unary_unary(
            f"/{SERVICE}/FetchClientStatus",
            request_serializer=csds_pb2.ClientStatusRequest.SerializeToString,
            response_deserializer=csds_pb2.ClientStatusResponse.FromString,
        )
        try:
            return ask(request, timeout=timeout)
        except grpc.RpcError as error:
            raise MeshError(_refusal(address, error)) from error


def _channel(address: str, ca: Path | None, options: list[tuple[str, int]]) -> Any:
    if ca is None:
        return grpc.insecure_channel(address, options=options)
    try:
        credentials = grpc.ssl_channel_credentials(ca.read_bytes())
    except OSError as error:
        raise ConfigError(f"the roots of {address} cannot be read from {ca}: {error.strerror}") from error
    return grpc.secure_channel(address, credentials, options=options)


def _refusal(address: str, error: Any) -> str:
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return f"{address} answers gRPC but does not serve CSDS, which tells of clients; for istiod use istioctl"
    return (
        f"no control plane answers on {address} ({error.code().name}: {error.details()}); "
        "start one with `meshlib control-plane DIR`, or name another with --address"
    )


def _read(config: Any) -> ClientStatus:
    types: dict[str, TypeStatus] = {}
    for entry in config.generic_xds_configs:
        if entry.type_url in _FIELDS and not entry.name:
            types[_FIELDS[entry.type_url]] = TypeStatus(
                status=_SYNC_STATUS.get(entry.config_status, SyncStatus.NOT_SENT),
                version=entry.version_info,
                sent_at=entry.last_updated.ToMicroseconds() / 1e6,
                error=entry.error_state.details,
            )
    metadata = config.node.metadata.fields
    connected_at = metadata[_CONNECTED_AT].number_value if _CONNECTED_AT in metadata else 0.0
    return _client_status(config.node, connected_at, types)


_SYNC_STATUS = {csds_pb2.ConfigStatus.Value(status.name): status for status in SyncStatus}


def _client_status(node: Any, connected_at: float, types: Mapping[str, TypeStatus]) -> ClientStatus:
    parsed = Node.from_proto(node)
    metadata = parsed.metadata
    return ClientStatus(
        name=f"{parsed.workload}.{parsed.namespace}",
        kind=parsed.kind.value,
        node_id=parsed.id,
        cluster=str(metadata.get("CLUSTER_ID") or "Kubernetes"),
        version=str(metadata.get("ISTIO_VERSION") or _user_agent(node)),
        connected_at=connected_at,
        **types,
    )


def _user_agent(node: Any) -> str:
    """Return what the client says it is: Envoy sends a build version, gRPC and meshlib a string."""
    number = node.user_agent_build_version.version
    version = node.user_agent_version or f"{number.major_number}.{number.minor_number}.{number.patch}"
    return f"{node.user_agent_name} {version}".strip() if node.user_agent_name else ""
