"""What fields come to, where that is more than copying, and what is noted instead of honoured."""

import pytest
from google.protobuf import any_pb2, json_format, wrappers_pb2

from meshlib.model.balancing import ConsistentHashing, HashFunction, LbPolicy
from meshlib.model.cluster import NO_BOUNDS, UINT32_MAX, ConnectionLife, OutlierDetection, RetryBudget
from meshlib.model.endpoint import HealthStatus, Workload
from meshlib.model.headers import AppendAction, FilterMutations
from meshlib.model.match import HeaderMatch, QueryMatch, StringMatch, StringOp
from meshlib.model.rewrite import RegexRewrite
from meshlib.model.route import DirectResponse, Redirect, StreamDuration, WeightedCluster
from meshlib.model.template import Template
from meshlib.model.traffic import (
    CookieToMake,
    FaultAbort,
    FaultDelay,
    FaultInjection,
    HashOn,
    HashPolicy,
    RateLimitedBackOff,
    ResetHeader,
    RetryPolicy,
)
from meshlib.xds.assembly import pack
from meshlib.xds.config_source import elsewhere, in_file
from meshlib.xds.documents import import_types
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER, ENDPOINT, LISTENER, ROUTE

EXT = "type.googleapis.com/envoy.extensions."
HTTP_OPTIONS = EXT + "upstreams.http.v3.HttpProtocolOptions"
FAULT = EXT + "filters.http.fault.v3.HTTPFault"
FILTER_CONFIG = "type.googleapis.com/envoy.config.route.v3.FilterConfig"


def decoded(url, data):
    import_types(data)
    message = json_format.ParseDict(data, RESOURCE_TYPES[url].message())
    found = RESOURCE_TYPES[url].decode("it", message)
    assert found.faults == ()
    return found


def value(url, data):
    return decoded(url, data).value


def noted(url, data):
    return {note.field_path: note.consequence for note in decoded(url, data).notes}


def table(*routes, **fields):
    hosts = [{"name": "v", "domains": ["*"], "routes": list(routes), **fields.pop("host", {})}]
    return {"name": "80", "virtual_hosts": hosts, **fields}


def route(**fields):
    return {"match": {"prefix": "/"}, "route": {"cluster": "a"}, **fields}


def first(data):
    return value(ROUTE, data).virtual_hosts[0].routes[0]


def fault(status):
    return {
        "envoy.filters.http.fault": {"@type": FAULT, "abort": {"http_status": status, "percentage": {"numerator": 7}}}
    }


def injected(status):
    return FaultInjection(abort=FaultAbort(7.0, status=status))


# Routes


@pytest.mark.parametrize(
    ("matcher", "expected"),
    [
        ({"exact_match": "v"}, HeaderMatch("x", StringMatch(StringOp.EXACT, "v"))),
        ({"prefix_match": "v"}, HeaderMatch("x", StringMatch(StringOp.PREFIX, "v"))),
        ({"suffix_match": "v"}, HeaderMatch("x", StringMatch(StringOp.SUFFIX, "v"))),
        ({"contains_match": "v"}, HeaderMatch("x", StringMatch(StringOp.CONTAINS, "v"))),
        ({"safe_regex_match": {"regex": "v+"}}, HeaderMatch("x", StringMatch(StringOp.REGEX, "v+"))),
        (
            {"string_match": {"exact": "V", "ignore_case": True}},
            HeaderMatch("x", StringMatch(StringOp.EXACT, "V", True)),
        ),
        ({"range_match": {"start": 1, "end": 5}}, HeaderMatch("x", range_=(1, 5))),
        ({"present_match": False}, HeaderMatch("x", present=False)),
        ({}, HeaderMatch("x", present=True)),
        ({"invert_match": True}, HeaderMatch("x", present=True, invert=True)),
        (
            {"exact_match": "v", "treat_missing_header_as_empty": True},
            HeaderMatch("x", StringMatch(StringOp.EXACT, "v"), treat_missing_as_empty=True),
        ),
    ],
)
def test_header_matchers(matcher, expected):
    match = {"prefix": "/", "headers": [{"name": "x", **matcher}]}
    assert first(table(route(match=match))).match.headers == (expected,)


@pytest.mark.parametrize(
    ("matcher", "expected"),
    [
        ({}, QueryMatch("q")),
        ({"present_match": True}, QueryMatch("q")),
        ({"present_match": False}, QueryMatch("q", present=False)),
        ({"string_match": {"prefix": "v"}}, QueryMatch("q", StringMatch(StringOp.PREFIX, "v"))),
    ],
)
def test_query_matchers(matcher, expected):
    match = {"prefix": "/", "query_parameters": [{"name": "q", **matcher}]}
    assert first(table(route(match=match))).match.query == (expected,)


