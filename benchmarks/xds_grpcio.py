"""grpcio's own xDS client (``xds:///``) as a client of the bench's ADS server.

Ready is when a call on a path of the last service has been routed. Nobody listens where the
endpoints are, so that a call ends in "connection refused" of one of them: what counts is that it
was routed. Afterwards a call to each service proves the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import grpc

from ads_server import CLIENT_CPU, Control, acked, pin, series
from xds_process import peak_mib, rss_mib

START = time.process_time()  # of the interpreter and all imports
SETTLE = 1.0  # as xds_meshlib's
_ROUTED = ("refused", "connect")


def bootstrap(port: int) -> str:
    """Return the gRPC bootstrap for the server."""
    server = {
        "server_uri": f"127.0.0.1:{port}",
        "channel_creds": [{"type": "insecure"}],
        "server_features": ["xds_v3"],
    }
    return json.dumps({"xds_servers": [server], "node": {"id": "bench"}})


def call(channel: grpc.Channel, i: int, timeout: float) -> grpc.Future:
    """Start a call that the route of service ``i`` takes."""
    return channel.unary_unary(f"/c{i}/call").future(b"", timeout=timeout)


def outcome(started: Any) -> str:
    """Return why a call failed; empty when it was routed and only met nobody."""
    error = started.exception()
    if error is None:
        return ""
    details = str(error.details())
    routed = error.code() is grpc.StatusCode.UNAVAILABLE and any(word in details.lower() for word in _ROUTED)
    return "" if routed else f"{error.code()}: {details}"


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Time to ready, memory and CPU, then single changes, as far as the ACK."""
    os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = bootstrap(given.port)
    control = Control(given.control)
    rss_before = rss_mib()
    cpu, began = time.process_time(), time.perf_counter()
    channel = grpc.insecure_channel("xds:///bench", options=(("grpc.max_receive_message_length", -1),))
    wrong = outcome(call(channel, given.clusters - 1, given.bound))
    ready_s = time.perf_counter() - began
    if wrong:
        return {"not_ready_s": ready_s, "why": wrong, "rss_mib": rss_mib() - rss_before, "peak_mib": peak_mib()}
    result: dict[str, Any] = {"start_cpu_s": START, "ready_s": ready_s, "cpu_s": time.process_time() - cpu}
    time.sleep(SETTLE)
    result |= {"rss_mib": rss_mib() - rss_before, "peak_mib": peak_mib()}
    for began_at in range(0, given.clusters, 100):
        calls = [call(channel, i, 60) for i in range(began_at, min(given.clusters, began_at + 100))]
        for started in calls:
            if wrong := outcome(started):
                raise SystemExit(f"grpcio was ready and does not route everything: {wrong}")
    result |= series(control, given, os.getpid(), acked, whole=True)
    stats = control.stats()
    if stats["nacks"]:
        raise SystemExit(f"grpcio refused: {stats['nacks']}")
    return {**result, "server": stats}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("measure",))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--clusters", type=int, required=True)
    parser.add_argument("--bound", type=float, default=60.0)
    parser.add_argument("--changes", type=int, default=0)
    parser.add_argument("--full-changes", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    pin(CLIENT_CPU)
    print(json.dumps(measure(given)), flush=True)
    os._exit(0)  # grpcio takes long to let go of thousands of subchannels


if __name__ == "__main__":
    main()
