"""What the states captured with a real Kubernetes API mean for a URL; see ``replaying.told``.

Written from the states' ``objects/`` and the configuration that ``book.txt`` names. ``~`` stands
for ``.istioinaction.svc.cluster.local``.
"""

from __future__ import annotations

V1, V2 = "10.244.0.11:3000", "10.244.0.12:3000"
TO_V1 = f"80|version-v1|catalog~ = {V1}"
TO_V2 = f"80|version-v2|catalog~ = {V2}"
BOTH = f"80||catalog~ = {V1},{V2}"
ONE = f"80||catalog~ = {V1}"
OUTSIDE = "0.0.0.0_80 > 80 / allow_any > PassthroughCluster = "
WEB = "0.0.0.0_80 > 80 / webapp~:80 > 80||webapp~ = 10.244.0.21:8080"
BACKENDS = "80||simple-backend~ = 10.244.0.61:8080,10.244.0.62:8080,10.244.0.63:8080"
G_URL = "http://catalog.istioinaction.svc.cluster.local"
INGRESS = "istio-ingressgateway.istio-system.svc.cluster.local"


def catalog(targets):
    return f"0.0.0.0_80 > 80 / catalog~:80 > {targets}"


def grpc(targets):
    return f"catalog~:80 > 80||catalog~ / catalog~:80 > {targets}"


def gateway(host, targets, table="http.8080", port=8080):
    return f"0.0.0.0_{port} > {table} / {host}:80 > {targets}"


def entry(host, path="/"):
    """A request as the ingress gateway gets it."""
    return f"http://10.244.0.31:8080{path}", ("host", host)


def shared(name, port, ends):
    return f"0.0.0.0_{port} > {port} / {name}~:{port} > {port}||{name}~ = {ends}"


def sniffed(address, name, port, ends):
    return f"{address}_{port} > {name}~:{port} / {name}~:{port} > {port}||{name}~ = {ends}"


def split(first, second):
    return f"80|version-v1|catalog~@{first} = {V1} + 80|version-v2|catalog~@{second} = {V2}"


WEBAPP_GATEWAY = gateway("webapp.istioinaction.io", "80||webapp~ = 10.244.0.21:8080")
COHORT = ("x-istio-cohort", "internal")

# state -> what catalog's calls come to, for both kinds of client
CATALOG = {
    "ch2-base": {"": ONE},
    "ch2-base-uninjected": {"": ONE},
    "ch2-ingress-gateway": {"": ONE},
    "ch2-catalog-virtualservice": {"": ONE},
    "ch2-v2-without-rules": {"": BOTH},
    "ch2-catalog-destinationrule": {"": BOTH},
    "ch2-catalog-virtualservice-all-v1": {"": TO_V1},
    "ch2-catalog-virtualservice-dark-v2": {"": TO_V1, ("x-dark-launch", "v2"): TO_V2},
    "ch5-catalog-vs": {"": BOTH},  # its VirtualService is the gateway's alone
    "ch5-catalog-dest-rule": {"": BOTH},
    "ch5-webapp-catalog-gw-vs": {"": BOTH},
    "ch5-catalog-vs-v1-mesh": {"": TO_V1},
    "ch5-catalog-vs-v2-request-mesh": {"": TO_V1, COHORT: TO_V2},
    "ch5-catalog-vs-v2-10-90-mesh": {"": split(90, 10)},
    "ch5-catalog-vs-v2-50-50-mesh": {"": split(50, 50)},
    "ch5-catalog-vs-v2-mirror": {"": TO_V1},
    "ch5-registry-only": {"": BOTH},
    "ch5-forum-serviceentry": {"": BOTH},
    "ch9-base": {"": ONE},
    "ch9-meshwide-strict-peer-authn": {"": ONE},
}

CASES: dict[str, dict[object, str]] = {}
for _state, _found in CATALOG.items():
    for _headers, _targets in _found.items():
        for _client, _url, _told in (("sidecar", "http://catalog", catalog), ("grpc", G_URL, grpc)):
            _key = (_url, _headers) if _headers else _url
            CASES.setdefault(f"{_state}/{_client}-webapp", {})[_key] = _told(_targets)

