"""The access log: Istio's default line as a table, and what a format may not say."""

from __future__ import annotations

import io
import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider

from meshlib.errors import ConfigError
from meshlib.policy import flags
from meshlib.telemetry import Telemetry
from meshlib.telemetry.access_log import ISTIO_FORMAT, AccessLog
from meshlib.telemetry.request_id import RequestId
from meshlib.telemetry.tracing import Tracing
from telemetry.records import V1, V2, WEBAPP, begin, play, request

ENDED_AT = 1_763_800_000.25  # 2025-11-22T08:26:40.250Z
CLUSTER = "outbound|80||catalog.istioinaction.svc.cluster.local"
HEADERS = [("user-agent", "python-httpx/0.28.1"), ("x-request-id", "r-1"), ("x-forwarded-for", "10.1.1.1")]


def line(record, *attempts, format=ISTIO_FORMAT, **outcome) -> str:
    stream = io.StringIO()
    play(AccessLog(format, stream=stream, now=lambda: ENDED_AT), record, *attempts, **outcome)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("attempts", "outcome", "want"),
    [
        pytest.param(
            [(V1, 200)],
            {"seconds": 0.125},
            '[2025-11-22T08:26:40.125Z] "GET /items HTTP/1.1" 200 - via_upstream - "-" 0 812 125 4 '
            '"10.1.1.1" "python-httpx/0.28.1" "r-1" "catalog" "10.0.0.1:3000" ' + CLUSTER + " - - - - default",
            id="answered",
        ),
        pytest.param(
            [(V1, 500), (V2, 503)],
            {"flags": flags.UPSTREAM_RETRY_LIMIT_EXCEEDED, "seconds": 0.25},
            '[2025-11-22T08:26:40.000Z] "GET /items HTTP/1.1" 503 URX via_upstream - "-" 0 812 250 4 '
            '"10.1.1.1" "python-httpx/0.28.1" "r-1" "catalog" "10.0.0.2:3000" ' + CLUSTER + " - - - - default",
            id="retries used up",
        ),
        pytest.param(
            [(V1, 'refused by "10.0.0.1"\n[forged line]')],
            {
                "status": 503,
                "flags": flags.UPSTREAM_CONNECTION_FAILURE,
                "detail": "upstream_reset_before_response_started{remote_connection_failure}",
                "seconds": 0.0625,
            },
            '[2025-11-22T08:26:40.187Z] "GET /items HTTP/1.1" 503 UF '
            "upstream_reset_before_response_started{remote_connection_failure} - "
            r'"refused by \"10.0.0.1\"\n[forged line]" 0 812 62 - '
            '"10.1.1.1" "python-httpx/0.28.1" "r-1" "catalog" "10.0.0.1:3000" ' + CLUSTER + " - - - - default",
            id="connection failed",
        ),
        pytest.param(
            [],
            {"status": 503, "flags": flags.NO_HEALTHY_UPSTREAM, "detail": "no_healthy_upstream", "seconds": 0.001},
            '[2025-11-22T08:26:40.249Z] "GET /items HTTP/1.1" 503 UH no_healthy_upstream - "-" 0 812 1 - '
            '"10.1.1.1" "python-httpx/0.28.1" "r-1" "catalog" "-" ' + CLUSTER + " - - - - default",
            id="no endpoint",
        ),
    ],
)
def test_istios_default_line(attempts, outcome, want):
    record = begin(request(headers=HEADERS))
    record.bytes_received = 812
    assert line(record, *attempts, **outcome) == want + "\n"


def test_nothing_known_is_dashes():
    record = begin(request(), cluster=None, route="")
    assert line(record, status=404, flags=flags.NO_ROUTE_FOUND, detail="route_not_found", seconds=0.0) == (
        '[2025-11-22T08:26:40.250Z] "GET /items HTTP/1.1" 404 NR route_not_found - "-" 0 0 0 - '
        '"-" "-" "-" "catalog" "-" - - - - - -\n'
    )


