"""Which timeouts a call has, which of them passes first, and what is said of it (measured on Envoy 1.40)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib.model.route import GrpcTimeout, StreamDuration
from meshlib.policy.deadlines import as_grpc_timeout, grpc_timeout, old_grpc_timeout, stream_duration
from meshlib.policy.effects import ReplyKind
from policy.driving import Lab, Met
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot

NEVER = Met(200, after=1e9)
GRPC = [("content-type", "application/grpc")]
QUICK = {"base_interval": 0.001, "max_interval": 0.001}


def lab(*, route=None, of_cluster=None, **http):
    config = snapshot(cluster(endpoints(1), **(of_cluster or {})), routes=[forward(**(route or {}))], **http)
    return Lab(config)


def asked(*headers, grpc=False):
    return request("/", headers=[*(GRPC if grpc else ()), *headers])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("100m", 0.1),
        ("2S", 2.0),
        ("3M", 180.0),
        ("1H", 3600.0),
        ("1500u", 0.002),  # rounded up to milliseconds
        ("999999n", 0.001),
        ("0m", 0.0),
        ("99999999m", 99999.999),
        *((text, None) for text in ("100000000m", "5x", "", "m", "-1S", "1.5S", "\u0661S")),
    ],
)
def test_grpc_timeout_is_read(text, seconds):
    assert grpc_timeout(asked(("grpc-timeout", text))) == seconds


@given(st.floats(0.0, 1e9))
def test_grpc_timeout_is_written_as_it_is_read(seconds):
    text = as_grpc_timeout(seconds)
    assert len(text) <= 9
    read = grpc_timeout(asked(("grpc-timeout", text)))
    assert read is not None
    assert read <= seconds + 0.001


@pytest.mark.parametrize(
    ("limit", "manager", "wanted", "seconds"),
    [
        (None, 0.0, None, None),
        (None, 2.0, None, 2.0),
        (None, 2.0, 0.1, 2.0),
        (StreamDuration(3.0), 2.0, None, 3.0),
        (StreamDuration(0.0), 2.0, None, None),  # 0 is no limit
        (StreamDuration(3.0), 0.0, 0.1, 3.0),  # grpc-timeout counts only where header_max says so
        (StreamDuration(None, 1.0), 2.0, None, 2.0),
        (StreamDuration(None, 1.0), 2.0, 0.5, 0.5),
        (StreamDuration(3.0, 1.0), 0.0, 9.0, 1.0),
        (StreamDuration(3.0, 0.0), 0.0, 9.0, 9.0),
        (StreamDuration(None, 1.0, 0.05), 0.0, 0.1, pytest.approx(0.05)),
        (StreamDuration(None, 1.0, 0.05), 0.0, 0.04, 0.0),  # at once
        (StreamDuration(None, 1.0, 0.05), 0.0, 0.0, 0.0),
    ],
)
def test_max_stream_duration(limit, manager, wanted, seconds):
    assert stream_duration(limit, manager, wanted) == seconds


@pytest.mark.parametrize(
    ("limit", "header", "seconds"),
    [
        (GrpcTimeout(0.0), "", 0.0),
        (GrpcTimeout(0.0), "150m", 0.15),
        (GrpcTimeout(0.2), "", 0.2),
        (GrpcTimeout(0.2), "5S", 0.2),
        (GrpcTimeout(0.2, 0.05), "150m", pytest.approx(0.1)),
        (GrpcTimeout(0.2, 0.05), "40m", 0.04),  # an offset that would leave nothing is left out
    ],
)
def test_max_grpc_timeout(limit, header, seconds):
    assert old_grpc_timeout(limit, asked(("grpc-timeout", header))) == seconds


# what is configured, what the caller says -> flags, detail, seconds until the reply, its kind
@pytest.mark.parametrize(
    ("config", "view", "told"),
    [
        ({"route": {"timeout": 2.0}}, asked(), ("UT", "response_timeout", 2.0, ReplyKind.ROUTE_TIMEOUT)),
        (
            {"route": {"timeout": 0.0, "idle_timeout": 0.5}},
            asked(),
            ("SI", "stream_idle_timeout", 0.5, ReplyKind.STREAM_TIMEOUT),
        ),
        (
            {"route": {"timeout": 0.0}, "stream_idle_timeout": 3.0},
            asked(),
            ("SI", "stream_idle_timeout", 3.0, ReplyKind.STREAM_TIMEOUT),
        ),
        (
            {
                "route": {"timeout": 0.0, "idle_timeout": 0.0, "retry": retry(per_try_timeout=4.0)},
                "stream_idle_timeout": 3.0,
            },
            asked(),
            ("UT", "upstream_per_try_timeout", 4.0, ReplyKind.PER_TRY_TIMEOUT),
        ),
        (
            {"route": {"timeout": 0.0, "retry": retry(per_try_idle_timeout=0.5)}},
            asked(),
            ("UT", "upstream_per_try_idle_timeout", 0.5, ReplyKind.PER_TRY_TIMEOUT),
        ),
        (
            {"route": {"timeout": 0.0, "stream_duration": StreamDuration(0.7)}},
            asked(),
            ("-", "max_duration_timeout", 0.7, ReplyKind.STREAM_TIMEOUT),
        ),
        (
            {"route": {"timeout": 2.0}, "max_stream_duration": 0.7},
            asked(),
            ("-", "max_duration_timeout", 0.7, ReplyKind.STREAM_TIMEOUT),
        ),
        (
            {"route": {"timeout": 2.0}, "of_cluster": {"max_stream_duration": 0.7}},
            asked(),
            ("UMSDR", "upstream_max_stream_duration_reached", 0.7, ReplyKind.STREAM_TIMEOUT),
        ),
        (
            {"route": {"timeout": 2.0}, "of_cluster": {"max_stream_duration": 0.7}},
            asked(("x-envoy-upstream-stream-duration-ms", "900")),
            ("UMSDR", "upstream_max_stream_duration_reached", 0.9, ReplyKind.STREAM_TIMEOUT),
        ),
        (
            {"route": {"timeout": 2.0}, "respect_expected_timeout": True},
            asked(("x-envoy-expected-rq-timeout-ms", "300"), ("x-envoy-upstream-rq-timeout-ms", "100")),
            ("UT", "response_timeout", 0.3, ReplyKind.ROUTE_TIMEOUT),
        ),
        (
            {"route": {"timeout": 2.0, "grpc_timeout": GrpcTimeout(0.0)}},
            asked(("grpc-timeout", "150m"), grpc=True),
            ("UT", "response_timeout", 0.15, ReplyKind.ROUTE_TIMEOUT),
        ),
        (
            {"route": {"timeout": 2.0, "grpc_timeout": GrpcTimeout(0.0)}},
            asked(("grpc-timeout", "150m")),
            ("UT", "response_timeout", 2.0, ReplyKind.ROUTE_TIMEOUT),
        ),
        (
            {"route": {"timeout": 2.0, "grpc_timeout": GrpcTimeout(0.2)}},
            asked(("x-envoy-upstream-rq-timeout-ms", "120"), grpc=True),
            ("UT", "response_timeout", 0.12, ReplyKind.ROUTE_TIMEOUT),
        ),
    ],
)
def test_which_timeout_passes_first(config, view, told):
    test = lab(**config)
    began = test.clock()
    run = test.run(NEVER, view=view)
    flags, detail, seconds, kind = told
    assert (run.flags, run.record.detail, run.reply.kind) == (flags, detail, kind)
    assert test.clock() - began == pytest.approx(seconds)
    test.assert_idle()


@pytest.mark.parametrize(
    ("on", "attempts"), [("5xx", 2), ("gateway-error", 2), ("reset", 2), ("connect-failure", 1), ("retriable-4xx", 1)]
)
def test_the_upstreams_duration_is_retried_as_a_reset(on, attempts):
    test = lab(route={"retry": retry(on, **QUICK)}, of_cluster={"max_stream_duration": 0.2})
    assert len(test.run(NEVER).attempts) == attempts


@pytest.mark.parametrize("field", ["idle_timeout", "stream_duration"])
def test_what_ends_the_call_is_never_retried_nor_blamed_on_the_endpoint(field):
    limit = StreamDuration(0.2) if field == "stream_duration" else 0.2
    test = lab(route={"timeout": 0.0, "retry": retry("5xx", num_retries=3, **QUICK), field: limit})
    run = test.run(NEVER)
    assert len(run.attempts) == 1
    state = next(iter(test.cluster().endpoints.values()))
    assert state.consecutive_5xx == 0


def test_a_stream_duration_counts_from_the_begin_and_over_all_attempts():
    test = lab(
        route={"timeout": 0.0, "stream_duration": StreamDuration(0.5), "retry": retry("5xx", num_retries=9, **QUICK)}
    )
    run = test.run(Met(503, after=0.2))
    assert (run.record.detail, len(run.attempts)) == ("max_duration_timeout", 3)


def test_alternative_responses_are_for_the_routers_timeouts_alone():
    header = ("x-envoy-upstream-rq-timeout-alt-response", "1")
    assert lab(route={"timeout": 0.2}).run(NEVER, view=asked(header)).status == 204
    assert lab(route={"timeout": 0.0, "idle_timeout": 0.2}).run(NEVER, view=asked(header)).status == 504


def test_deadline_exceeded_is_said_of_durations_to_grpc_callers():
    run = lab(route={"timeout": 0.0, "stream_duration": StreamDuration(0.2)}).run(NEVER, view=asked(grpc=True))
    assert dict(run.reply.headers)["grpc-status"] == "4"
    run = lab(route={"timeout": 0.2}).run(NEVER, view=asked(grpc=True))
    assert dict(run.reply.headers)["grpc-status"] == "14"


@pytest.mark.parametrize(
    ("route", "headers", "sent"),
    [
        ({"timeout": 2.0}, [], {"x-envoy-expected-rq-timeout-ms": "2000"}),
        ({"timeout": 0.0}, [], {}),
        (
            {"timeout": 2.0, "grpc_timeout": GrpcTimeout(0.2)},
            [],
            {"x-envoy-expected-rq-timeout-ms": "200", "grpc-timeout": "200m"},
        ),
        ({"timeout": 0.0, "stream_duration": StreamDuration(0.25)}, [], {"grpc-timeout": "250m"}),
        (
            {"timeout": 0.0, "stream_duration": StreamDuration(None, 1.0)},
            [("grpc-timeout", "9S")],
            {"grpc-timeout": "1000m"},
        ),
        ({"timeout": 0.0, "stream_duration": StreamDuration(None, 1.0)}, [("grpc-timeout", "bad")], {}),
    ],
)
def test_what_is_told_upstream(route, headers, sent):
    run = lab(route=route).run(200, view=asked(*headers, grpc=True))
    assert dict(run.attempts[0].headers) == sent


def test_the_application_s_deadline_is_told():
    test = lab(route={"timeout": 2.0})
    test.options["deadline"] = test.clock() + 0.5
    assert dict(test.run(200).attempts[0].headers)["x-envoy-expected-rq-timeout-ms"] == "500"
    test.options["deadline"] = test.clock() + 60.0
    assert dict(test.run(200).attempts[0].headers)["x-envoy-expected-rq-timeout-ms"] == "2000"
