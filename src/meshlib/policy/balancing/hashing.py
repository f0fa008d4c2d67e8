"""Hashes as Envoy computes them, so that a key finds the same host here as behind a sidecar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple, Protocol

import xxhash

from meshlib.model.balancing import ConsistentHashing
from meshlib.model.endpoint import Endpoint
from meshlib.model.request import RequestView
from meshlib.model.traffic import HashOn, HashPolicy
from meshlib.policy.balancing.context import Context
from meshlib.policy.balancing.hosts import HostSet
from meshlib.policy.balancing.picker import Balancer, Wish
from meshlib.policy.balancing.priorities import load_table

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState

_MASK32 = 2**32 - 1
_MASK64 = 2**64 - 1

# ---------------------------------------------------------------- the hash of a request


def request_key(
    policies: Sequence[HashPolicy], view: RequestView, make: Callable[[HashPolicy], str] | None = None
) -> int | None:
    """Return the hash of a request, None when no policy finds anything in it.

    ``make`` makes the cookie of a policy that wants one made, and returns its value.

    ``RouteAction.hash_policy``: hashes are combined by ``rotl(hash, 1) ^ next`` until a policy
    that is ``terminal`` is met with a hash at hand.
    """
    key: int | None = None
    for policy in policies:
        found = _evaluate(policy, view)
        if found is None and policy.cookie is not None and make is not None:
            found = xxhash.xxh64_intdigest(make(policy).encode())
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


class HashBalancer:
    """RING_HASH and MAGLEV: a request's hash decides the priority and the endpoint; at random where it has none.

    A priority's table is built at its first pick: most clusters of a mesh are never called by one
    client. Only healthy endpoints are in it, in panic all: load meant for degraded ones finds
    none, as in Envoy. With ``balance_factor`` an endpoint takes at most that many percent of its
    share of the requests under way, and the rest spills over to others in an order that the hash
    alone decides (consistent hashing with bounded loads).

    Attributes:
        sets: the endpoints of each priority.
        loads: their load table.
    """

    __slots__ = ("_build", "_context", "_tables", "loads", "sets")

    def __init__(self, context: Context, sets: Sequence[HostSet], build: Builder) -> None:
        self.sets = sets
        self.loads = load_table(sets, context.panic_threshold)
        self._context = context
        self._build = build
        self._tables: dict[int, Weighed | None] = {}

    def pick(self, now: float, key: int | None, wish: Wish) -> EndpointState | None:  # noqa: ARG002  the Balancer protocol
        """Return the endpoint of the request's key; each turn goes one entry further."""
        if key is None:
            key = int(self._context.chance.random() * 2**64)
        priority, _ = self.loads.choose(key)
        try:
            found = self._tables[priority]
        except KeyError:
            found = self._table(priority)
        if found is None:
            return None
        index = found.table.find(key, wish.turn)
        if self._context.config.hashing.balance_factor:
            index = self._balanced(found, index, key)
        return found.endpoints[index]

    def warm(self, before: Balancer | None, now: float) -> None:  # noqa: ARG002  the Balancer protocol
        """Build the tables that ``before`` had."""
        if isinstance(before, HashBalancer):
            for priority in list(before._tables):
                if priority < len(self.sets):
                    self._table(priority)

    def _table(self, priority: int) -> Weighed | None:
        hosts, config = self.sets[priority], self._context.config
        weighed = _weighed(hosts, panic=self.loads.panic[priority], by_locality=config.locality_weighted)
        found = None
        if weighed:
            keys = tuple((endpoint_key(state.endpoint, config.hashing), weight) for state, weight in weighed)
            endpoints, weights = zip(*weighed, strict=True)
            found = Weighed(endpoints, weights, self._build(keys, config.hashing))
        self._tables[priority] = found
        return found

    def _balanced(self, found: Weighed, first: int, key: int) -> int:
        endpoints, weights = found.endpoints, found.weights
        slots = ((self._context.active() + 1) * self._context.config.hashing.balance_factor + 99) // 100

        def overload(index: int) -> float:
            return endpoints[index].active / max(math.ceil(slots * weights[index]), 1)

        best, lowest = first, overload(first)
        if lowest <= 1.0:
            return first
        for index in shuffled(len(endpoints), key):
            load = overload(index)
            if load < lowest:
                best, lowest = index, load
            if load <= 1.0:
                break
        return best


class Weighed(NamedTuple):
    """The endpoints of a priority with their shares, which make 1, and the table over them."""

    endpoints: Sequence[EndpointState]
    weights: Sequence[float]
    table: Table


def _weighed(hosts: HostSet, *, panic: bool, by_locality: bool) -> list[tuple[EndpointState, float]]:
    """Return the endpoints and their shares; those of a locality share its part by their weights."""
    total = sum(group.weight for group in hosts.groups)
    # Envoy gives localities no weights where it is not told to heed them, and then takes all endpoints alike.
    groups = [(group, group.weight / total) for group in hosts.groups] if total else []
    if not by_locality:
        groups = [(hosts.whole, 1.0)]
    found = []
    for group, share in groups:
        states = group.hosts if panic else group.healthy
        weight = sum(state.weight for state in states)
        found += [(state, state.weight * share / weight) for state in states if share]
    return found


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
