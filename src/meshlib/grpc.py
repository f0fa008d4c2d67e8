"""meshlib for gRPC: the channels and the errors they raise.

Every error is one of meshlib's and one of grpc's: ``except meshlib.NoHealthyUpstream``,
``except grpc.RpcError`` and ``except grpc.aio.AioRpcError`` all catch ``NoHealthyUpstream``. Each
has ``code()``, ``details()`` and ``record``. A status that the server itself gave is raised as
grpc raises it, with ``record`` added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from meshlib.transports.grpc_errors import (
    BreakerOpen,
    CancelledRpc,
    CircuitOverflow,
    ClusterNotFound,
    ConfiguredStatus,
    DeadlineExceeded,
    MeshNotReady,
    MeshRpcError,
    NoHealthyUpstream,
    NoRoute,
    PerTryTimeout,
    RouteTimeout,
    TransportSecurityUnavailable,
    UpstreamConnectFailed,
    UpstreamReset,
)

if TYPE_CHECKING:
    from meshlib.mesh import Mesh
    from meshlib.transports.grpc_aio import AioMeshChannel as _Aio
    from meshlib.transports.grpc_channel import MeshChannel as _Sync

__all__ = [
    "AioMeshChannel",
    "BreakerOpen",
    "CancelledRpc",
    "CircuitOverflow",
    "ClusterNotFound",
    "ConfiguredStatus",
    "DeadlineExceeded",
    "MeshChannel",
    "MeshNotReady",
    "MeshRpcError",
    "NoHealthyUpstream",
    "NoRoute",
    "PerTryTimeout",
    "RouteTimeout",
    "TransportSecurityUnavailable",
    "UpstreamConnectFailed",
    "UpstreamReset",
]


def MeshChannel(mesh: Mesh, target: str, **options: Any) -> _Sync:
    """Return ``mesh.grpc_channel(target, **options)``."""
    return cast("_Sync", mesh.grpc_channel(target, **options))


def AioMeshChannel(mesh: Mesh, target: str, **options: Any) -> _Aio:
    """Return ``mesh.aio_grpc_channel(target, **options)``."""
    return cast("_Aio", mesh.aio_grpc_channel(target, **options))
