"""A service's endpoints to a ClusterLoadAssignment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3 import base_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.precedence import Rule
from meshlib.controlplane.protobuf import metadata, socket_address
from meshlib.controlplane.registry import selects
from meshlib.controlplane.services import Endpoint, Port, Service, cluster_name

_HEALTH = {
    None: health_check_pb2.UNKNOWN,
    True: health_check_pb2.HEALTHY,
    False: health_check_pb2.UNHEALTHY,
}


def assignment(service: Service, port: Port, rule: Rule | None, subset: str, options: MeshOptions) -> Any:
    """Return the endpoints of a cluster, one group a locality; the name alone where there are none."""
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=cluster_name(service.host, port.number, subset))
    labels = rule.subsets[subset].labels if rule and subset else {}
    chosen = [endpoint for endpoint in port.endpoints if selects(labels, endpoint.labels)]
    for locality in sorted({endpoint.locality for endpoint in chosen}):
        message.endpoints.append(_group(locality, [item for item in chosen if item.locality == locality], options))
    return message


def _group(locality: str, endpoints: Iterable[Endpoint], options: MeshOptions) -> Any:
    region, zone, sub_zone = [*locality.split("/"), "", "", ""][:3]
    group = endpoint_components_pb2.LocalityLbEndpoints(
        locality=base_pb2.Locality(region=region, zone=zone, sub_zone=sub_zone),
        lb_endpoints=[_endpoint(endpoint, options) for endpoint in endpoints],
    )
    group.load_balancing_weight.value = sum(item.load_balancing_weight.value for item in group.lb_endpoints)
    return group


def _endpoint(endpoint: Endpoint, options: MeshOptions) -> Any:
    message = endpoint_components_pb2.LbEndpoint(
        metadata=metadata(istio={"workload": endpoint.workload}), health_status=_HEALTH[endpoint.healthy]
    )
    if options.enable_auto_mtls and endpoint.tls_mode not in ("", "disabled"):
        message.metadata.filter_metadata["envoy.transport_socket_match"].update({"tlsMode": endpoint.tls_mode})
    message.endpoint.address.CopyFrom(socket_address(endpoint.address, endpoint.port))
    message.load_balancing_weight.value = endpoint.weight
    return message
