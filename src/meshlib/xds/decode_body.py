"""Bodies of direct responses: where they come from, and what is made of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshlib.model.body_format import BodyFormat, Tree
from meshlib.model.template import Template
from meshlib.xds.decode_values import plain_struct
from meshlib.xds.scope import Scope

_MISSING = "-"  # SubstitutionFormatString.omit_empty_values: "By default … as "-""


def data_source(scope: Scope, source: Any) -> bytes:
    """Return what a ``core.v3.DataSource`` holds; files and variables are read once, as Envoy does."""
    scope.audit(source)
    kind = source.WhichOneof("specifier")
    if kind == "inline_bytes":
        return bytes(source.inline_bytes)
    if kind == "inline_string":
        return str(source.inline_string).encode()
    if kind == "filename":
        try:
            return Path(source.filename).read_bytes()
        except OSError as error:
            scope.fault(kind, f"{source.filename!r} cannot be read: {error.strerror}")
    elif kind == "environment_variable":
        value = os.environ.get(source.environment_variable)
        if value is not None:
            return value.encode()
        scope.fault(kind, f"there is no variable {source.environment_variable!r}")
    else:
        scope.fault("specifier", "is missing: expected inline_string, inline_bytes, filename or environment_variable")
    return b""


def body_format(scope: Scope, message: Any) -> BodyFormat | None:
    """Return a ``SubstitutionFormatString``."""
    scope.audit(message)
    kind = message.WhichOneof("format")
    missing = "" if message.omit_empty_values else _MISSING
    if kind == "json_format":
        tree = _tree(scope.at(kind), plain_struct(message.json_format))
        return BodyFormat(tree, message.content_type or "application/json", message.omit_empty_values)
    if kind == "text_format":
        text = message.text_format
    elif kind == "text_format_source":
        text = data_source(scope.at(kind), message.text_format_source).decode("utf-8", "replace")
    else:
        scope.fault("format", "is missing: expected text_format_source or json_format")
        return None
    made = _template(scope, kind, text, missing)
    return None if made is None else BodyFormat(made, message.content_type or "text/plain")


def _tree(scope: Scope, value: object) -> Tree:
    if isinstance(value, str):
        return _template(scope, "", value, _MISSING)
    if isinstance(value, Mapping):
        return {key: _tree(scope.at(key), item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tree(scope, item) for item in value)
    return value if isinstance(value, float | bool) else None


def _template(scope: Scope, field: str, text: str, missing: str) -> Template | None:
    try:
        made = Template(text, missing)
    except ValueError as error:
        scope.fault(field, str(error))
        return None
    for command in made.foreign:
        scope.note(field, f"%{command}% has no value in a client: it is left empty")
    return made
