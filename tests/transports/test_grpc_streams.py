"""Streams and futures over the gRPC channels: routed and balanced like unary calls, ended with the stream."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import grpc
import pytest

import meshlib
import meshlib.grpc
from meshlib.model.traffic import RetryPolicy
from meshlib.transports.grpc_aio import AioMeshChannel
from transports.grpc_peers import METHOD, TARGET, BlockingCaller, Peer, aborting, connecting, refusing_port, serving
from transports.snapshots import eventually, no_counts, one_cluster, retries

connect = connecting()

LIST, PUT, CHAT = "/shop.Catalog/List", "/shop.Catalog/Put", "/shop.Catalog/Chat"


def three(_request, _context):
    yield from (b"1", b"2", b"3")


def test_response_stream(connect):
    one, two = Peer("one", behaviour=three), Peer("two", behaviour=three)
    with serving(one, two):
        runtime = one_cluster(one.port, two.port)
        caller = connect(runtime)
        answers = [caller.call(method=LIST, kind="unary_stream") for _ in range(4)]
        assert [answer.message for answer in answers] == [[b"1", b"2", b"3"]] * 4
        assert (len(one.seen), len(two.seen)) == (2, 2)
        record = answers[0].record
        assert (record.grpc_status, record.bytes_sent, record.bytes_received) == (0, 1, 3)
        assert record.ended
        assert no_counts(runtime)


def test_an_empty_response_stream(connect):
    server = Peer("server", behaviour=lambda *_: iter(()))
    with serving(server):
        runtime = one_cluster(server.port)
        answer = connect(runtime).call(method=LIST, kind="unary_stream")
        assert (answer.message, answer.record.grpc_status) == ([], 0)
        assert eventually(lambda: no_counts(runtime))


def failing_first(code, times):
    count = iter(range(1000))

    def behave(_request, context):
        if next(count) < times:
            context.abort(code, "not now")
        yield b"1"

    return behave


def test_a_response_stream_is_retried_before_its_first_message(connect):
    server = Peer("server", behaviour=failing_first(grpc.StatusCode.UNAVAILABLE, 1))
    with serving(server):
        runtime = one_cluster(server.port, routing=retries("unavailable"))
        answer = connect(runtime).call(method=LIST, kind="unary_stream")
        assert (answer.message, answer.attempts) == ([b"1"], [(server.port, 14), (server.port, None)])
        assert no_counts(runtime)


def test_a_response_stream_is_not_retried_after_its_first_message(connect):
    def behave(_request, context):
        yield b"1"
        context.abort(grpc.StatusCode.UNAVAILABLE, "broke off")

    server = Peer("server", behaviour=behave)
    with serving(server):
        runtime = one_cluster(server.port, routing=retries("unavailable", 3))
        answer = connect(runtime).call(method=LIST, kind="unary_stream")
        assert (answer.code, answer.error.details(), len(server.seen)) == ("UNAVAILABLE", "broke off", 1)
        assert answer.record.grpc_status == 14
        assert no_counts(runtime)


def test_per_try_timeout_of_a_response_stream_ends_at_the_first_message(connect):
    stuck = threading.Event()

    def behave(_request, _context):
        yield b"1"
        stuck.wait(0.4)  # longer than the per-try timeout
        yield b"2"

    def hang(*_):
        stuck.wait(10)
        yield b"late"

    quick, slow = Peer("quick", behaviour=behave), Peer("slow", behaviour=hang)
    with serving(quick, slow):
        runtime = one_cluster(slow.port, quick.port, routing=retries("5xx", 1, per_try_timeout=0.2))
        answer = connect(runtime).call(method=LIST, kind="unary_stream")
        stuck.set()
        assert answer.message == [b"1", b"2"]
        assert answer.attempts == [(slow.port, "no answer in time"), (quick.port, None)]
        assert answer.record.response_flags == "-"
        assert no_counts(runtime)


def test_route_timeout_cuts_a_response_stream(connect):
    stuck = threading.Event()

    def behave(*_):
        yield b"1"
        stuck.wait(10)

    server = Peer("server", behaviour=behave)
    with serving(server):
        runtime = one_cluster(server.port, routing={"timeout": 0.3})
        started = time.monotonic()
        answer = connect(runtime).call(method=LIST, kind="unary_stream")
        took = time.monotonic() - started
        stuck.set()
        assert isinstance(answer.error, meshlib.grpc.RouteTimeout)
        assert answer.record.response_flags == "UT"
        assert 0.25 < took < 2
        assert no_counts(runtime)


def test_the_applications_timeout_of_a_response_stream(connect):
    stuck = threading.Event()

    def behave(*_):
        yield b"1"
        stuck.wait(10)

    server = Peer("server", behaviour=behave)
    with serving(server):
        runtime = one_cluster(server.port)
        answer = connect(runtime).call(method=LIST, kind="unary_stream", timeout=0.2)
        stuck.set()
        assert (answer.code, isinstance(answer.error, meshlib.MeshError)) == ("DEADLINE_EXCEEDED", False)
        assert answer.record.response_flags == "DC"
        assert no_counts(runtime)


def test_a_stream_that_finds_no_endpoint(connect):
    runtime = one_cluster()
    for kind, method, request in (
        ("unary_stream", LIST, b"?"),
        ("stream_unary", PUT, iter([b"1"])),
        ("stream_stream", CHAT, iter([b"1"])),
    ):
        answer = connect(runtime).call(request, method=method, kind=kind)
        assert isinstance(answer.error, meshlib.grpc.NoHealthyUpstream), kind
        assert answer.record.response_flags == "UH"
    assert no_counts(runtime)


def test_request_stream(connect):
    server = Peer("server", behaviour=lambda requests, _context: b"".join(requests))
    with serving(server):
        runtime = one_cluster(server.port)
        answer = connect(runtime).call(iter([b"ab", b"c"]), method=PUT, kind="stream_unary")
        assert answer.message == b"abc"
        assert (answer.record.bytes_sent, answer.record.bytes_received) == (3, 3)
        assert no_counts(runtime)


def test_a_request_stream_is_never_retried(connect):
    server = Peer("server", behaviour=aborting(grpc.StatusCode.UNAVAILABLE, times=9))
    with serving(server):
        runtime = one_cluster(server.port, routing=retries("unavailable", 3))
        answer = connect(runtime).call(iter([b"1"]), method=PUT, kind="stream_unary")
        assert (answer.code, len(server.seen)) == ("UNAVAILABLE", 1)
        assert answer.record.retry_skipped == "body not replayable"
        assert no_counts(runtime)


def test_the_route_timeout_waits_for_the_whole_request(connect):
    server = Peer("server", behaviour=lambda requests, _context: b"".join(requests))

    def upload():
        for part in (b"a", b"b", b"c"):
            time.sleep(0.15)
            yield part

    with serving(server):
        answer = connect(one_cluster(server.port, routing={"timeout": 0.3})).call(
            upload(), method=PUT, kind="stream_unary"
        )
    assert answer.message == b"abc"  # 0.45 s of upload and a timeout of 0.3 s


def test_a_slow_answer_to_a_request_stream_is_cut(connect):
    stuck = threading.Event()
    server = Peer("server", behaviour=lambda requests, _context: list(requests) and stuck.wait(10) and b"late")
    with serving(server):
        runtime = one_cluster(server.port, routing={"timeout": 0.2})
        answer = connect(runtime).call(iter([b"1"]), method=PUT, kind="stream_unary")
        stuck.set()
        assert isinstance(answer.error, meshlib.RouteTimeout)
        assert no_counts(runtime)


def test_both_ways(connect):
    def echo(requests, _context):
        for request in requests:
            yield request * 2

    server = Peer("server", behaviour=echo)
    with serving(server):
        runtime = one_cluster(server.port)
        answer = connect(runtime).call(iter([b"a", b"b"]), method=CHAT, kind="stream_stream")
        assert answer.message == [b"aa", b"bb"]
        assert no_counts(runtime)


def test_a_refused_connection_of_a_stream(connect):
    with refusing_port() as port:
        runtime = one_cluster(port)
        answer = connect(runtime).call(iter([b"a"]), method=CHAT, kind="stream_stream")
        assert isinstance(answer.error, meshlib.UpstreamConnectFailed)
        assert no_counts(runtime)


# What only the blocking channel has


@pytest.fixture
def endless():
    """A server whose streams go on until the client leaves."""
    gone = threading.Event()

    def behave(_request, context):
        context.add_callback(gone.set)
        yield b"1"
        gone.wait(20)

    server = Peer("server", behaviour=behave)
    server.gone = gone
    with serving(server):
        yield server


def test_cancelling_a_stream(endless):
    runtime = one_cluster(endless.port)
    with BlockingCaller(runtime, TARGET).channel as channel:
        call = channel.unary_stream(LIST)(b"?")
        assert next(call) == b"1"
        assert call.is_active()
        assert not no_counts(runtime)
        call.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        assert call.code() is grpc.StatusCode.CANCELLED
        assert endless.gone.wait(5)
        assert eventually(lambda: no_counts(runtime))


def test_a_dropped_stream_ends(endless):
    runtime = one_cluster(endless.port)
    with BlockingCaller(runtime, TARGET).channel as channel:
        call = channel.unary_stream(LIST)(b"?")
        assert next(call) == b"1"
        del call
        gc.collect()
        assert endless.gone.wait(5)
        assert eventually(lambda: no_counts(runtime))


def test_a_stream_cancelled_before_it_begins():
    with BlockingCaller(one_cluster(1, routing=retries("5xx", 9)), TARGET).channel as channel:
        call = channel.unary_stream(LIST)(b"?")
        call.cancel()
        with pytest.raises(grpc.RpcError):
            list(call)


def test_futures():
    server = Peer("server", behaviour=aborting(grpc.StatusCode.UNAVAILABLE, times=1))
    with serving(server):
        runtime = one_cluster(server.port, routing=retries("unavailable"))
        with BlockingCaller(runtime, TARGET).channel as channel:
            called = threading.Event()
            future = channel.unary_unary(METHOD).future(b"?", timeout=5)
            future.add_done_callback(lambda each: each is future and called.set())
            assert future.result(5) == b"ok"
            assert called.wait(5)
            assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
            assert future.code() is grpc.StatusCode.OK
            assert future.exception() is None
            assert len(future.record.attempts) == 2


def test_a_future_that_fails():
    with BlockingCaller(one_cluster(), TARGET).channel as channel:
        future = channel.unary_unary(METHOD).future(b"?")
        with pytest.raises(meshlib.NoHealthyUpstream):
            future.result(5)
        assert future.code() is grpc.StatusCode.UNAVAILABLE
        assert isinstance(future.exception(), meshlib.grpc.NoHealthyUpstream)
        assert future.traceback() is not None


def test_cancelling_a_future_under_way():
    entered, gone = threading.Event(), threading.Event()

    def behave(_request, context):
        context.add_callback(gone.set)
        entered.set()
        gone.wait(20)

    server = Peer("server", behaviour=behave)
    with serving(server):
        runtime = one_cluster(server.port, routing=retries("5xx,cancelled", 3))
        with BlockingCaller(runtime, TARGET).channel as channel:
            future = channel.unary_unary(METHOD).future(b"?")
            with pytest.raises(grpc.FutureTimeoutError):
                future.result(0.01)
            assert entered.wait(5)
            assert future.cancel()
            with pytest.raises(grpc.FutureCancelledError):
                future.result(5)
            assert future.code() is grpc.StatusCode.CANCELLED
            assert gone.wait(5)
            assert len(server.seen) == 1
            assert no_counts(runtime)


def test_cancelling_a_future_in_its_back_off():
    server = Peer("server", behaviour=aborting(grpc.StatusCode.UNAVAILABLE, times=99))
    with serving(server):
        routing = {"retry": RetryPolicy(frozenset({"unavailable"}), 9, base_interval=60.0)}
        runtime = one_cluster(server.port, routing=routing)
        with BlockingCaller(runtime, TARGET).channel as channel:
            future = channel.unary_unary(METHOD).future(b"?")
            assert eventually(lambda: len(server.seen) == 1)
            future.cancel()
            with pytest.raises(grpc.FutureCancelledError):
                future.result(5)
            assert eventually(lambda: no_counts(runtime))


def test_channel_ready_future():
    runtime = one_cluster()
    with BlockingCaller(runtime, TARGET).channel as channel:
        grpc.channel_ready_future(channel).result(5)


def test_interceptors():
    server = Peer("server")

    class Interceptor(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, details, request):
            return continuation(details, request + b"!")

    with serving(server), BlockingCaller(one_cluster(server.port), TARGET).channel as channel:
        assert grpc.intercept_channel(channel, Interceptor()).unary_unary(METHOD)(b"?") == b"server"


# What only the asyncio channel has


def on_loop(scenario, *ports, **kwargs):
    """Run ``scenario(channel, runtime)`` on a loop."""

    async def main():
        runtime = one_cluster(*ports, **kwargs)
        async with AioMeshChannel(runtime, TARGET) as channel:
            return await scenario(channel, runtime)

    return asyncio.run(asyncio.wait_for(main(), 20))


def test_aio_call_object():
    server = Peer("server")

    async def scenario(channel, _runtime):
        call = channel.unary_unary(METHOD)(b"?", timeout=9)
        done = asyncio.Event()
        call.add_done_callback(lambda each: each is call and done.set())
        assert await call == b"server"
        assert await call == b"server"  # again, as grpc's own
        await done.wait()
        assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
        assert 8 < call.time_remaining() <= 9
        assert await call.code() is grpc.StatusCode.OK
        assert tuple(await call.trailing_metadata()) == ()
        await call.wait_for_connection()

    with serving(server):
        on_loop(scenario, server.port)


def test_aio_error_of_the_call_object():
    async def scenario(channel, _runtime):
        call = channel.unary_unary(METHOD)(b"?")
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert "no healthy upstream" in await call.details()
        with pytest.raises(meshlib.NoHealthyUpstream):
            await call
        channel.unary_unary(METHOD)(b"?")  # nobody awaits it: no warning
        await asyncio.sleep(0)

    on_loop(scenario)


@pytest.mark.parametrize("how", ["cancel the call", "cancel the task"])
def test_aio_cancelling_a_unary_call(how):
    entered, gone = threading.Event(), threading.Event()

    def behave(_request, context):
        context.add_callback(gone.set)
        entered.set()
        gone.wait(20)

    server = Peer("server", behaviour=behave)

    async def scenario(channel, runtime):
        call = channel.unary_unary(METHOD)(b"?")

        async def wait():
            return await call

        task = asyncio.create_task(wait())
        await asyncio.to_thread(entered.wait, 5)
        call.cancel() if how == "cancel the call" else task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert await asyncio.to_thread(gone.wait, 5)
        assert no_counts(runtime)
        assert call.record.response_flags == "DC"

    with serving(server):
        on_loop(scenario, server.port, routing=retries("5xx,cancelled", 3))


def test_aio_writing_and_reading():
    def echo(requests, _context):
        for request in requests:
            yield request * 2

    server = Peer("server", behaviour=echo)

    async def scenario(channel, runtime):
        call = channel.stream_stream(CHAT)()
        for part in (b"a", b"b"):
            await call.write(part)
            assert await call.read() == part * 2
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.read() is grpc.aio.EOF
        assert call.done()
        assert await call.code() is grpc.StatusCode.OK
        assert no_counts(runtime)

    with serving(server):
        on_loop(scenario, server.port)


def test_aio_upload():
    server = Peer("server", behaviour=lambda requests, _context: b"".join(requests))

    async def parts():
        for part in (b"a", b"b"):
            await asyncio.sleep(0)
            yield part

    async def scenario(channel, runtime):
        call = channel.stream_unary(PUT)()
        await call.write(b"a")
        await call.write(b"b")
        await call.done_writing()
        assert await call == b"ab"
        assert await channel.stream_unary(PUT)(parts()) == b"ab"
        assert no_counts(runtime)

    with serving(server):
        on_loop(scenario, server.port)


def test_aio_writing_to_nobody():
    async def scenario(channel, _runtime):
        call = channel.stream_unary(PUT)()
        with pytest.raises(meshlib.NoHealthyUpstream):
            await call.write(b"a")
        with pytest.raises(meshlib.NoHealthyUpstream):
            await call

    on_loop(scenario)


def test_aio_cancelling_and_dropping_streams(endless):
    async def scenario(channel, runtime):
        call = channel.unary_stream(LIST)(b"?")
        assert await call.read() == b"1"
        assert not no_counts(runtime)
        assert call.cancel()
        assert no_counts(runtime)
        with pytest.raises(asyncio.CancelledError):
            await call.read()
        assert await asyncio.to_thread(endless.gone.wait, 5)
        endless.gone.clear()
        call = channel.unary_stream(LIST)(b"?")
        assert await call.read() == b"1"
        del call
        await asyncio.sleep(0)
        gc.collect()
        assert await asyncio.to_thread(endless.gone.wait, 5)
        assert no_counts(runtime)

    on_loop(scenario, endless.port)


def test_aio_several_event_loops():
    server = Peer("server")
    with serving(server):
        runtime = one_cluster(server.port)
        channel = AioMeshChannel(runtime, TARGET)

        async def main():
            try:
                return await channel.unary_unary(METHOD)(b"?")
            finally:
                for loop in list(channel._loops.values()):
                    for each in loop.pool.empty():
                        await each.close()

        assert [asyncio.run(main()) for _ in range(3)] == [b"server"] * 3


def test_aio_states():
    async def scenario(channel, _runtime):
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
        await channel.channel_ready()
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        await channel.close()
        assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
        with pytest.raises(grpc.aio.UsageError):
            channel.unary_unary(METHOD)(b"?")

    on_loop(scenario)
