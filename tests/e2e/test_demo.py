"""`meshlib demo` as a newcomer runs it: real processes, the real Envoy, real sockets."""

import json
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from meshlib.cli.demo.gateway import find_envoy

STAGES = ("baseline", "failing", "retrying", "slow", "ejection")

pytestmark = pytest.mark.slow


def start(tmp_path, *arguments):
    """Start the demo with a temporary directory of its own, so that leftovers show."""
    return subprocess.Popen(
        [sys.executable, "-m", "meshlib", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """One whole run with --json: (the object, what stderr said, its temporary directory)."""
    tmp_path = tmp_path_factory.mktemp("demo")
    with start(tmp_path, "--json") as demo:
        stdout, stderr = demo.communicate(timeout=100)
    assert demo.returncode == 0, stderr
    return json.loads(stdout), stderr, tmp_path


def test_the_keys(told):
    report, _, _ = told

    assert set(report) == {*STAGES, "proxies", "config_push_ms", "trace", "envoy"}
    for name in STAGES:
        assert set(report[name]) == {"requests", "success_rate", "p50_ms", "p99_ms", "attempts_per_request"}


def test_every_client_is_synced(told):
    report, _, _ = told
    kinds = {"sidecar", "router"} if find_envoy() else {"sidecar"}

    assert {proxy["kind"] for proxy in report["proxies"]} == kinds
    for proxy in report["proxies"]:
        assert set(proxy) == {"name", "kind", "cds", "lds", "eds", "rds"}
        assert {proxy[kind] for kind in ("cds", "lds", "eds", "rds")} == {"SYNCED"}, proxy


def test_all_is_well_at_first(told):
    baseline = told[0]["baseline"]

    assert (baseline["requests"], baseline["success_rate"], baseline["attempts_per_request"]) == (400, 1.0, 1.0)


def test_half_of_the_requests_fail_without_retries(told):
    failing = told[0]["failing"]

    assert 0.4 <= failing["success_rate"] <= 0.6
    assert failing["attempts_per_request"] == 1.0


def test_retries_mend_what_fails_and_cost_time(told):
    baseline, retrying = told[0]["baseline"], told[0]["retrying"]

    assert retrying["success_rate"] >= 0.9
    assert 1.6 <= retrying["attempts_per_request"] <= 2.15
    assert retrying["p99_ms"] > baseline["p50_ms"]


def test_a_slow_instance_is_cut_off_and_the_other_answers(told):
    slow = told[0]["slow"]

    assert slow["success_rate"] == 1.0
    assert 2000 <= slow["p99_ms"] < 8000  # one to three attempts of 2 s before the one that answers
    assert slow["p50_ms"] < 2000
    assert 1.0 < slow["attempts_per_request"] < 1.8


def test_a_dead_instance_is_ejected(told):
    report, stderr, _ = told
    ejection = report["ejection"]

    assert ejection["success_rate"] == 1.0
    # Without ejection every second request would meet the dead instance first: 1.5.
    assert 1.0 < ejection["attempts_per_request"] < 1.1
    assert re.search(r"v2 was ejected after \d+ attempts", stderr)


def test_the_edit_is_in_force_soon(told):
    assert 0 < told[0]["config_push_ms"] < 1000


def test_the_trace_runs_from_the_gateway_to_the_catalog_with_every_attempt(told):
    report, _, _ = told
    trace = report["trace"]
    ids = {span["span_id"] for span in trace}
    services = [span["service"].partition(".")[0] for span in trace]
    attempts = [span for span in trace if span["attempt"]]

    assert len({span["trace_id"] for span in trace}) == 1
    assert len([span for span in trace if span["parent_id"] not in ids]) == 1
    assert services[0] == ("istio-ingressgateway" if find_envoy() else "webapp")
    assert {"webapp", "catalog"} <= set(services)
    assert [span["attempt"] for span in attempts] == list(range(1, len(attempts) + 1))
    assert len(attempts) > 1
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", span["endpoint"]) for span in attempts)
    assert [span["status"] for span in attempts[:-1]] == [500] * (len(attempts) - 1)
    # Each attempt is answered by one catalog, whose span hangs below it.
    answering = [span["parent_id"] for span in trace if span["service"] == "catalog"]
    assert sorted(answering) == sorted(span["span_id"] for span in attempts)


def test_the_version_of_envoy(told):
    version = told[0]["envoy"]

    assert (version is None) if find_envoy() is None else re.fullmatch(r"\d+\.\d+\.\d+.*", version)


def test_the_first_200_comes_soon(told):
    seconds = float(re.search(r"first 200 after ([\d.]+) s", told[1])[1])
    print(f"first 200 after {seconds} s")

    assert seconds < 15  # five on a machine that does nothing else


def test_nothing_is_left_behind(told):
    _, _, tmp_path = told

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_leaves_nothing_behind(tmp_path, number):
    with start(tmp_path) as demo:
        while "first 200 after" not in (line := demo.stdout.readline()):
            assert line, demo.stderr.read()
        parts = psutil.Process(demo.pid).children(recursive=True)
        assert len(parts) >= 4
        demo.send_signal(number)
        demo.communicate(timeout=20)

    assert demo.returncode != 0
    assert not any(part.is_running() for part in parts)  # and with them their ports are free
    assert list(tmp_path.iterdir()) == []
