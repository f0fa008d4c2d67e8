"""ORCA: what endpoints report of their load with each response, and the weights that follow from it (gRFC A51, A58).

A report comes in the response header or trailer ``endpoint-load-metrics``, as ``BIN``, ``JSON`` or
``TEXT``, or in ``endpoint-load-metrics-bin``. It is an ``xds.data.orca.v3.OrcaLoadReport``; its
five numbers and three maps are read here from the bytes, so that policy needs no protobuf.
"""

from __future__ import annotations

import binascii
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshlib.model.balancing import LoadReports
from meshlib.policy.effects import HeaderLookup

if TYPE_CHECKING:
    from meshlib.policy.cluster_state import EndpointState

HEADER = "endpoint-load-metrics"
HEADER_BIN = "endpoint-load-metrics-bin"

_UINT32_MAX = 2**32 - 1
# xds.data.orca.v3.OrcaLoadReport by field number.
_NUMBERS = {1: "cpu_utilization", 2: "mem_utilization", 6: "rps_fractional", 7: "eps", 9: "application_utilization"}
_MAPS = {4: "request_cost", 5: "utilization", 8: "named_metrics"}
_NAMED = "named_metrics."


@dataclass(frozen=True, slots=True)
class LoadReport:
    """``OrcaLoadReport``.

    Attributes:
        numbers: ``cpu_utilization``, ``rps_fractional`` and so on, and the maps' entries as ``named_metrics.x``.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)

    def get(self, name: str) -> float:
        """Return a number by its name, 0 where it was not reported."""
        return self.numbers.get(name, 0.0)

    def highest(self, names: Iterable[str]) -> float:
        """Return the highest of the numbers named; ``named_metrics.*`` names all of a map."""
        found = [0.0]
        for name in names:
            prefix = name.removesuffix("*") if name.endswith(".*") else ""
            found += [own for key, own in self.numbers.items() if (key.startswith(prefix) if prefix else key == name)]
        return max(found)


def report_in(headers: HeaderLookup) -> LoadReport | None:
    """Return the report in response headers or trailers, None for none or for one that cannot be read."""
    binary = headers.get(HEADER_BIN)
    text = binary if binary is not None else headers.get(HEADER)
    if text is None:
        return None
    form, _, rest = ("BIN", "", text) if binary is not None else text.partition(" ")
    try:
        if form == "BIN":
            return LoadReport(dict(_from_bytes(binascii.a2b_base64(rest + "=" * (-len(rest) % 4), strict_mode=True))))
        if form == "JSON":
            return LoadReport(dict(_from_json(json.loads(rest))))
        if form == "TEXT":
            return LoadReport(_from_text(rest))
    except (ValueError, TypeError, struct.error, IndexError):
        return None  # an endpoint's mistake is no reason to fail a call that it answered
    return None


def weight_of(report: LoadReport, config: LoadReports) -> int | None:
    """Return the weight that follows from a report, None where it says too little.

    Requests a second over utilization; errors add to the latter.
    """
    rps = report.get("rps_fractional")
    if rps <= 0.0:
        return None
    used = report.highest(config.metric_names) or report.get("application_utilization") or report.get("cpu_utilization")
    used += config.error_utilization_penalty * report.get("eps") / rps
    return max(1, int(min(rps / used, _UINT32_MAX))) if used > 0.0 else None


class Reported:
    """What an endpoint's reports came to. Under the cluster's lock."""

    __slots__ = ("_first", "_last", "_weight")

    def __init__(self, weight: int, now: float) -> None:
        self._weight = weight
        self._first: float | None = now
        self._last = now

    def update(self, weight: int, now: float) -> None:
        """Take a further report in."""
        self._weight = weight
        self._last = now
        if self._first is None:
            self._first = now

    def weight(self, config: LoadReports, now: float) -> int | None:
        """Return the weight, None while reports are too young to count or after the last is too old."""
        if self._first is None or now - self._first < config.blackout_period:
            return None
        if now - self._last > config.weight_expiration_period:
            self._first = None  # the blackout begins anew
            return None
        return self._weight


def weigh(states: Sequence[EndpointState], config: LoadReports, now: float) -> bool:
    """Set the weights of endpoints by their reports; those without one get the median. Tells whether any changed."""
    found = [state.reported.weight(config, now) if state.reported is not None else None for state in states]
    known = sorted(weight for weight in found if weight is not None)
    middle = len(known) // 2
    median = 1 if not known else known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) // 2
    changed = False
    for state, weight in zip(states, found, strict=True):
        new = median if weight is None else weight
        changed = changed or new != state.weight
        state.weight = new
    return changed


# ---------------------------------------------------------------- the three forms


def _from_text(text: str) -> dict[str, float]:
    """Return what ``name:value,name:value`` says; a name twice or unknown is an error, as in Envoy."""
    found: dict[str, float] = {}
    for item in text.split(","):
        name, _, value = (part.strip() for part in item.partition(":"))
        number = float(value)
        known = name in _NUMBERS.values() or (name.startswith(_NAMED) and name != _NAMED)
        if not known or name in found or not math.isfinite(number):
            raise ValueError(item)
        found[name] = number
    return found


def _from_json(message: object) -> Iterator[tuple[str, float]]:
    if not isinstance(message, dict):
        raise TypeError("a load report is a JSON object")
    for key, value in message.items():
        name = "".join(f"_{char.lower()}" if char.isupper() else char for char in key)
        if isinstance(value, dict):
            yield from ((f"{name}.{own}", float(number)) for own, number in value.items())
        else:
            yield name, float(value)


def _from_bytes(data: bytes) -> Iterator[tuple[str, float]]:
    for number, value in _wire(data):
        if number in _NUMBERS and isinstance(value, float):
            yield _NUMBERS[number], value
        elif number in _MAPS and isinstance(value, bytes):
            entry = dict(_wire(value))
            key, metric = entry.get(1, b""), entry.get(2, 0.0)
            if isinstance(key, bytes) and isinstance(metric, float):
                yield f"{_MAPS[number]}.{key.decode()}", metric


def _wire(data: bytes) -> Iterator[tuple[int, float | int | bytes]]:
    """Yield the fields of a message: number, and a double, a varint or bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 1:
            yield tag >> 3, struct.unpack_from("<d", data, at)[0]
            at += 8
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("cut short")
            yield tag >> 3, data[at : at + length]
            at += length
        elif kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif kind == 5:
            at += 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than 10 bytes")
