"""Load balancing policies: the old enumeration and the new list of extensions."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshlib.model.cluster import ConsistentHashing, HashFunction, LbPolicy
from meshlib.xds.decode_values import any_type, choice, number, unpack
from meshlib.xds.faults import Status
from meshlib.xds.protos import (
    cluster_pb2,
    least_request_pb2,
    maglev_pb2,
    random_pb2,
    ring_hash_pb2,
    round_robin_pb2,
    wrr_locality_pb2,
)
from meshlib.xds.scope import Scope

_EXTENSIONS = "envoy.extensions.load_balancing_policies."
_LEAST_REQUEST = _EXTENSIONS + "least_request.v3.LeastRequest"
_RING_HASH = _EXTENSIONS + "ring_hash.v3.RingHash"
_MAGLEV = _EXTENSIONS + "maglev.v3.Maglev"
_WRR_LOCALITY = _EXTENSIONS + "wrr_locality.v3.WrrLocality"
_CLUSTER_PROVIDED = _EXTENSIONS + "cluster_provided.v3.ClusterProvided"
_PLAIN = {
    _EXTENSIONS + "round_robin.v3.RoundRobin": (LbPolicy.ROUND_ROBIN, round_robin_pb2.RoundRobin),
    _EXTENSIONS + "random.v3.Random": (LbPolicy.RANDOM, random_pb2.Random),
}
_DEFAULT_CHOICES = 2  # LeastRequestLbConfig.choice_count
_KNOWN = {*_PLAIN, _CLUSTER_PROVIDED, _LEAST_REQUEST, _RING_HASH, _MAGLEV, _WRR_LOCALITY}
_DEEPEST = 16
_LARGEST_RING = 8 * 1024 * 1024
_LARGEST_TABLE = 5_000_011


class Balancing(NamedTuple):
    """How a cluster balances: the policy, LEAST_REQUEST's candidates, RING_HASH's and MAGLEV's settings."""

    policy: LbPolicy
    choices: int = _DEFAULT_CHOICES
    hashing: ConsistentHashing = ConsistentHashing()


def lb_policy(scope: Scope, cluster: Any) -> Balancing:
    """Return how a cluster balances. What is not done here falls back to round robin, with a note."""
    if cluster.HasField("load_balancing_policy"):  # takes the place of lb_policy where it is set
        return _extension(scope.at("load_balancing_policy"), cluster.load_balancing_policy)
    try:
        name = cluster_pb2.Cluster.LbPolicy.Name(cluster.lb_policy)
    except ValueError:
        scope.fault("lb_policy", f"{cluster.lb_policy} is no LbPolicy")
        return Balancing(LbPolicy.ROUND_ROBIN)
    choices = _DEFAULT_CHOICES
    if cluster.HasField("least_request_lb_config"):
        place = scope.at("least_request_lb_config")
        place.audit(cluster.least_request_lb_config)
        choices = number(place, cluster.least_request_lb_config, "choice_count", choices, minimum=2)
    if name not in LbPolicy.__members__:
        scope.note("lb_policy", f"{name} is not done: round robin is")
        return Balancing(LbPolicy.ROUND_ROBIN, choices)
    policy = LbPolicy[name]
    common = scope.at("common_lb_config"), cluster.common_lb_config
    if policy is LbPolicy.RING_HASH:
        place, ring = scope.at("ring_hash_lb_config"), cluster.ring_hash_lb_config
        return Balancing(policy, hashing=_ring(place, ring, choice(place, ring, "hash_function"), *common))
    if policy is LbPolicy.MAGLEV:
        return Balancing(policy, hashing=_maglev(scope.at("maglev_lb_config"), cluster.maglev_lb_config, *common))
    return Balancing(policy, choices)


