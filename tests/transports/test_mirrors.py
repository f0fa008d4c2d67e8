"""Copies of requests and internal redirects over real sockets, through every driver."""

from __future__ import annotations

import threading
import time

import pytest

from meshlib.model.match import PathMatch, RouteMatch, StringOp
from meshlib.model.traffic import InternalRedirects, MirrorPolicy
from meshlib.policy.events import NullObserver
from meshlib.transports import mirrors
from policy.snapshots import cluster, forward, snapshot
from runtime.handmade import HandmadeSource, runtime
from transports.grpc_peers import Peer, connecting, serving
from transports.scripted import OK, Behaviour
from transports.snapshots import route, runtime_on, static_cluster, static_snapshot

HANG = Behaviour(hang=True)
connect = connecting()


class Watching(NullObserver):
    """Keeps the records of copies."""

    def __init__(self):
        self.ended = []
        self.told = threading.Condition()

    def mirror_ended(self, record):
        with self.told:
            self.ended.append(record)
            self.told.notify_all()

    def wait(self, count, pump=lambda: time.sleep(0.01)):
        deadline = time.monotonic() + 10
        while len(self.ended) < count and time.monotonic() < deadline:
            pump()
        assert len(self.ended) >= count, self.ended
        return self.ended


def mesh(main, shadow, watching=None, **action):
    action = action or {"mirrors": (MirrorPolicy("m"),)}
    clusters = cluster([main.endpoint]), cluster([shadow.endpoint], name="m")
    return runtime(HandmadeSource(snapshot(*clusters, routes=[forward(**action)])), observer=watching)


def turn(made):
    def pump():
        if made.kind == "async":
            import asyncio

            made.run(asyncio.sleep(0.01))
        else:
            time.sleep(0.01)

    return pump


def test_a_copy_goes_beside_the_request(caller, upstreams):
    main, shadow, watching = upstreams.serve(OK), upstreams.serve(OK), Watching()
    made = caller(mesh(main, shadow, watching))
    response = made.request("POST", content=b"hello", headers={"x-a": "1"})
    assert response.status_code == 200
    assert response.extensions["meshlib"].mirrors == ("m",)
    (record,) = watching.wait(1, turn(made))
    assert (record.status, record.cluster_name) == (200, "m")
    (seen,) = shadow.seen
    assert (seen.method, seen.body, seen.header("host"), seen.header("x-a")) == (
        "POST",
        b"hello",
        "catalog-shadow",
        "1",
    )
    assert main.seen[0].header("host") == "catalog"


def test_a_streamed_body_is_copied_as_it_goes(caller, upstreams):
    main, shadow, watching = upstreams.serve(OK), upstreams.serve(OK), Watching()
    made = caller(mesh(main, shadow, watching))
    made.request("POST", content=made.body([b"one", b"two"]))
    watching.wait(1, turn(made))
    assert (main.seen[0].body, shadow.seen[0].body) == (b"onetwo", b"onetwo")


def test_a_streamed_body_that_is_too_large_costs_the_copy(caller, upstreams, monkeypatch):
    monkeypatch.setattr(mirrors, "LARGEST", 5)
    main, shadow, watching = upstreams.serve(OK), upstreams.serve(OK), Watching()
    made = caller(mesh(main, shadow, watching))
    assert made.request("POST", content=made.body([b"one", b"two"])).status_code == 200
    (record,) = watching.wait(1, turn(made))
    assert (record.detail, shadow.seen) == ("mirror_overflow", [])


def test_a_copy_never_delays_and_never_fails_the_call(caller, upstreams):
    main, shadow = upstreams.serve(OK), upstreams.serve(HANG)
    made = caller(mesh(main, shadow))
    began = time.monotonic()
    for _ in range(5):
        assert made.request().status_code == 200
    assert time.monotonic() - began < 5
    made.close()


def test_what_does_not_fit_is_dropped(caller, upstreams, monkeypatch):
    monkeypatch.setattr(mirrors, "MOST", 1)
    monkeypatch.setattr(mirrors, "WORKERS", 1)
    main, shadow, watching = upstreams.serve(OK), upstreams.serve(HANG), Watching()
    made = caller(mesh(main, shadow, watching))
    for _ in range(6):
        assert made.request().status_code == 200
    ended = watching.wait(4, turn(made))
    assert {record.detail for record in ended[:4]} == {"mirror_overflow"}
    made.close()


def test_threads_end_when_they_have_nothing_to_do(monkeypatch):
    monkeypatch.setattr(mirrors, "IDLE", 0.01)
    threads, ran = mirrors.MirrorThreads(), threading.Event()
    threads.send(None, ran.set)
    assert ran.wait(5)
    deadline = time.monotonic() + 5
    while threads._threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads._threads == 0


@pytest.mark.parametrize(("status", "method", "body"), [(302, "POST", b"abc"), (303, "GET", b"")])
def test_a_redirect_is_followed_here(caller, upstreams, status, method, body):
    elsewhere = Behaviour(status=status, headers=[("location", "http://elsewhere/to?x=1")])
    main, other = upstreams.serve(elsewhere), upstreams.serve(OK)
    policy = InternalRedirects(codes=frozenset({302, 303}))
    routes = [
        forward("m", match=RouteMatch(PathMatch(StringOp.PREFIX, "/to"))),
        forward(internal_redirects=policy),
    ]
    clusters = cluster([main.endpoint]), cluster([other.endpoint], name="m")
    made = caller(runtime(HandmadeSource(snapshot(*clusters, routes=routes))))
    response = made.request("POST", "http://catalog/from", content=b"abc", headers={"x-a": "1"})
    assert (response.status_code, str(response.request.url)) == (200, "http://catalog/from")
    (seen,) = other.seen
    assert (seen.method, seen.target, seen.body, seen.header("host")) == (method, "/to?x=1", body, "elsewhere")
    assert (seen.header("x-a"), seen.header("x-envoy-original-url")) == ("1", "http://catalog/from")
    assert [hop.status for hop in response.extensions["meshlib"].redirects] == [status]


def test_a_copy_of_a_grpc_call(connect):
    main, shadow, watching = Peer("main"), Peer("shadow"), Watching()
    with serving(main, shadow):
        clusters = static_cluster("c", [main.port], http2=True), static_cluster("m", [shadow.port], http2=True)
        table = static_snapshot(clusters=clusters, routes=[route("c", mirrors=(MirrorPolicy("m"),))])
        caller = connect(runtime_on(table, observer=watching))
        assert caller.call(metadata=[("x-a", "1"), ("x-bin", b"\x00")]).message == b"main"
        watching.wait(1, caller.call)
    seen = shadow.seen[0]
    assert (seen.method, seen.authority) == ("/shop.Catalog/Get", "catalog-shadow:50051")
    assert (seen.metadata["x-a"], seen.metadata["x-bin"]) == ("1", b"\x00")
    assert watching.ended[0].grpc_status == 0
