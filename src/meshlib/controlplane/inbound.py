"""The inbound half of a sidecar: virtualInbound with its chains, and gRPC servers' listeners."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.config.route.v3 import route_pb2 as table_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from meshlib.controlplane import istio_filters, listeners, managers, network, targets, transport_security
from meshlib.controlplane.chains import HTTP_ALPN, ISTIO_ALPN, ISTIO_HTTP_ALPN, Chain
from meshlib.controlplane.clusters import BLACK_HOLE
from meshlib.controlplane.downstream_tls import mesh_socket
from meshlib.controlplane.inbound_clusters import INBOUND_PASSTHROUGH
from meshlib.controlplane.protobuf import duration, pack, socket_address
from meshlib.controlplane.routes import config_path
from meshlib.controlplane.services import Port, Protocol
from meshlib.controlplane.targets import Target
from meshlib.controlplane.telemetry import INBOUND
from meshlib.controlplane.view import View

VIRTUAL_INBOUND_PORT = 15006
_TLS, _RAW = "tls", "raw_buffer"
_GRPC_PREFIX = "xds.istio.io/grpc/lds/inbound/"


@dataclass(frozen=True, slots=True)
class _Way:
    """One way in which connections come: HTTP or bytes, with mTLS that ends here or without."""

    transport: str
    http: bool
    mtls: bool = False
    alpn: tuple[str, ...] = ()


_PEERS = ("istio-peer-exchange", "istio")  # what is left of mTLS that is no HTTP
_WAYS: dict[tuple[str, str], tuple[_Way, ...]] = {
    ("http", "PERMISSIVE"): (_Way(_TLS, True, True, ISTIO_ALPN), _Way(_RAW, True)),
    ("http", "STRICT"): (_Way(_TLS, True, True),),
    ("http", "DISABLE"): (_Way(_RAW, True),),
    ("auto", "PERMISSIVE"): (
        _Way(_TLS, True, True, ISTIO_HTTP_ALPN),
        _Way(_RAW, True, alpn=HTTP_ALPN),
        _Way(_TLS, False, True, _PEERS),
        _Way(_RAW, False),
        _Way(_TLS, False),
    ),
    ("auto", "STRICT"): (_Way(_TLS, True, True, ISTIO_HTTP_ALPN), _Way(_TLS, False, True)),
    ("auto", "DISABLE"): (_Way(_RAW, True, alpn=HTTP_ALPN), _Way(_RAW, False)),
    ("tcp", "PERMISSIVE"): (_Way(_TLS, False, True, ISTIO_ALPN), _Way(_TLS, False), _Way(_RAW, False)),
    ("tcp", "STRICT"): (_Way(_TLS, False, True),),
    ("tcp", "DISABLE"): (_Way(_RAW, False),),
}


def inbound_listeners(view: View) -> Iterator[Any]:
    """Yield virtualInbound, and a listener for each port that a Sidecar has bound on its own."""
    shared: list[Chain] = []
    own: list[tuple[Target, list[Chain]]] = []
    for target in targets.of_node(view):
        chains = _chains(view, target)
        capture = target.ingress.capture_mode if target.ingress else "DEFAULT"
        if capture == "NONE" or (capture == "DEFAULT" and view.node.binds):
            own.append((target, chains))
        else:
            shared += chains
    if not view.node.binds:
        chains = [_black_hole(view), *_passthrough(view), *shared]
        yield _listener(view, "virtualInbound", "0.0.0.0", VIRTUAL_INBOUND_PORT, chains, binds=False)
    for target, chains in own:
        name = f"{target.address}_{target.number}"
        yield _listener(view, name, target.address, target.number, chains, binds=True)


# ---------------------------------------------------------------- chains


def _black_hole(view: View) -> Chain:
    """Return the chain of calls to the listener's own port, which would go round in circles."""
    filters = network.to_cluster(view, BLACK_HOLE, reporter=INBOUND, logs=False, secured=False)
    return Chain(
        (*istio_filters.tcp_exchange(view.options), *filters),
        port=VIRTUAL_INBOUND_PORT,
        name="virtualInbound-blackhole",
        guarded=False,
    )


