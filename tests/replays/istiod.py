"""What the YAML of each scenario of istiod's captures means for a URL; see ``replaying.told``.

Written from the scenarios' ``config/``, not from what meshlib makes of the streams. ``~`` stands
for ``.istioinaction.svc.cluster.local``. A key is a URL, or a URL with headers; ``host`` is the
authority, as of a client that calls its sidecar's own address.
"""

from __future__ import annotations

CATALOG = "0.0.0.0_80 > 80 / catalog~:80 > 80||catalog~ = 127.0.0.11:3000,127.0.0.12:3000"
V1 = "80|version-v1|catalog~ = 127.0.0.11:3000"
V2 = "80|version-v2|catalog~ = 127.0.0.12:3000"
FORUM = "0.0.0.0_80 > 80 / forum~:80 > 80||forum~ = 127.0.0.41:8080"
WEBAPP = "0.0.0.0_80 > 80 / webapp~:80 > 80||webapp~ = 127.0.0.21:8080"
GATEWAY = "istio-ingressgateway.istio-system.svc.cluster.local"
G_CATALOG = "catalog~:80 > 80||catalog~ / catalog~:80 > 80||catalog~ = 127.0.0.11:3000,127.0.0.12:3000"
G_URL = "http://catalog.istioinaction.svc.cluster.local"
OUTSIDE = "0.0.0.0_80 > 80 / allow_any > PassthroughCluster = "


def catalog(targets, table="0.0.0.0_80 > 80 / catalog~:80", route=""):
    """A route of catalog's virtual host."""
    return f"{table}{f' [{route}]' if route else ''} > {targets}"


def host(name, port, ends, listener="", table="", cluster="", route=""):
    """A service of istioinaction: by default on the shared listener of its port."""
    listener = listener or f"0.0.0.0_{port}"
    table = table or str(port)
    return f"{listener} > {table} / {name}:{port}{route} > {cluster or f'{port}||{name}'} = {ends}"


# Scenarios whose configuration says nothing of where webapp's calls to these services go.
BASE = ("default", "mtls-permissive", "mtls-strict", "mtls-disable", "plain", "authz", "request-auth", "telemetry",
        "retry", "retry-mesh-default", "envoyfilter", "outlier", "consistent-hash", "gateway-tls", "tls-origination",
        "headless", "sniffed", "tcp-tls-https", "http-settings", "external-dns", "external-name", "registry-only",
        "visibility")  # fmt: skip

CASES: dict[str, dict[object, str]] = {
    **{f"{name}/sidecar-webapp": {"http://catalog/items": CATALOG, "http://forum": FORUM, "http://webapp": WEBAPP}
       for name in BASE},
    **{f"{name}/grpc-webapp": {G_URL: G_CATALOG} for name in BASE},
    "default/sidecar-catalog": {"http://forum": FORUM, "http://catalog": CATALOG},
    "secure/sidecar-webapp-mtls": {"http://catalog": CATALOG},
    "secure/grpc-webapp-token": {G_URL: G_CATALOG},
    "ack-nack/sidecar-webapp-reconnect": {"http://forum": FORUM},
}  # fmt: skip