@pytest.mark.parametrize(
    ("format", "want"),
    [
        ("no operator", "no operator"),
        ("100%% %RESPONSE_CODE%%%", "100% 200%"),
        ("%REQ(user-agent):6%|", "python|"),
        ("%REQ(X-MISSING?USER-AGENT)%", "python-httpx/0.28.1"),
        ("%REQ(X-MISSING?X-TOO)%", "-"),
        ("%REQ(ACCEPT)%", "text/html,text/plain"),
        ("%REQ(X-FORGED)%", r"a\" 200 -\r\n[b"),
        ("%REQ(X-CITY)%", "Zürich"),
        ("%REQ(:PATH)% %REQ(:SCHEME)%", "/items http"),
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/items"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT% %RESPONSE_DURATION% %GRPC_STATUS_NUMBER%", "2 24 -"),
        ("%TRACE_ID%", "-"),
        ("%RESP(x-envoy-upstream-service-time)%", "4"),
    ],
)
def test_operators(format, want):
    headers = [
        *HEADERS,
        ("accept", "text/html"),
        ("accept", "text/plain"),
        ("x-forged", 'a" 200 -\r\n[b'),
        ("x-city", "Zürich"),
    ]
    assert line(begin(request(headers=headers)), (V1, 503), (V2, 200), format=format) == want + "\n"


def test_grpc_lines_speak_http2():
    record = begin(request(method="POST", target="/shop.Catalog/List"), protocol="grpc")
    record.grpc_status = 14
    assert line(record, (V1, 200), format="%PROTOCOL% %RESPONSE_CODE% %GRPC_STATUS_NUMBER%") == "HTTP/2 200 14\n"


def test_ids_of_the_other_observers_are_printed():
    stream = io.StringIO()
    log = AccessLog("%REQ(X-REQUEST-ID)% %TRACE_ID%", stream=stream)
    [given] = play(Telemetry(RequestId(), Tracing(WEBAPP, TracerProvider()), log), begin(), (V1, 200))
    assert stream.getvalue().split() == [given["x-request-id"], given["traceparent"].split("-")[1]]


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("%METHOD%", "character 1: %METHOD% is not an operator meshlib knows; it knows BYTES_RECEIVED, "),
        ("ok %RESPONSE_CODE", "character 4: '%' begins no operator"),
        ("100%", "character 4: '%' begins no operator .* write a percent sign as '%%'"),
        ("%REQ%", r"character 1: %REQ% needs a header name, as in %REQ\(X-REQUEST-ID\)%"),
        ("[%START_TIME(%s)%]", r"character 2: %START_TIME% takes no argument here, but has \(%s\)"),
        ("%REQ(Authorization)%", "the header 'authorization' carries credentials and is never logged"),
        ("%REQ(X-USER?COOKIE)%", "the header 'cookie' carries credentials"),
        ("%RESP(CONTENT-TYPE)%", "of the response's headers only 'x-envoy-upstream-service-time' is known here"),
    ],
)
def test_a_format_that_cannot_be_compiled_says_where(format, message):
    with pytest.raises(ConfigError, match=message):
        AccessLog(format)


def test_without_a_stream_the_line_goes_to_the_logger(caplog):
    with caplog.at_level(logging.INFO, "meshlib.access"):
        record = begin(request(headers=HEADERS))
        play(AccessLog("%RESPONSE_CODE% 100%%"), record, (V1, 200))
    [logged] = caplog.records
    assert (logged.name, logged.getMessage(), logged.call) == ("meshlib.access", "200 100%", record)


def test_a_silenced_logger_formats_nothing(caplog):
    with caplog.at_level(logging.WARNING, "meshlib.access"):
        log = AccessLog("%RESPONSE_CODE%", now=lambda: pytest.fail("the line was formatted"))
        play(log, begin(), (V1, 200))
    assert caplog.records == []
