"""Load balancing policies: the old enumeration and the new list of extensions."""

from __future__ import annotations

from typing import Any

from meshlib.model.cluster import LbPolicy
from meshlib.xds.decode_values import any_type, number, unpack
from meshlib.xds.protos import cluster_pb2, least_request_pb2, wrr_locality_pb2
from meshlib.xds.scope import Scope

_EXTENSIONS = "envoy.extensions.load_balancing_policies."
_LEAST_REQUEST = _EXTENSIONS + "least_request.v3.LeastRequest"
_WRR_LOCALITY = _EXTENSIONS + "wrr_locality.v3.WrrLocality"
_PLAIN = {
    _EXTENSIONS + "round_robin.v3.RoundRobin": LbPolicy.ROUND_ROBIN,
    _EXTENSIONS + "random.v3.Random": LbPolicy.RANDOM,
    _EXTENSIONS + "cluster_provided.v3.ClusterProvided": LbPolicy.CLUSTER_PROVIDED,
}
_DEFAULT_CHOICES = 2  # LeastRequestLbConfig.choice_count


def lb_policy(scope: Scope, cluster: Any) -> tuple[LbPolicy, int]:
    """Return the policy of a cluster and the candidates of LEAST_REQUEST.

    What is not done here falls back to round robin, with a note.
    """
    if cluster.HasField("load_balancing_policy"):  # takes the place of lb_policy where it is set
        return _extension(scope.at("load_balancing_policy"), cluster.load_balancing_policy)
    try:
        name = cluster_pb2.Cluster.LbPolicy.Name(cluster.lb_policy)
    except ValueError:
        scope.fault("lb_policy", f"{cluster.lb_policy} is no LbPolicy")
        return LbPolicy.ROUND_ROBIN, _DEFAULT_CHOICES
    choices = _DEFAULT_CHOICES
    if cluster.HasField("least_request_lb_config"):
        place = scope.at("least_request_lb_config")
        place.audit(cluster.least_request_lb_config)
        choices = number(place, cluster.least_request_lb_config, "choice_count", choices, minimum=2)
    if name in LbPolicy.__members__:
        return LbPolicy[name], choices
    scope.note("lb_policy", f"{name} is not done: round robin is")
    return LbPolicy.ROUND_ROBIN, choices


def _extension(scope: Scope, policy: Any) -> tuple[LbPolicy, int]:
    """Take the first policy of the list that is known, as Envoy does (gRFC A52)."""
    refused = []
    for i, entry in enumerate(policy.policies):
        packed = entry.typed_extension_config.typed_config
        place = scope.at("policies", i)
        kind = any_type(packed)
        if kind in _PLAIN:
            return _PLAIN[kind], _DEFAULT_CHOICES
        if kind == _LEAST_REQUEST:
            config = unpack(place, packed, "typed_config", least_request_pb2.LeastRequest)
            known = config is not None
            return LbPolicy.LEAST_REQUEST, number(
                place, config, "choice_count", _DEFAULT_CHOICES, minimum=2
            ) if known else _DEFAULT_CHOICES
        if kind == _WRR_LOCALITY:
            config = unpack(place, packed, "typed_config", wrr_locality_pb2.WrrLocality)
            if config is not None:
                place.note("typed_config", "endpoints of a priority share the load by their own weight alone")
                return _extension(place.at("endpoint_picking_policy"), config.endpoint_picking_policy)
        refused.append(kind or "nothing")
    scope.note("policies", f"{', '.join(refused) or 'none'} is not done: round robin is")
    return LbPolicy.ROUND_ROBIN, _DEFAULT_CHOICES
