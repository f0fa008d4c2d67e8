"""What is read, what is refused, and what the author is told."""

import pytest

from meshlib.controlplane.documents import read

VIRTUAL_SERVICE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog, namespace: shop}
spec:
"""
DESTINATION_RULE = VIRTUAL_SERVICE.replace("VirtualService", "DestinationRule")
GATEWAY = VIRTUAL_SERVICE.replace("VirtualService", "Gateway")
SERVICE_ENTRY = VIRTUAL_SERVICE.replace("VirtualService", "ServiceEntry")
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: catalog, namespace: shop}\nspec:\n"
VS, DR, SE = "VirtualService shop/catalog", "DestinationRule shop/catalog", "ServiceEntry shop/catalog"


def faults_of(text, name="a.yaml"):
    content = text if isinstance(text, bytes) else text.encode()
    return [str(fault) for fault in read({name: content})[1]]


# (YAML, what is said of it, word for word)
MESSAGES = [
    (
        VIRTUAL_SERVICE + "  hosts: [catalog]\n  http:\n  - route: [{destination: {host: catalog}}]\n"
        "    retries:\n      attempts: three\n      perTryTimout: 2s\n",
        [
            f"a.yaml:9:17: error: {VS}: spec.http[0].retries.attempts: expected an integer, got 'three'",
            f"a.yaml:10:7: error: {VS}: spec.http[0].retries.perTryTimout: "
            "unknown field (did you mean 'perTryTimeout'?)",
        ],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: catalog\n  http: {}\n",
        [
            f"a.yaml:5:10: error: {VS}: spec.hosts: expected a list, got 'catalog'",
            f"a.yaml:6:9: error: {VS}: spec.http: expected a list, got a mapping",
        ],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: []\n",
        [f"a.yaml:5:10: error: {VS}: spec.hosts: expected at least one item, got an empty list"],
    ),
    (
        VIRTUAL_SERVICE + "  http: []\n",
        [
            f"a.yaml:5:3: error: {VS}: spec: expected a field 'hosts': only one that others delegate to, "
            "with http alone, has none"
        ],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: [a]\n  http:\n  - timeout: 5\n    route: [{destination: {host: a}}]\n",
        [
            f"a.yaml:7:14: error: {VS}: spec.http[0].timeout: "
            "expected a duration like '2s', '500ms' or '1m30s', got the number 5"
        ],
    ),
    (
        VIRTUAL_SERVICE + '  hosts: [a]\n  http:\n  - match: [{uri: {regex: "a("}}]\n'
        "    route: [{destination: {host: a}}]\n",
        [f"a.yaml:7:27: error: {VS}: spec.http[0].match[0].uri.regex: regex 'a(' is not valid RE2: missing ): a("],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: [a]\n  http:\n  - match: [{headers: {x: {exact: 1}}}]\n"
        "    route: [{destination: {host: a}}]\n",
        [
            f"a.yaml:7:35: error: {VS}: spec.http[0].match[0].headers.x.exact: "
            "expected a string, got the number 1; write it in quotes"
        ],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: [a]\n  http:\n  - {}\n"
        "  - redirect: {uri: /x}\n    route: [{destination: {host: a}}]\n",
        [
            f"a.yaml:7:5: error: {VS}: spec.http[0]: "
            "expected one of route, redirect, directResponse, delegate, got none",
            f"a.yaml:8:5: error: {VS}: spec.http[1]: "
            "expected one of route, redirect, directResponse, delegate, got route and redirect",
        ],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: [a]\n  http:\n  - route: [{destination: {host: a}}, {destination: {host: b}}]\n",
        [
            f"a.yaml:7:12: error: {VS}: spec.http[0].route: "
            "expected weights: with several destinations their sum must not be 0"
        ],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: [a]\n  http:\n  - route: [{destination: {host: a}}]\n"
        "    retries: {attempts: 2, retryOn: '5xx,connect-failur,503'}\n",
        [
            f"a.yaml:8:37: error: {VS}: spec.http[0].retries.retryOn: "
            "expected retry conditions or status codes, got 'connect-failur' (did you mean 'connect-failure'?)"
        ],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: [a]\n  http:\n  - route: [{destination: {host: a}}]\n"
        "    retries: {retryOn: 5xx}\n",
        [
            f"a.yaml:8:14: error: {VS}: spec.http[0].retries: "
            "expected attempts of at least 1: with 0, or none, nothing is retried"
        ],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: ['a*.shop']\n",
        [f"a.yaml:5:11: error: {VS}: spec.hosts[0]: expected a host name, '*' or '*.domain', got 'a*.shop'"],
    ),
    (
        DESTINATION_RULE + "  host: a\n  trafficPolicy: {loadBalancer: {simple: round_robin}}\n",
        [
            f"a.yaml:6:42: error: {DR}: spec.trafficPolicy.loadBalancer.simple: expected one of ROUND_ROBIN, "
            "LEAST_REQUEST, LEAST_CONN, RANDOM, PASSTHROUGH, UNSPECIFIED, got 'round_robin' "
            "(did you mean 'ROUND_ROBIN'?)"
        ],
    ),
    (
        DESTINATION_RULE
        + "  host: a\n  trafficPolicy: {loadBalancer: {consistentHash: {maglev: {tableSize: 1000}}}}\n",
        [
            f"a.yaml:6:50: error: {DR}: spec.trafficPolicy.loadBalancer.consistentHash: expected one of "
            "httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName, got none of them",
            f"a.yaml:6:71: error: {DR}: spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize: expected a "
            "prime number, got 1000",
        ],
    ),
    (
        DESTINATION_RULE
        + "  host: a\n  trafficPolicy: {loadBalancer: {simple: RANDOM, consistentHash: {httpHeaderName: a}}}\n",
        [
            f"a.yaml:6:33: error: {DR}: spec.trafficPolicy.loadBalancer: expected one of simple, consistentHash, "
            "got both"
        ],
    ),
    (
        DESTINATION_RULE + "  host: a\n  subsets: [{name: v1}, {name: v1}]\n",
        [f"a.yaml:6:32: error: {DR}: spec.subsets[1].name: duplicate subset 'v1'"],
    ),
    (
        DESTINATION_RULE + "  host: a\n  trafficPolicy: {outlierDetection: {maxEjectionPercent: 101, interval: 0s}}\n",
        [
            f"a.yaml:6:58: error: {DR}: spec.trafficPolicy.outlierDetection.maxEjectionPercent: "
            "expected an integer from 0 to 100, got 101",
            f"a.yaml:6:73: error: {DR}: spec.trafficPolicy.outlierDetection.interval: expected at least 1ms, got '0s'",
        ],
    ),
    (
        DESTINATION_RULE + "  host: a\n  trafficPolicy: {tls: {mode: MUTUAL}}\n",
        [
            f"a.yaml:6:24: error: {DR}: spec.trafficPolicy.tls: "
            "expected clientCertificate and privateKey, or credentialName, with mode MUTUAL"
        ],
    ),
    (
        GATEWAY + "  servers:\n  - port: {number: 80, protocol: HTPP}\n    hosts: ['*']\n    bind: localhost\n",
        [
            "a.yaml:6:34: error: Gateway shop/catalog: spec.servers[0].port.protocol: "
            "expected one of GRPC, GRPC-WEB, HTTP, HTTP2, HTTPS, TLS, TCP, MONGO, got 'HTPP'",
            "a.yaml:8:11: error: Gateway shop/catalog: spec.servers[0].bind: "
            "expected an IP address to listen on, got 'localhost'",
        ],
    ),
    (
        SERVICE_ENTRY + "  hosts: [a.com]\n  resolution: STATIC\n  endpoints: [{address: b.com}]\n",
        [
            f"a.yaml:7:25: error: {SE}: spec.endpoints[0].address: "
            "expected an IP address with resolution STATIC, got 'b.com'; names need resolution DNS"
        ],
    ),
    (
        SERVICE_ENTRY + "  hosts: [a.com]\n  ports: [{number: 80, name: http, protocol: HTPP}]\n",
        [
            f"a.yaml:6:46: error: {SE}: spec.ports[0].protocol: "
            "expected one of HTTP, HTTP2, GRPC, GRPC-WEB, HTTPS, TLS, TCP, MONGO, MYSQL, REDIS, UDP, got 'HTPP'"
        ],
    ),
    (
        SERVICE + "  ports: [{port: 80, targetPort: 99999}, {port: '81'}]\n  selector: {app: yes}\n",
        [
            "a.yaml:5:34: error: Service shop/catalog: spec.ports[0].targetPort: "
            "expected a port number or a port's name, got the number 99999",
            "a.yaml:5:49: error: Service shop/catalog: spec.ports[1].port: expected an integer, got '81'",
            "a.yaml:6:19: error: Service shop/catalog: spec.selector.app: "
            "expected a string, got the boolean true (written yes); write it in quotes",
        ],
    ),
    (
        SERVICE + "  ports: [{port: 80, name: http}, {port: 81}]\n",
        [
            "a.yaml:5:35: error: Service shop/catalog: spec.ports[1]: "
            "expected a field 'name': there is more than one port"
        ],
    ),
    (
        "apiVersion: apps/v1\nkind: Deployment\n"
        "metadata: {name: a, annotations: {meshlib.dev/address: 'localhost:3000'}}\n"
        "spec: {template: {spec: {}}}\n",
        [
            "a.yaml:3:56: error: Deployment default/a: metadata.annotations.meshlib.dev/address: "
            "expected a list like '127.0.0.1:3000, 127.0.0.1:3001', got 'localhost:3000': "
            "'localhost' does not appear to be an IPv4 or IPv6 address"
        ],
    ),
    # documents as such
    ("- a\n", ["a.yaml:1:1: error: expected a Kubernetes object, got a list"]),
    (
        "kind: Service\n",
        ["a.yaml:1:1: error: expected a field 'apiVersion' with a string, as every Kubernetes object has"],
    ),
    (
        "apiVersion: networking.istio.io/v2\nkind: Gateway\nmetadata: {name: a}\n",
        [
            "a.yaml:1:13: error: Gateway default/a: apiVersion: expected networking.istio.io/v1 or "
            "networking.istio.io/v1beta1 or networking.istio.io/v1alpha3, got 'networking.istio.io/v2'"
        ],
    ),
    (
        "apiVersion: v1\nkind: Service\nmetadata: {}\nspec: {}\n",
        ["a.yaml:3:11: error: Service default/?: metadata: expected a field 'name', and there is none"],
    ),
    # what is not understood is named, and no error
    (
        "# a comment\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a}\n",
        [
            "a.yaml:2:1: warning: Gateway default/a: "
            "kind Gateway of gateway.networking.k8s.io/v1 is not understood yet; skipped"
        ],
    ),
    (
        "apiVersion: networking.istio.io/v1\nkind: VirtualServce\nmetadata: {name: a}\n",
        [
            "a.yaml:1:1: warning: VirtualServce default/a: kind VirtualServce of networking.istio.io/v1 "
            "is not understood yet; skipped (did you mean 'VirtualService'?)"
        ],
    ),
    (
        "apiVersion: network.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\n",
        [
            "a.yaml:1:1: warning: VirtualService default/a: kind VirtualService of network.istio.io/v1 "
            "is not understood yet; skipped (did you mean apiVersion: networking.istio.io/v1?)"
        ],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: [a]\n  http:\n  - route: [{destination: {host: a}, headers: {}}]\n"
        "    headers: {request: {set: {a: '%NOPE%'}}}\n",
        [
            f"a.yaml:8:34: error: {VS}: spec.http[0].headers.request.set.a: "
            "%NOPE% is not a command that Envoy knows",
        ],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: [a]\n  http:\n  - route: [{destination: {host: a}}]\n"
        "    headers: {request: {remove: [x, Host]}}\n"
        "    rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}\n",
        [
            f"a.yaml:8:37: error: {VS}: spec.http[0].headers.request.remove[1]: 'Host' cannot be removed",
            f"a.yaml:9:14: error: {VS}: spec.http[0].rewrite: expected one of uri and uriRegexRewrite, got both",
        ],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: [a]\n  http:\n  - route: [{destination: {host: a}}]\n"
        "    match: [{statPrefix: x}]\n",
        [
            f"a.yaml:8:14: warning: {VS}: spec.http[0].match[0].statPrefix: "
            "not applied yet by the embedded control plane"
        ],
    ),
    (
        VIRTUAL_SERVICE + "  hosts: [a]\n  http:\n  - fault: {abort: {httpStatus: 500}}\n"
        "    route: [{destination: {host: a}}]\n",
        [
            f"a.yaml:7:20: warning: {VS}: spec.http[0].fault.abort: "
            "has no percentage, so it never happens; write percentage: {value: 100}"
        ],
    ),
    (
        GATEWAY + "  servers:\n  - port: {number: 443, protocol: HTTPS}\n    hosts: ['*']\n",
        [
            "a.yaml:6:5: error: Gateway shop/catalog: spec.servers[0]: expected a field 'tls' with protocol HTTPS",
            "a.yaml:6:11: error: Gateway shop/catalog: spec.servers[0].port: expected a field 'name' "
            "with protocol HTTPS: the route table is named after it",
        ],
    ),
    # nothing to say
    ("", []),
    ("---\n---\n# only a comment\n", []),
    (SERVICE + "  ports:\n  selector:\n", []),
    (
        VIRTUAL_SERVICE + "  hosts: [a]\n  http: [{match: [{headers: {x: {}}}, {uri: }], "
        "route: [{destination: {host: a}}]}]\n",
        [],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MESSAGES)
def test_messages(text, expected):
    assert faults_of(text) == expected


def test_a_faulty_document_is_dropped_whole_and_the_others_apply():
    good = VIRTUAL_SERVICE.replace("catalog", "other") + "  hosts: [b]\n"
    bad = VIRTUAL_SERVICE + "  hosts: [a]\n  unknown: 1\n"
    documents, faults = read({"a.yaml": f"{bad}---\n{good}".encode(), "b.yaml": b"{"})
    assert [item.name for item in documents.virtual_services] == ["other"]
    assert [fault.file for fault in faults] == ["a.yaml", "b.yaml"]


def test_a_duplicate_is_dropped_and_names_the_first():
    text = (VIRTUAL_SERVICE + "  hosts: [a]\n").encode()
    documents, faults = read({"b.yaml": text, "a.yaml": text})
    assert [item.at.source for item in documents.virtual_services] == ["a.yaml:1"]
    assert [str(fault) for fault in faults] == [
        f"b.yaml:1:1: error: {VS}: duplicate: a.yaml:1 has a {VS} already; this one is dropped"
    ]
    assert not faults[0].applies


def test_lists_and_json_and_many_documents():
    json = (
        b'{"apiVersion":"v1",\n\t"kind":"List","items":[{"apiVersion":"v1","kind":"Service",\n'
        b'\t"metadata":{"name":"x"},"spec":{}}]}'
    )
    one, two, three = (SERVICE.replace("catalog", name) + "  ports: []\n" for name in "yzw")
    typed = "apiVersion: v1\nkind: ServiceList\nitems:\n- " + three.replace("\n", "\n  ")
    files = {"a.json": json, "b.yaml": f"{one}---\n{two}".encode(), "c.yaml": typed.encode()}
    documents, faults = read(files)
    assert faults == ()
    assert [item.name for item in documents.services] == ["x", "y", "z", "w"]


def test_the_namespace_of_documents_that_name_none():
    documents, _ = read({"a.yaml": b"apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {}"}, namespace="shop")
    assert documents.services[0].namespace == "shop"


def test_merge_keys_and_anchors():
    text = VIRTUAL_SERVICE + (
        "  hosts: [a]\n  http:\n"
        "  - name: one\n    retries: &r {attempts: 3, retryOn: 5xx}\n    route: &to [{destination: {host: a}}]\n"
        "  - name: two\n    retries: {<<: *r, attempts: 1}\n    route: *to\n"
    )
    documents, faults = read({"a.yaml": text.encode()})
    assert faults == ()
    first, second = documents.virtual_services[0].spec.http
    assert (first.retries.attempts, second.retries.attempts, second.retries.retry_on) == (3, 1, "5xx")
    assert second.route[0].destination.host == "a"


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2.0), ("500ms", 0.5), ("1m30s", 90.0), ("1.5h", 5400.0), ("0.25s", 0.25), ("0s", 0.0)]
)
def test_durations(text, seconds):
    http = f"{{timeout: {text}, route: [{{destination: {{host: a}}}}]}}"
    documents, _ = read({"a.yaml": (VIRTUAL_SERVICE + f"  hosts: [a]\n  http: [{http}]").encode()})
    assert documents.virtual_services[0].spec.http[0].timeout == seconds


@pytest.mark.parametrize("text", ["2", "s", "2 s", "-1s", "1s2", "2sec", "''", "[]"])
def test_no_durations(text):
    http = f"{{timeout: {text}, route: [{{destination: {{host: a}}}}]}}"
    (fault,) = faults_of(VIRTUAL_SERVICE + f"  hosts: [a]\n  http: [{http}]")
    assert "spec.http[0].timeout: expected a duration like '2s', '500ms' or '1m30s', got" in fault


def test_places_survive_for_later():
    text = VIRTUAL_SERVICE + "  hosts: [a]\n  http:\n  - name: x\n    route:\n    - destination:\n        host: a\n"
    documents, _ = read({"mesh/a.yaml": text.encode()})
    http = documents.virtual_services[0].spec.http[0]
    assert http.at.source == "mesh/a.yaml:7"
    assert http.route[0].destination.at.child("host").source == "mesh/a.yaml:10"
