"""``mesh.client()`` and the transports against httpx alone: what a program can see is the same.

The same requests go to the same server three times: by httpx's client and transport, by httpx's client
and our transport, and by our client. Responses, exceptions and what the server saw are compared.
"""

from __future__ import annotations

import asyncio
import copy
import gzip
import http.cookiejar
import io
import logging
import zlib
from datetime import timedelta

import httpx
import pytest

from meshlib import Mesh
from meshlib.transports.httpx_async import AsyncMeshTransport
from meshlib.transports.httpx_client import AsyncMeshClient, MeshClient
from meshlib.transports.httpx_sync import MeshTransport
from transports.callers import assert_idle, mesh_over
from transports.scripted import OK, Behaviour, in_turn

GET = [("GET", "/", {})]
FOLLOW = {"follow_redirects": True}
KINDS = ("bare", "transport", "client")
LATIN = "größe".encode("latin-1")


def sent(*headers, **fields):
    return Behaviour(headers=headers, **fields)


# name: (behaviours of the server in turn, options of the client, calls: method, path, options)
MATRIX = {
    "get": ([OK], {}, [("GET", "/items", {})]),
    "head": ([Behaviour(garbage=b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n")], {}, [("HEAD", "/", {})]),
    "options": ([Behaviour(status=204, body=b"")], {}, [("OPTIONS", "*", {})]),
    "not-modified": ([Behaviour(status=304, body=b"")], {}, GET),
    "error-status": ([Behaviour(status=404, body=b"none")], {}, [("DELETE", "/", {})]),
    "unknown-status": ([Behaviour(status=799, body=b"?")], {}, GET),
    "own-method": ([OK], {}, [("PURGE", "/x", {})]),
    "empty-body": ([Behaviour(body=b"")], {}, GET),
    "query": (
        [OK],
        {"params": {"a": "1"}},
        [("GET", "/?x=%2F&y=a b", {"params": {"b": ["2", "ü"]}}), ("GET", "/?q", {})],
    ),
    "path-bytes": ([OK], {}, [("GET", "/a%2Fb/ü;p=1//c", {})]),
    "fragment": ([OK], {}, [("GET", "/a#part", {})]),
    "content": ([OK], {}, [("POST", "/", {"content": b"\0\1" * 40_000})]),
    "text": ([OK], {}, [("PUT", "/", {"content": "größe"})]),
    "json": (
        [sent(("content-type", "application/json"), body=b'{"a": "\xc3\xbc"}')],
        {},
        [("POST", "/", {"json": {"é": 1}})],
    ),
    "form": ([OK], {}, [("POST", "/", {"data": {"a": "1", "b": ["2", "3"]}})]),
    "multipart": (
        [OK],
        {},
        [
            (
                "POST",
                "/",
                {
                    "files": {"f": ("n.txt", io.BytesIO(b"data"), "text/plain")},
                    "headers": {"content-type": "multipart/form-data; boundary=b"},
                },
            )
        ],
    ),
    "empty-post": ([OK], {}, [("POST", "/", {})]),
    "headers": (
        [OK],
        {"headers": {"X-One": "1", "user-agent": "me"}},
        [("GET", "/", {"headers": [("x-two", "2"), ("X-Two", "3")]})],
    ),
    "large": ([Behaviour(body=b"x" * 3_000_000)], {}, GET),
    "chunked": ([Behaviour(body=b"chunked body", chunked=True)], {}, GET),
    "late-body": ([Behaviour(body=b"late", body_delay=0.02)], {}, GET),
    "until-eof": ([Behaviour(garbage=b"HTTP/1.1 200 OK\r\n\r\nuntil the end")], {}, GET),
    "http10": ([Behaviour(garbage=b"HTTP/1.0 200 Fine Thing\r\nx: y\r\n\r\nold")], {}, GET),
    "reason": ([Behaviour(garbage=b"HTTP/1.1 200 Gr\xfc\xdfe\r\ncontent-length: 1\r\n\r\n!")], {}, GET),
    "latin-1": ([sent(("content-type", "text/plain; charset=latin-1"), body=LATIN)], {}, GET),
    "default-encoding": ([Behaviour(body=LATIN)], {"default_encoding": "latin-1"}, GET),
    "repeated-headers": ([sent(("x", "1"), ("X", "2"), ("y", ""))], {}, GET),
    "gzip": ([sent(("content-encoding", "gzip"), body=gzip.compress(b"packed", mtime=0))], {}, GET),
    "deflate": ([sent(("content-encoding", "deflate"), body=zlib.compress(b"packed"))], {}, GET),
    "twice-encoded": (
        [sent(("content-encoding", "deflate, gzip"), body=gzip.compress(zlib.compress(b"packed"), mtime=0))],
        {},
        GET,
    ),
    "unknown-encoding": ([sent(("content-encoding", "rot13"), body=b"cnpxrq")], {}, GET),
    "bad-gzip": ([sent(("content-encoding", "gzip"), body=b"not packed")], {}, GET),
    "cookies-kept": (
        [sent(("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2; Path=/only")), OK, OK],
        {"cookies": {"c": "3"}},
        [("GET", "/", {}), ("GET", "/", {}), ("GET", "/only/x", {})],
    ),
    "cookie-deleted": ([sent(("set-cookie", "a=1")), sent(("set-cookie", "a=; Max-Age=0")), OK], {}, GET * 3),
    "redirect": (
        [sent(("location", "/b?c=d"), status=302), sent(("location", "../e"), ("set-cookie", "r=1"), status=307), OK],
        FOLLOW,
        [("POST", "/a/", {"content": b"body"})],
    ),
    "redirect-kept": ([sent(("location", "/b"), status=301)], {}, [("GET", "/a", {})]),
    "redirect-loop": ([sent(("location", "/"), status=302)], {"follow_redirects": True, "max_redirects": 3}, GET),
    "redirect-nowhere": ([sent(("location", "https://:x"), status=302)], FOLLOW, GET),
    "basic-auth": ([OK], {"auth": ("me", "secret")}, GET),
    "digest-auth": (
        [
            sent(("www-authenticate", 'Digest realm="r", nonce="n", qop="auth", opaque="o"'), status=401, body=b"who?"),
            OK,
        ],
        {"auth": httpx.DigestAuth("me", "secret")},
        GET,
    ),
    "closed-before": ([Behaviour(abort="close")], {}, GET),
    "cut-off": ([Behaviour(abort="mid_body", body=b"x" * 1000)], {}, GET),
    "garbage": ([Behaviour(garbage=b"SSH-2.0-OpenSSH\r\n")], {}, GET),
    "too-late": ([Behaviour(hang=True)], {"timeout": 0.2}, GET),
    "conn-close": ([Behaviour(conn_close=True), OK], {}, GET * 2),
    "early-hints": ([Behaviour(interim=[103])], {}, GET),
    "bad-header": ([OK], {}, [("GET", "/", {"headers": {"x": "a\r\nb: c"}})]),
    "relative": ([OK], {}, [("GET", "no-slash", {})]),
    "wrong-scheme": ([OK], {}, [("GET", "ftp://catalog/", {})]),
    "no-host": ([OK], {}, [("GET", "http:///x", {})]),
}


NO_HTTP = {
    "name": "tcp",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": "none",
    },
}
NOTHING = {"static_resources": {"listeners": [{"name": "none", "filter_chains": [{"filters": [NO_HTTP]}]}]}}


def made(kind, library, runtime, options):
    blocking = library == "sync"
    if kind == "bare":
        return (httpx.Client if blocking else httpx.AsyncClient)(**options)
    transport = MeshTransport(runtime) if blocking else AsyncMeshTransport(runtime)
    if kind == "transport":
        return (httpx.Client if blocking else httpx.AsyncClient)(transport=transport, **options)
    return (MeshClient if blocking else AsyncMeshClient)(transport=transport, **options)


def facts(response):
    """What a program can see of a response."""
    request = response.request
    return {
        "status": (response.status_code, response.reason_phrase, response.http_version),
        "url": str(response.url),
        "headers": [(k, v) for k, v in response.headers.raw if k.lower() != b"date"],
        "content": response.content,
        "text": response.text,
        "encoding": (response.encoding, response.charset_encoding),
        "read": (response.is_closed, response.is_stream_consumed, response.num_bytes_downloaded),
        "elapsed": timedelta(0) < response.elapsed < timedelta(seconds=5),
        "cookies": sorted(response.cookies.items()),
        "history": [facts(each) for each in response.history],
        "next": str(response.next_request.url) if response.next_request else None,
        "request": (
            request.method,
            [p for p in request.headers.raw if not p[1].startswith(b"Digest ")],
            request.content,
        ),
        "stream": type(response.stream),
    }


async def calls(kind, library, port, runtime, options, requests):
    """Make a scenario's calls in turn; returns what the program saw."""
    seen = []
    client = made(kind, library, runtime, options)
    client.base_url = f"http://127.0.0.1:{port}"
    try:
        for method, path, arguments in requests:
            try:
                if library == "sync":
                    response = await asyncio.to_thread(client.request, method, path, **arguments)
                else:
                    response = await client.request(method, path, **arguments)
                seen.append(facts(response))
            except Exception as error:  # noqa: BLE001  whatever it is, it is what is compared
                family = [c.__name__ for c in type(error).__mro__ if c.__module__ == "httpx"]
                seen.append((family[0] if kind == "bare" else family, hasattr(error, "request")))
        seen.append(sorted((cookie.name, cookie.value, cookie.path) for cookie in client.cookies.jar))
    finally:
        await asyncio.to_thread(client.close) if library == "sync" else await client.aclose()
    return seen


def wire(server):
    """What the server saw, without what a mesh adds and what is drawn at random."""
    return [
        (seen.method, seen.target, [pair for pair in seen.headers if not _own(*pair)], seen.body)
        for seen in server.seen
    ]


def _own(name, value):
    return name.startswith("x-envoy-") or value.startswith("Digest ")


@pytest.mark.parametrize("library", ["sync", "async"])
@pytest.mark.parametrize("name", MATRIX)
def test_a_program_sees_what_it_sees_with_httpx_alone(name, library, upstreams):
    behaviours, options, requests = MATRIX[name]
    server = upstreams.serve(name="s")
    saw, wired = {}, {}
    for kind in KINDS:
        server.script = in_turn(behaviours)
        server.seen.clear()
        runtime = mesh_over(server)
        saw[kind] = asyncio.run(
            calls(kind, library, server.endpoint.port, runtime, *copy.deepcopy((options, requests)))
        )
        wired[kind] = wire(server)
        if runtime.store.current is not None:
            assert_idle(runtime)
    for kind in KINDS[1:]:
        assert wired[kind] == wired["bare"], kind
        assert_alike(saw[kind], saw["bare"])


def assert_alike(found, expected):
    for ours, bare in zip(found, expected, strict=True):
        if isinstance(bare, tuple):  # an exception: one of httpx's own, or derived from it
            assert bare[0] in ours[0], (bare, ours)
            assert ours[1] == bare[1]
        else:
            assert ours == bare


@pytest.fixture(params=["sync", "async"])
def client(request, upstreams):
    """Makes a client of ours over a server, with a way to run its calls; blocking and async."""
    closes = []

    def make(server, kind=None, **options):
        if request.param == "sync":
            made = (kind or MeshClient)(transport=MeshTransport(mesh_over(server)), **options)
            closes.append(made.close)
            return made, lambda result: result
        loop = asyncio.new_event_loop()
        made = (kind or AsyncMeshClient)(transport=AsyncMeshTransport(mesh_over(server)), **options)
        closes.append(lambda: (loop.run_until_complete(made.aclose()), loop.close()))
        return made, loop.run_until_complete

    make.kind = request.param
    yield make
    for close in closes:
        close()


def test_a_url_is_parsed_once_and_only_so_many_are_kept(client, upstreams):
    calling, run = client(upstreams.serve())
    for _ in range(3):
        run(calling.get("http://catalog/items"))
    assert calling._parse.cache_info()[:2] == (2, 1)
    assert calling._parse.cache_info().maxsize == 1024


def test_a_base_url_that_is_changed_counts_from_then_on(client, upstreams):
    server = upstreams.serve()
    calling, run = client(server, base_url="http://catalog/a")
    run(calling.get("x"))
    calling.base_url = "http://catalog/b"
    run(calling.get("x"))
    assert [seen.target for seen in server.seen] == ["/a/x", "/b/x"]


def test_a_jar_of_the_users_own_sees_every_response(client, upstreams):
    class Jar(http.cookiejar.CookieJar):
        seen = 0

        def extract_cookies(self, response, request):
            self.seen += 1
            super().extract_cookies(response, request)

    calling, run = client(upstreams.serve())
    jar = Jar()
    calling.cookies = jar
    run(calling.get("http://catalog/"))
    assert jar.seen == 1
    assert isinstance(calling.cookies, httpx.Cookies)
    assert calling.cookies.jar is jar


def test_a_response_hook_sees_the_response_unread(client, upstreams):
    states = []

    def look(response):
        states.append((response.is_stream_consumed, response.is_closed))

    async def look_async(response):
        look(response)

    calling, run = client(upstreams.serve(), event_hooks={"response": [look if client.kind == "sync" else look_async]})
    assert run(calling.get("http://catalog/")).is_stream_consumed
    assert states == [(False, False)]


def test_a_subclass_keeps_httpxs_own_path(client, upstreams):
    base = MeshClient if client.kind == "sync" else AsyncMeshClient

    class Merging(base):
        def _merge_url(self, url):
            return super()._merge_url(str(url).replace("old", "new"))

    server = upstreams.serve()
    calling, run = client(server, Merging)
    assert run(calling.get("http://catalog/old")).read() == server.name.encode()
    assert server.seen[0].target == "/new"
    assert calling._parse.cache_info().currsize == 0


def test_a_streamed_response_is_left_to_the_application(client, upstreams):
    calling, run = client(upstreams.serve(Behaviour(body=b"stream")))
    response = run(calling.send(calling.build_request("GET", "http://catalog/"), stream=True))
    assert not response.is_stream_consumed
    assert (response.read() if client.kind == "sync" else run(response.aread())) == b"stream"


def test_the_log_line_is_httpxs(client, upstreams, caplog):
    calling, run = client(upstreams.serve())
    with caplog.at_level(logging.INFO, "httpx"):
        run(calling.get("http://catalog/items"))
    assert [r.getMessage() for r in caplog.records if r.name == "httpx"] == [
        'HTTP Request: GET http://catalog/items "HTTP/1.1 200 S"'
    ]


def test_mounts_are_obeyed(client, upstreams):
    answer = httpx.MockTransport(lambda _request: httpx.Response(418))
    calling, run = client(upstreams.serve(), mounts={"http://forum": answer})
    assert run(calling.get("http://forum/")).status_code == 418
    assert run(calling.get("http://catalog/")).status_code == 200


def test_the_record_is_whole_when_the_call_returns(client, upstreams):
    calling, run = client(upstreams.serve(Behaviour(body=b"12345")))
    record = run(calling.get("http://catalog/")).extensions["meshlib"]
    assert record.ended > 0.0
    assert (record.status, record.bytes_received) == (200, 5)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_mesh_makes_them(asynchronous):
    with Mesh.from_bootstrap(NOTHING) as mesh:
        options = {"verify": False, "local_replies": "response", "headers": {"x": "1"}, "trust_env": False}
        made = mesh.async_client(**options) if asynchronous else mesh.client(**options)
        assert isinstance(made, AsyncMeshClient if asynchronous else MeshClient)
        assert made.headers["x"] == "1"
        assert made._transport._options.local_replies == "response"
        assert made.trust_env is False


def test_a_disabled_mesh_gives_clients_of_the_plain_kind(monkeypatch, upstreams):
    server = upstreams.serve()
    monkeypatch.setenv("MESHLIB_DISABLE", "1")
    with Mesh.from_bootstrap(NOTHING) as mesh, mesh.client() as calling:
        assert calling.get(f"http://127.0.0.1:{server.endpoint.port}/").text == server.name
