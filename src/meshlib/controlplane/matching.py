"""HTTPMatchRequest to RouteMatch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.type.matcher.v3 import metadata_pb2, string_pb2

from meshlib.controlplane.documents.string_match import StringMatch
from meshlib.controlplane.documents.virtual_service import HTTPMatch

JWT = "envoy.filters.http.jwt_authn"
_CLAIM = "@request.auth.claims"  # what Istio lets routes match beside headers


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
        if claims := _claims(name):
            message.dynamic_metadata.append(claim_matcher(claims, string_matcher(what), invert=without))
            continue
        _header(message.headers.add(name=name), what, without=without)
    for name, pseudo in ((":method", match.method), (":authority", match.authority), (":scheme", match.scheme)):
        if pseudo is not None:
            _header(message.headers.add(name=name), pseudo, without=False)
    for name, what in sorted(match.query_params.items()):
        _query(message.query_parameters.add(name=name), what)
    return message


def _claims(name: str) -> list[str]:
    """Return the claim, maybe a nested one, that a header's name stands for; none for a header."""
    if not name.lower().startswith(_CLAIM):
        return []
    rest = name[len(_CLAIM) :]
    if rest.startswith(".") and len(rest) > 1:
        return rest[1:].split(".")
    return rest[1:-1].split("][") if rest.startswith("[") and rest.endswith("]") and len(rest) > 2 else []


def claim_matcher(claims: Sequence[str], value: Any, *, invert: bool = False) -> Any:
    """Return that a claim of the token, maybe a list, has a value: a StringMatcher."""
    message = metadata_pb2.MetadataMatcher(filter=JWT, invert=invert)
    for key in ("payload", *claims):
        message.path.add(key=key)
    listed, single = (message.value.or_match.value_matchers.add() for _ in range(2))
    listed.list_match.one_of.string_match.CopyFrom(value)
    single.string_match.CopyFrom(value)
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
