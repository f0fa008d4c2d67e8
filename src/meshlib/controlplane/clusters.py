"""Services and DestinationRules to Clusters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.extensions.network.dns_resolver.cares.v3 import cares_dns_resolver_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from meshlib.controlplane import consistent_hash, istio_filters, transport_security
from meshlib.controlplane.documents.destination_rule import (
    ConnectionPool,
    LoadBalancer,
    OutlierDetection,
    RetryBudget,
    TcpKeepalive,
    TrafficPolicy,
)
from meshlib.controlplane.endpoints import assignment
from meshlib.controlplane.locality import preference
from meshlib.controlplane.node import NodeKind
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.precedence import Rule
from meshlib.controlplane.protobuf import ads, bare_ads, duration, metadata, pack
from meshlib.controlplane.recall import RECALL
from meshlib.controlplane.routes import config_path
from meshlib.controlplane.services import Port, Protocol, Resolution, Service, cluster_name, sni_name
from meshlib.controlplane.view import View

UNLIMITED = 2**32 - 1
BLACK_HOLE = "BlackHoleCluster"
PASSTHROUGH = "PassthroughCluster"

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_DNS = {
    Resolution.DNS: cluster_pb2.Cluster.STRICT_DNS,
    Resolution.DNS_ROUND_ROBIN: cluster_pb2.Cluster.LOGICAL_DNS,
}
_LB = {
    "UNSPECIFIED": cluster_pb2.Cluster.LEAST_REQUEST,
    "LEAST_REQUEST": cluster_pb2.Cluster.LEAST_REQUEST,
    "LEAST_CONN": cluster_pb2.Cluster.LEAST_REQUEST,
    "ROUND_ROBIN": cluster_pb2.Cluster.ROUND_ROBIN,
    "RANDOM": cluster_pb2.Cluster.RANDOM,
}


def targets(services: Iterable[tuple[Service, Rule | None]]) -> Iterator[tuple[Service, Port, Rule | None, str]]:
    """Yield every cluster there is to make: service, port, rule, and subset or nothing."""
    for service, rule in services:
        for port in service.ports:
            if port.protocol is not Protocol.UDP:
                yield service, port, rule, ""
                for subset in rule.subsets if rule else ():
                    yield service, port, rule, subset


def made(view: View) -> list[tuple[Service, Port, Rule | None, str, Any]]:
    """Return all clusters of a sidecar or a gateway, each behind its target."""
    if view.patches:  # they change messages in place, so these must be nobody else's
        return [(*target, cluster(*target, view)) for target in targets(view.concrete())]
    return [(*target, RECALL.seen(cluster, view, *target)) for target in targets(view.concrete())]


def cluster(service: Service, port: Port, rule: Rule | None, subset: str, view: View, *, passed: bool = False) -> Any:
    """Return the Cluster of a sidecar or a gateway; where TLS is ``passed`` on, one without TLS of its own."""
    policy = rule.policy_on(port.number, subset) if rule else None
    name = (sni_name if passed else cluster_name)(service.host, port.number, subset)
    message = cluster_pb2.Cluster(name=name, alt_stat_name=f"{name};")
    message.connect_timeout.CopyFrom(duration(view.options.connect_timeout))
    message.circuit_breakers.thresholds.append(_unlimited())
    message.common_lb_config.healthy_panic_threshold.SetInParent()  # panic off, as Istio's default
    message.metadata.CopyFrom(_metadata(service, rule, subset, policy))
    _discovery(message, service, port, rule, subset, policy, view)
    http2 = _connections(message, port, policy, view)
    if policy and policy.retry_budget:
        _retry_budget(message.circuit_breakers.thresholds[0], policy.retry_budget)
    if policy and policy.outlier_detection:
        _outliers(message, policy.outlier_detection)
    if passed:
        pass
    elif policy and policy.tls:
        socket = transport_security.transport_socket(
            policy.tls, service, port.number, subset, view.options, http2=http2
        )
        if socket is not None:
            message.transport_socket.CopyFrom(socket)
    elif view.options.enable_auto_mtls and not service.external and _takes_mtls(service, port, policy):
        transport_security.auto_mtls(message, service, port.number, subset, view.options, http2=http2)
    message.filters.extend(istio_filters.cluster_filters(view.options))
    return message


def proxyless_cluster(service: Service, port: Port, rule: Rule | None, subset: str, view: View) -> Any:
    """Return the Cluster of a gRPC client: what istiod's gRPC generator keeps of a DestinationRule."""
    policy = rule.policy_on(port.number, subset) if rule else None
    name = cluster_name(service.host, port.number, subset)
    message = cluster_pb2.Cluster(name=name, alt_stat_name=f"{name};", type=cluster_pb2.Cluster.EDS)
    message.eds_cluster_config.service_name = name
    message.eds_cluster_config.eds_config.CopyFrom(bare_ads())
    # Of policies RING_HASH alone: istiod sends LEAST_REQUEST and MAGLEV on, and gRPC C-core then refuses the cluster
    # and fails every call.
    hashing = policy.load_balancer.consistent_hash if policy and policy.load_balancer else None
    if hashing and hashing.maglev is None:
        consistent_hash.balance(message, hashing)
    http = policy.connection_pool.http if policy and policy.connection_pool else None
    if http and http.http2_max_requests:
        message.circuit_breakers.thresholds.add().max_requests.value = http.http2_max_requests
    if policy and policy.tls and policy.tls.mode == "ISTIO_MUTUAL" and view.options.managed:
        message.transport_socket.CopyFrom(transport_security.provider_identity(service, view.options))
    elif policy and policy.tls:
        # istiod drops SIMPLE and MUTUAL here and the call goes out in plaintext; ours fails.
        socket = transport_security.transport_socket(policy.tls, service, port.number, subset, view.options, http2=True)
        if socket is not None:
            message.transport_socket.CopyFrom(socket)
    return message


