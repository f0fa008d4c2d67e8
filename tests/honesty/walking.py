"""Every message in a resource, through lists, maps and Anys, with the path a decoder would give it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor

from honesty.captured import content

ANY = "google.protobuf.Any"
# Read as one value: what is inside is no field of its own.
VALUES = frozenset(
    f"google.protobuf.{name}"
    for name in (
        *("BoolValue", "BytesValue", "DoubleValue", "Duration", "FloatValue", "StringValue"),
        *("Struct", "Timestamp", "UInt32Value", "UInt64Value", "Value"),
    )
)


# How many steps down an Any is still looked into; each starts protobuf's own limit anew.
DEEPEST = 60


class Step(NamedTuple):
    """From a message to one inside it: the field, and the index or key where there are several."""

    field: str
    index: int | str | None = None

    def __str__(self) -> str:
        return self.field if self.index is None else f"{self.field}[{self.index}]"


Steps = tuple[Step, ...]


def path(steps: Steps, *more: str) -> str:
    """Write steps as a decoder's Scope does."""
    return ".".join([*map(str, steps), *more])


def value_type(field: FieldDescriptor) -> Any:
    """Return the descriptor of the messages in a field, None where it holds none."""
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return kind.fields_by_name["value"].message_type
    return kind


def below(field: FieldDescriptor, value: Any) -> Iterator[tuple[Step, Any]]:
    """Yield the messages in one field that is set."""
    if value_type(field) is None:
        return
    if field.message_type.GetOptions().map_entry:
        for key in sorted(value):
            yield Step(field.name, key), value[key]
    elif field.is_repeated:
        for i, item in enumerate(value):
            yield Step(field.name, i), item
    else:
        yield Step(field.name), value


def messages(message: Any, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """Yield every message, ``message`` first; an Any is passed through to what it holds."""
    if message.DESCRIPTOR.full_name == ANY:
        inner = content(message)
        if inner is not None and len(steps) < DEEPEST:
            yield from messages(inner, steps)
        return
    yield steps, message
    if message.DESCRIPTOR.full_name in VALUES:
        return
    for field, value in message.ListFields():
        for step, inner in below(field, value):
            yield from messages(inner, (*steps, step))


def edited(message: Any, steps: Steps, edit: Callable[[Any], None]) -> Any:
    """Return a copy of ``message`` in which the message at ``steps`` is edited."""
    copy = type(message)()
    copy.CopyFrom(message)
    _edit(copy, steps, edit)
    return copy


def _edit(message: Any, steps: Steps, edit: Callable[[Any], None]) -> None:
    if message.DESCRIPTOR.full_name == ANY:
        inner = content(message)
        if inner is None:
            raise LookupError(message.type_url)
        _edit(inner, steps, edit)
        message.value = inner.SerializeToString(deterministic=True)
    elif not steps:
        edit(message)
    else:
        (field, index), *rest = steps
        child = getattr(message, field)
        _edit(child if index is None else child[index], tuple(rest), edit)