def _extension(scope: Scope, policy: Any, depth: int = 1) -> Balancing:
    """Take the first policy of the list that is known, as Envoy does (gRFC A52)."""
    if depth > _DEEPEST:  # gRFC A52: "the policy tree is deeper than 16 levels" is a fault
        scope.fault("", f"policies are nested more than {_DEEPEST} deep")
        return Balancing(LbPolicy.ROUND_ROBIN)
    refused = []
    for i, entry in enumerate(policy.policies):
        packed = entry.typed_extension_config.typed_config
        place = scope.at("policies", i).at("typed_extension_config").at("typed_config")
        kind = any_type(packed)
        if kind in _KNOWN:
            return _known(place, packed, kind, depth)
        refused.append(kind or "nothing")
    theirs = [kind for kind in refused if kind.startswith(_EXTENSIONS)]
    if theirs:
        scope.note("policies", f"{', '.join(theirs)} is not done: round robin is")
    else:
        scope.fault("policies", f"{', '.join(refused) or 'none'} is no load balancing policy of Envoy's")
    return Balancing(LbPolicy.ROUND_ROBIN)


def _known(scope: Scope, packed: Any, kind: str, depth: int) -> Balancing:
    if kind == _CLUSTER_PROVIDED:
        return Balancing(LbPolicy.CLUSTER_PROVIDED)
    if kind in _PLAIN:
        policy, message = _PLAIN[kind]
        scope.audit(_config(scope, packed, message))
        return Balancing(policy)
    if kind == _LEAST_REQUEST:
        config = _config(scope, packed, least_request_pb2.LeastRequest)
        scope.audit(config)
        return Balancing(LbPolicy.LEAST_REQUEST, number(scope, config, "choice_count", _DEFAULT_CHOICES, minimum=2))
    if kind == _RING_HASH:
        config = _config(scope, packed, ring_hash_pb2.RingHash)
        # DEFAULT_HASH is 0 here, so that each function's number is one more.
        function = max(choice(scope, config, "hash_function") - 1, 0)
        return Balancing(LbPolicy.RING_HASH, hashing=_ring(scope, config, function, scope, config))
    if kind == _MAGLEV:
        config = _config(scope, packed, maglev_pb2.Maglev)
        return Balancing(LbPolicy.MAGLEV, hashing=_maglev(scope, config, scope, config))
    config = _config(scope, packed, wrr_locality_pb2.WrrLocality)
    scope.note("", "endpoints of a priority share the load by their own weight alone", Status.APPROXIMATED)
    return _extension(scope.at("endpoint_picking_policy"), config.endpoint_picking_policy, depth + 1)


def _config(scope: Scope, packed: Any, kind: Any) -> Any:
    """Return what an Any holds, and the defaults where it does not parse, which is a fault."""
    found = unpack(scope, packed, "", kind)
    return kind() if found is None else found


def _ring(scope: Scope, ring: Any, function: int, common_scope: Scope, common: Any) -> ConsistentHashing:
    """Return the settings of a ring; ``common`` holds the ``consistent_hashing_lb_config``."""
    scope.audit(ring)
    # Envoy takes 0 and then finds no host for any request; gRPC refuses it (gRFC A42), and so does this.
    low = number(scope, ring, "minimum_ring_size", 1024, minimum=1, maximum=_LARGEST_RING)
    high = number(scope, ring, "maximum_ring_size", _LARGEST_RING, minimum=1, maximum=_LARGEST_RING)
    if low > high:
        scope.fault("minimum_ring_size", f"{low} is over maximum_ring_size {high}")
    use_hostname, factor = _consistent(common_scope, common)
    return ConsistentHashing(
        minimum_ring_size=low,
        maximum_ring_size=high,
        hash_function=HashFunction(function),
        use_hostname=use_hostname,
        balance_factor=factor,
    )


def _maglev(scope: Scope, maglev: Any, common_scope: Scope, common: Any) -> ConsistentHashing:
    scope.audit(maglev)
    size = number(scope, maglev, "table_size", 65537, minimum=0, maximum=_LARGEST_TABLE)
    if size < 2 or any(size % divisor == 0 for divisor in range(2, int(size**0.5) + 1)):
        scope.fault("table_size", f"{size} is not a prime number")
    use_hostname, factor = _consistent(common_scope, common)
    return ConsistentHashing(table_size=size, use_hostname=use_hostname, balance_factor=factor)


def _consistent(scope: Scope, common: Any) -> tuple[bool, int]:
    place, config = scope.at("consistent_hashing_lb_config"), common.consistent_hashing_lb_config
    place.audit(config)
    return config.use_hostname_for_hashing, number(place, config, "hash_balance_factor", 0, minimum=100)
