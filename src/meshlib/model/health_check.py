"""Active health checks, as ``config.core.v3.HealthCheck`` gives them; times in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshlib.model.headers import HeaderMutations
from meshlib.model.match import StringMatch

_UNCHANGED = HeaderMutations()
OK: tuple[tuple[int, int], ...] = ((200, 201),)


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """``HttpHealthCheck``.

    Attributes:
        path: path and query.
        host: the Host header, empty for the cluster's name.
        method: HTTP method.
        send: the request's body.
        receive: what the response's body must contain, in this order.
        headers: what is added to the request and removed from it.
        expected: statuses that are healthy, as ranges without their ends.
        retriable: statuses that are unhealthy once there are ``unhealthy_threshold`` of them.
        http2: whether it is sent by HTTP/2, with prior knowledge.
        service_name: what ``x-envoy-upstream-healthchecked-cluster`` of the response must match.
        buffer: bytes of the response's body that are looked at, 0 = all.
    """

    path: str
    host: str = ""
    method: str = "GET"
    send: bytes = b""
    receive: tuple[bytes, ...] = ()
    headers: HeaderMutations = _UNCHANGED
    expected: tuple[tuple[int, int], ...] = OK
    retriable: tuple[tuple[int, int], ...] = ()
    http2: bool = False
    service_name: StringMatch | None = None
    buffer: int = 1024


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """``TcpHealthCheck``: healthy is who takes a connection and, asked, says what it must.

    Attributes:
        send: what is sent once connected, empty for nothing.
        receive: what must come back, in this order, other bytes between them or not.
    """

    send: bytes = b""
    receive: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class GrpcCheck:
    """``GrpcHealthCheck``: ``grpc.health.v1.Health/Check``.

    Attributes:
        service: the service asked about, empty for the server as a whole.
        authority: ``:authority``, empty for the cluster's name.
        headers: what is added to the call's metadata.
    """

    service: str = ""
    authority: str = ""
    headers: HeaderMutations = _UNCHANGED


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One check of all endpoints of a cluster.

    Attributes:
        check: what is done.
        timeout: seconds for an answer.
        interval: seconds between checks.
        unhealthy_threshold: failures in a row that take an endpoint out.
        healthy_threshold: successes in a row that bring it back; the first check of all needs one.
        initial_jitter: the first check comes up to so much later, drawn at random.
        interval_jitter: and every other one.
        interval_jitter_percent: and, likewise, percent of the interval.
        no_traffic_interval: in place of ``interval`` while no calls come.
        no_traffic_healthy_interval: the same, of healthy endpoints.
        unhealthy_interval: of unhealthy endpoints.
        unhealthy_edge_interval: after a failure that is not yet one too many.
        healthy_edge_interval: after a success that is not yet enough.
        reuse_connection: whether a connection serves more than one check.
        log_failures: whether every failure is logged, not only the first.
        log_successes: and every success.
        socket_criteria: ``transport_socket_match_criteria``, in place of the endpoint's metadata;
            None takes the metadata.
    """

    check: HttpCheck | TcpCheck | GrpcCheck
    timeout: float
    interval: float
    unhealthy_threshold: int = 1
    healthy_threshold: int = 1
    initial_jitter: float = 0.0
    interval_jitter: float = 0.0
    interval_jitter_percent: int = 0
    no_traffic_interval: float = 60.0
    no_traffic_healthy_interval: float = 60.0
    unhealthy_interval: float = 0.0
    unhealthy_edge_interval: float = 0.0
    healthy_edge_interval: float = 0.0
    reuse_connection: bool = True
    log_failures: bool = False
    log_successes: bool = False
    socket_criteria: Mapping[str, object] | None = None