METADATA = {"filter": "f", "path": [{"key": "k"}], "value": {"string_match": {"exact": "v"}}}


@pytest.mark.parametrize(
    ("field", "match", "names"),
    [
        ("connect_matcher", {"connect_matcher": {}}, ["next"]),
        ("", {"prefix": "/", "tls_context": {"presented": True}}, ["next"]),
        ("", {"prefix": "/", "tls_context": {"presented": False}}, ["first", "next"]),
        ("dynamic_metadata", {"prefix": "/", "dynamic_metadata": [METADATA]}, ["next"]),
        ("dynamic_metadata", {"prefix": "/", "dynamic_metadata": [{**METADATA, "invert": True}]}, ["first", "next"]),
    ],
)
def test_a_route_no_call_can_meet_is_left_out(field, match, names):
    data = table(route(match=match, name="first"), route(name="next"))
    assert [r.name for r in value(ROUTE, data).virtual_hosts[0].routes] == names
    assert list(noted(ROUTE, data)) == ([f"virtual_hosts[0].routes[0].match.{field}"] if field else [])


@pytest.mark.parametrize(
    ("action", "name"),
    [
        ({"route": {"cluster_specifier_plugin": "p"}}, "(cluster_specifier_plugin is not supported)"),
        ({"non_forwarding_action": {}}, "(non_forwarding_action is not supported)"),
    ],
)
def test_an_action_that_is_not_done_leads_nowhere_rather_than_elsewhere(action, name):
    data = table({"match": {"prefix": "/"}, **action}, cluster_specifier_plugins=[{"extension": {"name": "p"}}])
    assert [target.name for target in first(data).action.clusters] == [name]
    assert list(noted(ROUTE, data).values()) == ["leads nowhere: a call that matches meets NC"]


def test_a_header_that_names_the_cluster():
    action = first(table(route(route={"cluster_header": "X-Cluster"}))).action
    assert action.clusters == (WeightedCluster("", header="x-cluster"),)


@pytest.mark.parametrize(("wins", "order"), [(False, "rvt"), (True, "tvr")])
def test_levels_of_header_mutations(wins, order):
    def level(value):
        return {"request_headers_to_add": [{"header": {"key": "X-A", "value": value}}]}

    data = table(route(**level("r")), host=level("v"), most_specific_header_mutations_wins=wins, **level("t"))
    steps = first(data).request_headers.steps
    assert [str(header.value) for step in steps for header in step.add] == list(order)
    assert {header.name for step in steps for header in step.add} == {"x-a"}
    assert noted(ROUTE, data) == {}


@pytest.mark.parametrize(
    ("option", "action"),
    [
        ({}, AppendAction.APPEND_IF_EXISTS_OR_ADD),
        ({"append": True}, AppendAction.APPEND_IF_EXISTS_OR_ADD),
        ({"append": False}, AppendAction.OVERWRITE_IF_EXISTS_OR_ADD),
        *(({"append_action": action.name}, action) for action in AppendAction),
    ],
)
def test_append_actions(option, action):
    data = table(route(response_headers_to_add=[{"header": {"key": "a", "value": "b"}, **option}]))
    assert first(data).response_headers.steps[0].add[0].action is action


def test_rewrites_of_host_and_path():
    regex = {"pattern": {"regex": "a"}, "substitution": "b"}
    action = first(table(route(route={"cluster": "a", "regex_rewrite": regex, "host_rewrite_header": "X-H"}))).action
    assert (action.regex_rewrite, action.host_rewrite_header) == (RegexRewrite("a", "b"), "x-h")
    action = first(table(route(route={"cluster": "a", "path_rewrite": "/%REQ(a)%", "auto_host_rewrite": True}))).action
    assert (action.path_rewrite, action.auto_host_rewrite) == (Template("/%REQ(a)%"), True)


def test_direct_responses_and_redirects():
    direct = {"match": {"prefix": "/"}, "direct_response": {"status": 403, "body": {"inline_bytes": "w6k="}}}
    assert first(table(direct)).action == DirectResponse(403, "é")
    redirect = {
        "https_redirect": True,
        "host_redirect": "h",
        "port_redirect": 8443,
        "prefix_rewrite": "/p",
        "response_code": "PERMANENT_REDIRECT",
        "strip_query": True,
    }
    found = first(table({"match": {"prefix": "/"}, "redirect": redirect})).action
    assert found == Redirect(308, "https", "h", 8443, prefix="/p", strip_query=True)


