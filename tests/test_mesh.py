"""The front door: Mesh over the static resources of an Envoy bootstrap."""

from __future__ import annotations

import asyncio
import io
import logging
import random
import threading

import httpx
import pybreaker
import pytest
import tenacity

import meshlib
from meshlib import httpx as mesh_httpx
from transports.scripted import OK, Behaviour, Upstreams

ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


@pytest.fixture
def upstreams():
    with Upstreams() as servers:
        yield servers


def static_cluster(name, *servers, **fields):
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": s.address, "port_value": s.port}}}} for s in servers
    ]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]},
        **fields,
    }


def listener(name, port, routes):
    manager = {
        "@type": MANAGER,
        "stat_prefix": name,
        "route_config": {
            "name": f"{name}_routes",
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes)}],
            "validate_clusters": False,
        },
        "http_filters": [ROUTER],
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [network]}],
    }


def to(cluster, prefix="/", name="", **route):
    return {"name": name or cluster, "match": {"prefix": prefix}, "route": {"cluster": cluster, **route}}


def bootstrap(*clusters, routes=None, listeners=None):
    listeners = listeners or [listener("outbound", 10000, routes or [to("catalog")])]
    return {"static_resources": {"listeners": listeners, "clusters": list(clusters)}}


RETRIES = {
    "retry_on": "5xx",
    "num_retries": 2,
    "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"},
}


def mesh_of(*servers, routes=None, **keywords):
    keywords = {"metrics": False, "tracing": False, **keywords}
    return meshlib.Mesh.from_bootstrap(bootstrap(static_cluster("catalog", *servers), routes=routes), **keywords)


def get(mesh, url="http://catalog/items", **options):
    with httpx.Client(transport=mesh.transport(**options), timeout=10.0) as client:
        return client.get(url)


async def aget(mesh, url="http://catalog/items", **options):
    async with httpx.AsyncClient(transport=mesh.async_transport(**options), timeout=10.0) as client:
        return await client.get(url)


class TestCalls:
    def test_blocking_and_async_give_the_same(self, upstreams):
        server = upstreams.serve(Behaviour(status=503), OK, Behaviour(status=503), OK)
        mesh = mesh_of(server, routes=[to("catalog", retry_policy=RETRIES)])
        for response in (get(mesh), asyncio.run(aget(mesh))):
            record = response.extensions["meshlib"]
            assert (response.status_code, record.route, record.cluster_name) == (200, "catalog", "catalog")
            assert [a.status for a in record.attempts] == [503, 200]

    def test_local_replies(self, upstreams):
        mesh = mesh_of()
        with pytest.raises(mesh_httpx.NoHealthyUpstream):
            get(mesh)
        assert get(mesh, local_replies="response").status_code == 503
        assert asyncio.run(aget(mesh, local_replies="response")).text == "no healthy upstream"

    def test_listeners_by_port(self, upstreams):
        one, two = upstreams.serve(name="one"), upstreams.serve(name="two")
        listeners = [listener("a", 8081, [to("one")]), listener("b", 8082, [to("two")])]
        config = bootstrap(static_cluster("one", one), static_cluster("two", two), listeners=listeners)
        mesh = meshlib.Mesh.from_bootstrap(config, metrics=False, tracing=False)
        assert [get(mesh, f"http://any:{port}/").text for port in (8081, 8082)] == ["one", "two"]
        with pytest.raises(mesh_httpx.NoRoute, match="no listener takes any:80"):
            get(mesh, "http://any/")
        named = meshlib.Mesh.from_bootstrap(config, listener="b", metrics=False, tracing=False)
        assert get(named, "http://any/").text == "two"

    def test_mounts(self, upstreams):
        """The mesh for some hosts only, as httpx mounts transports."""
        server = upstreams.serve()
        plain = httpx.MockTransport(lambda _request: httpx.Response(200, text="plain"))
        mounts = {"all://catalog": mesh_of(server).transport()}
        with httpx.Client(transport=plain, mounts=mounts) as client:
            assert client.get("http://catalog/").text == "up"
            assert client.get("http://elsewhere/").text == "plain"

    def test_one_transport_module_per_library(self, upstreams):
        mesh = mesh_of(upstreams.serve())
        with httpx.Client(transport=mesh_httpx.MeshTransport(mesh)) as client:
            assert client.get("http://catalog/").text == "up"


