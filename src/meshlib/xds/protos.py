"""The one door to the messages of xds-protos.

Every other module of this package takes its messages from here, so that a broken installation
is told of in one place, with the command that repairs it.

xds-protos carries old copies of 22 files that belong to opentelemetry-proto and overwrites them
when it is installed after it, as a single ``pip install`` of both always does. Our own messages
work in either order; the OTLP exporter then does not import (:func:`otlp_conflict`). The other
way round, opentelemetry-proto's newer files serve both.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from importlib import metadata
from pathlib import Path

from meshlib.errors import ConfigError

OTLP_REPAIR = "pip install --force-reinstall --no-deps opentelemetry-proto"
XDS_REPAIR = "pip install --force-reinstall --no-deps xds-protos"

try:
    from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
    from envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2, health_check_pb2
    from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
    from envoy.config.grpc_credential.v3 import file_based_metadata_pb2
    from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
    from envoy.config.route.v3 import route_components_pb2, route_pb2
    from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_cluster_pb2
    from envoy.extensions.clusters.dns.v3 import dns_cluster_pb2
    from envoy.extensions.filters.common.fault.v3 import fault_pb2 as fault_common_pb2
    from envoy.extensions.filters.http.buffer.v3 import buffer_pb2
    from envoy.extensions.filters.http.fault.v3 import fault_pb2
    from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
    from envoy.extensions.filters.http.header_to_metadata.v3 import header_to_metadata_pb2
    from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
    from envoy.extensions.filters.http.router.v3 import router_pb2
    from envoy.extensions.filters.http.stateful_session.v3 import stateful_session_pb2
    from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
    from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
    from envoy.extensions.http.stateful_session.cookie.v3 import cookie_pb2 as session_cookie_pb2
    from envoy.extensions.http.stateful_session.header.v3 import header_pb2 as session_header_pb2
    from envoy.extensions.internal_redirect.allow_listed_routes.v3 import (
        allow_listed_routes_config_pb2 as allow_listed_routes_pb2,
    )
    from envoy.extensions.internal_redirect.previous_routes.v3 import previous_routes_config_pb2 as previous_routes_pb2
    from envoy.extensions.internal_redirect.safe_cross_scheme.v3 import (
        safe_cross_scheme_config_pb2 as safe_cross_scheme_pb2,
    )
    from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
        client_side_weighted_round_robin_pb2,
    )
    from envoy.extensions.load_balancing_policies.cluster_provided.v3 import cluster_provided_pb2
    from envoy.extensions.load_balancing_policies.least_request.v3 import least_request_pb2
    from envoy.extensions.load_balancing_policies.maglev.v3 import maglev_pb2
    from envoy.extensions.load_balancing_policies.override_host.v3 import override_host_pb2
    from envoy.extensions.load_balancing_policies.pick_first.v3 import pick_first_pb2
    from envoy.extensions.load_balancing_policies.random.v3 import random_pb2
    from envoy.extensions.load_balancing_policies.ring_hash.v3 import ring_hash_pb2
    from envoy.extensions.load_balancing_policies.round_robin.v3 import round_robin_pb2
    from envoy.extensions.load_balancing_policies.subset.v3 import subset_pb2
    from envoy.extensions.load_balancing_policies.wrr_locality.v3 import wrr_locality_pb2
    from envoy.extensions.matching.common_inputs.environment_variable.v3 import input_pb2 as environment_input_pb2
    from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
    from envoy.extensions.matching.input_matchers.consistent_hashing.v3 import consistent_hashing_pb2
    from envoy.extensions.matching.input_matchers.ip.v3 import ip_pb2 as ip_matcher_pb2
    from envoy.extensions.matching.input_matchers.runtime_fraction.v3 import runtime_fraction_pb2
    from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
    from envoy.extensions.path.rewrite.uri_template.v3 import uri_template_rewrite_pb2
    from envoy.extensions.retry.host.omit_host_metadata.v3 import omit_host_metadata_config_pb2
    from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2
    from envoy.extensions.transport_sockets.tls.v3 import common_pb2 as tls_common_pb2
    from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
    from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
    from envoy.service.discovery.v3 import discovery_pb2
    from envoy.type.matcher.v3 import http_inputs_pb2, string_pb2
    from envoy.type.v3 import percent_pb2
    from xds.type.matcher.v3 import domain_pb2 as xds_domain_pb2
    from xds.type.matcher.v3 import ip_pb2 as xds_ip_pb2
except Exception as error:  # ImportError, or what protobuf raises for descriptors or versions that conflict
    raise ConfigError(
        f"the xDS messages cannot be imported: {type(error).__name__}: {error}\n"
        f"Two packages own the same files, or their versions do not fit. To repair it:\n"
        f"  {XDS_REPAIR}\n"
        f"and, where OpenTelemetry is exported over OTLP, after that:\n"
        f"  {OTLP_REPAIR}"
    ) from error

__all__ = [
    "OTLP_REPAIR",
    "XDS_REPAIR",
    "address_pb2",
    "aggregate_cluster_pb2",
    "allow_listed_routes_pb2",
    "base_pb2",
    "buffer_pb2",
    "circuit_breaker_pb2",
    "client_side_weighted_round_robin_pb2",
    "cluster_pb2",
    "cluster_provided_pb2",
    "config_source_pb2",
    "consistent_hashing_pb2",
    "discovery_pb2",
    "dns_cluster_pb2",
    "endpoint_components_pb2",
    "endpoint_pb2",
    "environment_input_pb2",
    "fault_common_pb2",
    "fault_pb2",
    "file_based_metadata_pb2",
    "header_mutation_pb2",
    "header_to_metadata_pb2",
    "health_check_pb2",
    "http_connection_manager_pb2",
    "http_inputs_pb2",
    "http_protocol_options_pb2",
    "ip_matcher_pb2",
    "least_request_pb2",
    "listener_components_pb2",
    "listener_pb2",
    "local_rate_limit_pb2",
    "maglev_pb2",
    "network_inputs_pb2",
    "omit_host_metadata_config_pb2",
    "otlp_conflict",
    "outlier_detection_pb2",
    "override_host_pb2",
    "percent_pb2",
    "pick_first_pb2",
    "previous_priorities_config_pb2",
    "previous_routes_pb2",
    "random_pb2",
    "ring_hash_pb2",
    "round_robin_pb2",
    "route_components_pb2",
    "route_pb2",
    "router_pb2",
    "runtime_fraction_pb2",
    "safe_cross_scheme_pb2",
    "secret_pb2",
    "session_cookie_pb2",
    "session_header_pb2",
    "stateful_session_pb2",
    "string_pb2",
    "subset_pb2",
    "tcp_proxy_pb2",
    "tls_common_pb2",
    "tls_pb2",
    "uri_template_match_pb2",
    "uri_template_rewrite_pb2",
    "wrr_locality_pb2",
    "xds_domain_pb2",
    "xds_ip_pb2",
]


def otlp_conflict() -> str:
    """Tell whether files of opentelemetry-proto were overwritten, and how to repair that.

    Reads files only and imports none of them, so that it can be asked before the exporter is
    imported. Empty when all is well or opentelemetry-proto is not installed.
    """
    try:
        installed = metadata.distribution("opentelemetry-proto")
    except metadata.PackageNotFoundError:
        return ""
    overwritten = [
        str(path)
        for path in installed.files or ()
        if path.name.endswith("_pb2.py")
        and path.hash is not None
        and not _is(Path(str(path.locate())), path.hash.mode, path.hash.value)
    ]
    if not overwritten:
        return ""
    return (
        f"{len(overwritten)} files of opentelemetry-proto were overwritten by another package (xds-protos carries "
        f"old copies), so OTLP export cannot work: {overwritten[0]} and others. To repair it: {OTLP_REPAIR}"
    )


def _is(path: Path, algorithm: str, digest: str) -> bool:
    """Tell whether a file still has the digest its package recorded (PEP 376: urlsafe, unpadded)."""
    try:
        found = hashlib.new(algorithm, path.read_bytes()).digest()
    except OSError:
        return False
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode() == digest


if conflict := otlp_conflict():
    logging.getLogger("meshlib.xds").warning("otlp=unusable %s", conflict)