def test_the_routes_retry_policy_replaces_the_hosts_whole():
    host = {"retry_policy": {"retry_on": "5xx", "num_retries": 7}}
    own = route(route={"cluster": "a", "retry_policy": {"retry_on": "reset"}})
    assert first(table(own, host=host)).action.retry == RetryPolicy(frozenset({"reset"}))
    assert first(table(route(), host=host)).action.retry == RetryPolicy(frozenset({"5xx"}), num_retries=7)
    assert first(table(route())).action.retry is None


PREDICATES = "type.googleapis.com/envoy.extensions.retry.host"


def test_a_retry_policy_in_full():
    policy = {
        "retry_on": " 5xx , retriable-status-codes,,bogus",
        "num_retries": 0,
        "per_try_timeout": "2.5s",
        "retriable_status_codes": [418],
        "retriable_headers": [{"name": "x-again"}],
        "retriable_request_headers": [{"name": "x-safe", "present_match": True}],
        "rate_limited_retry_back_off": {
            "reset_headers": [{"name": "Retry-After"}, {"name": "x-reset", "format": "UNIX_TIMESTAMP"}]
        },
        "retry_back_off": {"base_interval": "0.0002s", "max_interval": "1s"},
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts"},
            {"name": "c", "typed_config": {"@type": f"{PREDICATES}.omit_canary_hosts.v3.OmitCanaryHostsPredicate"}},
            {
                "name": "m",
                "typed_config": {
                    "@type": f"{PREDICATES}.omit_host_metadata.v3.OmitHostMetadataConfig",
                    "metadata_match": {"filter_metadata": {"envoy.lb": {"stage": "old", "arch": "arm"}}},
                },
            },
        ],
        "retry_priority": {
            "name": "p",
            "typed_config": {
                "@type": EXT + "retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 2,
            },
        },
        "per_try_idle_timeout": "3s",
    }
    data = table(route(route={"cluster": "a", "retry_policy": policy}))
    assert first(data).action.retry == RetryPolicy(
        retry_on=frozenset({"5xx", "retriable-status-codes", "bogus"}),
        num_retries=0,
        per_try_timeout=2.5,
        retriable_status_codes=frozenset({418}),
        retriable_headers=(HeaderMatch("x-again", present=True),),
        retriable_request_headers=(HeaderMatch("x-safe", present=True),),
        rate_limited=RateLimitedBackOff((ResetHeader("retry-after"), ResetHeader("x-reset", timestamp=True)), 300.0),
        base_interval=0.001,
        max_interval=1.0,
        previous_hosts=True,
        omit_canary_hosts=True,
        omit_host_metadata=((("arch", "arm"), ("stage", "old")),),
        host_selection_max_attempts=5,
        previous_priorities=2,
        per_try_idle_timeout=3.0,
    )
    place = "virtual_hosts[0].routes[0].route.retry_policy."
    assert noted(ROUTE, data) == {
        place + "retry_on": "'bogus' is no condition Envoy knows; it never holds",
    }


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((), None),
        (("table",), 501),
        (("table", "host"), 502),
        (("table", "host", "route"), 503),
        (("table", "route"), 503),
    ],
)
def test_the_nearest_fault_counts(levels, expected):
    def at(level, status):
        return {"typed_per_filter_config": fault(status)} if level in levels else {}

    data = table(route(**at("route", 503)), host=at("host", 502), **at("table", 501))
    assert first(data).fault == (None if expected is None else injected(expected))


def test_a_weighted_cluster_may_have_a_fault_of_its_own():
    targets = [{"name": "a", "weight": 1}, {"name": "b", "weight": 3, "typed_per_filter_config": fault(418)}]
    clusters = first(table(route(route={"weighted_clusters": {"clusters": targets}}))).action.clusters
    assert [(c.name, c.weight, c.fault) for c in clusters] == [("a", 1, None), ("b", 3, injected(418))]


@pytest.mark.parametrize(
    "config",
    [
        {"@type": FAULT},
        {"@type": FILTER_CONFIG, "disabled": True},
        {"@type": FILTER_CONFIG, "config": {"@type": FAULT}},
    ],
)
def test_an_empty_or_disabled_fault_switches_off_what_it_overrides(config):
    own = route(typed_per_filter_config={"envoy.filters.http.fault": config})
    found = first(table(own, host={"typed_per_filter_config": fault(500)}))
    assert found.fault == FaultInjection()


def test_faults_by_header():
    share = {"numerator": 50, "denominator": "TEN_THOUSAND"}
    config = {
        "@type": FAULT,
        "delay": {"header_delay": {}, "percentage": share},
        "abort": {"header_abort": {}, "percentage": {"numerator": 50}},
        "max_active_faults": 3,
    }
    data = table(route(typed_per_filter_config={"envoy.filters.http.fault": config}))
    assert first(data).fault == FaultInjection(
        FaultDelay(0.0, 0.5, by_header=True, unit=0.01), FaultAbort(50.0, by_header=True, unit=1.0), max_active=3
    )
    assert noted(ROUTE, data) == {}


