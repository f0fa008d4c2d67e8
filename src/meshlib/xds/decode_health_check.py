"""Active health checks of a cluster."""

from __future__ import annotations

from typing import Any

from meshlib.model.headers import HeaderMutations
from meshlib.model.health_check import OK, GrpcCheck, HealthCheck, HttpCheck, TcpCheck
from meshlib.xds.decode_headers import header_mutations
from meshlib.xds.decode_matchers import string_match
from meshlib.xds.decode_values import any_type, choice, flag, number, plain_struct, seconds
from meshlib.xds.protos import base_pb2, health_check_pb2
from meshlib.xds.scope import Scope

_CUSTOM = ("envoy.health_checkers.redis", "envoy.health_checkers.thrift")
_WITH_BODY = ("POST", "PUT", "PATCH", "OPTIONS")
_CONNECT, _HTTP2, _HTTP3 = base_pb2.CONNECT, 1, 2


def health_checks(scope: Scope, message: Any, *, http2: bool) -> tuple[HealthCheck, ...]:
    """Return the checks of a ``cluster.v3.Cluster``.

    Args:
        scope: the cluster's.
        message: the cluster.
        http2: whether its endpoints are spoken to by HTTP/2.
    """
    checks = message.health_checks
    if len(checks) > 1:
        # Envoy 1.40 takes several that have names, a field that xds-protos does not know yet.
        scope.fault("health_checks", f"has {len(checks)} checks; one is supported")
    found = (_health_check(scope.at("health_checks", i), check, http2) for i, check in enumerate(checks))
    return tuple(check for check in found if check is not None)


def _health_check(scope: Scope, message: Any, http2: bool) -> HealthCheck | None:
    scope.audit(message)
    for field in ("timeout", "interval", "unhealthy_threshold", "healthy_threshold"):
        if not message.HasField(field):
            scope.fault(field, "is missing")
    check = _check(scope, message, http2)
    interval = seconds(scope, message, "interval", 1.0, positive=True)
    no_traffic = seconds(scope, message, "no_traffic_interval", 60.0, positive=True)
    unhealthy = seconds(scope, message, "unhealthy_interval", interval, positive=True)
    made = {
        "timeout": seconds(scope, message, "timeout", 1.0, positive=True),
        "no_traffic_healthy_interval": seconds(
            scope, message, "no_traffic_healthy_interval", no_traffic, positive=True
        ),
        "unhealthy_edge_interval": seconds(scope, message, "unhealthy_edge_interval", unhealthy, positive=True),
        "healthy_edge_interval": seconds(scope, message, "healthy_edge_interval", interval, positive=True),
        "initial_jitter": seconds(scope, message, "initial_jitter", 0.0),
        "interval_jitter": seconds(scope, message, "interval_jitter", 0.0),
    }
    if check is None:
        return None
    criteria = message.HasField("transport_socket_match_criteria")
    return HealthCheck(
        check=check,
        interval=interval,
        no_traffic_interval=no_traffic,
        unhealthy_interval=unhealthy,
        interval_jitter_percent=message.interval_jitter_percent,
        unhealthy_threshold=number(scope, message, "unhealthy_threshold", 1),
        healthy_threshold=number(scope, message, "healthy_threshold", 1),
        reuse_connection=flag(message, "reuse_connection", True),
        log_failures=message.always_log_health_check_failures,
        log_successes=message.always_log_health_check_success,
        socket_criteria=plain_struct(message.transport_socket_match_criteria) if criteria else None,
        **made,
    )


def _check(scope: Scope, message: Any, http2: bool) -> HttpCheck | TcpCheck | GrpcCheck | None:
    kind = message.WhichOneof("health_checker")
    if kind == "http_health_check":
        return _http(scope.at(kind), message.http_health_check)
    if kind == "tcp_health_check":
        return _tcp(scope.at(kind), message.tcp_health_check)
    if kind == "grpc_health_check":
        if not http2:
            scope.fault(kind, "needs a cluster that speaks HTTP/2")
        return _grpc(scope.at(kind), message.grpc_health_check)
    if kind == "custom_health_check":
        custom = message.custom_health_check
        if not custom.name:
            scope.fault("custom_health_check.name", "must not be empty")
        elif custom.name not in _CUSTOM and not any_type(custom.typed_config).startswith("envoy.extensions.health_che"):
            scope.fault("custom_health_check", f"{custom.name} is not supported")
        else:
            scope.note("custom_health_check", f"{custom.name} is not made: endpoints count as healthy")
        return None
    scope.fault("health_checker", "is missing: expected http_health_check, tcp_health_check or grpc_health_check")
    return None


