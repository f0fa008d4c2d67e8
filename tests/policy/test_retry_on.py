"""The retry_on matrix, as measured on the real Envoy (num_retries 2: 3 attempts = retried, 1 = not)."""

import pytest

from meshlib.policy.effects import ErrorKind
from policy.driving import Lab, Met
from policy.snapshots import cluster, endpoints, forward, retry, snapshot

FAILURES = {
    "500": 500,
    "503": 503,
    "504": 504,
    "409": 409,
    "418": 418,
    "reset": ErrorKind.RESET,
    "per-try timeout": Met(200, after=9.0),
    "connection refused": ErrorKind.CONNECT,
    "stream refused": ErrorKind.REFUSED,
    "503 ratelimited": Met(503, headers={"x-envoy-ratelimited": "true"}),
    "503 overloaded": Met(503, headers={"x-envoy-overloaded": "true"}),
}

MATRIX = {
    # condition                500 503 504 409 418 reset per-try refused stream ratelimited overloaded
    "5xx": (3, 3, 3, 1, 1, 3, 3, 3, 3, 1, 3),
    "gateway-error": (1, 3, 3, 1, 1, 3, 3, 3, 3, 1, 3),
    "reset": (1, 1, 1, 1, 1, 3, 3, 3, 3, 1, 1),
    "reset-before-request": (1, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1),
    "connect-failure": (1, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1),
    "refused-stream": (1, 1, 1, 1, 1, 1, 1, 1, 3, 1, 1),
    "retriable-4xx": (1, 1, 1, 3, 1, 1, 1, 1, 1, 1, 1),
    "retriable-status-codes": (1, 1, 1, 1, 3, 1, 1, 1, 1, 1, 1),
    "envoy-ratelimited": (1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 1),
}

CELLS = [
    pytest.param(token, failure, want, id=f"{token} × {name}")
    for token, row in MATRIX.items()
    for (name, failure), want in zip(FAILURES.items(), row, strict=True)
]


@pytest.mark.parametrize(("token", "failure", "want"), CELLS)
def test_matrix(token, failure, want):
    policy = retry(token, num_retries=2, per_try_timeout=0.3, retriable_status_codes=frozenset({418}))
    lab = Lab(snapshot(cluster(endpoints(3)), routes=[forward(timeout=0.0, retry=policy)]))
    run = lab.run(failure)
    assert len(run.attempts) == want
    assert ("URX" in run.flags) is (want == 3)
    lab.assert_idle()


GRPC = {"cancelled": 1, "deadline-exceeded": 4, "resource-exhausted": 8, "internal": 13, "unavailable": 14}


@pytest.mark.parametrize("token", GRPC)
@pytest.mark.parametrize("status", range(17))
def test_grpc_tokens_look_at_the_status_in_the_response_head(token, status):
    lab = Lab(snapshot(cluster(endpoints(1)), routes=[forward(retry=retry(token))]))
    run = lab.run(Met(200, grpc_status=status))
    assert len(run.attempts) == (2 if GRPC[token] == status else 1)


@pytest.mark.parametrize(
    ("failure", "want"),
    [
        (ErrorKind.CONNECT, 2),
        (ErrorKind.CONNECT_TIMEOUT, 2),
        (ErrorKind.TLS_FAILED, 2),
        (ErrorKind.RESET, 2),
        (ErrorKind.PROTOCOL, 2),
        (ErrorKind.APPLICATION, 1),  # the caller's own timeout ends the call
        (ErrorKind.TLS_UNAVAILABLE, 1),  # no endpoint will do better
    ],
)
def test_errors_under_5xx(failure, want):
    lab = Lab(snapshot(cluster(endpoints(1)), routes=[forward(retry=retry("5xx"))]))
    assert len(lab.run(failure).attempts) == want
    lab.assert_idle()


def test_status_codes_need_their_token():
    policy = retry("connect-failure", retriable_status_codes=frozenset({503}))
    lab = Lab(snapshot(cluster(endpoints(1)), routes=[forward(retry=policy)]))
    assert len(lab.run(503).attempts) == 1


def test_istios_default_is_narrow():
    policy = retry("connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes")
    lab = Lab(snapshot(cluster(endpoints(1)), routes=[forward(retry=policy)]))
    counts = [len(lab.run(f).attempts) for f in (503, ErrorKind.RESET, ErrorKind.CONNECT)]
    assert counts == [1, 1, 2]


def test_no_policy_no_retry():
    lab = Lab(snapshot(cluster(endpoints(1))))
    run = lab.run(503)
    assert (len(run.attempts), run.flags) == (1, "-")
