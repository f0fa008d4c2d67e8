import http.server
import itertools
import threading
from collections import Counter

import pytest

from meshlib.cli.demo.load import Stage, send_load


@pytest.fixture
def every_fourth_fails():
    """A server on a real socket whose every fourth answer is a 500."""
    numbers = itertools.count(1)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(500 if next(numbers) % 4 == 0 else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_rates_come_from_the_responses(every_fourth_fails):
    ticks = []
    stage = send_load(every_fourth_fails, 40, on_response=lambda: ticks.append(1))

    assert stage.statuses == {200: 30, 500: 10}
    assert stage.success_rate == 0.75
    assert len(ticks) == stage.requests == 40


def test_no_response_counts_as_a_failure():
    stage = send_load("http://127.0.0.1:1/", 3)

    assert stage.statuses == {0: 3}
    assert stage.success_rate == 0


@pytest.mark.parametrize(("percent", "want"), [(50, 50.0), (99, 99.0), (100, 100.0), (0, 1.0)])
def test_percentiles_are_nearest_rank(percent, want):
    stage = Stage(Counter(), [number / 1000 for number in range(1, 101)])

    assert stage.percentile_ms(percent) == want


def test_the_json_of_a_stage():
    stage = Stage(Counter({200: 3, 503: 1}), [0.01, 0.02, 0.03, 0.5], attempts=7)

    assert stage.to_dict() == {
        "requests": 4,
        "success_rate": 0.75,
        "p50_ms": 20.0,
        "p99_ms": 500.0,
        "attempts_per_request": 1.75,
    }
