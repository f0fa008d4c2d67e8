"""The errors of meshlib, as plain classes.

This module imports nothing, so that every layer may raise these. The modules
:mod:`meshlib.httpx` and :mod:`meshlib.grpc` define leaves that derive from one of these and
from the client library's own exception; those are what an application catches.

::

    MeshError
    ├── ConfigError                      configuration that cannot be used (the caller's fault)
    │   └── BootstrapError               a bootstrap file or dict that cannot be used
    ├── MeshNotReady                     no configuration arrived in time
    ├── MeshClosed                       the mesh was closed
    └── RequestError                     one call failed; carries the CallRecord
        ├── NoRoute                      NR   no listener, virtual host or route
        ├── ClusterNotFound              NC   the route names a cluster that does not exist
        ├── NoHealthyUpstream            UH   the cluster has no endpoint to offer
        ├── CircuitOverflow              UO   a circuit-breaker threshold is reached
        ├── BreakerOpen                  UO   the opt-in ClusterBreaker refuses the call
        ├── UpstreamConnectFailed        UF   the connection could not be made
        │   └── TransportSecurityUnavailable  TLS was asked for and cannot be honoured
        ├── UpstreamReset                UC   the connection broke before the response head
        ├── PerTryTimeout                UT   per_try_timeout, and no retry was left
        └── RouteTimeout                 UT   the route's timeout, over all attempts
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshlib.policy.record import CallRecord


class MeshError(Exception):
    """Base of everything that meshlib raises on purpose."""


class ConfigError(MeshError):
    """Configuration that cannot be used: says what, where, and what to do next."""


class BootstrapError(ConfigError):
    """A bootstrap file, dict or environment that cannot be used."""


class MeshNotReady(MeshError):
    """No configuration arrived in time: names the address tried and the last error."""


class MeshClosed(MeshError):
    """The mesh was closed; make a new one."""


class RequestError(MeshError):
    """One call failed. ``record`` tells where it was routed and what each attempt met.

    Args:
        message: what failed, in words.
        record: the :class:`~meshlib.policy.record.CallRecord`, or None outside a call.
    """

    def __init__(self, message: str, *, record: CallRecord | None = None) -> None:
        super().__init__(message)
        self.record = record


class NoRoute(RequestError):
    """No listener, virtual host or route takes this request (Envoy: 404, NR)."""


class ClusterNotFound(RequestError):
    """The route names a cluster that does not exist (Envoy: 503, NC)."""


class NoHealthyUpstream(RequestError):
    """The cluster has no endpoint to offer (Envoy: 503, UH)."""


class CircuitOverflow(RequestError):
    """A circuit-breaker threshold of the cluster is reached (Envoy: 503, UO)."""


class BreakerOpen(RequestError):
    """The opt-in ClusterBreaker is open and refuses the call."""


class UpstreamConnectFailed(RequestError):
    """The connection to the endpoint could not be made (Envoy: 503, UF)."""


class TransportSecurityUnavailable(UpstreamConnectFailed):
    """TLS was asked for and cannot be honoured; nothing was sent in plaintext."""


class UpstreamReset(RequestError):
    """The connection broke before the response head (Envoy: 503, UC)."""


class PerTryTimeout(RequestError):
    """An attempt met its per_try_timeout and no retry was left (Envoy: 504, UT)."""


class RouteTimeout(RequestError):
    """The route's timeout passed, over all attempts and back-offs (Envoy: 504, UT)."""
