"""YAML and JSON as trees that know their lines; nothing a file says is ever executed.

The trees are built from libyaml's events, iteratively: no construction of Python objects, no
recursion that a deeply nested file could exhaust, and a count of nodes *after* aliases are
followed, so that a "billion laughs" file is refused instead of walked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

MAX_BYTES = 8 * 1024 * 1024
MAX_NODES = 500_000
MAX_DEPTH = 100
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"

_CORE_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = frozenset(_CORE_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq"))


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value as written. ``text`` tells whether it can only be a string (quoted, ``!!str``)."""

    value: str
    line: int
    column: int
    text: bool = False
    size: int = 1


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Tree, ...]
    line: int
    column: int
    size: int = 1


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping with string keys; ``keys`` has where each key stands."""

    entries: dict[str, Tree]
    keys: dict[str, Scalar]
    line: int
    column: int
    size: int = 1


Tree = Scalar | Sequence | Mapping


class Unreadable(Exception):
    """A file, or one document of it, that cannot be read: the message, and where.

    ``ends`` says that nothing behind it in the file can be trusted.
    """

    def __init__(self, message: str, line: int = 0, column: int = 0, *, ends: bool = False) -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.ends = ends


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been met."""

    mapping: bool
    line: int
    column: int
    anchor: str | None
    children: list[Tree] = field(default_factory=list)
    size: int = 1


