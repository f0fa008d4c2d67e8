"""The type URLs of the four resource types, and what the protocol says of each."""

from __future__ import annotations

PREFIX = "type.googleapis.com/"
LISTENER = PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = PREFIX + "envoy.config.route.v3.RouteConfiguration"
CLUSTER = PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"

# The order in which the requests of a new stream go out: what is named before what names it.
TYPE_URLS = (CLUSTER, ENDPOINT, LISTENER, ROUTE)

ALL_TYPE_URLS = TYPE_URLS

SHORT = {LISTENER: "LDS", ROUTE: "RDS", CLUSTER: "CDS", ENDPOINT: "EDS"}

# A state-of-the-world response of these types holds everything there is: absence is deletion.
# It never is for RDS and EDS, whose responses may be partial (gRFC A53).
FULL_STATE = frozenset({LISTENER, CLUSTER})

# The name that stands for "all there are".
WILDCARD = "*"


def short(type_url: str) -> str:
    """Return what people call the type: LDS, RDS, CDS, EDS, else the URL itself."""
    return SHORT.get(type_url, type_url)
