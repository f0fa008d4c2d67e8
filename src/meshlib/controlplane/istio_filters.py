"""The filters of Istio's own proxies, as istiod puts them into listeners and clusters.

They exchange metadata between proxies, count Istio's metrics and choose the ALPN of mTLS. Stock Envoys
refuse them, so they are served only in a mesh whose ConfigMap says that Istio's proxies are its clients.
"""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import filter_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as grpc_stats_pb2
from envoy.extensions.filters.http.grpc_web.v3 import grpc_web_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from udpa.type.v1 import typed_struct_pb2

from meshlib.controlplane.istio_messages import AlpnConfig, StatsConfig
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.protobuf import duration, pack
from meshlib.controlplane.telemetry import OUTBOUND, Reporter
from meshlib.controlplane.view import View

_ALPN = (("HTTP10", "http/1.0"), ("HTTP11", "http/1.1"), ("HTTP2", "h2"))


def _struct(type_url: str, value: dict[str, Any]) -> Any:
    message = typed_struct_pb2.TypedStruct(type_url=f"type.googleapis.com/{type_url}")
    message.value.update(value)
    return pack(message)


def cluster_filters(options: MeshOptions) -> list[Any]:
    """Return the filters of an outbound cluster: who is at the other end is asked within mTLS."""
    if not options.enable_auto_mtls:
        return []
    value = {"enable_discovery": True, "protocol": "istio-peer-exchange"}
    config = _struct("envoy.tcp.metadataexchange.config.MetadataExchange", value)
    return [filter_pb2.Filter(name="istio.metadata_exchange", typed_config=config)]


def tcp_exchange(options: MeshOptions) -> list[Any]:
    """Return the network filter of an inbound chain that tells who is at the other end."""
    return [
        listener_components_pb2.Filter(name=item.name, typed_config=item.typed_config)
        for item in cluster_filters(options)
    ]


def first_http_filters(options: MeshOptions, *, grpc_web: bool = False, inbound: bool = False) -> list[Any]:
    """Return what stands before the filters that everybody has."""
    filters = []
    if options.enable_auto_mtls:
        known: list[dict[str, Any]] = [{"istio_headers": {}}, {"workload_discovery": {}}]
        side = "downstream" if inbound else "upstream"
        peers = {f"{side}_discovery": known, f"{side}_propagation": [{"istio_headers": {}}]}
        filters.append(_http("istio.metadata_exchange", _struct("io.istio.http.peer_metadata.Config", peers)))
    if options.managed and grpc_web:
        filters.append(_http("envoy.filters.http.grpc_web", pack(grpc_web_pb2.GrpcWeb())))
    if options.managed:
        stats = grpc_stats_pb2.FilterConfig(emit_filter_state=True)
        stats.stats_for_all_methods.value = False
        filters.append(_http("envoy.filters.http.grpc_stats", pack(stats)))
    if options.enable_auto_mtls and not inbound:
        filters.append(_http("istio.alpn", pack(_alpn())))
    return filters


def _alpn() -> Any:
    config = AlpnConfig()
    for protocol, name in _ALPN:
        istio = "istio-h2" if protocol == "HTTP2" else f"istio-{name}"
        config.alpn_override.add(upstream_protocol=protocol, alpn_override=[istio, "istio", name])
    return config


def http_stats(view: View, reporter: Reporter) -> list[Any]:
    """Return the filter that counts Istio's metrics of HTTP."""
    config = _stats(view, reporter)
    return [] if config is None else [_http("istio.stats", pack(config))]


def tcp_stats(view: View, reporter: Reporter) -> list[Any]:
    """Return the filter that counts Istio's metrics of bytes."""
    config = _stats(view, reporter)
    return [] if config is None else [listener_components_pb2.Filter(name="istio.stats", typed_config=pack(config))]


def _stats(view: View, reporter: Reporter) -> Any | None:
    counted, changes, interval = view.telemetry.prometheus(reporter)
    if not counted:
        return None
    config = StatsConfig(disable_host_header_fallback=reporter is not OUTBOUND)
    if interval is not None:
        config.tcp_reporting_duration.ParseFromString(duration(interval).SerializeToString())  # of a pool of its own
    for change in changes:
        metric = config.metrics.add(name=change.name, drop=change.dropped, tags_to_remove=change.removed)
        metric.dimensions.update(change.dimensions)
    return config


def _http(name: str, config: Any) -> Any:
    return hcm_pb2.HttpFilter(name=name, typed_config=config)
