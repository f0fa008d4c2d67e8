"""Names of hosts that calls pass through to: looked up while connecting, never longer than that may take."""

import asyncio
import contextlib
import socket
import threading
import time

import httpx
import pytest

from meshlib import errors
from meshlib.model.cluster import Cluster
from meshlib.model.discovery import Discovery
from meshlib.transports.httpx_async import AsyncMeshTransport
from meshlib.transports.httpx_sync import MeshTransport
from meshlib.upstream import names
from transports.scripted import Upstreams
from transports.snapshots import route, runtime_on, static_snapshot

REAL = socket.getaddrinfo


@contextlib.contextmanager
def passing_through(**fields):
    cluster = Cluster("c", Discovery.ORIGINAL_DST, **fields)
    mesh = runtime_on(static_snapshot(clusters=[cluster], routes=[route("c")]))
    with httpx.Client(transport=MeshTransport(mesh), timeout=10.0) as client:
        yield client


def resolving(monkeypatch, **answers):
    """Let names have these addresses."""
    answers = {name.replace("_", "."): addresses for name, addresses in answers.items()}

    def getaddrinfo(host, port, *args, **options):
        if host in answers:
            return [entry for a in answers[host] for entry in REAL(a, port, *args, **options)]
        return REAL(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_an_address_that_refuses_is_passed_over(monkeypatch):
    with Upstreams() as upstreams:
        server = upstreams.serve(address="127.0.9.7")
        resolving(monkeypatch, a_test=["127.0.9.8", "127.0.9.7"])
        met = []

        def connect_to(address, left):
            met.append(address)
            return socket.create_connection((address, server.port), left)

        names.connect("a.test", 5.0, connect_to).close()
        assert met == ["127.0.9.8", "127.0.9.7"]
        with passing_through() as client:
            assert client.get(f"http://a.test:{server.port}/").text == "up"


def test_a_resolver_that_hangs(monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: gate.wait(30))
    began = time.monotonic()
    try:
        with passing_through(connect_timeout=0.2) as client, pytest.raises(errors.UpstreamConnectFailed):
            client.get("http://a.test/")
    finally:
        gate.set()
    assert time.monotonic() - began < 5


def test_a_name_that_does_not_exist(monkeypatch):
    def fail(*_args, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with passing_through() as client, pytest.raises(errors.UpstreamConnectFailed, match="Name or service not known"):
        client.get("http://a.test/")


def test_async(monkeypatch):
    async def main(url, **options):
        async with httpx.AsyncClient(transport=AsyncMeshTransport(mesh), **options) as client:
            return (await client.get(url)).text

    with Upstreams() as upstreams:
        server = upstreams.serve(address="127.0.9.7")
        resolving(monkeypatch, a_test=["127.0.9.8", "127.0.9.7"])
        cluster = Cluster("c", Discovery.ORIGINAL_DST, connect_timeout=0.5)
        mesh = runtime_on(static_snapshot(clusters=[cluster], routes=[route("c")]))
        assert asyncio.run(main(f"http://a.test:{server.port}/")) == "up"
        gate = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: gate.wait(30))
        began = time.monotonic()
        try:
            with pytest.raises(errors.UpstreamConnectFailed):
                asyncio.run(main("http://b.test/"))
            assert time.monotonic() - began < 5, "neither the call nor the end of its event loop waits for the resolver"
        finally:
            gate.set()
