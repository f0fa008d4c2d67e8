"""`meshlib control-plane`, `proxy-status` and `validate`, as processes and as commands."""

import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from typer.testing import CliRunner

from meshlib.cli.app import app
from meshlib.errors import ConfigError, MeshError

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec:
  ports: [{name: http, port: 80}]
"""
WRONG_HOST = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog, namespace: shop}
spec:
  hosts: [catalog]
  http:
  - route: [{destination: {host: catalogg}}]
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mesh"
    folder.mkdir()
    (folder / "catalog.yaml").write_text(SERVICE)
    return folder


@contextlib.contextmanager
def meshlib(*arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "meshlib", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def subscriber(address):
    """Be a client that subscribes to clusters and takes the answer."""
    requests = queue.Queue()
    with grpc.insecure_channel(address) as channel:
        responses = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
        )(iter(requests.get, None))
        node = base_pb2.Node(id="sidecar~127.0.0.1~webapp-x.shop~shop.svc.cluster.local")
        node.metadata["ISTIO_VERSION"] = "1.31.0"
        requests.put(discovery_pb2.DiscoveryRequest(type_url=CLUSTER, node=node))
        response = next(responses)
        requests.put(discovery_pb2.DiscoveryRequest(type_url=CLUSTER, response_nonce=response.nonce))
        yield
        requests.put(None)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_tells_of_its_clients_and_ends_on_a_signal(folder, end):
    with meshlib("control-plane", folder, "--port", 0) as process:
        ready = process.stdout.readline()
        found = re.fullmatch(r"control plane on (127\.0\.0\.1:\d+), serving (.*)/ \(1 resource\)\n", ready)
        assert found, ready
        assert found[2] == str(folder)
        address = found[1]
        with subscriber(address):
            deadline = time.monotonic() + 10
            while "SYNCED" not in (status := run("proxy-status", "--address", address)).stdout:
                assert time.monotonic() < deadline, status.output
            header, row = status.stdout.splitlines()
            assert header.split() == ["NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "ISTIOD", "VERSION"]
            assert re.split(r"\s{2,}", row) == [
                "webapp-x.shop", "Kubernetes", "SYNCED", "NOT SENT", "NOT SENT", "NOT SENT", address, "1.31.0",
            ]  # fmt: skip
            assert row.index("SYNCED") == header.index("CDS")
            (client,) = json.loads(run("ps", "--address", address, "-o", "json").stdout)
            assert client | {"cds": "SYNCED", "rds": "NOT SENT", "kind": "sidecar"} == client
            started = time.monotonic()
            process.send_signal(end)
            assert process.wait(5) == 0
            assert time.monotonic() - started < 1
        host, port = address.rsplit(":", 1)
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind((host, int(port)))


def test_an_edit_is_logged(folder):
    with meshlib("control-plane", folder, "--port", 0) as process:
        assert process.stdout.readline()
        lines = queue.Queue()
        threading.Thread(target=lambda: [lines.put(line) for line in process.stderr], daemon=True).start()
        (folder / "catalog.yaml").write_text(SERVICE.replace("80", "81"))
        assert re.search(r"INFO applied catalog\.yaml \(Service shop/catalog\) in \d+ ms", lines.get(timeout=10))
        (folder / "catalog.yaml").write_text(SERVICE.replace("ports", "port"))
        line = lines.get(timeout=10)
        assert "WARNING catalog.yaml:5:" in line
        assert line.endswith("(its last good version stays in force)\n")
        process.terminate()
        assert process.wait(5) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--port", "TAKEN"], "Address already in use"), (["--host", "192.0.2.1"], "annot assign requested address")],
)
def test_what_cannot_be_listened_on_is_one_sentence(folder, arguments, message):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with meshlib("control-plane", folder, *(port if item == "TAKEN" else item for item in arguments)) as process:
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert message in errors
    assert "Traceback" not in errors


def test_a_folder_that_is_missing_is_one_sentence(tmp_path):
    with meshlib("control-plane", tmp_path / "nowhere", "--port", 0) as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert (
        errors
        == f"meshlib: there is no folder {tmp_path / 'nowhere'}: create it and put Istio and Kubernetes YAML in it\n"
    )


def test_a_collector_needs_a_port(folder):
    result = run("control-plane", folder, "--otlp", "localhost")
    assert result.exit_code == 2
    assert "HOST:PORT" in result.output


def test_nobody_to_ask_for_the_status():
    with socket.socket() as bound:  # bound, and not listening
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with meshlib("proxy-status", "--address", address) as process:
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.startswith(f"meshlib: no control plane answers on {address} ")
    assert "Traceback" not in errors


class TestValidate:
    def test_a_good_folder(self, folder):
        result = run("validate", folder)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == f"{folder}/: 1 file, 0 errors, 0 warnings\n"

    def test_errors_by_file_line_and_column(self, folder):
        (folder / "deeper").mkdir()
        (folder / "deeper" / "vs.yaml").write_text(WRONG_HOST)
        result = run("validate", folder)
        assert result.exit_code == 1
        path = folder / "deeper" / "vs.yaml"
        assert re.match(rf"{re.escape(str(path))}:7:\d+: error: VirtualService shop/catalog: ", result.stdout)
        assert "did you mean 'catalog" in result.stdout

    def test_warnings_are_told_of_and_fail_nothing(self, folder):
        (folder / "other.yaml").write_text("apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\n")
        result = run("validate", folder)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"{folder / 'other.yaml'}:1:1: warning: ")

    def test_json(self, folder):
        (folder / "vs.yaml").write_text(WRONG_HOST)
        result = run("validate", folder, "-o", "json")
        assert result.exit_code == 1
        (fault,) = json.loads(result.stdout)
        assert fault["file"] == str(folder / "vs.yaml")
        assert (fault["line"], fault["severity"], fault["resource"]) == (7, "error", "VirtualService shop/catalog")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
    def test_a_file_that_cannot_be_read_is_an_error(self, folder):
        os.mkfifo(folder / "pipe.yaml")
        result = run("validate", folder)
        assert result.exit_code == 1
        assert "pipe.yaml: error: is not a regular file" in result.stdout

    def test_no_folder(self, tmp_path):
        assert isinstance(run("validate", tmp_path / "nowhere").exception, ConfigError)


def test_the_status_of_an_address_that_is_none():
    assert isinstance(run("proxy-status", "--address", "localhost").exception, MeshError)
