"""The type URLs of the resource types, and what the protocol says of each."""

from __future__ import annotations

PREFIX = "type.googleapis.com/"
LISTENER = PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = PREFIX + "envoy.config.route.v3.RouteConfiguration"
CLUSTER = PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
NAME_TABLE = PREFIX + "istio.networking.nds.v1.NameTable"

# The name of the one resource of Istio's NameTable type, which names itself nowhere. It is to be
# asked only of Istio, by sidecar nodes.
SINGLETON = "nds"

# The order in which the requests of a new stream go out: what is named before what names it.
TYPE_URLS = (CLUSTER, ENDPOINT, LISTENER, ROUTE)

# Everything that can be taken.
ALL_TYPE_URLS = (*TYPE_URLS, SECRET, NAME_TABLE)

SHORT = {LISTENER: "LDS", ROUTE: "RDS", CLUSTER: "CDS", ENDPOINT: "EDS", SECRET: "SDS", NAME_TABLE: "NDS"}

# A state-of-the-world response of these types holds everything there is: absence is deletion.
# It never is for RDS, EDS and SDS, whose responses may be partial (gRFC A53).
FULL_STATE = frozenset({LISTENER, CLUSTER, NAME_TABLE})

# The name that stands for "all there are".
WILDCARD = "*"


def short(type_url: str) -> str:
    """Return what people call the type: LDS, RDS, CDS, EDS, SDS, NDS, else the URL itself."""
    return SHORT.get(type_url, type_url)