class TestLifecycle:
    def test_constructors_do_nothing(self):
        before = threading.active_count()
        mesh = mesh_of()
        assert not mesh.is_ready
        assert mesh.version == ""
        assert threading.active_count() == before
        assert repr(mesh).endswith("not ready>")

    def test_with_starts_and_closes(self, upstreams):
        server = upstreams.serve()
        with mesh_of(server) as mesh:
            assert mesh.is_ready
            assert get(mesh).status_code == 200
        with pytest.raises(meshlib.MeshClosed):
            get(mesh)

    def test_async_with(self, upstreams):
        server = upstreams.serve()

        async def main():
            async with mesh_of(server) as mesh:
                assert mesh.is_ready
                return (await aget(mesh)).status_code

        assert asyncio.run(main()) == 200

    def test_wait_ready(self, upstreams):
        mesh = mesh_of()
        mesh.wait_ready(5.0)
        assert mesh.is_ready
        asyncio.run(mesh.await_ready(5.0))

    def test_close_is_idempotent(self):
        mesh = mesh_of()
        mesh.close()
        mesh.close()
        asyncio.run(mesh.aclose())

    def test_a_bootstrap_that_cannot_be_used_is_refused_naming_the_field(self):
        config = bootstrap({"name": "catalog", "type": "STATIC", "connect_timeout": "soon"})
        with pytest.raises(meshlib.BootstrapError, match="connect_timeout"):
            get(meshlib.Mesh.from_bootstrap(config, metrics=False, tracing=False))


class TestDisable:
    def test_everything_is_a_plain_pass_through(self, upstreams, monkeypatch, caplog):
        meshed, plain = upstreams.serve(name="meshed"), upstreams.serve(name="plain")
        mesh = mesh_of(meshed)
        monkeypatch.setenv("MESHLIB_DISABLE", "1")
        with caplog.at_level(logging.WARNING, "meshlib"):
            response = get(mesh, f"http://127.0.0.1:{plain.port}/")
            again = asyncio.run(aget(mesh, f"http://127.0.0.1:{plain.port}/"))
        assert (response.text, again.text) == ("plain", "plain")
        assert "meshlib" not in response.extensions
        assert "client mTLS" in caplog.text
        assert not mesh.is_ready

    def test_the_inner_transport_still_answers(self, upstreams, monkeypatch):
        mesh = mesh_of(upstreams.serve())
        monkeypatch.setenv("MESHLIB_DISABLE", "1")
        inner = httpx.MockTransport(lambda _request: httpx.Response(204))
        with httpx.Client(transport=mesh.transport(inner=inner)) as client:
            assert client.get("http://catalog/").status_code == 204


class TestKeywords:
    def test_tenacitys_strategies(self, upstreams):
        server = upstreams.serve(Behaviour(status=503))
        stop, wait = tenacity.stop_after_attempt(5), tenacity.wait_none()
        mesh = mesh_of(server, routes=[to("catalog", retry_policy=RETRIES)], retry_stop=stop, retry_wait=wait)
        assert len(get(mesh).extensions["meshlib"].attempts) == 5

    def test_pybreaker(self, upstreams):
        server = upstreams.serve(Behaviour(status=500))
        made = []

        def breaker(cluster):
            made.append(cluster)
            return pybreaker.CircuitBreaker(fail_max=2, reset_timeout=60)

        mesh = mesh_of(server, breaker=breaker)
        assert [get(mesh).status_code for _ in range(2)] == [500, 500]
        with pytest.raises(meshlib.BreakerOpen, match="breaker of cluster 'catalog' is open"):
            get(mesh)
        assert made == ["catalog"]
        assert len(server.seen) == 2

    def test_access_log(self, upstreams):
        stream = io.StringIO()
        get(mesh_of(upstreams.serve(), access_log=stream))
        assert '"GET /items HTTP/1.1" 200' in stream.getvalue()

    def test_observers(self, upstreams):
        from meshlib.policy.events import NullObserver

        ended = []

        class Watching(NullObserver):
            def call_ended(self, record):
                ended.append((record.cluster_name, record.status))

        get(mesh_of(upstreams.serve(), observers=(Watching(),)))
        assert ended == [("catalog", 200)]

    def test_metrics_off(self):
        with pytest.raises(meshlib.ConfigError, match="metrics=False"):
            _ = mesh_of().collector

    def test_changes_are_told(self, upstreams):
        mesh, heard = mesh_of(upstreams.serve()), []
        mesh.on_change(lambda: heard.append(mesh.version))
        mesh.wait_ready()
        assert len(heard) == 1


