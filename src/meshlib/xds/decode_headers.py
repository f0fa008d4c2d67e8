"""Header mutations of routes and of the header_mutation filter, and the rewrites beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError

from meshlib.model.headers import (
    AppendAction,
    FilterMutations,
    HeaderMutations,
    HeaderToAdd,
    MutationStep,
    QueryMutation,
)
from meshlib.model.rewrite import RegexRewrite
from meshlib.model.template import Template
from meshlib.model.uri_template import UriTemplate
from meshlib.xds.decode_matchers import string_match
from meshlib.xds.decode_values import any_type, choice, flag, unpack
from meshlib.xds.protos import header_mutation_pb2, route_components_pb2, uri_template_rewrite_pb2
from meshlib.xds.scope import Scope

HEADER_MUTATION = header_mutation_pb2.HeaderMutation.DESCRIPTOR.full_name
_FILTER_CONFIG = route_components_pb2.FilterConfig.DESCRIPTOR.full_name
HEADER_MUTATION_PER_ROUTE = header_mutation_pb2.HeaderMutationPerRoute.DESCRIPTOR.full_name

_CUSTOMARY = "envoy.filters.http.header_mutation"

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
    added = (header_to_add(scope.at(to_add, i), option) for i, option in enumerate(options))
    removed = frozenset(_modifiable(scope, f"{to_remove}[{i}]", name) for i, name in enumerate(names))
    return HeaderMutations((MutationStep(removed, tuple(h for h in added if h is not None)),))


def header_to_add(scope: Scope, option: Any) -> HeaderToAdd | None:
    """Return a ``HeaderValueOption``, None for one that has a fault."""
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


def template(scope: Scope, field: str, text: str) -> Template | None:
    """Return a text with commands (``%REQ(..)%``), or None and a fault for what Envoy refuses."""
    if any(char in text for char in "\0\r\n"):
        scope.fault(field, f"{text!r} contains a line break or NUL")
        return None
    try:
        made = Template(text)
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


def template_rewrite(scope: Scope, policy: Any, matched: UriTemplate | None) -> RegexRewrite | None:
    """Return what ``path_rewrite_policy`` does to a path that the template ``matched`` matches."""
    config = unpack(scope, policy.typed_config, "typed_config", uri_template_rewrite_pb2.UriTemplateRewriteConfig)
    if config is None:
        return None
    scope.at("typed_config").audit(config)
    if matched is None:
        scope.fault("", "goes only with a path_match_policy")
        return None
    try:
        return RegexRewrite(f"^(?:{matched.regex})$", matched.substitution(config.path_template_rewrite))
    except ValueError as error:
        scope.fault("typed_config.path_template_rewrite", str(error))
        return None


def mutation_filter(scope: Scope, message: Any) -> FilterMutations:
    """Return a ``HeaderMutation`` filter, or what a route says to it (``HeaderMutationPerRoute``)."""
    scope.audit(message)
    place = scope.at("mutations")
    place.audit(message.mutations)
    return FilterMutations(
        _steps(place, "request_mutations", message.mutations),
        _steps(place, "response_mutations", message.mutations),
        getattr(message, "most_specific_header_mutations_wins", False),
        tuple(_query_mutations(place, message.mutations.query_parameter_mutations)),
    )


def _query_mutations(scope: Scope, mutations: Any) -> Iterator[QueryMutation]:
    for i, mutation in enumerate(mutations):
        place = scope.at("query_parameter_mutations", i)
        if mutation.remove:
            yield QueryMutation(mutation.remove)
        elif not mutation.HasField("append"):
            place.fault("append", "is missing, and so is remove")
        else:
            inner = place.at("append")
            inner.audit(mutation.append)
            record = mutation.append.record
            if not record.key:
                inner.fault("record.key", "must not be empty")
            action = AppendAction(choice(inner, mutation.append, "action"))
            value = template(inner, "record.value", record.value.string_value)
            if value is not None:
                yield QueryMutation(record.key, value, action)


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
            yield MutationStep(frozenset({_modifiable(place, "remove", mutation.remove)}))
        elif kind == "append":
            header = header_to_add(place.at("append"), mutation.append)
            if header is not None:
                yield MutationStep(add=(header,))
        elif kind == "remove_on_match":
            pattern = place.at("remove_on_match.key_matcher")
            yield MutationStep(remove_matching=string_match(pattern, mutation.remove_on_match.key_matcher))
        else:
            place.fault("action", "is missing: expected remove, append or remove_on_match")


def per_filter_mutations(scope: Scope, configs: Any) -> FilterMutations | None:
    """Return what a ``typed_per_filter_config`` map says to the header_mutation filter, None for nothing."""
    for name in sorted(configs):
        place, packed = scope.at("typed_per_filter_config", name), configs[name]
        if any_type(packed) == _FILTER_CONFIG:
            wrapper = _wrapper(packed)
            if wrapper.disabled and (name == _CUSTOMARY or any_type(wrapper.config) == HEADER_MUTATION_PER_ROUTE):
                return FilterMutations(disabled=True)
            packed, place = wrapper.config, place.at("config")
        if any_type(packed) == HEADER_MUTATION_PER_ROUTE:
            message = unpack(place, packed, "", header_mutation_pb2.HeaderMutationPerRoute)
            return None if message is None else mutation_filter(place, message)
    return None


def _wrapper(packed: Any) -> Any:
    """Return a FilterConfig, an empty one where it does not parse (a fault already)."""
    wrapper = route_components_pb2.FilterConfig()
    with contextlib.suppress(DecodeError):
        wrapper.ParseFromString(packed.value)
    return wrapper
