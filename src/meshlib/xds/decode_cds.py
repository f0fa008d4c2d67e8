"""Clusters: where endpoints come from and how they are used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from meshlib.model.balancing import HASHING, LbPolicy
from meshlib.model.cluster import (
    NO_BOUNDS,
    UINT32_MAX,
    Cluster,
    ConnectionLife,
    OutlierDetection,
    RetryBudget,
    ServiceRef,
    Thresholds,
    TransportSocket,
    TransportSocketMatch,
    UpstreamHttpProtocolOptions,
)
from meshlib.model.discovery import Discovery
from meshlib.xds.config_source import qualified
from meshlib.xds.decode_discovery import origin, original_dst
from meshlib.xds.decode_eds import load_assignment
from meshlib.xds.decode_health_check import health_checks
from meshlib.xds.decode_lb_policy import lb_policy
from meshlib.xds.decode_transport_socket import transport_socket, transport_socket_matches
from meshlib.xds.decode_values import (
    any_type,
    choice,
    flag,
    number,
    percent,
    plain_metadata,
    seconds,
    source,
    unpack,
)
from meshlib.xds.fields import NOT_HONOURED
from meshlib.xds.filters import IRRELEVANT_NETWORK_FILTERS
from meshlib.xds.protos import http_protocol_options_pb2
from meshlib.xds.scope import Scope

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_DEFAULT, _HIGH = 0, 1  # core.v3.RoutingPriority
_NOT_PER_HOST = ("max_pending_requests", "max_requests", "max_retries", "max_connection_pools", "retry_budget")


def cluster(scope: Scope, message: Any) -> Cluster:
    """Return a ``cluster.v3.Cluster``. Endpoints that EDS has to give are not there yet."""
    scope.audit(message)
    if not message.name:
        scope.fault("name", "must not be empty")
    found = origin(scope, message)
    discovery = found.discovery
    balancing = lb_policy(scope, message)
    policy = balancing.policy
    if discovery.provides_balancing is not (policy is LbPolicy.CLUSTER_PROVIDED):
        scope.fault("lb_policy", f"{policy.value} does not go with {discovery.value}")
    if policy in HASHING:
        _check_hashed_weights(scope.at("load_assignment"), message.load_assignment)
    _note_filters(scope, message.filters)
    _check_load_assignment(scope, discovery, message)
    has_assignment = message.HasField("load_assignment") and not discovery.provides_balancing
    thresholds = _thresholds(scope.at("circuit_breakers"), message.circuit_breakers)
    http = _http_options(scope, message)
    socket, matches = _sockets(scope, message)
    return Cluster(
        name=message.name,
        discovery=discovery,
        assignment=load_assignment(scope.at("load_assignment"), message.load_assignment, names=discovery.by_name)
        if has_assignment
        else None,
        balancing=balancing,
        connect_timeout=seconds(scope, message, "connect_timeout", 5.0, positive=True),
        thresholds=thresholds[_DEFAULT],
        high_thresholds=thresholds[_HIGH],
        outlier=_outlier(scope.at("outlier_detection"), message.outlier_detection)
        if message.HasField("outlier_detection")
        else None,
        panic_threshold=_panic_threshold(scope.at("common_lb_config"), message.common_lb_config),
        http2=http.http2,
        max_stream_duration=http.max_stream_duration,
        connections=http.connections,
        transport_socket=socket,
        transport_socket_matches=matches,
        upstream_http=http.upstream,
        eds_name=_eds_name(scope.at("eds_cluster_config"), message) if discovery is Discovery.EDS else "",
        members=found.members,
        dns=found.dns,
        original_dst=original_dst(scope.at("original_dst_lb_config"), discovery, message),
        health_checks=health_checks(scope, message, http2=http.http2),
        ignore_new_hosts=message.common_lb_config.ignore_new_hosts_until_first_hc,
        ignore_health_on_removal=message.ignore_health_on_host_removal,
        service=_service(message.metadata),
        source=source(message.metadata),
        metadata=plain_metadata(message.metadata) if message.HasField("metadata") else {},
    )


def _eds_name(scope: Scope, message: Any) -> str:
    scope.audit(message.eds_cluster_config)
    if not message.eds_cluster_config.HasField("eds_config"):
        scope.fault("eds_config", "is missing; an EDS cluster needs it")
        return ""
    name = message.eds_cluster_config.service_name or message.name
    return qualified(scope, "eds_config", message.eds_cluster_config.eds_config, name)


def _sockets(scope: Scope, message: Any) -> tuple[TransportSocket | None, tuple[TransportSocketMatch, ...]]:
    matches = transport_socket_matches(scope, message.transport_socket_matches)
    socket = None
    if message.HasField("transport_socket"):
        socket = transport_socket(scope.at("transport_socket"), message.transport_socket)
    if message.HasField("transport_socket_matcher"):  # which of them would count is not known: none does
        return TransportSocket("transport_socket_matcher", secure=True, detail="a socket picked by a matcher"), ()
    return socket, matches


def _check_load_assignment(scope: Scope, discovery: Discovery, message: Any) -> None:
    groups = message.load_assignment.endpoints
    if discovery is Discovery.ORIGINAL_DST and message.HasField("load_assignment"):
        scope.fault("load_assignment", "must not be there in an ORIGINAL_DST cluster")
    single = len(groups) == 1 and len(groups[0].lb_endpoints) == 1
    if discovery is Discovery.LOGICAL_DNS and not single:
        scope.fault("load_assignment.endpoints", "must have one locality with one endpoint in a LOGICAL_DNS cluster")


def _check_hashed_weights(scope: Scope, assignment: Any) -> None:
    """Fault weights that a ring or Maglev table cannot be made of, as Envoy does."""
    for i, group in enumerate(assignment.endpoints):
        total = sum(endpoint.load_balancing_weight.value or 1 for endpoint in group.lb_endpoints)
        if total > UINT32_MAX:
            scope.at("endpoints", i).fault("lb_endpoints", f"weights sum to {total}, over {UINT32_MAX}")


def _thresholds(scope: Scope, breakers: Any) -> dict[int, Thresholds]:
    """Return the thresholds by priority."""
    scope.audit(breakers)
    hosts = _per_host(scope, breakers)
    found: dict[int, Thresholds] = {}
    for i, thresholds in enumerate(breakers.thresholds):
        place = scope.at("thresholds", i)
        place.audit(thresholds)
        # Envoy takes the first of a priority.
        found.setdefault(
            choice(place, thresholds, "priority"),
            Thresholds(
                max_connections=number(place, thresholds, "max_connections", 1024),
                max_pending_requests=number(place, thresholds, "max_pending_requests", 1024),
                max_requests=number(place, thresholds, "max_requests", 1024),
                max_retries=number(place, thresholds, "max_retries", 3),
                retry_budget=_retry_budget(place.at("retry_budget"), thresholds.retry_budget)
                if thresholds.HasField("retry_budget")
                else None,
            ),
        )
    return {
        priority: replace(found.get(priority, Thresholds()), max_connections_per_host=hosts.get(priority, UINT32_MAX))
        for priority in (_DEFAULT, _HIGH)
    }


def _per_host(scope: Scope, breakers: Any) -> dict[int, int]:
    """Return the ``max_connections`` of ``per_host_thresholds`` by priority; Envoy takes no other limit there."""
    found: dict[int, int] = {}
    for i, thresholds in enumerate(breakers.per_host_thresholds):
        place = scope.at("per_host_thresholds", i)
        place.audit(thresholds)
        for field in _NOT_PER_HOST:
            if thresholds.HasField(field):
                place.fault(field, "cannot be limited per host: only max_connections can")
        if thresholds.HasField("max_connections"):
            found.setdefault(choice(place, thresholds, "priority"), thresholds.max_connections.value)
    return found


def _retry_budget(scope: Scope, budget: Any) -> RetryBudget:
    scope.audit(budget)
    return RetryBudget(
        percent=percent(scope, budget, "budget_percent", 20.0),
        min_concurrency=number(scope, budget, "min_retry_concurrency", 3),
    )


def _outlier(scope: Scope, message: Any) -> OutlierDetection:
    scope.audit(message)
    base = seconds(scope, message, "base_ejection_time", 30.0, positive=True)
    longest = seconds(scope, message, "max_ejection_time", max(300.0, base), positive=True)
    if longest < base:
        scope.fault("max_ejection_time", f"{longest:g}s is less than base_ejection_time {base:g}s")

    def share(field: str, default: int) -> int:
        return number(scope, message, field, default, maximum=100)

    return OutlierDetection(
        consecutive_5xx=number(scope, message, "consecutive_5xx", 5),
        enforcing_consecutive_5xx=share("enforcing_consecutive_5xx", 100),
        consecutive_gateway_failure=number(scope, message, "consecutive_gateway_failure", 5),
        enforcing_consecutive_gateway_failure=share("enforcing_consecutive_gateway_failure", 0),
        split_external_local_origin_errors=message.split_external_local_origin_errors,
        consecutive_local_origin_failure=number(scope, message, "consecutive_local_origin_failure", 5),
        enforcing_consecutive_local_origin_failure=share("enforcing_consecutive_local_origin_failure", 100),
        interval=seconds(scope, message, "interval", 10.0, positive=True),
        base_ejection_time=base,
        max_ejection_time=longest,
        max_ejection_percent=share("max_ejection_percent", 10),
        always_eject_one_host=message.always_eject_one_host.value,
        max_ejection_time_jitter=seconds(scope, message, "max_ejection_time_jitter", 0.0),
        enforcing_success_rate=share("enforcing_success_rate", 100),
        enforcing_local_origin_success_rate=share("enforcing_local_origin_success_rate", 100),
        success_rate_minimum_hosts=number(scope, message, "success_rate_minimum_hosts", 5),
        success_rate_request_volume=number(scope, message, "success_rate_request_volume", 100),
        success_rate_stdev_factor=number(scope, message, "success_rate_stdev_factor", 1900),
        enforcing_failure_percentage=share("enforcing_failure_percentage", 0),
        enforcing_failure_percentage_local_origin=share("enforcing_failure_percentage_local_origin", 0),
        failure_percentage_threshold=share("failure_percentage_threshold", 85),
        failure_percentage_minimum_hosts=number(scope, message, "failure_percentage_minimum_hosts", 5),
        failure_percentage_request_volume=number(scope, message, "failure_percentage_request_volume", 50),
        unejected_by_check=flag(message, "successful_active_health_check_uneject_host", True),
    )


def _panic_threshold(scope: Scope, config: Any) -> float:
    scope.audit(config)
    return percent(scope, config, "healthy_panic_threshold", 50.0)


class _HttpOptions(NamedTuple):
    """How a cluster speaks HTTP."""

    http2: bool
    max_stream_duration: float
    connections: ConnectionLife
    upstream: UpstreamHttpProtocolOptions


def _http_options(scope: Scope, message: Any) -> _HttpOptions:
    upstream = _upstream_http(scope, message)
    http2: bool = message.HasField("http2_protocol_options")
    scope.at("http2_protocol_options").audit(message.http2_protocol_options)
    duration, life = _common(scope, message)
    if life.requests is None and message.HasField("max_requests_per_connection"):  # where it was in older versions
        life = replace(life, requests=message.max_requests_per_connection.value or None)
    for name in sorted(message.typed_extension_protocol_options):
        packed = message.typed_extension_protocol_options[name]
        place = scope.at("typed_extension_protocol_options", name)
        if any_type(packed) != _HTTP_OPTIONS:
            place.note("", f"{any_type(packed)} {NOT_HONOURED}")
            continue
        options = unpack(place, packed, "", http_protocol_options_pb2.HttpProtocolOptions)
        if options is not None:
            place.audit(options)
            duration, life = _common(place, options)
            http2 = _explicit_http2(place, options)
            upstream = _upstream_http(place, options)
    return _HttpOptions(http2, duration, life, upstream)


def _upstream_http(scope: Scope, message: Any) -> UpstreamHttpProtocolOptions:
    options = message.upstream_http_protocol_options
    scope.at("upstream_http_protocol_options").audit(options)
    header = options.override_auto_sni_header.lower()
    if header and not (options.auto_sni or options.auto_san_validation):
        return UpstreamHttpProtocolOptions()
    return UpstreamHttpProtocolOptions(options.auto_sni, options.auto_san_validation, header)


def _common(scope: Scope, message: Any) -> tuple[float, ConnectionLife]:
    """Return the max stream duration and the life of connections that ``common_http_protocol_options`` give."""
    place, options = scope.at("common_http_protocol_options"), message.common_http_protocol_options
    place.audit(options)
    life = ConnectionLife(
        idle_timeout=seconds(place, options, "idle_timeout", 0.0) or None,
        longest=seconds(place, options, "max_connection_duration", 0.0) or None,
        requests=options.max_requests_per_connection.value or None,
    )
    return seconds(place, options, "max_stream_duration", 0.0), NO_BOUNDS if life == NO_BOUNDS else life


def _explicit_http2(scope: Scope, options: Any) -> bool:
    kind = options.WhichOneof("upstream_protocol_options")
    if kind is None:
        scope.fault("explicit_http_config", "is missing: HttpProtocolOptions must say which protocol")
    if kind not in ("explicit_http_config", "use_downstream_protocol_config"):
        return False  # noted by the audit
    place, config = scope.at(kind), getattr(options, kind)
    place.audit(config)
    if kind == "explicit_http_config" and config.WhichOneof("protocol_config") is None:
        place.fault("", "must say which protocol")
    for field in ("http_protocol_options", "http2_protocol_options"):
        place.at(field).audit(getattr(config, field))
    return bool(kind == "explicit_http_config" and config.HasField("http2_protocol_options"))


def _note_filters(scope: Scope, filters: Any) -> None:
    for i, filter_ in enumerate(filters):
        place = scope.at("filters", i)
        place.audit(filter_)
        if filter_.name not in IRRELEVANT_NETWORK_FILTERS and not filter_.HasField("config_discovery"):
            place.note("", f"{filter_.name} is not run")


def _service(metadata: Any) -> ServiceRef:
    """Return the service a cluster belongs to, as Istio says it for metrics."""
    if "istio" not in metadata.filter_metadata:
        return ServiceRef()
    istio = metadata.filter_metadata["istio"].fields
    services = istio["services"].list_value.values if "services" in istio else ()
    if not services:
        return ServiceRef()
    first = services[0].struct_value.fields

    def text(key: str) -> str:
        return (first[key].string_value if key in first else "") or "unknown"

    return ServiceRef(host=text("host"), name=text("name"), namespace=text("namespace"))
