"""HttpConnectionManagers: of sidecars, of gateways, and of gRPC's API listeners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2

from meshlib.controlplane import cors, istio_filters, tracing
from meshlib.controlplane.network import network_filter
from meshlib.controlplane.protobuf import ads, bare_ads, duration, pack
from meshlib.controlplane.routes import FAULT_FILTER
from meshlib.controlplane.services import Protocol
from meshlib.controlplane.telemetry import GATEWAY, INBOUND, OUTBOUND, Reporter
from meshlib.controlplane.view import View

HTTP_CONNECTION_MANAGER = "envoy.filters.network.http_connection_manager"


def sidecar(view: View, listener: str, route_name: str, protocol: Protocol) -> Any:
    """Return the network filter of a sidecar's outbound listener.

    Where the mesh's proxies are not known to be Istio's, the filters are istiod's without those of
    Istio's own build (``istio.*``), which a stock Envoy refuses.
    """
    message = base(view, listener, OUTBOUND, _filters(view, OUTBOUND, protocol))
    message.rds.CopyFrom(hcm_pb2.Rds(config_source=ads(), route_config_name=route_name))
    message.use_remote_address.value = False
    return network_filter(HTTP_CONNECTION_MANAGER, message)


def gateway(view: View, listener: str, route_name: str, protocol: Protocol) -> Any:
    """Return the network filter of a gateway: it faces clients that it does not trust."""
    message = base(view, listener, GATEWAY, _filters(view, GATEWAY, protocol, view.security.http_filters(gateway=True)))
    message.rds.CopyFrom(hcm_pb2.Rds(config_source=ads(), route_config_name=route_name))
    message.use_remote_address.value = True
    message.server_name = "istio-envoy"
    message.forward_client_cert_details = hcm_pb2.HttpConnectionManager.SANITIZE_SET
    details = message.set_current_client_cert_details
    details.subject.value = True
    details.cert = details.dns = details.uri = True
    message.http_protocol_options.SetInParent()
    return network_filter(HTTP_CONNECTION_MANAGER, message)


def inbound(view: View, name: str, table: Any, protocol: Protocol) -> Any:
    """Return the network filter of a sidecar's inbound chain, whose routes are its own."""
    message = base(view, name, INBOUND, _filters(view, INBOUND, protocol, view.security.http_filters(gateway=False)))
    message.route_config.CopyFrom(table)
    message.use_remote_address.value = False
    message.server_name = "istio-envoy"
    message.forward_client_cert_details = hcm_pb2.HttpConnectionManager.APPEND_FORWARD
    details = message.set_current_client_cert_details
    details.subject.value = True
    details.dns = details.uri = True
    if protocol.is_http2:
        message.http2_protocol_options.SetInParent()
    return network_filter(HTTP_CONNECTION_MANAGER, message)


def api(route_name: str) -> Any:
    """Return what a gRPC client's API listener holds."""
    return hcm_pb2.HttpConnectionManager(
        rds=hcm_pb2.Rds(config_source=bare_ads(), route_config_name=route_name), http_filters=[_fault(), router()]
    )


def base(view: View, name: str, reporter: Reporter, filters: Sequence[Any]) -> Any:
    """Return what every Envoy's connection manager has."""
    direction = "inbound" if reporter.value == "inbound" else "outbound"
    message = hcm_pb2.HttpConnectionManager(
        stat_prefix=f"{direction}_{name};",
        http_filters=filters,
        proxy_100_continue=True,
        upgrade_configs=[hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        path_with_escaped_slashes_action=hcm_pb2.HttpConnectionManager.KEEP_UNCHANGED,
    )
    message.stream_idle_timeout.CopyFrom(duration(0))
    _normalize_path(message, view)
    view.telemetry.log_tcp(message, reporter)
    request_id = uuid_pb2.UuidRequestIdConfig()
    request_id.use_request_id_for_trace_sampling.value = tracing.trace(message, view, reporter)
    message.request_id_extension.typed_config.CopyFrom(pack(request_id))
    return message


def _filters(view: View, reporter: Reporter, protocol: Protocol, security: Sequence[Any] = ()) -> list[Any]:
    options = view.options
    first = istio_filters.first_http_filters(
        options, grpc_web=protocol is Protocol.GRPC_WEB, inbound=reporter is INBOUND
    )
    exchange = [item for item in first if item.name == "istio.metadata_exchange"]
    crosses = options.managed or any(http.cors_policy for item in view.virtual_services for http in item.spec.http)
    return [
        *exchange,
        *security,
        *(item for item in first if item not in exchange),
        _fault(),
        *([cors_filter()] if crosses else []),
        *istio_filters.http_stats(view, reporter),
        router(),
    ]


def _fault() -> Any:
    return hcm_pb2.HttpFilter(name=FAULT_FILTER, typed_config=pack(fault_pb2.HTTPFault()))


def cors_filter() -> Any:
    """Return the filter that obeys the CORS of routes."""
    return hcm_pb2.HttpFilter(name=cors.FILTER, typed_config=pack(cors_pb2.Cors()))


def router() -> Any:
    """Return the last filter."""
    return hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=pack(router_pb2.Router()))


def _normalize_path(message: Any, view: View) -> None:
    mesh = view.options.mesh
    written = mesh.path_normalization.normalization if mesh and mesh.path_normalization else "DEFAULT"
    message.normalize_path.value = written != "NONE"
    if written.endswith("MERGE_SLASHES"):
        message.merge_slashes = True
    if written.startswith("DECODE"):
        message.path_with_escaped_slashes_action = hcm_pb2.HttpConnectionManager.UNESCAPE_AND_FORWARD
