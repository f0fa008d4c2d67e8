"""The constraints that Envoy's protos declare: one message of each kind of rule."""

import pytest
from google.protobuf import json_format

from meshlib.xds.constraints import violations
from meshlib.xds.protos import cluster_pb2, http_connection_manager_pb2, route_components_pb2, route_pb2


def table(**route):
    message = {"match": {"prefix": "/"}, "direct_response": {"status": 200}, **route}
    host = {"name": "v", "domains": ["*"], "routes": [message]}
    return json_format.ParseDict({"name": "t", "virtual_hosts": [host]}, route_pb2.RouteConfiguration())


PLACE = "virtual_hosts[0].routes[0]"


@pytest.mark.parametrize(
    ("route", "path", "said"),
    [
        ({"match": {}}, f"{PLACE}.match", "says none of"),
        (
            {"direct_response": {"status": 600}},
            f"{PLACE}.direct_response.status",
            "must be below 600 and must be at least 200",
        ),
        ({"direct_response": {"status": 200, "body": {}}}, f"{PLACE}.direct_response.body", "says none of"),
        ({"match": {"prefix": "/", "headers": [{"name": ""}]}}, f"{PLACE}.match.headers[0].name", "must not be empty"),
        ({"match": {"prefix": "/", "headers": [{"name": "a\n"}]}}, f"{PLACE}.match.headers[0].name", "line break"),
        ({"match": {"path_separated_prefix": "/a/"}}, f"{PLACE}.match.path_separated_prefix", "does not match"),
        ({"request_headers_to_remove": [""]}, f"{PLACE}.request_headers_to_remove[0]", "must not be empty"),
        ({"request_headers_to_add": [{}]}, f"{PLACE}.request_headers_to_add[0].header", "is missing"),
    ],
)
def test_what_breaks_a_rule(route, path, said):
    found = dict(violations(table(**route)))
    assert said in found.pop(path)
    assert found == {}


def test_what_breaks_none():
    assert list(violations(table())) == []
    assert list(violations(table(match={"prefix": ""}, response_headers_to_remove=["x"]))) == []


def test_enums_durations_and_lists():
    policy = {"retry_back_off": {"base_interval": "0s"}, "retriable_request_headers": [{"name": "a"}]}
    message = json_format.ParseDict(policy, route_components_pb2.RetryPolicy())
    assert dict(violations(message)) == {"retry_back_off.base_interval": "must be above 0:00:00"}
    cluster = cluster_pb2.Cluster(name="c", lb_policy=99)
    assert dict(violations(cluster)) == {"lb_policy": "99 is no LbPolicy"}
    host = route_components_pb2.VirtualHost()
    assert dict(violations(host)) == {"domains": "must not be empty"}  # a name is not demanded: istiod sends none


def test_names_of_statistics_are_not_demanded():
    manager = http_connection_manager_pb2.HttpConnectionManager(route_config={"name": "t"})
    assert list(violations(manager)) == []
