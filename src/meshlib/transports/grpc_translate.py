"""Between gRPC's words and policy's: targets, metadata, channel options, and what a failed RPC means."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc

from meshlib.model.balancing import LbPolicy
from meshlib.model.endpoint import Endpoint
from meshlib.model.request import RequestView
from meshlib.policy.balancing.orca import HEADER
from meshlib.policy.effects import Attempt, ErrorKind, Outcome

Metadata = Sequence[tuple[str, str | bytes]]
Options = Sequence[tuple[str, Any]]

DEFAULT_PORT = 80
AUTHORITY_OPTION = "grpc.default_authority"

# Header names gRPC keeps to itself; policy's headers must not set them.
RESERVED = frozenset({"connection", "content-length", "content-type", "host", "te", "transfer-encoding", "user-agent"})


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed ``host:port``.

    Attributes:
        host: lower-case host, without brackets.
        port: the port, 80 where the target names none.
        authority: what ``:authority`` says: the target as written.
    """

    host: str
    port: int
    authority: str


def parse_target(target: str, options: Options = ()) -> Target:
    """Return the parsed ``host:port`` of a mesh target; raises ``ValueError`` for anything else.

    Args:
        target: ``catalog:50051``, ``catalog.ns``, ``[::1]:50051``; no scheme.
        options: channel options; ``grpc.default_authority`` replaces the authority, as in grpc.
    """
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\[\]:/\s]+)(?::(\d{1,5}))?", target)
    if match is None:
        bare = target.rpartition("/")[2] if "//" in target else "catalog:50051"
        raise ValueError(f"a mesh target is 'host' or 'host:port', not {target!r}; write {bare!r}")
    port = int(match[2]) if match[2] else DEFAULT_PORT
    if not 0 < port < 65536:
        raise ValueError(f"{target!r} names port {port}; a port is between 1 and 65535")
    authority = dict(options).get(AUTHORITY_OPTION, target)
    return Target(match[1].strip("[]").lower(), port, str(authority))


def view_of(target: Target, path: str, metadata: Metadata, *, replayable: bool) -> RequestView:
    """Return what policy may read of an RPC: the HTTP/2 request gRPC would send, without ``-bin`` metadata."""
    headers = [("content-type", "application/grpc"), ("te", "trailers")]
    for name, value in metadata:
        if not name.endswith("-bin"):
            headers.append((name.lower(), value.decode("latin-1") if isinstance(value, bytes) else value))
    return RequestView(
        method="POST",
        scheme="http",
        host=target.host,
        port=target.port,
        authority=target.authority,
        target=path,
        headers=headers,
        replayable=replayable,
    )


def attempt_metadata(metadata: Metadata, effect: Attempt) -> list[tuple[str, str | bytes]]:
    """Return the metadata of one attempt; a header of policy's replaces the application's of that name."""
    added = [(name, value) for name, value in effect.headers if allowed(name)]
    replaced = effect.removed.union(name for name, _ in added)
    return [(name, value) for name, value in metadata if name not in replaced] + added


def allowed(name: str) -> bool:
    """Tell whether a header of policy's may be sent as metadata."""
    return name not in RESERVED and not name.startswith((":", "grpc-"))


def dial_target(endpoint: Endpoint) -> str:
    """Return the grpc target of an endpoint: its address, never looked up in the mesh again."""
    address, port = endpoint.host, endpoint.port
    if not port:
        return f"unix:{address}"
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return f"dns:///{address}:{port}"
    return f"ipv4:{address}:{port}" if version == 4 else f"ipv6:[{address}]:{port}"


def channel_options(own: Options, authority: str, connect_timeout: float) -> list[tuple[str, Any]]:
    """Return the options of a channel to one endpoint: the application's, and ours, which win.

    The logical name is the authority; grpc retries nothing, so that its attempts are ours; the
    connection is shared with no other channel, so that authorities do not mix; no environment
    proxy and no service configuration from DNS stand between us and the endpoint.
    """
    ours: dict[str, Any] = {
        AUTHORITY_OPTION: authority,
        "grpc.enable_retries": 0,
        "grpc.enable_http_proxy": 0,
        "grpc.service_config_disable_resolution": 1,
        "grpc.use_local_subchannel_pool": 1,
        # grpc's connect timeout is the larger of these two.
        "grpc.min_reconnect_backoff_ms": max(1, int(connect_timeout * 1000)),
        "grpc.initial_reconnect_backoff_ms": 100,
    }
    return [(name, value) for name, value in own if name not in ours] + list(ours.items())


