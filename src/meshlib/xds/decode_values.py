"""Durations, wrapped numbers, percentages, Any and Struct: the small shapes inside resources.

Each takes the message that holds the field, the field's name and the scope of the message, and
returns a plain value; what is out of range becomes a fault and the default stands in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError

from meshlib.xds.scope import Scope

UINT32_MAX = 4294967295

# google.protobuf.Duration: "approximately +-10,000 years".
_MAX_SECONDS = 315_576_000_000
_MAX_NANOS = 999_999_999

# envoy.type.v3.FractionalPercent.DenominatorType: HUNDRED, TEN_THOUSAND, MILLION.
_DENOMINATORS = (100, 10_000, 1_000_000)


def seconds(scope: Scope, message: Any, field: str, default: float, *, positive: bool = False) -> float:
    """Return a Duration field in seconds, ``default`` where unset.

    Envoy takes no negative duration anywhere; ``positive`` says that it takes no zero either.
    """
    if not message.HasField(field):
        return default
    value = getattr(message, field)
    if not (0 <= value.seconds <= _MAX_SECONDS and 0 <= value.nanos <= _MAX_NANOS):
        scope.fault(field, f"the duration of {value.seconds} s and {value.nanos} ns is out of range")
        return default
    total: float = value.seconds + value.nanos / 1e9
    if positive and total == 0.0:
        scope.fault(field, "must be more than 0s")
        return default
    return total


def number(scope: Scope, message: Any, field: str, default: int, *, minimum: int = 0, maximum: int = UINT32_MAX) -> int:
    """Return a wrapped number (UInt32Value), ``default`` where unset."""
    if not message.HasField(field):
        return default
    value: int = getattr(message, field).value
    if not minimum <= value <= maximum:
        scope.fault(field, f"{value} is not in {minimum} to {maximum}")
        return default
    return value


def choice(scope: Scope, message: Any, field: str) -> int:
    """Return the number of an enum field, 0 and a fault for one that the enum does not have."""
    number: int = getattr(message, field)
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    if number and number not in enum.values_by_number:
        scope.fault(field, f"{number} is no {enum.name}")
        return 0
    return number


def flag(message: Any, field: str, default: bool) -> bool:
    """Return a BoolValue, ``default`` where unset."""
    return bool(getattr(message, field).value) if message.HasField(field) else default


def demand(scope: Scope, message: Any, *fields: str) -> None:
    """Fault fields that must not be empty."""
    for field in fields:
        if not getattr(message, field):
            scope.fault(field, "must not be empty")


def percent(scope: Scope, message: Any, field: str, default: float) -> float:
    """Return a ``type.v3.Percent``, 0 to 100; NaN is refused, as Envoy does."""
    if not message.HasField(field):
        return default
    value: float = getattr(message, field).value
    if not 0.0 <= value <= 100.0:
        scope.fault(field, f"{value} is not a percentage of 0 to 100")
        return default
    return value


def fraction(scope: Scope, message: Any, field: str) -> float:
    """Return a ``type.v3.FractionalPercent`` as 0 to 100; unset is 0, more than all is all."""
    value = getattr(message, field)
    if not 0 <= value.denominator < len(_DENOMINATORS):
        scope.fault(field, f"denominator {value.denominator} is none of HUNDRED, TEN_THOUSAND, MILLION")
        return 0.0
    share: float = 100.0 * value.numerator / _DENOMINATORS[value.denominator]
    return min(100.0, share)


def fraction_unit(value: Any) -> float:
    """Return the percent that 1 stands for as the numerator of a ``type.v3.FractionalPercent``."""
    return 100.0 / _DENOMINATORS[value.denominator] if 0 <= value.denominator < len(_DENOMINATORS) else 0.0


def any_type(packed: Any) -> str:
    """Return the full name of the message in an Any, empty for an empty one."""
    return str(packed.type_url).rpartition("/")[2]


def unpack(scope: Scope, packed: Any, field: str, kind: Any) -> Any | None:
    """Return the message in an Any, or None and a fault when it is not a ``kind``."""
    wanted = kind.DESCRIPTOR.full_name
    if any_type(packed) != wanted:
        scope.fault(field, f"expected a {wanted}, not {any_type(packed) or 'nothing'}")
        return None
    try:
        return kind.FromString(packed.value)
    except DecodeError as error:
        scope.fault(field, f"is not a valid {wanted}: {error}")
        return None


def plain(value: Any) -> object:
    """Return a ``google.protobuf.Value`` as Python's own."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return plain_struct(value.struct_value)
    if kind == "list_value":
        return [plain(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def plain_struct(struct: Any) -> dict[str, object]:
    """Return a ``google.protobuf.Struct`` as a dict."""
    return {key: plain(value) for key, value in struct.fields.items()}


def plain_metadata(metadata: Any) -> dict[str, Mapping[str, object]]:
    """Return the ``filter_metadata`` of a ``core.v3.Metadata`` as plain dicts."""
    return {name: plain_struct(struct) for name, struct in metadata.filter_metadata.items()}


def source(metadata: Any) -> str:
    """Return where a resource was configured, for ``explain``.

    meshlib's own control plane says file and line under ``meshlib``; istiod says the path of the
    Kubernetes object under ``istio``.
    """
    filters = metadata.filter_metadata
    for namespace, key in (("meshlib", "source"), ("istio", "config")):
        if namespace in filters and key in filters[namespace].fields:
            return str(filters[namespace].fields[key].string_value)
    return ""