def test_drop_overloads():
    drops = [{"category": "any", "drop_percentage": {"numerator": 30}}]
    data = {"cluster_name": "a", "policy": {"drop_overloads": drops}}
    assert value(ENDPOINT, data).drop_percentage == 30.0
    assert noted(ENDPOINT, data) == {}
    assert value(ENDPOINT, {"cluster_name": "a"}).drop_percentage == 0.0
    two = {"cluster_name": "a", "policy": {"drop_overloads": drops * 2}}
    kind = RESOURCE_TYPES[ENDPOINT]
    (fault,) = kind.decode("a", json_format.ParseDict(two, kind.message())).faults
    assert fault.message == "has 2 categories; Envoy takes one"


@pytest.mark.parametrize(
    ("denominator", "percentage"), [("HUNDRED", 25.0), ("TEN_THOUSAND", 0.25), ("MILLION", 0.0025)]
)
def test_fractions(denominator, percentage):
    config = {
        "@type": FAULT,
        "delay": {"fixed_delay": "0.5s", "percentage": {"numerator": 25, "denominator": denominator}},
    }
    data = table(route(typed_per_filter_config={"envoy.filters.http.fault": config}))
    assert first(data).fault.delay == FaultDelay(0.5, percentage)


def test_a_route_says_what_of_it_is_not_honoured_and_where_it_comes_from():
    own = route(
        metadata={"filter_metadata": {"meshlib": {"source": "vs.yaml:7"}, "istio": {"config": "/apis/x"}}},
        request_headers_to_add=[{"header": {"key": "a", "value": "%DURATION%"}}],
        decorator={"operation": "irrelevant"},
    )
    found = first(table(own))
    assert found.unsupported == ("virtual_hosts[0].routes[0].request_headers_to_add[0].header.value",)
    assert found.source == "vs.yaml:7"


@pytest.mark.parametrize(
    ("fields", "timeout", "limit"),
    [
        ({"max_stream_duration": "3s"}, 0.0, StreamDuration(3.0)),
        ({"max_stream_duration": "0s"}, 0.0, StreamDuration(0.0)),
        (
            {"grpc_timeout_header_max": "4s", "grpc_timeout_header_offset": "1s"},
            0.0,
            StreamDuration(None, 4.0, 1.0),
        ),
    ],
)
def test_max_stream_duration_does_away_with_the_timeout(fields, timeout, limit):
    data = table(
        route(route={"cluster": "a", "timeout": "2s", "max_grpc_timeout": "1s", "max_stream_duration": fields})
    )
    action = first(data).action
    assert (action.timeout, action.stream_duration, action.grpc_timeout) == (timeout, limit, None)
    assert noted(ROUTE, data) == {}


@pytest.mark.parametrize(
    ("host", "of_route", "limits"),
    [
        ({}, {}, (None, None)),
        ({"request_body_buffer_limit": 9}, {"per_request_buffer_limit_bytes": 5}, (9, 5)),
        ({"per_request_buffer_limit_bytes": 9}, {"per_request_buffer_limit_bytes": 0}, (None, 0)),
        ({"request_body_buffer_limit": 9}, {"request_body_buffer_limit": 7}, (7, None)),
    ],
)
def test_buffer_limits_are_inherited_each_by_itself(host, of_route, limits):
    data = table(route(**of_route))
    data["virtual_hosts"][0].update(host)
    action = first(data).action
    assert (action.body_limit, action.body_limit_min) == limits


@pytest.mark.parametrize(
    ("host", "of_route", "hedges"),
    [({}, None, False), (True, None, True), (True, {}, False), ({}, {"hedge_on_per_try_timeout": True}, True)],
)
def test_a_route_s_hedge_policy_replaces_the_host_s(host, of_route, hedges):
    action = {"cluster": "a"} if of_route is None else {"cluster": "a", "hedge_policy": of_route}
    data = table(route(route=action))
    if host:
        data["virtual_hosts"][0]["hedge_policy"] = {"hedge_on_per_try_timeout": True}
    assert first(data).action.hedge is hedges


# Clusters and endpoints


CA = {"trusted_ca": {"filename": "/ca.pem"}}


def cluster(**fields):
    return {"name": "a", "type": "STATIC", **fields}


