"""Matchers: values that compile to one closure each.

A closure costs 0.1 µs where reading the protobuf costs 1.1 (design.md, decision 2). Regular
expressions are RE2's, as Envoy's are: full match, linear time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import re2

from meshlib.model.request import RequestView
from meshlib.model.uri_template import UriTemplate


class HeaderValues(Protocol):
    """Headers as matchers read them: those of a request, or of a response."""

    def values(self, name: str, /) -> list[str]:
        """Return every value of the header ``name`` (lower case), in order."""
        ...


Predicate = Callable[[RequestView], bool]
HeaderPredicate = Callable[[HeaderValues], bool]
Test = Callable[[str], bool]


class StringOp(Enum):
    """The operators of ``envoy.type.matcher.v3.StringMatcher``."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """``envoy.type.matcher.v3.StringMatcher``."""

    op: StringOp
    value: str
    ignore_case: bool = False

    def compile(self) -> Test:
        """Return the closure; raises ``ValueError`` for a pattern RE2 refuses."""
        if self.op is StringOp.REGEX:
            return full_match(self.value)
        value = self.value.lower() if self.ignore_case else self.value
        test: Test = {
            StringOp.EXACT: value.__eq__,
            StringOp.PREFIX: lambda text: text.startswith(value),
            StringOp.SUFFIX: lambda text: text.endswith(value),
            StringOp.CONTAINS: lambda text: value in text,
        }[self.op]
        return (lambda text: test(text.lower())) if self.ignore_case else test

    def __str__(self) -> str:
        return f"{self.op.value} {self.value!r}" + (" (ignoring case)" if self.ignore_case else "")


def compiled_regex(pattern: str) -> Any:
    """Return a pattern as RE2 compiled it; raises ``ValueError`` naming the pattern and the fault."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"regex {pattern!r} is not valid RE2: {text}") from error


def full_match(pattern: str) -> Test:
    """Return an RE2 full-match test; raises ``ValueError`` naming the pattern and the fault."""
    compiled = compiled_regex(pattern)
    return lambda text: compiled.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class PathMatch:
    """The path specifier of ``RouteMatch``: exactly one way to look at the path.

    ``separated`` is ``path_separated_prefix``. ``template`` is the URI template (``path_match_policy``)
    that a regular expression was made of. The query never takes part.
    """

    op: StringOp
    value: str
    case_sensitive: bool = True
    separated: bool = False
    template: UriTemplate | None = None

    def compile(self) -> Test:
        """Return the closure over the path without query."""
        test = StringMatch(self.op, self.value, ignore_case=not self.case_sensitive).compile()
        if not self.separated:
            return test
        length = len(self.value)
        return lambda path: test(path) and (len(path) == length or path[length] == "/")

    def compile_view(self) -> Predicate:
        """Return the closure over a request: one call for what most routes ask."""
        value = self.value
        if self.case_sensitive and not self.separated:
            if self.op is StringOp.PREFIX:
                return lambda view: view.path.startswith(value)
            if self.op is StringOp.EXACT:
                return lambda view: view.path == value
        test = self.compile()
        return lambda view: test(view.path)

    def __str__(self) -> str:
        if self.template is not None:
            return f"path_match_policy {self.template}"
        kind = "path_separated_prefix" if self.separated else {"exact": "path"}.get(self.op.value, self.op.value)
        return f"{kind} {self.value}" + ("" if self.case_sensitive else " (ignoring case)")


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """``envoy.config.route.v3.HeaderMatcher``.

    Exactly one of ``string``, ``range_`` and ``present`` is set. Repeated headers are matched
    one by one (Envoy 1.40). A missing header never matches, not even inverted, unless
    ``treat_missing_as_empty`` (measured on Envoy: semantics 4.15).
    """

    name: str
    string: StringMatch | None = None
    range_: tuple[int, int] | None = None
    present: bool | None = None
    invert: bool = False
    treat_missing_as_empty: bool = False

    def compile(self) -> HeaderPredicate:
        """Return the closure over the headers."""
        name, invert, empty = self.name.lower(), self.invert, self.treat_missing_as_empty
        if self.present is not None:
            wanted = self.present is not invert
            return lambda view: (empty or bool(view.values(name))) is wanted
        test = self._value_test()

        def matches(view: HeaderValues) -> bool:
            values = view.values(name)
            if not values:
                if not empty:
                    return False
                values = [""]
            if len(values) == 1:
                return test(values[0]) is not invert
            return any(map(test, values)) is not invert

        return matches

    def _value_test(self) -> Test:
        if self.range_ is not None:
            start, end = self.range_

            def in_range(text: str) -> bool:
                try:
                    return start <= int(text) < end
                except ValueError:
                    return False

            return in_range
        if self.string is None:
            raise ValueError(f"header matcher for {self.name!r} says nothing to match")
        return self.string.compile()

    def __str__(self) -> str:
        if self.present is not None:
            what = "present" if self.present else "absent"
        elif self.range_ is not None:
            what = f"in [{self.range_[0]}, {self.range_[1]})"
        else:
            what = str(self.string)
        return f"{self.name} {'not ' if self.invert else ''}{what}"


