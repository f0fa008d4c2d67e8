"""Bodies: uploads that can and cannot be sent again, downloads that hold and release their slot."""

from __future__ import annotations

import gc
import threading
import time

import httpx
import pytest

from meshlib import httpx as mesh_httpx
from meshlib.model.cluster import Thresholds
from policy.snapshots import forward, retry
from transports.callers import SyncCaller, assert_idle, mesh_over
from transports.scripted import OK, Behaviour

BAD = Behaviour(status=503)
RETRIES = retry("5xx", "reset", num_retries=2, base_interval=0.001, max_interval=0.001)


class TestReplayableUploads:
    @pytest.mark.parametrize(
        "arguments",
        [
            {"content": b"payload"},
            {"content": "payload"},
            {"json": {"a": 1}},
            {"data": {"a": "1"}},
            {"content": b""},
            {},
        ],
        ids=["bytes", "text", "json", "form", "empty", "none"],
    )
    def test_are_sent_again(self, arguments, caller, upstreams):
        server = upstreams.serve(BAD, OK)
        response = caller(mesh_over(server, routes=[forward(retry=RETRIES)])).request("POST", **arguments)
        assert response.status_code == 200
        first, second = server.seen
        assert first.body == second.body == response.request.content
        assert response.extensions["meshlib"].bytes_sent == len(first.body)


class TestStreamedUploads:
    def test_go_through(self, caller, upstreams):
        server = upstreams.serve()
        call = caller(mesh_over(server, routes=[forward(retry=RETRIES)]))
        response = call.request("POST", content=call.body([b"one", b"two"]))
        assert (response.status_code, server.seen[0].body) == (200, b"onetwo")
        record = response.extensions["meshlib"]
        assert (record.retry_skipped, record.bytes_sent) == ("", 6)

    def test_are_sent_again_as_they_were_kept(self, caller, upstreams):
        server = upstreams.serve(Behaviour(status=503), Behaviour(abort="before_headers"), OK)
        call = caller(mesh_over(server, routes=[forward(retry=RETRIES)]))
        response = call.request("POST", content=call.body([b"one", b"two"]))
        assert (response.status_code, [seen.body for seen in server.seen]) == (200, [b"onetwo"] * 3)
        assert response.extensions["meshlib"].retry_skipped == ""

    def test_go_on_where_an_early_answer_stopped_them(self, caller, upstreams):
        server = upstreams.serve(Behaviour(status=503, early=True, conn_close=True), OK)
        call = caller(mesh_over(server, routes=[forward(retry=RETRIES)]))

        def slowly():
            for part in (b"one", b"two", b"three"):
                time.sleep(0.1)
                yield part

        response = call.request("POST", content=call.body(slowly()))
        assert (response.status_code, server.seen[-1].body) == (200, b"onetwothree")

    def test_are_not_sent_again_over_the_limit(self, caller, upstreams):
        server = upstreams.serve(Behaviour(status=503, body=b"the first answer"), OK)
        call = caller(mesh_over(server, routes=[forward(retry=RETRIES, body_limit=6)]))
        response = call.request("POST", content=call.body([b"once", b"more"]))
        assert (response.status_code, response.text, len(server.seen)) == (503, "the first answer", 1)
        skipped = response.extensions["meshlib"].retry_skipped
        assert skipped == "body not replayable: over the buffer limit of 6"

    def test_are_not_sent_again_after_an_error(self, caller, upstreams):
        server = upstreams.serve(Behaviour(abort="before_headers"), OK)
        call = caller(mesh_over(server, routes=[forward(retry=RETRIES, body_limit=3)]))
        with pytest.raises(mesh_httpx.UpstreamReset) as caught:
            call.request("POST", content=call.body([b"once"]))
        assert caught.value.record.retry_skipped.startswith("body not replayable")
        assert len(server.seen) == 1

    def test_that_break_are_the_applications_own_affair(self, caller, upstreams):
        class Broken(Exception):
            pass

        def breaking():
            yield b"part"
            raise Broken

        server = upstreams.serve()
        call = caller(mesh_over(server, routes=[forward(retry=RETRIES)]))
        with pytest.raises(Broken):
            call.request("POST", content=call.body(breaking()))
        assert_idle(call.mesh)

    def test_an_answer_before_the_end_of_the_upload(self, caller, upstreams):
        server = upstreams.serve(Behaviour(status=413, early=True, conn_close=True))
        call = caller(mesh_over(server))
        response = call.request("POST", content=call.body([b"x" * 1000] * 3))
        assert response.status_code == 413

    def test_a_reset_in_the_middle(self, caller, upstreams):
        server = upstreams.serve(Behaviour(reset_on_body=True))
        call = caller(mesh_over(server), local_replies="response")

        def endless():
            for _ in range(200):
                time.sleep(0.002)
                yield b"x" * 10000

        response = call.request("POST", content=call.body(endless()))
        assert (response.status_code, response.extensions["meshlib"].response_flags) == (503, "UC")