@pytest.mark.parametrize(
    ("socket", "secure", "detail"),
    [
        ({"name": "envoy.transport_sockets.raw_buffer"}, False, ""),
        ({"name": "x", "typed_config": {"@type": EXT + "transport_sockets.raw_buffer.v3.RawBuffer"}}, False, ""),
        ({"name": "tls"}, True, "tls"),
        (
            {"name": "x", "typed_config": {"@type": EXT + "transport_sockets.tls.v3.UpstreamTlsContext", "sni": "s"}},
            True,
            "TLS, SNI s, the server's certificate not verified",
        ),
        (
            {"name": "x", "typed_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "?"}},
            True,
            "google.protobuf.StringValue",
        ),
    ],
)
def test_only_a_raw_buffer_is_plaintext(socket, secure, detail):
    found = value(CLUSTER, cluster(transport_socket=socket)).transport_socket
    assert (found.secure, found.detail) == (secure, detail)
    assert bool(found.refusal) is (secure and found.tls is None)


@pytest.mark.parametrize(
    ("fields", "http2"),
    [
        ({}, False),
        ({"http2_protocol_options": {}}, True),
        ({"explicit_http_config": {"http2_protocol_options": {}}}, True),
        ({"explicit_http_config": {"http_protocol_options": {}}}, False),
        ({"use_downstream_protocol_config": {"http2_protocol_options": {}}}, False),
    ],
)
def test_http2_by_prior_knowledge(fields, http2):
    if fields and "http2_protocol_options" not in fields:
        fields = {"typed_extension_protocol_options": {"o": {"@type": HTTP_OPTIONS, **fields}}}
    assert value(CLUSTER, cluster(**fields)).http2 is http2


@pytest.mark.parametrize(
    ("options", "life"),
    [
        ({"idle_timeout": "300s"}, ConnectionLife(idle_timeout=300.0)),
        ({"idle_timeout": "0s"}, NO_BOUNDS),
        ({"max_connection_duration": "9s", "max_requests_per_connection": 3}, ConnectionLife(longest=9.0, requests=3)),
    ],
)
def test_how_long_connections_are_kept(options, life):
    data = cluster(common_http_protocol_options=options)
    assert value(CLUSTER, data).connections == life
    assert noted(CLUSTER, data) == {}


def test_thresholds_by_priority_and_per_host():
    breakers = {
        "thresholds": [{"max_requests": 1}, {"priority": "HIGH", "max_requests": 2}, {"max_requests": 3}],
        "per_host_thresholds": [{"max_connections": 4}],
    }
    found = value(CLUSTER, cluster(circuit_breakers=breakers))
    assert (found.thresholds.max_requests, found.high_thresholds.max_requests) == (1, 2)
    assert found.thresholds.max_connections_per_host == 4
    assert found.high_thresholds.max_connections_per_host == UINT32_MAX


def policies(*kinds):
    entries = [
        {"typed_extension_config": {"name": "p", "typed_config": {"@type": f"{EXT}load_balancing_policies.{kind}"}}}
        for kind in kinds
    ]
    return {"load_balancing_policy": {"policies": entries}}


@pytest.mark.parametrize(
    ("fields", "policy", "notes"),
    [
        ({}, LbPolicy.ROUND_ROBIN, {}),
        ({"lb_policy": "RANDOM"}, LbPolicy.RANDOM, {}),
        ({"lb_policy": "LEAST_REQUEST"}, LbPolicy.LEAST_REQUEST, {}),
        ({"lb_policy": "RING_HASH"}, LbPolicy.RING_HASH, {}),
        ({"lb_policy": "MAGLEV"}, LbPolicy.MAGLEV, {}),
        ({"lb_policy": "RING_HASH", **policies("random.v3.Random")}, LbPolicy.RANDOM, {}),
        (policies("least_request.v3.LeastRequest"), LbPolicy.LEAST_REQUEST, {}),
        (policies("maglev.v3.Maglev"), LbPolicy.MAGLEV, {}),
        (policies("pick_first.v3.PickFirst", "ring_hash.v3.RingHash"), LbPolicy.PICK_FIRST, {}),
        (
            policies("client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin"),
            LbPolicy.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN,
            {},
        ),
    ],
)
def test_load_balancing(fields, policy, notes):
    assert value(CLUSTER, cluster(**fields)).lb_policy is policy
    assert noted(CLUSTER, cluster(**fields)) == notes


def extension(kind, **config):
    packed = {"@type": f"{EXT}load_balancing_policies.{kind}", **config}
    return {"load_balancing_policy": {"policies": [{"typed_extension_config": {"name": "p", "typed_config": packed}}]}}


CONSISTENT = {"use_hostname_for_hashing": True, "hash_balance_factor": 150}
RING = {"minimum_ring_size": 10, "maximum_ring_size": 20, "hash_function": "MURMUR_HASH_2"}


@pytest.mark.parametrize(
    ("fields", "hashing"),
    [
        ({"lb_policy": "RING_HASH"}, ConsistentHashing()),
        (
            {
                "lb_policy": "RING_HASH",
                "ring_hash_lb_config": RING,
                "common_lb_config": {"consistent_hashing_lb_config": CONSISTENT},
            },
            ConsistentHashing(10, 20, HashFunction.MURMUR_HASH_2, use_hostname=True, balance_factor=150),
        ),
        (
            extension("ring_hash.v3.RingHash", **RING, consistent_hashing_lb_config=CONSISTENT),
            ConsistentHashing(10, 20, HashFunction.MURMUR_HASH_2, use_hostname=True, balance_factor=150),
        ),
        (extension("ring_hash.v3.RingHash", hash_function="XX_HASH"), ConsistentHashing()),
        ({"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 101}}, ConsistentHashing(table_size=101)),
        (
            extension("maglev.v3.Maglev", table_size=101, consistent_hashing_lb_config=CONSISTENT),
            ConsistentHashing(table_size=101, use_hostname=True, balance_factor=150),
        ),
    ],
)
def test_consistent_hashing(fields, hashing):
    assert value(CLUSTER, cluster(**fields)).balancing.hashing == hashing
    assert noted(CLUSTER, cluster(**fields)) == {}


@pytest.mark.parametrize(
    ("policy", "wanted", "notes"),
    [
        ({"header": {"header_name": "X-User"}}, HashPolicy(HashOn.HEADER, "x-user"), {}),
        ({"query_parameter": {"name": "Id"}, "terminal": True}, HashPolicy(HashOn.QUERY_PARAMETER, "Id", True), {}),
        ({"cookie": {"name": "Sid", "path": "/"}}, HashPolicy(HashOn.COOKIE, "Sid"), {}),
        (
            {"cookie": {"name": "sid", "ttl": "60s"}},
            HashPolicy(HashOn.COOKIE, "sid", cookie=CookieToMake(60)),
            {},
        ),
        (
            {"connection_properties": {"source_ip": True}},
            HashPolicy(HashOn.NOTHING),
            {
                "connection_properties": "a call from the process has no source address: a request that has nothing "
                "else to hash goes to an endpoint at random"
            },
        ),
        (
            {"header": {"header_name": "a", "regex_rewrite": {"pattern": {"regex": "x+"}, "substitution": "y"}}},
            HashPolicy(HashOn.HEADER, "a", rewrite=RegexRewrite("x+", "y")),
            {},
        ),
    ],
)
def test_hash_policies(policy, wanted, notes):
    routes = table({"match": {"prefix": "/"}, "route": {"cluster": "c", "hash_policy": [policy]}})
    assert first(routes).action.hash_policies == (wanted,)
    place = "virtual_hosts[0].routes[0].route.hash_policy[0]."
    assert noted(ROUTE, routes) == {place + field: note for field, note in notes.items()}


def test_thresholds_are_those_of_the_default_priority():
    thresholds = [{"priority": "HIGH", "max_requests": 1}, {"max_requests": 2}, {"max_requests": 3}]
    found = value(CLUSTER, cluster(circuit_breakers={"thresholds": thresholds}))
    assert (found.thresholds.max_requests, found.thresholds.max_retries) == (2, 3)


def test_a_retry_budget():
    def budget(**fields):
        config = cluster(circuit_breakers={"thresholds": [{"retry_budget": fields}]})
        assert noted(CLUSTER, config) == {}
        return value(CLUSTER, config).thresholds.retry_budget

    assert budget() == RetryBudget(20.0, 3)
    assert budget(budget_percent={"value": 0}, min_retry_concurrency=0) == RetryBudget(0.0, 0)
    assert value(CLUSTER, cluster()).thresholds.retry_budget is None


def test_detectors_that_compare():
    config = cluster(outlier_detection={})
    assert noted(CLUSTER, config) == {}
    assert value(CLUSTER, config).outlier == OutlierDetection()
    assert value(CLUSTER, config).outlier.compares
    fields = {"enforcing_success_rate": 0, "enforcing_failure_percentage": 0, "failure_percentage_threshold": 50}
    config = cluster(outlier_detection={**fields, "max_ejection_time_jitter": "2s"})
    assert noted(CLUSTER, config) == {}
    found = value(CLUSTER, config).outlier
    assert (found.compares, found.failure_percentage_threshold, found.max_ejection_time_jitter) == (False, 50, 2.0)


@pytest.mark.parametrize(
    ("status", "health"),
    [("UNKNOWN", HealthStatus.UNKNOWN), ("DRAINING", HealthStatus.DRAINING), ("DEGRADED", HealthStatus.DEGRADED)],
)
def test_endpoints(status, health):
    lb = {
        "endpoint": {"address": {"socket_address": {"address": "::1", "port_value": 5}}, "hostname": "h"},
        "health_status": status,
        "load_balancing_weight": 4,
        "metadata": {"filter_metadata": {"istio": {"workload": "w;ns;;v2"}, "x": {"n": [1, None, {"a": True}]}}},
    }
    group = {"lb_endpoints": [lb], "priority": 2, "locality": {"region": "r", "zone": "z"}}
    found = value(ENDPOINT, {"cluster_name": "a", "endpoints": [group]}).localities[0]
    (endpoint,) = found.endpoints
    assert (str(endpoint), endpoint.weight, endpoint.health, endpoint.hostname) == ("[::1]:5", 4, health, "h")
    assert endpoint.workload == Workload("w", "ns", "unknown", "v2")
    assert endpoint.metadata["x"] == {"n": [1.0, None, {"a": True}]}
    assert (found.priority, found.weight, found.locality.region) == (2, 0, "r")


def test_an_eds_cluster_asks_under_its_service_name():
    eds = {"eds_config": {"ads": {}}, "service_name": "s"}
    assert value(CLUSTER, {"name": "a", "type": "EDS", "eds_cluster_config": eds}).eds_name == "s"


@pytest.mark.parametrize("source", [{"api_config_source": {}}])
def test_other_sources_than_ads_are_refused(source):
    data = {"name": "a", "type": "EDS", "eds_cluster_config": {"eds_config": source}}
    kind = RESOURCE_TYPES[CLUSTER]
    (fault,) = kind.decode("a", json_format.ParseDict(data, kind.message())).faults
    assert fault.message == f"{next(iter(source))} is not supported: expected ads or path_config_source"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"path": "/x"}, "path:/x#a"),
        ({"path_config_source": {"path": "/x"}}, "path:/x#a"),
        ({"path_config_source": {"path": "/x", "watched_directory": {"path": "/y"}}}, "path:/x|/y#a"),
    ],
)
def test_endpoints_in_a_file_are_asked_for_there(source, name):
    data = {"name": "a", "type": "EDS", "eds_cluster_config": {"eds_config": source}}
    assert value(CLUSTER, data).eds_name == name
    message = json_format.ParseDict(data, RESOURCE_TYPES[CLUSTER].message())
    for _ in range(2):  # decoded whole, and by its shape
        examined = RESOURCE_TYPES[CLUSTER].examine(pack(CLUSTER, message))
        assert examined.resource.references == ((ENDPOINT, name),)
    where = elsewhere(name)
    assert in_file(where.path, where.watched_directory, where.name) == name


