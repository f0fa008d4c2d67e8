"""HTTPMatchRequest to RouteMatch."""

from __future__ import annotations

from typing import Any

from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.type.matcher.v3 import string_pb2

from meshlib.controlplane.documents.string_match import StringMatch
from meshlib.controlplane.documents.virtual_service import HTTPMatch


def route_match(match: HTTPMatch | None) -> Any:
    """Return the RouteMatch of one match block; None is what takes everything."""
    if match is None:
        return route_pb2.RouteMatch(prefix="/")
    message = route_pb2.RouteMatch()
    _path(message, match.uri)
    message.case_sensitive.value = not match.ignore_uri_case
    # istiod sorts headers by name and puts the pseudo-headers behind them.
    written = [(name, what, False) for name, what in match.headers.items()]
    written += [(name, what, True) for name, what in match.without_headers.items()]
    for name, what, without in sorted(written, key=lambda item: item[0]):
        _header(message.headers.add(name=name), what, without=without)
    for name, pseudo in ((":method", match.method), (":authority", match.authority), (":scheme", match.scheme)):
        if pseudo is not None:
            _header(message.headers.add(name=name), pseudo, without=False)
    for name, what in sorted(match.query_params.items()):
        _query(message.query_parameters.add(name=name), what)
    return message


def path_of(message: Any) -> str:
    """Return the path of a RouteMatch as istiod words it in operation names."""
    kind = message.WhichOneof("path_specifier")
    if kind == "prefix":
        return f"{message.prefix}*"
    return str(message.path) if kind == "path" else str(message.safe_regex.regex)


def _path(message: Any, uri: StringMatch | None) -> None:
    if uri is None or uri.present:
        message.prefix = "/"
    elif uri.exact is not None:
        message.path = uri.exact
    elif uri.prefix is not None:
        message.prefix = uri.prefix
    else:
        message.safe_regex.regex = uri.regex


def _header(message: Any, match: StringMatch, *, without: bool) -> None:
    if match.present:
        message.present_match = True
    else:
        message.string_match.CopyFrom(string_matcher(match))
        message.treat_missing_header_as_empty = without  # a missing header is not that value
    message.invert_match = without


def _query(message: Any, match: StringMatch) -> None:
    if match.present:
        message.present_match = True
    else:
        message.string_match.CopyFrom(string_matcher(match))


def string_matcher(match: StringMatch) -> Any:
    """Return Envoy's StringMatcher."""
    if match.exact is not None:
        return string_pb2.StringMatcher(exact=match.exact)
    if match.prefix is not None:
        return string_pb2.StringMatcher(prefix=match.prefix)
    message = string_pb2.StringMatcher()
    message.safe_regex.regex = match.regex
    return message
