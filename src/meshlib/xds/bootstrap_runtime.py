"""The runtime of an Envoy bootstrap (``layered_runtime``): numbers by key, as its static layers give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshlib.errors import BootstrapError
from meshlib.xds.bootstrap_parts import Json, expect
from meshlib.xds.faults import Note, Status

_DENOMINATORS = {"HUNDRED": 1.0, "TEN_THOUSAND": 100.0, "MILLION": 10_000.0}
_OTHERS = "only static_layer is read: its values stay as they are, and RTDS is not asked for"


def runtime(data: Json, origin: str) -> tuple[Mapping[str, float], tuple[Note, ...]]:
    """Return the numbers of a ``LayeredRuntime`` by key, of the last layer that has one, and what is not honoured.

    A ``FractionalPercent`` is given in percent; what is no number changes nothing.
    """
    values: dict[str, float] = {}
    notes = []
    for i, layer in enumerate(expect(data.get("layers") or [], list, f"{origin}.layers")):
        place = f"{origin}.layers[{i}]"
        layer = expect(layer, Mapping, place)
        static = layer.get("static_layer", layer.get("staticLayer"))
        if static is not None:
            values.update(_numbers(expect(static, Mapping, f"{place}.static_layer"), "", place))
        elif set(layer) - {"name"}:
            notes.append(Note(origin, "bootstrap", f"layers[{i}]", _OTHERS, Status.REFUSED))
    return values, tuple(notes)


def _numbers(data: Json, prefix: str, place: str) -> Iterator[tuple[str, float]]:
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if "numerator" in value or "denominator" in value:
                yield name, _percent(value, f"{place}.static_layer.{name}")
            else:
                yield from _numbers(value, f"{name}.", place)
        elif isinstance(value, int | float):
            yield name, float(value)
        elif isinstance(value, str):
            try:
                yield name, float(value)
            except ValueError:
                continue


def _percent(value: Json, place: str) -> float:
    unit = _DENOMINATORS.get(str(value.get("denominator", "HUNDRED")))
    numerator = value.get("numerator", 0)
    if unit is None or not isinstance(numerator, int | float):
        raise BootstrapError(f"{place}: {dict(value)!r} is no FractionalPercent")
    return numerator / unit