def split(content: bytes) -> list[tuple[int, bytes]]:
    """Return the parts of a file that can be parsed one by one, each with its first line's number.

    A line that begins with ``---`` begins a document, whatever stands before it: neither a quoted nor a block
    scalar may hold one (YAML 1.1, 4.3.1 and 9.1.1). Files with what reaches across that, or counts lines
    differently, are one part.
    """
    if len(content) > MAX_BYTES or _UNSPLITTABLE.search(content):
        return [(1, content)]
    starts = [0, *(found.start() for found in _MARKER.finditer(content) if found.start())]
    parts = [content[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
    lines = [1]
    for part in parts[:-1]:
        lines.append(lines[-1] + part.count(b"\n"))
    return list(zip(lines, parts, strict=True))


_MARKER = re.compile(rb"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
# Directives, ends of documents, a BOM or what is not UTF-8 perhaps, and the line breaks that are not LF.
_UNSPLITTABLE = re.compile(rb"^(%|\.\.\.)|\r(?!\n)|\xc2\x85|\xe2\x80[\xa8\xa9]|\xef\xbb\xbf|[\xf8-\xff]", re.MULTILINE)


def parse(content: bytes, *, json: bool = False, line: int = 1) -> Iterator[Tree | Unreadable]:
    """Yield the documents of a file, or of a part of one whose first line is ``line``, in order.

    A document with a fault of its own (a duplicate key, a tag) is yielded as ``Unreadable``
    and the next ones still come; after a syntax error nothing can be trusted and the
    iteration ends, with an ``Unreadable`` that says so.
    """
    try:
        text = _decode(content, line)
        # Tabs are JSON's but not YAML's white space; columns stay right.
        yield from _Builder(line).documents(text.replace("\t", " ") if json else text)
    except Unreadable as error:
        error.ends = True
        yield error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        row, column = (mark.line + line, mark.column + 1) if mark else (0, 0)
        yield Unreadable(_words(error), row, column, ends=True)
    except yaml.YAMLError as error:
        yield Unreadable(f"not valid YAML: {error}", ends=True)


def _decode(content: bytes, first: int) -> str:
    if len(content) > MAX_BYTES:
        raise Unreadable(f"the file has {len(content)} bytes, more than the {MAX_BYTES} that are read")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + first, error.start - (before.rfind(b"\n") + 1) + 1
        raise Unreadable(f"not UTF-8: byte 0x{content[error.start]:02x}", line, column) from error


def _words(error: yaml.MarkedYAMLError) -> str:
    # Newer libyaml gives up by itself at 1,000 levels. It scans that far ahead of its first event where any of the
    # brackets might begin a key, so that a limit of ours cannot come first; the place is then where it gave up.
    if error.problem == "exceeded maximum nesting depth":
        return _TOO_DEEP
    return "not valid YAML: " + " ".join(part for part in (error.problem, error.context) if part)


class _Builder:
    """Builds one tree a document from parser events. One use, one thread."""

    def __init__(self, line: int = 1) -> None:
        self._line = line
        self._nodes = 0
        self._reset()

    def _reset(self) -> None:
        self._open: list[_Open] = []
        self._anchors: dict[str, Tree | None] = {}
        self._root: Tree | None = None
        self._fault: Unreadable | None = None

    def documents(self, text: str) -> Iterator[Tree | Unreadable]:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            match event:
                case yaml.DocumentStartEvent():
                    self._reset()
                case yaml.DocumentEndEvent():
                    if self._fault is not None:
                        yield self._fault
                    elif self._root is not None:
                        yield self._root
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    self._start(event)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._end()

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        line, column = self._place(event)
        self._check_tag(event.tag, line, column)
        text = not event.implicit[0] if event.tag is None else event.tag == _CORE_TAG + "str"
        self._add(Scalar(event.value, line, column, text), event.anchor)

    def _alias(self, event: yaml.AliasEvent) -> None:
        line, column = self._place(event)
        tree = self._anchors.get(event.anchor or "")
        if tree is None:
            what = "stands inside its own anchor" if event.anchor in self._anchors else "names no anchor"
            raise Unreadable(f"alias *{event.anchor} {what}", line, column)
        self._add(tree, None)

    def _start(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        line, column = self._place(event)
        self._check_tag(event.tag, line, column)
        if len(self._open) >= MAX_DEPTH:
            raise Unreadable(_TOO_DEEP, line, column)
        if event.anchor:
            self._anchors[event.anchor] = None  # known, but not usable before its end
        self._open.append(_Open(isinstance(event, yaml.MappingStartEvent), line, column, event.anchor))

    def _end(self) -> None:
        done = self._open.pop()
        tree = (
            self._mapping(done) if done.mapping else Sequence(tuple(done.children), done.line, done.column, done.size)
        )
        self._add(tree, done.anchor)

    def _add(self, tree: Tree, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = tree
        self._nodes += 1
        if not self._open:
            self._root = tree
            return
        parent = self._open[-1]
        parent.children.append(tree)
        parent.size += tree.size
        if parent.size > MAX_NODES or self._nodes > MAX_NODES:
            raise Unreadable(f"more than {MAX_NODES} nodes once aliases are followed", parent.line, parent.column)

    def _mapping(self, done: _Open) -> Mapping:
        entries: dict[str, Tree] = {}
        keys: dict[str, Scalar] = {}
        merged: list[Tree] = []
        for key, value in zip(done.children[::2], done.children[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._note(Unreadable("a key must be a string", key.line, key.column))
            elif key.value == "<<" and not key.text:
                merged.extend(value.items if isinstance(value, Sequence) else [value])
            elif key.value in entries:
                first = keys[key.value]
                self._note(Unreadable(f"duplicate key {key.value!r}, first in line {first.line}", key.line, key.column))
            else:
                entries[key.value], keys[key.value] = value, key
        for source in merged:
            if not isinstance(source, Mapping):
                self._note(Unreadable("'<<' merges mappings only", source.line, source.column))
                continue
            for name, value in source.entries.items():
                entries.setdefault(name, value)
                keys.setdefault(name, source.keys[name])
        return Mapping(entries, keys, done.line, done.column, done.size)

    def _check_tag(self, tag: str | None, line: int, column: int) -> None:
        if tag is not None and tag != "!" and tag not in _KNOWN_TAGS:
            self._note(Unreadable(f"tag {tag!r} is not understood; only plain YAML is read", line, column))

    def _place(self, event: yaml.Event) -> tuple[int, int]:
        mark = event.start_mark
        assert mark is not None  # libyaml marks every event
        return mark.line + self._line, mark.column + 1

    def _note(self, fault: Unreadable) -> None:
        """Keep the first fault; the document is refused at its end, the next ones still come."""
        self._fault = self._fault or fault


# YAML 1.1 as Kubernetes reads it: `version: on` is a boolean there, and must be here.
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"))
_FALSE = frozenset(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"))
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def resolve(scalar: Scalar) -> str | int | float | bool | None:
    """Return what a scalar means to Kubernetes' YAML reader."""
    value = scalar.value
    if scalar.text:
        return value
    if value in _NULL:
        return None
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    if _INTEGER.fullmatch(value):
        return int(value) if len(value) < 20 else float(value)
    if _FLOAT.fullmatch(value):
        return float(value)
    return value


def describe(tree: Tree) -> str:
    """Say what was found, for "expected …, got …"."""
    if isinstance(tree, Sequence):
        return "a list"
    if isinstance(tree, Mapping):
        return "a mapping"
    match resolve(tree):
        case None:
            return "nothing"
        case bool() as flag:
            return f"the boolean {'true' if flag else 'false'} (written {tree.value})"
        case int() | float():
            return f"the number {tree.value}"
        case text:
            return repr(text) if len(str(text)) <= 60 else repr(str(text)[:57] + "...")