# Listeners


def test_filters_that_are_not_run_are_noted():
    filters = [
        {"name": "mine", "typed_config": {"@type": FAULT, "abort": {"http_status": 500}}},
        {"name": "odd", "typed_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": ""}},
        {"name": "off", "disabled": True},
        {"name": "istio.stats"},
        {"name": "ecds", "config_discovery": {}},
    ]
    hcm = {
        "@type": EXT + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "rds": {"config_source": {"ads": {}}, "route_config_name": "r"},
        "http_filters": filters,
    }
    found = decoded(LISTENER, {"name": "a:80", "api_listener": {"api_listener": hcm}})
    assert found.value.api.fault_filter
    assert found.value.api.fault == FaultInjection(abort=FaultAbort(0.0, status=500))
    assert {note.consequence for note in found.notes} == {
        "odd is not run; a call goes on without it",
        "filters on demand (ECDS) are not fetched: a call goes on without it",
    }


def test_a_split_of_bytes_keeps_its_weights():
    clusters = [{"name": "a", "weight": 1}, {"name": "b", "weight": 2}]
    proxy = {
        "@type": EXT + "filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "x",
        "weighted_clusters": {"clusters": clusters},
    }
    data = {"name": "l", "filter_chains": [{"filters": [{"name": "tcp", "typed_config": proxy}]}]}
    assert value(LISTENER, data).chains[0].tcp.clusters == (WeightedCluster("a", 1), WeightedCluster("b", 2))
    assert noted(LISTENER, data) == {}