MORE: dict[str, dict[object, str]] = {
    "default/sidecar-webapp": {
        **{f"http://{name}:80/": CATALOG for name in (
            "catalog.istioinaction", "catalog.istioinaction.svc", "catalog.istioinaction.svc.cluster.local",
            "CATALOG", "10.96.0.10")},
        "http://example.com": f"{OUTSIDE}example.com:80",
        "http://catalog.other": f"{OUTSIDE}catalog.other:80",
        "http://catalog:9999": "virtualOutbound > PassthroughCluster = 10.96.0.10:9999",
        "https://catalog:80": "0.0.0.0_80 > PassthroughCluster = 10.96.0.10:80",
        "https://example.com": "virtualOutbound > PassthroughCluster = example.com:443",
        "http://example.com:15001": "virtualOutbound > BlackHoleCluster = UH",
        "http://istio-ingressgateway.istio-system":
            f"0.0.0.0_80 > 80 / {GATEWAY}:80 > 80||{GATEWAY} = 127.0.0.31:8080",
        "https://istio-ingressgateway.istio-system": f"10.96.0.80_443 > 443||{GATEWAY} = 127.0.0.31:8443",
        "https://10.96.0.80": f"10.96.0.80_443 > 443||{GATEWAY} = 127.0.0.31:8443",
    },
    "default/grpc-webapp": {"http://catalog": "nothing", "http://10.96.0.10": "nothing"},
    "default/router-ingress": {
        ("http://127.0.0.31:8080/x", ("host", "anything")): "0.0.0.0_8080 > http.8080 / *:80 > "
                                                            "80||webapp~ = 127.0.0.21:8080",
    },
    "subsets/sidecar-webapp": {"http://catalog": catalog("80|version-v1|catalog~@80 = 127.0.0.11:3000 + "
                                                         "80|version-v2|catalog~@20 = 127.0.0.12:3000")},
    "subsets/grpc-webapp": {G_URL: "catalog~:80 > 80||catalog~ / catalog~:80 > "
                                   "80|version-v1|catalog~@80 = 127.0.0.11:3000 + "
                                   "80|version-v2|catalog~@20 = 127.0.0.12:3000"},
    "all-v1/sidecar-webapp": {"http://catalog": catalog(V1)},
    "all-v1/grpc-webapp": {G_URL: f"catalog~:80 > 80||catalog~ / catalog~:80 > {V1}"},
    "dark-launch/sidecar-webapp": {
        "http://catalog": catalog(V1),
        ("http://catalog", ("x-istio-cohort", "internal")): catalog(V2),
    },
    "dark-launch/grpc-webapp": {
        (G_URL, ("x-istio-cohort", "internal")): f"catalog~:80 > 80||catalog~ / catalog~:80 > {V2}",
    },
    "subset-missing/sidecar-webapp": {"http://catalog": catalog("80|no-such-subset|catalog~ = NC")},
    "subset-missing/grpc-webapp": {G_URL: "catalog~:80 > 80||catalog~ / catalog~:80 > "
                                          "80|no-such-subset|catalog~ = NC"},
    "mirror/sidecar-webapp": {
        "http://catalog/half": catalog(V1, route="one-percentage"),
        "http://catalog/several": catalog(V1, route="several"),
        "http://catalog/": catalog(V1),
    },
    "timeout/sidecar-webapp": {
        "http://catalog/slow": CATALOG.replace(":80 >", ":80 [half-second 0.5s] >"),
        "http://catalog/long": CATALOG.replace(":80 >", ":80 [long 90s] >"),
        "http://catalog/": CATALOG.replace(":80 >", ":80 [unset] >"),
    },
    "match/sidecar-webapp": {
        "http://catalog/items": catalog(V1, route="exact-path"),
        "http://catalog/items/": catalog(V1),
        "http://catalog/api/x": catalog(V1, route="prefix-path"),
        "http://catalog/api2x": catalog(V1, route="prefix-no-slash"),
        "http://catalog/items/17": catalog(V2, route="regex-path"),
        "http://catalog/cASEs": catalog(V2, route="ignore-case"),
        "http://catalog/one": catalog(V2, route="two-matches"),
        ("http://catalog", ("x-two", "2")): catalog(V2, route="two-matches"),
        "http://catalog/port": catalog(V2, route="port"),
        "http://catalog/from-webapp": catalog(V2, route="source-labels"),
        "http://catalog/from-other": catalog(V1),
        "http://catalog/from-ns": catalog(V2, route="source-namespace"),
        "http://catalog/?q-exact=a&q-prefix=bb&q-regex=12": catalog(V2, route="query"),
    },
    "locality-none/sidecar-webapp": {"http://catalog": CATALOG + ",127.0.0.13:3000,127.0.0.14:3000"},
    "locality-failover/sidecar-webapp": {"http://catalog": CATALOG + ",127.0.0.13:3000,127.0.0.14:3000"},
    "locality-distribute/sidecar-webapp": {"http://catalog": CATALOG + ",127.0.0.13:3000"},  # 10 % for us-east1
    "lb-policies/sidecar-webapp": {
        "http://catalog": CATALOG,
        **{f"http://catalog/{name}": catalog(f"80|{name}|catalog~ = 127.0.0.11:3000,127.0.0.12:3000", route=name)
           for name in ("random", "least", "hash-header", "hash-query", "hash-source", "hash-maglev")},
        "http://10.96.0.10/passthrough": catalog("80|passthrough|catalog~ = 10.96.0.10:80", route="passthrough"),
    },
    "fault/sidecar-webapp": {"http://forum": FORUM},
    # ------------------------------------------------------------ protocols of ports
    "sniffed/sidecar-webapp": {
        "http://auto:7070": host("auto~", 7070, "127.0.0.51:7071", "10.96.0.51_7070", "auto~:7070"),
        "http://auto": host("auto~", 80, "127.0.0.51:7072", "10.96.0.51_80", "auto~:80"),
        "http://auto-two:7070": host("auto-two~", 7070, "127.0.0.53:7073", "10.96.0.53_7070", "auto-two~:7070"),
        "http://10.96.0.53:7070": host("auto-two~", 7070, "127.0.0.53:7073", "10.96.0.53_7070", "auto-two~:7070"),
        "http://auto-novip:7080": host("auto-novip~", 7080, "127.0.0.52:7081"),
        "http://auto.example.com:7090": host("auto.example.com", 7090, "auto.example.com:7090"),
        "https://auto:7070": "10.96.0.51_7070 > 7070||auto~ = 127.0.0.51:7071",
        "https://auto-two:7070": "10.96.0.53_7070 > 7070||auto-two~ = 127.0.0.53:7073",
        "https://auto-novip:7080": "0.0.0.0_7080 > 7080||auto-novip~ = 127.0.0.52:7081",
        "https://auto.example.com:7090": "0.0.0.0_7090 > 7090||auto.example.com = auto.example.com:7090",
        "http://databases:5432": "10.96.0.54_5432 > 5432||databases~ = 127.0.0.54:5432",
        "http://databases:27017": "10.96.0.54_27017 > 27017||databases~ = 127.0.0.54:27017",
    },
    "sniffed/grpc-webapp": {
        "http://auto.istioinaction.svc.cluster.local:7070":
            "auto~:7070 > 7070||auto~ / auto~:7070 > 7070||auto~ = 127.0.0.51:7071",
        "http://databases.istioinaction.svc.cluster.local:5432": "databases~:5432 > 5432||databases~ > 404",
    },
    "sniffed-vs/sidecar-webapp": {
        "http://auto:7070": host("auto~", 7070, "127.0.0.51:7071", "10.96.0.51_7070", "auto~:7070",
                                 "7070|version-v1|auto~"),
        ("http://auto:7070", ("x-istio-cohort", "internal")):
            host("auto~", 7070, "127.0.0.55:7071", "10.96.0.51_7070", "auto~:7070", "7070|version-v2|auto~"),
        "https://auto:7070": "10.96.0.51_7070 > 7070|version-v1|auto~@25 = 127.0.0.51:7071 + "
                             "7070|version-v2|auto~@75 = 127.0.0.55:7071",
    },
    "tcp-tls-https/sidecar-webapp": {
        "http://db:5432": "10.96.0.61_5432 > 5432|version-v1|db~@90 = 127.0.0.61:15432 + "
                          "5432|version-v2|db~@10 = 127.0.0.62:15432",
        "http://db:3306": "10.96.0.61_3306 > 3306|version-v2|db~ = 127.0.0.62:3306",
        "http://10.96.0.61:3306": "10.96.0.61_3306 > 3306|version-v2|db~ = 127.0.0.62:3306",
        "https://secure.istioinaction.svc.cluster.local:8443":
            "10.96.0.63_8443 > 8443|version-v1|secure~@60 = 127.0.0.63:8443 + "
            "8443|version-v2|secure~@40 = 127.0.0.64:8443",
        # The server name is what the application says: the short one is none of the sniHosts.
        "https://secure:8443": "10.96.0.63_8443 > PassthroughCluster = 10.96.0.63:8443",
        "https://secure": "10.96.0.63_443 > 443||secure~ = 127.0.0.63:9443,127.0.0.64:9443",
        "https://plain-https": "10.96.0.65_443 > 443||plain-https~ = 127.0.0.65:9443",
        "https://a.example.com": "0.0.0.0_443 > 443||a.example.com = a.example.com:443",
        "https://b.example.com": "0.0.0.0_443 > 443||b.example.com = b.example.com:443",
        "https://x.b.example.com": "0.0.0.0_443 > 443||*.b.example.com = x.b.example.com:443",
        "https://c.example.com": "0.0.0.0_443 > 443||c2.example.com = c2.example.com:443",
        "https://c2.example.com": "0.0.0.0_443 > 443||c2.example.com = c2.example.com:443",
        "https://other.example.com": "0.0.0.0_443 > PassthroughCluster = other.example.com:443",
        "http://a.example.com:443": "0.0.0.0_443 > PassthroughCluster = a.example.com:443",
        "http://tcp.example.com:1883": "0.0.0.0_1883 > 1883||tcp.example.com = tcp.example.com:1883",
    },
    "tcp-tls-https/grpc-webapp": {
        "http://db.istioinaction.svc.cluster.local:5432": "db~:5432 > 5432||db~ > 404",
    },
    "headless/sidecar-webapp": {
        "http://static-novip:7001": "0.0.0.0_7001 > 7001||static-novip~ = 127.0.0.71:7001,127.0.0.72:7001",
        "http://static-novip:7002": host("static-novip~", 7002, "127.0.0.71:7002,127.0.0.72:7002"),
        "http://static-novip:7003": host("static-novip~", 7003, "127.0.0.71:7003,127.0.0.72:7003"),
        "https://static-novip.istioinaction.svc.cluster.local:7004":
            "0.0.0.0_7004 > 7004||static-novip~ = 127.0.0.71:7004,127.0.0.72:7004",
        "https://static-novip:7004": "0.0.0.0_7004 > PassthroughCluster = static-novip:7004",
        "http://none-novip:7011": "0.0.0.0_7011 > 7011||none-novip~ = none-novip:7011",
        "http://none-novip:7012": host("none-novip~", 7012, "none-novip:7012"),
        "http://none-novip:7013": host("none-novip~", 7013, "none-novip:7013"),
        "https://none-novip.istioinaction.svc.cluster.local:7014":
            "0.0.0.0_7014 > 7014||none-novip~ = none-novip~:7014",
        "http://none-vip:7021": "10.96.0.75_7021 > 7021||none-vip~ = 10.96.0.75:7021",
        "http://none-vip:7022": host("none-vip~", 7022, "10.96.0.75:7022"),
        "http://10.97.1.2:7031": "0.0.0.0_7031 > 7031||none-cidr~ = 10.97.1.2:7031",
        "http://10.99.1.2:7031": "0.0.0.0_7031 > PassthroughCluster = 10.99.1.2:7031",
        "http://none-cidr:7032": host("none-cidr~", 7032, "none-cidr:7032"),
        "http://static-cidr:7041": "10.96.0.76_7041 > 7041||static-cidr~ = 127.0.0.76:7041",
        "http://10.98.1.1:7041": "0.0.0.0_7041 > 7041||static-cidr~ = 127.0.0.76:7041",
        "http://10.99.1.1:7041": "0.0.0.0_7041 > PassthroughCluster = 10.99.1.1:7041",
        "http://static-cidr:7042": host("static-cidr~", 7042, "127.0.0.76:7042"),
    },
    "headless/grpc-webapp": {
        "http://none-novip.istioinaction.svc.cluster.local:7012":
            "none-novip~:7012 > 7012||none-novip~ / none-novip~:7012 > 7012||none-novip~ = UH",
    },
    "http-settings/sidecar-webapp": {
        **{f"http://grpc:{port}": host("grpc~", port, f"127.0.0.101:{port}") for port in range(9090, 9094)},
        "http://h2-upgrade": host("h2-upgrade~", 80, "127.0.0.102:3000"),
        "http://use-client-protocol:9090": host("use-client-protocol~", 9090, "127.0.0.105:9090"),
    },
    # ------------------------------------------------------------ hosts outside
    "external-dns/sidecar-webapp": {
        "http://api.example.com": host("api.example.com", 80, "api.example.com:80"),
        "https://api.example.com": "0.0.0.0_443 > 443||api.example.com = api.example.com:443",
        "http://secure.example.com": host("secure.example.com", 80, "secure.example.com:443"),
        "http://a.wild.example.com": host("*.wild.example.com", 80, "a.wild.example.com:80"),
        "http://wild.example.com": f"{OUTSIDE}wild.example.com:80",
        "http://multi.example.com": host("multi.example.com", 80, "a.multi.example.com:8081,b.multi.example.com:8082"),
    },
    "external-name/sidecar-webapp": {
        "http://legacy": host("legacy~", 80, "catalog~:80"),
    },
    "tls-origination/sidecar-webapp": {
        **{f"http://{name}.example.com": host(f"{name}.example.com", 80, f"{name}.example.com:443")
           for name in ("simple", "nosni", "sans", "skip", "mutual", "credential", "h2tls", "sesans")},
        "http://ports.example.com":
            "0.0.0.0_80 > 80 / ports.example.com:80 [3s] > 8080||ports.example.com = ports.example.com:443",
        "http://ports.example.com:8080": host("ports.example.com", 8080, "ports.example.com:443"),
        "https://ports.example.com": "0.0.0.0_443 > 443||ports.example.com = ports.example.com:443",
        "http://subset.example.com":
            host("subset.example.com", 80, "a.subset.example.com:443,b.subset.example.com:443"),
        "http://tcptls.example.com:6000": "0.0.0.0_6000 > 6000||tcptls.example.com = tcptls.example.com:443",
    },
    "tls-origination/grpc-webapp": {
        "http://simple.example.com":
            "simple.example.com:80 > 80||simple.example.com / simple.example.com:80 > 80||simple.example.com = UH",
    },
    "registry-only/sidecar-webapp": {
        "http://example.com": "0.0.0.0_80 > 80 / block_all > direct response 502",
        "http://example.com:9999": "virtualOutbound > BlackHoleCluster = UH",
        "https://example.com": "virtualOutbound > BlackHoleCluster = UH",
    },
    # ------------------------------------------------------------ who sees what
    "sidecar-egress/sidecar-webapp": {
        "http://catalog": CATALOG,
        "http://forum": "0.0.0.0_80 > 80 / block_all > direct response 502",
        "http://example.com:9999": "virtualOutbound > BlackHoleCluster = UH",
    },
    "sidecar-egress/grpc-webapp": {
        G_URL: G_CATALOG, "http://forum.istioinaction.svc.cluster.local": "nothing",
    },
    "sidecar-listeners/sidecar-webapp": {
        ("http://127.0.0.1", ("host", "catalog")): CATALOG.replace("0.0.0.0_80", "127.0.0.1_80"),
        "http://catalog": CATALOG,
        "http://forum": f"{OUTSIDE}forum:80",  # the table of port 80 is that of the port listener
        "http://127.0.0.1:3306": "virtualOutbound > PassthroughCluster = 127.0.0.1:3306",  # no host has that port
    },
    "proof/sidecar-webapp-none": {  # INTERCEPTION_MODE NONE: nothing is taken, all listeners are on loopback
        "http://catalog": catalog("80|version-v1|catalog~@80 = 127.0.0.11:3000 + "
                                  "80|version-v2|catalog~@20 = 127.0.0.12:3000", "127.0.0.1_80 > 80 / catalog~:80"),
        ("http://127.0.0.1", ("host", "catalog"), ("x-istio-cohort", "internal")):
            catalog(V2, "127.0.0.1_80 > 80 / catalog~:80"),
        "http://greeter:9090": "127.0.0.1_9090 > 9090 / greeter~:9090 > "
                               "9090|version-v1|greeter~@80 = 127.0.0.71:9191 + "
                               "9090|version-v2|greeter~@20 = 127.0.0.72:9191",
        "https://istio-ingressgateway.istio-system": f"127.0.0.1_443 > 443||{GATEWAY} = 127.0.0.31:8443",
        "http://example.com": "127.0.0.1_80 > 80 / allow_any > PassthroughCluster = example.com:80",
        "http://example.com:81": "nothing",
    },
    "proof/grpc-webapp": {
        "http://greeter.istioinaction.svc.cluster.local:9090":
            "greeter~:9090 > 9090||greeter~ / greeter~:9090 > 9090|version-v1|greeter~@80 = 127.0.0.71:9191 + "
            "9090|version-v2|greeter~@20 = 127.0.0.72:9191",
    },
    "proof/router-ingress": {
        "http://127.0.0.1:8080": "127.0.0.1_8080 > http.8080.127.0.0.1 / *:80 > 80||webapp~ = 127.0.0.21:8080",
    },
    "visibility/sidecar-webapp": {
        "http://public.other": host("public.other.svc.cluster.local", 80, "127.0.1.1:3000"),
        "http://friend.other": host("friend.other.svc.cluster.local", 80, "127.0.1.3:3000", route=" [seen 2s]"),
        "http://unset.other": "0.0.0.0_80 > 80 / unset.other.svc.cluster.local:80 [to-a-private-host 3s] > "
                              "80||private.other.svc.cluster.local = NC",
        **{f"http://{name}.other": f"{OUTSIDE}{name}.other:80" for name in ("private", "stranger", "nobody")},
    },
    "visibility/grpc-webapp": {
        f"http://{name}.other.svc.cluster.local": "nothing" for name in ("private", "stranger", "nobody")
    },
    "conflict/sidecar-webapp": {  # the older VirtualService of a host, and none of the younger's routes
        "http://catalog/a": "0.0.0.0_80 > 80 / catalog~:80 > 404",
        "http://catalog/b": CATALOG.replace(":80 >", ":80 [b-older] >"),
        "http://forum": FORUM.replace(":80 >", ":80 [short-older 2s] >"),
        "http://webapp": "0.0.0.0_80 > 80 / webapp~:80 [wildcard 9s] > 80||forum~ = 127.0.0.41:8080",
    },
    "conflict/router-ingress": {  # on a gateway they merge, the older first, catch-alls last
        ("http://127.0.0.31:8080/a", ("host", "shop.example")): "0.0.0.0_8080 > http.8080 / shop.example:80 "
            "[gw-a-younger] > 80||catalog~ = 127.0.0.11:3000,127.0.0.12:3000",
        ("http://127.0.0.31:8080/b", ("host", "shop.example")): "0.0.0.0_8080 > http.8080 / shop.example:80 "
            "[gw-b-older] > 80||forum~ = 127.0.0.41:8080",
        ("http://127.0.0.31:8080/", ("host", "shop.example")): "0.0.0.0_8080 > http.8080 / shop.example:80 "
            "[gw-b-default] > 80||forum~ = 127.0.0.41:8080",
    },
    "gateway-tls/router-ingress": {
        "https://forum.example:31400": "0.0.0.0_31400 > 80||forum~ = 127.0.0.41:8080",
        "https://other.example:31400": "nothing",
        "http://anything:31500": "0.0.0.0_31500 > 80||catalog~@90 = 127.0.0.11:3000,127.0.0.12:3000 + "
                                 "80||forum~@10 = 127.0.0.41:8080",
        ("http://127.0.0.31:8080/", ("host", "webapp.example")):
            "0.0.0.0_8080 > http.8080 / webapp.example:80 > redirect 301",
        "https://webapp.example:8443": "0.0.0.0_8443 > 404",  # the gateway's own TLS: not an application's
    },
    "gateway-tls/sidecar-webapp": {
        "http://catalog.example": CATALOG.replace("catalog~:80 >", "catalog.example:80 >"),
    },
}  # fmt: skip

for _capture, _cases in MORE.items():
    CASES[_capture] = CASES.get(_capture, {}) | _cases
