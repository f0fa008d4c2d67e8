"""What istiod sent, decoded: nothing is refused, and routes and endpoints mean what the YAML says."""

import re
from pathlib import Path

import pytest

from meshlib.model.balancing import LbPolicy
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import Workload
from meshlib.model.request import RequestView
from meshlib.model.route import DirectResponse
from meshlib.model.snapshot import Style
from meshlib.model.traffic import FaultAbort, FaultDelay
from meshlib.xds.assembly import Assembly
from meshlib.xds.faults import Status
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER, FULL_STATE, LISTENER, ROUTE, SINGLETON, short

DATA = Path(__file__).parents[1] / "data" / "xds"
CATALOG = "catalog.istioinaction.svc.cluster.local"
GATEWAY = "istio-ingressgateway.istio-system.svc.cluster.local"
DEFAULT_RETRY_ON = {"connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"}
VIRTUAL_SERVICE = "/apis/networking.istio.io/v1/namespaces/istioinaction/virtual-service/catalog"


def cluster(port=80, subset="", host=CATALOG):
    return f"outbound|{port}|{subset}|{host}"


@pytest.fixture
def replay(responses):
    """Return the assembly after all responses of a capture, and how each type ended."""

    def assemble(path):
        state = {}
        for response in responses(path):
            kind = RESOURCE_TYPES.get(response.type_url)
            if kind is None:
                continue  # NDS and the like
            messages = [kind.message.FromString(packed.value) for packed in response.resources]
            assert all(packed.type_url == kind.url for packed in response.resources)
            got = {getattr(message, kind.name_field or "x", SINGLETON): message for message in messages}
            before = {} if kind.url in FULL_STATE else state.get(kind.url, {})
            state[kind.url] = {**before, **got}
        style = Style.GRPC if path.name.startswith("grpc") or "-grpc-" in path.name else Style.SIDECAR
        assembly = Assembly(style)
        assert assembly.apply("1", state) == ()
        return assembly, state

    return assemble


@pytest.fixture
def istiod_snapshot(replay, istiod):
    return lambda capture: replay(istiod / f"{capture}.pb")[0].snapshot()


def chosen(snapshot, url_host, path="/", *headers, port=80):
    """Return destination, virtual host and route of a request."""
    authority = url_host if port == 80 else f"{url_host}:{port}"
    view = RequestView(
        method="GET", scheme="http", host=url_host, port=port, authority=authority, target=path, headers=headers
    )
    destination = snapshot.destination(url_host, port)
    host = destination.routes.virtual_host(view)
    route = next((route for route in host.routes if route.matches(view)), None)
    return destination, host, route


def targets(route):
    return {target.name: target.weight for target in route.action.clusters}


def addresses(snapshot, name):
    return [str(e) for group in snapshot.clusters[name].assignment.localities for e in group.endpoints]


def test_a_sidecar_without_virtual_services(replay):
    assembly, state = replay(DATA / "default-sidecar-webapp.pb")
    snapshot = assembly.snapshot()
    assert {url: len(state[url]) for url in (LISTENER, CLUSTER, ROUTE)} == {LISTENER: 4, CLUSTER: 9, ROUTE: 1}
    destination, host, route = chosen(snapshot, "catalog", "/items")
    assert (destination.listener, destination.routes.name) == ("0.0.0.0_80", "80")
    assert host.name == f"{CATALOG}:80"
    assert host.attempt_count
    assert targets(route) == {cluster(): 1}
    assert route.action.timeout == 0.0
    retry = route.action.retry
    assert (retry.num_retries, retry.retry_on) == (2, DEFAULT_RETRY_ON)
    assert (retry.previous_hosts, retry.host_selection_max_attempts) == (True, 5)
    assert addresses(snapshot, cluster()) == ["127.0.0.11:3000", "127.0.0.12:3000"]


def test_a_cluster_of_a_sidecar(replay):
    snapshot = replay(DATA / "default-sidecar-webapp.pb")[0].snapshot()
    catalog = snapshot.clusters[cluster()]
    assert (catalog.discovery, catalog.lb_policy) == (Discovery.EDS, LbPolicy.LEAST_REQUEST)
    assert (catalog.connect_timeout, catalog.panic_threshold) == (10.0, 0.0)
    assert catalog.thresholds.max_retries == 4294967295
    assert (catalog.service.host, catalog.service.namespace) == (CATALOG, "istioinaction")
    secure, plain = catalog.transport_socket_matches
    assert (secure.criteria, secure.socket.secure) == ((("tlsMode", "istio"),), True)
    assert secure.socket.detail == (
        f"mutual TLS with certificate default, SNI outbound_.80_._.{CATALOG}, "
        "server identity spiffe://cluster.local/ns/istioinaction/sa/catalog"
    )
    assert (plain.criteria, plain.socket.secure) == ((), False)
    first = catalog.assignment.localities[0].endpoints[0]
    assert first.workload == Workload("catalog-v1", "istioinaction", "catalog", "v1", "Kubernetes")
    assert first.metadata["envoy.transport_socket_match"] == {"tlsMode": "istio"}
    assert snapshot.clusters["PassthroughCluster"].lb_policy is LbPolicy.CLUSTER_PROVIDED


