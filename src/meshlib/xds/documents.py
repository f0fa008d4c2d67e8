"""Documents people write, JSON or YAML: read, with the place of whatever is wrong with them."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from google.protobuf import descriptor_pool

from meshlib.errors import BootstrapError


def read_document(text: str, origin: str) -> Any:
    """Return what a text says; raises ``BootstrapError`` with line and column."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or error
        raise BootstrapError(f"{origin}{where}: is neither JSON nor YAML: {problem}") from error


def position(text: str, path: Sequence[str | int], key: str = "") -> tuple[int, int]:
    """Return line and column, from 1, of the value at ``path`` in a document, or of ``key`` within it.

    Of the deepest part of the path that is there; of the only ``key`` below that, where there is
    exactly one.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:  # JSON may have tabs, which YAML has not
        return 1, 1
    if node is None:
        return 1, 1
    for step in path:
        below = _below(node, step)
        if below is None:
            break
        node = below
    named = [name for name in _keys(node) if name.value == key] if key else []
    mark = (named[0] if len(named) == 1 else node).start_mark
    return mark.line + 1, mark.column + 1


def _below(node: yaml.Node, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return node.value[step] if step < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == step), None)
    return None


def _keys(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield name
            yield from _keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _keys(value)


def import_types(data: object) -> None:
    """Import the modules of every ``@type`` in ``data``, for protobuf finds only what is imported."""
    for url in types(data):
        name = url.rpartition("/")[2]
        package = name.rpartition(".")[0]
        try:
            descriptor_pool.Default().FindMessageTypeByName(name)
            continue
        except KeyError:
            pass
        try:
            modules = importlib.import_module(package).__path__
        except (ImportError, AttributeError, ValueError):
            continue  # a type nobody here has: parsing says so, with its place
        for module in pkgutil.iter_modules(modules):
            if module.name.endswith("_pb2"):
                importlib.import_module(f"{package}.{module.name}")


def types(data: object) -> Iterator[str]:
    """Yield every ``@type`` in ``data``."""
    if isinstance(data, Mapping):
        url = data.get("@type")
        if isinstance(url, str):
            yield url
        for value in data.values():
            yield from types(value)
    elif isinstance(data, list):
        for value in data:
            yield from types(value)
