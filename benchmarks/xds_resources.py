"""What the ADS server of ``make bench NAME=xds`` serves: N services of ten endpoints, as istiod writes them.

Two forms of the same mesh. A *sidecar* (meshlib, Envoy) gets listener ``0.0.0.0_80``, route table
``80`` with one virtual host a service and a wildcard one to PassthroughCluster. A *gRPC* client
gets API listener ``bench``, whose table holds a route ``/c<i>/`` a service in one virtual host,
since all calls of a channel have one authority; its clusters are RING_HASH, for with what istiod
sends (ROUND_ROBIN) grpcio connects to every endpoint at once, and would be four times slower. There
is no auto-mTLS in it: Envoy would wait for an SDS server.
"""

from __future__ import annotations

from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from google.protobuf import any_pb2, json_format, message

from meshlib.xds import type_urls
from meshlib.xds.protos import (
    cluster_pb2,
    endpoint_pb2,
    http_connection_manager_pb2,
    listener_pb2,
    route_pb2,
)

ENDPOINTS = 10  # of each service
USED = 20  # services of all that a process calls, where it does not call each
SIDECAR, GRPC = "sidecar", "grpc"
_UNLIMITED = 4294967295
_DOMAIN = "bench.svc.cluster.local"


def service(i: int) -> str:
    """Return the short host of service ``i``."""
    return f"svc-{i:05d}"


def cluster_name(i: int) -> str:
    return f"outbound|80||{service(i)}.{_DOMAIN}"


def address(i: int, k: int, spare: bool = False) -> str:
    """Return the address of endpoint ``k`` of service ``i``, no two alike; ``spare`` is the one it moves to."""
    number = i * ENDPOINTS + k
    return f"127.{(128 if spare else 1) + number // 62500}.{number // 250 % 250}.{1 + number % 250}"


def used(count: int) -> list[int]:
    """Return the services that are called, of ``count``."""
    return [turn * count // USED for turn in range(USED)]


def cluster(i: int, form: str, edition: int = 0) -> message.Message:
    """Return the cluster of service ``i``; another ``edition`` has other connection limits."""
    thresholds = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _UNLIMITED)
    host = f"{service(i)}.{_DOMAIN}"
    made = {
        "name": cluster_name(i),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _ADS, "service_name": cluster_name(i)},
        "connect_timeout": f"{10 + edition}s",
        "lb_policy": "LEAST_REQUEST" if form == SIDECAR else "RING_HASH",
        "circuit_breakers": {"thresholds": [thresholds]},
        "outlier_detection": {
            "consecutive_5xx": 5,
            "interval": "10s",
            "base_ejection_time": "30s",
            "max_ejection_percent": 50,
            "enforcing_success_rate": 0,
        },
        "common_lb_config": {"healthy_panic_threshold": {}},
        "alt_stat_name": f"outbound|80||{host};",
        "metadata": {
            "filter_metadata": {"istio": {"services": [{"host": host, "namespace": "bench", "name": service(i)}]}}
        },
    }
    if form == GRPC:  # istiod's generator for gRPC nodes leaves these out
        for field in ("outlier_detection", "common_lb_config", "metadata", "alt_stat_name"):
            del made[field]
    return json_format.ParseDict(made, cluster_pb2.Cluster())


def passthrough() -> message.Message:
    """Return the cluster for hosts that no service is."""
    made = {
        "name": "PassthroughCluster",
        "type": "ORIGINAL_DST",
        "connect_timeout": "10s",
        "lb_policy": "CLUSTER_PROVIDED",
    }
    return json_format.ParseDict(made, cluster_pb2.Cluster())


def endpoints(i: int, port: int, moved: int = -1, edition: int = 0) -> message.Message:
    """Return the endpoints of service ``i``: endpoint ``moved`` at its spare address, weights by ``edition``."""
    weight = 1 + edition
    members = [
        {
            "endpoint": {"address": {"socket_address": {"address": address(i, k, k == moved), "port_value": port}}},
            "health_status": "HEALTHY",
            "load_balancing_weight": weight,
            "metadata": {"filter_metadata": {"istio": {"workload": f"{service(i)}-{k};bench;{service(i)};v1;bench"}}},
        }
        for k in range(ENDPOINTS)
    ]
    group = {
        "locality": {"region": "us-west1", "zone": "us-west1-a"},
        "lb_endpoints": members,
        "load_balancing_weight": weight * ENDPOINTS,
    }
    made = {"cluster_name": cluster_name(i), "endpoints": [group]}
    return json_format.ParseDict(made, endpoint_pb2.ClusterLoadAssignment())


