"""Access logs of Envoys, as istiod configures them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import config_source_pb2, extension_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.access_loggers.open_telemetry.v3 import logs_service_pb2
from envoy.extensions.formatter.req_without_query.v3 import req_without_query_pb2

from meshlib.controlplane import trace_exporters
from meshlib.controlplane.documents.mesh_config import MeshConfig
from meshlib.controlplane.documents.providers import (
    ExtensionProvider,
    FileAccessLog,
    HttpGrpcAccessLog,
    OtelAccessLog,
    Service,
    TcpGrpcAccessLog,
)
from meshlib.controlplane.documents.telemetry import LogFilter
from meshlib.controlplane.protobuf import pack

BUILT_IN = "envoy"  # the provider that every mesh has
_STDOUT = "/dev/stdout"
_TEXT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% '
    '%BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" '
    '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% '
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
_JSON = {
    "start_time": "%START_TIME%",
    "route_name": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}
_PEERS = (
    "upstream_peer", "downstream_peer", "wasm.upstream_peer", "wasm.upstream_peer_id", "wasm.downstream_peer",
    "wasm.downstream_peer_id",
)  # fmt: skip


def of_provider(name: str, provider: ExtensionProvider | None, mesh: MeshConfig) -> Any | None:
    """Return the AccessLog of a provider, None for one that keeps none."""
    if provider is None:
        return of_mesh(_STDOUT, mesh) if name == BUILT_IN else None
    if provider.envoy_file_access_log is not None:
        written = provider.envoy_file_access_log
        if name == BUILT_IN and written.log_format is None and not written.omit_empty_values:
            return of_mesh(written.path, mesh)
        return _file(written)
    if provider.envoy_http_als is not None:
        return _http_grpc(provider.envoy_http_als)
    if provider.envoy_tcp_als is not None:
        return _tcp_grpc(provider.envoy_tcp_als)
    return _otel(provider.envoy_otel_als) if provider.envoy_otel_als is not None else None


def of_mesh(path: str, mesh: MeshConfig) -> Any:
    """Return the AccessLog that meshConfig describes: ``accessLogEncoding`` and ``accessLogFormat``."""
    log = file_pb2.FileAccessLog(path=path)
    if mesh.access_log_encoding == "TEXT":
        _text(log, mesh.access_log_format)
    else:
        _json(log, _parsed(mesh.access_log_format))
    return _packed("envoy.access_loggers.file", log)


def filtered(log: Any, written: LogFilter | None, *, listener: bool) -> Any:
    """Return an AccessLog with what it leaves out."""
    filters = []
    if listener:  # of connections that no filter chain takes; all else is logged further in
        flags = accesslog_pb2.ResponseFlagFilter(flags=["NR"])
        filters.append(accesslog_pb2.AccessLogFilter(response_flag_filter=flags))
    if written is not None:
        chosen = accesslog_pb2.AccessLogFilter()
        chosen.extension_filter.name = "envoy.access_loggers.extension_filters.cel"
        expression = cel_pb2.ExpressionFilter(expression=written.expression)
        chosen.extension_filter.typed_config.CopyFrom(pack(expression))
        filters.append(chosen)
    if len(filters) == 1:
        log.filter.CopyFrom(filters[0])
    elif filters:
        log.filter.and_filter.filters.extend(filters)
    return log


def _file(written: FileAccessLog) -> Any:
    log = file_pb2.FileAccessLog(path=written.path or _STDOUT)
    style = written.log_format
    if style is not None and style.text is None:
        _json(log, style.labels or {})
    else:
        _text(log, style.text if style and style.text else "")
    log.log_format.omit_empty_values = written.omit_empty_values
    return _packed("envoy.access_loggers.file", log)


def _text(log: Any, written: str) -> None:
    line = written or _TEXT
    log.log_format.text_format_source.inline_string = line if line.endswith("\n") else f"{line}\n"
    log.log_format.formatters.extend(_formatters(line))


def _json(log: Any, labels: Mapping[str, Any]) -> None:
    log.log_format.json_format.update(labels or _JSON)
    log.log_format.json_format_options.SetInParent()
    log.log_format.formatters.extend(_formatters(str(labels)))


def _parsed(written: str) -> Mapping[str, Any]:
    try:
        value = json.loads(written) if written else {}
    except ValueError:
        return {}  # as istiod: the default then
    return value if isinstance(value, dict) else {}


def _formatters(line: str) -> list[Any]:
    if "REQ_WITHOUT_QUERY" not in line:
        return []
    config = pack(req_without_query_pb2.ReqWithoutQuery())
    return [extension_pb2.TypedExtensionConfig(name="envoy.formatter.req_without_query", typed_config=config)]


def _otel(written: OtelAccessLog) -> Any:
    config = logs_service_pb2.OpenTelemetryAccessLogConfig(disable_builtin_labels=True)
    _common(config.common_config, written, written.log_name or "otel_envoy_accesslog", _PEERS)
    style = written.log_format
    config.body.string_value = style.text if style and style.text else _TEXT
    for key, value in sorted((style.labels or {}).items()) if style else ():
        config.attributes.values.add(key=key).value.string_value = str(value)
    return _packed("envoy.access_loggers.open_telemetry", config)


def _http_grpc(written: HttpGrpcAccessLog) -> Any:
    config = als_pb2.HttpGrpcAccessLogConfig(
        additional_request_headers_to_log=written.additional_request_headers_to_log,
        additional_response_headers_to_log=written.additional_response_headers_to_log,
        additional_response_trailers_to_log=written.additional_response_trailers_to_log,
    )
    kept = written.filter_state_objects_to_log or _PEERS[:2]
    _common(config.common_config, written, written.log_name or "http_envoy_accesslog", kept)
    return _packed("envoy.access_loggers.http_grpc", config)


def _tcp_grpc(written: TcpGrpcAccessLog) -> Any:
    config = als_pb2.TcpGrpcAccessLogConfig()
    kept = written.filter_state_objects_to_log or _PEERS[:2]
    _common(config.common_config, written, written.log_name or "tcp_envoy_accesslog", kept)
    return _packed("envoy.tcp_grpc_access_log", config)


def _common(common: Any, written: Service, name: str, kept: Iterable[str]) -> None:
    common.log_name = name
    trace_exporters.call(common.grpc_service, written)
    common.transport_api_version = config_source_pb2.ApiVersion.V3
    common.filter_state_objects_to_log.extend(kept)


def _packed(name: str, config: Any) -> Any:
    return accesslog_pb2.AccessLog(name=name, typed_config=pack(config))