@pytest.mark.parametrize(
    ("host", "port", "tls", "listener", "tcp_cluster"),
    [
        ("example.com", 9999, False, "virtualOutbound", "PassthroughCluster"),
        ("catalog", 443, True, "virtualOutbound", "PassthroughCluster"),
        ("catalog", 80, True, "0.0.0.0_80", "PassthroughCluster"),
        ("anything", 15001, False, "virtualOutbound", "BlackHoleCluster"),
        (
            "istio-ingressgateway.istio-system",
            443,
            True,
            "10.96.0.80_443",
            cluster(443, "", GATEWAY),
        ),
        (
            "10.96.0.80",
            443,
            True,
            "10.96.0.80_443",
            cluster(443, "", GATEWAY),
        ),
    ],
)
def test_what_is_not_http_goes_by_bytes(replay, host, port, tls, listener, tcp_cluster):
    found = replay(DATA / "default-sidecar-webapp.pb")[0].snapshot().destination(host, port, tls=tls)
    assert (found.listener, found.tcp.clusters[0].name, found.routes) == (listener, tcp_cluster, None)


def test_hosts_outside_pass_through(replay):
    _, host, route = chosen(replay(DATA / "default-sidecar-webapp.pb")[0].snapshot(), "example.com")
    assert (host.name, targets(route)) == ("allow_any", {"PassthroughCluster": 1})


def test_a_grpc_node(replay):
    snapshot = replay(DATA / "default-grpc-webapp.pb")[0].snapshot()
    destination, _, route = chosen(snapshot, CATALOG)
    assert destination.listener == f"{CATALOG}:80"
    assert destination.http.fault_filter
    assert targets(route) == {cluster(): 1}
    assert snapshot.clusters[cluster()].lb_policy is LbPolicy.ROUND_ROBIN
    assert addresses(snapshot, cluster()) == ["127.0.0.11:3000", "127.0.0.12:3000"]
    assert snapshot.destination("catalog", 80) is None, "only names that were asked for"


def test_a_retry_policy(replay):
    _, _, route = chosen(replay(DATA / "retry-sidecar-webapp.pb")[0].snapshot(), "catalog")
    retry = route.action.retry
    assert (retry.num_retries, retry.retry_on, retry.per_try_timeout) == (3, {"5xx"}, 2.0)
    assert route.source == VIRTUAL_SERVICE


def test_notes_name_what_a_sidecar_gets_and_meshlib_does_not_do(replay):
    assembly, _ = replay(DATA / "default-sidecar-webapp.pb")
    kinds = {(short(note.type_url), re.sub(r"\[.*?\]", "", note.field_path), note.status) for note in assembly.notes}
    common = "transport_socket_matches.transport_socket.typed_config.common_tls_context"
    source = "sds_config.api_config_source"
    assert kinds == {
        ("LDS", "traffic_direction", Status.NOT_HONOURED),
        ("CDS", "upstream_bind_config", Status.NOT_HONOURED),
        ("CDS", f"{common}.tls_certificate_sds_secret_configs.{source}", Status.REFUSED),
        ("CDS", f"{common}.combined_validation_context.validation_context_sds_secret_config.{source}", Status.REFUSED),
    }


@pytest.mark.parametrize(
    ("capture", "host", "path", "headers", "expected"),
    [
        ("subsets/sidecar-webapp", "catalog", "/", (), {cluster(80, "version-v1"): 80, cluster(80, "version-v2"): 20}),
        ("subsets/grpc-webapp", CATALOG, "/", (), {cluster(80, "version-v1"): 80, cluster(80, "version-v2"): 20}),
        ("all-v1/sidecar-webapp", "catalog", "/", (), {cluster(80, "version-v1"): 1}),
        ("dark-launch/sidecar-webapp", "catalog", "/", (), {cluster(80, "version-v1"): 1}),
        (
            "dark-launch/sidecar-webapp",
            "catalog",
            "/",
            (("x-istio-cohort", "internal"),),
            {cluster(80, "version-v2"): 1},
        ),
        ("subset-missing/sidecar-webapp", "catalog", "/", (), {cluster(80, "no-such-subset"): 1}),
        ("match/sidecar-webapp", "catalog", "/items", (), {cluster(80, "version-v1"): 1}),
        ("match/sidecar-webapp", "catalog", "/items/12", (), {cluster(80, "version-v2"): 1}),
        ("match/sidecar-webapp", "catalog", "/items/12x", (), {cluster(80, "version-v1"): 1}),
        ("match/sidecar-webapp", "catalog", "/cASE1", (), {cluster(80, "version-v2"): 1}),
        ("match/sidecar-webapp", "catalog", "/?q-exact=a&q-prefix=bb&q-regex=12", (), {cluster(80, "version-v2"): 1}),
        ("match/sidecar-webapp", "catalog", "/?q-exact=a&q-prefix=bb&q-regex=1x", (), {cluster(80, "version-v1"): 1}),
        ("match/sidecar-webapp", "catalog", "/from-webapp", (), {cluster(80, "version-v2"): 1}),
        ("match/sidecar-webapp", "catalog", "/from-other", (), {cluster(80, "version-v1"): 1}),
        (
            "match/sidecar-webapp",
            "catalog",
            "/",
            (("x-exact", "a"), ("x-prefix", "bb"), ("x-regex", "cc"), ("x-present", "")),
            {cluster(80, "version-v2"): 1},
        ),
        (
            "match/sidecar-webapp",
            "catalog",
            "/",
            (("x-exact", "a"), ("x-prefix", "bb"), ("x-regex", "cc"), ("x-present", ""), ("x-absent", "")),
            {cluster(80, "version-v1"): 1},
        ),
    ],
)
def test_routing(istiod_snapshot, capture, host, path, headers, expected):
    _, _, route = chosen(istiod_snapshot(capture), host, path, *headers)
    assert targets(route) == expected


