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


CANNOT: dict[str, Reasons] = {
    "resilience/hash-policies": {"source-ip": "a call from the process has no source address to hash"},
    "routing/sanitise-internal": "a client puts no x-forwarded-for on its calls: the connection is its own",
    "routing/suppress-envoy-headers": {"r": "the server and connection headers of a response are the endpoint's"},
    "routing/validate-vhosts": {"empty-name": "istiod sends gRPC clients virtual hosts without a name: they are taken"},
}

NOT_YET: dict[str, Reasons] = {}
