"""The errors an httpx client meets: each is one of ours and one of httpx's.

``except meshlib.NoHealthyUpstream`` and ``except httpx.ConnectError`` both catch
:class:`NoHealthyUpstream`. Defined at module level, so that they pickle.
"""

from __future__ import annotations

import httpx

from meshlib import errors
from meshlib.policy.effects import Reply, ReplyKind
from meshlib.policy.record import CallRecord

BODY_LATE = "the route's timeout passed while the body was read"
DEADLINE_LATE = "the application's deadline passed while the body was read"


class MeshRequestError(errors.RequestError, httpx.TransportError):
    """Base of the leaves: a mesh failure as httpx's TransportError."""

    def __init__(self, message: str, *, record: CallRecord | None = None, request: httpx.Request | None = None) -> None:
        httpx.TransportError.__init__(self, message, request=request)
        self.record = record


class NoRoute(MeshRequestError, errors.NoRoute, httpx.ConnectError):
    """NR: no listener, virtual host or route takes this request."""


class ClusterNotFound(MeshRequestError, errors.ClusterNotFound, httpx.ConnectError):
    """NC: the route names a cluster that does not exist."""


class NoHealthyUpstream(MeshRequestError, errors.NoHealthyUpstream, httpx.ConnectError):
    """UH: the cluster has no endpoint to offer."""


class CircuitOverflow(MeshRequestError, errors.CircuitOverflow, httpx.ConnectError):
    """UO: a circuit-breaker threshold is reached."""


class BreakerOpen(MeshRequestError, errors.BreakerOpen, httpx.ConnectError):
    """UO: the opt-in ClusterBreaker refuses the call."""


class UpstreamConnectFailed(MeshRequestError, errors.UpstreamConnectFailed, httpx.ConnectError):
    """UF: the connection to the endpoint could not be made."""


class TransportSecurityUnavailable(UpstreamConnectFailed, errors.TransportSecurityUnavailable):
    """TLS was asked for and cannot be honoured; nothing was sent in plaintext."""


class UpstreamReset(MeshRequestError, errors.UpstreamReset, httpx.ReadError):
    """UC: the connection broke before the response head."""


class UpstreamProtocolError(UpstreamReset, httpx.RemoteProtocolError):
    """UC or UPE: the connection ended before the response head, or what came was no HTTP."""


class PerTryTimeout(MeshRequestError, errors.PerTryTimeout, httpx.ReadTimeout):
    """UT: an attempt met its per_try_timeout and no retry was left."""


class RouteTimeout(MeshRequestError, errors.RouteTimeout, httpx.ReadTimeout):
    """UT: the route's timeout passed."""


class MeshNotReady(errors.MeshNotReady, httpx.ConnectTimeout):
    """No configuration arrived in time; nothing was sent."""


BY_REPLY: dict[ReplyKind, type[MeshRequestError]] = {
    ReplyKind.NO_ROUTE: NoRoute,
    ReplyKind.CLUSTER_NOT_FOUND: ClusterNotFound,
    ReplyKind.NO_HEALTHY_UPSTREAM: NoHealthyUpstream,
    ReplyKind.OVERFLOW: CircuitOverflow,
    ReplyKind.BREAKER_OPEN: BreakerOpen,
    ReplyKind.CONNECT_FAILED: UpstreamConnectFailed,
    ReplyKind.TLS_UNAVAILABLE: TransportSecurityUnavailable,
    ReplyKind.RESET: UpstreamReset,
    ReplyKind.PER_TRY_TIMEOUT: PerTryTimeout,
    ReplyKind.ROUTE_TIMEOUT: RouteTimeout,
    ReplyKind.STREAM_TIMEOUT: RouteTimeout,
}


def from_reply(reply: Reply, record: CallRecord, request: httpx.Request) -> MeshRequestError:
    """Return the error of a local reply."""
    kind = BY_REPLY[reply.kind]
    if kind is UpstreamReset and isinstance(reply.cause, httpx.RemoteProtocolError):
        kind = UpstreamProtocolError
    return kind(f"{reply.message} [{record.response_flags}]", record=record, request=request)
