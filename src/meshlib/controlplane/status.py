"""Which clients a control plane has, and whether they took what they were sent.

The server answers over CSDS (``envoy.service.status.v3.ClientStatusDiscoveryService``), the
protocol made for the question, so that :func:`fetch` and other people's tools can ask it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import grpc
from envoy.admin.v3 import config_dump_shared_pb2
from envoy.config.core.v3 import base_pb2
from envoy.service.status.v3 import csds_pb2

from meshlib.controlplane.ads import AdsSession, Watch
from meshlib.controlplane.node import Node
from meshlib.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
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
    session: AdsSession
    connected_at: float

    @property
    def status(self) -> ClientStatus:
        """What the stream comes to now."""
        types = {name: TypeStatus.of(self.session.watches.get(url)) for url, name in _FIELDS.items()}
        return _client_status(self.node, self.connected_at, types)


def client_status_response(clients: Iterable[Client]) -> Any:
    """Return the ClientStatusResponse that tells of ``clients``."""
    return csds_pb2.ClientStatusResponse(config=[_client_config(client) for client in clients])


def _client_config(client: Client) -> Any:
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
    return config


_CLIENT_RESOURCE_STATUS = {
    SyncStatus.NOT_SENT: config_dump_shared_pb2.UNKNOWN,
    SyncStatus.SYNCED: config_dump_shared_pb2.ACKED,
    SyncStatus.STALE: config_dump_shared_pb2.REQUESTED,
    SyncStatus.ERROR: config_dump_shared_pb2.NACKED,
}


def fetch(address: str, *, timeout: float = 5.0) -> tuple[ClientStatus, ...]:
    """Ask the control plane at ``address`` for its clients, in the order of their names.

    Args:
        address: ``host:port`` of its xDS port, plaintext.
        timeout: seconds for connecting and answering together.

    Raises:
        ConfigError: ``address`` is not ``host:port``.
        MeshError: nobody answers there, or somebody who does not serve CSDS.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"expected HOST:PORT as the address of a control plane, got {address!r}")
    # A proxy of the environment is for the internet; the control plane is a peer.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary(
            f"/{SERVICE}/FetchClientStatus",
            request_serializer=csds_pb2.ClientStatusRequest.SerializeToString,
            response_deserializer=csds_pb2.ClientStatusResponse.FromString,
        )
        try:
            response = ask(csds_pb2.ClientStatusRequest(), timeout=timeout)
        except grpc.RpcError as error:
            raise MeshError(_refusal(address, error)) from error
    return tuple(sorted((_read(config) for config in response.config), key=lambda client: client.name))


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
        if entry.type_url in _FIELDS:
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
