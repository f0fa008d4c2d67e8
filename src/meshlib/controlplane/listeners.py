"""Listeners and their connection managers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2

from meshlib.controlplane import istio_filters, tracing
from meshlib.controlplane.clusters import BLACK_HOLE, PASSTHROUGH
from meshlib.controlplane.node import Node
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.protobuf import ads, bare_ads, duration, pack, socket_address
from meshlib.controlplane.routes import FAULT_FILTER

VIRTUAL_OUTBOUND_PORT = 15001


def manager(name: str, route_name: str, node: Node, options: MeshOptions) -> Any:
    """Return the HttpConnectionManager of a sidecar's listener.

    Where the mesh's proxies are not known to be Istio's, the filters are istiod's without those of
    Istio's own build (``istio.*``), which a stock Envoy refuses.
    """
    return _manager(name, route_name, node, options, gateway=False)


def _manager(name: str, route_name: str, node: Node, options: MeshOptions, *, gateway: bool) -> Any:
    message = hcm_pb2.HttpConnectionManager(
        stat_prefix=f"outbound_{name};",
        rds=hcm_pb2.Rds(config_source=ads(), route_config_name=route_name),
        http_filters=_envoy_filters(options, gateway=gateway),
        proxy_100_continue=True,
        upgrade_configs=[hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        path_with_escaped_slashes_action=hcm_pb2.HttpConnectionManager.KEEP_UNCHANGED,
    )
    message.stream_idle_timeout.CopyFrom(duration(0))
    message.normalize_path.value = True
    message.use_remote_address.value = False
    request_id = uuid_pb2.UuidRequestIdConfig()
    request_id.use_request_id_for_trace_sampling.value = True
    message.request_id_extension.typed_config.CopyFrom(pack(request_id))
    tracing.trace(message, node, options)
    return message


def gateway_manager(name: str, route_name: str, node: Node, options: MeshOptions) -> Any:
    """Return the HttpConnectionManager of a gateway: it faces clients that it does not trust."""
    message = _manager(name, route_name, node, options, gateway=True)
    message.use_remote_address.value = True
    message.server_name = "istio-envoy"
    message.forward_client_cert_details = hcm_pb2.HttpConnectionManager.SANITIZE_SET
    details = message.set_current_client_cert_details
    details.subject.value = True
    details.cert = details.dns = details.uri = True
    message.http_protocol_options.SetInParent()
    return message


def _envoy_filters(options: MeshOptions, *, gateway: bool) -> list[Any]:
    fault, router = _http_filters()
    cors = hcm_pb2.HttpFilter(name="envoy.filters.http.cors", typed_config=pack(cors_pb2.Cors()))
    return [
        *istio_filters.first_http_filters(options),
        fault,
        *([cors] if options.managed else []),
        *istio_filters.http_stats(options, gateway=gateway),
        router,
    ]


def _http_filters() -> list[Any]:
    return [
        hcm_pb2.HttpFilter(name=FAULT_FILTER, typed_config=pack(fault_pb2.HTTPFault())),
        hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=pack(router_pb2.Router())),
    ]


def api_listener(name: str, address: str, port: int, route_name: str) -> Any:
    """Return the listener that a gRPC client asks for by ``host:port``."""
    message = listener_pb2.Listener(name=name, address=socket_address(address, port))
    config = hcm_pb2.HttpConnectionManager(
        rds=hcm_pb2.Rds(config_source=bare_ads(), route_config_name=route_name), http_filters=_http_filters()
    )
    message.api_listener.api_listener.CopyFrom(pack(config))
    return message


def gateway_listener(address: str, port: int, route_name: str, node: Node, options: MeshOptions) -> Any:
    """Return a gateway's listener: bound for real, one HTTP chain."""
    name = f"{address}_{port}"
    chain = _chain(_http(gateway_manager(name, route_name, node, options)))
    message = listener_pb2.Listener(
        name=name,
        address=socket_address(address, port),
        filter_chains=[chain],
        traffic_direction=base_pb2.OUTBOUND,
    )
    message.max_connections_to_accept_per_socket_event.value = 1
    return message