class TestFromEnv:
    def test_nothing_set(self, monkeypatch):
        for name in ("GRPC_XDS_BOOTSTRAP", "GRPC_XDS_BOOTSTRAP_CONFIG", "MESHLIB_XDS_ADDRESS", "PILOT_ADDRESS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv("MESHLIB_CONFIG", raising=False)
        with pytest.raises(meshlib.ConfigError, match="set MESHLIB_CONFIG"):
            meshlib.Mesh.from_env()

    def test_a_bootstrap_file(self, monkeypatch, tmp_path, upstreams):
        import json

        path = tmp_path / "bootstrap.json"
        path.write_text(json.dumps(bootstrap(static_cluster("catalog", upstreams.serve()))))
        for name in ("GRPC_XDS_BOOTSTRAP", "GRPC_XDS_BOOTSTRAP_CONFIG", "MESHLIB_XDS_ADDRESS", "PILOT_ADDRESS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("MESHLIB_CONFIG", str(path))
        mesh = meshlib.Mesh.from_env(metrics=False, tracing=False)
        assert get(mesh).status_code == 200


class TestExplain:
    ROUTES = (
        {
            "name": "exact",
            "match": {"path": "/a"},
            "route": {"cluster": "catalog", "timeout": "2s", "retry_policy": RETRIES},
        },
        {
            "name": "header",
            "match": {"prefix": "/b", "headers": [{"name": "x-v", "string_match": {"exact": "2"}}]},
            "route": {"cluster": "catalog"},
        },
        {"name": "moved", "match": {"prefix": "/m"}, "redirect": {"path_redirect": "/a"}},
        {"name": "tea", "match": {"prefix": "/tea"}, "direct_response": {"status": 418}},
        {"name": "lost", "match": {"prefix": "/lost"}, "route": {"cluster": "nowhere"}},
    )

    def test_says_where_and_why(self, upstreams):
        server = upstreams.serve()
        text = str(mesh_of(server, routes=self.ROUTES).explain("GET", "http://catalog/a?x=1"))
        for part in ("exact", "path /a", "catalog", f"127.0.0.1:{server.port}", "2s", "up to 2 after the first"):
            assert part in text, text

    def test_agrees_with_the_engine(self, upstreams):
        """The same request through explain and through a call: one answer."""
        mesh = mesh_of(upstreams.serve(), routes=self.ROUTES)
        chance = random.Random(4)
        for _ in range(60):
            path = chance.choice(["/a", "/a?x=1", "/ab", "/b", "/b/c", "/m", "/tea/x", "/lost", "/"])
            headers = chance.choice([{}, {"X-V": "2"}, {"x-v": "3"}])
            explained = mesh.explain("GET", f"http://catalog{path}", headers=headers)
            with httpx.Client(transport=mesh.transport(local_replies="response")) as client:
                record = client.get(f"http://catalog{path}", headers=headers).extensions["meshlib"]
            assert (explained.route or "") == record.route
            assert (explained.virtual_host, explained.listener) == (record.virtual_host, record.listener)
            assert [c.name for c in explained.clusters] == ([record.cluster_name] if record.cluster_name else [])

    def test_nonsense_is_refused(self):
        with pytest.raises(ValueError, match="needs an http"):
            mesh_of().explain("GET", "catalog/items")


SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  clusterIP: 10.96.0.61
  selector: {app: db}
  ports: [{name: tcp, port: 5432}, {name: https, port: 443, targetPort: 8443}, {name: odd, port: 7070}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: db-1, namespace: shop}
spec: {address: 127.0.0.61, labels: {app: db}}
"""


@pytest.mark.parametrize(
    ("url", "listener", "endpoint"),
    [
        ("http://db:5432/", "10.96.0.61_5432", "127.0.0.61:5432"),
        ("http://db.shop:5432/", "10.96.0.61_5432", "127.0.0.61:5432"),
        ("http://10.96.0.61:5432/", "10.96.0.61_5432", "127.0.0.61:5432"),
        ("https://db.shop.svc.cluster.local/", "10.96.0.61_443", "127.0.0.61:8443"),
        ("http://db:7070/", "10.96.0.61_7070", "127.0.0.61:7070"),
        ("https://db:7070/", "10.96.0.61_7070", "127.0.0.61:7070"),
    ],
)
def test_a_folder_resolves_services_that_are_not_http(tmp_path, url, listener, endpoint):
    (tmp_path / "services.yaml").write_text(SERVICES)
    with meshlib.Mesh.from_directory(tmp_path, workload="webapp", namespace="shop") as mesh:
        mesh.wait_ready(10)
        found = mesh.explain("GET", url)
    assert found.listener == listener
    assert [str(each.address) for each in found.clusters[0].endpoints] == [endpoint]
