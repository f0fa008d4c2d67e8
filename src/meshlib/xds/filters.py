"""Filters that need nothing done for a client in the process, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

# HTTP filters that need nothing done here, by the type of their configuration or, for types of
# Istio's own that no package carries, by name.
IRRELEVANT_FILTERS: Mapping[str, str] = {
    "envoy.extensions.filters.http.cors.v3.Cors": "about browsers; calls from the process are none",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig": "Istio's metrics are made by meshlib itself",
    "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb": "about browsers; calls from the process are none",
    "istio.alpn": "sets ALPN of Istio's mutual TLS; meshlib's TLS sets its own",
    "istio.metadata_exchange": "tells peers apart for metrics; the endpoint's metadata does that here",
    "istio.stats": "Istio's metrics are made by meshlib itself",
}

# The same for network filters, and for filters of clusters.
IRRELEVANT_NETWORK_FILTERS: Mapping[str, str] = {
    "istio.metadata_exchange": IRRELEVANT_FILTERS["istio.metadata_exchange"],
    "istio.stats": IRRELEVANT_FILTERS["istio.stats"],
}

# The same for entries of typed_per_filter_config other than the fault filter's.
IRRELEVANT_FILTER_CONFIGS: Mapping[str, str] = {
    "envoy.extensions.filters.http.cors.v3.CorsPolicy": "about browsers; calls from the process are none",
}
