"""How a cluster's endpoints are chosen: what ``lb_policy`` or ``load_balancing_policy`` say, in one shape."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from meshlib.model.endpoint import HealthStatus
from meshlib.model.metadata import Criteria
from meshlib.model.traffic import HashPolicy


class LbPolicy(Enum):
    """``Cluster.LbPolicy``, and the extensions beyond it."""

    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"
    RANDOM = "RANDOM"
    RING_HASH = "RING_HASH"
    MAGLEV = "MAGLEV"
    CLUSTER_PROVIDED = "CLUSTER_PROVIDED"
    PICK_FIRST = "PICK_FIRST"  # gRFC A62; Envoy has the message and no such policy
    CLIENT_SIDE_WEIGHTED_ROUND_ROBIN = "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN"


HASHING = frozenset({LbPolicy.RING_HASH, LbPolicy.MAGLEV})


class HashFunction(Enum):
    """``Cluster.RingHashLbConfig.HashFunction``."""

    XX_HASH = 0
    MURMUR_HASH_2 = 1


@dataclass(frozen=True, slots=True)
class ConsistentHashing:
    """``RingHashLbConfig``, ``MaglevLbConfig`` and ``ConsistentHashingLbConfig``, with Envoy's defaults.

    Attributes:
        minimum_ring_size: entries of a ring, rounded up so that the lightest endpoint has a whole number.
        maximum_ring_size: and no more than these.
        hash_function: hashes the entries of a ring.
        table_size: slots of a Maglev table, a prime.
        use_hostname: whether an endpoint's host name is hashed, not its address.
        balance_factor: percent of the mean load that an endpoint takes at most, 0 = no bound.
        hash_policies: what of a request is hashed, in place of the route's; none = the route's.
    """

    minimum_ring_size: int = 1024
    maximum_ring_size: int = 8 * 1024 * 1024
    hash_function: HashFunction = HashFunction.XX_HASH
    table_size: int = 65537
    use_hostname: bool = False
    balance_factor: int = 0
    hash_policies: tuple[HashPolicy, ...] = ()


@dataclass(frozen=True, slots=True)
class SlowStart:
    """``SlowStartConfig``: an endpoint that is new takes on load little by little.

    Attributes:
        window: seconds that it takes.
        aggression: the weight grows with (time / window) ** (1 / aggression); runtime default.
        min_weight: and is never less than this share (``min_weight_percent``), 0 to 1.
    """

    window: float
    aggression: float = 1.0
    min_weight: float = 0.1


@dataclass(frozen=True, slots=True)
class ZoneAware:
    """``ZoneAwareLbConfig``: callers keep to their own locality as far as its capacity goes.

    Attributes:
        routing_enabled: percent of the calls for which it is.
        min_cluster_size: healthy endpoints of the first priority below which it is not done.
        fail_traffic_on_panic: whether a priority that panics, or a local cluster that does, takes nothing.
        force_local_size: endpoints in the own locality from which all calls stay there, None = never
            (``force_local_zone``; ``force_locality_direct_routing`` is 1).
        force_direct: ``force_locality_direct_routing``: no two localities of callers are needed for it.
        by_weight: ``HEALTHY_HOSTS_WEIGHT``: localities are measured by weight, not by number.
    """

    routing_enabled: int = 100
    min_cluster_size: int = 6
    fail_traffic_on_panic: bool = False
    force_local_size: int | None = None
    force_direct: bool = False
    by_weight: bool = False


class Fallback(Enum):
    """``LbSubsetFallbackPolicy`` and ``LbSubsetSelectorFallbackPolicy``: what serves when no subset does."""

    NOT_DEFINED = "NOT_DEFINED"  # of a selector: the cluster's counts
    NO_FALLBACK = "NO_FALLBACK"
    ANY_ENDPOINT = "ANY_ENDPOINT"
    DEFAULT_SUBSET = "DEFAULT_SUBSET"
    KEYS_SUBSET = "KEYS_SUBSET"  # of a selector: by fewer of the route's keys


@dataclass(frozen=True, slots=True)
class SubsetSelector:
    """``LbSubsetSelector``: endpoints that agree in the values of ``keys`` make a subset.

    Attributes:
        keys: metadata keys of ``envoy.lb``, sorted, each once.
        fallback: what serves a route that names these keys and finds no subset.
        fallback_keys: the keys that are kept for ``KEYS_SUBSET``, sorted.
        single_host: whether a subset is its first endpoint alone, whatever its health.
    """

    keys: tuple[str, ...]
    fallback: Fallback = Fallback.NOT_DEFINED
    fallback_keys: tuple[str, ...] = ()
    single_host: bool = False


@dataclass(frozen=True, slots=True)
class Subsets:
    """``LbSubsetConfig``: a route's ``metadata_match`` chooses among groups of endpoints.

    Attributes:
        selectors: by which keys endpoints are grouped.
        fallback: what serves a route that finds no subset.
        default_subset: the endpoints of ``DEFAULT_SUBSET``, by metadata.
        locality_weight_aware: whether localities keep their weights inside a subset.
        scale_locality_weight: and in proportion to the endpoints they have in it.
        panic_mode_any: whether any endpoint serves where the fallback has none.
        list_as_any: whether a list in an endpoint's metadata stands for each of its values.
        fallback_list: ``FALLBACK_LIST``: the route's ``fallback_list`` gives values to try in turn.
        redundant_keys: whether keys of the route that no selector has are left aside.
    """

    selectors: tuple[SubsetSelector, ...] = ()
    fallback: Fallback = Fallback.NO_FALLBACK
    default_subset: Criteria = ()
    locality_weight_aware: bool = False
    scale_locality_weight: bool = False
    panic_mode_any: bool = False
    list_as_any: bool = False
    fallback_list: bool = False
    redundant_keys: bool = False


@dataclass(frozen=True, slots=True)
class LoadReports:
    """``ClientSideWeightedRoundRobin``: endpoints say in ORCA reports how loaded they are (gRFC A58).

    Attributes:
        blackout_period: seconds of reports before they count.
        weight_expiration_period: seconds without a report after which the last no longer counts.
        weight_update_period: seconds between two looks at the reports.
        error_utilization_penalty: how much the share of errors adds to the utilization.
        metric_names: which utilization counts; the highest of them, ``named_metrics.x`` for instance.
    """

    blackout_period: float = 10.0
    weight_expiration_period: float = 180.0
    weight_update_period: float = 1.0
    error_utilization_penalty: float = 0.0
    metric_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PeakEwma:
    """Least latency by peak-sensitive moving averages, beyond Envoy: asked for at the mesh.

    Of two endpoints drawn at random the cheaper serves: average latency times requests under way.
    A response slower than the average raises it at once; faster ones lower it in the course of ``decay``.

    Attributes:
        decay: seconds in which an observation fades to a third.
        default_latency: seconds that an endpoint nobody called yet is taken to need.
        penalty: seconds that an answer of 429 or 503, or none at all, counts for at least; a
            ``Retry-After`` says more.
    """

    decay: float = 10.0
    default_latency: float = 0.03
    penalty: float = 1.0


_ANY_HEALTHY = frozenset({HealthStatus.UNKNOWN, HealthStatus.HEALTHY, HealthStatus.DEGRADED})


@dataclass(frozen=True, slots=True)
class Balancing:
    """Everything about the choice of an endpoint but health.

    Attributes:
        policy: how one of several is chosen.
        choice_count: LEAST_REQUEST: candidates drawn.
        full_scan: LEAST_REQUEST: whether all are looked at.
        active_request_bias: LEAST_REQUEST with uneven weights: weight / (active + 1) ** bias; runtime default.
        shuffle: PICK_FIRST: whether the order is random.
        hashing: RING_HASH and MAGLEV.
        slow_start: ROUND_ROBIN, LEAST_REQUEST and client-side weights; None = off.
        locality_weighted: whether localities share the load by their weights.
        zone_aware: how callers keep to their own locality.
        subsets: groups of endpoints that a route can choose, None = none.
        reports: CLIENT_SIDE_WEIGHTED_ROUND_ROBIN.
        override_headers: request headers that name endpoints to try first (``override_host``).
        override_statuses: health in which an endpoint that a session or header names is used all the same.
    """

    policy: LbPolicy = LbPolicy.ROUND_ROBIN
    choice_count: int = 2
    full_scan: bool = False
    active_request_bias: float = 1.0
    shuffle: bool = False
    hashing: ConsistentHashing = ConsistentHashing()
    slow_start: SlowStart | None = None
    locality_weighted: bool = False
    zone_aware: ZoneAware = ZoneAware()
    subsets: Subsets | None = None
    reports: LoadReports = LoadReports()
    override_headers: tuple[str, ...] = ()
    override_statuses: frozenset[HealthStatus] = _ANY_HEALTHY


ROUND_ROBIN = Balancing()
