"""Istio's metrics, seen as Prometheus sees them."""

from __future__ import annotations

import logging
import os
import socket
import threading

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from meshlib.model.cluster import Cluster
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import Endpoint
from meshlib.policy import flags
from meshlib.settings import Identity
from meshlib.telemetry.metrics import BUCKETS, LABELS, Histogram, IstioMetrics
from meshlib.telemetry.prometheus import IstioCollector, serve
from telemetry.records import CATALOG, V1, V2, WEBAPP, begin, play, request

# One call of webapp to catalog v1, as Prometheus stores it (prometheus_client sorts the names).
BEFORE_LE = (
    'connection_security_policy="unknown",destination_app="catalog",destination_canonical_revision="v1",'
    'destination_canonical_service="catalog",destination_cluster="Kubernetes",destination_principal="unknown",'
    'destination_service="catalog.istioinaction.svc.cluster.local",destination_service_name="catalog",'
    'destination_service_namespace="istioinaction",destination_version="v1",destination_workload="catalog-v1",'
    'destination_workload_namespace="istioinaction",grpc_response_status=""'
)
AFTER_LE = (
    'reporter="source",request_protocol="http",response_code="200",response_flags="-",source_app="webapp",'
    'source_canonical_revision="v1",source_canonical_service="webapp",source_cluster="Kubernetes",'
    'source_principal="unknown",source_version="v1",source_workload="webapp",source_workload_namespace="istioinaction"'
)
BOUNDS = (
    *("0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000"),
    *("60000", "300000", "600000", "1800000", "3600000", "+Inf"),
)  # Envoy's


@pytest.fixture
def metrics():
    return IstioMetrics(WEBAPP)


def registry_of(metrics: IstioMetrics) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(IstioCollector(metrics))
    return registry


def scrape(metrics: IstioMetrics, accept: str = "text/plain") -> str:
    with serve("127.0.0.1", 0, registry_of(metrics)) as server:
        return httpx.get(server.url, headers={"accept": accept}, trust_env=False).raise_for_status().text


