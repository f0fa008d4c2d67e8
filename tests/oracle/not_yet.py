"""What meshlib does not do as Envoy does, by file or by observation: what it cannot, and what it does not yet.

A line here must differ: once it agrees with Envoy, its test fails until the line is deleted.
A reason made by :func:`chance` stands for a random draw, which agrees now and then.
``docs/envoy-parity.md`` says all of :data:`CANNOT`; ``make conformance`` excuses nothing.
"""

from __future__ import annotations

Reasons = str | dict[str, str]


class Chance(str):
    """A reason that excuses a difference without demanding one."""

    __slots__ = ()


def chance(reason: str) -> Chance:
    """The outcome is drawn at random, so that it may agree."""
    return Chance(reason)


def every(reason: str, *observations: str) -> dict[str, str]:
    """One reason for several observations."""
    return dict.fromkeys(observations, reason)


_RATE_LIMIT = "the local_ratelimit filter is not run"
_BUFFERED = "streamed bodies are not copied for a retry: the first outcome is returned, retry_skipped says so"

CANNOT: dict[str, Reasons] = {
    "resilience/hash-policies": {"source-ip": "a call from the process has no source address to hash"},
    "routing/sanitise-internal": "a client puts no x-forwarded-for on its calls: the connection is its own",
    "routing/suppress-envoy-headers": {"r": "the server and connection headers of a response are the endpoint's"},
    "routing/validate-vhosts": {"empty-name": "istiod sends gRPC clients virtual hosts without a name: they are taken"},
}

NOT_YET: dict[str, Reasons] = {
    "resilience/hedge-per-try": "hedging (hedge_on_per_try_timeout)",
    "resilience/hedge-two-retries": "hedging (hedge_on_per_try_timeout)",
    "resilience/local-ratelimit-descriptors": every(_RATE_LIMIT, *("vip1", "vip2", "vip3", "o0", "o1", "n0", "n1")),
    "resilience/local-ratelimit-descriptors-own": every(_RATE_LIMIT, "vip3", "o1", "n0", "n1"),
    "resilience/local-ratelimit-partial-fill": every(_RATE_LIMIT, "a3", "b1", "c3"),
    "resilience/previous-priorities": "retry_priority previous_priorities",
    "resilience/retry-body": {
        **every(_BUFFERED, "chunked", "early-503-before-body", "reset-before-body"),
        "over-by-one": "a body in memory is sent again whatever its size: request_body_buffer_limit is no limit here",
    },
    "resilience/stateful-session-cookie": every(chance("the stateful_session filter is not run"), "strict-ok"),
    "resilience/timeout-grpc": every("the grpc-timeout header over HTTP", "honoured", "capped", "old-honoured"),
    "resilience/x-envoy-timeout-headers": every("max_stream_duration", "stream-duration"),
    "routing/matcher-tree": "VirtualHost.matcher",
}
