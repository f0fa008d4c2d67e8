"""The real Envoy as an ingress gateway, steered by the control plane over ADS."""

import contextlib
import http.client
import http.server
import json
import socket
import subprocess
import threading
import time

import pytest

from meshlib.cli.demo.gateway import find_envoy
from meshlib.controlplane.directory import Directory
from meshlib.controlplane.server import Server
from waiting import until

ENVOY = find_envoy()
pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(ENVOY is None, reason="no Envoy: the extra `envoy` installs it where there is a wheel"),
]

SERVICES = """\
apiVersion: v1
kind: Service
metadata: {{name: istio-ingressgateway, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  ports: [{{name: http2, port: 80, targetPort: {gateway}}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: ingress, namespace: istio-system}}
spec: {{address: 127.0.0.1, labels: {{istio: ingressgateway}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: shop, namespace: outdoor}}
spec:
  selector: {{app: shop}}
  ports: [{{name: http, port: 80}}]
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
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: front, namespace: outdoor}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 80, name: http, protocol: HTTP}}
    hosts: ["*"]
    bind: 127.0.0.1
"""

RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: shop, namespace: outdoor}}
spec:
  host: shop
  trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {timeout}}}}}}}
  subsets:
  - {{name: one, labels: {{version: v1}}}}
  - {{name: two, labels: {{version: v2}}}}
"""

ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: shop, namespace: outdoor}}
spec:
  hosts: ["*"]
  gateways: [front]
  http:
  - route: [{{destination: {{host: shop, subset: {subset}}}}}]
"""


BOOTSTRAP = """\
node:
  id: router~127.0.0.1~ingress-x.istio-system~istio-system.svc.cluster.local
  cluster: ingress.istio-system
  metadata: {{LABELS: {{istio: ingressgateway}}}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    grpc_services: [{{envoy_grpc: {{cluster_name: xds-grpc}}}}]
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters:
  - name: xds-grpc
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: xds-grpc
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {ads}}}}}}}
"""


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@contextlib.contextmanager
def upstream(name):
    """Serve ``name`` on a free port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def get(port, path="/"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except OSError as error:
        return 0, str(error)
    finally:
        connection.close()


class Stack:
    """A folder, a control plane, and an Envoy that listens on what the folder says."""

    def __init__(self, folder, v1, v2):
        self.folder = folder
        self.gateway, self.admin = free_port(), free_port()
        (folder / "services.yaml").write_text(SERVICES.format(gateway=self.gateway, v1=v1, v2=v2))
        self.rule("1s")
        self.route("one")
        self.directory = Directory(folder)
        self.server = Server(self.directory, port=0)

    def rule(self, timeout):
        (self.folder / "rule.yaml").write_text(RULE.format(timeout=timeout))

    def route(self, subset):
        (self.folder / "route.yaml").write_text(ROUTE.format(subset=subset))

    def answer(self):
        return get(self.gateway)

    def stat(self, name, part=""):
        """The sum of Envoy's counters or gauges whose names end in ``name`` and contain ``part``."""
        _, text = get(self.admin, "/stats?format=json&usedonly")
        stats = json.loads(text)["stats"]
        return sum(item["value"] for item in stats if item.get("name", "").endswith(name) and part in item["name"])


