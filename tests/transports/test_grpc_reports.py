"""Load reports in the trailing metadata of gRPC, and in the head of an HTTP response."""

import base64
import time

import grpc
import httpx
import pytest
from xds.data.orca.v3 import orca_load_report_pb2

from meshlib.model.balancing import Balancing, LbPolicy, LoadReports
from meshlib.transports.httpx_sync import MeshTransport
from transports.grpc_peers import Peer, connecting, serving
from transports.scripted import Behaviour, Upstreams
from transports.snapshots import eventually, one_cluster

connect = connecting()

MESSAGE = orca_load_report_pb2.OrcaLoadReport(rps_fractional=100, cpu_utilization=0.5)
REPORT = base64.b64encode(MESSAGE.SerializeToString()).decode()
REPORTS = LoadReports(blackout_period=0.0)
WEIGHED = Balancing(LbPolicy.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN, reports=REPORTS)


def weight(runtime, port):
    reported = runtime.store.current.clusters["c"].endpoints["127.0.0.1", port].reported
    return None if reported is None else reported.weight(REPORTS, time.monotonic())


def answering(_request, context):
    context.set_trailing_metadata((("endpoint-load-metrics", f"BIN {REPORT}"),))
    return b"ok"


def streaming(_request, context):
    yield b"1"
    context.set_trailing_metadata((("endpoint-load-metrics", f"BIN {REPORT}"),))
    yield b"2"


def failing(_request, context):
    context.set_trailing_metadata((("endpoint-load-metrics", f"BIN {REPORT}"),))
    context.abort(grpc.StatusCode.INTERNAL, "no")


@pytest.mark.parametrize(
    ("behaviour", "method", "kind"),
    [
        (answering, "/shop.Catalog/Get", "unary_unary"),
        (streaming, "/shop.Catalog/List", "unary_stream"),
        (answering, "/shop.Catalog/Put", "stream_unary"),
        (streaming, "/shop.Catalog/Chat", "stream_stream"),
        (failing, "/shop.Catalog/Get", "unary_unary"),
    ],
)
def test_the_end_of_an_rpc_reports(connect, behaviour, method, kind):
    peer = Peer("one", behaviour=behaviour)
    with serving(peer):
        for balancing, want in ((WEIGHED, 200), (Balancing(), None)):
            runtime = one_cluster(peer.port, balancing=balancing)
            request = [b"a"] if kind.startswith("stream") else b"a"
            connect(runtime).call(request, method=method, kind=kind)
            assert eventually(lambda runtime=runtime, want=want: weight(runtime, peer.port) == want)


def test_a_response_head_reports():
    with Upstreams() as upstreams:
        head = [("endpoint-load-metrics", "TEXT rps_fractional:100,cpu_utilization:0.5")]
        server = upstreams.serve(Behaviour(headers=head))
        runtime = one_cluster(server.port, balancing=WEIGHED)
        with httpx.Client(transport=MeshTransport(runtime)) as client:
            assert client.get("http://catalog/").status_code == 200
        assert weight(runtime, server.port) == 200
