"""`meshlib fault` and `meshlib describe`."""

import contextlib
import signal
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from e2e.test_envoy_gateway import upstream
from meshlib import Mesh
from meshlib.cli.app import app
from meshlib.errors import ConfigError
from waiting import until

SERVICES = """\
apiVersion: v1
kind: Service
metadata: {{name: shop, namespace: outdoor}}
spec: {{selector: {{app: shop}}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: shop-v1, namespace: outdoor}}
spec: {{address: 127.0.0.1, ports: {{http: {port}}}, labels: {{app: shop, version: v1}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: shop, namespace: outdoor}}
spec:
  host: shop
  trafficPolicy: {{outlierDetection: {{maxEjectionPercent: 100}}}}
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
"""
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: outdoor}
spec:
  hosts: [shop, shop.example]
  gateways: [mesh, outdoor/front]
  http:
  - match: [{uri: {prefix: /missing}}]
    directResponse: {status: 404}
  - timeout: 7s
    route: [{destination: {host: shop, subset: v1}}]
"""
GATEWAY = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: outdoor}
spec: {selector: {a: b}, servers: [{port: {number: 80, protocol: HTTP}, hosts: ["*"]}]}
"""


@pytest.fixture
def folder(tmp_path):
    with upstream("v1") as port:
        for name, text in (("services", SERVICES.format(port=port)), ("route", ROUTE), ("gateway", GATEWAY)):
            (tmp_path / f"{name}.yaml").write_text(text)
        yield tmp_path


@contextlib.contextmanager
def started(folder, *arguments):
    command = [sys.executable, "-m", "meshlib", "fault", "shop.outdoor", "--config", str(folder), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def fault(folder, *arguments):
    return CliRunner().invoke(app, ["fault", *arguments, "--config", str(folder)], catch_exceptions=False)


def left(folder):
    return [path.name for path in folder.iterdir() if "fault" in path.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_calls_suffer_until_it_is_interrupted(folder, number):
    mesh = Mesh.from_directory(folder, workload="web", namespace="outdoor")
    with mesh, httpx.Client(transport=mesh.transport(local_replies="response")) as client:
        assert client.get("http://shop/").status_code == 200
        with started(folder, "--abort", "503") as process:
            until(lambda: client.get("http://shop/").status_code == 503, "the fault")
            process.send_signal(number)
            assert process.wait(10) == 0, process.stderr.read()
            assert "taken off" in process.stdout.read()
        assert not left(folder)
        until(lambda: client.get("http://shop/").status_code == 200, "the end of the fault")


def test_it_ends_by_itself(folder):
    with started(folder, "--delay", "10ms", "--for", "0.3s") as process:
        assert process.wait(20) == 0, process.stderr.read()
    assert not left(folder)


def test_it_has_the_routes_in_force_and_follows_them(folder):
    path = folder / "meshlib-fault-shop.outdoor.json"
    with started(folder, "--abort", "503", "--percent", "50") as process:
        until(path.exists, "the file")
        text = path.read_text()
        assert '"timeout": "7s"' in text
        assert '"subset": "v1"' in text
        assert "gateways" not in text
        (folder / "route.yaml").write_text(ROUTE.replace("timeout: 7s", "timeout: 8s"))
        until(lambda: '"timeout": "8s"' in path.read_text(), "the new timeout")
        result = CliRunner().invoke(app, ["validate", str(folder)])
        assert result.exit_code == 0, result.output
        with pytest.raises(ConfigError, match=r"there is a fault on shop\.outdoor already"):
            fault(folder, "shop.outdoor", "--abort", "503")
        process.terminate()
        process.wait(10)


def test_what_a_killed_one_left_is_taken_off(folder):
    with started(folder, "--abort", "503"):
        until(lambda: left(folder), "the file")
    assert left(folder)
    result = fault(folder, "--off")
    assert (result.exit_code, left(folder)) == (0, [])
    assert "took off" in result.stdout


def test_a_service_that_is_not_there(folder):
    with pytest.raises(ConfigError, match=r"no service nobody\.outdoor\.svc"):
        fault(folder, "nobody.outdoor", "--abort", "503")
    assert not left(folder)


@pytest.mark.parametrize("arguments", [("shop.outdoor",), (), ("shop.outdoor", "--abort", "503", "--for", "soon")])
def test_usage(folder, arguments):
    assert CliRunner().invoke(app, ["fault", *arguments, "--config", str(folder)]).exit_code == 2


def test_a_service_is_described(folder):
    lines = CliRunner().invoke(app, ["describe", "service", "shop", "-n", "outdoor", "--config", str(folder)]).stdout
    assert lines.splitlines() == [
        "Service: shop.outdoor (services.yaml:1)",
        "   Port: http 80/HTTP, 1 endpoint",
        'DestinationRule: shop.outdoor for "shop" (services.yaml:11)',
        "   Subsets: v1,v2",
        "   Traffic Policy: outlierDetection",
        "VirtualService: shop.outdoor (route.yaml:1)",
        "   2 HTTP route(s)",
        "      #1: timeout",
        "Exposed by VirtualService: shop.outdoor (route.yaml:1)",
        "   on outdoor/front for shop.outdoor.svc.cluster.local, shop.example",
        "Effective PeerAuthentication: mode PERMISSIVE",
    ]


def test_a_workload_is_described(folder):
    lines = CliRunner().invoke(app, ["describe", "workload", "shop-v1.outdoor", "--config", str(folder)]).stdout
    assert "   Matching subsets: v1" in lines
    assert "      (Non-matching subsets v2)" in lines
    with pytest.raises(ConfigError, match="there is no workload nobody"):
        CliRunner().invoke(app, ["describe", "workload", "nobody", "--config", str(folder)], catch_exceptions=False)
