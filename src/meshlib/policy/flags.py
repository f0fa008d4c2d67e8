"""Envoy's response flags: why a call ended as it did.

Flags are plain ints while a call runs (``|`` on an IntFlag costs 0.5 µs, on an int 0.02) and
get their names when read.
"""

from __future__ import annotations

NO_HEALTHY_UPSTREAM = 1 << 0
UPSTREAM_CONNECTION_FAILURE = 1 << 1
UPSTREAM_OVERFLOW = 1 << 2
NO_ROUTE_FOUND = 1 << 3
UPSTREAM_RETRY_LIMIT_EXCEEDED = 1 << 4
UPSTREAM_REQUEST_TIMEOUT = 1 << 5
UPSTREAM_CONNECTION_TERMINATION = 1 << 6
UPSTREAM_REMOTE_RESET = 1 << 7
LOCAL_RESET = 1 << 8
DELAY_INJECTED = 1 << 9
FAULT_INJECTED = 1 << 10
RATE_LIMITED = 1 << 11
NO_CLUSTER_FOUND = 1 << 12
UPSTREAM_PROTOCOL_ERROR = 1 << 13
DOWNSTREAM_CONNECTION_TERMINATION = 1 << 14
DURATION_TIMEOUT = 1 << 15
DROP_OVERLOAD = 1 << 16
STREAM_IDLE_TIMEOUT = 1 << 17
UPSTREAM_MAX_STREAM_DURATION_REACHED = 1 << 18

# Envoy's short names. Envoy prints flags in the order in which a call gets them, which is this one
# (measured: DI,FI and URX,UF and URX,UT).
SHORT_NAMES: tuple[tuple[int, str], ...] = (
    (DELAY_INJECTED, "DI"),
    (FAULT_INJECTED, "FI"),
    (RATE_LIMITED, "RL"),
    (NO_ROUTE_FOUND, "NR"),
    (NO_CLUSTER_FOUND, "NC"),
    (UPSTREAM_RETRY_LIMIT_EXCEEDED, "URX"),
    (NO_HEALTHY_UPSTREAM, "UH"),
    (UPSTREAM_OVERFLOW, "UO"),
    (UPSTREAM_CONNECTION_FAILURE, "UF"),
    (UPSTREAM_CONNECTION_TERMINATION, "UC"),
    (UPSTREAM_REMOTE_RESET, "UR"),
    (UPSTREAM_PROTOCOL_ERROR, "UPE"),
    (LOCAL_RESET, "LR"),
    (UPSTREAM_REQUEST_TIMEOUT, "UT"),
    (UPSTREAM_MAX_STREAM_DURATION_REACHED, "UMSDR"),
    (STREAM_IDLE_TIMEOUT, "SI"),
    (DURATION_TIMEOUT, "DT"),
    (DROP_OVERLOAD, "UDO"),
    (DOWNSTREAM_CONNECTION_TERMINATION, "DC"),
)


_LONG_NAMES = {
    "DI": "DelayInjected",
    "FI": "FaultInjected",
    "RL": "RateLimited",
    "NR": "NoRouteFound",
    "NC": "NoClusterFound",
    "URX": "UpstreamRetryLimitExceeded",
    "UH": "NoHealthyUpstream",
    "UO": "UpstreamOverflow",
    "UF": "UpstreamConnectionFailure",
    "UC": "UpstreamConnectionTermination",
    "UR": "UpstreamRemoteReset",
    "LR": "LocalReset",
    "UT": "UpstreamRequestTimeout",
    "UPE": "UpstreamProtocolError",
    "DT": "DurationTimeout",
    "UDO": "UnconditionalDropOverload",
    "DC": "DownstreamConnectionTermination",
}


def long_names(flags: int) -> str:
    """Return Envoy's long names joined by commas, or ``-`` for none."""
    return ",".join(_LONG_NAMES.get(name, name) for name in names(flags).split(","))


def names(flags: int) -> str:
    """Return the short names joined by commas, or ``-`` for none, as Envoy's access log does."""
    if not flags:
        return "-"
    return ",".join(name for bit, name in SHORT_NAMES if flags & bit)
