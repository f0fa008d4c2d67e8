"""RING_HASH: ketama's ring, entry for entry as Envoy fills it (semantics 4.12)."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left

import xxhash

from meshlib.model.balancing import ConsistentHashing, HashFunction
from meshlib.policy.balancing.hashing import murmur2


class Ring:
    """Hashes around a ring; a key belongs to the next one.

    The lightest host gets a whole number of entries so that there are ``minimum_ring_size`` of
    them together, at most ``maximum_ring_size``; a host's entries are the hashes of ``key_0``,
    ``key_1`` and so on. Building 1024 entries takes about a millisecond, and time grows with them.
    """

    __slots__ = ("_hashes", "_owners")

    def __init__(self, hosts: tuple[tuple[str, float], ...], config: ConsistentHashing) -> None:
        lightest = min(weight for _, weight in hosts)
        scale = min(math.ceil(lightest * config.minimum_ring_size) / lightest, float(config.maximum_ring_size))
        digest = murmur2 if config.hash_function is HashFunction.MURMUR_HASH_2 else xxhash.xxh64_intdigest
        entries: list[tuple[int, int]] = []
        target = 0.0
        for owner, (key, weight) in enumerate(hosts):
            target += scale * weight  # summed, as Envoy does: shares need not be whole numbers
            prefix, i = f"{key}_".encode(), 0
            while len(entries) < target:
                entries.append((digest(prefix + b"%d" % i), owner))
                i += 1
        entries.sort()
        self._hashes = array("Q", [found for found, _ in entries])
        self._owners = array("I", [owner for _, owner in entries])

    def find(self, key: int, turn: int) -> int:
        """Return the index of the host; each turn goes one entry further."""
        return self._owners[(bisect_left(self._hashes, key) + turn) % len(self._owners)]
