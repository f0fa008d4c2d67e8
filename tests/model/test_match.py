"""Matchers, as measured on the real Envoy."""

import pytest

from meshlib.model.match import (
    HeaderMatch,
    PathMatch,
    QueryMatch,
    RouteMatch,
    StringMatch,
    StringOp,
    full_match,
    is_grpc,
)
from policy.snapshots import request

EXACT, PREFIX, SUFFIX, CONTAINS, REGEX = StringOp


@pytest.mark.parametrize(
    ("match", "path", "want"),
    [
        (PathMatch(EXACT, "/a"), "/a", True),
        (PathMatch(EXACT, "/a"), "/a?x=1", True),  # the query never takes part
        (PathMatch(EXACT, "/a"), "/a/", False),
        (PathMatch(EXACT, "/a"), "/A", False),
        (PathMatch(EXACT, "/a", case_sensitive=False), "/A", True),
        (PathMatch(PREFIX, "/a"), "/ab", True),
        (PathMatch(PREFIX, "/A", case_sensitive=False), "/ab", True),
        (PathMatch(PREFIX, "/a", separated=True), "/ab", False),
        (PathMatch(PREFIX, "/a", separated=True), "/a/b", True),
        (PathMatch(PREFIX, "/a", separated=True), "/a?x", True),
        (PathMatch(REGEX, "/a[0-9]+"), "/a12", True),
        (PathMatch(REGEX, "/a[0-9]+"), "/a12?x=1", True),  # full match, without the query
        (PathMatch(REGEX, "/a[0-9]+"), "/a12/b", False),
        (PathMatch(REGEX, "/a"), "/ab", False),
        (PathMatch(REGEX, "(?i)/A"), "/a", True),
    ],
)
def test_path(match, path, want):
    assert RouteMatch(match).compile()(request(path)) is want


def header(**fields):
    return HeaderMatch("X-A", **fields).compile()


def with_values(*values):
    return request(headers=[("x-a", v) for v in values])


@pytest.mark.parametrize(
    ("string", "value", "want"),
    [
        (StringMatch(EXACT, "v"), "v", True),
        (StringMatch(EXACT, "v"), "V", False),
        (StringMatch(EXACT, "v", ignore_case=True), "V", True),
        (StringMatch(PREFIX, "ab"), "abc", True),
        (StringMatch(PREFIX, "AB", ignore_case=True), "abc", True),
        (StringMatch(SUFFIX, "bc"), "abc", True),
        (StringMatch(CONTAINS, "b"), "abc", True),
        (StringMatch(CONTAINS, "x"), "abc", False),
        (StringMatch(REGEX, "a.c"), "abc", True),
        (StringMatch(REGEX, "b"), "abc", False),
    ],
)
def test_strings(string, value, want):
    assert header(string=string)(with_values(value)) is want


V = StringMatch(EXACT, "v")


class TestMissingHeader:
    def test_never_matches_not_even_inverted(self):
        assert not header(string=V)(request())
        assert not header(string=V, invert=True)(request())
        assert not header(range_=(0, 10), invert=True)(request())

    def test_treated_as_empty(self):
        assert header(string=V, invert=True, treat_missing_as_empty=True)(request())
        assert header(string=StringMatch(EXACT, ""), treat_missing_as_empty=True)(request())
        assert not header(string=V, treat_missing_as_empty=True)(request())

    def test_treated_as_empty_it_is_present(self):
        assert header(present=True, treat_missing_as_empty=True)(request())

    @pytest.mark.parametrize(
        ("present", "invert", "there", "want"),
        [
            (True, False, True, True),
            (True, False, False, False),
            (True, True, True, False),
            (True, True, False, True),
            (False, False, True, False),
            (False, False, False, True),
            (False, True, True, True),
        ],
    )
    def test_present(self, present, invert, there, want):
        view = with_values("x") if there else request()
        assert header(present=present, invert=invert)(view) is want


