"""gRPC's words in policy's, as tables: targets, metadata, channel options, and what a failed RPC means."""

from __future__ import annotations

import time

import grpc
import pytest

from meshlib.model.endpoint import Endpoint
from meshlib.model.request import RequestView
from meshlib.policy.effects import Attempt, ErrorKind
from meshlib.transports.grpc_pool import ChannelPool
from meshlib.transports.grpc_translate import (
    Bound,
    attempt_metadata,
    channel_options,
    dial_target,
    failed,
    parse_target,
    view_of,
)
from transports.snapshots import static_cluster

HERE = Endpoint("10.0.0.1", 50051)
NAMED = Endpoint("catalog.internal", 50051)
NO_BOUND = Bound(None, False, 0.0)
VIEW = RequestView(
    method="POST", scheme="http", host="catalog", port=50051, authority="catalog", target="/", headers=[]
)


def attempt(endpoint: Endpoint = HERE, headers=(), authority: str = "catalog:50051", cluster: str = "c") -> Attempt:
    return Attempt(1, static_cluster(cluster, []), endpoint, None, None, headers, authority, "/shop.Catalog/Get")


def error(code: str, details: str, *, first=(), last=()) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(*first), grpc.aio.Metadata(*last)
    return grpc.aio.AioRpcError(grpc.StatusCode[code], *metadata, details=details)


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("catalog", "catalog", 80),
        ("Catalog.ns:50051", "catalog.ns", 50051),
        ("[::1]:81", "::1", 81),
        ("[::1]", "::1", 80),
    ],
)
def test_targets(target, host, port):
    parsed = parse_target(target)
    assert (parsed.host, parsed.port, parsed.authority) == (host, port, target)


@pytest.mark.parametrize(
    "target", ["", "dns:///catalog:50051", "xds:///catalog", "catalog:", "catalog:0", "a:99999", "::1"]
)
def test_targets_that_are_none(target):
    with pytest.raises(ValueError, match="port"):
        parse_target(target)


def test_the_authority_option():
    assert parse_target("catalog:1", [("grpc.default_authority", "other")]).authority == "other"


def test_the_view_of_an_rpc():
    metadata = [("x-user", "me"), ("trace-bin", b"\0"), ("x-user", "you"), ("bytes", b"ab")]
    view = view_of(parse_target("Catalog:50051"), "/shop.Catalog/Get", metadata, replayable=True)
    assert (view.method, view.scheme, view.host, view.port) == ("POST", "http", "catalog", 50051)
    assert (view.authority, view.target) == ("Catalog:50051", "/shop.Catalog/Get")
    assert view.values("x-user") == ["me", "you"]
    assert view.header("bytes") == "ab"
    assert view.header("content-type") == "application/grpc"
    assert view.header("trace-bin") is None


def test_metadata_of_an_attempt():
    headers = [("traceparent", "ours"), ("te", "no"), ("grpc-timeout", "1S"), (":path", "/"), ("host", "h")]
    sent = attempt_metadata([("traceparent", "theirs"), ("x-user", "me")], attempt(headers=headers))
    assert sent == [("x-user", "me"), ("traceparent", "ours")]


@pytest.mark.parametrize(
    ("endpoint", "target"),
    [
        (HERE, "ipv4:10.0.0.1:50051"),
        (Endpoint("fd00::1", 81), "ipv6:[fd00::1]:81"),
        (NAMED, "dns:///catalog.internal:50051"),
        (Endpoint("/run/catalog.sock", 0), "unix:/run/catalog.sock"),
    ],
)
def test_dial_targets(endpoint, target):
    assert dial_target(endpoint) == target


def test_our_channel_options_win():
    options = dict(channel_options([("grpc.enable_retries", 1), ("grpc.keepalive_time_ms", 9)], "catalog", 2.5))
    assert options["grpc.enable_retries"] == 0
    assert options["grpc.keepalive_time_ms"] == 9
    assert options["grpc.default_authority"] == "catalog"
    assert options["grpc.min_reconnect_backoff_ms"] == 2500


REFUSED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:{}: Failed to connect to remote host: refused"
SLOW = "failed to connect to all addresses; last error: UNKNOWN: ipv4:{}: connection attempt timed out before …"

LOCAL = [
    (HERE, "UNAVAILABLE", REFUSED.format(HERE), ErrorKind.CONNECT),
    (NAMED, "UNAVAILABLE", REFUSED.format("10.9.9.9:50051"), ErrorKind.CONNECT),
    (NAMED, "UNAVAILABLE", "errors resolving catalog.internal:50051: [… not found]", ErrorKind.CONNECT),
    (HERE, "UNAVAILABLE", SLOW.format(HERE), ErrorKind.CONNECT_TIMEOUT),
    (HERE, "UNAVAILABLE", "Socket closed", ErrorKind.RESET),  # 1.80
    (HERE, "UNAVAILABLE", "Stream removed (Socket closed)", ErrorKind.RESET),  # 1.85
    (HERE, "UNAVAILABLE", "GOAWAY received; Error code: 0; Debug Text: ", ErrorKind.RESET),
    (HERE, "INTERNAL", "Received RST_STREAM with error code 2", ErrorKind.RESET),
    (HERE, "CANCELLED", "Stream removed (RST_STREAM (Received RST_STREAM with error code 8))", ErrorKind.RESET),
    (HERE, "RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (5 vs. 4)", ErrorKind.APPLICATION),
    (HERE, "RESOURCE_EXHAUSTED", "Stream removed (CLIENT: Received message larger than max (5 vs. 4))", "APPLICATION"),
    (HERE, "INTERNAL", "Exception deserializing response!", ErrorKind.APPLICATION),
    (HERE, "UNKNOWN", "Exception iterating requests!", ErrorKind.APPLICATION),
    (HERE, "CANCELLED", "Channel closed!", ErrorKind.APPLICATION),
]


