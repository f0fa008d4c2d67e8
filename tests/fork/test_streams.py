"""A fork and the stream to the control plane: the parent's goes on undisturbed, the child has nothing of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import trustme

from meshlib.xds.stream import SERVICE, SOTW

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

# Forks ten children, each by turns while the parent's stream is busy and while it rests; both ask and are answered.
PROGRAM = """
import json, os, queue, signal, sys, threading
from meshlib.xds.bootstrap_parts import Server
from meshlib.xds.credentials import Insecure, Pem, Tls
from meshlib.xds.stream import SOTW, AdsStream, StreamData, StreamOpened

address, root = sys.argv[1:]
server = Server(address, Tls(Pem(root)) if root else Insecure())


def sockets():
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    return {name for name in found if name.startswith("socket:")}


def connect():
    events = queue.SimpleQueue()
    stream = AdsStream(server, SOTW, events.put)
    stream.start()
    event = events.get(timeout=20)
    assert isinstance(event, StreamOpened), event
    return stream, events


def ask(stream, events, times=1):
    for number in range(times):
        stream.send(b"x" * (1 + number * 1000))
        event = events.get(timeout=20)
        assert isinstance(event, StreamData) and len(event.data) == 1 + number * 1000, event
        stream.resume()


before = sockets()
stream, events = connect()
ask(stream, events)
parents = sockets() - before
assert len(parents) == 3, parents  # the connection, and a pair to wake its thread
report = {"children": []}
for number in range(10):
    busy = threading.Thread(target=ask, args=(stream, events, 50))
    if number % 2:
        busy.start()
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(30)
            assert not sockets() & parents
            ask(*connect(), times=5)
            code = 0
        finally:
            os._exit(code)
    if number % 2:
        busy.join()
    report["children"].append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    ask(stream, events)
print(json.dumps(report))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at descriptors as Linux shows them")
@pytest.mark.parametrize("secure", [False, True], ids=["plaintext", "TLS"])
def test_the_parent_s_stream_goes_on_and_the_child_has_none_of_it(tmp_path, secure):
    peers = []

    def serve(incoming, context):
        peers.append(context.peer())
        yield from incoming

    server = grpc.server(ThreadPoolExecutor(4))
    handler = grpc.stream_stream_rpc_method_handler(serve)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {SOTW: handler}),))
    root = tmp_path / "root.pem"
    if secure:
        ca = trustme.CA()
        root.write_bytes(ca.cert_pem.bytes())
        issued = ca.issue_cert("127.0.0.1")
        pair = issued.private_key_pem.bytes(), b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        arguments = [f"127.0.0.1:{port}", str(root) if secure else ""]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=100, check=False
        )
    finally:
        server.stop(None).wait()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["children"] == [0] * 10, done.stderr
    assert len(peers) == 11  # the parent never had to connect again


LIGHT = """
import json, sys
import httpx, meshlib
mesh = meshlib.Mesh.connect(sys.argv[1], workload="webapp", namespace="outdoor")
with mesh, httpx.Client(transport=mesh.transport()) as client:
    assert client.get("http://catalog/").text == "old"
    print(json.dumps([name for name in ("grpc", "h2") if name in sys.modules]))
"""


def test_a_mesh_for_HTTP_alone_never_loads_grpc(home):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, home.server.address], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["h2"]
