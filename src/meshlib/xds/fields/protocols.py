"""Protocol options: how a cluster speaks HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import PROXY, Fields, alike, fields

_CORE = "envoy.config.core.v3."
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

_BY_PROTOCOL = "http_protocol_options http2_protocol_options"
_HTTP3 = {"http3_protocol_options": "HTTP/3 is not spoken: HTTP/1.1 is"}
_FRAMES = "the sizes and limits of the HTTP/2 library count"
_STRICT = "a response that breaks the protocol ends the connection"

FIELDS: Mapping[str, Fields] = {
    _OPTIONS: fields(
        "explicit_http_config use_downstream_protocol_config common_http_protocol_options "
        "upstream_http_protocol_options",
        unsupported={
            "http_filters": "filters of a cluster are not run",
            "header_validation_config": "headers are checked by the HTTP library",
            "outlier_detection": "which responses count as errors is Envoy's default",
            "request_mirror_policies": "requests are not mirrored",
            "hash_policy": "the route's hash_policy counts",
            "retry_policy": "the route's retry_policy counts",
        },
        approximated={"auto_config": "HTTP/1.1 is spoken"},
    ),
    f"{_OPTIONS}.ExplicitHttpConfig": fields(_BY_PROTOCOL, approximated=_HTTP3),
    f"{_OPTIONS}.UseDownstreamHttpConfig": fields(_BY_PROTOCOL, approximated=_HTTP3),
    _CORE + "UpstreamHttpProtocolOptions": fields("auto_sni auto_san_validation override_auto_sni_header"),
    _CORE + "HttpProtocolOptions": fields(
        "idle_timeout max_requests_per_connection max_connection_duration max_stream_duration",
        {"headers_with_underscores_action": PROXY},
        unsupported={
            **alike("max_headers_count max_response_headers_kb", "the limits of the HTTP library count"),
        },
    ),
    _CORE + "Http1ProtocolOptions": fields(
        "",
        alike(
            "accept_http_10 default_host_for_http_10 enable_trailers allow_absolute_url allow_chunked_length "
            "send_fully_qualified_url ignore_http_11_upgrade",
            PROXY,
        ),
        unsupported={
            "header_key_format": "header names are sent as the application writes them",
            **alike("override_stream_error_on_invalid_http_message allow_custom_methods use_balsa_parser", _STRICT),
        },
    ),
    _CORE + "Http2ProtocolOptions": fields(
        "",
        alike("allow_connect allow_metadata max_metadata_size use_oghttp2_codec", PROXY),
        unsupported={
            **alike(
                "hpack_table_size initial_stream_window_size initial_connection_window_size max_outbound_frames "
                "max_outbound_control_frames max_consecutive_inbound_frames_with_empty_payload "
                "max_inbound_priority_frames_per_stream max_inbound_window_update_frames_per_data_frame_sent "
                "custom_settings_parameters",
                _FRAMES,
            ),
            "max_concurrent_streams": "a connection carries as many streams as the peer allows",
            "connection_keepalive": "no pings are sent",
            **alike("stream_error_on_invalid_http_messaging override_stream_error_on_invalid_http_message", _STRICT),
        },
    ),
}
