# mypy: disallow-subclassing-any=False
# (grpcio ships no types, so its classes are Any.)
"""The errors a gRPC client meets: each is one of ours and one of grpc's.

``except meshlib.NoHealthyUpstream``, ``except grpc.RpcError`` and ``except grpc.aio.AioRpcError``
all catch :class:`NoHealthyUpstream`, in sync and async. Defined at module level, so that they
pickle.
"""

from __future__ import annotations

from typing import Any, TypeVar

import grpc

from meshlib import errors
from meshlib.policy.effects import Reply, ReplyKind
from meshlib.policy.record import CallRecord
from meshlib.policy.replies import HTTP_TO_GRPC

BODY_LATE = "the route's timeout passed while the stream was read"

CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

ErrorT = TypeVar("ErrorT", bound=BaseException)


class RpcStatus(grpc.aio.AioRpcError, grpc.Call):
    """The final status of an RPC, made here: an RpcError and a Call, for sync and async callers.

    Args:
        code: the status code.
        details: what failed, in words.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        nothing = grpc.aio.Metadata()
        grpc.aio.AioRpcError.__init__(self, code, nothing, nothing, details, f"meshlib: {details}")
        self.args = (details,)

    def is_active(self) -> bool:
        """Tell that the RPC is over."""
        return False

    def time_remaining(self) -> float | None:
        """Return None: the RPC is over."""
        return None

    def cancel(self) -> None:
        """Do nothing: the RPC is over."""

    def add_callback(self, callback: object) -> bool:  # noqa: ARG002  grpc.RpcContext's signature
        """Return False: the RPC is over and the callback will not be called."""
        return False

    def __str__(self) -> str:
        return str(self.details())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code().name}, {self.details()!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.args, self.__dict__)


def _revive(kind: type[RpcStatus], args: tuple[object, ...], state: dict[str, object]) -> RpcStatus:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class MeshRpcError(errors.RequestError, RpcStatus):
    """Base of the leaves: a mesh failure as an RpcError, with its ``record``."""

    def __init__(self, code: grpc.StatusCode, details: str, *, record: CallRecord | None = None) -> None:
        RpcStatus.__init__(self, code, details)
        self.record = record


class ConfiguredStatus(MeshRpcError):
    """The configuration itself answered: a fault abort, a direct response or a redirect."""


class NoRoute(MeshRpcError, errors.NoRoute):
    """NR, UNIMPLEMENTED: no listener, virtual host or route takes this RPC."""


class ClusterNotFound(MeshRpcError, errors.ClusterNotFound):
    """NC, UNAVAILABLE: the route names a cluster that does not exist."""


class NoHealthyUpstream(MeshRpcError, errors.NoHealthyUpstream):
    """UH, UNAVAILABLE: the cluster has no endpoint to offer."""


class CircuitOverflow(MeshRpcError, errors.CircuitOverflow):
    """UO, UNAVAILABLE: a circuit-breaker threshold is reached."""


class BreakerOpen(MeshRpcError, errors.BreakerOpen):
    """UO, UNAVAILABLE: the opt-in ClusterBreaker refuses the call."""


class UpstreamConnectFailed(MeshRpcError, errors.UpstreamConnectFailed):
    """UF, UNAVAILABLE: the connection to the endpoint could not be made."""


class TransportSecurityUnavailable(UpstreamConnectFailed, errors.TransportSecurityUnavailable):
    """UF, UNAVAILABLE: TLS was asked for and cannot be honoured; nothing was sent in plaintext."""


class UpstreamReset(MeshRpcError, errors.UpstreamReset):
    """UC, UNAVAILABLE: the connection or the stream broke before the answer."""


class PerTryTimeout(MeshRpcError, errors.PerTryTimeout):
    """UT, DEADLINE_EXCEEDED: an attempt met its per_try_timeout and no retry was left."""


class RouteTimeout(MeshRpcError, errors.RouteTimeout):
    """UT, DEADLINE_EXCEEDED: the route's timeout passed."""


class MeshNotReady(errors.MeshNotReady, RpcStatus):
    """UNAVAILABLE: no configuration arrived in time; nothing was sent."""

    def __init__(self, details: str) -> None:
        RpcStatus.__init__(self, grpc.StatusCode.UNAVAILABLE, details)


class DeadlineExceeded(RpcStatus):
    """DEADLINE_EXCEEDED: the application's own ``timeout`` passed between attempts. Not a mesh failure."""

    def __init__(self, details: str) -> None:
        RpcStatus.__init__(self, grpc.StatusCode.DEADLINE_EXCEEDED, details)


class CancelledRpc(RpcStatus):
    """CANCELLED: the application cancelled the stream before it began."""

    def __init__(self, details: str) -> None:
        RpcStatus.__init__(self, grpc.StatusCode.CANCELLED, details)


BY_REPLY: dict[ReplyKind, type[MeshRpcError]] = {
    ReplyKind.CONFIGURED: ConfiguredStatus,
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


def from_reply(reply: Reply, record: CallRecord) -> MeshRpcError:
    """Return the error of a local reply; a configured one has the text Envoy would send as ``details``."""
    number = HTTP_TO_GRPC.get(reply.status, 2) if reply.grpc_status is None else reply.grpc_status
    configured = reply.kind is ReplyKind.CONFIGURED
    details = (reply.body or reply.message) if configured else f"{reply.message} [{record.response_flags}]"
    return BY_REPLY[reply.kind](CODES.get(number, grpc.StatusCode.UNKNOWN), details, record=record)


def with_record(error: ErrorT, record: CallRecord) -> ErrorT:
    """Attach the call's record to an error (or call object) of grpc's own."""
    error.__dict__["record"] = record
    return error
