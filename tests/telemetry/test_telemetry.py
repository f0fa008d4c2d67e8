"""Several observers as one, and the request id."""

from __future__ import annotations

import logging
import subprocess
import sys
from uuid import UUID

import pytest

from meshlib.policy.events import NullObserver
from meshlib.telemetry import Telemetry
from meshlib.telemetry.request_id import RequestId
from telemetry.records import V1, V2, begin, play, request


class Noting(NullObserver):
    def __init__(self, name: str):
        self.name = name
        self.events: list[str] = []

    def call_started(self, record):
        self.events.append("call_started")

    def attempt_started(self, record, attempt):
        self.events.append("attempt_started")
        return [(f"x-{self.name}", str(attempt.number))]

    def attempt_ended(self, record, attempt):
        self.events.append("attempt_ended")

    def call_ended(self, record):
        self.events.append("call_ended")


class Broken:
    def __getattr__(self, event):
        def fail(*_):
            raise RuntimeError(f"{event} is broken")

        return fail


def test_every_observer_hears_everything_and_headers_are_joined():
    one, two = Noting("one"), Noting("two")
    given = play(Telemetry(one, NullObserver(), two), begin(), (V1, 503), (V2, 200))
    assert one.events == two.events
    assert one.events == ["call_started", *["attempt_started", "attempt_ended"] * 2, "call_ended"]
    assert given == [{"x-one": "1", "x-two": "1"}, {"x-one": "2", "x-two": "2"}]


def test_a_broken_observer_fails_nobody_and_is_logged_once(caplog):
    heard = Noting("heard")
    telemetry = Telemetry(Broken(), heard)
    with caplog.at_level(logging.ERROR, "meshlib.telemetry"):
        for _ in range(3):
            assert play(telemetry, begin(), (V1, 200)) == [{"x-heard": "1"}]
    assert heard.events[-1] == "call_ended"
    assert [record.getMessage() for record in caplog.records] == [
        f"Broken failed at {event}; the call goes on, later failures stay silent"
        for event in ("call_started", "attempt_started", "attempt_ended", "call_ended")
    ]
    assert all(record.exc_info for record in caplog.records)


def test_nobody_listening():
    assert play(Telemetry(), begin(), (V1, 200)) == [{}]


def test_a_call_without_a_request_id_gets_one_for_all_its_attempts():
    first, second = play(RequestId(), begin(), (V1, 503), (V2, 200))
    assert first == second
    assert UUID(first["x-request-id"]).version == 4
    assert play(RequestId(), begin(), (V1, 200)) != [first]


def test_the_requests_own_id_is_kept():
    assert play(RequestId(), begin(request(headers=[("x-request-id", "mine")])), (V1, 200)) == [{}]


@pytest.mark.parametrize("module", ["telemetry", "telemetry.metrics", "telemetry.access_log", "telemetry.request_id"])
def test_importing_telemetry_imports_neither_opentelemetry_nor_prometheus(module):
    code = (
        f"import sys, meshlib.{module}; print([m for m in ('opentelemetry', 'prometheus_client') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
