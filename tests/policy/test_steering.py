"""What a request asks of its route in x-envoy-* headers: the caller is internal."""

import pytest

from meshlib.model.match import HeaderMatch
from meshlib.policy import steering
from policy.driving import Lab, Met
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot

GATE = (HeaderMatch("x-idempotent", present=True),)


def run(headers, *script, **fields):
    test = Lab(snapshot(cluster(endpoints(1)), routes=[forward(**fields)]))
    answer = test.run(*script, view=request(headers=list(headers.items())))
    test.assert_idle()
    return answer


@pytest.mark.parametrize(
    ("headers", "policy", "attempts"),
    [
        ({"x-envoy-retry-on": "5xx"}, None, 2),
        ({"x-envoy-retry-on": "nope, 5xx", "x-envoy-max-retries": "3"}, None, 4),
        ({"x-envoy-max-retries": "3"}, None, 1),
        ({"x-envoy-max-retries": "0"}, retry("5xx"), 1),
        ({"x-envoy-max-retries": "-1"}, retry("5xx"), 2),
        ({"x-envoy-max-retries": "many"}, retry("5xx"), 2),
        ({"x-envoy-retry-on": ""}, None, 1),
        ({"x-envoy-retry-on": "retriable-4xx"}, retry("5xx"), 2),
        ({"x-envoy-retry-on": "retriable-status-codes", "x-envoy-retriable-status-codes": "409, x,503"}, None, 2),
        ({"x-envoy-retriable-status-codes": "503"}, retry("reset"), 1),
        ({"x-envoy-retry-on": "retriable-headers", "x-envoy-retriable-header-names": "X-Again, x-b"}, None, 2),
        ({"x-envoy-retry-on": "retriable-headers", "x-envoy-retriable-header-names": "x-b"}, None, 1),
        ({"x-envoy-retry-grpc-on": "unavailable"}, None, 2),
        ({"x-envoy-retry-on": "unavailable"}, None, 1),  # a word of the other header
        ({"x-envoy-max-retries": "3"}, retry("5xx", retriable_request_headers=GATE), 1),
        ({"x-envoy-retry-on": "5xx"}, retry("reset", retriable_request_headers=GATE), 2),
    ],
)
def test_retries(headers, policy, attempts):
    unavailable = Met(503, headers={"x-again": "1"}, grpc_status=14)
    assert len(run(headers, unavailable, retry=policy).attempts) == attempts


@pytest.mark.parametrize(
    ("headers", "route", "per_try"),
    [
        ({"x-envoy-upstream-rq-timeout-ms": "150"}, 0.15, 0.15),
        ({"x-envoy-upstream-rq-timeout-ms": "0"}, None, None),
        ({"x-envoy-upstream-rq-timeout-ms": "soon"}, 2.0, 2.0),
        ({"x-envoy-upstream-rq-timeout-ms": ""}, 2.0, 2.0),
        ({"x-envoy-upstream-rq-per-try-timeout-ms": "100"}, 2.0, 0.1),
        ({"x-envoy-upstream-rq-per-try-timeout-ms": "9000"}, 2.0, 2.0),
    ],
)
def test_timeouts(headers, route, per_try):
    answer = run(headers, 200, timeout=2.0)
    assert answer.attempts[0].timeout == per_try
    assert answer.final.timeout == route


def test_alternative_response():
    answer = run({"x-envoy-upstream-rq-timeout-alt-response": "1"}, Met(200, after=9.0), timeout=1.0)
    assert (answer.final.status, answer.final.body, list(answer.final.headers)) == (204, "", [])
    assert answer.flags == "UT"


def test_headers_that_steer_are_not_sent_on_and_others_are():
    asked = {"x-envoy-retry-on": "5xx", "x-envoy-original-path": "/a", "x-envoy-upstream-alt-stat-name": "b"}
    answer = run(asked, 200)
    assert answer.attempts[0].removed == {"x-envoy-retry-on", "x-envoy-upstream-alt-stat-name"}


def test_without_them_nothing_is_made():
    view = request(headers=[("accept", "*/*")])
    assert steering.headers(view) is steering.NOTHING
