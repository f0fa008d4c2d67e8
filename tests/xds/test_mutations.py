"""Damaged responses: refused with a fault that names something, or understood; never a crash, never a loss."""

import time
from random import Random

import pytest
from google.protobuf.message import DecodeError
from tenacity.wait import wait_fixed

from honesty.captured import DATA, resources
from honesty.fuzzing import corpus, run
from honesty.mutating import aggregate, damaged_response, deep_metadata, nested_policies
from meshlib.settings import Identity
from meshlib.xds.bootstrap import for_address
from meshlib.xds.client import XdsClient
from meshlib.xds.protos import cluster_pb2, discovery_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE

SEEDS = 5000


@pytest.mark.slow
def test_damaged_responses_harm_nothing(caplog):
    """The first seeds of `make fuzz`, on the captures that are in the repository."""
    summary = run(0, SEEDS, corpus(everything=False), stop_at_first=True)
    assert summary.outcomes["rejected"] > SEEDS / 5
    assert summary.outcomes["accepted"] > SEEDS / 5
    assert summary.grown_mib < 20
    assert "decoding failed" not in caplog.text


def test_the_damage_of_a_seed_is_always_the_same():
    good = [each for url, packed in resources(DATA / "default-sidecar-webapp.pb") for each in packed if url == CLUSTER]
    parse = cluster_pb2.Cluster.FromString
    assert all(
        damaged_response(CLUSTER, good, Random(seed), parse) == damaged_response(CLUSTER, good, Random(seed), parse)
        for seed in range(50)
    )


def of(url, parse, data, **changes):
    return RESOURCE_TYPES[url].decode("it", parse(url, {"name": "it", **data, **changes}))


def places(decoded):
    return [fault.field_path for fault in decoded.faults]


STATIC = {"type": "STATIC", "name": "it"}
ENDPOINT_AT = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}}}}


def group(**fields):
    return {"cluster_name": "it", "endpoints": [{"lb_endpoints": [ENDPOINT_AT], **fields}]}


def routed(**action):
    return {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}]}


R0 = "virtual_hosts[0].routes[0]."
NAN = {"common_lb_config": {"healthy_panic_threshold": {"value": "NaN"}}}
RING = {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"hash_function": 7}}
HUGE = {"weighted_clusters": {"clusters": [{"name": n, "weight": 4294967295} for n in "ab"]}}


@pytest.mark.parametrize(
    ("url", "data", "path"),
    [
        (CLUSTER, NAN, "common_lb_config.healthy_panic_threshold"),
        (CLUSTER, {"type": "EDS"}, "eds_cluster_config.eds_config"),
        (CLUSTER, {"type": "STRICT_DNS", "connect_timeout": "0s"}, "connect_timeout"),
        (CLUSTER, {"connect_timeout": "-1s"}, "connect_timeout"),
        (CLUSTER, {"name": ""}, "name"),
        (CLUSTER, {"lb_policy": 99}, "lb_policy"),
        (CLUSTER, {"type": 99}, "type"),
        (CLUSTER, {"circuit_breakers": {"thresholds": [{"priority": 7}]}}, "circuit_breakers.thresholds[0].priority"),
        (CLUSTER, RING, "ring_hash_lb_config.hash_function"),
        (ROUTE, routed(**HUGE), R0 + "route.weighted_clusters.clusters"),
        (ROUTE, routed(cluster="c", cluster_not_found_response_code=9), R0 + "route.cluster_not_found_response_code"),
        (ROUTE, routed(), R0 + "route.cluster"),
        (ROUTE, routed(cluster="c", timeout="-0.5s"), R0 + "route.timeout"),
        (ROUTE, {"virtual_hosts": [{"name": "v", "domains": ["*"], "require_tls": 7}]}, "virtual_hosts[0].require_tls"),
        (LISTENER, {}, "filter_chains"),
    ],
)
def test_what_cannot_be_is_a_fault_of_its_field(url, data, path, parse):
    base = {CLUSTER: STATIC, ROUTE: {}, LISTENER: {}}[url]
    assert path in places(of(url, parse, base, **data))


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"priority": 4294967295}, "endpoints[0].priority"),
        ({"load_balancing_weight": 0}, "endpoints[0].load_balancing_weight"),
    ],
)
def test_priorities_and_weights_of_endpoints(fields, path, parse):
    decoded = RESOURCE_TYPES[ENDPOINT].decode("it", parse(ENDPOINT, group(**fields)))
    assert places(decoded) == [path]