class TestDownloads:
    def limited(self, *servers):
        return mesh_over(*servers, thresholds=Thresholds(max_requests=1))

    def test_hold_their_slot_until_they_are_read(self, caller, upstreams):
        call = caller(self.limited(upstreams.serve(Behaviour(body=b"x" * 100_000))), local_replies="response")

        def use(response):
            assert call.mesh.store.current.clusters["c"].limits.requests == 1
            return call.read_all(response)

        assert len(call.stream(use)) == 100_000
        assert_idle(call.mesh)
        assert call.request().status_code == 200

    def test_release_it_when_closed_unread(self, caller, upstreams):
        call = caller(self.limited(upstreams.serve(Behaviour(body=b"x" * 100_000))))
        record = call.stream(lambda response: response.extensions["meshlib"])
        assert_idle(call.mesh)
        assert (record.status, record.response_flags) == (200, "-")
        assert record.ended > 0.0

    def test_release_it_when_left_early(self, caller, upstreams):
        server = upstreams.serve(Behaviour(body=b"x" * 50, drip=0.02))
        call = caller(self.limited(server))
        assert call.stream(call.read_some) == b"x"
        assert_idle(call.mesh)
        server.wait(lambda s: s.open == 0)  # half a body is left in it: not to be used again
        assert call.request(timeout=5.0).status_code == 200

    def test_release_it_as_garbage(self, upstreams):
        from transports.callers import SyncCaller

        mesh = self.limited(upstreams.serve(Behaviour(body=b"x" * 100_000)))
        call = SyncCaller(mesh)
        response = call.client.send(call.client.build_request("GET", "http://catalog/"), stream=True)
        record = response.extensions["meshlib"]
        assert mesh.store.current.clusters["c"].limits.requests == 1
        del response
        gc.collect()
        assert_idle(mesh)
        assert record.response_flags == "DC"
        call.close()

    def test_release_it_as_garbage_on_an_event_loop(self, upstreams):
        from transports.callers import AsyncCaller

        mesh = self.limited(upstreams.serve(Behaviour(body=b"x" * 100_000)))
        call = AsyncCaller(mesh)

        async def forget():
            response = await call.client.send(call.client.build_request("GET", "http://catalog/"), stream=True)
            assert mesh.store.current.clusters["c"].limits.requests == 1
            del response
            gc.collect()

        call.run(forget())
        assert_idle(mesh)
        call.close()

    def test_count_what_came(self, caller, upstreams):
        call = caller(mesh_over(upstreams.serve(Behaviour(body=b"x" * 1234), Behaviour(chunked=True, body=b"ab"))))
        assert call.request().extensions["meshlib"].bytes_received == 1234
        assert call.request().extensions["meshlib"].bytes_received == 2

    @pytest.mark.parametrize("chunked", [False, True])
    def test_broken_in_the_middle(self, chunked, caller, upstreams):
        server = upstreams.serve(Behaviour(body=b"x" * 1000, abort="mid_body", chunked=chunked), OK)
        call = caller(mesh_over(server, routes=[forward(retry=RETRIES)]))
        with pytest.raises(httpx.TransportError) as caught:
            call.request()
        record = caught.value.record
        assert (record.status, record.response_flags, len(record.attempts)) == (200, "UPE", 1)
        assert isinstance(caught.value, httpx.NetworkError | httpx.RemoteProtocolError)
        assert caught.value.request.url.host == "catalog"
        assert call.request().status_code == 200

    def test_broken_after_the_head(self, caller, upstreams):
        call = caller(mesh_over(upstreams.serve(Behaviour(abort="after_headers"))), local_replies="response")
        with pytest.raises(httpx.TransportError) as caught:
            call.request()
        assert caught.value.record.response_flags == "UPE"

    def test_head_requests_have_none(self, caller, upstreams):
        server = upstreams.serve()
        call = caller(mesh_over(server))
        response = call.request("HEAD")
        assert (response.status_code, response.headers["content-length"], response.content) == (200, "2", b"")
        assert call.request().text == "up"
        assert server.connections == 1

    def test_decoding_stays_httpxs(self, caller, upstreams):
        import gzip

        packed = Behaviour(body=gzip.compress(b"hello" * 100), headers=[("content-encoding", "gzip")])
        assert caller(mesh_over(upstreams.serve(packed))).request().text == "hello" * 100


def test_a_body_read_within_another_attempt_keeps_its_own_clock(upstreams):
    """An upload that reads a response through the same mesh: two attempts, one inside the other."""
    from transports.callers import SyncCaller

    drip = upstreams.serve(Behaviour(body=b"x" * 20, drip=0.02), name="drip")
    hang = upstreams.serve(name="sink")
    inner = SyncCaller(mesh_over(drip, routes=[forward(timeout=5.0)]))
    outer = SyncCaller(mesh_over(hang, routes=[forward(timeout=0.2)]))

    def upload():
        yield inner.request().content  # takes 0.4 s, which are no business of the outer timeout

    assert outer.request("POST", content=upload()).status_code == 200
    assert hang.seen[0].body == b"x" * 20
    inner.close()
    outer.close()


def test_slow_readers_do_not_starve_others(caller, upstreams):
    """A response held open keeps its own connection only."""
    gate = threading.Event()
    server = upstreams.serve(Behaviour(body=b"x" * 10, body_delay=0.0), OK)
    call = caller(mesh_over(server))
    gate.set()

    def use(_response):
        from transports.callers import SyncCaller

        other = SyncCaller(call.mesh)
        status = other.request().status_code
        other.close()
        return status

    assert call.stream(use) == 200
    assert server.connections == 2


def test_a_body_that_came_with_its_head_stays_its_own(upstreams):
    """Its connection is free already, and may serve another thread before the body is taken."""
    server = upstreams.serve(*[Behaviour(body=b"first"), Behaviour(body=b"second")] * 50)
    call = SyncCaller(mesh_over(server))

    def use(first):
        second = call.request()
        return first.read(), second.content

    for _ in range(50):
        assert call.stream(use) == (b"first", b"second")
        if len({seen.connection for seen in server.seen[-2:]}) == 1:
            break  # that was a try: a body mostly comes with its head, but may come after it
    else:
        pytest.fail("no body came with its head")
    call.close()