def black_hole(options: MeshOptions) -> Any:
    """Return the cluster that has no endpoint."""
    message = cluster_pb2.Cluster(name=BLACK_HOLE, alt_stat_name=f"{BLACK_HOLE};", type=cluster_pb2.Cluster.STATIC)
    message.connect_timeout.CopyFrom(duration(options.connect_timeout))
    return message


def receive(message: Any, port: Port, policy: TrafficPolicy | None, view: View) -> None:
    """Give a cluster that leads to the workload itself its limits and its protocol."""
    message.circuit_breakers.thresholds.append(_unlimited())
    _connections(message, port, policy, view, inbound=True)


def passthrough(options: MeshOptions, name: str = PASSTHROUGH) -> Any:
    """Return the cluster that goes wherever the client wanted to go."""
    message = cluster_pb2.Cluster(
        name=name,
        alt_stat_name=f"{PASSTHROUGH};",
        type=cluster_pb2.Cluster.ORIGINAL_DST,
        lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
    )
    message.connect_timeout.CopyFrom(duration(options.connect_timeout))
    message.circuit_breakers.thresholds.append(_unlimited())
    if options.mesh and options.mesh.tcp_keepalive:
        _keepalive(message.upstream_connection_options.tcp_keepalive, options.mesh.tcp_keepalive)
    http = http_protocol_options_pb2.HttpProtocolOptions()
    http.common_http_protocol_options.idle_timeout.CopyFrom(duration(300))
    _use_downstream(http)
    message.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pack(http))
    message.filters.extend(istio_filters.cluster_filters(options))
    return message


# ---------------------------------------------------------------- parts


def _metadata(service: Service, rule: Rule | None, subset: str, policy: TrafficPolicy | None) -> Any:
    istio: dict[str, Any] = {"services": [{"host": service.host, "name": service.name, "namespace": service.namespace}]}
    if rule:
        istio["config"] = config_path(rule.document)
    if subset:
        istio["subset"] = subset
    elif service.external:
        istio["external"] = True
    if policy and policy.tls and policy.tls.mode in ("SIMPLE", "MUTUAL"):
        istio["alpn_override"] = "false"  # the application's peer knows nothing of Istio's ALPN
    return metadata(istio=istio, meshlib={"source": rule.source(subset)} if rule else {})


