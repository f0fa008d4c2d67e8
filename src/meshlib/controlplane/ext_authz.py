"""Asking another service whether a call may be made: the filters of CUSTOM policies, as istiod configures them."""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import config_source_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as network_ext_authz_pb2
from envoy.type.matcher.v3 import string_pb2

from meshlib.controlplane.documents.providers import ExtAuthz, ExtensionProvider
from meshlib.controlplane.protobuf import duration
from meshlib.controlplane.services import cluster_name

MARK = "istio_ext_authz_"  # of what the rules found, by which the filter knows whether to ask
_ASKED = 600.0  # seconds that an external authorizer has, istiod's default


def answers(provider: ExtensionProvider | None) -> bool:
    """Tell whether a provider can be asked at all."""
    return provider is not None and (
        provider.envoy_ext_authz_http is not None or provider.envoy_ext_authz_grpc is not None
    )


def of_provider(provider: ExtensionProvider, name: str, rbac: str, *, tcp: bool) -> Any | None:
    """Return the filter that asks a provider; None where it cannot be asked about bytes."""
    config = _tcp(provider.envoy_ext_authz_grpc) if tcp else _http(provider)
    if config is not None:
        enabled = config.filter_enabled_metadata
        enabled.filter = rbac
        enabled.path.add(key=f"{MARK}shadow_effective_policy_id")
        enabled.value.string_match.prefix = f"istio-ext-authz-{name}"
    return config


def _http(provider: ExtensionProvider) -> Any | None:
    if provider.envoy_ext_authz_http is not None:
        return _by_http(provider.envoy_ext_authz_http)
    return _by_grpc(provider.envoy_ext_authz_grpc) if provider.envoy_ext_authz_grpc is not None else None


def _tcp(written: ExtAuthz | None) -> Any | None:
    if written is None:
        return None
    config = network_ext_authz_pb2.ExtAuthz(
        stat_prefix="tcp.",
        failure_mode_allow=written.fail_open,
        transport_api_version=config_source_pb2.ApiVersion.V3,
    )
    _call(config.grpc_service, written)
    return config


def _by_http(written: ExtAuthz) -> Any:
    config = _common(ext_authz_pb2.ExtAuthz(), written)
    host = written.service.rpartition("/")[2]
    service = config.http_service
    service.path_prefix = written.path_prefix
    service.server_uri.uri = f"http://{host}"
    service.server_uri.cluster = cluster_name(host, written.port)
    service.server_uri.timeout.CopyFrom(duration(written.timeout or _ASKED))
    for key, value in sorted(written.include_additional_headers_in_check.items()):
        service.authorization_request.headers_to_add.add(key=key, value=value)
    answer = service.authorization_response
    for names, matcher in (
        (written.headers_to_upstream_on_allow, "allowed_upstream_headers"),
        (written.headers_to_downstream_on_deny, "allowed_client_headers"),
        (written.headers_to_downstream_on_allow, "allowed_client_headers_on_success"),
    ):
        if names:
            getattr(answer, matcher).patterns.extend(map(_header_name, names))
    if written.include_request_headers_in_check:
        config.allowed_headers.patterns.extend(map(_header_name, written.include_request_headers_in_check))
    return config


def _by_grpc(written: ExtAuthz) -> Any:
    config = _common(ext_authz_pb2.ExtAuthz(), written)
    _call(config.grpc_service, written)
    return config


def _call(grpc_service: Any, written: ExtAuthz) -> None:
    host = written.service.rpartition("/")[2]
    grpc_service.envoy_grpc.cluster_name = cluster_name(host, written.port)
    grpc_service.envoy_grpc.authority = host
    grpc_service.timeout.CopyFrom(duration(written.timeout or _ASKED))


def _common(config: Any, written: ExtAuthz) -> Any:
    config.failure_mode_allow = written.fail_open
    config.transport_api_version = config_source_pb2.ApiVersion.V3
    if written.status_on_error.isdecimal():
        config.status_on_error.code = int(written.status_on_error)
    if written.clear_route_cache:
        config.clear_route_cache = True
    if (body := written.include_request_body_in_check) is not None:
        config.with_request_body.max_request_bytes = body.max_request_bytes
        config.with_request_body.allow_partial_message = body.allow_partial_message
        config.with_request_body.pack_as_bytes = body.pack_as_bytes
    return config


def _header_name(value: str) -> Any:
    if value.startswith("*"):
        return string_pb2.StringMatcher(suffix=value[1:], ignore_case=True)
    if value.endswith("*"):
        return string_pb2.StringMatcher(prefix=value[:-1], ignore_case=True)
    return string_pb2.StringMatcher(exact=value, ignore_case=True)
