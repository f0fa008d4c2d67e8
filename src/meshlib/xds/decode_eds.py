"""ClusterLoadAssignments: the endpoints of a cluster, by locality and priority."""

from __future__ import annotations

import ipaddress
from typing import Any

from meshlib.model.endpoint import (
    ClusterLoadAssignment,
    Endpoint,
    EndpointCheck,
    HealthStatus,
    Locality,
    LocalityEndpoints,
    Workload,
)
from meshlib.xds.decode_values import UINT32_MAX, fraction, number, plain_metadata
from meshlib.xds.scope import Scope

_MAX_PRIORITY = 128
_MAX_PORT = 65535
_NOWHERE = Workload()


def load_assignment(scope: Scope, assignment: Any, *, names: bool = False) -> ClusterLoadAssignment:
    """Return a ``ClusterLoadAssignment``.

    Args:
        scope: where it is.
        assignment: the message.
        names: whether addresses may be host names, as in STRICT_DNS and LOGICAL_DNS clusters.
    """
    scope.audit(assignment)
    if not assignment.cluster_name:
        scope.fault("cluster_name", "must not be empty")
    policy = scope.at("policy")
    policy.audit(assignment.policy)
    factor = number(policy, assignment.policy, "overprovisioning_factor", 140, minimum=1)
    groups = tuple(_group(scope.at("endpoints", i), g, names) for i, g in enumerate(assignment.endpoints))
    _check_weights(scope, groups)
    return ClusterLoadAssignment(
        name=assignment.cluster_name,
        localities=groups,
        overprovisioning_factor=factor,
        weighted_priority_health=assignment.policy.weighted_priority_health,
        drop_percentage=_dropped(policy, assignment.policy),
    )


def _dropped(scope: Scope, policy: Any) -> float:
    drops = policy.drop_overloads
    if len(drops) > 1:
        scope.fault("drop_overloads", f"has {len(drops)} categories; Envoy takes one")
    if not drops:
        return 0.0
    place = scope.at("drop_overloads", 0)
    place.audit(drops[0])
    if not drops[0].category:
        place.fault("category", "must not be empty")
    return fraction(place, drops[0], "drop_percentage")


def _check_weights(scope: Scope, groups: tuple[LocalityEndpoints, ...]) -> None:
    totals: dict[int, int] = {}
    for group in groups:
        totals[group.priority] = totals.get(group.priority, 0) + group.weight
    for priority, total in totals.items():
        if total > UINT32_MAX:
            scope.fault("endpoints", f"locality weights of priority {priority} sum to {total}, over {UINT32_MAX}")


def _group(scope: Scope, group: Any, names: bool) -> LocalityEndpoints:
    scope.audit(group)
    if group.priority > _MAX_PRIORITY:
        scope.fault("priority", f"{group.priority} is over {_MAX_PRIORITY}")
    endpoints = (_lb_endpoint(scope.at("lb_endpoints", i), e, names) for i, e in enumerate(group.lb_endpoints))
    return LocalityEndpoints(
        endpoints=tuple(endpoint for endpoint in endpoints if endpoint is not None),
        locality=Locality(group.locality.region, group.locality.zone, group.locality.sub_zone),
        weight=number(scope, group, "load_balancing_weight", 0, minimum=1),
        priority=group.priority,
    )


def _lb_endpoint(scope: Scope, lb: Any, names: bool) -> Endpoint | None:
    scope.audit(lb)
    if lb.endpoint_name:
        return None  # noted by the audit
    place = scope.at("endpoint")
    place.audit(lb.endpoint)
    address, port = socket_address(place.at("address"), lb.endpoint.address, names=names)
    try:
        health = HealthStatus(lb.health_status)
    except ValueError:
        scope.fault("health_status", f"{lb.health_status} is no HealthStatus")
        health = HealthStatus.UNKNOWN
    return Endpoint(
        address=address,
        port=port,
        weight=number(scope, lb, "load_balancing_weight", 1, minimum=1),
        health=health,
        hostname=lb.endpoint.hostname,
        metadata=plain_metadata(lb.metadata),
        workload=_workload(lb.metadata),
        check=_check(place.at("health_check_config"), lb.endpoint.health_check_config)
        if lb.endpoint.HasField("health_check_config")
        else EndpointCheck(),
    )


def _check(scope: Scope, config: Any) -> EndpointCheck:
    """Return what an endpoint says to active health checks."""
    scope.audit(config)
    if config.port_value > _MAX_PORT:
        scope.fault("port_value", f"{config.port_value} is over {_MAX_PORT}")
    address = socket_address(scope.at("address"), config.address, names=False) if config.HasField("address") else None
    return EndpointCheck(config.disable_active_health_check, config.port_value, config.hostname, address)


def socket_address(scope: Scope, address: Any, *, names: bool) -> tuple[str, int]:
    """Return address and port of a ``core.v3.Address``; a unix socket is its path and port 0."""
    kind = address.WhichOneof("address")
    if kind == "pipe":
        scope.at("pipe").audit(address.pipe)
        if not address.pipe.path:
            scope.fault("pipe.path", "must not be empty")
        return address.pipe.path, 0
    if kind != "socket_address":
        scope.fault(kind or "", "is not supported: expected socket_address or pipe" if kind else "is missing")
        return "", 0
    socket, place = address.socket_address, scope.at("socket_address")
    place.audit(socket)
    _check_socket(place, socket, names)
    return socket.address, socket.port_value


def _check_socket(scope: Scope, socket: Any, names: bool) -> None:
    if socket.protocol:
        scope.fault("protocol", "UDP is not supported: expected TCP")
    if socket.WhichOneof("port_specifier") != "port_value":
        scope.fault("port_value", "is missing")
    elif socket.port_value > _MAX_PORT:
        scope.fault("port_value", f"{socket.port_value} is over {_MAX_PORT}")
    if not socket.address:
        scope.fault("address", "must not be empty")
    elif names and socket.resolver_name:
        scope.fault("resolver_name", "is not supported in a cluster that looks names up")
    elif not names:
        try:
            ipaddress.ip_address(socket.address)
        except ValueError:
            scope.fault("address", f"{socket.address!r} is no IP address; a host name needs a STRICT_DNS cluster")


def _workload(metadata: Any) -> Workload:
    """Return who answers there: Istio's "name;namespace;app;version;cluster"."""
    if "istio" not in metadata.filter_metadata:
        return _NOWHERE
    istio = metadata.filter_metadata["istio"].fields
    if "workload" not in istio:
        return _NOWHERE
    parts = [part or "unknown" for part in istio["workload"].string_value.split(";")[:5]]
    return Workload(*parts)
