"""Subset load balancing: a route's ``metadata_match`` chooses among groups of endpoints.

A subset is found by the exact set of keys that a selector names and by the values a route gives
them. It is made when it is first asked for and kept until endpoints change, so that a pick costs
two look-ups more than one without subsets.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

from meshlib.model.balancing import Fallback, Subsets, SubsetSelector
from meshlib.model.endpoint import Endpoint
from meshlib.model.metadata import Criteria, fields, frozen, items, merged
from meshlib.policy.balancing.context import Memory
from meshlib.policy.balancing.hosts import Group, HostSet
from meshlib.policy.balancing.picker import Balancer, Wish
from meshlib.policy.balancing.priorities import Loads

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState

_FALLBACK_LIST = "fallback_list"
_NO_METADATA: Mapping[str, object] = {}

Keys = tuple[str, ...]
Make = Callable[[Sequence[HostSet], Memory], Balancer]


class SingleHost:
    """A subset that is one endpoint, whatever its health (``single_host_per_subset``)."""

    __slots__ = ("_state",)

    def __init__(self, state: EndpointState) -> None:
        self._state = state

    def pick(self, now: float, key: int | None, wish: Wish) -> EndpointState:  # noqa: ARG002  the Balancer protocol
        """Return it."""
        return self._state

    def warm(self, before: Balancer | None, now: float) -> None:
        """Nothing to make ready."""


class SubsetBalancer:
    """Finds the subset of a route, and what serves in its place where there is none.

    Args:
        config: the subsets.
        sets: the endpoints of each priority.
        loads: their load table, for those who want to see it; each subset has its own.
        make: makes the balancer over the endpoints of a subset.
        memory: what is known from before an update.
    """

    __slots__ = (
        "_config",
        "_fallbacks",
        "_found",
        "_index",
        "_make",
        "_memory",
        "_plans",
        "_selectors",
        "loads",
        "sets",
    )

    def __init__(self, config: Subsets, sets: Sequence[HostSet], loads: Loads, make: Make, memory: Memory) -> None:
        self.sets = sets
        self.loads = loads
        self._config = config
        self._selectors = config.selectors
        if config.redundant_keys:  # the more keys a selector has, the sooner it is asked
            self._selectors = tuple(sorted(config.selectors, key=lambda selector: -len(selector.keys)))
        self._make = make
        self._memory = memory
        self._fallbacks = _fallbacks(self._selectors)
        self._index: dict[Keys, dict[tuple[Hashable, ...], dict[EndpointState, None]]] = {}
        self._found: dict[Hashable, Balancer | None] = {}
        self._plans: dict[Criteria, tuple[Balancer, ...]] = {}

    def pick(self, now: float, key: int | None, wish: Wish) -> EndpointState | None:
        """Return an endpoint that serves what the route asks for."""
        for balancer in self._plans.get(wish.subset) or self.serving(wish.subset):
            found = balancer.pick(now, key, wish)
            if found is not None:
                return found
        return None

    def serving(self, subset: Criteria) -> tuple[Balancer, ...]:
        """Return the balancers that serve a route, each where those before it have no endpoint."""
        plan = self._plans[subset] = tuple(self._plan(subset))
        return plan

    def warm(self, before: Balancer | None, now: float) -> None:
        """Make the subsets that ``before`` had been asked for."""
        if not isinstance(before, SubsetBalancer):
            return
        for subset in list(before._plans):
            self.serving(subset)
        for key, balancer in self._found.items():
            if balancer is not None:
                balancer.warm(before._found.get(key), now)

    def keep_members(self, before: Balancer) -> None:
        """Take over who is in which subset: ``before`` is over the same endpoints, and health is no part of it."""
        if isinstance(before, SubsetBalancer):
            self._index = before._index

    # ---------------------------------------------------------------- what serves, in order

    def _plan(self, subset: Criteria) -> list[Balancer]:
        """Return the balancers to ask in turn until one has an endpoint."""
        values = dict(subset).get(_FALLBACK_LIST) if self._config.fallback_list else None
        if values is None:
            return self._once(subset)
        asked = tuple(item for item in subset if item[0] != _FALLBACK_LIST)
        alternatives = items(values) or ()
        if not alternatives:
            return self._once(asked)
        return [balancer for values in alternatives for balancer in self._once(merged(asked, fields(values) or ()))]

    def _once(self, subset: Criteria) -> list[Balancer]:
        if self._config.redundant_keys:
            subset = self._without_redundant(subset)
        own = self._subset(subset)
        if own is not None:
            return [own]  # even where it has no healthy endpoint: a fallback is for routes without a subset
        selector = self._fallbacks.get(tuple(key for key, _ in subset)) if subset else None
        if selector is None or selector.fallback is Fallback.NOT_DEFINED:
            found = [self._fallback(self._config.fallback)]
            if found[0] is not None and self._config.panic_mode_any:
                found.append(self._fallback(Fallback.ANY_ENDPOINT))
        elif selector.fallback is Fallback.KEYS_SUBSET:
            return self._once(tuple(item for item in subset if item[0] in selector.fallback_keys))
        else:
            found = [self._fallback(selector.fallback)]
        return [balancer for balancer in found if balancer is not None]

    def _without_redundant(self, subset: Criteria) -> Criteria:
        keys = {key for key, _ in subset}
        for selector in self._selectors:
            if keys.issuperset(selector.keys):
                return tuple(item for item in subset if item[0] in selector.keys)
        return subset

    def _fallback(self, policy: Fallback) -> Balancer | None:
        if policy is Fallback.ANY_ENDPOINT:
            return self._over(policy, None)
        if policy is Fallback.DEFAULT_SUBSET:
            wanted, as_any = self._config.default_subset, self._config.list_as_any
            return self._over(policy, lambda state: matches(wanted, state.endpoint, list_as_any=as_any))
        return None

    # ---------------------------------------------------------------- the subsets themselves

    def _subset(self, subset: Criteria) -> Balancer | None:
        """Return the balancer of the subset with exactly these keys and values, None where nobody is in it."""
        keys = tuple(key for key, _ in subset)
        selector = next((each for each in self._selectors if each.keys == keys), None) if keys else None
        if selector is None:
            return None
        members = self._members(keys).get(tuple(value for _, value in subset))
        if not members:
            return None
        if selector.single_host:
            return self._found.setdefault(subset, SingleHost(next(iter(members))))
        return self._over(subset, members.__contains__)

    def _members(self, keys: Keys) -> dict[tuple[Hashable, ...], dict[EndpointState, None]]:
        """Return the endpoints by the values they have for ``keys``, in the order of their priorities."""
        index = self._index.get(keys)
        if index is None:
            index = self._index[keys] = {}
            for hosts in self.sets:
                for state in hosts.whole.hosts:
                    for values in _values(keys, state.endpoint, list_as_any=self._config.list_as_any):
                        index.setdefault(values, {})[state] = None
        return index

    def _over(self, key: Hashable, member: Callable[[EndpointState], bool] | None) -> Balancer | None:
        """Return the balancer over the endpoints that ``member`` takes, None = over all, by its key."""
        if key not in self._found:
            sets = self.sets
            keep = {state for hosts in sets for state in hosts.whole.hosts if member is None or member(state)}
            self._found[key] = self._make(
                [hosts.narrowed(keep, self._weight) for hosts in sets], self._memory.part(key)
            )
        return self._found[key]

    def _weight(self, group: Group, count: int) -> int:
        if not self._config.locality_weight_aware:
            return 0
        if not self._config.scale_locality_weight or not group.hosts:
            return group.weight
        return int(group.weight * count / len(group.hosts) + 0.5)


def _fallbacks(selectors: Sequence[SubsetSelector]) -> dict[Keys, SubsetSelector]:
    """Return the selector whose fallback counts for each set of keys.

    Envoy keeps them in a tree by key, and a selector that is the beginning of an earlier one finds
    its place there taken: its fallback does not count.
    """
    known: set[Keys] = set()
    found: dict[Keys, SubsetSelector] = {}
    for selector in selectors:
        keys = selector.keys
        if keys not in known:
            found[keys] = selector
        known |= {keys[:length] for length in range(1, len(keys) + 1)}
    return found


def _values(keys: Keys, endpoint: Endpoint, *, list_as_any: bool) -> list[tuple[Hashable, ...]]:
    """Return the values of an endpoint for ``keys``; none where it lacks one, several where a list counts as any."""
    metadata = endpoint.metadata.get("envoy.lb", _NO_METADATA)
    choices: list[tuple[Hashable, ...]] = []
    for key in keys:
        if key not in metadata:
            return []
        value = frozen(metadata[key])
        listed = items(value) if list_as_any else None
        choices.append((value,) if listed is None else listed)
    return list(product(*choices))


def matches(wanted: Criteria, endpoint: Endpoint, *, list_as_any: bool = False) -> bool:
    """Tell whether an endpoint's ``envoy.lb`` metadata has all that is wanted."""
    metadata = endpoint.metadata.get("envoy.lb", _NO_METADATA)
    for key, value in wanted:
        if key not in metadata:
            return False
        found = frozen(metadata[key])
        listed = items(found) if list_as_any else None
        if value not in listed if listed is not None else value != found:
            return False
    return True
