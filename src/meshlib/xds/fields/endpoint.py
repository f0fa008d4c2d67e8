"""ClusterLoadAssignments and their endpoints."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import Fields, alike, fields

_ENDPOINT = "envoy.config.endpoint.v3."

_BY_REFERENCE = "endpoints given by reference are left out"

FIELDS: Mapping[str, Fields] = {
    _ENDPOINT + "ClusterLoadAssignment": fields(
        "cluster_name endpoints policy", unsupported={"named_endpoints": _BY_REFERENCE}
    ),
    _ENDPOINT + "ClusterLoadAssignment.Policy": fields(
        "overprovisioning_factor drop_overloads weighted_priority_health",
        unsupported={"endpoint_stale_after": "endpoints do not grow stale"},
    ),
    _ENDPOINT + "ClusterLoadAssignment.Policy.DropOverload": fields("category drop_percentage"),
    _ENDPOINT + "LocalityLbEndpoints": fields(
        "locality lb_endpoints load_balancing_weight priority",
        {"metadata": "endpoints carry their own", "proximity": "Envoy does not read it either"},
        unsupported=alike("load_balancer_endpoints leds_cluster_locality_config", _BY_REFERENCE),
    ),
    _ENDPOINT + "LbEndpoint": fields(
        "endpoint health_status metadata load_balancing_weight", unsupported={"endpoint_name": _BY_REFERENCE}
    ),
    _ENDPOINT + "Endpoint.HealthCheckConfig": fields("port_value hostname address disable_active_health_check"),
    _ENDPOINT + "Endpoint": fields(
        "address hostname health_check_config",
        unsupported={"additional_addresses": "only the first address is dialled"},
    ),
}
