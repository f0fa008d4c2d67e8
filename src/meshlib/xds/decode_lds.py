"""Listeners: how a destination finds its route table."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

from meshlib.model.filter_chain import (
    DEFAULT_BODY_LIMIT,
    SOURCE_ADDRESS,
    FilterChain,
    HttpConnectionManager,
    OverlappingChains,
    SourceType,
    TcpProxy,
)
from meshlib.model.filters import Disabled, Faults, Setting
from meshlib.model.listener import Listener
from meshlib.model.route import WeightedCluster
from meshlib.xds.config_source import qualified
from meshlib.xds.decode_eds import socket_address
from meshlib.xds.decode_fault import HTTP_FAULT, fault_injection
from meshlib.xds.decode_filters import FILTERS, filter_setting
from meshlib.xds.decode_headers import HEADER_MUTATION, mutation_filter
from meshlib.xds.decode_rds import route_configuration
from meshlib.xds.decode_values import UINT32_MAX, any_type, choice, number, seconds, unpack
from meshlib.xds.filters import IRRELEVANT_FILTERS, IRRELEVANT_NETWORK_FILTERS
from meshlib.xds.protos import fault_pb2, header_mutation_pb2, http_connection_manager_pb2, router_pb2, tcp_proxy_pb2
from meshlib.xds.scope import Scope

_HCM = http_connection_manager_pb2.HttpConnectionManager.DESCRIPTOR.full_name
_TCP_PROXY = tcp_proxy_pb2.TcpProxy.DESCRIPTOR.full_name
_ROUTER = router_pb2.Router.DESCRIPTOR.full_name
_TYPED_STRUCTS = ("udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct")
_HTTP_INSPECTOR = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
_TLS_INSPECTOR = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
_SOURCE_FIELDS = ("direct_source_prefix_ranges", "source_type", "source_prefix_ranges", "source_ports")
_SOURCE = f"a call from this process counts as coming from {SOURCE_ADDRESS}, from no port that could be known"
_STREAM_IDLE_TIMEOUT = 300.0  # HttpConnectionManager.stream_idle_timeout: "the default timeout is 5 minutes"
_INBOUND = 1  # core.v3.TrafficDirection
# HttpConnectionManager.PathWithEscapedSlashesAction that leave the path alone.
_KEEP_SLASHES = (0, 1)


def listener(scope: Scope, message: Any) -> Listener:
    """Return a ``listener.v3.Listener``. Of an inbound one only that it is there."""
    if not message.name:
        scope.fault("name", "must not be empty")
    if message.traffic_direction == _INBOUND:
        scope.note("traffic_direction", "inbound listeners are not served: what comes in is not policed here")
        return Listener(message.name, inbound=True)
    scope.audit(message)
    if message.HasField("filter_chain_matcher"):
        scope.fault("filter_chain_matcher", "is not supported: expected filter_chain_match in each chain")
    if message.HasField("api_listener"):
        scope.at("api_listener").audit(message.api_listener)
        place = scope.at("api_listener.api_listener")
        packed = message.api_listener.api_listener
        hcm = unpack(place, packed, "", http_connection_manager_pb2.HttpConnectionManager)
        return Listener(message.name, api=_http(place, hcm, idle_timeout=0.0) if hcm is not None else None)
    if not message.filter_chains and not message.HasField("default_filter_chain"):
        scope.fault("filter_chains", "must not be empty, nor api_listener be missing")
    for i, listener_filter in enumerate(message.listener_filters):
        scope.at("listener_filters", i).audit(listener_filter)
    address, port, additional = _bound(scope, message)
    default, chains = scope.at("default_filter_chain"), message.filter_chains
    kept = number(scope, message, "per_connection_buffer_limit_bytes", DEFAULT_BODY_LIMIT)
    try:
        return Listener(
            name=message.name,
            address=address,
            port=port,
            additional=additional,
            chains=tuple(_chain(scope.at("filter_chains", i), chain, kept) for i, chain in enumerate(chains)),
            default_chain=_chain(default, message.default_filter_chain, kept)
            if message.HasField("default_filter_chain")
            else None,
            use_original_dst=message.use_original_dst.value,
            sniffs_http=_inspects(message, _HTTP_INSPECTOR),
            sniffs_tls=_inspects(message, _TLS_INSPECTOR),
        )
    except OverlappingChains as error:
        scope.fault("", str(error))
        return Listener(message.name, address, port)


def _bound(scope: Scope, message: Any) -> tuple[str, int, tuple[tuple[str, int], ...]]:
    """Return the address, the port and the further addresses that a listener is bound to."""
    found = []
    places = [(scope.at("address"), message.address)] if message.HasField("address") else []
    for i, additional in enumerate(message.additional_addresses):
        place = scope.at("additional_addresses", i)
        place.audit(additional)
        places.append((place.at("address"), additional.address))
    for place, packed in places:
        bound = socket_address(place, packed, names=False)
        found.append(bound)
        if packed.socket_address.ipv4_compat:
            found += _as_ipv4(*bound)
    if not message.HasField("address"):
        found.insert(0, ("", 0))
    return (*found[0], tuple(found[1:]))


def _as_ipv4(address: str, port: int) -> list[tuple[str, int]]:
    """Return what an IPv6 socket with ``ipv4_compat`` takes of IPv4."""
    try:
        ip = ipaddress.IPv6Address(address)
    except ValueError:
        return []
    if ip == ipaddress.IPv6Address("::"):
        return [("0.0.0.0", port)]
    return [(str(ip.ipv4_mapped), port)] if ip.ipv4_mapped is not None else []


def _inspects(message: Any, inspector: str) -> bool:
    """Tell whether a listener filter is there. Without it an Envoy knows less of a connection."""
    return any(any_type(listener_filter.typed_config) == inspector for listener_filter in message.listener_filters)


def _chain(scope: Scope, chain: Any, kept: int) -> FilterChain:
    scope.audit(chain)
    match, place = chain.filter_chain_match, scope.at("filter_chain_match")
    place.audit(match)
    for field in _SOURCE_FIELDS:
        if getattr(match, field):
            place.note(field, _SOURCE)
    http, tcp = _ending(scope, chain.filters)
    if http is not None and kept != DEFAULT_BODY_LIMIT:
        http = replace(http, body_limit=kept)
    return FilterChain(
        http=http,
        tcp=tcp,
        name=chain.name,
        destination_port=number(place, match, "destination_port", 0, minimum=1, maximum=65535),
        prefix_ranges=_cidrs(place, match, "prefix_ranges"),
        server_names=tuple(_server_name(place.at("server_names", i), n) for i, n in enumerate(match.server_names)),
        transport_protocol=match.transport_protocol,
        application_protocols=tuple(match.application_protocols),
        direct_source_prefix_ranges=_cidrs(place, match, "direct_source_prefix_ranges"),
        source_type=_source_type(place, match.source_type),
        source_prefix_ranges=_cidrs(place, match, "source_prefix_ranges"),
        source_ports=tuple(match.source_ports),
    )


def _server_name(scope: Scope, name: str) -> str:
    if "*" in name.removeprefix("*."):
        scope.fault("", f"{name!r} has a star in the middle: expected a name or *.suffix")
    return name.lower()


def _source_type(scope: Scope, value: int) -> SourceType:
    try:
        return SourceType(value)
    except ValueError:
        scope.fault("source_type", f"{value} is no ConnectionSourceType")
        return SourceType.ANY


def _cidrs(scope: Scope, match: Any, field: str) -> tuple[str, ...]:
    return tuple(_cidr(scope.at(field, i), cidr) for i, cidr in enumerate(getattr(match, field)))


def _cidr(scope: Scope, cidr: Any) -> str:
    text = f"{cidr.address_prefix}/{cidr.prefix_len.value}"
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        scope.fault("", f"is no address range: {error}")
        return "0.0.0.0/0"
    return text


def _ending(scope: Scope, filters: Any) -> tuple[HttpConnectionManager | None, TcpProxy | None]:
    """Return what ends a chain of network filters; those before it are noted."""
    http, tcp = None, None
    for i, filter_ in enumerate(filters):
        place = scope.at("filters", i)
        kind = any_type(filter_.typed_config)
        if kind == _HCM:
            hcm = unpack(place, filter_.typed_config, "typed_config", http_connection_manager_pb2.HttpConnectionManager)
            http = _http(place.at("typed_config"), hcm) if hcm is not None else None
        elif kind == _TCP_PROXY:
            proxy = unpack(place, filter_.typed_config, "typed_config", tcp_proxy_pb2.TcpProxy)
            tcp = _tcp(place.at("typed_config"), proxy) if proxy is not None else None
        elif filter_.name not in IRRELEVANT_NETWORK_FILTERS and not filter_.HasField("config_discovery"):
            place.note("", f"{filter_.name} is not run")
        place.audit(filter_)
    return http, tcp


def _tcp(scope: Scope, proxy: Any) -> TcpProxy:
    scope.audit(proxy)
    kind = proxy.WhichOneof("cluster_specifier")
    if kind == "weighted_clusters":
        clusters = proxy.weighted_clusters.clusters
        for i, target in enumerate(clusters):
            scope.at(kind).at("clusters", i).audit(target)
        if not clusters or not 0 < sum(c.weight for c in clusters) <= UINT32_MAX:
            scope.fault(kind, f"must be clusters whose weights sum to 1 to {UINT32_MAX}")
        return TcpProxy(tuple(_weighted(scope.at(f"{kind}.clusters", i), c) for i, c in enumerate(clusters)))
    if not proxy.cluster:
        scope.fault("cluster", "must not be empty")
    return TcpProxy((WeightedCluster(proxy.cluster),))


def _weighted(scope: Scope, target: Any) -> WeightedCluster:
    scope.audit(target)
    if not target.name:
        scope.fault("name", "must not be empty")
    if not target.weight:
        scope.fault("weight", "must be 1 or more")
    return WeightedCluster(target.name, target.weight)


def _http(scope: Scope, hcm: Any, *, idle_timeout: float = _STREAM_IDLE_TIMEOUT) -> HttpConnectionManager:
    # The stat_prefix, which Envoy demands, is not looked at: istiod sends none to gRPC nodes.
    scope.audit(hcm)
    if hcm.merge_slashes:
        scope.note("merge_slashes", "slashes in paths are kept")
    if choice(scope, hcm, "path_with_escaped_slashes_action") not in _KEEP_SLASHES:
        scope.note("path_with_escaped_slashes_action", "escaped slashes in paths are kept")
    options = scope.at("common_http_protocol_options")
    options.audit(hcm.common_http_protocol_options)
    has_fault, fault, mutations, respects = False, None, None, False
    filters: list[tuple[str, Setting | Disabled | Faults]] = []
    for i, filter_ in enumerate(hcm.http_filters):
        place = scope.at("http_filters", i)
        place.audit(filter_)
        if any_type(filter_.typed_config) == HTTP_FAULT and not filter_.disabled:
            has_fault = True
            filters.append((filter_.name, Faults.HERE))
            config = unpack(place, filter_.typed_config, "typed_config", fault_pb2.HTTPFault)
            if config is not None and config.ListFields():
                fault = fault_injection(place.at("typed_config"), config)
        elif any_type(filter_.typed_config) == HEADER_MUTATION and not filter_.disabled:
            config = unpack(place, filter_.typed_config, "typed_config", header_mutation_pb2.HeaderMutation)
            if config is not None:
                mutations = mutation_filter(place.at("typed_config"), config)
        elif any_type(filter_.typed_config) in FILTERS:
            setting = filter_setting(place.at("typed_config"), filter_.typed_config)
            if setting is not None:
                filters.append((filter_.name, Disabled.HERE if filter_.disabled else setting))
        else:
            router = _note_filter(place, filter_)
            respects = respects or (router is not None and router.respect_expected_rq_timeout)
    found = HttpConnectionManager(
        fault_filter=has_fault,
        fault=fault,
        header_mutation=mutations,
        filters=tuple(filters) if any(each is not Faults.HERE for _, each in filters) else (),
        stream_idle_timeout=seconds(scope, hcm, "stream_idle_timeout", idle_timeout),
        max_stream_duration=seconds(options, hcm.common_http_protocol_options, "max_stream_duration", 0.0),
        respect_expected_timeout=respects,
    )
    kind = hcm.WhichOneof("route_specifier")
    if kind == "rds":
        return replace(found, route_name=_route_name(scope.at("rds"), hcm.rds))
    if kind != "route_config":
        scope.fault(kind or "rds", "is not supported: expected rds or route_config" if kind else "is missing")
    return replace(found, route_config=route_configuration(scope.at("route_config"), hcm.route_config))


def _route_name(scope: Scope, rds: Any) -> str:
    scope.audit(rds)
    if not rds.route_config_name:
        scope.fault("route_config_name", "must not be empty")
    return qualified(scope, "config_source", rds.config_source, rds.route_config_name)


def _note_filter(scope: Scope, filter_: Any) -> Any:
    """Note a filter that is not run; returns the router's configuration, None for any other filter."""
    router, kind = None, any_type(filter_.typed_config)
    if kind == _ROUTER:
        router = unpack(scope, filter_.typed_config, "typed_config", router_pb2.Router)
        if router is not None:
            scope.at("typed_config").audit(router)
    if filter_.HasField("config_discovery"):
        return router  # noted by the audit
    if filter_.disabled or kind in (_ROUTER, HTTP_FAULT, HEADER_MUTATION) or kind in IRRELEVANT_FILTERS:
        return router
    # Istio's own filters: their types are in no package, or wrapped in a TypedStruct.
    known = kind not in _TYPED_STRUCTS and kind.startswith("envoy.")
    if filter_.name in IRRELEVANT_FILTERS and not known:
        return None
    scope.note("", f"{filter_.name} is not run; a call goes on without it")
    return None