@pytest.mark.parametrize(("endpoint", "code", "details", "kind"), LOCAL, ids=[case[2][:50] for case in LOCAL])
def test_failures_made_on_this_side(endpoint, code, details, kind):
    caught = error(code, details)
    outcome = failed(caught, attempt(endpoint), NO_BOUND)
    assert outcome.error is (ErrorKind[kind] if isinstance(kind, str) else kind)
    assert (outcome.status, outcome.exception, outcome.message) == (None, caught, details)
    assert outcome.written is (outcome.error not in (ErrorKind.CONNECT, ErrorKind.CONNECT_TIMEOUT))


@pytest.mark.parametrize(
    ("caught", "status", "grpc_status"),
    [
        (error("UNAVAILABLE", "try later"), 200, 14),
        (error("DEADLINE_EXCEEDED", "mine ran out"), 200, 4),
        (error("UNKNOWN", "No status received"), 200, 2),
        # A server that passes on what its own call met, of another endpoint:
        (error("UNAVAILABLE", REFUSED.format("10.9.9.9:1")), 200, 14),
        # … or says that it is the server's, by sending metadata:
        (error("UNAVAILABLE", "Socket closed", last=[("why", "so")]), 200, 14),
        # The response had begun: the code no longer counts.
        (error("UNAVAILABLE", "no", first=[("a", "b")]), 200, None),
        (error("UNAVAILABLE", "Received http2 header with status: 503"), 503, None),
    ],
)
def test_statuses_of_the_server(caught, status, grpc_status):
    outcome = failed(caught, attempt(), NO_BOUND)
    assert (outcome.error, outcome.status, outcome.grpc_status) == (None, status, grpc_status)


def test_trailing_metadata_are_the_headers_of_the_outcome():
    caught = error("UNAVAILABLE", "slow down", last=[("x-envoy-ratelimited", "true"), ("more-bin", b"\0")])
    assert failed(caught, attempt(), NO_BOUND).headers == {"x-envoy-ratelimited": "true"}


@pytest.mark.parametrize(("application", "kind"), [(True, ErrorKind.APPLICATION), (False, ErrorKind.TIMEOUT)])
def test_whose_deadline_it_was(application, kind):
    late = Bound(0.1, application, time.monotonic() - 0.1)
    assert failed(error("DEADLINE_EXCEEDED", "Deadline Exceeded"), attempt(), late).error is kind


# The pool


class Plain:
    """A channel that is only counted."""

    def __init__(self, target, options, credentials) -> None:
        assert credentials is None
        self.target = target
        self.authority = dict(options)["grpc.default_authority"]


def test_one_channel_per_cluster_endpoint_and_authority():
    pool = ChannelPool(Plain, [])
    leases = [
        pool.take(attempt(), VIEW),
        pool.take(attempt(), VIEW),
        pool.take(attempt(authority="x"), VIEW),
        pool.take(attempt(NAMED), VIEW),
    ]
    leases.append(pool.take(attempt(cluster="d"), VIEW))
    assert leases[0] is leases[1]
    assert len({id(lease.channel) for lease in leases}) == 4
    assert leases[2].channel.authority == "x"


def test_a_retired_channel_is_unused_once_its_last_use_ends():
    pool = ChannelPool(Plain, [])
    lease = pool.take(attempt(), VIEW)
    pool.take(attempt(), VIEW)
    pool.retire(lambda _cluster, _address: False)
    assert pool.unused() == []
    pool.give_back(lease)
    assert pool.unused() == []
    pool.give_back(lease)
    assert pool.unused() == [lease.channel]
    assert pool.unused() == []
    assert pool.take(attempt(), VIEW) is not lease


def test_a_broken_channel_is_not_offered_again():
    pool = ChannelPool(Plain, [])
    lease = pool.take(attempt(), VIEW)
    assert pool.take(attempt(), VIEW) is lease
    pool.give_back(lease, broken=True)
    assert pool.take(attempt(), VIEW) is not lease
    assert pool.unused() == []
    pool.give_back(lease, broken=True)
    assert pool.unused() == [lease.channel]


def test_a_forked_child_keeps_inherited_channels_unclosed():
    pool = ChannelPool(Plain, [])
    lease = pool.take(attempt(), VIEW)
    pool.forget()
    assert pool.empty() == []
    assert pool.take(attempt(), VIEW).channel is not lease.channel
