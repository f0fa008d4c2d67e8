"""Cluster types and active health checks."""

from __future__ import annotations

from collections.abc import Mapping

from meshlib.xds.fields.table import Fields, alike, fields

_CLUSTER = "envoy.config.cluster.v3.Cluster."
_HEALTH_CHECK = "envoy.config.core.v3.HealthCheck"
_CLUSTERS = "envoy.extensions.clusters."

RESOLVER = "names are looked up by the process's resolver"
_LOGGED = "what becomes of checks is logged by logger meshlib.health"

FIELDS: Mapping[str, Fields] = {
    _CLUSTER + "CustomClusterType": fields("name typed_config"),
    _CLUSTER + "RefreshRate": fields("base_interval max_interval"),
    _CLUSTER + "OriginalDstLbConfig": fields(
        "use_http_header http_header_name upstream_port_override",
        unsupported={"metadata_key": "no filter here sets dynamic metadata"},
    ),
    "envoy.type.metadata.v3.MetadataKey": fields("key path"),
    "envoy.type.metadata.v3.MetadataKey.PathSegment": fields("key"),
    _CLUSTERS + "aggregate.v3.ClusterConfig": fields("clusters"),
    _CLUSTERS + "dns.v3.DnsCluster": fields(
        "dns_refresh_rate dns_failure_refresh_rate dns_jitter dns_lookup_family all_addresses_in_single_endpoint "
        "respect_dns_ttl",
        approximated={"typed_dns_resolver_config": RESOLVER},
    ),
    _CLUSTERS + "dns.v3.DnsCluster.RefreshRate": fields("base_interval max_interval"),
    _HEALTH_CHECK: fields(
        "timeout interval initial_jitter interval_jitter interval_jitter_percent unhealthy_threshold "
        "healthy_threshold reuse_connection http_health_check tcp_health_check grpc_health_check "
        "custom_health_check no_traffic_interval no_traffic_healthy_interval unhealthy_interval "
        "unhealthy_edge_interval healthy_edge_interval always_log_health_check_failures "
        "always_log_health_check_success transport_socket_match_criteria",
        {
            **alike("event_log_path event_logger event_service", _LOGGED),
            "alt_port": "Envoy does not read it either: the endpoint's health_check_config counts",
        },
        unsupported={"tls_options": "TLS offers what the cluster's socket says"},
    ),
    _HEALTH_CHECK + ".HttpHealthCheck": fields(
        "host path send receive response_buffer_size request_headers_to_add request_headers_to_remove "
        "expected_statuses retriable_statuses codec_client_type service_name_matcher method"
    ),
    _HEALTH_CHECK + ".TcpHealthCheck": fields(
        "send receive", unsupported={"proxy_protocol_config": "no PROXY header is sent"}
    ),
    _HEALTH_CHECK + ".GrpcHealthCheck": fields("service_name authority initial_metadata"),
    _HEALTH_CHECK + ".CustomHealthCheck": fields("name typed_config"),
    _HEALTH_CHECK + ".Payload": fields("text binary"),
}
