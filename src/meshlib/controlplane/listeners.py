"""Listeners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2

from meshlib.controlplane import managers, network
from meshlib.controlplane.chains import Chain
from meshlib.controlplane.clusters import BLACK_HOLE, PASSTHROUGH
from meshlib.controlplane.protobuf import duration, pack, socket_address
from meshlib.controlplane.telemetry import GATEWAY, OUTBOUND
from meshlib.controlplane.view import View

VIRTUAL_OUTBOUND_PORT = 15001


def api_listener(name: str, address: str, port: int, route_name: str) -> Any:
    """Return the listener that a gRPC client asks for by ``host:port``."""
    message = listener_pb2.Listener(name=name, address=socket_address(address, port))
    message.api_listener.api_listener.CopyFrom(pack(managers.api(route_name)))
    return message


def gateway_listener(view: View, address: str, port: int, chains: Sequence[Chain]) -> Any:
    """Return a gateway's listener: bound for real."""
    message = listener_pb2.Listener(
        name=f"{address}_{port}",
        address=socket_address(address, port),
        filter_chains=[chain.message() for chain in chains],
        traffic_direction=base_pb2.OUTBOUND,
    )
    if any(chain.server_names or chain.socket is not None for chain in chains):
        message.listener_filters.append(tls_inspector())
    message.max_connections_to_accept_per_socket_event.value = 1
    view.telemetry.log_listener(message, GATEWAY)
    return message


def outbound_listener(view: View, address: str, port: int, chains: Sequence[Chain], *, binds: bool) -> Any:
    """Return a sidecar's listener. Unless it ``binds``, virtualOutbound hands connections to it."""
    message = listener_pb2.Listener(
        name=f"{address}_{port}",
        address=socket_address(address, port),
        traffic_direction=base_pb2.OUTBOUND,
        continue_on_listener_filters_timeout=True,
    )
    if binds:
        message.max_connections_to_accept_per_socket_event.value = 1
    else:
        message.bind_to_port.value = False
    message.listener_filters_timeout.CopyFrom(duration(0))
    if any(chain.server_names for chain in chains):
        message.listener_filters.append(tls_inspector())
    if any(chain.application_protocols for chain in chains):
        message.listener_filters.append(http_inspector())
        if view.options.mesh is not None:
            message.listener_filters_timeout.CopyFrom(duration(view.options.mesh.protocol_detection_timeout))
    rest = [chain for chain in chains if chain.takes_all]
    chosen = [chain for chain in chains if not chain.takes_all]
    message.filter_chains.extend(chain.message() for chain in chosen or rest[-1:])
    if rest and chosen:
        message.default_filter_chain.CopyFrom(rest[-1].message())
    elif not rest:
        message.default_filter_chain.CopyFrom(_passthrough_chain(view))
    return message


def tls_inspector() -> Any:
    """Return the listener filter that finds the server name of a handshake."""
    inspector = tls_inspector_pb2.TlsInspector()
    inspector.initial_read_buffer_size.value = 512
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.tls_inspector", typed_config=pack(inspector)
    )


def http_inspector() -> Any:
    """Return the listener filter that tells HTTP from other bytes."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.http_inspector", typed_config=pack(http_inspector_pb2.HttpInspector())
    )


def _passthrough_chain(view: View) -> Any:
    """Return the default chain of a listener shared by all hosts of a port."""
    return listener_components_pb2.FilterChain(
        name="PassthroughFilterChain",
        filter_chain_match=listener_components_pb2.FilterChainMatch(),
        filters=network.to_cluster(view, BLACK_HOLE if view.registry_only else PASSTHROUGH),
    )


def virtual_outbound(view: View) -> Any:
    """Return the listener that takes every outbound connection that no other listener takes."""
    black_hole = listener_components_pb2.FilterChain(
        name="virtualOutbound-blackhole", filters=network.to_cluster(view, BLACK_HOLE, logs=False)
    )
    black_hole.filter_chain_match.destination_port.value = VIRTUAL_OUTBOUND_PORT
    unknown = BLACK_HOLE if view.registry_only else PASSTHROUGH
    anything = listener_components_pb2.FilterChain(
        name="virtualOutbound-catchall-tcp", filters=network.to_cluster(view, unknown)
    )
    message = listener_pb2.Listener(
        name="virtualOutbound",
        address=socket_address("0.0.0.0", VIRTUAL_OUTBOUND_PORT),
        filter_chains=[black_hole, anything],
        traffic_direction=base_pb2.OUTBOUND,
    )
    message.use_original_dst.value = True
    message.max_connections_to_accept_per_socket_event.value = 1
    view.telemetry.log_listener(message, OUTBOUND)
    return message
