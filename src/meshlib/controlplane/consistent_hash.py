"""``consistentHash`` of a DestinationRule: the cluster's policy, and what its routes hash."""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_components_pb2 as route_pb2

from meshlib.controlplane.documents.destination_rule import ConsistentHash
from meshlib.controlplane.precedence import Rule
from meshlib.controlplane.protobuf import duration

_DEFAULT_RING_SIZE = 1024  # istiod says it where the rule names no algorithm


def balance(message: Any, config: ConsistentHash) -> None:
    """Set a Cluster's RING_HASH or MAGLEV policy."""
    if config.maglev is not None:
        message.lb_policy = cluster_pb2.Cluster.MAGLEV
        if config.maglev.table_size:
            message.maglev_lb_config.table_size.value = config.maglev.table_size
        return
    message.lb_policy = cluster_pb2.Cluster.RING_HASH
    if config.ring_hash is None:
        message.ring_hash_lb_config.minimum_ring_size.value = config.minimum_ring_size or _DEFAULT_RING_SIZE
    elif config.ring_hash.minimum_ring_size:
        message.ring_hash_lb_config.minimum_ring_size.value = config.ring_hash.minimum_ring_size


def hash_policy(rule: Rule | None, port: int, subset: str = "") -> Any | None:
    """Return the HashPolicy of routes to a service's port, or to a subset on it; None without consistentHash."""
    policy = rule.policy_on(port, subset if subset in rule.subsets else "") if rule else None
    config = policy.load_balancer.consistent_hash if policy and policy.load_balancer else None
    if config is None:
        return None
    message = route_pb2.RouteAction.HashPolicy()
    if config.http_header_name:
        message.header.header_name = config.http_header_name
    elif config.http_cookie is not None:
        message.cookie.name = config.http_cookie.name
        message.cookie.path = config.http_cookie.path
        if config.http_cookie.ttl is not None:
            message.cookie.ttl.CopyFrom(duration(config.http_cookie.ttl))
    elif config.http_query_parameter_name:
        message.query_parameter.name = config.http_query_parameter_name
    elif config.use_source_ip:
        message.connection_properties.source_ip = True
    else:
        return None
    return message
