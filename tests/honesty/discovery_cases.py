"""Cluster types and active health checks: what is refused, in which words (rows of test_validation)."""

from __future__ import annotations

from typing import Any

EXT = "type.googleapis.com/envoy.extensions."
CHECK = "health_checks[0]."
HTTP = CHECK + "http_health_check."
GONE: Any = None  # takes a field of the good cluster away
H2: dict[str, Any] = {"http2_protocol_options": {}}


def _cluster(**fields: Any) -> dict[str, Any]:
    return {"cluster": fields}


def _endpoint(address: str = "127.0.0.1", port: int = 1, **inner: Any) -> dict[str, Any]:
    return {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}, **inner}}


def _assigned(*endpoints: Any, **locality: Any) -> dict[str, Any]:
    return {"cluster_name": "a", "endpoints": [{"lb_endpoints": list(endpoints), **locality}]}


def _named(kind: str, **fields: Any) -> dict[str, Any]:
    return _cluster(**{"type": kind, "load_assignment": _assigned(_endpoint("localhost")), **fields})


def _custom(name: str, config: Any = None, **fields: Any) -> dict[str, Any]:
    custom = {"name": name, **({"typed_config": config} if config else {})}
    return _cluster(**{"type": GONE, "cluster_type": custom, **fields})


def _aggregate(*members: str, **fields: Any) -> dict[str, Any]:
    config = {"@type": EXT + "clusters.aggregate.v3.ClusterConfig", "clusters": list(members)}
    given = {"load_assignment": GONE, "lb_policy": "CLUSTER_PROVIDED", **fields}
    return _custom(given.pop("called", "envoy.clusters.aggregate"), config, **given)


def _dns(*, named: str = "envoy.cluster.dns", endpoints: Any = None, **fields: Any) -> dict[str, Any]:
    config = {"@type": EXT + "clusters.dns.v3.DnsCluster", **fields}
    return _custom(named, config, load_assignment=_assigned(*(endpoints or [_endpoint("localhost")])))


def _original(**config: Any) -> dict[str, Any]:
    given = {"type": "ORIGINAL_DST", "load_assignment": GONE, "lb_policy": "CLUSTER_PROVIDED"}
    return _cluster(**given, original_dst_lb_config=config)


