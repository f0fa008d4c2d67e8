"""Which endpoints a service has, from every kind of workload."""

import pytest

from meshlib.controlplane import registry
from meshlib.controlplane.documents import read
from meshlib.controlplane.options import DEFAULTS
from meshlib.controlplane.services import Protocol, Resolution, protocol_of_port

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec:
  selector: {app: catalog}
  ports: [{name: http, port: 80, targetPort: TARGET}, {name: grpc, port: 90}]
---
"""
LOCAL = "catalog.shop.svc.cluster.local"


def build(*texts):
    documents, faults = read({f"{index}.yaml": text.encode() for index, text in enumerate(texts)})
    assert [str(fault) for fault in faults] == []
    return registry.build(documents, DEFAULTS)


def endpoints(built, host=LOCAL, port=80):
    return [(item.address, item.port) for item in built.services[host].port(port).endpoints]


def pod(name, ip, labels="{app: catalog, version: v1, pod-template-hash: h1}", extra=""):
    return f"""
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels: {labels}
  ownerReferences: [{{kind: ReplicaSet, name: catalog-v1-h1}}]
spec:
  containers: [{{name: a, image: x, ports: [{{name: web, containerPort: 3005}}]}}]
status: {{podIP: {ip}{extra}}}
---
"""


def entry(name, spec, metadata=""):
    head = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
    return f"{head}metadata: {{name: {name}, namespace: shop{metadata}}}\nspec: {spec}\n---\n"


@pytest.mark.parametrize(
    ("target", "workload", "expected"),
    [
        ("3000", pod("a", "10.0.0.1"), [("10.0.0.1", 3000)]),
        ("web", pod("a", "10.0.0.1"), [("10.0.0.1", 3005)]),
        ("nope", pod("a", "10.0.0.1"), []),
        ("3000", pod("a", "10.0.0.1", labels="{app: other}"), []),
        ("3000", pod("a", "''"), []),
        ("3000", pod("a", "10.0.0.1", extra=", phase: Succeeded"), []),
        ("3000", entry("a", "{address: 127.0.0.1, labels: {app: catalog}}"), [("127.0.0.1", 3000)]),
        (
            "3000",
            entry("a", "{address: 127.0.0.1, ports: {http: 3001}, labels: {app: catalog}}"),
            [("127.0.0.1", 3001)],
        ),
        ("web", entry("a", "{address: 127.0.0.1, ports: {web: 3002}, labels: {app: catalog}}"), [("127.0.0.1", 3002)]),
        ("web", entry("a", "{address: 127.0.0.1, ports: {http: 3002}, labels: {app: catalog}}"), []),
        ("3000", entry("a", "{address: 127.0.0.1}", ", labels: {app: catalog}"), [("127.0.0.1", 3000)]),
    ],
)
def test_behind_a_service(target, workload, expected):
    assert endpoints(build(SERVICE.replace("TARGET", target), workload)) == expected


DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: catalog-v1, namespace: shop, annotations: {ON_OBJECT}}
spec:
  template:
    metadata: {labels: {app: catalog, version: v1}, annotations: {ON_TEMPLATE}}
    spec: {containers: [{name: a, image: x, ports: [{name: web, containerPort: 3005}]}]}
"""


@pytest.mark.parametrize("where", ["ON_OBJECT", "ON_TEMPLATE"])
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("127.0.0.1:3001", [("127.0.0.1", 3001)]),
        ("127.0.0.1:3001, 127.0.0.1:3002", [("127.0.0.1", 3001), ("127.0.0.1", 3002)]),
        ("127.0.0.1", [("127.0.0.1", 3000)]),
        ("[::1]:3001,::1", [("::1", 3001), ("::1", 3000)]),
    ],
)
def test_an_annotated_deployment(where, written, expected):
    text = DEPLOYMENT.replace(where, f'meshlib.dev/address: "{written}"')
    text = text.replace("ON_OBJECT", "").replace("ON_TEMPLATE", "")
    assert endpoints(build(SERVICE.replace("TARGET", "3000"), text)) == expected


def test_a_deployment_without_address_is_warned_about_when_it_is_missed():
    text = DEPLOYMENT.replace("ON_OBJECT", "").replace("ON_TEMPLATE", "")
    (fault,) = build(SERVICE.replace("TARGET", "3000"), text).faults
    assert str(fault) == (
        f"1.yaml:2:1: warning: Deployment shop/catalog-v1: brings no endpoint to {LOCAL}, which has none: nothing runs "
        "Deployments here. Start it yourself and write where it listens: "
        'metadata.annotations: {meshlib.dev/address: "127.0.0.1:3000"}'
    )
    served = build(SERVICE.replace("TARGET", "3000"), text, entry("a", "{address: 127.0.0.1, labels: {app: catalog}}"))
    assert served.faults == ()
    assert build(text).faults == ()  # no service counts on it


def test_an_endpoint_says_who_it_is():
    built = build(SERVICE.replace("TARGET", "3000"), pod("catalog-v1-h1-x", "10.0.0.1"))
    (endpoint,) = built.services[LOCAL].port(80).endpoints
    assert endpoint.workload == "catalog-v1;shop;catalog;v1;Kubernetes"
    assert endpoint.healthy is True
    spec = "{address: 127.0.0.1, weight: 3, locality: r/z/s, labels: {app: catalog}}"
    (endpoint,) = build(SERVICE.replace("TARGET", "3000"), entry("c", spec)).services[LOCAL].port(80).endpoints
    assert (endpoint.workload, endpoint.weight, endpoint.locality) == ("c;shop;catalog;;Kubernetes", 3, "r/z/s")
    assert endpoint.healthy is None


