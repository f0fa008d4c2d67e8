"""The constraints that Envoy's protos declare (``validate.rules``), checked as Envoy checks them.

Envoy refuses a message that breaks one of them before it looks at anything else. Each kind of message is read
once, from its descriptor, into the checks of its fields; messages that no rule is about, nor about anything within
them, cost nothing. What istiod leaves out for gRPC clients, which look at none of it, is not demanded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from meshlib.xds.protos import validate_pb2

Check = Callable[[Any], str]  # what is wrong with a value, empty for nothing
Violation = tuple[str, str]  # path of a field, what is wrong with it

# Names for statistics, and of virtual hosts: istiod sends gRPC clients none.
_NOT_DEMANDED = frozenset(
    {
        "envoy.config.route.v3.VirtualHost.name",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.stat_prefix",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.stat_prefix",
    }
)
_LINE = re.compile(r"[\0\r\n]")
_NAME = re.compile(r":?[0-9a-zA-Z!#$%&'*+\-.^_|~`]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_BOUNDS = ("const", "lt", "lte", "gt", "gte")


class _Field(NamedTuple):
    """One field with rules in or below it.

    Attributes:
        name: of the field.
        always: whether its rules count where it is not set, too: it has no presence of its own.
        demanded: whether it must be set.
        whole: checks of the whole value: a list's or a map's size.
        each: checks of the value, or of each element.
        repeated: whether it is a list or a map.
        below: the plan of the message in it, None for another value.
        mapped: whether it is a map, whose values are checked.
    """

    name: str
    always: bool
    demanded: bool
    whole: tuple[Check, ...]
    each: tuple[Check, ...]
    repeated: bool
    below: _Plan | None
    mapped: bool


class _Plan:
    """The checks of one kind of message; filled after it is made, for messages contain themselves."""

    __slots__ = ("fields", "oneofs")

    def __init__(self) -> None:
        self.fields: tuple[_Field, ...] = ()
        self.oneofs: tuple[tuple[str, str], ...] = ()

    @property
    def empty(self) -> bool:
        return not self.fields and not self.oneofs


def violations(message: Any) -> Iterator[Violation]:
    """Yield what in ``message`` breaks a rule; messages packed in an ``Any`` are not looked into."""
    yield from _of(message, _plan(message.DESCRIPTOR), "")


def _of(message: Any, plan: _Plan, prefix: str) -> Iterator[Violation]:
    for oneof, choices in plan.oneofs:
        if message.WhichOneof(oneof) is None:
            yield prefix.removesuffix("."), f"says none of {choices}"
    for field in plan.fields:
        value = getattr(message, field.name)
        if field.repeated:
            yield from _of_many(value, field, prefix)
        elif field.always or message.HasField(field.name):
            yield from _of_one(value, field, f"{prefix}{field.name}")
        elif field.demanded:
            yield f"{prefix}{field.name}", "is missing"


def _of_many(values: Any, field: _Field, prefix: str) -> Iterator[Violation]:
    for check in field.whole:
        if fault := check(values):
            yield f"{prefix}{field.name}", fault
    if field.each or field.below is not None:
        for key, value in values.items() if field.mapped else enumerate(values):
            yield from _of_one(value, field, f"{prefix}{field.name}[{key}]")


def _of_one(value: Any, field: _Field, place: str) -> Iterator[Violation]:
    for check in field.each:
        if fault := check(value):
            yield place, fault
    if field.below is not None:
        yield from _of(value, field.below, f"{place}.")


_plans: dict[str, _Plan] = {}


def _plan(descriptor: Any) -> _Plan:
    """Return the plan of a kind of message."""
    plan = _plans.get(descriptor.full_name)
    if plan is None:
        plan = _plans[descriptor.full_name] = _Plan()
        plan.fields = tuple(_fields(descriptor))
        plan.oneofs = tuple(
            (oneof.name, ", ".join(field.name for field in oneof.fields))
            for oneof in descriptor.oneofs
            if oneof.GetOptions().Extensions[validate_pb2.required]
        )
    return plan


def _fields(descriptor: Any) -> Iterator[_Field]:
    for field in descriptor.fields:
        rules = field.GetOptions().Extensions[validate_pb2.rules]
        if field.full_name in _NOT_DEMANDED:
            continue
        mapped = field.message_type is not None and field.message_type.GetOptions().map_entry
        inner = field.message_type.fields_by_name["value"] if mapped else field
        message = inner.message_type
        wrapper = message is not None and message.full_name.startswith("google.protobuf.")
        below = _plan(message) if message is not None and not wrapper and not _reaches_nothing(message) else None
        kind = rules.WhichOneof("type")
        each, whole = _checks(field, rules, kind)
        own = kind in ("duration", "any", "timestamp") and getattr(rules, kind).required
        demanded = (rules.message.required or own) and field.containing_oneof is None
        if not (below or each or whole or demanded):
            continue
        yield _Field(
            name=field.name,
            always=not field.is_repeated and not field.has_presence,
            demanded=demanded,
            whole=whole,
            each=each,
            repeated=field.is_repeated,
            below=below,
            mapped=mapped,
        )


@cache
def _reaches_nothing(descriptor: Any) -> bool:
    """Tell whether no rule is about a kind of message, nor about what it may contain."""
    seen, ahead = set(), [descriptor]
    while ahead:
        each = ahead.pop()
        if each.full_name in seen:
            continue
        seen.add(each.full_name)
        if any(oneof.GetOptions().HasExtension(validate_pb2.required) for oneof in each.oneofs):
            return False
        for field in each.fields:
            if field.GetOptions().HasExtension(validate_pb2.rules):
                return False
            if field.message_type is not None:
                ahead.append(field.message_type)
    return True


def _checks(field: Any, rules: Any, kind: str | None) -> tuple[tuple[Check, ...], tuple[Check, ...]]:
    """Return the checks of each value, and those of a list or a map as a whole."""
    if kind == "repeated":
        items = rules.repeated.items
        item = items.WhichOneof("type")
        each = _value_checks(field, item, getattr(items, item)) if item else ()
        return each, tuple(_sizes(rules.repeated, "min_items", "max_items", "unique"))
    if kind == "map":
        return (), tuple(_sizes(rules.map, "min_pairs", "max_pairs", ""))
    return (_value_checks(field, kind, getattr(rules, kind)), ()) if kind else ((), ())


def _sizes(rules: Any, least: str, most: str, unique: str) -> Iterator[Check]:
    low, high = getattr(rules, least), getattr(rules, most)
    if low:
        yield lambda values: "" if len(values) >= low else "must not be empty" if low == 1 else f"has fewer than {low}"
    if high:
        yield lambda values: "" if len(values) <= high else f"has more than {high}"
    if unique and getattr(rules, unique):
        yield lambda values: "" if len(set(values)) == len(values) else "has the same value twice"


def _value_checks(field: Any, kind: str, rules: Any) -> tuple[Check, ...]:
    if kind == "string":
        return tuple(_strings(rules))
    if kind == "bytes":
        low, high = rules.min_len, rules.max_len or 1 << 62
        return (lambda value: "" if low <= len(value) <= high else f"has {len(value)} bytes",)
    if kind == "enum":
        return tuple(_enums(field, rules))
    if kind == "duration":
        return tuple(_numbers(rules, lambda value: value.ToNanoseconds(), lambda value: f"{value.ToTimedelta()}"))
    if kind in ("message", "any", "timestamp", "bool"):
        return ()
    wrapped = field.message_type is not None
    return tuple(_numbers(rules, (lambda value: value.value) if wrapped else (lambda value: value), str))


def _enums(field: Any, rules: Any) -> Iterator[Check]:
    known, left_out = frozenset(field.enum_type.values_by_number), frozenset(rules.not_in)
    if rules.defined_only:
        yield lambda value: "" if value in known else f"{value} is no {field.enum_type.name}"
    if left_out:
        yield lambda value: f"must not be {field.enum_type.values_by_number[value].name}" if value in left_out else ""


def _numbers(rules: Any, read: Callable[[Any], float], shown: Callable[[Any], str]) -> Iterator[Check]:
    bounds = {name: getattr(rules, name) for name in _BOUNDS if rules.HasField(name)}
    if not bounds:
        return
    limits = {name: read(bound) if hasattr(bound, "DESCRIPTOR") else bound for name, bound in bounds.items()}
    words = {"const": "must be", "lt": "must be below", "lte": "must be at most", "gt": "must be above"}
    words["gte"] = "must be at least"
    said = " and ".join(f"{words[name]} {shown(bound)}" for name, bound in bounds.items())
    holds: dict[str, Callable[[float, float], bool]] = {
        "const": lambda value, limit: value == limit,
        "lt": lambda value, limit: value < limit,
        "lte": lambda value, limit: value <= limit,
        "gt": lambda value, limit: value > limit,
        "gte": lambda value, limit: value >= limit,
    }
    tests = [(holds[name], limit) for name, limit in limits.items()]

    def check(value: Any) -> str:
        number = read(value)
        return "" if all(test(number, limit) for test, limit in tests) else said

    yield check


def _strings(rules: Any) -> Iterator[Check]:
    empty_is_fine = rules.ignore_empty
    if rules.min_len:
        low = rules.min_len
        yield lambda text: "" if len(text) >= low else "must not be empty" if low == 1 else f"is shorter than {low}"
    if rules.max_bytes:
        most = rules.max_bytes
        yield lambda text: "" if len(text.encode()) <= most else f"has more than {most} bytes"
    if rules.pattern:
        pattern = re.compile(rules.pattern)
        yield lambda text: "" if pattern.search(text) else f"{text!r} does not match {pattern.pattern}"
    if rules.prefix or rules.suffix:
        start, end = rules.prefix, rules.suffix
        yield (
            lambda text: (
                ""
                if (empty_is_fine and not text) or (text.startswith(start) and text.endswith(end))
                else f"{text!r} must begin with {start!r} and end with {end!r}"
            )
        )
    among = getattr(rules, "in")
    if among:
        allowed = frozenset(among)
        yield lambda text: "" if text in allowed else f"{text!r} is none of {', '.join(sorted(allowed))}"
    if rules.well_known_regex:
        yield from _well_known(rules)


def _well_known(rules: Any) -> Iterator[Check]:
    if not rules.strict:
        yield lambda text: f"{text!r} contains a line break or NUL" if _LINE.search(text) else ""
        return
    shape = _NAME if rules.well_known_regex == 1 else _VALUE  # validate.KnownRegex: HTTP_HEADER_NAME, _VALUE
    what = "the name" if shape is _NAME else "the value"
    yield lambda text: "" if shape.fullmatch(text) else f"{text!r} is not {what} of a header"