MORE: dict[str, dict[object, str]] = {
    "ch2-base/sidecar-webapp": {
        f"https://{INGRESS}": f"10.96.0.80_443 > 443||{INGRESS} = 10.244.0.31:8443",
        "https://kubernetes.default": "10.96.0.1_443 > 443||kubernetes.default.svc.cluster.local = UH",
        f"http://{INGRESS}:15021": f"10.96.0.80_15021 > {INGRESS}:15021 / {INGRESS}:15021 > "
                                   f"15021||{INGRESS} = 10.244.0.31:15021",
        "http://example.com": f"{OUTSIDE}example.com:80",
    },
    "ch2-base/sidecar-catalog": {"http://webapp": WEB},
    "ch9-policy-deny-all-mesh/sidecar-webapp": {"http://catalog": catalog(ONE)},
    "ch9-policy-deny-all-mesh/sidecar-catalog": {"http://webapp": WEB},
    "ch9-base/sidecar-catalog": {"http://sleep.default": "0.0.0.0_80 > 80 / sleep.default.svc.cluster.local:80 > "
                                                        "80||sleep.default.svc.cluster.local = 10.244.0.90:80"},
    "ch9-meshwide-strict-peer-authn/sidecar-catalog": {"http://webapp": WEB},
    **{f"{state}/router-ingress": {entry("any.example"): gateway("*", "80||webapp~ = 10.244.0.21:8080")}
       for state in ("ch2-base-uninjected", "ch2-ingress-gateway", "ch2-catalog-virtualservice",
                     "ch2-v2-without-rules", "ch2-catalog-destinationrule", "ch2-catalog-virtualservice-all-v1",
                     "ch2-catalog-virtualservice-dark-v2")},
    "ch2-base/router-ingress": {entry("any.example"): "nothing"},
    # ------------------------------------------------------------ chapter 4: gateways
    **{f"{state}/router-ingress": {entry("any.example"): "0.0.0.0_8080 > http.8080 / blackhole:80 > 404"}
       for state in ("ch4-coolstore-gw", "ch5-catalog-gateway")},
    **{f"{state}/router-ingress": {
           entry("webapp.istioinaction.io"): WEBAPP_GATEWAY,
           entry("other.istioinaction.io"): "0.0.0.0_8080 > http.8080 > 404"}
       for state in ("ch4-coolstore-vs", "ch4-coolstore-gw-tls", "ch4-coolstore-gw-mtls", "ch4-catalog-vs",
                     "ch4-enable-ingress-gw-access-logs", "ch4-ingress-gw-access-logging", "ch5-registry-only",
                     "ch5-webapp-catalog-gw-vs", "ch5-forum-serviceentry", "ch5-catalog-vs-v1-mesh",
                     "ch5-catalog-vs-v2-request-mesh", "ch5-catalog-vs-v2-10-90-mesh",
                     "ch5-catalog-vs-v2-50-50-mesh", "ch5-catalog-vs-v2-mirror", "ch9-base",
                     "ch9-enduser-jwt-token-request-authn", "ch9-meshwide-strict-peer-authn",
                     "ch9-policy-deny-all-mesh")},
    "ch4-coolstore-gw-tls-redirect/router-ingress": {
        entry("webapp.istioinaction.io"):
            "0.0.0.0_8080 > http.8080 / webapp.istioinaction.io:80 > redirect 301"},
    # The gateway's own TLS: an application in this process has no business there.
    "ch4-coolstore-gw-multi-tls/router-ingress": {
        "https://catalog.istioinaction.io:8443": "0.0.0.0_8443 > 404", "https://other.io:8443": "nothing"},
    "ch4-gateway-tcp/router-ingress": {"http://any:31400": "nothing"},
    "ch4-echo-vs/router-ingress": {"http://any:31400": "0.0.0.0_31400 > 2701||tcp-echo-service~ = 10.244.0.27:2701"},
    "ch4-echo/sidecar-tcp-echo": {
        "http://webapp": WEB,
        "http://tcp-echo-service:2701": sniffed("10.96.0.27", "tcp-echo-service", 2701, "10.244.0.27:2701"),
        "https://10.96.0.27:2701": "10.96.0.27_2701 > 2701||tcp-echo-service~ = 10.244.0.27:2701",
    },
    "ch4-echo-vs/sidecar-webapp": {
        "http://tcp-echo-service:2701": sniffed("10.96.0.27", "tcp-echo-service", 2701, "10.244.0.27:2701")},
    "ch4-sni-services/sidecar-webapp": {  # an HTTPS port: bytes, whatever the server name
        f"https://{name}:80": f"10.96.0.5{number}_80 > 80||simple-tls-service-{number}~ = 10.244.0.5{number}:8080"
        for number in (1, 2)
        for name in (f"simple-tls-service-{number}", f"simple-tls-service-{number}.istioinaction.svc.cluster.local",
                     f"10.96.0.5{number}")},
    "ch4-sni-simple-tls-service-1/sidecar-simple-tls-service-1": {"http://webapp": WEB},
    "ch4-coolstore-vs/sidecar-webapp": {"http://webapp": WEB},
    "ch4-enable-ingress-gw-access-logs/sidecar-webapp": {"http://webapp": WEB},
    "ch4-sni-passthrough-sni-gateway/router-ingress": {"https://simple-sni-1.istioinaction.io:31400": "nothing"},
    "ch4-sni-passthrough-sni-vs-1/router-ingress": {
        "https://simple-sni-1.istioinaction.io:31400":
            "0.0.0.0_31400 > 80||simple-tls-service-1~ = 10.244.0.51:8080",
        "https://simple-sni-2.istioinaction.io:31400": "nothing"},
    "ch4-sni-passthrough-sni-gateway-both/router-ingress": {
        "https://simple-sni-2.istioinaction.io:31400":
            "0.0.0.0_31400 > 80||simple-tls-service-2~ = 10.244.0.52:8080"},
    # ------------------------------------------------------------ chapter 5: routing, hosts outside
    **{f"{state}/router-ingress": {entry("catalog.istioinaction.io"): gateway("catalog.istioinaction.io", BOTH)}
       for state in ("ch5-catalog-vs", "ch5-catalog-dest-rule")},
    "ch5-catalog-vs-v1/router-ingress": {
        entry("catalog.istioinaction.io"): gateway("catalog.istioinaction.io", TO_V1)},
    "ch5-catalog-vs-v2-request/router-ingress": {
        entry("catalog.istioinaction.io"): gateway("catalog.istioinaction.io", TO_V1),
        (*entry("catalog.istioinaction.io"), COHORT): gateway("catalog.istioinaction.io", TO_V2)},
    "ch5-registry-only/sidecar-webapp": {
        "http://jsonplaceholder.typicode.com": "0.0.0.0_80 > 80 / block_all > direct response 502",
        "https://jsonplaceholder.typicode.com": "virtualOutbound > BlackHoleCluster = UH"},
    "ch5-forum-serviceentry/sidecar-webapp": {
        "http://jsonplaceholder.typicode.com":
            "0.0.0.0_80 > 80 / jsonplaceholder.typicode.com:80 > 80||jsonplaceholder.typicode.com = "
            "jsonplaceholder.typicode.com:80",
        "http://other.typicode.com": "0.0.0.0_80 > 80 / block_all > direct response 502"},
    # ------------------------------------------------------------ chapter 6: resilience
    **{f"{state}/sidecar-simple-web": {"http://simple-backend": f"0.0.0.0_80 > 80 / simple-backend~:80 > {BACKENDS}"}
       for state in ("ch6-base", "ch6-simple-backend-dr-rr", "ch6-simple-backend-dr-conn-limit",
                     "ch6-simple-backend-dr-outlier", "ch6-simple-backend-enable-retry",
                     "ch6-simple-backend-ef-retry-status-codes", "ch6-simple-service-locality")},
    **{f"{state}/grpc-simple-web": {
           "http://simple-backend.istioinaction.svc.cluster.local":
               f"simple-backend~:80 > 80||simple-backend~ / simple-backend~:80 > {BACKENDS}"}
       for state in ("ch6-base", "ch6-simple-backend-dr-rr", "ch6-simple-backend-dr-outlier")},
    "ch6-simple-backend-vs-timeout/sidecar-simple-web": {
        "http://simple-backend": f"0.0.0.0_80 > 80 / simple-backend~:80 [0.5s] > {BACKENDS}"},
    "ch6-base/router-ingress": {
        entry("simple-web.istioinaction.io"):
            gateway("simple-web.istioinaction.io", "80||simple-web~ = 10.244.0.60:8080")},
    "ch9-headless-httpbin-headless/sidecar-webapp": {
        "http://httpbin-headless":
            "0.0.0.0_80 > 80 / httpbin-headless~:80 > 80||httpbin-headless~ = httpbin-headless:80"},
    # ------------------------------------------------------------ chapter 11: a Sidecar that hides services
    "ch11-sidecar-mesh-wide/sidecar-webapp": {
        "http://catalog": "0.0.0.0_80 > 80 / block_all > direct response 502",
        f"http://{INGRESS}": f"0.0.0.0_80 > 80 / {INGRESS}:80 > 80||{INGRESS} = 10.244.0.31:8080"},
    "ch11-sidecar-mesh-wide/grpc-webapp": {G_URL: "nothing"},
    "ch11-sidecar-mesh-wide/router-ingress": {
        entry("catalog.istioinaction.io"): gateway("catalog.istioinaction.io", ONE)},
    # ------------------------------------------------------------ Kubernetes objects
    "k8s-ports/sidecar-webapp": {
        **{f"http://odd-names:{port}": shared("odd-names", port, "10.244.2.2:3000")
           for port in (8000, 8001, 8003, 8004, 8005)},
        **{f"http://odd-names:{port}": f"10.96.2.2_{port} > {port}||odd-names~ = 10.244.2.2:3000"
           for port in (8006, 8007, 8008, 8009, 8010, 8011, 8012)},
        **{f"http://odd-names:{port}": sniffed("10.96.2.2", "odd-names", port, "10.244.2.2:3000")
           for port in (8002, 8013)},
        "http://odd-names:8014": "virtualOutbound > PassthroughCluster = 10.96.2.2:8014",
        **{f"http://app-protocol:{port}": shared("app-protocol", port, "10.244.2.3:3000")
           for port in (8100, 8101, 8104, 8105, 8108)},
        **{f"http://app-protocol:{port}": f"10.96.2.3_{port} > {port}||app-protocol~ = 10.244.2.3:3000"
           for port in (8102, 8103, 8107, 8109)},
        "http://app-protocol:8106": sniffed("10.96.2.3", "app-protocol", 8106, "10.244.2.3:3000"),
        "http://unnamed": sniffed("10.96.2.1", "unnamed", 80, "10.244.2.1:3000"),
        "http://named-target": shared("named-target", 80, "10.244.2.5:3000"),
        "http://with-udp:8200": shared("with-udp", 8200, "10.244.2.4:3000"),
        "http://with-udp:53": "virtualOutbound > PassthroughCluster = with-udp:53",
    },
    "k8s-headless/sidecar-webapp": {  # the name table came: Pods have names
        "http://headless-0.headless": shared("headless", 80, "10.244.3.1:80"),
        "http://headless-1.headless": shared("headless", 80, "10.244.3.2:80"),
        "http://headless-0.headless:7001": "10.244.3.1_7001 > 7001||headless~ = 10.244.3.1:7001",
        "http://headless-1.headless.istioinaction.svc:7001": "10.244.3.2_7001 > 7001||headless~ = 10.244.3.2:7001",
        "http://headless-1.headless:7002": sniffed("10.244.3.2", "headless", 7002, "10.244.3.2:7002"),
        "https://headless-0.headless:7003": "10.244.3.1_7003 > 7003||headless~ = 10.244.3.1:7003",
        "http://headless-empty:7101": "virtualOutbound > PassthroughCluster = headless-empty:7101",
        "http://headless-empty:7102": shared("headless-empty", 7102, "headless-empty:7102"),
        "http://headless-noselector:7201": "10.244.3.9_7201 > 7201||headless-noselector~ = 10.244.3.9:7201",
        "http://headless-noselector:7202": shared("headless-noselector", 7202, "10.244.3.9:7202"),
        "http://headless-2.headless": shared("headless", 80, "headless-2.headless:80"),
    },
    "k8s-headless/sidecar-headless": {  # a Pod has no listener for its own address
        "http://headless:7001": "10.244.3.2_7001 > 7001||headless~ = 10.244.3.2:7001"},
    "k8s-headless/grpc-webapp": {
        "http://headless.istioinaction.svc.cluster.local":
            "headless~:80 > 80||headless~ / headless~:80 > 80||headless~ = 10.244.3.1:3000,10.244.3.2:3000",
        "http://headless.istioinaction.svc.cluster.local:7001": "headless~:7001 > 7001||headless~ > 404"},
    "k8s-external-name/sidecar-webapp": {
        "http://alias": f"0.0.0.0_80 > 80 / catalog~:80 [3s] > {ONE}",
        "http://catalog": f"0.0.0.0_80 > 80 / catalog~:80 [3s] > {ONE}",
        "http://outside": f"{OUTSIDE}outside:80",
        "https://outside": "virtualOutbound > PassthroughCluster = outside:443",
        "http://no-ports": f"{OUTSIDE}no-ports:80"},
    "k8s-external-name/grpc-webapp": {
        "http://alias.istioinaction.svc.cluster.local": f"alias~:80 > 80||alias~ / catalog~:80 [3s] > {ONE}",
        "http://outside.istioinaction.svc.cluster.local": "outside~:80 > 80||outside~ > 404"},
    "k8s-endpoints/sidecar-webapp": {  # the terminating 10.244.4.3 is not sent, the unready 10.244.4.2 is, as unhealthy
        "http://ready": shared("ready", 80, "10.244.4.1:3000,10.244.4.2:3000,10.244.4.4:3333,10.244.4.5:3333"),
        "http://publish-not-ready": shared("publish-not-ready", 80, "10.244.4.11:3000,10.244.4.12:3000"),
        "http://no-selector": shared("no-selector", 80, "10.250.0.1:3000,10.250.0.2:3000")},
    "k8s-locality/sidecar-webapp": {
        f"http://{name}": shared(name, 80, ",".join(f"10.244.5.{first + n}:3000" for n in range(3)))
        for name, first in (("spread", 1), ("prefer-close", 11), ("annotated", 21))},
}  # fmt: skip

for _capture, _cases in MORE.items():
    CASES[_capture] = CASES.get(_capture, {}) | _cases
