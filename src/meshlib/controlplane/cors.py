"""CorsPolicy to Envoy's, as istiod writes it."""

from __future__ import annotations

from typing import Any

from envoy.extensions.filters.http.cors.v3 import cors_pb2

from meshlib.controlplane.documents.cors import CorsPolicy
from meshlib.controlplane.matching import string_matcher

FILTER = "envoy.filters.http.cors"


def policy(written: CorsPolicy) -> Any:
    """Return the filter's configuration for one route."""
    message = cors_pb2.CorsPolicy(
        allow_methods=",".join(written.allow_methods),
        allow_headers=",".join(written.allow_headers),
        expose_headers=",".join(written.expose_headers),
    )
    message.filter_enabled.default_value.numerator = 100
    for origin in written.allow_origins:
        message.allow_origin_string_match.append(string_matcher(origin))
    for name in () if written.allow_origins else written.allow_origin:
        message.allow_origin_string_match.add(exact=name)
    if written.max_age is not None:
        message.max_age = str(int(written.max_age))
    if written.allow_credentials is not None:
        message.allow_credentials.value = written.allow_credentials
    message.forward_not_matching_preflights.value = written.unmatched_preflights != "IGNORE"
    return message
