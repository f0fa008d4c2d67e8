"""Paths and authorities before there is a route, as the real Envoy takes them (corpus: routing/path-*)."""

import pytest

from meshlib.model.intake import EscapedSlashes, Intake
from meshlib.policy.intake import Redirected, Refused, taken
from policy.snapshots import request

NORMAL = Intake(normalize_path=True)


def target(intake, path):
    return taken(intake, request(target=path)).target


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/./b", "/a/b"),
        ("/../../b", "/b"),
        ("/a/%2e%2e/b", "/b"),
        ("/%61bc", "/abc"),
        ("/a%2Fb", "/a%2Fb"),
        ("/a%2fb", "/a%2fb"),
        ("/a//b", "/a//b"),
        ("/a\\b", "/a/b"),
        ("/a/../b?x=../y", "/b?x=../y"),
        ("/a%252e%252e/b", "/a%252e%252e/b"),
        ("/a%zz", "/a%zz"),
        ("/a/.", "/a/"),
        ("/a/.../b", "/a/.../b"),
    ],
)
def test_normalized(path, normal):
    assert target(NORMAL, path) == normal
    assert target(NORMAL, normal) == normal


@pytest.mark.parametrize("path", ["/a%00", "/a#b", "/a?x#b"])
def test_refused(path):
    with pytest.raises(Refused):
        target(NORMAL, path)


def test_slashes_are_merged_but_in_the_query():
    assert target(Intake(merge_slashes=True), "//a///b?c=//d") == "/a/b?c=//d"


@pytest.mark.parametrize("path", ["/a%2Fb?q=%2F", "/a%5Cb?q=%2F", "/a%2f..%2fa%2fb?q=%2F"])
def test_escaped_slashes(path):
    assert target(Intake(True, escaped_slashes=EscapedSlashes.FORWARD), path) == "/a/b?q=%2F"
    with pytest.raises(Redirected) as to:
        target(Intake(True, escaped_slashes=EscapedSlashes.REDIRECT), path)
    assert to.value.target == "/a/b?q=%2F"
    with pytest.raises(Refused):
        target(Intake(True, escaped_slashes=EscapedSlashes.REJECT), path)


@pytest.mark.parametrize(
    ("intake", "authority", "left"),
    [
        (Intake(strip_port="any"), "a.test:99", "a.test"),
        (Intake(strip_port="any"), "[::1]:99", "[::1]"),
        (Intake(strip_port="any"), "[::1]", "[::1]"),
        (Intake(strip_port="matching"), "a.test:99", "a.test:99"),
        (Intake(strip_port="matching"), "a.test:80", "a.test"),
        (Intake(strip_trailing_dot=True), "a.test.:99", "a.test:99"),
        (Intake(strip_trailing_dot=True), "a.test.", "a.test"),
    ],
)
def test_authorities(intake, authority, left):
    asked = request().changed(target="/", authority=authority)
    assert taken(intake, asked).authority == left


def test_what_need_not_change_is_the_same():
    asked = request(target="/a/b?c")
    assert taken(NORMAL, asked) is asked
