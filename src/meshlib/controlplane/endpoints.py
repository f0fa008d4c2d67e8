"""A service's endpoints to a ClusterLoadAssignment."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from meshlib.controlplane.locality import Group, grouped, preference
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.precedence import Rule
from meshlib.controlplane.protobuf import metadata, socket_address
from meshlib.controlplane.services import Endpoint, Port, Service, cluster_name
from meshlib.controlplane.view import View
from meshlib.controlplane.workloads import selects

_HEALTH = {
    None: health_check_pb2.UNKNOWN,
    True: health_check_pb2.HEALTHY,
    False: health_check_pb2.UNHEALTHY,
}


def assignment(service: Service, port: Port, rule: Rule | None, subset: str, view: View, name: str = "") -> Any:
    """Return the endpoints of a cluster, one group a locality; the name alone where there are none."""
    own = cluster_name(service.host, port.number, subset)
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=name or own)
    passed = bool(name) and name != own  # TLS that passes through must reach somebody who ends it
    labels = rule.subsets[subset].labels if rule and subset else {}
    policy = rule.policy_on(port.number, subset) if rule else None
    tls = policy.tls.mode if policy and policy.tls else None  # which goes before what the workload says
    outliers = policy.outlier_detection if policy else None
    # Where a panic threshold may send calls to unhealthy endpoints, those that are not ready are left out.
    ready_only = outliers is not None and outliers.min_health_percent > 0
    chosen = [
        endpoint
        for endpoint in port.endpoints
        if selects(labels, endpoint.labels)
        and not (ready_only and endpoint.healthy is False)
        and not (passed and (endpoint.plain or endpoint.tls_mode != "istio"))
    ]
    for group in grouped(chosen, preference(service, policy, view), view):
        message.endpoints.append(_group(group, view.options, tls))
    return message


def _group(group: Group, options: MeshOptions, tls: str | None) -> Any:
    region, zone, sub_zone = [*group.locality.split("/"), "", "", ""][:3]
    message = endpoint_components_pb2.LocalityLbEndpoints(
        locality=base_pb2.Locality(region=region, zone=zone, sub_zone=sub_zone),
        lb_endpoints=[_endpoint(endpoint, options, tls) for endpoint in group.endpoints],
        priority=group.priority,
    )
    message.load_balancing_weight.value = group.weight
    return message


def _endpoint(endpoint: Endpoint, options: MeshOptions, tls: str | None) -> Any:
    plain = endpoint.plain if tls is None else tls != "ISTIO_MUTUAL"
    message = endpoint_components_pb2.LbEndpoint(
        metadata=metadata(istio={"workload": endpoint.workload}), health_status=_HEALTH[endpoint.healthy]
    )
    if options.enable_auto_mtls and not plain and endpoint.tls_mode not in ("", "disabled"):
        message.metadata.filter_metadata["envoy.transport_socket_match"].update({"tlsMode": endpoint.tls_mode})
    message.endpoint.address.CopyFrom(socket_address(endpoint.address, endpoint.port))
    message.load_balancing_weight.value = endpoint.weight
    return message