def test_a_subset_that_exists_nowhere_is_a_cluster_that_does_not_exist(istiod_snapshot):
    assert cluster(80, "no-such-subset") not in istiod_snapshot("subset-missing/sidecar-webapp").clusters


@pytest.mark.parametrize(("capture", "host"), [("fault/sidecar-webapp", "catalog"), ("fault/grpc-webapp", CATALOG)])
@pytest.mark.parametrize(
    ("kind", "delay", "abort"),
    [
        ("abort", None, FaultAbort(50.0, status=503)),
        ("grpc", None, FaultAbort(100.0, grpc_status=14)),
        ("delay", FaultDelay(5.0, 30.0), None),
        ("-", FaultDelay(0.25, 12.5), FaultAbort(0.1, status=429)),
    ],
)
def test_faults(istiod_snapshot, capture, host, kind, delay, abort):
    destination, _, route = chosen(istiod_snapshot(capture), host, "/", ("x-fault", kind))
    assert destination.http.fault_filter
    assert (route.fault.delay, route.fault.abort) == (delay, abort)


@pytest.mark.parametrize(("path", "timeout"), [("/slow", 0.5), ("/long", 90.0), ("/", 0.0)])
def test_timeouts(istiod_snapshot, path, timeout):
    assert chosen(istiod_snapshot("timeout/sidecar-webapp"), "catalog", path)[2].action.timeout == timeout


def test_outlier_detection_and_connection_pool(istiod_snapshot):
    catalog = istiod_snapshot("outlier/sidecar-webapp").clusters[cluster()]
    outlier, thresholds = catalog.outlier, catalog.thresholds
    assert (outlier.consecutive_5xx, outlier.consecutive_gateway_failure, outlier.interval) == (1, 2, 5.0)
    assert (outlier.base_ejection_time, outlier.max_ejection_percent) == (5.0, 100)
    assert outlier.split_external_local_origin_errors
    assert outlier.consecutive_local_origin_failure == 4
    assert (thresholds.max_connections, thresholds.max_pending_requests, thresholds.max_requests) == (10, 1, 20)
    assert (thresholds.max_retries, catalog.connect_timeout, catalog.panic_threshold) == (3, 0.25, 30.0)


def test_registry_only_blocks(istiod_snapshot):
    snapshot = istiod_snapshot("registry-only/sidecar-webapp")
    assert chosen(snapshot, "example.com")[2].action == DirectResponse(502)
    assert snapshot.destination("example.com", 9999).tcp.clusters[0].name == "BlackHoleCluster"


def test_a_sniffed_port_is_found_by_its_service_address(istiod_snapshot):
    host = "auto.istioinaction.svc.cluster.local"
    destination, _, route = chosen(istiod_snapshot("sniffed/sidecar-webapp"), host, port=7070)
    assert (destination.listener, destination.routes.name) == ("10.96.0.51_7070", f"{host}:7070")
    assert targets(route) == {cluster(7070, "", host): 1}


def test_tls_is_asked_for_where_a_rule_says_so(istiod_snapshot):
    snapshot = istiod_snapshot("tls-origination/sidecar-webapp")
    sockets = {name: c.transport_socket for name, c in snapshot.clusters.items() if c.transport_socket is not None}
    assert sockets
    assert all(socket.secure and socket.detail.startswith(("TLS", "mutual TLS")) for socket in sockets.values())


def test_locality_priorities_come_with_outlier_detection(istiod_snapshot):
    groups = istiod_snapshot("locality-failover/sidecar-webapp").clusters[cluster()].assignment.localities
    assert {group.priority for group in groups} >= {0, 1}


def every_capture(root):
    return [
        path for path in sorted(root.rglob("*.pb")) if ".delta" not in path.name and "delta" not in path.parent.name
    ]


def test_no_resource_of_any_capture_is_refused(istiod, replay):
    captures = every_capture(istiod)
    book = istiod.parent / "istiod-book"
    captures += every_capture(book) if book.is_dir() else []
    assert len(captures) > 100
    for path in captures:
        replay(path)
