"""Header mutations of routes and of the header_mutation filter, and the rewrites beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError

from meshlib.model.headers import AppendAction, FilterMutations, HeaderMutations, HeaderToAdd, MutationStep
from meshlib.model.rewrite import RegexRewrite
from meshlib.model.template import Template
from meshlib.xds.decode_values import any_type, choice, flag, unpack
from meshlib.xds.protos import header_mutation_pb2, route_components_pb2
from meshlib.xds.scope import Scope

HEADER_MUTATION = header_mutation_pb2.HeaderMutation.DESCRIPTOR.full_name
_FILTER_CONFIG = route_components_pb2.FilterConfig.DESCRIPTOR.full_name
HEADER_MUTATION_PER_ROUTE = header_mutation_pb2.HeaderMutationPerRoute.DESCRIPTOR.full_name

# validate.rules of RouteConfiguration and core.v3.HeaderValue.
_MOST_ADDED = 1000
_LONGEST = 16384


def header_mutations(scope: Scope, message: Any, direction: str) -> HeaderMutations:
    """Return ``<direction>_headers_to_add`` and ``_to_remove`` of one level; removals come first."""
    to_add, to_remove = f"{direction}_headers_to_add", f"{direction}_headers_to_remove"
    options, names = getattr(message, to_add), getattr(message, to_remove)
    if not options and not names:
        return HeaderMutations()
    if len(options) > _MOST_ADDED:
        scope.fault(to_add, f"has {len(options)} headers, the limit is {_MOST_ADDED}")
    added = (_to_add(scope.at(to_add, i), option) for i, option in enumerate(options))
    removed = frozenset(_modifiable(scope, f"{to_remove}[{i}]", name) for i, name in enumerate(names))
    return HeaderMutations((MutationStep(removed, tuple(h for h in added if h is not None)),))


def _to_add(scope: Scope, option: Any) -> HeaderToAdd | None:
    scope.audit(option)
    header = option.header
    if len(header.value) > _LONGEST:
        scope.fault("header.value", f"has {len(header.value)} characters, the limit is {_LONGEST}")
    name = _modifiable(scope, "header.key", header.key)
    if option.HasField("append") and option.append_action:
        scope.fault("append", "cannot go with append_action")
    action = AppendAction(choice(scope, option, "append_action"))
    if not flag(option, "append", True):
        action = AppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    text = header.value or header.raw_value.decode("latin-1")
    value = template(scope, "header.value", text)
    return None if value is None else HeaderToAdd(name, value, action, option.keep_empty_value)


def _modifiable(scope: Scope, field: str, key: str) -> str:
    """Return a header name in lower case; Envoy lets no one touch the Host and what begins with a colon."""
    if not key:
        scope.fault(field, "must not be empty")
    elif any(char in key for char in "\0\r\n"):
        scope.fault(field, f"{key!r} contains a line break or NUL")
    elif key.startswith(":") or key.lower() == "host":
        scope.fault(field, f"{key!r} cannot be changed: use a rewrite")
    return key.lower()


def template(scope: Scope, field: str, text: str, missing: str = "") -> Template | None:
    """Return a text with commands (``%REQ(..)%``), or None and a fault for what Envoy refuses."""
    if any(char in text for char in "\0\r\n"):
        scope.fault(field, f"{text!r} contains a line break or NUL")
        return None
    try:
        made = Template(text, missing)
    except ValueError as error:
        scope.fault(field, str(error))
        return None
    for command in made.foreign:
        scope.note(field, f"%{command}% has no value in a client: it is left empty")
    return made


def regex_rewrite(scope: Scope, message: Any) -> RegexRewrite | None:
    """Return a ``RegexMatchAndSubstitute``."""
    if not message.pattern.regex:
        scope.fault("pattern.regex", "must not be empty")
        return None
    if any(char in message.substitution for char in "\0\r\n"):
        scope.fault("substitution", "contains a line break or NUL")
    try:
        return RegexRewrite(message.pattern.regex, message.substitution)
    except ValueError as error:
        scope.fault("pattern.regex", str(error))
        return None


def mutation_filter(scope: Scope, message: Any) -> FilterMutations:
    """Return a ``HeaderMutation`` filter, or what a route says to it (``HeaderMutationPerRoute``)."""
    scope.audit(message)
    place = scope.at("mutations")
    place.audit(message.mutations)
    found = FilterMutations(
        _steps(place, "request_mutations", message.mutations),
        _steps(place, "response_mutations", message.mutations),
        getattr(message, "most_specific_header_mutations_wins", False),
    )
    scope.obey(message)
    return found


def _steps(scope: Scope, field: str, mutations: Any) -> HeaderMutations:
    """Each mutation is a step of its own: the filter makes them one by one."""
    return HeaderMutations(tuple(each_step(scope, field, getattr(mutations, field))))


def each_step(scope: Scope, field: str, mutations: Any) -> Iterator[MutationStep]:
    """Yield each of a list of ``mutation_rules.v3.HeaderMutation``, the field ``field``, as a step of its own."""
    for i, mutation in enumerate(mutations):
        place = scope.at(field, i)
        place.audit(mutation)
        kind = mutation.WhichOneof("action")
        if kind == "remove":
            yield MutationStep(frozenset({mutation.remove.lower()}))  # any name, to the filter
        elif kind == "append":
            header = _to_add(place.at("append"), mutation.append)
            if header is not None:
                yield MutationStep(add=(header,))
        elif kind is None:
            place.fault("action", "is missing: expected remove or append")


def per_filter_mutations(scope: Scope, configs: Any) -> FilterMutations | None:
    """Return what a ``typed_per_filter_config`` map says to the header_mutation filter, None for nothing."""
    for name in sorted(configs):
        place, packed = scope.at("typed_per_filter_config", name), configs[name]
        if any_type(packed) == _FILTER_CONFIG:
            packed, place = _wrapped(packed), place.at("config")
        if any_type(packed) == HEADER_MUTATION_PER_ROUTE:
            message = unpack(place, packed, "", header_mutation_pb2.HeaderMutationPerRoute)
            return None if message is None else mutation_filter(place, message)
    return None


def _wrapped(packed: Any) -> Any:
    """Return the Any in a FilterConfig, an empty one where that is disabled or does not parse (a fault already)."""
    wrapper = route_components_pb2.FilterConfig()
    with contextlib.suppress(DecodeError):
        wrapper.ParseFromString(packed.value)
    if wrapper.disabled:
        wrapper.ClearField("config")
    return wrapper.config
