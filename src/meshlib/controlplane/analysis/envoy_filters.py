"""EnvoyFilters: that they are one, and operations that do not do what they seem to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshlib.controlplane.analysis.finding import Finding, found
from meshlib.controlplane.analysis.objects import Object, Objects, listed, mapping

_INTERNAL = (
    "Schema validation warning: EnvoyFilter exposes internal implementation details that may change at any time. "
    "Prefer other APIs if possible, and exercise extreme caution, especially around upgrades."
)
_RELATIVE = (
    "This EnvoyFilter does not have a priority and has a relative patch operation set which can cause the EnvoyFilter "
    "not to be applied. Using the INSERT_FIRST of ADD option or setting the priority may help in ensuring the "
    "EnvoyFilter is applied correctly."
)
_RELATIVE_WITH_VERSION = (
    "This EnvoyFilter does not have a priority and has a relative patch operation (NSTERT_BEFORE/AFTER, REPLACE, "
    "MERGE, DELETE) and proxyVersion set which can cause the EnvoyFilter not to be applied during an upgrade. Using "
    "the INSERT_FIRST or ADD option or setting the priority may help in ensuring the EnvoyFilter is applied correctly."
)
_REPLACE = "The REPLACE operation is only valid for HTTP_FILTER and NETWORK_FILTER."
_IGNORED = "The {} operation will be ignored when applyTo is set to ROUTE_CONFIGURATION, or HTTP_ROUTE."
_ROUTES = ("ROUTE_CONFIGURATION", "HTTP_ROUTE")
_REPLACEABLE = ("NETWORK_FILTER", "HTTP_FILTER", "VIRTUAL_HOST")


def operations(objects: Objects) -> Iterator[Finding]:
    """IST0133, IST0151 to IST0155."""
    versioned: list[str] = []
    for document in objects.of("EnvoyFilter"):
        yield found("IST0133", document.place, _INTERNAL)
        for index, patch in enumerate(map(mapping, listed(document.spec.get("configPatches")))):
            change = mapping(patch.get("patch"))
            if not change:
                break
            name = _name(patch, change)
            yield from _operation(document, index, patch, str(change.get("operation", "")), name in versioned)
            if mapping(mapping(patch.get("match")).get("proxy")).get("proxyVersion"):
                versioned.append(name)


def _operation(
    document: Object, index: int, patch: Mapping[str, Any], operation: str, versioned: bool
) -> Iterator[Finding]:
    place, applies = document.at("spec", "configPatches", index), str(patch.get("applyTo", ""))
    relative = operation in ("REMOVE", "REPLACE", "INSERT_BEFORE", "INSERT_AFTER")
    if operation == "ADD" and applies in _ROUTES:
        yield found("IST0153", place, _IGNORED.format(operation))
    elif operation == "REMOVE" and applies in _ROUTES:
        yield found("IST0154", place, _IGNORED.format(operation))
    elif operation == "REPLACE" and applies not in _REPLACEABLE:
        yield found("IST0152", place, _REPLACE)
    elif relative and not document.spec.get("priority"):
        code, message = ("IST0155", _RELATIVE_WITH_VERSION) if versioned else ("IST0151", _RELATIVE)
        yield found(code, place, message)


def _name(patch: Mapping[str, Any], change: Mapping[str, Any]) -> str:
    value = mapping(change.get("value"))
    chain = mapping(mapping(mapping(patch.get("match")).get("listener")).get("filterChain"))
    return str(value.get("name") or (mapping(chain.get("filter")).get("name", "") if value else ""))
