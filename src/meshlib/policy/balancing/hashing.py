"""Hashes as Envoy computes them, so that a key finds the same host here as behind a sidecar."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Protocol

import xxhash

from meshlib.clock import Randomness
from meshlib.model.cluster import ConsistentHashing
from meshlib.model.endpoint import Endpoint
from meshlib.model.request import RequestView
from meshlib.model.traffic import HashOn, HashPolicy

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState

_MASK32 = 2**32 - 1
_MASK64 = 2**64 - 1

# ---------------------------------------------------------------- the hash of a request


def request_key(policies: Sequence[HashPolicy], view: RequestView) -> int | None:
    """Return the hash of a request, None when no policy finds anything in it.

    ``RouteAction.hash_policy``: hashes are combined by ``rotl(hash, 1) ^ next`` until a policy
    that is ``terminal`` is met with a hash at hand.
    """
    key: int | None = None
    for policy in policies:
        found = _evaluate(policy, view)
        if found is not None:
            key = found if key is None else ((key << 1 & _MASK64) | key >> 63) ^ found
        if policy.terminal and key is not None:
            break
    return key


def _evaluate(policy: HashPolicy, view: RequestView) -> int | None:
    if policy.on is HashOn.HEADER:
        values = sorted(policy.rewritten(value) for value in view.values(policy.name))
    elif policy.on is HashOn.COOKIE:
        values = [value for value in (view.cookie(policy.name),) if value]
    elif policy.on is HashOn.QUERY_PARAMETER:
        values = [value for name, value in _parameters(view) if name == policy.name][:1]
    else:
        values = []
    if not values:
        return None
    key = 0
    for value in values:  # Envoy chains repeated headers by the seed
        key = xxhash.xxh64_intdigest(value.encode("latin-1", "replace"), key)
    return key


def _parameters(view: RequestView) -> list[tuple[str, str]]:
    """Return the parameters of the query as they are sent: Envoy does not decode them to hash."""
    parts = (part.partition("=") for part in view.query.partition("#")[0].split("&"))
    return [(name, value) for name, _, value in parts]


# ---------------------------------------------------------------- the hash of an endpoint


def endpoint_key(endpoint: Endpoint, config: ConsistentHashing) -> str:
    """Return what is hashed of an endpoint: metadata ``envoy.lb`` ``hash_key``, else name or address."""
    own = endpoint.metadata.get("envoy.lb", {}).get("hash_key")
    if isinstance(own, str) and own:
        return own
    return (endpoint.hostname or endpoint.address) if config.use_hostname else str(endpoint)


def murmur2(data: bytes) -> int:
    """Return MurmurHash2 of 64 bits, as ``std::hash<std::string>`` of GNU's C++ library has it."""
    multiplier = 0xC6A4A7935BD1E995
    key = 0xC70F6907 ^ (len(data) * multiplier & _MASK64)
    whole = len(data) & ~7
    for i in range(0, whole, 8):
        block = int.from_bytes(data[i : i + 8], "little") * multiplier & _MASK64
        key = (key ^ ((block ^ block >> 47) * multiplier & _MASK64)) * multiplier & _MASK64
    if whole < len(data):
        key = (key ^ int.from_bytes(data[whole:], "little")) * multiplier & _MASK64
    key = (key ^ key >> 47) * multiplier & _MASK64
    return key ^ key >> 47


# ---------------------------------------------------------------- from one to the other


class Table(Protocol):
    """A ring or a Maglev table: where on it a key falls."""

    def find(self, key: int, turn: int) -> int:
        """Return the index of the endpoint; ``turn`` counts those not wanted before."""
        ...


class HashPicker:
    """The endpoint that a table gives for the request's hash; at random where it has none.

    The table is built by ``build`` (of keys and normalised weights) at the first pick: most
    clusters of a mesh are never called by one client. With ``balance_factor`` an endpoint takes
    at most that many percent of its share of the requests under way, and the rest spills over
    to others in an order that the hash alone decides (consistent hashing with bounded loads).
    """

    __slots__ = ("_build", "_config", "_endpoints", "_table", "_weights")

    def __init__(self, endpoints: Sequence[EndpointState], config: ConsistentHashing, build: Builder) -> None:
        total = sum(state.endpoint.weight for state in endpoints)
        self._endpoints = endpoints
        self._weights = [state.endpoint.weight / total for state in endpoints]
        self._config = config
        self._build = build
        self._table: Table | None = None

    def pick(self, chance: Randomness, key: int | None = None, turn: int = 0) -> EndpointState:
        """Return the endpoint of ``key``."""
        if self._table is None:
            keys = [endpoint_key(state.endpoint, self._config) for state in self._endpoints]
            self._table = self._build(tuple(zip(keys, self._weights, strict=True)), self._config)
        if key is None:
            key = int(chance.random() * 2**64)
        index = self._table.find(key, turn)
        if self._config.balance_factor:
            index = self._balanced(index, key)
        return self._endpoints[index]

    def _balanced(self, first: int, key: int) -> int:
        slots = ((sum(state.active for state in self._endpoints) + 1) * self._config.balance_factor + 99) // 100

        def overload(index: int) -> float:
            return self._endpoints[index].active / max(math.ceil(slots * self._weights[index]), 1)

        best, lowest = first, overload(first)
        if lowest <= 1.0:
            return first
        for index in shuffled(len(self._endpoints), key):
            load = overload(index)
            if load < lowest:
                best, lowest = index, load
            if load <= 1.0:
                break
        return best


class Builder(Protocol):
    """Makes the table over endpoints given as (key, normalised weight)."""

    def __call__(self, hosts: tuple[tuple[str, float], ...], config: ConsistentHashing) -> Table:
        """Return the table."""
        ...


def shuffled(size: int, seed: int) -> Iterator[int]:
    """Yield 0 to size - 1 in the order of Envoy's shuffle: by draws from ``std::mt19937(seed)``."""
    words = mersenne_twister(seed & _MASK32)
    order = list(range(size))
    for i in range(size):
        left = size - i
        bucket = 2**32 // left
        drawn = left
        while drawn >= left:
            drawn = next(words) // bucket
        order[i], order[i + drawn] = order[i + drawn], order[i]
        yield order[i]


def mersenne_twister(seed: int) -> Iterator[int]:
    """Yield the words of ``std::mt19937(seed)``; Python's own twister cannot be seeded like it."""
    state = [seed]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ state[-1] >> 30) + i) & _MASK32)
    for i in cycle(range(624)):
        both = state[i] & 0x80000000 | state[(i + 1) % 624] & 0x7FFFFFFF
        word = state[i] = state[(i + 397) % 624] ^ both >> 1 ^ (0x9908B0DF if both & 1 else 0)
        word ^= word >> 11
        word ^= word << 7 & 0x9D2C5680
        word ^= word << 15 & 0xEFC60000
        yield word ^ word >> 18
