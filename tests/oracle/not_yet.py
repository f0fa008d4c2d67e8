"""What meshlib does not do as Envoy does, yet or on purpose, by file or by observation.

A line here must differ: once it agrees with Envoy, its test fails until the line is deleted.
A reason made by :func:`chance` stands for a random draw, which agrees now and then.
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


_UNSENDABLE = "httpx normalises paths itself: it cannot be made to send this one"

NOT_YET: dict[str, Reasons] = {
    "resilience/hash-policies": {"source-ip": "a call from the process has no source address to hash"},
    "routing/path-merge-only": "merge_slashes of the HttpConnectionManager",
    "routing/path-normalize": {
        **every(_UNSENDABLE, "dotdot", "dotdot-end", "dot", "root-escape", "query-untouched", "tail-dot"),
        **every("normalize_path of the HttpConnectionManager", "pct-dot", "pct-unreserved", "backslash"),
    },
    "routing/runtime-fraction": every("there is no runtime to override a fraction", "rt0", "rt100"),
    "routing/sanitise-internal": "x-envoy-* and x-forwarded-* headers as a proxy rewrites them",
    "routing/suppress-envoy-headers": "suppress_envoy_headers of the router",
    "routing/validate-vhosts": {"empty-name": "istiod sends gRPC clients virtual hosts without a name: they are taken"},
    "routing/vhost-header": "vhost_header",
    "routing/vhost-precedence": {"empty-host": "httpx always sends a Host header"},
    "routing/weighted-extremes": every(
        chance("WeightedCluster.header_name: the draw is by chance here"),
        *("rnd49", "rnd50", "rnd99", "rnd175", "w3-10", "w3-30", "w3-59", "w3-big"),
    ),
}
