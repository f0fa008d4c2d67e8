"""Reading trees into typed values: every fault found, each with its place.

A kind of document is a frozen dataclass, and its annotations say how it is read::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Retries(Message):
        attempts: Count = 0
        per_try_timeout: Duration | None = None

``Retries.read`` is the reader of such a mapping: a field without a default must be written, and
an attribute's name in YAML is its name in camel case. ``at`` keeps where the value stands, so
that whoever finds a fault later (a host that does not exist) can still say where.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingABC
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args, get_origin, get_type_hints

from meshlib.controlplane.documents.place import Misfit, Place, Reader, Report
from meshlib.controlplane.documents.tree import Mapping, Scalar, Sequence, Tree, describe, resolve
from meshlib.controlplane.faults import suggestion
from meshlib.model.match import full_match

T = TypeVar("T")


# ---------------------------------------------------------------- scalars


def _scalar(place: Place, expected: str) -> str | int | float | bool | None:
    if not isinstance(place.tree, Scalar):
        raise Misfit(place, f"expected {expected}, got {describe(place.tree)}")
    return resolve(place.tree)


def text(place: Place, _: Report) -> str:
    """Read a string. A number or boolean must be quoted, as Kubernetes demands."""
    value = _scalar(place, "a string")
    if isinstance(value, str):
        return value
    hint = "" if value is None else "; write it in quotes"
    raise Misfit(place, f"expected a string, got {describe(place.tree)}{hint}")


def name(place: Place, report: Report) -> str:
    """Read a string that is not empty."""
    value = text(place, report)
    if not value.strip():
        raise Misfit(place, "expected a name, got an empty string")
    return value


def boolean(place: Place, _: Report) -> bool:
    """Read a boolean."""
    value = _scalar(place, "true or false")
    if isinstance(value, bool):
        return value
    raise Misfit(place, f"expected true or false, got {describe(place.tree)}")


def integer(low: int, high: int) -> Reader[int]:
    """Return a reader of integers from ``low`` to ``high``."""

    def read(place: Place, _: Report) -> int:
        value = _scalar(place, "an integer")
        if isinstance(value, bool) or not isinstance(value, int):
            raise Misfit(place, f"expected an integer, got {describe(place.tree)}")
        if not low <= value <= high:
            raise Misfit(place, f"expected an integer from {low} to {high}, got {value}")
        return value

    return read


def percent(place: Place, _: Report) -> float:
    """Read a number from 0 to 100."""
    value = _scalar(place, "a number from 0 to 100")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise Misfit(place, f"expected a number from 0 to 100, got {describe(place.tree)}")
    return float(value)


def number(low: float) -> Reader[float]:
    """Return a reader of numbers of at least ``low``."""

    def read(place: Place, _: Report) -> float:
        value = _scalar(place, "a number")
        if isinstance(value, bool) or not isinstance(value, int | float) or value < low:
            raise Misfit(place, f"expected a number of at least {low:g}, got {describe(place.tree)}")
        return float(value)

    return read


_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
GO_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_EXPECTED = "a duration like '2s', '500ms' or '1m30s'"


def duration(place: Place, _: Report) -> float:
    """Read Go's duration syntax into seconds. Negative ones are refused."""
    value = _scalar(place, _DURATION_EXPECTED)
    if not isinstance(value, str) or not GO_DURATION.fullmatch(value):
        raise Misfit(place, f"expected {_DURATION_EXPECTED}, got {describe(place.tree)}")
    return go_seconds(value)


def go_seconds(written: str) -> float:
    """Return the seconds of what :data:`GO_DURATION` matches."""
    return round(sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(written)), 9)


def positive_duration(place: Place, report: Report) -> float:
    """Read a duration of at least a millisecond, which is Istio's smallest."""
    value = duration(place, report)
    if value < 0.001:
        raise Misfit(place, f"expected at least 1ms, got {describe(place.tree)}")
    return value


def regex(place: Place, report: Report) -> str:
    """Read a regular expression of RE2, which is Envoy's."""
    value = text(place, report)
    try:
        full_match(value)
    except ValueError as error:
        raise Misfit(place, str(error)) from error
    return value


def one_of(*allowed: str) -> Reader[str]:
    """Return a reader of one of the strings ``allowed``."""

    def read(place: Place, report: Report) -> str:
        value = text(place, report)
        if value not in allowed:
            near = suggestion(value.upper() if value.upper() in allowed else value, allowed)
            raise Misfit(place, f"expected one of {', '.join(allowed)}, got {value!r}{near}")
        return value

    return read


def anything(place: Place, _: Report) -> Any:
    """Read a value of any form as Python has it."""
    return plain(place.tree)


def plain(tree: Tree) -> Any:
    """Return a tree as dicts, lists and scalars."""
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.entries.items()}
    if isinstance(tree, Sequence):
        return [plain(item) for item in tree.items]
    return resolve(tree)


# ---------------------------------------------------------------- collections


def list_of(reader: Reader[T], *, empty: bool = True) -> Reader[tuple[T, ...]]:
    """Return a reader of lists; every faulty item is reported."""

    def read(place: Place, report: Report) -> tuple[T, ...]:
        if not isinstance(place.tree, Sequence):
            raise Misfit(place, f"expected a list, got {describe(place.tree)}")
        if not empty and not place.tree.items:
            raise Misfit(place, "expected at least one item, got an empty list")
        values: list[T] = []
        for index in range(len(place.tree.items)):
            report.attempt(reader, place.item(index), values.append)
        return tuple(values)

    return read