@dataclass(frozen=True, slots=True)
class QueryMatch:
    """``QueryParameterMatcher``: looks at the first value of the parameter.

    Without ``string`` it asks whether the parameter is there (``present``) or not. Names and
    values are compared as they stand in the URL, percent signs and all (measured on Envoy).
    """

    name: str
    string: StringMatch | None = None
    present: bool = True

    def compile(self) -> Predicate:
        """Return the closure over the request."""
        name, present, test = self.name, self.present, self.string.compile() if self.string else None

        def matches(view: RequestView) -> bool:
            for pair in view.query.split("&"):
                key, _, value = pair.partition("=")
                if key == name:
                    return present if test is None else test(value)
            return test is None and not present

        return matches

    def __str__(self) -> str:
        return f"{self.name} {self.string or ('present' if self.present else 'absent')}"


@dataclass(frozen=True, slots=True)
class CookieMatch:
    """``CookieMatcher``: looks at the first cookie of the name; one that is missing matches only inverted."""

    name: str
    string: StringMatch
    invert: bool = False

    def compile(self) -> Predicate:
        """Return the closure over the request."""
        name, invert, test = self.name, self.invert, self.string.compile()

        def matches(view: RequestView) -> bool:
            value = view.cookie(name)
            return (value is not None and test(value)) is not invert

        return matches

    def __str__(self) -> str:
        return f"{self.name} {'not ' if self.invert else ''}{self.string}"


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """``envoy.config.route.v3.RouteMatch``: path, headers, query and cookies, all of them.

    Attributes:
        grpc: only gRPC requests (content-type ``application/grpc``).
        runtime_fraction: percent of requests that match at all, None = all.
    """

    path: PathMatch
    headers: tuple[HeaderMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()
    cookies: tuple[CookieMatch, ...] = ()
    grpc: bool = False
    runtime_fraction: float | None = None

    def compile(self) -> Predicate:
        """Return one closure for all but ``runtime_fraction``, which needs a draw."""
        path = self.path.compile_view()
        checks: list[Predicate] = [m.compile() for m in self.headers]
        checks += [m.compile() for m in self.query]
        checks += [m.compile() for m in self.cookies]
        if self.grpc:
            checks.append(is_grpc)
        if not checks:
            return path
        first, rest = checks[0], tuple(checks[1:])
        if not rest:
            return lambda view: path(view) and first(view)

        def matches(view: RequestView) -> bool:
            if not path(view) or not first(view):
                return False
            for check in rest:  # noqa: SIM110  a generator costs more than most checks
                if not check(view):
                    return False
            return True

        return matches

    def __str__(self) -> str:
        parts = [str(self.path), *(f"header {m}" for m in self.headers), *(f"query {m}" for m in self.query)]
        parts += [f"cookie {m}" for m in self.cookies]
        return " and ".join([*parts, *(["gRPC"] if self.grpc else [])])


def is_grpc(view: RequestView) -> bool:
    """Tell whether the content type is ``application/grpc`` or one of its ``+`` forms."""
    kind = view.header("content-type") or ""
    return kind == "application/grpc" or kind.startswith("application/grpc+")
