"""webapp as it ships: its client is the mesh's, the mesh is named by the environment."""

from __future__ import annotations

import functools
import io

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import meshlib
from examples.services import free_port, load

HOST = "catalog.istioinaction.svc.cluster.local"
SERVICE = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: catalog, namespace: istioinaction}
spec:
  hosts: [catalog.istioinaction.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: catalog}}
"""
WORKLOAD = """
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: catalog-%(version)s, namespace: istioinaction}
spec:
  address: 127.0.0.1
  ports: {http: %(port)d}
  labels: {app: catalog, version: %(version)s}
"""
ROUTE = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog, namespace: istioinaction}
spec:
  hosts: [catalog.istioinaction.svc.cluster.local]
  http:
  - route: [{destination: {host: catalog.istioinaction.svc.cluster.local}}]
    retries: {attempts: 2, retryOn: 5xx, perTryTimeout: %s}
"""


@pytest.fixture
def shop(tmp_path, monkeypatch, serve):
    """Serve webapp over a mesh with the catalogs and the per-try timeout given; returns a client for it."""
    opened = []
    log = io.StringIO()
    monkeypatch.setattr(meshlib.Mesh, "from_env", functools.partial(meshlib.Mesh.from_env, access_log=log))
    monkeypatch.setenv("MESHLIB_CONFIG", str(tmp_path))
    monkeypatch.setenv("MESHLIB_WORKLOAD", "webapp")
    monkeypatch.setenv("POD_NAMESPACE", "istioinaction")
    monkeypatch.setenv("MESHLIB_METRICS_PORT", str(free_port()))

    def start(per_try_timeout="1s", **catalogs) -> httpx.Client:
        entries = [WORKLOAD % {"version": version, "port": server.port} for version, server in catalogs.items()]
        (tmp_path / "mesh.yaml").write_text(SERVICE + "".join(entries) + ROUTE % per_try_timeout)
        client = httpx.Client(base_url=serve(load("webapp").create_app()).url, trust_env=False, timeout=15)
        client.log = log
        opened.append(client)
        return client

    yield start
    for client in opened:
        client.close()


def blow_up(server, **fault):
    httpx.post(f"{server.url}/blowup", json=fault, trust_env=False).raise_for_status()


def received(server) -> int:
    return httpx.get(f"{server.url}/stats", trust_env=False).json()["received"].get("GET /items", 0)


def requests_counted(port: str) -> dict[tuple[str, str, str], float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {
        (sample.labels["destination_workload"], sample.labels["response_code"], sample.labels["response_flags"]): (
            sample.value
        )
        for sample in families["istio_requests"].samples
    }


def test_a_failing_version_is_retried_on_the_other(catalog, shop, monkeypatch):
    v1, v2 = catalog("v1"), catalog("v2")
    client = shop(v1=v1, v2=v2)
    both = {client.get("/api/catalog").headers["x-catalog-version"] for _ in range(20)}
    assert both == {"v1", "v2"}
    before = received(v1) + received(v2)
    assert before == 20

    blow_up(v1, rate=1, status=500)
    answers = [client.get("/api/catalog", headers={"x-request-id": f"r-{n}"}) for n in range(10)]
    assert {(answer.status_code, answer.headers["x-catalog-version"]) for answer in answers} == {(200, "v2")}
    assert received(v2) + received(v1) - before > 10
    assert '<span class="version">v2</span>' in client.get("/").text

    lines = client.log.getvalue().splitlines()
    assert len(lines) == 31
    assert f'"GET /items HTTP/1.1" 200 - via_upstream - "-" 0 {len(answers[0].content)} ' in lines[20]
    assert f'"r-0" "catalog.istioinaction" "127.0.0.1:{v2.port}" outbound|80||{HOST} ' in lines[20]


def test_metrics_are_served_where_the_environment_says(catalog, shop, monkeypatch):
    port = free_port()
    monkeypatch.setenv("MESHLIB_METRICS_PORT", str(port))
    v1 = catalog("v1")
    client = shop(v1=v1)
    client.get("/api/catalog")
    blow_up(v1, rate=1, status=503)
    client.get("/api/catalog")
    counted = requests_counted(str(port))
    assert {key[1:] for key in counted} == {("200", "-"), ("503", "URX")}
    assert set(counted.values()) == {1.0}


def test_what_the_mesh_ends_is_answered_as_a_sidecar_would(catalog, shop):
    v1 = catalog("v1")
    client = shop(per_try_timeout="0.1s", v1=v1)
    assert client.get("/api/catalog").status_code == 200
    blow_up(v1, rate=1, delay=1)
    late = client.get("/api/catalog")
    assert (late.status_code, late.json()["error"]) == (504, "PerTryTimeout")
    assert "UT" in late.json()["flags"]
    assert received(v1) == 4  # one that was answered, then the attempt and its two retries

    page = client.get("/")
    assert page.status_code == 504
    assert "PerTryTimeout" in page.text


def test_a_catalog_without_endpoints(shop):
    answer = shop().get("/api/catalog")
    assert (answer.status_code, answer.json()["error"], answer.json()["flags"]) == (503, "NoHealthyUpstream", "UH")