def _discovery(
    message: Any,
    service: Service,
    port: Port,
    rule: Rule | None,
    subset: str,
    policy: TrafficPolicy | None,
    view: View,
) -> None:
    simple = policy.load_balancer.simple if policy and policy.load_balancer else "UNSPECIFIED"
    # A gateway was not the destination of anything, so that it cannot pass on to the original one.
    passes = service.resolution is Resolution.NONE and view.node.kind is not NodeKind.ROUTER
    if passes or simple == "PASSTHROUGH":
        message.type = cluster_pb2.Cluster.ORIGINAL_DST
        message.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
        return
    message.lb_policy = _LB[simple]
    if policy and policy.load_balancer:
        _warm_up(message, policy.load_balancer)
        if policy.load_balancer.consistent_hash:
            consistent_hash.balance(message, policy.load_balancer.consistent_hash)
    chosen = preference(service, policy, view)
    if chosen is not None and chosen.weighs:
        message.common_lb_config.locality_weighted_lb_config.SetInParent()
    if service.resolution in (Resolution.STATIC, Resolution.NONE):
        message.type = cluster_pb2.Cluster.EDS
        message.eds_cluster_config.service_name = message.name
        message.eds_cluster_config.eds_config.CopyFrom(ads())
        return
    message.type = _DNS[service.resolution]
    message.load_assignment.CopyFrom(assignment(service, port, rule, subset, view))
    message.dns_lookup_family = cluster_pb2.Cluster.V4_ONLY
    message.dns_refresh_rate.CopyFrom(duration(60))
    message.dns_jitter.CopyFrom(duration(0.1))
    message.respect_dns_ttl = True
    resolver = cares_dns_resolver_pb2.CaresDnsResolverConfig()
    resolver.udp_max_queries.value = 100
    message.typed_dns_resolver_config.CopyFrom(
        extension_pb2.TypedExtensionConfig(name="envoy.network.dns_resolver.cares", typed_config=pack(resolver))
    )


def _warm_up(message: Any, balancer: LoadBalancer) -> None:
    """Have new endpoints get their share little by little."""
    if balancer.warmup is None and balancer.warmup_duration_secs is None:
        return
    policies = {
        cluster_pb2.Cluster.LEAST_REQUEST: message.least_request_lb_config,
        cluster_pb2.Cluster.ROUND_ROBIN: message.round_robin_lb_config,
    }
    if message.lb_policy not in policies or balancer.consistent_hash:
        return
    slow = policies[message.lb_policy].slow_start_config
    if balancer.warmup is None:
        slow.slow_start_window.CopyFrom(duration(balancer.warmup_duration_secs or 0.0))
        return
    slow.slow_start_window.CopyFrom(duration(balancer.warmup.duration))
    slow.aggression.default_value = 1.0 if balancer.warmup.aggression is None else balancer.warmup.aggression
    slow.aggression.runtime_key = "("  # as istiod has it: Envoy wants one, and nobody sets it
    percent = balancer.warmup.minimum_percent
    slow.min_weight_percent.value = 10 if percent is None else percent


def _takes_mtls(service: Service, port: Port, policy: TrafficPolicy | None) -> bool:
    """Tell whether mTLS may be tried; where the call passes through, all endpoints must have it."""
    if not service.mtls:
        return False
    simple = policy.load_balancer.simple if policy and policy.load_balancer else "UNSPECIFIED"
    if service.resolution is not Resolution.NONE and simple != "PASSTHROUGH":
        return True
    return bool(port.endpoints) and all(endpoint.tls_mode == "istio" for endpoint in port.endpoints)


def _unlimited() -> Any:
    thresholds = circuit_breaker_pb2.CircuitBreakers.Thresholds()
    for field in ("max_connections", "max_pending_requests", "max_requests", "max_retries"):
        getattr(thresholds, field).value = UNLIMITED
    return thresholds


def _connections(message: Any, port: Port, policy: TrafficPolicy | None, view: View, *, inbound: bool = False) -> bool:
    """Set what connections have; tell whether HTTP/2 is spoken on each of them."""
    pool = policy.connection_pool if policy else None
    tcp, http = (pool.tcp, pool.http) if pool else (None, None)
    thresholds = message.circuit_breakers.thresholds[0]
    if tcp and tcp.max_connections:
        thresholds.max_connections.value = tcp.max_connections
    if tcp and tcp.connect_timeout:
        message.connect_timeout.CopyFrom(duration(tcp.connect_timeout))
    for written in (view.options.mesh.tcp_keepalive if view.options.mesh else None, tcp.tcp_keepalive if tcp else None):
        if written:
            _keepalive(message.upstream_connection_options.tcp_keepalive, written)
    if http and http.http1_max_pending_requests:
        thresholds.max_pending_requests.value = http.http1_max_pending_requests
    if http and http.http2_max_requests:
        thresholds.max_requests.value = http.http2_max_requests
    if http and http.max_retries:
        thresholds.max_retries.value = http.max_retries
    options = _http_options(port, policy, view, inbound=inbound)
    if options is None:
        return False
    message.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pack(options))
    return bool(options.explicit_http_config.HasField("http2_protocol_options"))


def _keepalive(message: Any, written: TcpKeepalive) -> None:
    message.SetInParent()
    if written.probes:
        message.keepalive_probes.value = written.probes
    if written.time:
        message.keepalive_time.value = int(written.time)
    if written.interval:
        message.keepalive_interval.value = int(written.interval)