def test_a_pod_that_is_not_ready():
    extra = ", conditions: [{type: Ready, status: 'False'}]"
    built = build(SERVICE.replace("TARGET", "3000"), pod("a", "10.0.0.1", extra=extra))
    assert [item.healthy for item in built.services[LOCAL].port(80).endpoints] == [False]


def service_entry(spec):
    head = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: ext, namespace: shop}\n"
    return f"{head}spec: {spec}\n---\n"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            "{hosts: [a.com], resolution: STATIC, ports: [{number: 80, name: http, targetPort: 81}], "
            "endpoints: [{address: 10.0.0.1}, {address: 10.0.0.2, ports: {http: 82}}]}",
            [("10.0.0.1", 81), ("10.0.0.2", 82)],
        ),
        ("{hosts: [a.com], resolution: DNS, ports: [{number: 80, name: http}]}", [("a.com", 80)]),
        (
            "{hosts: [a.com], resolution: DNS, ports: [{number: 80, name: http}], endpoints: [{address: b.com}]}",
            [("b.com", 80)],
        ),
        ("{hosts: [a.com], ports: [{number: 80, name: http}]}", []),
        (
            "{hosts: [a.com], resolution: STATIC, ports: [{number: 80, name: http}], "
            "workloadSelector: {labels: {app: catalog}}}",
            [("10.0.0.1", 80)],
        ),
    ],
)
def test_a_service_entry(spec, expected):
    assert endpoints(build(service_entry(spec), pod("a", "10.0.0.1")), "a.com") == expected


def test_the_same_host_twice_joins_its_endpoints_and_says_so():
    ports = "ports: [{number: 80, name: x}], endpoints: [{address: 10.0.0.9}]"
    spec = f"{{hosts: [{LOCAL}], resolution: STATIC, {ports}}}"
    built = build(SERVICE.replace("TARGET", "3000"), pod("a", "10.0.0.1"), service_entry(spec))
    assert endpoints(built) == [("10.0.0.1", 3000), ("10.0.0.9", 80)]
    (fault,) = built.faults
    assert "is that of Service shop/catalog (0.yaml:2) too" in str(fault)


def test_an_external_name_stands_for_another_service():
    head = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME, namespace: shop}\n"
    one = head.replace("NAME", "one") + "spec: {type: ExternalName, externalName: two.shop.svc.cluster.local}\n---\n"
    two = head.replace("NAME", "two") + f"spec: {{type: ExternalName, externalName: {LOCAL}}}\n---\n"
    away = head.replace("NAME", "away") + "spec: {type: ExternalName, externalName: api.example.com}\n"
    built = build(SERVICE.replace("TARGET", "3000"), one + two + away)
    named = {name: built.services[f"{name}.shop.svc.cluster.local"] for name in ("one", "two", "away")}
    assert {item.resolution for item in named.values()} == {Resolution.ALIAS}
    assert built.concrete(named["one"]).host == built.concrete(named["two"]).host == LOCAL
    assert built.concrete(named["away"]) is None
    assert built.services[LOCAL].aliases == ("one.shop.svc.cluster.local", "two.shop.svc.cluster.local")


def test_external_names_in_a_circle_lead_nowhere():
    head = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME, namespace: shop}\n"
    text = "spec: {type: ExternalName, externalName: NAME.shop.svc.cluster.local}\n---\n"
    built = build(
        head.replace("NAME", "a") + text.replace("NAME", "b") + head.replace("NAME", "b") + text.replace("NAME", "a")
    )
    assert [built.concrete(service) for service in built.services.values()] == [None, None]


def test_a_headless_service_has_no_address():
    text = SERVICE.replace("TARGET", "1").replace("selector:", "clusterIP: None\n  selector:")
    service = build(text).services[LOCAL]
    assert (service.vip, service.resolution) == ("", Resolution.STATIC)


@pytest.mark.parametrize(
    ("number", "name", "transport", "app_protocol", "protocol"),
    [
        (80, "http", "TCP", "", Protocol.HTTP),
        (80, "http-web", "TCP", "", Protocol.HTTP),
        (80, "http2", "TCP", "", Protocol.HTTP2),
        (80, "grpc-web", "TCP", "", Protocol.GRPC_WEB),
        (80, "tcp-x", "TCP", "", Protocol.TCP),
        (80, "https", "TCP", "", Protocol.TLS),
        (80, "redis-x", "TCP", "", Protocol.REDIS),
        (80, "web", "TCP", "", Protocol.SNIFFED),
        (80, "httpx", "TCP", "", Protocol.SNIFFED),
        (80, "", "TCP", "", Protocol.SNIFFED),
        (3306, "", "TCP", "", Protocol.TCP),
        (80, "tcp", "TCP", "kubernetes.io/h2c", Protocol.HTTP2),
        (80, "http", "TCP", "something", Protocol.SNIFFED),
        (80, "http", "UDP", "", Protocol.UDP),
    ],
)
def test_the_protocol_of_a_port(number, name, transport, app_protocol, protocol):
    assert protocol_of_port(number, name, transport, app_protocol) is protocol