class TestRepeatedHeaders:
    """Matched one by one since Envoy 1.40."""

    def test_each_line_by_itself(self):
        match = header(string=StringMatch(EXACT, "a"))
        assert match(with_values("a", "b"))
        assert match(with_values("b", "a"))
        assert not match(with_values("a,b"))
        assert not header(string=StringMatch(EXACT, "a,b"))(with_values("a", "b"))


@pytest.mark.parametrize(
    ("value", "want"),
    [("5", True), ("9", True), ("10", False), ("-1", True), ("-2", False), ("5.0", False), ("x", False), ("", False)],
)
def test_range_is_half_open(value, want):
    assert header(range_=(-1, 10))(with_values(value)) is want


@pytest.mark.parametrize("name", [":method", ":path", ":authority", ":scheme"])
def test_pseudo_headers(name):
    values = {":method": "GET", ":path": "/a?b", ":authority": "catalog", ":scheme": "http"}
    match = HeaderMatch(name, StringMatch(EXACT, values[name])).compile()
    assert match(request("/a?b"))


@pytest.mark.parametrize(
    ("match", "query", "want"),
    [
        (QueryMatch("a"), "a=1", True),
        (QueryMatch("a"), "a", True),
        (QueryMatch("a"), "b=1", False),
        (QueryMatch("a", StringMatch(EXACT, "1")), "a=1&a=2", True),
        (QueryMatch("a", StringMatch(EXACT, "2")), "a=1&a=2", False),  # the first value only
        (QueryMatch("a", StringMatch(EXACT, "")), "a", True),
        (QueryMatch("A"), "a=1", False),
    ],
)
def test_query(match, query, want):
    assert match.compile()(request(f"/?{query}")) is want
    assert match.compile()(request("/")) is False


def test_all_conditions_are_needed():
    match = RouteMatch(PathMatch(PREFIX, "/a"), (HeaderMatch("x-a", V),), (QueryMatch("q"),), grpc=True).compile()
    headers = [("x-a", "v"), ("content-type", "application/grpc")]
    assert match(request("/a?q", headers=headers))
    assert not match(request("/b?q", headers=headers))
    assert not match(request("/a", headers=headers))
    assert not match(request("/a?q", headers=headers[:1]))
    assert not match(request("/a?q", headers=headers[1:]))


@pytest.mark.parametrize(
    ("kind", "want"),
    [("application/grpc", True), ("application/grpc+proto", True), ("application/grpc-web", False), ("text/x", False)],
)
def test_grpc(kind, want):
    assert is_grpc(request(headers=[("content-type", kind)])) is want


def test_a_bad_pattern_is_named():
    with pytest.raises(ValueError, match=r"regex '\(\?=a\)' is not valid RE2"):
        full_match("(?=a)")
    with pytest.raises(ValueError, match="not valid RE2"):
        RouteMatch(PathMatch(REGEX, "[")).compile()


def test_patterns_are_linear():
    """The classic that hangs Python's re for ages."""
    assert not full_match("(a*)*b")("a" * 5000)


@pytest.mark.parametrize(
    ("match", "text"),
    [
        (RouteMatch(PathMatch(EXACT, "/a")), "path /a"),
        (RouteMatch(PathMatch(PREFIX, "/a", separated=True)), "path_separated_prefix /a"),
        (
            RouteMatch(PathMatch(PREFIX, "/"), (HeaderMatch("x", V, invert=True),), (QueryMatch("q"),), grpc=True),
            "prefix / and header x not exact 'v' and query q present and gRPC",
        ),
        (RouteMatch(PathMatch(REGEX, "/.*"), (HeaderMatch("n", range_=(1, 5)),)), "regex /.* and header n in [1, 5)"),
        (RouteMatch(PathMatch(PREFIX, "/"), (HeaderMatch("n", present=False),)), "prefix / and header n absent"),
    ],
)
def test_written_for_people(match, text):
    assert str(match) == text