def map_of(reader: Reader[T]) -> Reader[MappingABC[str, T]]:
    """Return a reader of mappings from strings; every faulty value is reported."""

    def read(place: Place, report: Report) -> MappingABC[str, T]:
        values: dict[str, T] = {}
        for key in _mapping(place).entries:
            report.attempt(reader, place.child(key), partial(values.__setitem__, key))
        return values

    return read


def _mapping(place: Place) -> Mapping:
    if not isinstance(place.tree, Mapping):
        raise Misfit(place, f"expected a mapping, got {describe(place.tree)}")
    return place.tree


# ---------------------------------------------------------------- annotations


@dataclass(frozen=True, slots=True)
class Key:
    """``Annotated[str, Key("podIP")]``: a name in YAML that is not the attribute's in camel case."""

    name: str


NOT_EMPTY = object()
"""``Annotated[tuple[Name, ...], NOT_EMPTY]``: a list with at least one item."""

Name = Annotated[str, name]
Labels = MappingABC[str, str]
Port = Annotated[int, integer(1, 65535)]
Count = Annotated[int, integer(0, 2**31 - 1)]
Share = Annotated[int, integer(0, 100)]
Percent = Annotated[float, percent]
Duration = Annotated[float, positive_duration]
Regex = Annotated[str, regex]

_BY_TYPE: MappingABC[object, Reader[Any]] = {str: text, bool: boolean}


def _reader(hint: Any, *, empty: bool = True) -> Reader[Any]:
    """Derive how a value of an annotated type is read."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        own = next((item for item in arguments[1:] if callable(item)), None)
        return own or _reader(arguments[0], empty=NOT_EMPTY not in arguments)
    if type(None) in arguments:
        return _reader(next(item for item in arguments if item is not type(None)))
    if origin is tuple:
        return list_of(_reader(arguments[0]), empty=empty)
    if origin is MappingABC:
        return map_of(_reader(arguments[1]))
    if hint in _BY_TYPE:
        return _BY_TYPE[hint]
    reader: Reader[Any] = hint.read
    return reader


# ---------------------------------------------------------------- messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A mapping of known fields.

    Attributes:
        at: where it stands.
        NOT_APPLIED: fields of Istio that are known and not obeyed yet; each one met is warned
            about.
        NO_BEARING: fields that are read over: they mean nothing to a mesh without Kubernetes.
        OPEN: whether any other field is read over too (Kubernetes' own large objects).
    """

    NOT_APPLIED: ClassVar[frozenset[str]] = frozenset()
    NO_BEARING: ClassVar[frozenset[str]] = frozenset()
    OPEN: ClassVar[bool] = False

    at: Place = field(compare=False, repr=False)

    def check(self, report: Report) -> None:
        """Report what is wrong between the fields; each is of the right type here."""

    @classmethod
    def read(cls, place: Place, report: Report) -> Self:
        """Read a mapping; unknown, missing and faulty fields are all reported."""
        if isinstance(place.tree, Scalar) and resolve(place.tree) is None:
            place = Place(place.origin, place.path, Mapping({}, {}, place.tree.line, place.tree.column))
        known = _fields(cls)
        before = report.errors
        values: dict[str, Any] = {}
        for key in _mapping(place).entries:
            if key in known:
                known[key].read(place.child(key), report, values)
            else:
                cls._unknown(place.key(key), key, report)
        for key, item in known.items():
            if item.required and not place.has(key):
                report.error(place, f"expected a field {key!r}, and there is none")
        if report.errors == before:
            value = cls(at=place, **values)
            value.check(report)
        if report.errors > before:
            raise Misfit(place, "")
        return value

    @classmethod
    def _unknown(cls, place: Place, key: str, report: Report) -> None:
        if key in cls.NOT_APPLIED:
            report.warning(place, "not applied yet by the embedded control plane")
        elif key not in cls.NO_BEARING and not cls.OPEN:
            allowed = {*_fields(cls), *cls.NOT_APPLIED, *cls.NO_BEARING}
            near = suggestion(key, sorted(allowed)) or f"; known here: {', '.join(sorted(allowed))}"
            report.error(place, f"unknown field{near}")


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message."""

    attribute: str
    reader: Reader[Any]
    required: bool

    def read(self, place: Place, report: Report, values: dict[str, Any]) -> None:
        if isinstance(place.tree, Scalar) and resolve(place.tree) is None and not self.required:
            return  # `subsets:` with nothing behind it is as good as absent, to Kubernetes too
        report.attempt(self.reader, place, partial(values.__setitem__, self.attribute))


_KNOWN: dict[type, MappingABC[str, _Field]] = {}  # written once a class, always with the same value


def _fields(cls: type[Message]) -> MappingABC[str, _Field]:
    if cls not in _KNOWN:
        _KNOWN[cls] = _derive(cls)
    return _KNOWN[cls]


def _derive(cls: type[Message]) -> MappingABC[str, _Field]:
    hints = get_type_hints(cls, include_extras=True)
    found: dict[str, _Field] = {}
    for item in fields(cls):
        if item.name != "at":
            hint = hints[item.name]
            key = next((extra.name for extra in get_args(hint) if isinstance(extra, Key)), _camel(item.name))
            required = item.default is MISSING and item.default_factory is MISSING
            found[key] = _Field(item.name, _reader(hint), required)
    return found


def _camel(attribute: str) -> str:
    first, *rest = attribute.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)