def samples(metrics: IstioMetrics, name: str) -> list[tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(generate_latest(registry_of(metrics)).decode())
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return [(sample.labels, sample.value) for sample in found]


def requests(metrics: IstioMetrics) -> list[dict[str, str]]:
    return [labels for labels, _ in samples(metrics, "istio_requests_total")]


def test_exposition_text_is_exact(metrics):
    record = begin()
    record.bytes_sent, record.bytes_received = 60, 812
    play(metrics, record, (V1, 200), seconds=0.125)

    lines = scrape(metrics).splitlines()

    def of(name: str) -> list[str]:
        return [line for line in lines if line.startswith((f"{name}{{", f"{name} "))]

    assert of("istio_requests_total") == [f"istio_requests_total{{{BEFORE_LE},{AFTER_LE}}} 1.0"]
    for name, first, total in (
        ("istio_request_duration_milliseconds", "250", "125.0"),
        ("istio_request_bytes", "100", "60.0"),
        ("istio_response_bytes", "1000", "812.0"),
    ):
        reached = BOUNDS.index(first)
        assert of(f"{name}_bucket") == [
            f'{name}_bucket{{{BEFORE_LE},le="{bound}",{AFTER_LE}}} {1.0 if place >= reached else 0.0}'
            for place, bound in enumerate(BOUNDS)
        ]
        assert of(f"{name}_count") == [f"{name}_count{{{BEFORE_LE},{AFTER_LE}}} 1.0"]
        assert of(f"{name}_sum") == [f"{name}_sum{{{BEFORE_LE},{AFTER_LE}}} {total}"]
        assert f"# TYPE {name} histogram" in lines
    assert "# TYPE istio_requests_total counter" in lines


def test_prometheus_itself_asks_for_openmetrics(metrics):
    play(metrics, begin(), (V1, 200))
    text = scrape(metrics, accept="application/openmetrics-text;version=1.0.0")
    assert f"istio_requests_total{{{BEFORE_LE},{AFTER_LE}}} 1.0" in text
    assert text.endswith("# EOF\n")


def test_labels_of_the_source_follow_istios_fallbacks():
    bare = IstioMetrics(Identity(workload="job", namespace="batch"))
    play(bare, begin(), (V1, 200))
    [labels] = requests(bare)
    assert {name: labels[name] for name in LABELS if name.startswith("source_")} == {
        "source_workload": "job",
        "source_workload_namespace": "batch",
        "source_canonical_service": "job",
        "source_canonical_revision": "latest",
        "source_principal": "unknown",
        "source_app": "job",
        "source_version": "unknown",
        "source_cluster": "Kubernetes",
    }

    named = {"service.istio.io/canonical-name": "shop", "app.kubernetes.io/version": "7", "app": "front"}
    labelled = IstioMetrics(Identity(workload="job", labels=named))
    play(labelled, begin(), (V1, 200))
    [labels] = requests(labelled)
    assert (labels["source_canonical_service"], labels["source_canonical_revision"]) == ("shop", "7")
    assert labels["source_app"] == "front"


NOWHERE = {
    "destination_workload": "unknown",
    "destination_app": "unknown",
    "destination_version": "unknown",
    "destination_canonical_service": "unknown",
    "destination_canonical_revision": "latest",
    "destination_cluster": "unknown",
    "destination_service_namespace": "unknown",
}
PASSTHROUGH = Cluster(name="PassthroughCluster", discovery=Discovery.ORIGINAL_DST)
BLACKHOLE = Cluster(name="BlackHoleCluster", discovery=Discovery.STATIC)
PLAIN = Cluster(name="some-cluster", discovery=Discovery.STATIC)


@pytest.mark.parametrize(
    ("cluster", "route", "host", "service", "name"),
    [
        (PASSTHROUGH, "allow_any", "dl-cdn.example.org", "dl-cdn.example.org", "PassthroughCluster"),
        (PASSTHROUGH, "", "Dl-CDN.example.org:8080", "dl-cdn.example.org:8080", "PassthroughCluster"),
        (None, "block_all", "dl-cdn.example.org", "dl-cdn.example.org", "BlackHoleCluster"),
        (BLACKHOLE, "", "dl-cdn.example.org", "dl-cdn.example.org", "BlackHoleCluster"),
        (None, "", "catalogg", "catalogg", "catalogg"),
        (PLAIN, "default", "shop.example.org", "shop.example.org", "shop.example.org"),
    ],
)
def test_destinations_without_a_service(metrics, cluster, route, host, service, name):
    record = begin(request(host=host), cluster=cluster, route=route)
    attempts = [(Endpoint("93.184.216.34", 80), 200)] if cluster is PASSTHROUGH else []
    play(metrics, record, *attempts, status=200 if attempts else 502)
    [labels] = requests(metrics)
    wanted = NOWHERE | {"destination_service": service, "destination_service_name": name}
    assert {key: labels[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("protocol", "status", "grpc_status", "bits", "want"),
    [
        ("http", 503, 14, flags.NO_HEALTHY_UPSTREAM, ("http", "503", "", "UH")),
        ("http", None, None, flags.DOWNSTREAM_CONNECTION_TERMINATION, ("http", "0", "", "DC")),
        ("http", 503, None, flags.UPSTREAM_RETRY_LIMIT_EXCEEDED | flags.DELAY_INJECTED, ("http", "503", "", "DI,URX")),
        ("grpc", 200, 0, 0, ("grpc", "200", "0", "-")),
        ("grpc", 200, 14, 0, ("grpc", "200", "14", "-")),
    ],
)
def test_outcome_labels(metrics, protocol, status, grpc_status, bits, want):
    record = begin(protocol=protocol)
    record.grpc_status = grpc_status
    play(metrics, record, status=status, flags=bits)
    [labels] = requests(metrics)
    names = ("request_protocol", "response_code", "grpc_response_status", "response_flags")
    assert tuple(labels[name] for name in names) == want
    assert labels["destination_workload"] == "unknown"  # no attempt was made
    assert labels["destination_service"] == CATALOG.service.host


def test_a_retried_call_counts_once_under_its_last_endpoint(metrics):
    play(metrics, begin(), (V1, 503), (V1, "connection failed"), (V2, 200))
    play(metrics, begin(), (V2, 200))
    [(labels, count)] = samples(metrics, "istio_requests_total")
    assert (labels["destination_workload"], count) == ("catalog-v2", 2)
    assert samples(metrics, "envoy_cluster_upstream_rq_total") == [({"cluster_name": CATALOG.name}, 4)]
    assert samples(metrics, "envoy_cluster_upstream_rq_retry_total") == [({"cluster_name": CATALOG.name}, 2)]


def test_a_bound_belongs_to_its_bucket():
    histogram = Histogram()
    for bound in BUCKETS:
        histogram.add(bound)
    histogram.add(BUCKETS[-1] + 1)
    assert histogram.counts == [1] * (len(BUCKETS) + 1)


def test_label_sets_beyond_the_cap_fold_into_unknown(caplog):
    metrics = IstioMetrics(WEBAPP, max_label_sets=3)
    with caplog.at_level(logging.WARNING, "meshlib.telemetry"):
        for status in (200, 201, 202, 404, 404, 200):
            play(metrics, begin(), (V1, status))
    counts = {
        (labels["destination_service_name"], labels["response_code"]): count
        for labels, count in samples(metrics, "istio_requests_total")
    }
    assert counts == {("catalog", "200"): 2, ("catalog", "201"): 1, ("catalog", "202"): 1, ("unknown", "404"): 2}
    assert samples(metrics, "meshlib_metrics_folded_requests_total") == [({}, 2)]
    assert [record.getMessage() for record in caplog.records] == [
        "max_label_sets=3 reached; further calls count as unknown"
    ]


def test_random_hosts_cannot_fill_the_process():
    metrics = IstioMetrics(WEBAPP, max_outside_hosts=5)
    for number in range(1000):
        play(metrics, begin(request(host=f"host-{number}.example"), cluster=PASSTHROUGH, route="allow_any"), status=200)
    services = {labels["destination_service"]: count for labels, count in samples(metrics, "istio_requests_total")}
    assert services == {f"host-{number}.example": 1 for number in range(5)} | {"unknown": 995}


def test_no_count_is_lost_between_threads(metrics):
    each, threads = 2000, 8

    def work():
        for _ in range(each):
            play(metrics, begin(), (V1, 200))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert samples(metrics, "istio_requests_total")[0][1] == each * threads
    assert samples(metrics, "istio_request_duration_milliseconds_count")[0][1] == each * threads


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python 3.12 and later
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_forked_child_counts_its_own_and_needs_no_lock_of_its_parent(metrics):
    play(metrics, begin(), (V1, 200))
    [cell] = metrics._cells.values()
    with cell.lock, metrics._lock:  # as another thread of the parent might, at the fork
        child = os.fork()
        if child == 0:
            play(metrics, begin(), (V1, 200))
            os._exit(sum(cell.requests for _, cell in metrics.cells()))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert samples(metrics, "istio_requests_total")[0][1] == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python 3.12 and later
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_forked_child_does_not_keep_the_port(metrics):
    server = serve("127.0.0.1", 0, registry_of(metrics))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)  # until the parent has looked
        os._exit(0)
    os.close(read)
    server.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0
    os.close(write)
    os.waitpid(child, 0)


def test_two_meshes_in_one_registry_are_refused(metrics):
    registry = registry_of(metrics)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(IstioCollector(IstioMetrics(WEBAPP)))


def test_server_closes_and_names_a_taken_port(metrics):
    server = serve("127.0.0.1", 0, registry_of(metrics))
    assert server.port > 0
    assert server.url == f"http://127.0.0.1:{server.port}/metrics"
    with pytest.raises(OSError, match=f"metrics cannot be served on 127.0.0.1:{server.port}: Address already in use"):
        serve("127.0.0.1", server.port, registry_of(metrics))
    server.close()
    server.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0
