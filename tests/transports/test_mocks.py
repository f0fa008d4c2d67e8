"""Mocks and apps: ``inner=``, pytest-httpx, ASGI and WSGI. They see attempts, with the logical URL."""

from __future__ import annotations

import asyncio
import functools

import httpx
import pytest

from meshlib import httpx as mesh_httpx
from meshlib.model.endpoint import Endpoint
from meshlib.transports.httpx_async import AsyncMeshTransport
from meshlib.transports.httpx_sync import MeshTransport
from meshlib.transports.options import TransportOptions
from policy.snapshots import cluster, forward, retry, snapshot
from runtime.handmade import assert_idle, runtime
from transports.callers import mesh_over
from transports.scripted import OK, Behaviour

RETRIES = retry("5xx", "reset", num_retries=2, base_interval=0.001, max_interval=0.001)


def nowhere(**action):
    """A mesh whose endpoint nobody listens at: whatever answers is not the network."""
    config = cluster([Endpoint("127.0.0.1", 1)])
    return runtime(snapshot(config, routes=[forward(retry=RETRIES, **action)]))


class TestInner:
    def test_a_mock_transport_answers_attempts(self, caller):
        seen = []

        def handler(request):
            seen.append((str(request.url), request.headers["host"]))
            return httpx.Response(503 if len(seen) < 3 else 200, json={"attempt": len(seen)})

        response = caller(nowhere(), inner=httpx.MockTransport(handler)).request()
        assert response.json() == {"attempt": 3}
        assert seen == [("http://catalog/items", "catalog")] * 3
        record = response.extensions["meshlib"]
        assert [a.status for a in record.attempts] == [503, 503, 200]
        assert record.ended > 0.0
        assert record.bytes_received == len(response.content)

    @pytest.mark.parametrize(
        ("error", "want", "attempts"),
        [
            (httpx.ConnectError, mesh_httpx.UpstreamConnectFailed, 3),
            (httpx.ReadError, mesh_httpx.UpstreamReset, 3),
            (httpx.RemoteProtocolError, mesh_httpx.UpstreamReset, 3),
            (httpx.ReadTimeout, httpx.ReadTimeout, 1),  # the application's own
            (httpx.UnsupportedProtocol, httpx.UnsupportedProtocol, 1),
        ],
    )
    def test_its_errors_are_attempts_outcomes(self, error, want, attempts, caller):
        tries = []

        def handler(request):
            tries.append(request)
            raise error("made up")

        with pytest.raises(want, match="made up") as caught:
            caller(nowhere(), inner=httpx.MockTransport(handler)).request()
        assert len(tries) == len(caught.value.record.attempts) == attempts

    def test_other_exceptions_pass_and_leave_nothing(self, caller):
        def handler(_request):
            raise ZeroDivisionError

        call = caller(nowhere(), inner=httpx.MockTransport(handler))
        with pytest.raises(ZeroDivisionError):
            call.request()
        assert_idle(call.mesh)

    def test_streamed_bodies(self, caller):
        call = caller(nowhere(), inner=httpx.MockTransport(lambda _r: httpx.Response(200, stream=_Parts())))
        response = call.request()
        assert response.content == b"onetwo"
        assert response.extensions["meshlib"].bytes_received == 6

    def test_an_asgi_app(self):
        async def app(scope, _receive, send):
            body = f"{scope['method']} {scope['server'][0]} {scope['path']}".encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})

        async def main():
            transport = AsyncMeshTransport(nowhere(), TransportOptions(inner=httpx.ASGITransport(app)))
            async with httpx.AsyncClient(transport=transport) as client:
                return (await client.get("http://catalog/items")).text

        assert asyncio.run(main()) == "GET catalog /items"

    def test_a_wsgi_app(self):
        def app(environ, start_response):
            start_response("200 OK", [])
            return [f"{environ['REQUEST_METHOD']} {environ['SERVER_NAME']} {environ['PATH_INFO']}".encode()]

        transport = MeshTransport(nowhere(), TransportOptions(inner=httpx.WSGITransport(app)))
        with httpx.Client(transport=transport) as client:
            assert client.get("http://catalog/items").text == "GET catalog /items"

    def test_of_the_other_kind_is_refused(self):
        async def app(_scope, _receive, _send): ...

        with pytest.raises(TypeError, match=r"an httpx\.BaseTransport"):
            MeshTransport(nowhere(), TransportOptions(inner=httpx.ASGITransport(app)))
        with pytest.raises(TypeError, match=r"an httpx\.AsyncBaseTransport"):
            AsyncMeshTransport(nowhere(), TransportOptions(inner=httpx.WSGITransport(lambda *_: [])))


class _Parts(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __iter__(self):
        yield b"one"
        yield b"two"

    async def __aiter__(self):
        yield b"one"
        yield b"two"


class TestPytestHttpx:
    def test_sees_every_attempt_with_the_logical_url(self, httpx_mock, caller):
        httpx_mock.add_response(url="http://catalog/items", status_code=503)
        httpx_mock.add_response(url="http://catalog/items", status_code=503)
        httpx_mock.add_response(url="http://catalog/items", json=["shoes"])
        response = caller(nowhere()).request()
        assert response.json() == ["shoes"]
        assert [str(r.url) for r in httpx_mock.get_requests()] == ["http://catalog/items"] * 3
        assert len(response.extensions["meshlib"].attempts) == 3

    def test_exceptions(self, httpx_mock, caller):
        httpx_mock.add_exception(httpx.ReadError("gone"), is_reusable=True)
        with pytest.raises(mesh_httpx.UpstreamReset, match="gone"):
            caller(nowhere()).request()
        assert len(httpx_mock.get_requests()) == 3

    def test_local_replies_are_ours(self, httpx_mock, caller):
        """What needs no attempt needs no mock."""
        with pytest.raises(mesh_httpx.NoHealthyUpstream):
            caller(runtime(snapshot(cluster([])))).request()
        assert httpx_mock.get_requests() == []

    @pytest.mark.httpx_mock(should_mock=lambda request: request.url.path != "/real")
    def test_unmocked_requests_still_get_their_endpoint(self, httpx_mock, caller, upstreams):
        httpx_mock.add_response(text="mocked")
        server = upstreams.serve(name="real")
        call = caller(mesh_over(server))
        assert call.request().text == "mocked"
        assert call.request(url="http://catalog/real").text == "real"
        assert server.seen[0].header("host") == "catalog"


def test_instrumentation_of_httpx_is_no_mock(caller, upstreams, monkeypatch):
    """Whoever wraps httpx's own transport, as OpenTelemetry's instrumentor does, takes no attempt from us."""
    sync, asynchronous = httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request

    @functools.wraps(sync)
    def wrapped(self, request):
        return sync(self, request)

    @functools.wraps(asynchronous)
    async def async_wrapped(self, request):
        return await asynchronous(self, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", wrapped)
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", async_wrapped)
    server = upstreams.serve(Behaviour(status=503), OK)
    assert caller(mesh_over(server, routes=[forward(retry=RETRIES)])).request().status_code == 200
    assert len(server.seen) == 2
