"""Fields that Envoy has and the installed messages have not: from JSON and from the wire."""

from __future__ import annotations

import pytest

from meshlib.errors import BootstrapError
from meshlib.model.match import StringOp
from meshlib.xds import newer
from meshlib.xds.bootstrap_parts import parse_message
from meshlib.xds.decode_matchers import route_match
from meshlib.xds.protos import listener_pb2, route_components_pb2, route_pb2
from meshlib.xds.scope import Scope
from meshlib.xds.type_urls import ROUTE
from policy.snapshots import request

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
COOKIE = {"name": "s", "string_match": {"exact": "abc"}, "invert_match": True}
HOST = {
    "name": "v",
    "domains": ["*"],
    "routes": [{"match": {"prefix": "/", "cookies": [COOKIE]}, "route": {"cluster": "c"}}],
}


def decoded(message):
    scope = Scope("table", ROUTE)
    return route_match(scope, message), [str(fault) for fault in scope.faults]


def test_cookies_of_json_are_kept_as_on_the_wire():
    host = parse_message(HOST, route_components_pb2.VirtualHost(), "here")
    again = route_components_pb2.VirtualHost.FromString(host.SerializeToString())
    (cookie,) = newer.cookies(again.routes[0].match)
    assert (cookie.name, cookie.string_match.exact, cookie.invert_match) == ("s", "abc", True)
    match, faults = decoded(again.routes[0].match)
    assert (faults, match.cookies[0].string.op, match.cookies[0].invert) == ([], StringOp.EXACT, True)


def test_cookies_within_an_any():
    manager = {"@type": HCM, "route_config": {"name": "r", "virtual_hosts": [HOST]}}
    chain = {"filters": [{"name": "hcm", "typed_config": manager}]}
    listener = parse_message({"name": "l", "filter_chains": [chain]}, listener_pb2.Listener(), "here")
    packed = listener.filter_chains[0].filters[0].typed_config.value
    assert b"\x8a\x01" in packed  # field 17, length-delimited


def test_what_is_wrong_in_a_document_with_cookies_is_said():
    with pytest.raises(BootstrapError, match="nonsense"):
        parse_message({"virtual_hosts": [{**HOST, "nonsense": 1}]}, route_pb2.RouteConfiguration(), "here")


@pytest.mark.parametrize(
    ("cookie", "field"),
    [({**COOKIE, "name": ""}, "name"), ({"name": "s"}, "string_match"), ({"name": "s", "string_match": {}}, "cookies")],
)
def test_cookies_that_envoy_refuses(cookie, field):
    message = parse_message({"prefix": "/", "cookies": [cookie]}, route_components_pb2.RouteMatch(), "here")
    assert any(field in fault for fault in decoded(message)[1])


@pytest.mark.parametrize(
    ("headers", "matches"),
    [
        (["s=abc; t=1"], True),
        (["t=1;s=abc"], True),
        (["t=1", "s=abc"], True),
        (['s="abc"'], True),
        (["s=x; s=abc"], False),
        (["s =abc"], False),
        (["s"], False),
        ([], False),
    ],
)
def test_the_first_cookie_of_a_name_counts(headers, matches):
    cookies = [{**COOKIE, "invert_match": inverted} for inverted in (False, True)]
    view = request(headers=[("cookie", value) for value in headers])
    found = []
    for cookie in cookies:
        message = parse_message({"prefix": "/", "cookies": [cookie]}, route_components_pb2.RouteMatch(), "here")
        found.append(decoded(message)[0].compile()(view))
    assert found == [matches, not matches]
