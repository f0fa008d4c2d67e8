"""Files that mean harm, or are broken, are refused quickly and said to be."""

import time

import pytest

from meshlib.controlplane.documents import read, tree

BOMB = (
    "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 10)}]\n" for i in range(30))
).encode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (BOMB, "a.yaml:6:5: error: more than 500000 nodes once aliases are followed"),
        (b"a: &a [*a]", "a.yaml:1:8: error: alias *a stands inside its own anchor"),
        (b"a: *a", "a.yaml:1:4: error: alias *a names no anchor"),
        (b"[" * 1_000, "a.yaml:1:101: error: nested deeper than 100 levels"),
        (b"{a: " * 1_000_000, "a.yaml:1:401: error: nested deeper than 100 levels"),
        (b"a: b\nc: \xe9", "a.yaml:2:4: error: not UTF-8: byte 0xe9"),
        (b"\xff\xfea", "a.yaml:1:1: error: not UTF-8: byte 0xff"),
        (b"a: 1\na: 2", "a.yaml:2:1: error: duplicate key 'a', first in line 1"),
        (b"? [a]\n: b", "a.yaml:1:3: error: a key must be a string"),
        (b"<<: [a]", "a.yaml:1:6: error: '<<' merges mappings only"),
        (
            b"x: !!python/object/apply:os.system ['false']",
            "a.yaml:1:4: error: tag 'tag:yaml.org,2002:python/object/apply:os.system' is not understood; "
            "only plain YAML is read",
        ),
        (b"a: !ruby b", "a.yaml:1:4: error: tag '!ruby' is not understood; only plain YAML is read"),
        (b"a: 1\n b: 2", "a.yaml:2:3: error: not valid YAML: mapping values are not allowed in this context"),
        (
            b"a: [b\n",
            "a.yaml:2:1: error: not valid YAML: did not find expected ',' or ']' while parsing a flow sequence",
        ),
        (b"#" * (8 * 2**20 + 1), "a.yaml: error: the file has 8388609 bytes, more than the 8388608 that are read"),
    ],
)  # fmt: skip
def test_refused(content, expected):
    start = time.monotonic()
    documents, faults = read({"a.yaml": content})
    assert time.monotonic() - start < 2
    assert [str(fault) for fault in faults] == [expected]
    assert not any(getattr(documents, kind) for kind in documents.__slots__)


def test_endless_brackets():
    """Newer libyaml gives up at the thousandth, before it tells us of the first."""
    start = time.monotonic()
    _, (fault,) = read({"a.yaml": b"[" * 1_000_000})
    assert time.monotonic() - start < 2
    ours, libyaml = (f"a.yaml:1:{column}: error: nested deeper than 100 levels" for column in (101, 1001))
    assert str(fault) in (ours, libyaml)


def test_control_characters():
    _, (fault,) = read({"a.yaml": b"a: b\0c"})
    assert "not valid YAML" in str(fault)


def test_a_faulty_document_leaves_the_next_one():
    trees = list(tree.parse(b"a: 1\na: 2\n---\nb: !x 1\n---\nc: 3\n"))
    assert [type(item) for item in trees] == [tree.Unreadable, tree.Unreadable, tree.Mapping]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("80", 80), ("-1", -1), ("1.5", 1.5), ("1e3", 1000.0), ("true", True), ("no", False), ("on", True),
        ("~", None), ("", None), ("null", None), ("'80'", "80"), ('"no"', "no"), ("!!str 80", "80"),
        ("2s", "2s"), ("v1", "v1"), ("0x1F", "0x1F"), ("1_000", "1_000"), ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"), ("007", 7.0),
    ],
)  # fmt: skip
def test_scalars_mean_what_they_mean_to_kubernetes(written, value):
    (document,) = tree.parse(f"a: {written}".encode())
    assert tree.resolve(document.entries["a"]) == value
    assert type(tree.resolve(document.entries["a"])) is type(value)


class TestSplitting:
    """A part of a file is parsed by itself, so that an edit costs the documents that it touches."""

    @pytest.mark.parametrize(
        "text",
        [
            "a: 1\n---\nb: 2\n",
            "---\na: 1\n---\n\n# nothing\n---\nb: [\n  1,\n 2]\n",
            "a: |\n  ---\n  text\n--- # said\nb: '---'\n---",
            "a: &x 1\nb: *x\n---\nc: *x\n---\nd: 1\n",
            "a: 1\n...\n---\nb: 2\n",
            "%YAML 1.1\n---\na: 1\n---\nb: 2\n",
            "a: 1\r\n---\r\nb: 2\r\n",
            "a: 1\r---\rb: 2\n---\nc: {\n",
            "a: 1\n---\n{a: 1, a: 2}\n---\nb: !tag 1\n---\nc: 1\n",
            "﻿a: 1\n---\nb: 2\n",
            "---\n---\n---\n",
            "",
        ],
    )
    def test_it_comes_to_the_same_as_the_whole(self, text):
        content = text.encode()
        whole = [flat(item) for item in tree.parse(content)]
        parts = []
        for line, part in tree.split(content):
            parts.extend(tree.parse(part, line=line))
            if parts and isinstance(parts[-1], tree.Unreadable) and parts[-1].ends:
                break
        assert [flat(item) for item in parts] == whole

    def test_an_open_quote_ends_the_file_at_the_same_place(self):
        ((_, first), _) = tree.split(b"a: 'open\n---\nb: 1\n")
        (found,) = tree.parse(first)
        assert (found.line, found.column, found.ends) == (2, 1, True)

    def test_lines_are_counted_on(self):
        assert [line for line, _ in tree.split(b"a: 1\n---\nb: 1\nc: 1\n---\nd: 1")] == [1, 2, 5]

    def test_bytes_that_are_no_text_are_found_where_they_are(self):
        for content in (b"a: 1\n---\nb: 2\n---\nc: \xff\n", b"a: 1\n---\nb: \xc3(\n"):
            line = content.count(b"\n")
            found = [item for first, part in tree.split(content) for item in tree.parse(part, line=first)]
            assert found[-1].line == line
            assert "not UTF-8" in str(found[-1])


def flat(item):
    if isinstance(item, tree.Unreadable):
        return str(item), item.line, item.column, item.ends
    return item
