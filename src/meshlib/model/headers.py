"""Header mutations: what is added to and removed from requests and responses on their way."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum

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

    All values are worked out before any is written, as Envoy does: ``%REQ(a)%`` sees what the
    level before left, and overwriting comes before appending.
    """

    remove: frozenset[str] = frozenset()
    add: tuple[HeaderToAdd, ...] = ()

    def apply(self, headers: list[Pair], facts: Facts) -> None:
        """Change ``headers`` (lower-case names) in place."""
        if self.remove:
            _drop(headers, self.remove)
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
        names: every header that they may change.
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
class FilterMutations:
    """``header_mutation.v3.Mutations``: what the header_mutation filter does to either direction.

    Attributes:
        most_specific_wins: on the filter itself: route-level mutations come last, not first.
    """

    request: HeaderMutations = NO_MUTATIONS
    response: HeaderMutations = NO_MUTATIONS
    most_specific_wins: bool = False