# Reading


def packed(message, url=None):
    one = any_pb2.Any()
    one.Pack(message)
    if url:
        one.type_url = url
    return one


def test_a_resource_may_be_wrapped():
    kind = RESOURCE_TYPES[CLUSTER]
    inner = kind.message(name="a")
    wrapper = discovery_pb2.Resource(name="a", resource=packed(inner))
    found = kind.examine(packed(wrapper).SerializeToString())
    assert (found.name, found.resource.value, found.faults) == ("a", kind.decode("a", inner).value, ())


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        (
            packed(wrappers_pb2.StringValue(value="x")),
            f"expected a {CLUSTER}, not type.googleapis.com/google.protobuf.StringValue",
        ),
        (any_pb2.Any(type_url=CLUSTER, value=b"\xff\xff"), "does not parse"),
        (any_pb2.Any(), f"expected a {CLUSTER}, not nothing"),
    ],
)
def test_what_cannot_be_read_is_a_fault(resource, message):
    (fault,) = RESOURCE_TYPES[CLUSTER].examine(resource.SerializeToString()).faults
    assert fault.message.startswith(message)


def test_a_decoders_own_fault_costs_one_resource(monkeypatch, caplog):
    kind = RESOURCE_TYPES[CLUSTER]
    found = kind.decode("a", object())
    assert found.value is None
    assert found.faults[0].message.startswith("could not be decoded: AttributeError")
    assert "decoding failed" in caplog.text


