"""What of a node its translation depends on, found out by watching what is read.

Most nodes of a namespace are served the same. Which of their labels, addresses and metadata make
a difference depends on the configuration, so nobody lists them: a node that notes what is read of
it is translated, and every other node that has the same there has the same resources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from meshlib.controlplane.node import Node

_FIELDS = frozenset(field.name for field in fields(Node))
_MISSING = object()


class ObservedNode(Node):
    """A node that notes what is read of it: a field, or one key of a field."""

    def __init__(self, node: Node) -> None:
        self.__dict__.update(node=node, seen={})

    def __getattribute__(self, name: str) -> Any:
        if name not in _FIELDS:
            return super().__getattribute__(name)
        own = super().__getattribute__("__dict__")
        seen: dict[tuple[str, str | None], Any] = own["seen"]
        value = getattr(own["node"], name)
        if isinstance(value, Mapping):
            return _ObservedMapping(value, name, seen)
        seen[name, None] = value
        return value

    def fits(self, other: Node) -> bool:
        """Tell whether ``other`` has what was read of this one, so that reading it comes to the same."""
        seen: dict[tuple[str, str | None], Any] = self.__dict__["seen"]
        return all(_value(other, name, key) == value for (name, key), value in seen.items())


def _value(node: Node, name: str, key: str | None) -> Any:
    value = getattr(node, name)
    return value if key is None else value.get(key, _MISSING)


class _ObservedMapping(Mapping[str, Any]):
    """A field that is a mapping; looked through whole, it is noted whole."""

    def __init__(self, values: Mapping[str, Any], name: str, seen: dict[tuple[str, str | None], Any]) -> None:
        self._values = values
        self._name = name
        self._seen = seen

    def __getitem__(self, key: str) -> Any:
        self._seen[self._name, key] = self._values.get(key, _MISSING)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        self._seen[self._name, None] = self._values
        return iter(self._values)

    def __len__(self) -> int:
        self._seen[self._name, None] = self._values
        return len(self._values)