class Bound(NamedTuple):
    """The time granted to one attempt.

    Attributes:
        timeout: seconds, None = no bound.
        application: whether the application's own timeout is the nearer one.
        started: monotonic second of its start.
    """

    timeout: float | None
    application: bool
    started: float

    @property
    def expired(self) -> bool:
        """Whether the time is over; a millisecond of slack covers grpc's timer granularity."""
        return self.timeout is not None and time.monotonic() - self.started >= self.timeout - 0.001

    @property
    def expiry(self) -> ErrorKind:
        """Whose expiry it is: the attempt's, or the application's."""
        return ErrorKind.APPLICATION if self.application else ErrorKind.TIMEOUT


# grpc gives no machine-readable origin of a status, so a failure made locally is known by its text
# (measured on grpcio 1.80.0 and 1.85.1), and by carrying no metadata. A connect failure must also
# name our endpoint: a server that passes on the status of a call of its own names another.
_WRAPPED = re.compile(r"Stream removed \((.*)\)", re.DOTALL)
_CONNECT = re.compile(r"failed to connect to all addresses|errors resolving |DNS resolution failed")
_SLOW = re.compile(r"timed out|timeout|FD [Ss]hutdown")
_RESET = re.compile(
    r"Socket closed|GOAWAY received|(RST_STREAM \()?Received RST_STREAM|RST_STREAM|recvmsg|sendmsg"
    r"|Endpoint clos|Transport closed|Connection reset|Broken pipe|[Kk]eepalive|[Pp]ing timeout"
)
_REFUSED = re.compile(r"(RST_STREAM \()?Received RST_STREAM with error code 7\b")
_HTTP = re.compile(r"Received http2 header with status: (\d{3})$")
_OURS = re.compile(
    r"(CLIENT: |Decompressed )?(Sent |Received )?message larger than max|Channel closed"
    r"|Exception (de)?serializing|Exception iterating requests"
)


def failed(error: Any, effect: Attempt, bound: Bound) -> Outcome:
    """Return the outcome of an attempt whose RPC did not end with OK.

    A failed unary call carries no message, so its status came in what Envoy sees as a
    trailers-only response, and its code counts for ``retry_on`` and outlier detection. Where the
    server sent metadata first, the response had begun (Envoy: headers without a status; gRFC A6:
    committed), and the code no longer counts.

    Args:
        error: grpc's error: code, details and metadata.
        effect: the attempt.
        bound: its time.
    """
    code: grpc.StatusCode = error.code()
    details = str(error.details() or "")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and bound.expired:
        return Outcome(error=bound.expiry, message="no answer in time", exception=error)
    status = 200
    if not error.initial_metadata() and not error.trailing_metadata():
        local = _local(code, details, effect.endpoint)
        if local is not None:
            written = local not in (ErrorKind.CONNECT, ErrorKind.CONNECT_TIMEOUT)
            return Outcome(error=local, message=details, exception=error, written=written)
        http = _HTTP.match(details)
        status = int(http[1]) if http else 200
    begun = bool(error.initial_metadata()) or status != 200
    return Outcome(
        status=status,
        headers={**_headers(error.trailing_metadata()), **load_metrics(error.trailing_metadata())},
        message=f"{code.name}: {details}",
        exception=error,
        grpc_status=None if begun else int(code.value[0]),
    )


def _local(code: grpc.StatusCode, details: str, endpoint: Endpoint) -> ErrorKind | None:
    """Return the kind of a failure made on this side, None for a status of the server's."""
    wrapped = _WRAPPED.fullmatch(details)
    text = wrapped[1] if wrapped else details
    if _OURS.match(text):
        return ErrorKind.APPLICATION
    if code is grpc.StatusCode.UNAVAILABLE and _CONNECT.match(text) and _names(text, endpoint):
        return ErrorKind.CONNECT_TIMEOUT if _SLOW.search(text) else ErrorKind.CONNECT
    if _REFUSED.match(text):
        return ErrorKind.REFUSED
    return ErrorKind.RESET if wrapped or _RESET.match(text) else None


def _names(text: str, endpoint: Endpoint) -> bool:
    """Tell whether a connect failure is about ``endpoint``; of a host name grpc tells only the port."""
    if endpoint.host in text:
        return True
    return dial_target(endpoint).startswith("dns:") and f":{endpoint.port}" in text


def wants_report(effect: Attempt) -> bool:
    """Tell whether the cluster balances by load reports, which end an RPC."""
    return effect.cluster.balancing.policy is LbPolicy.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN


def load_metrics(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """Return the load report in trailing metadata as a header, empty for none.

    ``endpoint-load-metrics`` alone: grpcio's core takes ``endpoint-load-metrics-bin`` for itself and
    shows it to nobody.
    """
    return {name: value for name, value in metadata or () if name == HEADER and isinstance(value, str)}


def _headers(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    return {name: value for name, value in metadata or () if isinstance(value, str)}
