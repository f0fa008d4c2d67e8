"""gRPC channels over clusters whose endpoints are found by name and checked."""

import asyncio
from concurrent import futures

import grpc
import grpc.aio
import pytest

from meshlib.model.health_check import GrpcCheck, HealthCheck
from meshlib.transports.grpc_aio import AioMeshChannel
from meshlib.transports.grpc_channel import MeshChannel
from runtime.upkept import Zone, named_cluster, upkept
from transports.snapshots import route, static_snapshot

METHOD = "/grpc.health.v1.Health/Check"


@pytest.fixture
def port():
    """The port of a server that says of itself that it serves."""
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"\x08\x01")
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0).wait()


@pytest.fixture
def mesh(port):
    check = HealthCheck(GrpcCheck(), timeout=5.0, interval=5.0)
    cluster = named_cluster("a.test", port=port, http2=True, health_checks=(check,))
    made = upkept(static_snapshot(clusters=[cluster], routes=[route("c")]), Zone(a_test=["127.0.0.1"]))
    yield made
    made.close()


def test_sync(mesh):
    with MeshChannel(mesh, "catalog:80") as channel:
        assert channel.unary_unary(METHOD)(b"", timeout=10) == b"\x08\x01"


def test_aio(mesh):
    async def main():
        async with AioMeshChannel(mesh, "catalog:80") as channel:
            return await channel.unary_unary(METHOD)(b"", timeout=10)

    assert asyncio.run(main()) == b"\x08\x01"


def test_a_deadline_bounds_the_wait_for_a_name(port):
    zone = Zone(a_test=OSError("no"))
    cluster = named_cluster("a.test", port=port, http2=True)
    mesh = upkept(static_snapshot(clusters=[cluster], routes=[route("c")]), zone)
    with MeshChannel(mesh, "catalog:80") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(METHOD)(b"", timeout=5)
    mesh.close()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "'a.test' is not resolved: no" in caught.value.details()
