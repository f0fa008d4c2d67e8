"""meshlib: a service mesh inside Python.

``import meshlib`` is cheap: it imports no protobuf, grpc, httpx, OpenTelemetry, tenacity or
pybreaker. What needs them is loaded when it is first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from meshlib.errors import (
    BootstrapError,
    BreakerOpen,
    CircuitOverflow,
    ClusterNotFound,
    ConfigError,
    MeshClosed,
    MeshError,
    MeshNotReady,
    NoHealthyUpstream,
    NoRoute,
    PerTryTimeout,
    RequestError,
    RouteTimeout,
    TransportSecurityUnavailable,
    UpstreamConnectFailed,
    UpstreamReset,
)

if TYPE_CHECKING:
    from meshlib.capabilities import Capabilities, Capability
    from meshlib.deadlines import deadline
    from meshlib.explain import Explanation
    from meshlib.mesh import Mesh
    from meshlib.model.balancing import PeakEwma
    from meshlib.policy.record import AttemptRecord, CallRecord

__version__ = "0.1.0"

__all__ = [
    "AttemptRecord",
    "BootstrapError",
    "BreakerOpen",
    "CallRecord",
    "Capabilities",
    "Capability",
    "CircuitOverflow",
    "ClusterNotFound",
    "ConfigError",
    "Explanation",
    "Mesh",
    "MeshClosed",
    "MeshError",
    "MeshNotReady",
    "NoHealthyUpstream",
    "NoRoute",
    "PeakEwma",
    "PerTryTimeout",
    "RequestError",
    "RouteTimeout",
    "TransportSecurityUnavailable",
    "UpstreamConnectFailed",
    "UpstreamReset",
    "__version__",
    "deadline",
]

_LAZY = {
    "AttemptRecord": "meshlib.policy.record",
    "CallRecord": "meshlib.policy.record",
    "Capabilities": "meshlib.capabilities",
    "Capability": "meshlib.capabilities",
    "Explanation": "meshlib.explain",
    "Mesh": "meshlib.mesh",
    "PeakEwma": "meshlib.model.balancing",
    "deadline": "meshlib.deadlines",
    "grpc": "meshlib.grpc",
    "httpx": "meshlib.httpx",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'meshlib' has no attribute {name!r}")
    loaded = importlib.import_module(module)
    return loaded if module == f"meshlib.{name}" else getattr(loaded, name)