def test_a_filter_configuration_in_its_wrapper():
    mutation = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
        "mutations": {"request_mutations": [{"remove": "x-a"}]},
    }
    wrapper = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": mutation}

    def decoded_route(**config):
        configs = {"envoy.filters.http.header_mutation": {**wrapper, **config}}
        return decoded(ROUTE, table(route(typed_per_filter_config=configs)))

    made = decoded_route()
    assert made.notes == ()
    assert made.value.virtual_hosts[0].routes[0].filter_mutations
    disabled = decoded_route(disabled=True)
    assert disabled.value.virtual_hosts[0].routes[0].filter_mutations == (FilterMutations(disabled=True),)
    assert disabled.notes == ()


def tls_of(**context):
    kind = EXT + "transport_sockets.tls.v3.UpstreamTlsContext"
    return {"name": "tls", "typed_config": {"@type": kind, **context}}


ANY = {"name": "x", "typed_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "x"}}


@pytest.mark.parametrize(
    ("common", "field"),
    [
        ({"custom_handshaker": ANY}, "custom_handshaker"),
        ({"custom_tls_certificate_selector": ANY}, "custom_tls_certificate_selector"),
        ({"tls_params": {"signature_algorithms": ["x"]}}, "tls_params.signature_algorithms"),
        ({"tls_params": {"compliance_policies": ["FIPS_202205"]}}, "tls_params.compliance_policies"),
        ({"tls_params": {"ecdh_curves": ["X25519", "P-256"]}}, "tls_params.ecdh_curves"),
        ({"validation_context": {**CA, "custom_validator_config": ANY}}, "validation_context.custom_validator_config"),
        ({"validation_context": {**CA, "max_verify_depth": 3}}, "validation_context.max_verify_depth"),
        ({"tls_certificates": [{"pkcs12": {"filename": "/x"}}]}, "tls_certificates[0].pkcs12"),
        (
            {
                "validation_context": {
                    **CA,
                    "match_typed_subject_alt_names": [{"san_type": "OTHER_NAME", "matcher": {"exact": "x"}}],
                }
            },
            "validation_context.match_typed_subject_alt_names[0].san_type",
        ),
    ],
)
def test_tls_that_cannot_be_honoured_refuses_the_connection_and_says_the_field(common, field):
    made = decoded(CLUSTER, cluster(transport_socket=tls_of(common_tls_context=common)))
    refusal = made.value.transport_socket.refusal
    assert refusal.startswith(f"transport_socket.typed_config.common_tls_context.{field}: ")
    assert f"transport_socket.typed_config.common_tls_context.{field}" in [note.field_path for note in made.notes]


def test_a_socket_picked_by_a_matcher_is_refused():
    raw = {"name": "x", "typed_config": {"@type": EXT + "transport_sockets.raw_buffer.v3.RawBuffer"}}
    found = value(CLUSTER, cluster(transport_socket=raw, transport_socket_matcher={}))
    assert found.transport_socket.refusal == "a socket picked by a matcher cannot be spoken"


def test_a_tls_key_of_the_environment(monkeypatch):
    monkeypatch.setenv("TLS_KEY", "k")
    own = {"certificate_chain": {"filename": "/c"}, "private_key": {"environment_variable": "TLS_KEY"}}
    made = value(CLUSTER, cluster(transport_socket=tls_of(common_tls_context={"tls_certificates": [own]})))
    assert made.transport_socket.tls.certificate.key.inline == b"k"


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ({"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": "spiffe://a"}}]}, "spiffe://a"),
        ({"match_subject_alt_names": [{"prefix": "spiffe://b"}]}, "prefix 'spiffe://b'"),
    ],
)
def test_what_a_tls_socket_asks_for_is_told(validation, words):
    kind = EXT + "transport_sockets.tls.v3.UpstreamTlsContext"
    context = {"@type": kind, "sni": "s", "common_tls_context": {"validation_context": {**CA, **validation}}}
    found = value(CLUSTER, cluster(transport_socket={"name": "tls", "typed_config": context}))
    assert found.transport_socket.secure
    assert found.transport_socket.detail == f"TLS, SNI s, server identity {words}"
