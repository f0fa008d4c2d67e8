"""Matcher trees (``xds.type.matcher.v3.Matcher``): from a request to the routes that may take it.

A tree is values that compile to one closure. What leads nowhere further down is no match, and
the search goes on beside it: with the next rule of a list, with the next shorter prefix of a map,
in the end with ``on_no_match``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address, ip_network
from typing import overload

import xxhash

from meshlib.model.match import Predicate, StringMatch, Test
from meshlib.model.request import RequestView
from meshlib.model.route import Route

Find = Callable[[RequestView], Sequence[Route] | None]
Read = Callable[[RequestView], str | None]
Keys = Callable[[str], Iterable[str]]


@dataclass(frozen=True, slots=True)
class HeaderInput:
    """``HttpRequestHeaderMatchInput``: every value of the header, joined by commas; None where it is missing."""

    name: str

    def compile(self) -> Read:
        """Return the closure over the request."""
        name = self.name.lower()

        def read(view: RequestView) -> str | None:
            values = view.values(name)
            return ",".join(values) if values else None

        return read


@dataclass(frozen=True, slots=True)
class ConstantInput:
    """What is the same for every request: a variable of the environment, or nothing."""

    value: str | None

    def compile(self) -> Read:
        """Return the closure over the request."""
        value = self.value
        return lambda _view: value


Input = HeaderInput | ConstantInput


@dataclass(frozen=True, slots=True)
class InNetworks:
    """``input_matchers.ip.v3.Ip``: whether the input is an address of one of the networks."""

    networks: tuple[str, ...]

    def compile(self) -> Test:
        """Return the closure over the input."""
        keys = narrowest_network(self.networks)
        return lambda text: bool(keys(text))


@dataclass(frozen=True, slots=True)
class Hashed:
    """``ConsistentHashing`` and ``RuntimeFraction``: whether ``low <= xxHash64(input) % modulo < high``."""

    seed: int
    modulo: int
    low: int
    high: int

    def compile(self) -> Test:
        """Return the closure over the input."""
        seed, modulo, low, high = self.seed, self.modulo, self.low, self.high
        return lambda text: low <= xxhash.xxh64_intdigest(text.encode("latin-1", "replace"), seed) % modulo < high


@dataclass(frozen=True, slots=True)
class Single:
    """``SinglePredicate``; an input that is missing never matches."""

    input: Input
    match: StringMatch | InNetworks | Hashed

    def compile(self) -> Predicate:
        """Return the closure over the request."""
        read, test = self.input.compile(), self.match.compile()

        def matches(view: RequestView) -> bool:
            value = read(view)
            return value is not None and test(value)

        return matches


def _itself(_keys: Iterable[str]) -> Keys:
    return lambda value: (value,)


def _longest_prefix(keys: Iterable[str]) -> Keys:
    longest = sorted(keys, key=len, reverse=True)
    return lambda value: (key for key in longest if value.startswith(key))


def _longest_suffix(keys: Iterable[str]) -> Keys:
    wild = sorted((key for key in keys if key.startswith("*.")), key=len, reverse=True)
    return lambda value: (value, *(key for key in wild if value.endswith(key[1:])), "*")


def narrowest_network(keys: Iterable[str]) -> Keys:
    """Return what finds the networks of ``keys`` that contain an address, the narrowest first."""
    networks = sorted(((ip_network(key, strict=False), key) for key in keys), key=lambda each: -each[0].prefixlen)

    def fitting(value: str) -> Iterable[str]:
        try:
            address = ip_address(value)
        except ValueError:
            return ()
        return [key for network, key in networks if address in network]

    return fitting


class MapKind(Enum):
    """What the keys of a map are, and which of them fit an input, the best first."""

    EXACT = "exact_match_map"
    PREFIX = "prefix_match_map"
    SERVER_NAME = "ServerNameMatcher"  # a name, *.suffix or *
    NETWORK = "IPMatcher"


_KEYS = {
    MapKind.EXACT: _itself,
    MapKind.PREFIX: _longest_prefix,
    MapKind.SERVER_NAME: _longest_suffix,
    MapKind.NETWORK: narrowest_network,
}


@dataclass(frozen=True, slots=True)
class Combined:
    """``or_matcher``, ``and_matcher`` (``every``) and ``not_matcher`` (``inverted``)."""

    parts: tuple[Condition, ...]
    every: bool = False
    inverted: bool = False

    def compile(self) -> Predicate:
        """Return the closure over the request."""
        parts = tuple(part.compile() for part in self.parts)
        combine, inverted = all if self.every else any, self.inverted
        return lambda view: combine(part(view) for part in parts) is not inverted


Condition = Single | Combined


@dataclass(frozen=True, slots=True)
class OnMatch:
    """``OnMatch``: routes, or a tree further down."""

    then: MatcherTree | tuple[Route, ...]

    def compile(self) -> Find:
        """Return the closure over the request."""
        then = self.then
        return then.compile() if isinstance(then, MatcherTree) else lambda _view: then

    @property
    def routes(self) -> Iterator[Route]:
        """Every route below."""
        yield from self.then.routes if isinstance(self.then, MatcherTree) else self.then


@dataclass(frozen=True, slots=True)
class MatcherTree:
    """``Matcher``: rules in order (``matcher_list``), or values of one input (``matcher_tree``).

    Attributes:
        rules: of a list.
        input: of a map.
        values: of a map.
        kind: of a map.
        on_no_match: where nothing matches.
    """

    rules: tuple[tuple[Condition, OnMatch], ...] = ()
    input: Input | None = None
    values: Mapping[str, OnMatch] = field(default_factory=dict)
    kind: MapKind = MapKind.EXACT
    on_no_match: OnMatch | None = None

    def compile(self) -> Find:
        """Return the closure over the request."""
        find = self._rules() if self.input is None else self._map(self.input.compile())
        if self.on_no_match is None:
            return find
        otherwise = self.on_no_match.compile()

        def found(view: RequestView) -> Sequence[Route] | None:
            routes = find(view)
            return otherwise(view) if routes is None else routes

        return found

    def _rules(self) -> Find:
        rules = tuple((condition.compile(), on_match.compile()) for condition, on_match in self.rules)

        def find(view: RequestView) -> Sequence[Route] | None:
            for matches, then in rules:
                if matches(view) and (routes := then(view)) is not None:
                    return routes
            return None

        return find

    def _map(self, read: Read) -> Find:
        values = {key: on_match.compile() for key, on_match in self.values.items()}
        keys = _KEYS[self.kind](values)

        def find(view: RequestView) -> Sequence[Route] | None:
            value = read(view)
            if value is None:
                return None
            for key in keys(value):
                then = values.get(key)
                if then is not None and (routes := then(view)) is not None:
                    return routes
            return None

        return find

    @property
    def routes(self) -> Iterator[Route]:
        """Every route in the tree."""
        on_matches = [*(on_match for _, on_match in self.rules), *self.values.values()]
        for on_match in on_matches if self.on_no_match is None else [*on_matches, self.on_no_match]:
            yield from on_match.routes


class TreeRoutes(Sequence[Route]):
    """The routes of a virtual host with a matcher: all there are as a sequence, those for a request by :meth:`of`."""

    __slots__ = ("_find", "_routes", "tree")

    def __init__(self, tree: MatcherTree) -> None:
        self.tree = tree
        self._routes = tuple(tree.routes)
        self._find = tree.compile()

    def of(self, view: RequestView) -> Sequence[Route]:
        """Return the routes that the tree leads to, in order."""
        return self._find(view) or ()

    @overload
    def __getitem__(self, index: int) -> Route: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Route]: ...
    def __getitem__(self, index: int | slice) -> Route | Sequence[Route]:
        return self._routes[index]

    def __len__(self) -> int:
        return len(self._routes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TreeRoutes) and self.tree == other.tree

    __hash__ = None  # type: ignore[assignment]  # as a list: equal by what is in it
