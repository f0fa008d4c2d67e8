"""Local replies: status, flags, details, body and headers are Envoy's."""

import pytest

from meshlib.model.cluster import Cluster, OutlierDetection, Thresholds, TransportSocket
from meshlib.model.discovery import Discovery
from meshlib.model.match import PathMatch, RouteMatch, StringOp
from meshlib.model.route import DirectResponse, Redirect, Route, RouteConfiguration, VirtualHost
from meshlib.model.snapshot import Snapshot, Style
from meshlib.policy.effects import ErrorKind, ReplyKind
from policy.driving import Lab, Met
from policy.snapshots import ANY_PATH, cluster, endpoints, forward, request, retry, snapshot

RESET = "upstream connect error or disconnect/reset before headers. {}reset reason: {}"
BEFORE = "upstream_reset_before_response_started{{{}}}"


def of(*script, config=None, routes=None, view=None):
    config = config if config is not None else cluster(endpoints(1))
    test = Lab(snapshot(config, routes=routes or [forward(timeout=2.0)]))
    run = test.run(*script, view=view)
    test.assert_idle()
    return run


FAILURES = [
    # what the attempt met, status, flags, reset reason, detail, kind
    (ErrorKind.CONNECT, 503, "UF", "remote connection failure", "remote_connection_failure", ReplyKind.CONNECT_FAILED),
    (ErrorKind.CONNECT_TIMEOUT, 503, "UF", "connection timeout", "connection_timeout", ReplyKind.CONNECT_FAILED),
    (ErrorKind.RESET, 503, "UC", "connection termination", "connection_termination", ReplyKind.RESET),
    (ErrorKind.PROTOCOL, 502, "UPE", "protocol error", "protocol_error", ReplyKind.RESET),
]


@pytest.mark.parametrize(("met", "status", "flags", "reason", "detail", "kind"), FAILURES)
def test_failed_attempts(met, status, flags, reason, detail, kind):
    run = of(met)
    assert (run.status, run.flags, run.reply.kind) == (status, flags, kind)
    assert run.reply.body == RESET.format("", reason)
    assert run.record.detail == BEFORE.format(detail)
    assert dict(run.reply.headers) == {"content-type": "text/plain"}


def test_failed_after_a_retry():
    run = of(ErrorKind.RESET, routes=[forward(retry=retry("5xx"))])
    assert run.reply.body == RESET.format("retried and the latest ", "connection termination")
    assert run.flags == "URX,UC"


def test_timeout():
    run = of(Met(200, after=9.0))
    assert (run.status, run.flags, run.reply.body) == (504, "UT", "upstream request timeout")
    assert run.record.detail == "response_timeout"


def test_per_try_timeout():
    run = of(Met(200, after=9.0), routes=[forward(timeout=2.0, retry=retry("connect-failure", per_try_timeout=0.5))])
    assert (run.status, run.flags, run.record.detail) == (504, "UT", "upstream_per_try_timeout")


def test_no_healthy_upstream():
    run = of(config=cluster([]))
    assert (run.status, run.flags, run.reply.body) == (503, "UH", "no healthy upstream")
    assert run.record.detail == "no_healthy_upstream"
    assert "has no endpoints" in run.reply.message


def test_all_ejected_is_said():
    config = cluster(
        endpoints(2),
        outlier=OutlierDetection(consecutive_5xx=1, max_ejection_percent=100),
        panic_threshold=0.0,
    )
    test = Lab(snapshot(config))
    test.run(500)
    test.run(500)
    assert "has 2 endpoints, none usable (2 ejected)" in test.run().reply.message


def test_endpoints_that_eds_has_not_brought_yet():
    run = of(config=Cluster("c", Discovery.EDS))
    assert run.flags == "UH"


def test_overflow():
    run = of(config=cluster(endpoints(1), thresholds=Thresholds(max_requests=0)))
    assert (run.status, run.flags, run.reply.body) == (503, "UO", RESET.format("", "overflow"))


@pytest.mark.parametrize("code", [503, 404, 500])
def test_cluster_not_found(code):
    run = of(routes=[forward("nowhere", name="r", cluster_not_found_code=code)])
    assert (run.status, run.flags, run.reply.body) == (code, "NC", "")
    assert run.record.cluster_name == "nowhere"
    assert run.record.cluster is None
    assert "'nowhere'" in run.reply.message


