"""Header mutations: what is added to and removed from requests and responses on their way."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import quote

from meshlib.model.match import StringMatch
from meshlib.model.template import Facts, Template

Pair = tuple[str, str]


class AppendAction(Enum):
    """``HeaderValueOption.HeaderAppendAction``."""

    APPEND_IF_EXISTS_OR_ADD = 0
    ADD_IF_ABSENT = 1
    OVERWRITE_IF_EXISTS_OR_ADD = 2
    OVERWRITE_IF_EXISTS = 3


@dataclass(frozen=True, slots=True)
class HeaderToAdd:
    """``HeaderValueOption``.

    Attributes:
        name: lower case.
        value: a value that comes out empty is left out, unless ``keep_empty``.
        keep_empty: ``keep_empty_value``.
    """

    name: str
    value: Template
    action: AppendAction = AppendAction.APPEND_IF_EXISTS_OR_ADD
    keep_empty: bool = False


@dataclass(frozen=True, slots=True)
class MutationStep:
    """The mutations of one level: first all removals, then what is added.

    ``remove_matching`` removes headers by name (``remove_on_match``), as the header_mutation filter can.
    All values are worked out before any is written, as Envoy does: ``%REQ(a)%`` sees what the
    level before left, and overwriting comes before appending.
    """

    remove: frozenset[str] = frozenset()
    add: tuple[HeaderToAdd, ...] = ()
    remove_matching: StringMatch | None = None

    def apply(self, headers: list[Pair], facts: Facts) -> None:
        """Change ``headers`` (lower-case names) in place."""
        if self.remove:
            _drop(headers, self.remove)
        if self.remove_matching is not None:
            test = self.remove_matching.compile()
            _drop(headers, [name for name, _ in headers if test(name) and name != "host"])
        overwritten: dict[str, str] = {}
        appended: list[Pair] = []
        present = {name for name, _ in headers}
        for header in self.add:
            value = header.value.format(facts)
            if not value and not header.keep_empty:
                continue
            exists = header.name in present
            if header.action is AppendAction.APPEND_IF_EXISTS_OR_ADD:
                appended.append((header.name, value))
            elif header.action is AppendAction.ADD_IF_ABSENT:
                if not exists:
                    appended.append((header.name, value))
            elif exists or header.action is AppendAction.OVERWRITE_IF_EXISTS_OR_ADD:
                overwritten[header.name] = value
        if overwritten:
            _drop(headers, overwritten.keys())
            headers += overwritten.items()
        headers += appended


def _drop(headers: list[Pair], names: Collection[str]) -> None:
    headers[:] = [pair for pair in headers if pair[0] not in names]


@dataclass(frozen=True, slots=True)
class HeaderMutations:
    """Mutations of one direction, level by level in the order in which they apply; false when there are none.

    Attributes:
        names: every header that they may change, but for those removed by a pattern.
    """

    steps: tuple[MutationStep, ...] = ()
    names: frozenset[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = {name for step in self.steps for name in (*step.remove, *(header.name for header in step.add))}
        object.__setattr__(self, "names", frozenset(names))

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __add__(self, other: HeaderMutations) -> HeaderMutations:
        if not self.steps or not other.steps:
            return self if self.steps else other
        return HeaderMutations(self.steps + other.steps)

    def apply(self, headers: list[Pair], facts: Facts) -> None:
        """Change ``headers`` (lower-case names) in place."""
        for step in self.steps:
            step.apply(headers, facts)


NO_MUTATIONS = HeaderMutations()


@dataclass(frozen=True, slots=True)
class QueryMutation:
    """``KeyValueMutation`` of query parameters.

    Attributes:
        name: of the parameter.
        value: with commands in it; None removes the parameter.
        action: how it is added.
    """

    name: str
    value: Template | None = None
    action: AppendAction = AppendAction.APPEND_IF_EXISTS_OR_ADD

    def apply(self, parameters: dict[str, list[str]], facts: Facts) -> None:
        """Change parameters, as they stand in the URL, in place."""
        before = parameters.get(self.name)
        if self.value is None:
            parameters.pop(self.name, None)
            return
        made = quote(self.value.format(facts), safe="-._~")
        if self.action is AppendAction.APPEND_IF_EXISTS_OR_ADD:
            parameters[self.name] = [*(before or ()), made]
        elif self.action is AppendAction.ADD_IF_ABSENT:
            parameters.setdefault(self.name, [made])
        elif before is not None or self.action is AppendAction.OVERWRITE_IF_EXISTS_OR_ADD:
            parameters[self.name] = [made]


def mutated_query(target: str, mutations: Sequence[QueryMutation], facts: Facts) -> str:
    """Return a path and query with its parameters mutated; they come out in the order of their names, as in Envoy."""
    path, _, query = target.partition("?")
    parameters: dict[str, list[str]] = {}
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        parameters.setdefault(name, []).append(value)
    for mutation in mutations:
        mutation.apply(parameters, facts)
    made = "&".join(f"{name}={value}" for name in sorted(parameters) for value in parameters[name])
    return f"{path}?{made}" if made else path


@dataclass(frozen=True, slots=True)
class FilterMutations:
    """``header_mutation.v3.Mutations``: what the header_mutation filter does to either direction.

    Attributes:
        query: made to the query parameters of the request.
        disabled: on a route: the filter is left out.
        most_specific_wins: on the filter itself: route-level mutations come last, not first.
    """

    request: HeaderMutations = NO_MUTATIONS
    response: HeaderMutations = NO_MUTATIONS
    most_specific_wins: bool = False
    query: tuple[QueryMutation, ...] = ()
    disabled: bool = False