def _http(scope: Scope, message: Any) -> HttpCheck:
    scope.audit(message)
    if not message.path:
        scope.fault("path", "must not be empty")
    for field in ("path", "host"):
        if any(char != "\t" and (char < " " or char == "\x7f") for char in getattr(message, field)):
            scope.fault(field, "contains a control character")
    method = _method(scope, message)
    send = _payload(scope.at("send"), message.send) if message.HasField("send") else b""
    if message.HasField("send") and method not in _WITH_BODY:
        scope.fault("send", f"does not go with {method}: only {', '.join(_WITH_BODY)} have a body")
    codec = choice(scope, message, "codec_client_type")
    if codec == _HTTP3:
        scope.fault("codec_client_type", "HTTP3 is not supported")
    return HttpCheck(
        path=message.path,
        host=message.host,
        method=method,
        send=send,
        receive=_payloads(scope, message),
        headers=header_mutations(scope, message, "request"),
        expected=_ranges(scope, message, "expected_statuses") or OK,
        retriable=_ranges(scope, message, "retriable_statuses"),
        http2=codec == _HTTP2,
        service_name=string_match(scope.at("service_name_matcher"), message.service_name_matcher)
        if message.HasField("service_name_matcher")
        else None,
        buffer=message.response_buffer_size.value if message.HasField("response_buffer_size") else 1024,
    )


def _method(scope: Scope, message: Any) -> str:
    method = choice(scope, message, "method")
    if method == _CONNECT:
        scope.fault("method", "must not be CONNECT")
    return str(base_pb2.RequestMethod.Name(method)) if method else "GET"


def _ranges(scope: Scope, message: Any, field: str) -> tuple[tuple[int, int], ...]:
    ranges = getattr(message, field)
    for i, each in enumerate(ranges):
        place = scope.at(field, i)
        place.audit(each)
        if each.start < 100:
            place.fault("start", f"{each.start} is below 100")
        if each.end > 600:
            place.fault("end", f"{each.end} is over 600")
        if each.start >= each.end:
            place.fault("end", f"{each.end} is not over start, {each.start}")
    return tuple((each.start, each.end) for each in ranges)


def _tcp(scope: Scope, message: Any) -> TcpCheck:
    scope.audit(message)
    send = _payload(scope.at("send"), message.send) if message.HasField("send") else b""
    return TcpCheck(send, _payloads(scope, message))


def _payloads(scope: Scope, message: Any) -> tuple[bytes, ...]:
    return tuple(_payload(scope.at("receive", i), payload) for i, payload in enumerate(message.receive))


def _payload(scope: Scope, payload: Any) -> bytes:
    """Return a ``HealthCheck.Payload``: hexadecimal text, or bytes."""
    scope.audit(payload)
    if payload.WhichOneof("payload") == "binary":
        return bytes(payload.binary)
    if not payload.text:
        scope.fault("text", "is missing, and so is binary")
        return b""
    try:
        if any(char.isspace() for char in payload.text):
            raise ValueError
        return bytes.fromhex(payload.text)
    except ValueError:
        scope.fault("text", f"{payload.text!r} is not hexadecimal")
        return b""


def _grpc(scope: Scope, message: Any) -> GrpcCheck:
    scope.audit(message)
    if any(char in message.authority for char in "\0\r\n"):
        scope.fault("authority", "contains a line break or NUL")
    added = message.initial_metadata
    # The same message as a route's, under another name.
    request = health_check_pb2.HealthCheck.HttpHealthCheck(request_headers_to_add=added)
    metadata = header_mutations(scope, request, "request") if added else HeaderMutations()
    return GrpcCheck(message.service_name, message.authority, metadata)
