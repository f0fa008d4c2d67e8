"""MAGLEV: the lookup table of Google's load balancer, slot for slot as Envoy fills it."""

from __future__ import annotations

from array import array

import xxhash

from meshlib.model.balancing import ConsistentHashing


class Maglev:
    """A table of ``table_size`` slots, a prime; a key belongs to the slot of its remainder.

    Hosts take turns in the order of their keys, each claiming the next free slot of its own
    permutation; a host's weight over the heaviest one's says in how many turns it takes part.
    """

    __slots__ = ("_slots",)

    def __init__(self, hosts: tuple[tuple[str, float], ...], config: ConsistentHashing) -> None:
        size = config.table_size
        heaviest = max(weight for _, weight in hosts)
        order = sorted(range(len(hosts)), key=lambda index: hosts[index][0])
        keys = [key.encode() for key, _ in hosts]
        positions = [xxhash.xxh64_intdigest(key) % size for key in keys]
        skips = [xxhash.xxh64_intdigest(key, 1) % (size - 1) + 1 for key in keys]
        targets = [0.0] * len(hosts)
        slots, free, turn = [-1] * size, size, 0
        while free:
            turn += 1
            for host in order:
                if turn * hosts[host][1] < targets[host]:
                    continue
                targets[host] += heaviest
                position, skip = positions[host], skips[host]
                while slots[position] >= 0:
                    position = (position + skip) % size
                slots[position] = host
                positions[host] = (position + skip) % size
                free -= 1
                if not free:
                    break
        self._slots = array("I", slots)

    def find(self, key: int, turn: int) -> int:
        """Return the index of the host; a turn beyond the first changes most bits of the key."""
        if turn:
            key ^= 2**64 - turn
        return self._slots[key % len(self._slots)]