def _passthrough(view: View) -> Iterator[Chain]:
    """Yield the chains of ports that no service has, those with a PeerAuthentication of their own too."""
    node, known = view.node, {target.number for target in targets.of_services(view)}
    own = [number for number in view.registry.mtls.ports(node.namespace, node.labels) if number not in known]
    for number in (0, *sorted(own)):
        port = Port(0, "", Protocol.SNIFFED, None)
        target = Target(number, port, ":0")
        yield from _ways(view, target, INBOUND_PASSTHROUGH, passthrough=True)


def _chains(view: View, target: Target) -> list[Chain]:
    return list(_ways(view, target, target.cluster, passthrough=False))


def _ways(view: View, target: Target, cluster: str, *, passthrough: bool) -> Iterator[Chain]:
    protocol = target.port.protocol
    kind = "http" if protocol.is_http else "auto" if protocol is Protocol.SNIFFED else "tcp"
    mode = view.registry.mtls.workload(view.node.namespace, view.node.labels, target.number)
    for way in _WAYS[kind, mode]:
        name = f"{target.address}_{target.number}"
        if passthrough:
            name = "virtualInbound-catchall-http" if way.http else "virtualInbound"
        filters = _http(view, target, cluster, passthrough=passthrough) if way.http else _tcp(view, target, cluster)
        yield Chain(
            (*istio_filters.tcp_exchange(view.options), *filters),
            transport_protocol=way.transport,
            application_protocols=way.alpn,
            socket=mesh_socket(view.options, tcp=not way.http) if way.mtls else None,
            source=config_path(view.sidecar) if target.ingress and view.sidecar else "",
            port=target.number,
            name=name,
            guarded=False,
        )


def _tcp(view: View, target: Target, cluster: str) -> tuple[Any, ...]:
    return network.to_cluster(view, cluster, target.port.protocol, reporter=INBOUND)


def _http(view: View, target: Target, cluster: str, *, passthrough: bool) -> tuple[Any, ...]:
    name = cluster if passthrough else f"0.0.0.0_{target.number}"
    return (managers.inbound(view, name, _table(target, cluster), target.port.protocol),)


def _table(target: Target, cluster: str) -> Any:
    route = route_pb2.Route(name="default", match=route_pb2.RouteMatch(prefix="/"))
    route.route.cluster = cluster
    route.route.timeout.CopyFrom(duration(0))
    if not target.port.protocol.is_grpc:  # what has not begun can be tried again, but a stream may have
        route.route.retry_policy.retry_on = "reset-before-request"
        route.route.retry_policy.num_retries.value = 2
    route.route.max_stream_duration.max_stream_duration.CopyFrom(duration(0))
    route.route.max_stream_duration.grpc_timeout_header_max.CopyFrom(duration(0))
    route.decorator.operation = f"{target.called}/*"
    host = route_pb2.VirtualHost(name=f"inbound|http|{target.port.number}", domains=["*"], routes=[route])
    table = table_pb2.RouteConfiguration(name=cluster, virtual_hosts=[host])
    table.validate_clusters.value = False
    return table


# ---------------------------------------------------------------- the listener


def _listener(view: View, name: str, address: str, port: int, chains: Sequence[Chain], *, binds: bool) -> Any:
    message = listener_pb2.Listener(
        name=name,
        address=socket_address(address, port),
        filter_chains=[chain.message() for chain in chains],
        traffic_direction=base_pb2.INBOUND,
        continue_on_listener_filters_timeout=True,
    )
    if not binds:
        message.listener_filters.add(
            name="envoy.filters.listener.original_dst", typed_config=pack(original_dst_pb2.OriginalDst())
        )
    message.listener_filters.extend(_inspectors(chains))
    timeout = view.options.mesh.protocol_detection_timeout if view.options.mesh else 0.0
    message.listener_filters_timeout.CopyFrom(duration(timeout))
    message.max_connections_to_accept_per_socket_event.value = 1
    view.telemetry.log_listener(message, INBOUND)
    return message


