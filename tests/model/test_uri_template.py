"""URI templates: which are taken, what they match, what they make of a path (measured on Envoy 1.40)."""

from __future__ import annotations

import pytest

from meshlib.model.match import full_match
from meshlib.model.rewrite import RegexRewrite
from meshlib.model.uri_template import uri_template

REFUSED = [
    "a",
    "//a",
    "/a//b",
    "/a?b",
    "/a#",
    "/a/**/{x}",
    "/a/**/**",
    "/**/*",
    "/{x}/{x}",
    "/{x}{y}",
    "/{x}b{y}",
    "/a{x}b{y}",
    "/*{x}",
    "/**{x}",
    "/{x=}",
    "/{}",
    "/{1x}",
    "/{x-1}",
    "/{x",
    "/x}",
    "/{x={y}}",
    "/{a}/{b}/{c}/{d}/{e}/{f}",
    "/{sixteencharacters}",
    "/**/{x=*}.js",
    "/*a/c",
    "/**a/c",
    "/a{x=b/*}c",
    "/a/b{x",
    "/a/b}c",
    "/a/b{x}}",
    "/{x=*a}",
    "/{x=a/*b}",
    "/*/**/a{x}",
    "/{x=a/}",
    "/{x=/a}",
]
TAKEN = [
    "/",
    "/a",
    "/a/",
    "/*",
    "/**",
    "/a/{x}",
    "/a/**/b",
    "/{x=a/*}/b",
    "/{x=a/**}/c",
    "/{x}.jpg",
    "/a*",
    "/*a",
    "/{x_1}",
    "/%20",
    "/a:b",
    "/{a}/{b}/{c}/{d}/{e}",
    "/**.js",
    "/{x=**}.m3u8",
    "/a{x}",
    "/a{x}b",
    "/{x=b/**}c",
    "/{x}b/c",
    "/a{x}/c",
    "/a{x}b/c/{y}",
    "/a{x=**}/c",
    "/{x=*}*",
    "/***",
    "/a=b",
    "/a*b{x}",
    "/{fifteencharacte}",
]


@pytest.mark.parametrize("text", [*REFUSED, "", "/ a", "/é", "/" + "a" * 256])
def test_what_envoy_refuses(text):
    with pytest.raises(ValueError, match=r"."):
        uri_template(text)


@pytest.mark.parametrize("text", TAKEN)
def test_what_envoy_takes(text):
    assert uri_template(text).text == text


@pytest.mark.parametrize(
    ("text", "matched", "others"),
    [
        ("/s/{x}", "/s/a /s/a=b /s/a*b /s/a%20b /s/a:b@c", "/s/ /s/a/b /s/a|b /S/a /s"),
        ("/e/*/f", "/e/1/f", "/e//f /e/1/2/f"),
        ("/g/**", "/g/ /g/1/2 /g//", "/g"),
        ("/h/{x=**}.m3u8", "/h/a/b.m3u8 /h/.m3u8", "/h/xm3u8"),
        ("/i/{x=**}/j", "/i//j /i/a/b/j", "/i/j"),
        ("/k{x}l", "/kXl", "/kl /kX/l"),
        ("/n/", "/n/", "/n /n//"),
        ("/q/{x=r/*}", "/q/r/1", "/q/r /q/r/1/2"),
        ("/t+$(u).", "/t+$(u).", "/t$(u). /t+$(u)x"),
        ("/a*", "/ /a /aa", "/a* /ab"),
    ],
)
def test_what_a_template_matches(text, matched, others):
    test = full_match(uri_template(text).regex)
    assert [path for path in matched.split() if not test(path)] == []
    assert [path for path in others.split() if test(path)] == []


@pytest.mark.parametrize(
    ("rewrite", "path"),
    [("/b/{x}", "/b/1"), ("/{y}/{x}", "/2/3/1"), ("/", "/"), ("/{x}-{y}.jpg", "/1-2/3.jpg"), ("/*/{x}{x}", "/*/11")],
)
def test_rewrites(rewrite, path):
    template = uri_template("/a/{x}/{y=**}")
    assert RegexRewrite(f"^(?:{template.regex})$", template.substitution(rewrite)).replace("/a/1/2/3") == path


@pytest.mark.parametrize("rewrite", ["", "b", "{x}", "/{z}", "/{x", "/b//{x}", "/b?x={x}", "/ b", "/é", "/{}", "/{1}"])
def test_rewrites_that_envoy_refuses(rewrite):
    with pytest.raises(ValueError, match=r"."):
        uri_template("/a/{x}/{y=**}").substitution(rewrite)
