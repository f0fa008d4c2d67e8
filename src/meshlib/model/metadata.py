"""Metadata as values that can be compared and looked up, for subsets and host predicates."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

Criteria = tuple[tuple[str, Hashable], ...]
"""What ``metadata_match`` asks of endpoints: (key, :func:`frozen` value), by key."""

_STRUCT, _LIST, _BOOL = "struct", "list", "bool"


def frozen(value: object) -> Hashable:
    """Return a ``google.protobuf.Value``, as plain Python, in a form that is hashable and equal as Envoy's is.

    Kinds stay apart: 1 is not true, and the string "1" is neither.
    """
    if isinstance(value, bool):
        return (_BOOL, value)
    if isinstance(value, Mapping):
        return (_STRUCT, criteria(value))
    if isinstance(value, list):
        return (_LIST, tuple(frozen(item) for item in value))
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{value!r} is no google.protobuf.Value")


def criteria(values: Mapping[str, object]) -> Criteria:
    """Return a ``google.protobuf.Struct`` as criteria."""
    return tuple((key, frozen(values[key])) for key in sorted(values))


def items(value: Hashable) -> tuple[Hashable, ...] | None:
    """Return the values of a frozen list, None where it is none."""
    return value[1] if isinstance(value, tuple) and value[0] == _LIST else None


def fields(value: Hashable) -> Criteria | None:
    """Return the fields of a frozen struct, None where it is none."""
    return value[1] if isinstance(value, tuple) and value[0] == _STRUCT else None


def merged(below: Criteria, above: Criteria) -> Criteria:
    """Return both, a key of ``above`` taking the place of the same one ``below`` (``mergeMatchCriteria``)."""
    return tuple(sorted({**dict(below), **dict(above)}.items(), key=lambda item: item[0]))