def outbound_listener(address: str, port: int, chains: Sequence[Any], default: Any | None) -> Any:
    """Return a sidecar's listener. It is not bound: virtualOutbound hands connections to it."""
    message = listener_pb2.Listener(
        name=f"{address}_{port}",
        address=socket_address(address, port),
        filter_chains=chains,
        traffic_direction=base_pb2.OUTBOUND,
        continue_on_listener_filters_timeout=True,
    )
    message.bind_to_port.value = False
    message.listener_filters_timeout.CopyFrom(duration(0))
    matches = [chain.filter_chain_match for chain in chains]
    if any(match.server_names for match in matches):
        inspector = tls_inspector_pb2.TlsInspector()
        inspector.initial_read_buffer_size.value = 512
        message.listener_filters.add(name="envoy.filters.listener.tls_inspector", typed_config=pack(inspector))
    if any(match.application_protocols for match in matches):
        message.listener_filters.add(
            name="envoy.filters.listener.http_inspector", typed_config=pack(http_inspector_pb2.HttpInspector())
        )
    if default is not None:
        message.default_filter_chain.CopyFrom(default)
    return message


def http_chain(name: str, route_name: str, node: Node, options: MeshOptions) -> Any:
    """Return the chain that plaintext HTTP takes."""
    chain = _chain(_http(manager(name, route_name, node, options)))
    chain.filter_chain_match.transport_protocol = "raw_buffer"
    chain.filter_chain_match.application_protocols.extend(["http/1.1", "h2c"])
    return chain


def tcp_chain(cluster: str, options: MeshOptions, server_names: Sequence[str] = ()) -> Any:
    """Return a chain that passes bytes to a cluster, perhaps for some TLS server names alone."""
    chain = _chain(*_tcp(cluster, options))
    if server_names:
        chain.filter_chain_match.server_names.extend(server_names)
    return chain


def passthrough_chain(options: MeshOptions) -> Any:
    """Return the default chain of a listener shared by all hosts of a port."""
    return listener_components_pb2.FilterChain(
        name="PassthroughFilterChain",
        filter_chain_match=listener_components_pb2.FilterChainMatch(),
        filters=_tcp(BLACK_HOLE if options.registry_only else PASSTHROUGH, options),
    )


def virtual_outbound(options: MeshOptions) -> Any:
    """Return the listener that takes every outbound connection that no other listener takes."""
    black_hole = listener_components_pb2.FilterChain(
        name="virtualOutbound-blackhole", filters=_tcp(BLACK_HOLE, options)
    )
    black_hole.filter_chain_match.destination_port.value = VIRTUAL_OUTBOUND_PORT
    unknown = BLACK_HOLE if options.registry_only else PASSTHROUGH
    anything = listener_components_pb2.FilterChain(name="virtualOutbound-catchall-tcp", filters=_tcp(unknown, options))
    message = listener_pb2.Listener(
        name="virtualOutbound",
        address=socket_address("0.0.0.0", VIRTUAL_OUTBOUND_PORT),
        filter_chains=[black_hole, anything],
        traffic_direction=base_pb2.OUTBOUND,
    )
    message.use_original_dst.value = True
    message.max_connections_to_accept_per_socket_event.value = 1
    return message


def _chain(*network_filters: Any) -> Any:
    chain = listener_components_pb2.FilterChain(filters=network_filters)
    chain.transport_socket_connect_timeout.CopyFrom(duration(15))
    return chain


def _http(message: Any) -> Any:
    return listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=pack(message)
    )


def _tcp(cluster: str, options: MeshOptions) -> list[Any]:
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=cluster, cluster=cluster)
    return [
        *istio_filters.tcp_stats(options),
        listener_components_pb2.Filter(name="envoy.filters.network.tcp_proxy", typed_config=pack(proxy)),
    ]