def test_no_route():
    other = RouteMatch(PathMatch(StringOp.PREFIX, "/other"))
    run = of(routes=[forward(match=other)])
    assert (run.status, run.flags, run.reply.body) == (404, "NR", "")
    assert run.record.detail == "route_not_found"
    assert run.record.virtual_host == "host"


def test_no_virtual_host():
    run = of(routes=RouteConfiguration("t", (VirtualHost("v", ("other",), (forward(),)),)))
    assert (run.status, run.flags) == (404, "NR")
    assert (run.record.listener, run.record.route_config, run.record.virtual_host) == ("listener", "t", "")


def test_no_listener():
    run = Lab(Snapshot("1", Style.SIDECAR)).run()
    assert (run.status, run.flags, run.record.listener) == (404, "NR", "")


def test_direct_response():
    run = of(routes=[Route(ANY_PATH, DirectResponse(418, "short and stout"), name="tea")])
    assert (run.status, run.flags, run.reply.body) == (418, "-", "short and stout")
    assert (run.reply.kind, run.record.route) == (ReplyKind.CONFIGURED, "tea")
    assert of(routes=[Route(ANY_PATH, DirectResponse(204))]).reply.headers == ()


def test_redirect():
    run = of(routes=[Route(ANY_PATH, Redirect(302, host="other.test"))], view=request("/a?b=c"))
    assert (run.status, run.reply.headers) == (302, (("location", "http://other.test/a?b=c"),))


@pytest.mark.parametrize("secure", [True, False])
def test_tls_that_cannot_be_honoured(secure):
    socket = TransportSocket("envoy.transport_sockets.tls", secure=secure)
    config = cluster(endpoints(1), transport_socket=socket)
    run = of(ErrorKind.TLS_UNAVAILABLE, config=config)
    assert run.attempts[0].transport_socket is socket
    assert (run.status, run.flags, run.reply.kind) == (503, "UF", ReplyKind.TLS_UNAVAILABLE)
    assert "10.0.0.1:80" in run.reply.message
    assert "'c'" in run.reply.message


@pytest.mark.parametrize(
    ("make", "grpc"),
    [
        (lambda: of(ErrorKind.CONNECT), 14),
        (lambda: of(Met(200, after=9.0)), 4),
        (lambda: of(config=cluster([])), 14),
        (lambda: Lab(Snapshot("1", Style.SIDECAR)).run(), 12),
    ],
)
def test_grpc_status_of_a_local_reply(make, grpc):
    assert make().record.grpc_status == grpc


GRPC = request(headers=[("content-type", "application/grpc")])


@pytest.mark.parametrize(
    ("make", "status", "message"),
    [
        (lambda: of(ErrorKind.CONNECT, view=GRPC), "14", RESET.format("", "remote connection failure")),
        (lambda: of(Met(200, after=9.0), view=GRPC), "14", "upstream request timeout"),
        (lambda: of(config=cluster([]), view=GRPC), "14", "no healthy upstream"),
        (lambda: Lab(Snapshot("1", Style.SIDECAR)).run(view=GRPC), "12", None),
        (lambda: of(routes=[Route(ANY_PATH, DirectResponse(403, "é 50%\n"))], view=GRPC), "7", "%C3%A9 50%25%0A"),
        (lambda: of(routes=[Route(ANY_PATH, Redirect(301, path="/x"))], view=GRPC), "2", None),
    ],
)
def test_grpc_callers_over_http_get_200_and_a_grpc_status(make, status, message):
    """As Envoy answers a gRPC request that it does not forward."""
    reply = make().reply
    headers = dict(reply.headers)
    assert (reply.status, reply.body, headers["content-type"]) == (200, "", "application/grpc")
    assert (headers["grpc-status"], headers.get("grpc-message")) == (status, message)


def test_head_requests_get_no_body():
    assert of(config=cluster([]), view=request(method="HEAD")).reply.body == ""


def test_a_response_passes_through():
    run = of(404)
    assert (run.status, run.flags, run.record.detail) == (404, "-", "via_upstream")
