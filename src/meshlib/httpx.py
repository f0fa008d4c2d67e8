"""meshlib for httpx: the transports and the errors they raise.

Every error is one of meshlib's and one of httpx's: ``except meshlib.NoHealthyUpstream`` and
``except httpx.ConnectError`` both catch ``NoHealthyUpstream``. Each carries ``record``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from meshlib.transports.httpx_errors import (
    BreakerOpen,
    CircuitOverflow,
    ClusterNotFound,
    MeshNotReady,
    MeshRequestError,
    NoHealthyUpstream,
    NoRoute,
    PerTryTimeout,
    RouteTimeout,
    TransportSecurityUnavailable,
    UpstreamConnectFailed,
    UpstreamProtocolError,
    UpstreamReset,
)
from meshlib.transports.options import TransportOptions

if TYPE_CHECKING:
    from meshlib.mesh import Mesh
    from meshlib.transports.httpx_async import AsyncMeshTransport as _Async
    from meshlib.transports.httpx_sync import MeshTransport as _Sync

__all__ = [
    "AsyncMeshTransport",
    "BreakerOpen",
    "CircuitOverflow",
    "ClusterNotFound",
    "MeshNotReady",
    "MeshRequestError",
    "MeshTransport",
    "NoHealthyUpstream",
    "NoRoute",
    "PerTryTimeout",
    "RouteTimeout",
    "TransportOptions",
    "TransportSecurityUnavailable",
    "UpstreamConnectFailed",
    "UpstreamProtocolError",
    "UpstreamReset",
]


def MeshTransport(mesh: Mesh, **options: Any) -> _Sync:
    """Return ``mesh.transport(**options)``."""
    return cast("_Sync", mesh.transport(**options))


def AsyncMeshTransport(mesh: Mesh, **options: Any) -> _Async:
    """Return ``mesh.async_transport(**options)``."""
    return cast("_Async", mesh.async_transport(**options))
