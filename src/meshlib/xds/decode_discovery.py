"""Where a cluster's endpoints come from: its type, how names are looked up, what an aggregate is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshlib.model.discovery import Discovery, Dns, LookupFamily, OriginalDst
from meshlib.xds.decode_values import any_type, choice, flag, number, seconds, unpack
from meshlib.xds.protos import aggregate_cluster_pb2, cluster_pb2, dns_cluster_pb2
from meshlib.xds.scope import Scope

_AGGREGATE = aggregate_cluster_pb2.ClusterConfig.DESCRIPTOR.full_name
_DNS = dns_cluster_pb2.DnsCluster.DESCRIPTOR.full_name
# Envoy's cluster factories, which are found by name where there is no configuration whose type tells.
_BY_NAME = {
    "envoy.cluster.static": Discovery.STATIC,
    "envoy.cluster.strict_dns": Discovery.STRICT_DNS,
    "envoy.cluster.logical_dns": Discovery.LOGICAL_DNS,
    "envoy.cluster.eds": Discovery.EDS,
    "envoy.cluster.original_dst": Discovery.ORIGINAL_DST,
}
_LOOKED_UP = (cluster_pb2.Cluster.STRICT_DNS, cluster_pb2.Cluster.LOGICAL_DNS)
_ORIGINAL_DST_HEADER = "x-envoy-original-dst-host"
_SHORTEST = 0.001  # validate.rules of every look-up interval: more than a millisecond


_DEFAULT = Dns()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where endpoints come from.

    Attributes:
        discovery: the cluster's type.
        dns: how names are looked up.
        members: what an aggregate is made of.
    """

    discovery: Discovery
    dns: Dns = _DEFAULT
    members: tuple[str, ...] = ()


def origin(scope: Scope, message: Any) -> Origin:
    """Return where the endpoints of a ``cluster.v3.Cluster`` come from."""
    dns = _cluster_dns(scope, message)
    if not message.HasField("cluster_type"):
        name = cluster_pb2.Cluster.DiscoveryType.Name(choice(scope, message, "type"))
        return Origin(Discovery(name), dns)
    place, custom = scope.at("cluster_type"), message.cluster_type
    place.audit(custom)
    if not custom.name:
        place.fault("name", "must not be empty")
        return Origin(Discovery.STATIC)
    kind = any_type(custom.typed_config)
    if kind == _AGGREGATE:
        return Origin(Discovery.AGGREGATE, members=_members(place.at("typed_config"), custom.typed_config))
    if kind == _DNS:
        return _dns_cluster(place.at("typed_config"), message)
    if not kind and custom.name in _BY_NAME:
        return Origin(_BY_NAME[custom.name], dns)
    place.fault("", f"{kind or custom.name} is not supported")
    return Origin(Discovery.STATIC)


def _members(scope: Scope, packed: Any) -> tuple[str, ...]:
    config = unpack(scope, packed, "", aggregate_cluster_pb2.ClusterConfig)
    if config is None:
        return ()
    scope.audit(config)
    if not config.clusters:
        scope.fault("clusters", "must not be empty")
    return tuple(config.clusters)


def _dns_cluster(scope: Scope, message: Any) -> Origin:
    config = unpack(scope, message.cluster_type.typed_config, "", dns_cluster_pb2.DnsCluster)
    if config is None:
        return Origin(Discovery.STRICT_DNS)
    scope.audit(config)
    kind = Discovery.LOGICAL_DNS if config.all_addresses_in_single_endpoint else Discovery.STRICT_DNS
    family = {2: LookupFamily.V4_ONLY, 3: LookupFamily.V6_ONLY, 4: LookupFamily.V4_PREFERRED, 5: LookupFamily.ALL}
    found = family.get(config.dns_lookup_family, LookupFamily.AUTO)
    dns = _dns(scope, config, found, wait_for_warm=flag(message, "wait_for_warm_on_init", True))
    return Origin(kind, _check_failure_rate(scope, dns))


def _cluster_dns(scope: Scope, message: Any) -> Dns:
    """Return what the fields of the cluster itself say of look-ups."""
    family = LookupFamily(cluster_pb2.Cluster.DnsLookupFamily.Name(choice(scope, message, "dns_lookup_family")))
    dns = _dns(scope, message, family, wait_for_warm=flag(message, "wait_for_warm_on_init", True))
    if not message.HasField("cluster_type") and message.type in _LOOKED_UP:
        _check_failure_rate(scope, dns)  # in clusters that look names up only, as Envoy
    return dns


def _dns(scope: Scope, message: Any, family: LookupFamily, *, wait_for_warm: bool) -> Dns:
    """Return what a Cluster or a DnsCluster, whose fields have the same names, says."""
    base = longest = 0.0
    if message.HasField("dns_failure_refresh_rate"):
        place, rate = scope.at("dns_failure_refresh_rate"), message.dns_failure_refresh_rate
        place.audit(rate)
        if not rate.HasField("base_interval"):
            place.fault("base_interval", "is missing")
        base = _interval(place, rate, "base_interval", 1.0)
        longest = _interval(place, rate, "max_interval", 10.0 * base)
    return Dns(
        family=family,
        refresh=_interval(scope, message, "dns_refresh_rate", 5.0),
        failure_base=base,
        failure_max=longest,
        jitter=seconds(scope, message, "dns_jitter", 0.0),
        respect_ttl=message.respect_dns_ttl,
        wait_for_warm=wait_for_warm,
    )


def _interval(scope: Scope, message: Any, field: str, default: float) -> float:
    found = seconds(scope, message, field, default)
    if found <= _SHORTEST:
        scope.fault(field, "must be more than 1ms")
    return found


def _check_failure_rate(scope: Scope, dns: Dns) -> Dns:
    if dns.failure_max < dns.failure_base:
        scope.fault("dns_failure_refresh_rate.max_interval", "is less than base_interval")
    return dns


def original_dst(scope: Scope, discovery: Discovery, message: Any) -> OriginalDst:
    """Return what a cluster's ``original_dst_lb_config`` says; of no matter in other clusters."""
    config = message.original_dst_lb_config
    scope.audit(config)
    if config.HasField("metadata_key"):
        key = config.metadata_key
        if not key.key or not key.path or not all(step.key for step in key.path):
            scope.fault("metadata_key", "must have a key and a path of keys")
    port = number(scope, config, "upstream_port_override", 0, maximum=65535)
    if discovery is not Discovery.ORIGINAL_DST:
        return OriginalDst()
    if config.http_header_name and not config.use_http_header:
        scope.fault("http_header_name", "goes with use_http_header only")
    header = (config.http_header_name or _ORIGINAL_DST_HEADER).lower() if config.use_http_header else ""
    return OriginalDst(header, port if config.HasField("upstream_port_override") else None)