@pytest.fixture(params=["GRPC", "DELTA_GRPC"])
def stack(tmp_path, request):
    folder = tmp_path / "mesh"
    folder.mkdir()
    with contextlib.ExitStack() as cleanup:
        stack = Stack(folder, cleanup.enter_context(upstream("v1")), cleanup.enter_context(upstream("v2")))
        cleanup.enter_context(stack.directory)
        cleanup.enter_context(stack.server)
        bootstrap = tmp_path / "bootstrap.yaml"
        bootstrap.write_text(BOOTSTRAP.format(ads=stack.server.port, admin=stack.admin, api_type=request.param))
        log = cleanup.enter_context(open(tmp_path / "envoy.log", "wb"))
        process = subprocess.Popen(
            [ENVOY, "-c", bootstrap, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warn"],
            stdout=log,
            stderr=log,
        )
        try:
            until(lambda: process.poll() is not None or stack.answer()[0] == 200, "a 200 through the gateway")
            yield stack
            assert process.poll() is None, (tmp_path / "envoy.log").read_text()
        finally:
            process.terminate()
            process.wait(10)


def test_an_edit_steers_it_without_a_restart_and_nothing_is_refused(stack):
    assert stack.answer() == (200, "v1")
    started = time.monotonic()
    stack.route("two")
    until(lambda: stack.answer() == (200, "v2"), "the new route")
    assert time.monotonic() - started < 2
    until(lambda: stack.server.clients[0].synced, "the ACK")
    (client,) = stack.server.clients
    assert (client.name, client.kind) == ("ingress-x.istio-system", "router")
    assert {client.cds.status, client.lds.status, client.eds.status, client.rds.status} == {"SYNCED"}
    assert client.version.startswith("envoy ")
    assert stack.stat(".update_rejected") == 0
    assert stack.stat(".update_success", ".rds.http.") == 2


def test_it_is_told_what_changed_and_no_more(stack, request):
    """One endpoint moved: with delta, and for endpoints with the state of the world too, only its clusters come."""
    until(lambda: stack.server.clients[0].synced, "the first ACKs")
    before = stack.stat(".update_success", "cluster."), stack.stat("cds.update_success")
    text = (stack.folder / "services.yaml").read_text()
    with upstream("moved") as port:
        old = text[text.rindex("ports: {http: ") :].partition("}")[0]
        (stack.folder / "services.yaml").write_text(text.replace(old, f"ports: {{http: {port}"))
        stack.route("two")
        until(lambda: stack.answer() == (200, "moved"), "the endpoint's move")
    # outbound|80||shop and outbound|80|two|shop.
    assert stack.stat(".update_success", "cluster.") - before[0] == 2
    assert stack.stat("cds.update_success") == before[1]


def test_changed_clusters_finish_warming(stack):
    for timeout in ("2s", "3s", "4s"):
        before = stack.stat("cluster_manager.cluster_modified")
        stack.rule(timeout)
        until(lambda before=before: stack.stat("cluster_manager.cluster_modified") > before, "the new clusters")
        until(lambda: stack.stat("cluster_manager.warming_clusters") == 0, "the end of warming", timeout=5)
        assert stack.answer() == (200, "v1")
    assert stack.stat(".update_rejected") == 0


def test_endpoints_move_and_leave(stack):
    text = (stack.folder / "services.yaml").read_text()
    with upstream("moved") as port:
        (stack.folder / "services.yaml").write_text(
            text.replace("name: shop-v1", "name: shop-v3").replace(
                "labels: {app: shop, version: v2}", "labels: {app: shop, version: v0}"
            )
            + "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
            "metadata: {name: shop-moved, namespace: outdoor}\n"
            f"spec: {{address: 127.0.0.1, ports: {{http: {port}}}, labels: {{app: shop, version: v2}}}}\n"
        )
        stack.route("two")
        until(lambda: stack.answer() == (200, "moved"), "the new endpoint")
    (stack.folder / "services.yaml").write_text(text.replace("version: v2", "version: v0"))
    until(lambda: stack.answer()[0] == 503, "no healthy upstream")
    (stack.folder / "services.yaml").write_text(text)
    until(lambda: stack.answer() == (200, "v2"), "the endpoint's return")


def test_a_removed_route_is_gone_and_a_broken_one_stays(stack):
    (stack.folder / "route.yaml").write_text("kind: VirtualService\nspec: [\n")
    until(lambda: stack.directory.faults, "the report")
    assert stack.answer() == (200, "v1")
    (stack.folder / "route.yaml").unlink()
    until(lambda: stack.answer()[0] == 404, "a 404")
    stack.route("two")
    until(lambda: stack.answer() == (200, "v2"), "the route's return")


def test_it_outlives_the_control_plane_and_follows_the_next_one(stack):
    stack.server.close()
    stack.route("two")
    for _ in range(20):
        assert stack.answer() == (200, "v1")
    with Server(stack.directory, port=stack.server.port) as server:
        until(lambda: stack.answer() == (200, "v2"), "the change made in between")
        until(lambda: server.clients and server.clients[0].synced, "the ACK")
    assert stack.answer() == (200, "v2")
