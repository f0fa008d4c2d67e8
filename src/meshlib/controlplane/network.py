"""Network filters: where connections go whose bytes are not read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.network.mongo_proxy.v3 import mongo_proxy_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from meshlib.controlplane import istio_filters
from meshlib.controlplane.documents.destinations import L4Destination
from meshlib.controlplane.precedence import Rule
from meshlib.controlplane.protobuf import duration, pack
from meshlib.controlplane.routes import Scope, destination
from meshlib.controlplane.services import Protocol, cluster_name
from meshlib.controlplane.telemetry import OUTBOUND, Reporter
from meshlib.controlplane.view import View


def to_cluster(
    view: View, cluster: str, protocol: Protocol = Protocol.TCP, rule: Rule | None = None, subset: str = "",
    *, reporter: Reporter = OUTBOUND, logs: bool = True, secured: bool = True,
) -> tuple[Any, ...]:  # fmt: skip
    """Return the filters of a chain that leads to one cluster."""
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=cluster, cluster=cluster)
    _settings(proxy, rule, subset)
    return _filters(view, proxy, protocol, cluster, reporter, logs=logs, secured=secured)


def to_service(
    view: View, host: str, port: int, protocol: Protocol, *, reporter: Reporter = OUTBOUND
) -> tuple[Any, ...]:
    """Return the filters of a chain that leads to a service's port."""
    return to_cluster(view, cluster_name(host, port), protocol, view.rules.get(host), reporter=reporter)


def to_destinations(
    view: View, route: Sequence[L4Destination], namespace: str, name: str, scope: Scope, protocol: Protocol,
    *, reporter: Reporter = OUTBOUND,
) -> tuple[Any, ...]:  # fmt: skip
    """Return the filters of a chain that leads where a route of a VirtualService says."""
    cluster, host = destination(route[0].destination, namespace, scope)
    rule = view.rules.get(host)
    if len(route) == 1:
        return to_cluster(view, cluster, protocol, rule, route[0].destination.subset, reporter=reporter)
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=f"{name}.{namespace}")
    for item in route:
        if item.weight:
            each, _ = destination(item.destination, namespace, scope)
            proxy.weighted_clusters.clusters.add(name=each, weight=item.weight)
    _settings(proxy, rule, "")
    return _filters(view, proxy, protocol, proxy.stat_prefix, reporter)


def _settings(proxy: Any, rule: Rule | None, subset: str) -> None:
    policy = rule.policy if rule else None
    tcp = policy.connection_pool.tcp if policy and policy.connection_pool else None
    if tcp and tcp.idle_timeout:
        proxy.idle_timeout.CopyFrom(duration(tcp.idle_timeout))
    if tcp and tcp.max_connection_duration:
        proxy.max_downstream_connection_duration.CopyFrom(duration(tcp.max_connection_duration))
    tunnel = policy.tunnel if policy else None
    own = rule.subsets.get(subset) if rule and subset else None
    balancer = policy.load_balancer if policy else None
    if own and own.traffic_policy:
        balancer = own.traffic_policy.load_balancer or balancer
        tunnel = own.traffic_policy.tunnel or tunnel
    if tunnel is not None:
        proxy.tunneling_config.hostname = f"{tunnel.target_host}:{tunnel.target_port}"
        proxy.tunneling_config.use_post = tunnel.protocol == "POST"
    if balancer and balancer.consistent_hash and balancer.consistent_hash.use_source_ip:
        proxy.hash_policy.add().source_ip.SetInParent()


def _filters(
    view: View,
    proxy: Any,
    protocol: Protocol,
    prefix: str,
    reporter: Reporter,
    *,
    logs: bool = True,
    secured: bool = True,
) -> tuple[Any, ...]:
    if logs:
        view.telemetry.log_tcp(proxy, reporter)
    security = view.security.tcp_filters() if secured and reporter is not OUTBOUND else []
    filters = [*security, *istio_filters.tcp_stats(view, reporter)]
    if protocol is Protocol.MONGO and view.options.managed:
        mongo = mongo_proxy_pb2.MongoProxy(stat_prefix=prefix)
        filters.append(network_filter("envoy.filters.network.mongo_proxy", mongo))
    return (*filters, network_filter("envoy.filters.network.tcp_proxy", proxy))


def network_filter(name: str, message: Any) -> Any:
    """Return a network filter with its configuration."""
    return listener_components_pb2.Filter(name=name, typed_config=pack(message))