def _retry_budget(thresholds: Any, budget: RetryBudget) -> None:
    # istiod sends 0.2 where percent is left out: a fifth of a percent, not the 20 % its reference promises.
    percent = 0.2 if budget.percent is None else budget.percent
    thresholds.retry_budget.budget_percent.value = percent
    thresholds.retry_budget.min_retry_concurrency.value = budget.min_retry_concurrency or 3


def _http_options(port: Port, policy: TrafficPolicy | None, view: View, *, inbound: bool = False) -> Any | None:
    """Return HttpProtocolOptions, or None where there is nothing to say beyond plain HTTP/1.1."""
    pool = policy.connection_pool if policy else None
    tcp, http = (pool.tcp, pool.http) if pool else (None, None)
    options = http_protocol_options_pb2.HttpProtocolOptions()
    common = options.common_http_protocol_options
    idle = (http and http.idle_timeout) or (tcp and tcp.idle_timeout)
    if idle:
        common.idle_timeout.CopyFrom(duration(idle))
    if http and http.max_requests_per_connection:
        common.max_requests_per_connection.value = http.max_requests_per_connection
    if tcp and tcp.max_connection_duration:
        common.max_connection_duration.CopyFrom(duration(tcp.max_connection_duration))
    if http and http.max_concurrent_streams:
        common.SetInParent()
    tls = policy.tls if policy else None
    if not inbound and transport_security.derives_sni(tls):
        options.upstream_http_protocol_options.auto_sni = True
        # As istiod: names that are given, or no wish to verify, go before the request's own host.
        if tls is not None and not tls.subject_alt_names and not tls.insecure_skip_verify:
            options.upstream_http_protocol_options.auto_san_validation = True
    plain = not options.ListFields()
    sniffed = port.protocol is Protocol.SNIFFED and view.node.kind is NodeKind.SIDECAR
    if (http and http.use_client_protocol) or sniffed:
        _use_downstream(options)
    elif port.protocol.is_http2 or (not inbound and _speaks_http2(port, pool, view.options)):
        http2 = options.explicit_http_config.http2_protocol_options
        http2.SetInParent()
        if http and http.max_concurrent_streams:
            http2.max_concurrent_streams.value = http.max_concurrent_streams
    elif plain:
        return None
    else:
        options.explicit_http_config.http_protocol_options.SetInParent()
    return options


def _speaks_http2(port: Port, pool: ConnectionPool | None, options: MeshOptions) -> bool:
    upgrade = pool.http.h2_upgrade_policy if pool and pool.http else "DEFAULT"
    if upgrade == "DEFAULT" and options.mesh is not None:
        upgrade = options.mesh.h2_upgrade_policy
    return port.protocol.is_http2 or (port.protocol is Protocol.HTTP and upgrade == "UPGRADE")


def _use_downstream(options: Any) -> None:
    options.use_downstream_protocol_config.http_protocol_options.SetInParent()
    options.use_downstream_protocol_config.http2_protocol_options.SetInParent()


def _outliers(message: Any, outlier: OutlierDetection) -> None:
    detection = outlier_detection_pb2.OutlierDetection()
    detection.enforcing_success_rate.value = 0  # Istio turns the statistical detectors off
    if outlier.consecutive_5xx_errors is not None:
        detection.consecutive_5xx.value = outlier.consecutive_5xx_errors
        detection.enforcing_consecutive_5xx.value = 100 if outlier.consecutive_5xx_errors else 0
    if outlier.consecutive_gateway_errors is not None:
        detection.consecutive_gateway_failure.value = outlier.consecutive_gateway_errors
        detection.enforcing_consecutive_gateway_failure.value = 100 if outlier.consecutive_gateway_errors else 0
    if outlier.split_external_local_origin_errors:
        detection.split_external_local_origin_errors = True
        detection.enforcing_local_origin_success_rate.value = 0
        if outlier.consecutive_local_origin_failures is not None:
            detection.consecutive_local_origin_failure.value = outlier.consecutive_local_origin_failures
            detection.enforcing_consecutive_local_origin_failure.value = 100
    if outlier.interval is not None:
        detection.interval.CopyFrom(duration(outlier.interval))
    if outlier.base_ejection_time is not None:
        detection.base_ejection_time.CopyFrom(duration(outlier.base_ejection_time))
    if outlier.max_ejection_percent:
        detection.max_ejection_percent.value = outlier.max_ejection_percent
    if outlier.min_health_percent:
        message.common_lb_config.healthy_panic_threshold.value = outlier.min_health_percent
    message.outlier_detection.CopyFrom(detection)
