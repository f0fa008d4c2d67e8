"""What each kind of node is served, beyond what the captures of istiod show."""

import pytest
from google.protobuf import json_format

from meshlib.controlplane.documents import read
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.resources import TYPE_URLS
from meshlib.controlplane.translate import translate

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {selector: {app: catalog}, ports: [{name: http, port: 80, targetPort: 3000}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: catalog-v1, namespace: shop}
spec: {address: 127.0.0.1, labels: {app: catalog, version: v1}}
---
apiVersion: v1
kind: Service
metadata: {name: ingress, namespace: edge}
spec: {selector: {istio: ingressgateway}, ports: [{name: http2, port: 80, targetPort: 30000}]}
"""
HEAD = "apiVersion: networking.istio.io/v1\nkind: {}\nmetadata: {{name: {}, namespace: {}}}\nspec: {}\n"
HOST = "catalog.shop.svc.cluster.local"
SIDECAR = Node(kind=NodeKind.SIDECAR, namespace="shop", labels={"app": "webapp"})
GRPC = Node(kind=NodeKind.GRPC, namespace="shop")
ROUTER = Node(kind=NodeKind.ROUTER, namespace="edge", labels={"istio": "ingressgateway", "app": "ingress"})
OTHER_ROUTER = Node(kind=NodeKind.ROUTER, namespace="edge", labels={"istio": "egressgateway"})


def resource(kind, spec, name="x", namespace="shop"):
    return HEAD.format(kind, name, namespace, spec)


def translated(node, *texts, options=None):
    files = {f"{index}.yaml": text.encode() for index, text in enumerate((SERVICES, *texts))}
    documents, faults = read(files)
    assert [str(fault) for fault in faults if fault.severity.value == "error"] == []
    return translate(documents, node, options or MeshOptions(system_ca="/system.pem"))[0]


def plain(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def routes(resources, table="80", host=f"{HOST}:80"):
    found = {item.name: item for item in resources.routes[table].virtual_hosts}
    return [plain(route) for route in found[host].routes] if host in found else None


def http(text):
    return resource("VirtualService", f"{{hosts: [catalog], http: [{text}]}}")


TO = "route: [{destination: {host: catalog}}]"


def test_every_node_gets_every_type():
    for node in (SIDECAR, GRPC, ROUTER):
        assert list(translated(node).by_type) == list(TYPE_URLS)


def test_the_same_input_gives_the_same_bytes():
    texts = (http(f"{{match: [{{headers: {{b: {{exact: x}}, a: {{}}}}}}], {TO}}}"),)
    for node in (SIDECAR, GRPC, ROUTER):
        one, two = translated(node, *texts), translated(node, *texts)
        for url in TYPE_URLS:
            assert list(one.by_type[url]) == list(two.by_type[url])
            for name, message in one.by_type[url].items():
                assert message.SerializeToString(deterministic=True) == two.by_type[url][name].SerializeToString(
                    deterministic=True
                )


# ---------------------------------------------------------------- routes

RETRIES = [
    ("{attempts: 3}", {"num_retries": 3, "retry_on": "connect-failure,refused-stream,unavailable,cancelled,"
                       "retriable-status-codes"}),
    ("{attempts: 1, retryOn: 'gateway-error,503'}",
     {"num_retries": 1, "retry_on": "gateway-error,retriable-status-codes", "retriable_status_codes": [503]}),
    ("{attempts: 1, retryOn: 5xx, perTryTimeout: 500ms}", {"retry_on": "5xx", "per_try_timeout": "0.500s"}),
    ("{attempts: 1, retryIgnorePreviousHosts: false}", {"retry_host_predicate": None}),
    ("{attempts: 1, backoff: 100ms}", {"retry_back_off": {"base_interval": "0.100s"}}),
    ("{attempts: 0}", None),
]  # fmt: skip


@pytest.mark.parametrize(("written", "expected"), RETRIES)
def test_retries(written, expected):
    (route,) = routes(translated(SIDECAR, http(f"{{retries: {written}, {TO}}}")))
    policy = route["route"].get("retry_policy")
    if expected is None:
        assert policy is None
    else:
        assert {key: policy.get(key) for key in expected} == expected


ACTIONS = [
    (
        "redirect: {uri: /new, authority: a.com, scheme: https, port: 8443, redirectCode: 308}",
        "redirect",
        {"path_redirect": "/new", "host_redirect": "a.com", "scheme_redirect": "https", "port_redirect": 8443,
         "response_code": "PERMANENT_REDIRECT"},
    ),
    ("redirect: {uri: /new, derivePort: FROM_REQUEST_PORT}", "redirect",
     {"path_redirect": "/new", "port_redirect": None}),
    ("redirect: {uri: /new, scheme: https, derivePort: FROM_REQUEST_PORT}", "redirect",
     {"path_redirect": "/new", "port_redirect": 80}),
    ("directResponse: {status: 503, body: {string: later}}", "direct_response",
     {"status": 503, "body": {"inline_string": "later"}}),
    (f"rewrite: {{uri: /v2, authority: b.com}}, {TO}", "route",
     {"prefix_rewrite": "/v2", "host_rewrite_literal": "b.com", "cluster": f"outbound|80||{HOST}"}),
    ("route: [{destination: {host: catalog, subset: v1}, weight: 3}, {destination: {host: catalog, subset: v2}}, "
     "{destination: {host: other.com, port: {number: 81}}, weight: 1}]", "route",
     {"weighted_clusters": {"clusters": [{"name": f"outbound|80|v1|{HOST}", "weight": 3},
                                         {"name": "outbound|81||other.com", "weight": 1}]}}),
    (f"rewrite: {{uriRegexRewrite: {{match: ^/a/(.*), rewrite: '/\\\\1'}}}}, {TO}", "route",
     {"regex_rewrite": {"pattern": {"regex": "^/a/(.*)"}, "substitution": "/\\\\1"}, "prefix_rewrite": None}),
    ("route: [{destination: {host: nowhere}}]", "route", {"cluster": "outbound|80||nowhere.shop.svc.cluster.local"}),
]  # fmt: skip


def set_to(name, value):
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def added(name, value):
    return {"header": {"key": name, "value": value}}


def test_headers_of_a_route_and_of_its_only_destination():
    written = (
        "headers: {request: {add: {b: '1'}, set: {z: '%REQ(q)%', a: x}, remove: [gone]}, response: {set: {r: s}}}, "
        "route: [{destination: {host: catalog}, headers: {request: {set: {c: d}}, response: {remove: [server]}}}]"
    )
    (route,) = routes(translated(SIDECAR, http(f"{{{written}}}")))
    assert route["request_headers_to_add"] == [
        set_to("a", "x"), set_to("z", "%REQ(q)%"), added("b", "1"), set_to("c", "d"),
    ]  # fmt: skip
    assert route["request_headers_to_remove"] == ["gone"]
    assert route["response_headers_to_add"] == [set_to("r", "s")]
    assert route["response_headers_to_remove"] == ["server"]


@pytest.mark.parametrize(
    ("above", "route_host", "cluster_host"),
    [
        ("", None, "w.com"),
        ("headers: {request: {set: {host: h.com}}}, ", "h.com", None),
        ("headers: {request: {add: {':authority': h.com}}}, rewrite: {authority: r.com}, ", "r.com", None),
    ],
)
def test_a_host_among_the_headers_rewrites_the_authority(above, route_host, cluster_host):
    weighted = "{destination: {host: catalog}, weight: 1, headers: {request: {set: {Host: w.com, a: b}}}}"
    (route,) = routes(translated(SIDECAR, http(f"{{{above}route: [{weighted}, {weighted}]}}")))
    cluster = route["route"]["weighted_clusters"]["clusters"][0]
    assert route["route"].get("host_rewrite_literal") == route_host
    assert cluster.get("host_rewrite_literal") == cluster_host
    assert cluster["request_headers_to_add"] == [set_to("a", "b")]
    assert "request_headers_to_add" not in route


@pytest.mark.parametrize(("written", "action", "expected"), ACTIONS)
def test_actions(written, action, expected):
    (route,) = routes(translated(SIDECAR, http(f"{{{written}}}")))
    assert {key: route[action].get(key) for key in expected} == expected


def test_a_route_says_where_it_was_written():
    text = f"{HEAD.format('VirtualService', 'x', 'shop', '')}  hosts: [catalog]\n  http:\n  - {TO}\n"
    (route,) = routes(translated(SIDECAR, text))
    assert route["metadata"]["filter_metadata"]["meshlib"] == {"source": "1.yaml:7"}
    (route,) = routes(translated(SIDECAR))
    assert "metadata" not in route


@pytest.mark.parametrize(
    ("match", "taken"),
    [
        ("{sourceLabels: {app: webapp}}", True),
        ("{sourceLabels: {app: other}}", False),
        ("{sourceNamespace: shop}", True),
        ("{sourceNamespace: edge}", False),
        ("{port: 80}", True),
        ("{port: 81}", False),
        ("{gateways: [mesh]}", True),
        ("{gateways: [front]}", False),
    ],
)
def test_matches_that_depend_on_the_caller(match, taken):
    made = routes(translated(SIDECAR, http(f"{{name: special, match: [{match}], {TO}}}, {{name: rest, {TO}}}")))
    assert [route["name"] for route in made] == (["special"] if taken else ["rest"])


def test_what_comes_behind_a_catch_all_is_left_out():
    text = f"{{name: a, {TO}}}, {{name: b, match: [{{uri: {{prefix: /x}}}}], {TO}}}"
    assert [route["name"] for route in routes(translated(SIDECAR, http(text)))] == ["a"]


def test_a_delegate_that_is_not_there_is_left_out():
    text = f"{{name: a, delegate: {{name: b}}}}, {{name: b, {TO}}}"
    assert [route["name"] for route in routes(translated(SIDECAR, http(text)))] == ["b"]


def test_virtual_services_of_a_host_that_is_no_service():
    text = resource("VirtualService", f"{{hosts: [shop.example], http: [{{{TO}}}]}}")
    made = routes(translated(SIDECAR, text), host="shop.example:80")
    assert [route["route"]["cluster"] for route in made] == [f"outbound|80||{HOST}"]


def test_domains_are_distinct_over_virtual_hosts():
    entry = resource("ServiceEntry", "{hosts: [catalog.shop], ports: [{number: 80, name: http, protocol: HTTP}]}")
    table = translated(SIDECAR, entry).routes["80"]
    domains = [domain for host in table.virtual_hosts for domain in host.domains]
    assert len(domains) == len(set(domains))


# ---------------------------------------------------------------- clusters


def cluster(node, rule, name=f"outbound|80||{HOST}", *texts):
    return plain(translated(node, resource("DestinationRule", f"{{host: catalog, {rule}}}"), *texts).clusters[name])


def test_a_cluster_says_where_its_policy_was_written():
    rule = "trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: v1}}]"
    assert cluster(SIDECAR, rule)["metadata"]["filter_metadata"]["meshlib"] == {"source": "1.yaml:4"}
    whole = cluster(SIDECAR, rule, f"outbound|80|v1|{HOST}")
    assert whole["metadata"]["filter_metadata"]["meshlib"] == {"source": "1.yaml:4"}
    assert whole["metadata"]["filter_metadata"]["istio"]["subset"] == "v1"
    assert "meshlib" not in plain(translated(SIDECAR).clusters[f"outbound|80||{HOST}"])["metadata"]["filter_metadata"]


@pytest.mark.parametrize(
    ("budget", "percent", "least"),
    [("{percent: 50, minRetryConcurrency: 7}", 50.0, 7), ("{percent: 12.5}", 12.5, 3), ("{}", 0.2, 3)],
)
def test_a_retry_budget_as_istiod_sends_it(budget, percent, least):
    (thresholds,) = cluster(SIDECAR, f"trafficPolicy: {{retryBudget: {budget}}}")["circuit_breakers"]["thresholds"]
    assert thresholds["retry_budget"] == {"budget_percent": {"value": percent}, "min_retry_concurrency": least}
    assert thresholds["max_retries"] == 4294967295


@pytest.mark.parametrize(
    ("retries", "moves"),
    [
        ("", False),
        (", retries: {attempts: 2}", False),
        (", retries: {attempts: 2, retryIgnorePreviousHosts: true}", True),
    ],
)
def test_routes_hash_for_each_destination_and_retries_stay(retries, moves):
    rule = """{host: catalog, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}},
      subsets: [{name: v1, trafficPolicy: {loadBalancer: {consistentHash: {httpQueryParameterName: id}}}},
                {name: v2, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]}"""
    split = "".join(
        f"{{destination: {{host: catalog, subset: {subset}}}, weight: {weight}}}, "
        for subset, weight in (("v1", 50), ("v2", 50), ("v1", 0))
    )
    routed = f"{{route: [{split}{{destination: {{host: catalog}}, weight: 10}}]{retries}}}"
    (route,) = routes(translated(SIDECAR, resource("DestinationRule", rule), http(routed)))
    assert route["route"]["hash_policy"] == [{"query_parameter": {"name": "id"}}, {"header": {"header_name": "x-user"}}]
    assert ("retry_host_predicate" in route["route"]["retry_policy"]) is moves


def test_a_subset_refines_and_a_port_replaces():
    rule = (
        "trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 7}}, "
        "portLevelSettings: [{port: {number: 81}, outlierDetection: {}}]}, "
        "subsets: [{name: v1, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]"
    )
    limits = ("lb_policy", "circuit_breakers")
    whole = cluster(SIDECAR, rule)
    subset = cluster(SIDECAR, rule, f"outbound|80|v1|{HOST}")
    assert whole["lb_policy"] == "RANDOM"
    assert "lb_policy" not in subset  # ROUND_ROBIN is Envoy's unset
    assert whole["circuit_breakers"] == subset["circuit_breakers"]
    assert whole["circuit_breakers"]["thresholds"][0]["max_connections"] == 7
    other_port = "{host: catalog, " + rule.replace("number: 81", "number: 80") + "}"
    replaced = plain(translated(SIDECAR, resource("DestinationRule", other_port)).clusters[f"outbound|80||{HOST}"])
    default = plain(translated(SIDECAR).clusters[f"outbound|80||{HOST}"])
    assert {key: replaced[key] for key in limits} == {key: default[key] for key in limits}
    assert "outlier_detection" in replaced


SECURE = [
    ("{mode: SIMPLE}", {"validation_context": {"trusted_ca": {"filename": "/system.pem"}}}),
    ("{mode: SIMPLE, caCertificates: /ca.pem}", {"validation_context": {"trusted_ca": {"filename": "/ca.pem"}}}),
    ("{mode: SIMPLE, insecureSkipVerify: true}", {"validation_context": {}}),
    (
        "{mode: SIMPLE, caCertificates: /ca.pem, subjectAltNames: [a.com, 'spiffe://x/y']}",
        {"validation_context": {"trusted_ca": {"filename": "/ca.pem"}, "match_typed_subject_alt_names": [
            {"san_type": "DNS", "matcher": {"exact": "a.com"}},
            {"san_type": "URI", "matcher": {"exact": "spiffe://x/y"}},
        ]}},
    ),
    (
        "{mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem}",
        {"tls_certificates": [{"certificate_chain": {"filename": "/c.pem"}, "private_key": {"filename": "/k.pem"}}]},
    ),
]  # fmt: skip


@pytest.mark.parametrize("node", [SIDECAR, GRPC, ROUTER], ids=lambda node: node.kind.value)
@pytest.mark.parametrize(("tls", "expected"), SECURE)
def test_tls_is_never_dropped(node, tls, expected):
    socket = cluster(node, f"trafficPolicy: {{tls: {tls}}}")["transport_socket"]
    assert socket["name"] == "envoy.transport_sockets.tls"
    context = socket["typed_config"]["common_tls_context"]
    assert {key: context[key] for key in expected} == expected


@pytest.mark.parametrize("node", [SIDECAR, GRPC, ROUTER], ids=lambda node: node.kind.value)
def test_istio_mutual_asks_for_istios_certificates(node):
    context = cluster(node, "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")["transport_socket"]["typed_config"]
    assert context["sni"] == f"outbound_.80_._.{HOST}"
    assert context["common_tls_context"]["tls_certificate_sds_secret_configs"][0]["name"] == "default"


def test_tls_disabled_is_plaintext():
    assert "transport_socket" not in cluster(SIDECAR, "trafficPolicy: {tls: {mode: DISABLE}}")


def test_tls_without_sni_takes_the_host_of_the_request():
    made = cluster(SIDECAR, "trafficPolicy: {tls: {mode: SIMPLE}}")
    options = made["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
    assert options["upstream_http_protocol_options"] == {"auto_sni": True, "auto_san_validation": True}
    with_sni = cluster(SIDECAR, "trafficPolicy: {tls: {mode: SIMPLE, sni: a.com}}")
    assert with_sni["transport_socket"]["typed_config"]["sni"] == "a.com"
    assert "typed_extension_protocol_options" not in with_sni


# ---------------------------------------------------------------- gateways

GATEWAY = "{{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: {}, protocol: HTTP}}, hosts: [{}]{}}}]}}"


def gateway(number=80, hosts='"*"', extra="", name="front", namespace="shop"):
    return resource("Gateway", GATEWAY.format(number, hosts, extra), name, namespace)


def bound(hosts="'*'", name="x", namespace="shop", gateways="front", more=""):
    spec = f"{{hosts: [{hosts}], gateways: [{gateways}], http: [{{{more}{TO}}}]}}"
    return resource("VirtualService", spec, name, namespace)


@pytest.mark.parametrize(
    ("text", "listener", "table"),
    [
        (gateway(), "0.0.0.0_30000", "http.30000"),  # through the Service's targetPort
        (gateway(8080), "0.0.0.0_8080", "http.8080"),  # no Service knows the port
        (gateway(extra=", bind: 127.0.0.1"), "127.0.0.1_30000", "http.30000.127.0.0.1"),
    ],
)
def test_a_gateways_listener(text, listener, table):
    resources = translated(ROUTER, text, bound())
    assert list(resources.listeners) == [listener]
    assert list(resources.routes) == [table]
    address = resources.listeners[listener].address.socket_address
    assert f"{address.address}_{address.port_value}" == listener
    assert list(translated(OTHER_ROUTER, text, bound()).listeners) == []


def test_a_workload_entry_may_move_the_gateways_port():
    spec = "{address: 127.0.0.1, ports: {http2: 30009}, labels: {istio: ingressgateway}}"
    entry = resource("WorkloadEntry", spec, "gateway", "edge")
    assert list(translated(ROUTER, gateway(), entry).listeners) == ["0.0.0.0_30009"]


def domains_of(*texts):
    table = next(iter(translated(ROUTER, *texts).routes.values()))
    return {host.name: (list(host.domains), [route.name for route in host.routes]) for host in table.virtual_hosts}


def test_a_gateway_without_routes_answers_404():
    assert domains_of(gateway()) == {"blackhole:80": (["*"], [])}


@pytest.mark.parametrize(
    ("server", "host", "namespace", "expected"),
    [
        ('"*"', "a.com", "shop", ["a.com"]),
        ('"*.com"', "a.com", "shop", ["a.com"]),
        ('"a.com"', "'*'", "shop", ["a.com"]),
        ('"a.com"', "b.com", "shop", []),
        ('"shop/*"', "a.com", "shop", ["a.com"]),
        ('"./*"', "a.com", "shop", ["a.com"]),
        ('"other/*"', "a.com", "shop", []),
        ('"*/*"', "a.com", "other", ["a.com"]),
        ('"./*"', "a.com", "other", []),
    ],
)
def test_hosts_of_server_and_virtual_service_must_meet(server, host, namespace, expected):
    found = domains_of(gateway(hosts=server), bound(host, namespace=namespace, gateways="shop/front"))
    assert [domain for domains, _ in found.values() for domain in domains] == (expected or ["*"])
    assert (list(found) == ["blackhole:80"]) is (not expected)


def test_virtual_services_of_one_host_merge_with_catch_alls_last():
    one = bound("a.com", "a", more="name: all, ")
    two = bound("a.com", "b", more="name: some, match: [{uri: {prefix: /x}}], ")
    assert domains_of(gateway(), one, two) == {"a.com:80": (["a.com"], ["some", "all"])}


def test_a_virtual_service_for_the_mesh_alone_is_not_at_the_gateway():
    assert list(domains_of(gateway(), http(f"{{{TO}}}"))) == ["blackhole:80"]


def test_https_redirect():
    resources = translated(ROUTER, gateway(extra=", tls: {httpsRedirect: true}"), bound())
    (host,) = resources.routes["http.30000"].virtual_hosts
    assert host.require_tls == host.ALL


# ---------------------------------------------------------------- proxyless and tracing


def test_a_grpc_client_may_ask_by_every_form_of_the_name():
    names = [name for name in translated(GRPC).listeners if name.startswith("catalog")]
    assert names == [f"{HOST}:80", "catalog:80", "catalog.shop.svc:80", "catalog.shop:80"]
    elsewhere = translated(Node(kind=NodeKind.GRPC, namespace="edge")).listeners
    assert [name for name in elsewhere if name.startswith("catalog")] == [
        f"{HOST}:80",
        "catalog.shop:80",
        "catalog.shop.svc:80",
    ]


@pytest.mark.parametrize("node", [SIDECAR, ROUTER], ids=lambda node: node.kind.value)
def test_tracing_is_there_when_asked_for(node):
    resources = translated(node, gateway(), bound(), options=MeshOptions(otlp="127.0.0.1:4318"))
    listener = next(item for name, item in resources.listeners.items() if name.startswith("0.0.0.0"))
    (network_filter,) = plain(listener)["filter_chains"][0]["filters"]
    tracing = network_filter["typed_config"]["tracing"]
    assert tracing["random_sampling"] == {"value": 100.0}
    config = tracing["provider"]["typed_config"]
    assert config["http_service"]["http_uri"]["uri"] == "http://127.0.0.1:4318/v1/traces"
    assert config["service_name"] == f"{node.labels['app']}.{node.namespace}"
    assert plain(resources.clusters["otlp"])["load_assignment"]["cluster_name"] == "otlp"
    assert "tracing" not in str(plain(next(iter(translated(node, gateway(), bound()).listeners.values()))))


@pytest.mark.parametrize(
    ("written", "fraction"),
    [
        ("mirror: {host: catalog}", {"numerator": 100}),
        ("mirror: {host: catalog}, mirrorPercent: 30", {"numerator": 30}),
        ("mirror: {host: catalog}, mirrorPercentage: {value: 0.5}", {"numerator": 5000, "denominator": "MILLION"}),
        ("mirrors: [{destination: {host: catalog}, percentage: {value: 7}}]",
         {"numerator": 70_000, "denominator": "MILLION"}),
    ],
)  # fmt: skip
def test_copies_of_requests_go_to_a_mirror(written, fraction):
    (route,) = routes(translated(SIDECAR, http(f"{{{TO}, {written}}}")))
    (policy,) = route["route"]["request_mirror_policies"]
    assert policy["cluster"] == f"outbound|80||{HOST}"
    assert policy["runtime_fraction"] == {"default_value": fraction}
    assert policy["disable_shadow_host_suffix_append"] is True


def test_a_mirror_of_nothing_is_none():
    (route,) = routes(translated(SIDECAR, http(f"{{{TO}, mirror: {{host: catalog}}, mirrorPercentage: {{value: 0}}}}")))
    assert "request_mirror_policies" not in route["route"]
