"""A gRPC service for gRPC's own tests, and the bootstrap of a client that asks for it by name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc


@contextlib.contextmanager
def greeter(name: str, workers: int = 4) -> Iterator[int]:
    """Serve a gRPC method that answers ``name``; yields the port."""
    server = grpc.server(futures.ThreadPoolExecutor(workers))
    greet = grpc.unary_unary_rpc_method_handler(lambda _request, _context: name.encode())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("greeter.Greeter", {"Greet": greet}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def grpc_bootstrap(path: Path, address: str, workload: str) -> Path:
    """Write the gRPC bootstrap of a workload in namespace ``outdoor``, and return its path."""
    server = {"server_uri": address, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
    node = {"id": f"sidecar~127.0.0.1~{workload}.outdoor~outdoor.svc.cluster.local", "metadata": {"GENERATOR": "grpc"}}
    path.write_text(json.dumps({"xds_servers": [server], "node": node}))
    return path
