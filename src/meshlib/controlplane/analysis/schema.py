"""Objects that are not what their kind has to be: istioctl's words where it has any, else those of our own reader."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from meshlib.controlplane.analysis.finding import LEVELS, Finding, found
from meshlib.controlplane.analysis.objects import Object, Objects, listed, mapping
from meshlib.controlplane.faults import ERROR, Fault
from meshlib.model.match import full_match

# What protobuf's JSON does not take: with these istioctl cannot read the file at all (exit code 65).
_UNPARSABLE = re.compile(
    r"expected (a duration like|a string, got|true or false|an integer, got|a list, got|a mapping, got|a number)"
    r"|expected one of [^:]*, got '"
)
# What istioctl and the API server's schema leave to others, or what only our reader insists on.
_OURS = re.compile(
    r"unknown field|expected a field 'hosts'|expected at least one item|duplicate: |and there is none|apiVersion"
)


def weights_and_patterns(objects: Objects) -> Iterator[Finding]:
    """IST0106: negative weights and regular expressions that RE2 does not take."""
    for document in objects.of("VirtualService"):
        for index, route in enumerate(map(mapping, listed(document.spec.get("http")))):
            where: tuple[str | int, ...] = ("spec", "http", index)
            for position, item in enumerate(map(mapping, listed(route.get("route")))):
                weight = item.get("weight")
                if isinstance(weight, int) and weight < 0:
                    place = document.at(*where, "route", position, "weight")
                    yield found("IST0106", place, f"Schema validation error: weight {weight} < 0")
            for position, match in enumerate(map(mapping, listed(route.get("match")))):
                yield from _patterns(document, match, (*where, "match", position))


def _patterns(document: Object, match: Mapping[str, Any], where: tuple[str | int, ...]) -> Iterator[Finding]:
    single = [(key, match.get(key), (*where, key)) for key in ("uri", "scheme", "method", "authority")]
    several = [
        (key, value, (*where, key, name))
        for key in ("headers", "queryParams", "withoutHeaders")
        for name, value in mapping(match.get(key)).items()
    ]
    for key, written, path in (*single, *several):
        pattern = mapping(written).get("regex")
        if isinstance(pattern, str):
            try:
                full_match(pattern)
            except ValueError as error:
                message = f'Schema validation error: "{key}": {error}; Istio uses RE2 style regex-based match '
                hint = "(https://github.com/google/re2/wiki/Syntax)"
                yield found("IST0106", document.at(*path, "regex"), message + hint)


def mirror_percent(objects: Objects) -> Iterator[Finding]:
    """IST0133: the deprecated percentage of a mirror."""
    for document in objects.of("VirtualService"):
        for index, route in enumerate(map(mapping, listed(document.spec.get("http")))):
            if "mirrorPercent" in route or "mirror_percent" in route:
                message = 'using deprecated setting "mirrorPercent", use "mirrorPercentage" instead'
                yield found("IST0133", document.at("spec", "http", index), f"Schema validation warning: {message}")


def unparsable(fault: Fault) -> bool:
    """Tell whether istioctl could not read what the fault is about."""
    if fault.severity is not ERROR or fault.applies:
        return False
    return not fault.resource or (bool(_UNPARSABLE.search(fault.message)) and "rotocol" not in fault.message)


def of_reader(faults: Iterable[Fault], known: Iterable[Finding]) -> Iterator[Finding]:
    """Yield what our reader says and no check has said: IST0106, MSH0001, MSH0002."""
    said = {(item.file, item.line, item.column) for item in known if item.code == "IST0106"}
    for fault in faults:
        if fault.applies or fault.severity is not ERROR:
            code = "MSH0002"
        else:
            code = "MSH0001" if _OURS.search(fault.message) else "IST0106"
        if code == "IST0106" and (fault.file, fault.line, fault.column) in said:
            continue
        prefix = {"IST0106": "Schema validation error: ", "MSH0001": "Not applied here: "}.get(
            code, "Not obeyed here: "
        )
        namespace = fault.resource.partition(" ")[2].partition("/")[0]
        yield Finding(
            code, LEVELS[code], prefix + fault.message, fault.resource or "File", namespace,
            fault.file, fault.line, fault.column,
        )  # fmt: skip
