"""Bodies made here from a format (``SubstitutionFormatString``): text with commands, or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from meshlib.model.template import Facts, Template

# Commands whose value is a number in JSON.
_NUMBERS = frozenset({"%BYTES_RECEIVED%", "%RESPONSE_CODE%", "%UPSTREAM_REMOTE_PORT%"})

Tree = Template | Mapping[str, "Tree"] | tuple["Tree", ...] | float | bool | None


@dataclass(frozen=True, slots=True)
class BodyFormat:
    """How a body is made.

    Attributes:
        tree: text with commands, or what JSON is made of.
        content_type: of the body.
        omit_empty: whether JSON leaves out members that have no value.
    """

    tree: Tree
    content_type: str = "text/plain"
    omit_empty: bool = False

    def render(self, facts: Facts) -> str:
        """Return the body."""
        if isinstance(self.tree, Template):
            return self.tree.format(facts)
        filled = _filled(self.tree, facts, self.omit_empty)
        return json.dumps(filled, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"


def _filled(tree: Tree, facts: Facts, omit_empty: bool) -> object:
    if isinstance(tree, Template):
        return _typed(tree, facts)
    if isinstance(tree, Mapping):
        filled = {key: _filled(value, facts, omit_empty) for key, value in tree.items()}
        return {key: value for key, value in filled.items() if value is not None or not omit_empty}
    if isinstance(tree, tuple):
        return [_filled(value, facts, omit_empty) for value in tree]
    return int(tree) if isinstance(tree, float) and tree.is_integer() else tree


def _typed(text: Template, facts: Facts) -> object:
    """Return the value of a text: a lone command keeps its type, and is null where it has no value."""
    alone: Callable[[Facts], str | None] | None = text.alone
    if alone is None:
        return text.format(facts)
    value = alone(facts)
    return int(value) if value is not None and text.text in _NUMBERS else value
