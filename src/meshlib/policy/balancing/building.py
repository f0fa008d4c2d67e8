"""Makes the balancer of a cluster out of its configuration and its endpoints as they are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshlib.model.balancing import LbPolicy
from meshlib.policy.balancing.context import Context, Memory
from meshlib.policy.balancing.hashing import Builder, HashBalancer
from meshlib.policy.balancing.hosts import HostSet
from meshlib.policy.balancing.maglev import Maglev
from meshlib.policy.balancing.priorities import load_table
from meshlib.policy.balancing.ring_hash import Ring
from meshlib.policy.balancing.sources import SourceBalancer
from meshlib.policy.balancing.subsets import SubsetBalancer

ClusterBalancer = SourceBalancer | HashBalancer | SubsetBalancer

_TABLES: Mapping[LbPolicy, Builder] = {LbPolicy.RING_HASH: Ring, LbPolicy.MAGLEV: Maglev}


def balancer(context: Context, sets: Sequence[HostSet], memory: Memory) -> ClusterBalancer:
    """Return the balancer over the endpoints of each priority."""
    subsets = context.config.subsets
    if subsets is None:
        return _plain(context, sets, memory)

    def make(part: Sequence[HostSet], own: Memory) -> SourceBalancer | HashBalancer:
        return _plain(context, part, own)

    return SubsetBalancer(subsets, sets, load_table(sets, context.panic_threshold), make, memory)


def _plain(context: Context, sets: Sequence[HostSet], memory: Memory) -> SourceBalancer | HashBalancer:
    table = _TABLES.get(context.config.policy)
    return SourceBalancer(context, sets, memory) if table is None else HashBalancer(context, sets, table)
