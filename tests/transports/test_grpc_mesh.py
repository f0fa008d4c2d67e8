"""``mesh.grpc_channel`` and ``mesh.aio_grpc_channel`` over a folder of Istio YAML; and over a fork."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import grpc
import pytest

import meshlib
import meshlib.grpc
from transports.grpc_peers import METHOD, Peer, aborting, serving
from transports.snapshots import eventually

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {{name: catalog, namespace: outdoor}}
spec:
  selector: {{app: catalog}}
  ports: [{{name: grpc, port: 50051}}]
"""

ENTRY = """\
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: catalog-{version}, namespace: outdoor}}
spec: {{address: 127.0.0.1, ports: {{grpc: {port}}}, labels: {{app: catalog, version: {version}}}}}
"""

ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: catalog, namespace: outdoor}}
spec:
  hosts: [catalog]
  http:
  - route: [{{destination: {{host: catalog}}}}]
    retries: {{attempts: 2, retryOn: "{on}", perTryTimeout: {per_try}}}
"""


def write(folder, *ports, on="unavailable,5xx", per_try="10s"):
    entries = "".join(ENTRY.format(version=f"v{number}", port=port) for number, port in enumerate(ports, 1))
    (folder / "catalog.yaml").write_text(SERVICE.format() + entries)
    (folder / "route.yaml").write_text(ROUTE.format(on=on, per_try=per_try))


@pytest.fixture(params=["sync", "aio"])
def call(request, tmp_path):
    """Return a function that makes a call through ``mesh``, and its record."""
    if request.param == "sync":

        def run(mesh, target, **options):
            with mesh.grpc_channel(target) as channel:
                message, inner = channel.unary_unary(METHOD).with_call(b"?", **options)
                return message, inner.record

        return run

    def arun(mesh, target, **options):
        async def main():
            async with mesh.aio_grpc_channel(target) as channel:
                inner = channel.unary_unary(METHOD)(b"?", **options)
                return await inner, inner.record

        return asyncio.run(main())

    return arun


def mesh_of(folder):
    return meshlib.Mesh.from_directory(folder, workload="webapp", namespace="outdoor")


@pytest.mark.parametrize(
    "target", ["catalog:50051", "catalog.outdoor:50051", "catalog.outdoor.svc.cluster.local:50051"]
)
def test_a_virtual_service_retries_grpc(call, tmp_path, target):
    server = Peer("server", behaviour=aborting(grpc.StatusCode.UNAVAILABLE, times=2))
    with serving(server):
        write(tmp_path, server.port)
        with mesh_of(tmp_path) as mesh:
            message, record = call(mesh, target)
    assert message == b"ok"
    assert [attempt.grpc_status for attempt in record.attempts] == [14, 14, 0]
    assert record.cluster_name == "outbound|50051||catalog.outdoor.svc.cluster.local"
    assert record.source.startswith("route.yaml:")
    assert [seen.authority for seen in server.seen] == [target] * 3


def test_per_try_timeout_of_a_virtual_service(call, tmp_path):
    release = threading.Event()
    slow, quick = Peer("slow", behaviour=lambda *_: release.wait(10) and b"late"), Peer("quick")
    with serving(slow, quick):
        write(tmp_path, slow.port, quick.port, per_try="200ms")
        with mesh_of(tmp_path) as mesh:
            records = []
            while not any(len(record.attempts) > 1 for record in records):
                message, record = call(mesh, "catalog:50051")
                assert message == b"quick"
                records.append(record)
                assert len(records) < 50
        release.set()
    assert records[-1].attempts[0].error == "no answer in time"


def test_an_edit_is_followed_by_an_open_channel(tmp_path):
    one, two = Peer("one"), Peer("two")
    with serving(one, two):
        write(tmp_path, one.port)
        with mesh_of(tmp_path) as mesh, mesh.grpc_channel("catalog:50051") as channel:
            get = channel.unary_unary(METHOD)
            assert get(b"?") == b"one"
            write(tmp_path, two.port)
            assert eventually(lambda: get(b"?") == b"two")


def test_a_host_outside_the_mesh_goes_where_its_name_leads(call, tmp_path):
    write(tmp_path, 1)
    with mesh_of(tmp_path) as mesh, pytest.raises(meshlib.grpc.UpstreamConnectFailed) as caught:
        call(mesh, "catalogg.invalid:50051", timeout=5)
    assert caught.value.record.cluster_name == "PassthroughCluster"


FORK = """
import asyncio, os, sys
import grpc, meshlib
mesh = meshlib.Mesh.from_directory(sys.argv[1], workload="webapp", namespace="outdoor")
channel, aio = mesh.grpc_channel("catalog:50051"), mesh.aio_grpc_channel("catalog:50051")
get = channel.unary_unary("/shop.Catalog/Get")
assert get(b"?", timeout=5) == b"server"
assert get.future(b"?", timeout=5).result(5) == b"server"
child = os.fork()
if not child:
    async def main():
        try:
            return await aio.unary_unary("/shop.Catalog/Get")(b"?", timeout=5)
        finally:
            await aio.close()
    try:
        assert get(b"?", timeout=5) == b"server"
        assert get.future(b"?", timeout=5).result(5) == b"server"
        assert asyncio.run(main()) == b"server"
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)
_, status = os.waitpid(child, 0)
assert get(b"?", timeout=5) == b"server"
channel.close()
mesh.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_channels_survive_a_fork(tmp_path):
    server = Peer("server")
    with serving(server):
        write(tmp_path, server.port)
        result = subprocess.run(
            [sys.executable, "-c", FORK, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
        )
    assert result.returncode == 0, result.stderr