def route_table(count: int, form: str) -> message.Message:
    """Return the one route table: ``80`` for a sidecar, ``bench`` for a gRPC client."""
    if form == GRPC:
        routes = [
            {"match": {"prefix": f"/c{i}/"}, "route": {"cluster": cluster_name(i), "timeout": "0s"}, "name": "default"}
            for i in range(count)
        ]
        made = {"name": "bench", "virtual_hosts": [{"name": "bench", "domains": ["*"], "routes": routes}]}
        return json_format.ParseDict(made, route_pb2.RouteConfiguration())
    hosts = [_virtual_host(i) for i in range(count)]
    anywhere = {"match": {"prefix": "/"}, "route": {"cluster": "PassthroughCluster", "timeout": "0s"}}
    hosts.append({"name": "allow_any", "domains": ["*"], "routes": [{**anywhere, "name": "allow_any"}]})
    made = {"name": "80", "virtual_hosts": hosts, "validate_clusters": False, "ignore_port_in_host_matching": True}
    return json_format.ParseDict(made, route_pb2.RouteConfiguration())


def _virtual_host(i: int) -> dict[str, object]:
    host = f"{service(i)}.{_DOMAIN}"
    retry = {
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        "num_retries": 2,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": _typed(previous_hosts_pb2.PreviousHostsPredicate()),
            }
        ],
        "host_selection_retry_max_attempts": "5",
    }
    action = {"cluster": cluster_name(i), "timeout": "0s", "retry_policy": retry, "max_grpc_timeout": "0s"}
    route = {
        "match": {"prefix": "/"},
        "route": action,
        "decorator": {"operation": f"{host}:80/*"},
        "name": "default",
    }
    return {
        "name": f"{host}:80",
        "domains": [host, service(i), f"{service(i)}.bench"],
        "routes": [route],
        "include_request_attempt_count": True,
    }


def listener(form: str) -> message.Message:
    """Return the one listener: ``0.0.0.0_80`` for a sidecar, the API listener ``bench`` for a gRPC client."""
    manager = {
        "stat_prefix": "outbound_0.0.0.0_80;",
        "rds": {"config_source": _ADS, "route_config_name": "80" if form == SIDECAR else "bench"},
        "http_filters": [
            {"name": "envoy.filters.http.fault", "typed_config": _typed(fault_pb2.HTTPFault())},
            *([{"name": "envoy.filters.http.cors", "typed_config": _typed(cors_pb2.Cors())}] * (form == SIDECAR)),
            {"name": "envoy.filters.http.router", "typed_config": _typed(router_pb2.Router())},
        ],
    }
    typed = _typed(json_format.ParseDict(manager, http_connection_manager_pb2.HttpConnectionManager()))
    if form == GRPC:
        made = {"name": "bench", "api_listener": {"api_listener": typed}}
        return json_format.ParseDict(made, listener_pb2.Listener())
    chain = {
        "filter_chain_match": {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]},
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": typed}],
    }
    made = {
        "name": "0.0.0.0_80",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}},
        "bind_to_port": False,
        "traffic_direction": "OUTBOUND",
        "listener_filters": [
            {
                "name": "envoy.filters.listener.http_inspector",
                "typed_config": _typed(http_inspector_pb2.HttpInspector()),
            }
        ],
        "filter_chains": [chain],
    }
    return json_format.ParseDict(made, listener_pb2.Listener())


def _typed(config: message.Message) -> dict[str, object]:
    packed = any_pb2.Any()
    packed.Pack(config)
    as_dict: dict[str, object] = json_format.MessageToDict(packed, preserving_proto_field_name=True)
    return as_dict


_ADS = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}

URLS = {
    "LDS": type_urls.LISTENER,
    "RDS": type_urls.ROUTE,
    "CDS": type_urls.CLUSTER,
    "EDS": type_urls.ENDPOINT,
}