@pytest.mark.parametrize("regex", ["(", "(?=a)", "a{1000}{1000}", "(" * 5000, "x" * 5_000_000])
def test_a_regex_that_re2_does_not_take(regex, parse):
    match = {"safe_regex": {"regex": regex}}
    data = {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": match, "route": {"cluster": "c"}}]}]}
    started = time.perf_counter()
    decoded = of(ROUTE, parse, data)
    assert places(decoded) == [R0 + "match.safe_regex.regex"]
    assert len(str(decoded.faults[0])) < 1000
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("members", [("a",), ("b", "a")])
def test_aggregates_of_themselves(members):
    packed = discovery_pb2.DiscoveryResponse().resources.add(type_url=CLUSTER, value=aggregate("a", *members))
    found = RESOURCE_TYPES[CLUSTER].examine(packed.SerializeToString())
    assert found.faults == ()  # as Envoy, where a member that is an aggregate itself adds nothing
    assert found.resource.references == tuple((CLUSTER, member) for member in members)


def read_cluster(data):
    packed = discovery_pb2.DiscoveryResponse().resources.add(type_url=CLUSTER, value=data)
    return RESOURCE_TYPES[CLUSTER].examine(packed.SerializeToString())


def test_metadata_nested_deeper_than_protobuf_reads():
    chance = Random(0)
    faults = [fault.message for _ in range(50) for fault in read_cluster(deep_metadata(chance)).faults]
    deep = [message for message in faults if "does not parse" in message]
    assert 0 < len(deep) < 50


@pytest.mark.parametrize(("depth", "path"), [(14, None), (15, "load_balancing_policy"), (900, "load_balancing_policy")])
def test_policies_nested_in_policies(depth, path, parse):
    message = parse(CLUSTER, STATIC)
    message.load_balancing_policy.policies.add().typed_extension_config.typed_config.Pack(nested_policies(depth))
    faults = places(RESOURCE_TYPES[CLUSTER].decode("it", message))
    assert [fault.partition(".")[0] for fault in faults] == ([path] if path else [])


def test_a_long_text_is_not_quoted_whole(parse):
    long = "x" * 10_000_000
    decoded = of(CLUSTER, parse, {"name": "it", "cluster_type": {"name": long}})
    assert decoded.faults
    assert all(len(str(fault)) < 2000 for fault in decoded.faults)


def test_invalid_utf8_is_a_fault_of_the_resource():
    received = read_cluster(b"\x0a\x02\xff\xfe")
    assert received.resource is None
    assert "does not parse" in received.faults[0].message


def test_the_client_lives_through_damaged_responses(ads_server, caplog):
    """Real gRPC: the thread lives, what was good stays, and what is good again is taken."""
    good = {url: {} for url in RESOURCE_TYPES}
    for url, packed in resources(DATA / "default-sidecar-webapp.pb"):
        good[url] |= {RESOURCE_TYPES[url].examine(each.SerializeToString()).name: each for each in packed}
    server = ads_server()
    for url, packed in good.items():
        server.resources[url] = {
            name: RESOURCE_TYPES[url].message.FromString(each.value) for name, each in packed.items()
        }
    snapshots = []
    client = XdsClient(for_address(server.address, Identity()), snapshots.append, reconnect=wait_fixed(0.01))
    client.start()
    try:
        await_(lambda: snapshots and client.status.versions.keys() == {"CDS", "EDS", "LDS", "RDS", "NDS"})
        first, thread = snapshots[-1], client._thread
        for seed in range(400):
            chance = Random(seed)
            url = chance.choice([url for url in good if good[url]])
            data = damaged_response(url, list(good[url].values()), chance, RESOURCE_TYPES[url].message.FromString)
            if readable(data) or seed % 40 == 0:  # what is not readable costs a new stream
                server.push(data)
        await_(lambda: server.requests[-1][1].response_nonce)
        server.update("good again")
        await_(lambda: set(client.status.versions.values()) == {"good again"} and client.status.faults == ())
        await_(lambda: snapshots[-1].clusters == first.clusters and snapshots[-1].listeners == first.listeners)
        assert client._thread is thread
        assert thread.is_alive()
        assert snapshots[-1].routes.keys() >= first.routes.keys()
    finally:
        client.close()
    assert "Traceback" not in caplog.text
    assert "decoding failed" not in caplog.text


def readable(data):
    try:
        return bool(discovery_pb2.DiscoveryResponse.FromString(data).type_url)
    except DecodeError:
        return False


def await_(wanted):
    deadline = time.monotonic() + 20
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def policies(*types):
    entries = [{"typed_extension_config": {"name": "p", "typed_config": {"@type": kind}}} for kind in types]
    return {"load_balancing_policy": {"policies": entries}}


def test_a_list_without_a_load_balancing_policy_is_refused_as_envoy_does(parse):
    unknown = "type.googleapis.com/google.protobuf.Empty"
    other = "envoy.extensions.load_balancing_policies.load_aware_locality.v3.LoadAwareLocality"
    for nothing in (policies(), policies(unknown), {"load_balancing_policy": {"policies": [{}]}}):
        assert places(of(CLUSTER, parse, STATIC, **nothing)) == ["load_balancing_policy.policies"]
    message = parse(CLUSTER, {**STATIC, **policies(unknown, unknown)})
    message.load_balancing_policy.policies[
        1
    ].typed_extension_config.typed_config.type_url = f"type.googleapis.com/{other}"
    taken = RESOURCE_TYPES[CLUSTER].decode("it", message)
    assert taken.faults == ()
    assert [note.consequence for note in taken.notes] == [f"{other} is not done: round robin is"]


def test_protocol_options_without_a_protocol_are_refused_as_envoy_does(parse):
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {kind: {"@type": f"type.googleapis.com/{kind}", "explicit_http_config": {}}}
    (place,) = places(of(CLUSTER, parse, STATIC, typed_extension_protocol_options=options))
    assert place.endswith("explicit_http_config")
