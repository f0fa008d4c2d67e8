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

# Envoy's short names, in the order Envoy prints them (stream_info/utility.h).
SHORT_NAMES: tuple[tuple[int, str], ...] = (
    (NO_HEALTHY_UPSTREAM, "UH"),
    (UPSTREAM_CONNECTION_FAILURE, "UF"),
    (UPSTREAM_OVERFLOW, "UO"),
    (NO_ROUTE_FOUND, "NR"),
    (UPSTREAM_RETRY_LIMIT_EXCEEDED, "URX"),
    (UPSTREAM_REQUEST_TIMEOUT, "UT"),
    (LOCAL_RESET, "LR"),
    (UPSTREAM_REMOTE_RESET, "UR"),
    (UPSTREAM_CONNECTION_TERMINATION, "UC"),
    (DELAY_INJECTED, "DI"),
    (FAULT_INJECTED, "FI"),
    (RATE_LIMITED, "RL"),
    (DOWNSTREAM_CONNECTION_TERMINATION, "DC"),
    (DURATION_TIMEOUT, "DT"),
    (UPSTREAM_PROTOCOL_ERROR, "UPE"),
    (NO_CLUSTER_FOUND, "NC"),
)


def names(flags: int) -> str:
    """Return the short names joined by commas, or ``-`` for none, as Envoy's access log does."""
    if not flags:
        return "-"
    return ",".join(name for bit, name in SHORT_NAMES if flags & bit)
