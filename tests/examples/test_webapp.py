"""The webapp service: with a plain client, so that its own behaviour shows."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import httpx
import pytest

import meshlib
from examples.services import load


@pytest.fixture
def webapp(serve):
    """Serve webapp over a plain client for a catalog at the URL given; returns a client for webapp."""
    opened = []

    def start(catalog_url: str, **options) -> httpx.Client:
        plain = httpx.AsyncClient(base_url=catalog_url, trust_env=False, **options)
        opened.append(httpx.Client(base_url=serve(load("webapp").create_app(plain)).url, trust_env=False))
        return opened[-1]

    yield start
    for client in opened:
        client.close()


def test_the_page_shows_the_items_and_who_served_them(catalog, webapp):
    page = webapp(catalog("v1").url).get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert '<span class="version">v1</span>' in page.text
    assert "Ridge two-person tent" in page.text
    assert "289.00" in page.text
    assert "<img" not in page.text


def test_v2_brings_pictures_without_another_server(catalog, webapp):
    page = webapp(catalog("v2").url).get("/")
    assert '<span class="version">v2</span>' in page.text
    assert page.text.count('<img src="data:image/svg+xml,') >= 5
    assert "http://" not in page.text.replace("http%3A//", "")  # nothing is loaded from anywhere


def test_what_catalog_was_given_is_shown_as_text(catalog, webapp):
    server = catalog()
    item = {"name": "<script>alert(1)</script>", "department": "Camping", "price": 1}
    httpx.post(f"{server.url}/items", json=item, trust_env=False).raise_for_status()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in webapp(server.url).get("/").text


def test_the_api_hands_on_catalogs_answer(catalog, webapp):
    server = catalog("v2")
    client = webapp(server.url)
    assert client.get("/api/catalog").json() == httpx.get(f"{server.url}/items", trust_env=False).json()
    assert client.get("/api/catalog").headers["x-catalog-version"] == "v2"
    assert client.get("/api/catalog/items/2").json()["id"] == 2
    assert client.get("/api/catalog/items/99").status_code == 404
    assert client.get("/api/catalog/items/x").status_code == 404
    assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/", "/api/catalog", "/api/catalog/items/1"])
def test_a_failing_catalog_is_passed_on_with_its_status(catalog, webapp, path):
    server = catalog()
    httpx.post(f"{server.url}/blowup", json={"rate": 1, "status": 503}, trust_env=False).raise_for_status()
    answer = webapp(server.url).get(path)
    assert (answer.status_code, answer.headers.get("x-catalog-version", "v1")) == (503, "v1")
    assert "blown up on purpose" in answer.text


def test_the_tester_header_and_the_request_id_are_handed_on(webapp, serve):
    seen = []

    async def echo(scope, receive, send):
        if scope["type"] == "http":
            seen.append(dict(scope["headers"]))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"[]"})

    client = webapp(serve(echo).url)
    client.get("/api/catalog", headers={"x-istio-cohort": "internal", "x-request-id": "r-1", "cookie": "s=1"})
    [headers] = seen
    assert (headers[b"x-istio-cohort"], headers[b"x-request-id"]) == (b"internal", b"r-1")
    assert b"cookie" not in headers


def test_without_a_mesh_a_dead_catalog_is_a_bad_gateway(webapp):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    answer = webapp(f"http://127.0.0.1:{port}").get("/api/catalog")
    assert (answer.status_code, answer.json()["error"], answer.json()["flags"]) == (502, "ConnectError", "-")


def test_without_a_mesh_a_slow_catalog_is_a_gateway_timeout(catalog, webapp):
    server = catalog()
    httpx.post(f"{server.url}/blowup", json={"delay": 1}, trust_env=False).raise_for_status()
    answer = webapp(server.url, timeout=0.1).get("/api/catalog")
    assert (answer.status_code, answer.json()["error"]) == (504, "ReadTimeout")


@pytest.mark.parametrize(
    ("error", "status", "flags"),
    [
        (meshlib.MeshNotReady("no configuration from 127.0.0.1:15010"), 503, "-"),
        (meshlib.NoHealthyUpstream("none", record=SimpleNamespace(status=503, response_flags="UH")), 503, "UH"),
        (meshlib.PerTryTimeout("slow", record=SimpleNamespace(status=504, response_flags="UT")), 504, "UT"),
        (meshlib.NoRoute("where?", record=SimpleNamespace(status=404, response_flags="NR")), 404, "NR"),
        (httpx.ReadTimeout("slow"), 504, "-"),
        (httpx.ReadError("gone"), 502, "-"),
    ],
)
def test_what_the_mesh_refuses_becomes_envoys_status_and_flags(error, status, flags):
    answer = load("webapp").failure(error)
    assert answer.status_code == status
    assert answer.json() == {"error": type(error).__name__, "message": str(error), "flags": flags}