def _inspectors(chains: Sequence[Chain]) -> Iterator[Any]:
    """Yield what looks at connections, switched off on the ports where nothing asks for it."""
    ports = sorted({chain.port for chain in chains})
    tls = {chain.port for chain in chains if chain.transport_protocol == _TLS}
    http = {chain.port for chain in chains if chain.application_protocols == HTTP_ALPN}
    if tls:
        inspector = listeners.tls_inspector()
        if 0 in tls:
            _disable(inspector, [port for port in ports if port and port not in tls])
        elif tls - {0}:
            inspector.filter_disabled.not_match.CopyFrom(_on(sorted(tls)))
        yield inspector
    if http:
        inspector = listeners.http_inspector()
        _disable(inspector, [port for port in ports if port not in http])
        yield inspector


def _disable(inspector: Any, ports: Sequence[int]) -> None:
    if ports:
        inspector.filter_disabled.CopyFrom(_on(ports))


def _on(ports: Iterable[int]) -> Any:
    ranges = []
    for port in ports:
        predicate = listener_components_pb2.ListenerFilterChainMatchPredicate()
        predicate.destination_port_range.start = port
        predicate.destination_port_range.end = port + 1
        ranges.append(predicate)
    if len(ranges) == 1:
        return ranges[0]
    several = listener_components_pb2.ListenerFilterChainMatchPredicate()
    several.or_match.rules.extend(ranges)
    return several


# ---------------------------------------------------------------- gRPC servers


def server_listeners(view: View) -> Iterator[Any]:
    """Yield the listeners of a gRPC server, under the addresses that it may ask with."""
    for target in targets.of_services(view):
        for address in dict.fromkeys(("0.0.0.0", "[::]", view.node.ip)):
            message = listener_pb2.Listener(
                name=f"{_GRPC_PREFIX}{address}:{target.number}",
                address=socket_address(address.strip("[]"), target.number),
            )
            message.filter_chains.append(_server_chain(view, target))
            yield message


def _server_chain(view: View, target: Target) -> Any:
    """Return the one chain: gRPC cannot take both mTLS and plaintext, so a mesh workload takes mTLS."""
    mode = view.registry.mtls.workload(view.node.namespace, view.node.labels, target.number)
    if mode == "PERMISSIVE":
        mode = "STRICT" if view.node.labels.get("security.istio.io/tlsMode") == "istio" else "DISABLE"
    suffix = "mtls" if mode == "STRICT" else "plaintext"
    route = route_pb2.Route(match=route_pb2.RouteMatch(prefix="/"))
    route.non_forwarding_action.SetInParent()
    table = table_pb2.RouteConfiguration(
        name="inbound", virtual_hosts=[route_pb2.VirtualHost(domains=["*"], routes=[route])]
    )
    filters = [*view.security.grpc_filters(), managers.router()]
    manager = hcm_pb2.HttpConnectionManager(route_config=table, http_filters=filters)
    chain = listener_components_pb2.FilterChain(
        name=f"inbound-{suffix}",
        filters=[network.network_filter(f"inbound-hcm{suffix}", manager)],
    )
    if mode == "STRICT":
        chain.transport_socket.CopyFrom(
            base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(_server_tls()))
        )
    return chain


def _server_tls() -> Any:
    """Return what gRPC servers understand: certificates of the bootstrap's provider, in the old and the new fields."""
    context = tls_pb2.DownstreamTlsContext()
    context.require_client_certificate.value = True
    transport_security.provided(context.common_tls_context)
    return context
