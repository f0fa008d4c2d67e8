"""Load balancing policies: the old enumeration and the new list of extensions, in one shape."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from meshlib.model.balancing import (
    Balancing,
    ConsistentHashing,
    HashFunction,
    LbPolicy,
    LoadReports,
    SlowStart,
    ZoneAware,
)
from meshlib.model.endpoint import HealthStatus
from meshlib.xds.decode_hash_policy import hash_policies
from meshlib.xds.decode_subsets import subsets
from meshlib.xds.decode_values import any_type, choice, number, percent, seconds, unpack
from meshlib.xds.faults import Status
from meshlib.xds.protos import (
    client_side_weighted_round_robin_pb2,
    cluster_pb2,
    cluster_provided_pb2,
    least_request_pb2,
    maglev_pb2,
    override_host_pb2,
    pick_first_pb2,
    random_pb2,
    ring_hash_pb2,
    round_robin_pb2,
    subset_pb2,
    wrr_locality_pb2,
)
from meshlib.xds.scope import Scope

_EXTENSIONS = "envoy.extensions.load_balancing_policies."
_CONFIGURED_ELSEWHERE = "LOAD_BALANCING_POLICY_CONFIG"
_DEFAULT_CHOICES = 2  # LeastRequestLbConfig.choice_count
_DEEPEST = 16
_LARGEST_RING = 8 * 1024 * 1024
_LARGEST_TABLE = 5_000_011
# What Envoy 1.40 has besides: code of the user's, and load reports by streams of their own.
_ENVOY_ONLY = frozenset(
    {"dynamic_modules.v3.DynamicModulesLoadBalancerConfig", "load_aware_locality.v3.LoadAwareLocality"}
)
_SMALLEST_UPDATE_PERIOD = 0.1  # gRFC A58: "values below 100ms are raised to that"


def lb_policy(scope: Scope, cluster: Any) -> Balancing:
    """Return how a cluster balances."""
    common, place = cluster.common_lb_config, scope.at("common_lb_config")
    statuses: dict[str, Any] = {}
    if common.HasField("override_host_status"):
        statuses["override_statuses"] = _statuses(place, common)
    if cluster.HasField("load_balancing_policy"):  # takes the place of lb_policy where it is set
        _check_alone(scope, cluster)
        return replace(_extension(scope.at("load_balancing_policy"), cluster.load_balancing_policy), **statuses)
    try:
        name = cluster_pb2.Cluster.LbPolicy.Name(cluster.lb_policy)
    except ValueError:
        scope.fault("lb_policy", f"{cluster.lb_policy} is no LbPolicy")
        return Balancing()
    if name == _CONFIGURED_ELSEWHERE:
        scope.fault("load_balancing_policy", f"is missing: lb_policy {name} needs it")
        return Balancing()
    if name not in LbPolicy.__members__:
        scope.note("lb_policy", f"{name} is not done: round robin is")
        return Balancing()
    found = replace(_legacy(scope, cluster, LbPolicy[name]), **statuses, **_localities(place, common))
    if not cluster.lb_subset_config.subset_selectors:  # Envoy: without selectors it is off
        return found
    if found.policy is LbPolicy.CLUSTER_PROVIDED:
        scope.fault("lb_subset_config", f"cannot go with {name}")
    return replace(found, subsets=subsets(scope.at("lb_subset_config"), cluster.lb_subset_config))


def _legacy(scope: Scope, cluster: Any, policy: LbPolicy) -> Balancing:
    common = scope.at("common_lb_config"), cluster.common_lb_config
    if policy is LbPolicy.RING_HASH:
        place, ring = scope.at("ring_hash_lb_config"), cluster.ring_hash_lb_config
        return Balancing(policy, hashing=_ring(place, ring, choice(place, ring, "hash_function"), *common))
    if policy is LbPolicy.MAGLEV:
        return Balancing(policy, hashing=_maglev(scope.at("maglev_lb_config"), cluster.maglev_lb_config, *common))
    _check_unused(scope, cluster)
    least = _least_request(scope.at("least_request_lb_config"), cluster.least_request_lb_config)
    turns = scope.at("round_robin_lb_config"), cluster.round_robin_lb_config
    turns[0].audit(turns[1])
    robin = Balancing(policy, slow_start=_slow_start(*turns))
    return {LbPolicy.LEAST_REQUEST: least, LbPolicy.ROUND_ROBIN: robin}.get(policy, Balancing(policy))


def _check_unused(scope: Scope, cluster: Any) -> None:
    """Check the limits that Envoy checks whichever policy is chosen."""
    for field in ("minimum_ring_size", "maximum_ring_size"):
        number(scope.at("ring_hash_lb_config"), cluster.ring_hash_lb_config, field, 0, maximum=_LARGEST_RING)
    number(scope.at("maglev_lb_config"), cluster.maglev_lb_config, "table_size", 0, maximum=_LARGEST_TABLE)


def _check_alone(scope: Scope, cluster: Any) -> None:
    """Fault what Envoy does not take beside ``load_balancing_policy``."""
    if cluster.HasField("lb_subset_config"):
        scope.fault("lb_subset_config", "cannot go with load_balancing_policy")
    for field in ("zone_aware_lb_config", "locality_weighted_lb_config", "consistent_hashing_lb_config"):
        if cluster.common_lb_config.HasField(field):
            scope.fault(f"common_lb_config.{field}", "cannot go with load_balancing_policy")


# ---------------------------------------------------------------- the list of extensions


def _extension(scope: Scope, policy: Any, depth: int = 1) -> Balancing:
    """Take the first policy of the list that is known, as Envoy does (gRFC A52)."""
    scope.audit(policy)
    if depth > _DEEPEST:  # gRFC A52: "the policy tree is deeper than 16 levels" is a fault
        scope.fault("", f"policies are nested more than {_DEEPEST} deep")
        return Balancing()
    refused = []
    for i, entry in enumerate(policy.policies):
        packed = entry.typed_extension_config.typed_config
        place = scope.at("policies", i).at("typed_extension_config").at("typed_config")
        kind = any_type(packed).removeprefix(_EXTENSIONS)
        if kind in _KNOWN:
            message, decode = _KNOWN[kind]
            found = unpack(place, packed, "", message)
            return Balancing() if found is None else decode(place, found, depth)
        refused.append(any_type(packed) or "nothing")
    theirs = [kind for kind in refused if kind.removeprefix(_EXTENSIONS) in _ENVOY_ONLY]
    if theirs:
        scope.note("policies", f"{theirs[0]} is not done: round robin is")
        return Balancing()
    scope.fault("policies", f"{', '.join(refused) or 'none'} is no load balancing policy that is known")
    return Balancing()


def _round_robin(scope: Scope, config: Any, depth: int) -> Balancing:  # noqa: ARG001  one signature for all
    scope.audit(config)
    return Balancing(slow_start=_slow_start(scope, config), **_locality_config(scope, config))


def _random(scope: Scope, config: Any, depth: int) -> Balancing:  # noqa: ARG001  one signature for all
    scope.audit(config)
    return Balancing(LbPolicy.RANDOM, **_locality_config(scope, config))


def _least_request_extension(scope: Scope, config: Any, depth: int) -> Balancing:  # noqa: ARG001  one signature for all
    full = config.selection_method == least_request_pb2.LeastRequest.FULL_SCAN
    found = _least_request(scope, config)
    return replace(found, full_scan=full or config.enable_full_scan.value, **_locality_config(scope, config))


def _ring_hash(scope: Scope, config: Any, depth: int) -> Balancing:  # noqa: ARG001  one signature for all
    # DEFAULT_HASH is 0 here, so that each function's number is one more.
    function = max(choice(scope, config, "hash_function") - 1, 0)
    weighted = config.HasField("locality_weighted_lb_config")
    hashing = _ring(scope, config, function, scope, config)
    if not config.HasField("consistent_hashing_lb_config"):  # the fields that it took the place of
        factor = number(scope, config, "hash_balance_factor", 0)  # Envoy sets this one no limit
        hashing = replace(hashing, use_hostname=config.use_hostname_for_hashing, balance_factor=factor)
    return Balancing(LbPolicy.RING_HASH, hashing=hashing, locality_weighted=weighted)


def _maglev_extension(scope: Scope, config: Any, depth: int) -> Balancing:  # noqa: ARG001  one signature for all
    weighted = config.HasField("locality_weighted_lb_config")
    return Balancing(LbPolicy.MAGLEV, hashing=_maglev(scope, config, scope, config), locality_weighted=weighted)


def _pick_first(scope: Scope, config: Any, depth: int) -> Balancing:  # noqa: ARG001  one signature for all
    scope.audit(config)
    return Balancing(LbPolicy.PICK_FIRST, shuffle=config.shuffle_address_list)


def _client_side_weights(scope: Scope, config: Any, depth: int) -> Balancing:  # noqa: ARG001  one signature for all
    scope.audit(config)
    if config.enable_oob_load_report.value:
        scope.note("enable_oob_load_report", "load is reported with responses alone, not by a stream of its own")
    reports = LoadReports(
        blackout_period=seconds(scope, config, "blackout_period", 10.0),
        weight_expiration_period=seconds(scope, config, "weight_expiration_period", 180.0),
        weight_update_period=max(seconds(scope, config, "weight_update_period", 1.0), _SMALLEST_UPDATE_PERIOD),
        error_utilization_penalty=config.error_utilization_penalty.value,
        metric_names=tuple(config.metric_names_for_computing_utilization),
    )
    policy = LbPolicy.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN
    return Balancing(policy, reports=reports, slow_start=_slow_start(scope, config))


def _wrr_locality(scope: Scope, config: Any, depth: int) -> Balancing:
    # Envoy takes client-side weights alone below this; gRPC's control planes send round robin (gRFC A52).
    scope.audit(config)
    if not config.HasField("endpoint_picking_policy"):
        scope.fault("endpoint_picking_policy", "is missing")
        return Balancing()
    found = _extension(scope.at("endpoint_picking_policy"), config.endpoint_picking_policy, depth + 1)
    return replace(found, locality_weighted=True)


def _override_host(scope: Scope, config: Any, depth: int) -> Balancing:
    scope.audit(config)
    if not config.override_host_sources:
        scope.fault("override_host_sources", "must not be empty")
    headers = []
    for i, source in enumerate(config.override_host_sources):
        place = scope.at("override_host_sources", i)
        place.audit(source)
        if bool(source.header) is source.HasField("metadata"):
            place.fault("header", "or metadata must be there, and one of them alone")
        elif any(char in source.header for char in "\0\r\n"):
            place.fault("header", f"{source.header!r} is not the name of a header")
        elif source.header:
            headers.append(source.header.lower())
    if not config.HasField("fallback_policy"):
        scope.fault("fallback_policy", "is missing")
        return Balancing()
    found = _extension(scope.at("fallback_policy"), config.fallback_policy, depth + 1)
    return replace(found, override_headers=tuple(headers))


def _subset(scope: Scope, config: Any, depth: int) -> Balancing:
    found = subsets(scope, config)
    if not config.HasField("subset_lb_policy"):
        scope.fault("subset_lb_policy", "is missing")
        return Balancing(subsets=found)
    return replace(_extension(scope.at("subset_lb_policy"), config.subset_lb_policy, depth + 1), subsets=found)


def _cluster_provided(scope: Scope, config: Any, depth: int) -> Balancing:  # noqa: ARG001  one signature for all
    return Balancing(LbPolicy.CLUSTER_PROVIDED)


_KNOWN = {
    "round_robin.v3.RoundRobin": (round_robin_pb2.RoundRobin, _round_robin),
    "random.v3.Random": (random_pb2.Random, _random),
    "least_request.v3.LeastRequest": (least_request_pb2.LeastRequest, _least_request_extension),
    "ring_hash.v3.RingHash": (ring_hash_pb2.RingHash, _ring_hash),
    "maglev.v3.Maglev": (maglev_pb2.Maglev, _maglev_extension),
    "pick_first.v3.PickFirst": (pick_first_pb2.PickFirst, _pick_first),
    "wrr_locality.v3.WrrLocality": (wrr_locality_pb2.WrrLocality, _wrr_locality),
    "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin": (
        client_side_weighted_round_robin_pb2.ClientSideWeightedRoundRobin,
        _client_side_weights,
    ),
    "override_host.v3.OverrideHost": (override_host_pb2.OverrideHost, _override_host),
    "subset.v3.Subset": (subset_pb2.Subset, _subset),
    "cluster_provided.v3.ClusterProvided": (cluster_provided_pb2.ClusterProvided, _cluster_provided),
}


# ---------------------------------------------------------------- what the old and the new have in common


def _least_request(scope: Scope, config: Any) -> Balancing:
    scope.audit(config)
    return Balancing(
        LbPolicy.LEAST_REQUEST,
        choice_count=number(scope, config, "choice_count", _DEFAULT_CHOICES, minimum=2),
        active_request_bias=_runtime_double(scope, config, "active_request_bias", 1.0),
        slow_start=_slow_start(scope, config),
    )


def _slow_start(scope: Scope, config: Any) -> SlowStart | None:
    if not config.HasField("slow_start_config"):
        return None
    place, slow = scope.at("slow_start_config"), config.slow_start_config
    place.audit(slow)
    window = seconds(place, slow, "slow_start_window", 0.0)
    aggression = _runtime_double(place, slow, "aggression", 1.0)
    if not aggression > 0.0:  # Envoy logs an error at each pick and goes on like this
        place.note("aggression", f"{aggression} is not more than 0: 1 counts", Status.APPROXIMATED)
        aggression = 1.0
    least = percent(place, slow, "min_weight_percent", 10.0) / 100.0
    return SlowStart(window, aggression, max(least, 1e-9)) if window else None


def _runtime_double(scope: Scope, config: Any, field: str, default: float) -> float:
    """Return a ``RuntimeDouble``, whose default counts: there is no runtime."""
    if not config.HasField(field):
        return default
    value = getattr(config, field)
    scope.at(field).audit(value)
    found: float = value.default_value
    if field == "active_request_bias" and not (found >= 0.0 and math.isfinite(found)):
        scope.note(field, f"{found} is less than 0: 1 counts", Status.APPROXIMATED)
        return default
    return found


def _localities(scope: Scope, common: Any) -> dict[str, Any]:
    """Return the fields of a :class:`Balancing` about localities."""
    if common.HasField("zone_aware_lb_config"):
        return {"zone_aware": _zone_aware(scope.at("zone_aware_lb_config"), common.zone_aware_lb_config)}
    return {"locality_weighted": common.HasField("locality_weighted_lb_config")}


def _locality_config(scope: Scope, config: Any) -> dict[str, Any]:
    place, localities = scope.at("locality_lb_config"), config.locality_lb_config
    place.audit(localities)
    return _localities(place, localities)


def _zone_aware(scope: Scope, config: Any) -> ZoneAware:
    scope.audit(config)
    force: int | None = None
    extension = hasattr(config, "force_local_zone")  # the old message has four fields fewer
    if extension and config.HasField("force_local_zone"):
        place = scope.at("force_local_zone")
        place.audit(config.force_local_zone)
        force = number(place, config.force_local_zone, "min_size", 1)
    return ZoneAware(
        routing_enabled=int(percent(scope, config, "routing_enabled", 100.0)),
        min_cluster_size=number(scope, config, "min_cluster_size", 6, maximum=2**64 - 1),
        fail_traffic_on_panic=config.fail_traffic_on_panic,
        force_local_size=force,
        force_direct=extension and config.force_locality_direct_routing,
        by_weight=extension and choice(scope, config, "locality_basis") == 1,
    )


def _statuses(scope: Scope, common: Any) -> frozenset[HealthStatus]:
    place, statuses = scope.at("override_host_status"), common.override_host_status
    place.audit(statuses)
    known = {status.value for status in HealthStatus}
    for i, status in enumerate(statuses.statuses):
        if status not in known:
            place.fault(f"statuses[{i}]", f"{status} is no HealthStatus")
    return frozenset(HealthStatus(status) for status in statuses.statuses if status in known)


def _ring(scope: Scope, ring: Any, function: int, common_scope: Scope, common: Any) -> ConsistentHashing:
    """Return the settings of a ring; ``common`` holds the ``consistent_hashing_lb_config``."""
    scope.audit(ring)
    # Envoy takes 0 and then finds no host for any request; gRPC refuses it (gRFC A42), and so does this.
    low = number(scope, ring, "minimum_ring_size", 1024, minimum=1, maximum=_LARGEST_RING)
    high = number(scope, ring, "maximum_ring_size", _LARGEST_RING, minimum=1, maximum=_LARGEST_RING)
    if low > high:
        scope.fault("minimum_ring_size", f"{low} is over maximum_ring_size {high}")
    found = ConsistentHashing(minimum_ring_size=low, maximum_ring_size=high, hash_function=HashFunction(function))
    return _consistent(common_scope, common, found)


def _maglev(scope: Scope, maglev: Any, common_scope: Scope, common: Any) -> ConsistentHashing:
    scope.audit(maglev)
    size = number(scope, maglev, "table_size", 65537, minimum=0, maximum=_LARGEST_TABLE)
    if size < 2 or any(size % divisor == 0 for divisor in range(2, int(size**0.5) + 1)):
        scope.fault("table_size", f"{size} is not a prime number")
    return _consistent(common_scope, common, ConsistentHashing(table_size=size))


def _consistent(scope: Scope, common: Any, found: ConsistentHashing) -> ConsistentHashing:
    place, config = scope.at("consistent_hashing_lb_config"), common.consistent_hashing_lb_config
    place.audit(config)
    return replace(
        found,
        use_hostname=config.use_hostname_for_hashing,
        balance_factor=number(place, config, "hash_balance_factor", 0, minimum=100),
        hash_policies=hash_policies(place, config) if hasattr(config, "hash_policy") else (),
    )
