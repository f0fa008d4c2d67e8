"""Aggregate clusters: the priorities of several clusters, one after the other, balanced as one.

Envoy's ``envoy.clusters.aggregate``: each attempt first draws a priority over all members, by
their health, then an endpoint there by the member's own policy. Limits, outlier detection, TLS
and timeouts to connect are the member's; retries are limited by the aggregate. What is measured
on Envoy 1.40: a member that does not exist, has no endpoints or is an aggregate itself (this one,
even) adds nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate

from meshlib.clock import Randomness
from meshlib.model.metadata import Criteria
from meshlib.policy.balancing.priorities import distribute
from meshlib.policy.cluster_state import ClusterState, EndpointState


def pick(
    aggregate: ClusterState,
    clusters: Mapping[str, ClusterState],
    chance: Randomness,
    now: float,
    *,
    avoid: Callable[[EndpointState], bool] | None = None,
    tries: int = 1,
    key: int | None = None,
    subset: Criteria = (),
) -> EndpointState | None:
    """Return an endpoint of one of the members, None when none has one to offer.

    Args:
        aggregate: the aggregate cluster.
        clusters: where its members are looked up.
        chance: for the draw of a priority.
        now: clock seconds.
        avoid: see :meth:`ClusterState.pick`; endpoints are avoided within the priority drawn.
        tries: see there.
        key: see there.
        subset: see there.
    """
    aggregate.touched = True
    places: list[tuple[ClusterState, int]] = []
    found = []
    for name in aggregate.config.members:
        member = clusters.get(name)
        if member is None or member.config.members:
            continue
        member.touched = True  # one that is in reserve must not be given up as idle
        for index, availability in enumerate(member.availability_at(now)):
            if availability.hosts:
                places.append((member, index))
                found.append(availability)
    if not places:
        return None
    loads = list(accumulate(distribute(found, aggregate.config.panic_threshold)[0]))
    drawn = min(bisect_right(loads, chance.random() * loads[-1]), len(loads) - 1)
    member, index = places[drawn % len(places)]
    place = (index, drawn >= len(places))
    return member.pick(now, avoid, tries, key, subset=subset, place=place)
