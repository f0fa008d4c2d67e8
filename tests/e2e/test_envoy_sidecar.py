"""The real Envoy as a sidecar without redirection (INTERCEPTION_MODE NONE), steered over ADS in both forms."""

import contextlib
import http.client
import subprocess

import pytest

from e2e.test_envoy_gateway import BOOTSTRAP, ENVOY, RULE, free_port, get, upstream
from meshlib.controlplane.directory import Directory
from meshlib.controlplane.server import Server
from waiting import until

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(ENVOY is None, reason="no Envoy: the extra `envoy` installs it where there is a wheel"),
]

SERVICES = """\
apiVersion: v1
kind: Service
metadata: {{name: shop, namespace: outdoor}}
spec: {{selector: {{app: shop}}, ports: [{{name: http, port: {port}, targetPort: 80}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: shop-v1, namespace: outdoor}}
spec: {{address: 127.0.0.1, ports: {{http: {v1}}}, labels: {{app: shop, version: v1}}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: shop-v2, namespace: outdoor}}
spec: {{address: 127.0.0.1, ports: {{http: {v2}}}, labels: {{app: shop, version: v2}}}}
"""
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: shop, namespace: outdoor}}
spec:
  hosts: [shop]
  http:
  - route: [{{destination: {{host: shop, subset: {subset}}}}}]
"""


def ask(port, host):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/", headers={"host": host})
        response = connection.getresponse()
        return response.status, response.read().decode()
    except OSError as error:
        return 0, str(error)
    finally:
        connection.close()


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
def test_it_routes_and_follows_edits(tmp_path, api_type):
    folder = tmp_path / "mesh"
    folder.mkdir()
    port, admin = free_port(), free_port()
    with contextlib.ExitStack() as cleanup:
        v1, v2 = (cleanup.enter_context(upstream(name)) for name in ("v1", "v2"))
        (folder / "services.yaml").write_text(SERVICES.format(port=port, v1=v1, v2=v2))
        (folder / "rule.yaml").write_text(RULE.format(timeout="1s"))
        (folder / "route.yaml").write_text(ROUTE.format(subset="one"))
        directory = cleanup.enter_context(Directory(folder))
        server = cleanup.enter_context(Server(directory, port=0))
        text = BOOTSTRAP.format(ads=server.port, admin=admin, api_type=api_type)
        text = text.replace(
            "router~127.0.0.1~ingress-x.istio-system~istio-system", "sidecar~127.0.0.1~web-x.outdoor~outdoor"
        )
        text = text.replace("metadata: {LABELS: {istio: ingressgateway}}", "metadata: {INTERCEPTION_MODE: NONE}")
        (tmp_path / "bootstrap.yaml").write_text(text)
        log = cleanup.enter_context(open(tmp_path / "envoy.log", "wb"))
        command = [
            ENVOY,
            "-c",
            tmp_path / "bootstrap.yaml",
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
            "-l",
            "warn",
        ]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            host = f"shop.outdoor:{port}"
            until(lambda: process.poll() is not None or ask(port, host) == (200, "v1"), "a 200 through the sidecar")
            assert process.poll() is None, (tmp_path / "envoy.log").read_text()
            (folder / "route.yaml").write_text(ROUTE.format(subset="two"))
            until(lambda: ask(port, host) == (200, "v2"), "the new route")
            until(lambda: server.clients[0].synced, "the ACKs")
            (client,) = server.clients
            assert (client.name, client.kind, dict(client.errors)) == ("web-x.outdoor", "sidecar", {})
            assert get(admin, "/ready")[0] == 200
        finally:
            process.terminate()
            process.wait(10)