def _check(**fields: Any) -> dict[str, Any]:
    good = {"timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1}
    own = {key: fields.pop(key) for key in ("http2_protocol_options",) if key in fields}
    made = {**good, "http_health_check": {"path": "/"}, **fields}
    return _cluster(health_checks=[{key: value for key, value in made.items() if value is not GONE}], **own)


def _http(**fields: Any) -> dict[str, Any]:
    return _check(http_health_check={"path": "/", **fields})


def _tcp(**fields: Any) -> dict[str, Any]:
    return _check(http_health_check=GONE, tcp_health_check=fields)


def _grpc(**fields: Any) -> dict[str, Any]:
    return _check(http_health_check=GONE, grpc_health_check=fields, **H2)


def _header(key: str, value: str = "a") -> dict[str, Any]:
    return {"header": {"key": key, "value": value}}


AGGREGATES = {
    "aggregate": (_aggregate("b"), ""),
    "aggregate-of-itself": (_aggregate("a"), ""),
    "aggregate-twice": (_aggregate("b", "b"), ""),
    "aggregate-by-another-name": (_aggregate("b", called="mine"), ""),
    "aggregate-empty": (_aggregate(), "cluster_type.typed_config.clusters: must not be empty"),
    "aggregate-round-robin": (
        _aggregate("b", lb_policy="ROUND_ROBIN"),
        "lb_policy: ROUND_ROBIN does not go with AGGREGATE",
    ),
    "custom-static": (_custom("envoy.cluster.static"), ""),
    "custom-unknown": (_custom("mine"), "cluster_type: mine is not supported"),
    "custom-unnamed": (_custom(""), "cluster_type.name: must not be empty"),
}

_REFRESH = "must be more than 1ms"
DNS = {
    "dns-cluster": (_dns(), ""),
    "dns-cluster-strict-name": (_dns(named="envoy.cluster.strict_dns"), ""),
    "dns-cluster-two-of-one": (
        _dns(endpoints=[_endpoint("localhost"), _endpoint("b")], all_addresses_in_single_endpoint=True),
        "load_assignment.endpoints: must have one locality with one endpoint in a LOGICAL_DNS cluster",
    ),
    "dns-cluster-refresh": (
        _dns(dns_refresh_rate="0.001s"),
        f"cluster_type.typed_config.dns_refresh_rate: {_REFRESH}",
    ),
    "dns-cluster-refresh-2ms": (_dns(dns_refresh_rate="0.002s"), ""),
    "dns-cluster-failure": (
        _dns(dns_failure_refresh_rate={"base_interval": "2s", "max_interval": "1s"}),
        "cluster_type.typed_config.dns_failure_refresh_rate.max_interval: is less than base_interval",
    ),
    "dns-cluster-failure-no-base": (
        _dns(dns_failure_refresh_rate={"max_interval": "1s"}),
        "cluster_type.typed_config.dns_failure_refresh_rate.base_interval: is missing",
    ),
    "strict-dns": (_named("STRICT_DNS"), ""),
    "strict-dns-by-name": (
        _custom("envoy.cluster.strict_dns", load_assignment=_assigned(_endpoint("localhost"))),
        "",
    ),
    "strict-dns-nothing": (_named("STRICT_DNS", load_assignment=GONE), ""),
    "strict-dns-pipe": (
        _named("STRICT_DNS", load_assignment=_assigned({"endpoint": {"address": {"pipe": {"path": "/x"}}}})),
        "",
    ),
    "strict-dns-refresh": (_named("STRICT_DNS", dns_refresh_rate="0.001s"), f"dns_refresh_rate: {_REFRESH}"),
    "strict-dns-failure": (
        _named("STRICT_DNS", dns_failure_refresh_rate={"base_interval": "2s", "max_interval": "1s"}),
        "dns_failure_refresh_rate.max_interval: is less than base_interval",
    ),
    "static-failure": (_cluster(dns_failure_refresh_rate={"base_interval": "2s", "max_interval": "1s"}), ""),
    "strict-dns-failure-base": (
        _named("STRICT_DNS", dns_failure_refresh_rate={"base_interval": "0.0005s"}),
        f"dns_failure_refresh_rate.base_interval: {_REFRESH}",
    ),
    "strict-dns-resolver": (
        _named(
            "STRICT_DNS",
            load_assignment=_assigned(
                {
                    "endpoint": {
                        "address": {
                            "socket_address": {"address": "localhost", "port_value": 1, "resolver_name": "x"},
                        }
                    }
                }
            ),
        ),
        "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.resolver_name: "
        "is not supported in a cluster that looks names up",
    ),
    "logical-dns": (_named("LOGICAL_DNS"), ""),
    "logical-dns-priority": (_named("LOGICAL_DNS", load_assignment=_assigned(_endpoint("localhost"), priority=1)), ""),
}

_ORIGINAL = "original_dst_lb_config."
ORIGINAL = {
    "original-header": (_original(use_http_header=True, http_header_name="x-to"), ""),
    "original-header-unused": (
        _original(http_header_name="x-to"),
        _ORIGINAL + "http_header_name: goes with use_http_header only",
    ),
    "original-port": (
        _original(upstream_port_override=65536),
        _ORIGINAL + "upstream_port_override: 65536 is not in 0 to 65535",
    ),
    "original-port-0": (_original(upstream_port_override=0), ""),
    "original-metadata": (_original(metadata_key={"key": "k", "path": [{"key": "a"}]}), ""),
    "original-metadata-no-key": (
        _original(metadata_key={"path": [{"key": "a"}]}),
        _ORIGINAL + "metadata_key: must have a key and a path of keys",
    ),
    "original-checked": (
        _cluster(
            type="ORIGINAL_DST",
            load_assignment=GONE,
            lb_policy="CLUSTER_PROVIDED",
            health_checks=_check()["cluster"]["health_checks"],
        ),
        "",
    ),
}

_ZERO = "must be more than 0s"
_HEX = "is not hexadecimal"
CHECKS = {
    "check": (_check(), ""),
    "check-nothing": (
        _check(http_health_check=GONE),
        CHECK + "health_checker: is missing: expected http_health_check, tcp_health_check or grpc_health_check",
    ),
    **{
        f"check-no-{field}": (_check(**{field: GONE}), f"{CHECK}{field}: is missing")
        for field in ("timeout", "interval", "unhealthy_threshold", "healthy_threshold")
    },
    **{
        f"check-{field}-zero": (_check(**{field: "0s"}), f"{CHECK}{field}: {_ZERO}")
        for field in (
            *("timeout", "interval", "no_traffic_interval", "no_traffic_healthy_interval", "unhealthy_interval"),
            *("unhealthy_edge_interval", "healthy_edge_interval"),
        )
    },
    "check-jitter-zero": (_check(initial_jitter="0s", interval_jitter="0s", interval_jitter_percent=200), ""),
    "check-thresholds-zero": (_check(unhealthy_threshold=0, healthy_threshold=0), ""),
    "check-alt-port": (_check(alt_port=65536), ""),
    "check-socket-criteria": (_check(transport_socket_match_criteria={"a": 1}), ""),
    "check-two": (
        _cluster(health_checks=2 * _check()["cluster"]["health_checks"]),
        "health_checks: has 2 checks; one is supported",
    ),
    "http-no-path": (_check(http_health_check={}), HTTP + "path: must not be empty"),
    "http-relative": (_http(path="x"), ""),
    "http-path-line": (_http(path="/a\n"), HTTP + "path: contains a control character"),
    "http-path-tab": (_http(path="/a\tb"), ""),
    "http-host-line": (_http(host="a\nb"), HTTP + "host: contains a control character"),
    "http-expected": (_http(expected_statuses=[{"start": 100, "end": 600}]), ""),
    "http-expected-low": (
        _http(expected_statuses=[{"start": 99, "end": 300}]),
        HTTP + "expected_statuses[0].start: 99 is below 100",
    ),
    "http-expected-high": (
        _http(expected_statuses=[{"start": 100, "end": 601}]),
        HTTP + "expected_statuses[0].end: 601 is over 600",
    ),
    "http-expected-empty": (
        _http(expected_statuses=[{"start": 200, "end": 200}]),
        HTTP + "expected_statuses[0].end: 200 is not over start, 200",
    ),
    "http-retriable-low": (
        _http(retriable_statuses=[{"start": 99, "end": 300}]),
        HTTP + "retriable_statuses[0].start: 99 is below 100",
    ),
    "http-connect": (_http(method="CONNECT"), HTTP + "method: must not be CONNECT"),
    "http-trace": (_http(method="TRACE"), ""),
    "http-h2": (_http(codec_client_type="HTTP2"), ""),
    "http-send": (_http(method="POST", send={"text": "00ff"}), ""),
    "http-send-options": (_http(method="OPTIONS", send={"text": "00ff"}), ""),
    "http-send-empty-bytes": (_http(method="POST", send={"binary": ""}), ""),
    **{
        f"http-send-{method}": (
            _http(method=method, send={"text": "00"}),
            f"{HTTP}send: does not go with {method}: only POST, PUT, PATCH, OPTIONS have a body",
        )
        for method in ("GET", "HEAD", "DELETE")
    },
    "http-send-odd": (_http(method="POST", send={"text": "0"}), f"{HTTP}send.text: '0' {_HEX}"),
    "http-send-no-hex": (_http(method="POST", send={"text": "0g"}), f"{HTTP}send.text: '0g' {_HEX}"),
    "http-send-spaced": (_http(method="POST", send={"text": "00 0f"}), f"{HTTP}send.text: '00 0f' {_HEX}"),
    "http-send-nothing": (_http(method="POST", send={}), HTTP + "send.text: is missing, and so is binary"),
    "http-receive": (_http(receive=[{"text": "00"}, {"binary": "AQ=="}], response_buffer_size=0), ""),
    "http-receive-nothing": (_http(receive=[{}]), HTTP + "receive[0].text: is missing, and so is binary"),
    "http-header": (_http(request_headers_to_add=[_header("x-a", "%START_TIME%")]), ""),
    "http-header-unknown": (
        _http(request_headers_to_add=[_header("x-a", "%FOO%")]),
        HTTP + "request_headers_to_add[0].header.value: %FOO% is not a command that Envoy knows",
    ),
    "http-header-host": (
        _http(request_headers_to_add=[_header("host")]),
        HTTP + "request_headers_to_add[0].header.key: 'host' cannot be changed: use a rewrite",
    ),
    "http-header-removed": (
        _http(request_headers_to_remove=[":path"]),
        HTTP + "request_headers_to_remove[0]: ':path' cannot be changed: use a rewrite",
    ),
    "http-name": (_http(service_name_matcher={"prefix": "a"}), ""),
    "http-name-empty": (
        _http(service_name_matcher={}),
        HTTP + "service_name_matcher: says nothing to match",
    ),
    "tcp": (_tcp(), ""),
    "tcp-payloads": (_tcp(send={"text": "00"}, receive=[{"text": "01"}, {"binary": "AQ=="}]), ""),
    "tcp-send-odd": (_tcp(send={"text": "0"}), f"{CHECK}tcp_health_check.send.text: '0' {_HEX}"),
    "tcp-receive": (_tcp(receive=[{"text": "zz"}]), f"{CHECK}tcp_health_check.receive[0].text: 'zz' {_HEX}"),
    "grpc": (_grpc(service_name="s", authority="x", initial_metadata=[_header("a")]), ""),
    "grpc-http1": (
        _check(http_health_check=GONE, grpc_health_check={}),
        CHECK + "grpc_health_check: needs a cluster that speaks HTTP/2",
    ),
    "grpc-authority": (
        _grpc(authority="x\n"),
        CHECK + "grpc_health_check.authority: contains a line break or NUL",
    ),
    "custom-check": (
        _check(
            http_health_check=GONE,
            custom_health_check={
                "name": "envoy.health_checkers.redis",
                "typed_config": {"@type": EXT + "health_checkers.redis.v3.Redis"},
            },
        ),
        "",
    ),
    "custom-check-unknown": (
        _check(http_health_check=GONE, custom_health_check={"name": "mine"}),
        CHECK + "custom_health_check: mine is not supported",
    ),
    "endpoint-check": (
        _cluster(
            load_assignment=_assigned(
                _endpoint(
                    health_check_config={
                        "port_value": 8,
                        "hostname": "a\nb",
                        "disable_active_health_check": True,
                        "address": {"socket_address": {"address": "127.0.0.2", "port_value": 3}},
                    }
                )
            )
        ),
        "",
    ),
    "endpoint-check-port": (
        _cluster(load_assignment=_assigned(_endpoint(health_check_config={"port_value": 65536}))),
        "load_assignment.endpoints[0].lb_endpoints[0].endpoint.health_check_config.port_value: 65536 is over 65535",
    ),
}

CASES = {**AGGREGATES, **DNS, **ORIGINAL, **CHECKS}
