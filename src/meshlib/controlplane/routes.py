"""HTTPRoute to Route: what a VirtualService does with a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.type.v3 import percent_pb2

from meshlib.controlplane import cors, headers, hosts, retries
from meshlib.controlplane.consistent_hash import hash_policy
from meshlib.controlplane.documents.destinations import Destination
from meshlib.controlplane.documents.l4_routes import L4Match, TLSMatch
from meshlib.controlplane.documents.virtual_service import (
    GRPC_STATUS,
    FaultInjection,
    HTTPMatch,
    HTTPRoute,
    Percentage,
    Redirect,
    Retries,
    Rewrite,
    VirtualService,
    qualified,
)
from meshlib.controlplane.matching import path_of, route_match
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.options import MeshOptions
from meshlib.controlplane.precedence import Rule
from meshlib.controlplane.protobuf import duration, metadata, pack
from meshlib.controlplane.registry import Registry
from meshlib.controlplane.services import Service, cluster_name
from meshlib.controlplane.workloads import selects

FAULT_FILTER = "envoy.filters.http.fault"

_REDIRECT_CODES = {
    301: route_pb2.RedirectAction.MOVED_PERMANENTLY,
    302: route_pb2.RedirectAction.FOUND,
    303: route_pb2.RedirectAction.SEE_OTHER,
    307: route_pb2.RedirectAction.TEMPORARY_REDIRECT,
    308: route_pb2.RedirectAction.PERMANENT_REDIRECT,
}


@dataclass(frozen=True, slots=True)
class Scope:
    """Where routes are made for.

    Attributes:
        node: who asks.
        registry: the services.
        options: mesh-wide settings.
        rules: the DestinationRules in force, by host.
        gateways: names the node answers to: ``mesh``, or gateways as ``namespace/name``.
        port: the port of the listener, or of the Gateway's server.
        tls: whether clients come with TLS.
        layer4: whether it is for bytes; then a service's only port counts, whatever the listener's.
    """

    node: Node
    registry: Registry
    options: MeshOptions
    rules: Mapping[str, Rule | None]
    gateways: frozenset[str]
    port: int
    layer4: bool = False
    tls: bool = False


def default_route(service: Service, port: int, rule: Rule | None, default: Retries | None = None) -> Any:
    """Return the one route of a service without VirtualService; ``default`` are the mesh's own retries."""
    message = route_pb2.Route(name="default", match=route_match(None))
    message.route.cluster = cluster_name(service.host, port)
    hashed = hash_policy(rule, port)
    if hashed is not None:  # and retries avoid the host tried, as istiod has it here
        message.route.hash_policy.append(hashed)
    _limits(message.route, 0.0, retries.policy(default), grpc=False)
    message.decorator.operation = f"{service.host}:{port}/*"
    return message


def routes(document: VirtualService, scope: Scope) -> list[Any]:
    """Return the routes of a VirtualService for ``scope``, in order.

    What comes behind a route that takes everything is left out, as istiod does.
    """
    made: list[Any] = []
    for http in document.spec.http:
        for match in http.match or (None,):
            if match is None or concerns(match, document.namespace, scope):
                made.append(_route(document, http, match, scope))
                if match is None or match.catch_all:
                    return made
    return made


def concerns(match: HTTPMatch | L4Match | TLSMatch, namespace: str, scope: Scope) -> bool:
    """Tell whether a match can hold at this node; istiod decides that, not Envoy."""
    gateways = {qualified(gateway, namespace) for gateway in match.gateways}
    return (
        (not gateways or bool(gateways & scope.gateways))
        and match.port in (None, scope.port)
        and selects(match.source_labels, scope.node.labels)
        and match.source_namespace in ("", scope.node.namespace)
    )


def _route(document: VirtualService, http: HTTPRoute, match: HTTPMatch | None, scope: Scope) -> Any:
    message = route_pb2.Route(match=route_match(match))
    message.name = ".".join(part for part in (http.name, match.name if match else "") if part)
    authority = headers.mutate(message, http.headers)
    called = f"{document.name}:{scope.port}"  # the operation's name, unless there is one destination
    if http.redirect is not None:
        _redirect(message.redirect, http.redirect, scope.port, tls=scope.tls)
    elif http.direct_response is not None:
        message.direct_response.status = http.direct_response.status
        if http.direct_response.body is not None:
            body = http.direct_response.body
            if body.raw is None:
                message.direct_response.body.inline_string = body.string
            else:
                message.direct_response.body.inline_bytes = body.raw
    else:
        only = _forward(message, document, http, scope, authority)
        called = only or called
    message.decorator.operation = f"{called}{path_of(message.match)}"
    message.metadata.CopyFrom(metadata(istio={"config": config_path(document)}, meshlib={"source": http.at.source}))
    if http.cors_policy is not None:
        message.typed_per_filter_config[cors.FILTER].CopyFrom(pack(cors.policy(http.cors_policy)))
    if http.fault is not None:
        message.typed_per_filter_config[FAULT_FILTER].CopyFrom(pack(_fault(http.fault)))
    return message


def config_path(document: Any) -> str:
    """Return the path by which Istio's metadata names a resource."""
    kind = {"VirtualService": "virtual-service", "DestinationRule": "destination-rule", "Sidecar": "sidecar"}[
        document.at.origin.kind
    ]
    return f"/apis/networking.istio.io/v1/namespaces/{document.namespace}/{kind}/{document.name}"


def _forward(message: Any, document: VirtualService, http: HTTPRoute, scope: Scope, authority: str) -> str:
    """Fill in a Route's RouteAction; return host and port where there is only one destination."""
    action = message.route
    _rewrite(action, http.rewrite, authority)
    only = _destinations(message, document, http, scope)
    action.request_mirror_policies.extend(_mirrors(document, http, scope))
    action.hash_policy.extend(_hash_policies(document, http, scope))
    retry = retries.policy(http.retries or scope.options.default_retries, sticky=bool(action.hash_policy))
    _limits(action, http.timeout or 0.0, retry, grpc=scope.node.kind is NodeKind.GRPC)
    return only


def _rewrite(action: Any, rewrite: Rewrite | None, authority: str) -> None:
    if rewrite is not None:
        authority = rewrite.authority or authority
        if rewrite.uri_regex_rewrite is not None:
            action.regex_rewrite.pattern.regex = rewrite.uri_regex_rewrite.match
            action.regex_rewrite.substitution = rewrite.uri_regex_rewrite.rewrite
        else:
            action.prefix_rewrite = rewrite.uri
    if authority:
        action.host_rewrite_literal = authority


def _destinations(message: Any, document: VirtualService, http: HTTPRoute, scope: Scope) -> str:
    """Fill in where a Route leads; return host and port where there is only one destination.

    The authority of a route counts before those of its destinations, however many there are.
    """
    action = message.route
    rewritten = bool(action.host_rewrite_literal)
    if len(http.route) == 1:
        only = http.route[0]
        host, port = address(only.destination, document.namespace, scope)
        action.cluster = cluster_name(host, port, only.destination.subset)
        authority = headers.mutate(message, only.headers)
        if authority and not rewritten:
            action.host_rewrite_literal = authority
        return f"{host}:{port}"
    for item in http.route:
        if item.weight:  # istiod leaves out what gets nothing
            name, _ = destination(item.destination, document.namespace, scope)
            cluster = action.weighted_clusters.clusters.add(name=name)
            cluster.weight.value = item.weight
            authority = headers.mutate(cluster, item.headers)
            if authority and not rewritten:
                cluster.host_rewrite_literal = authority
    return ""


def _mirrors(document: VirtualService, http: HTTPRoute, scope: Scope) -> Iterator[Any]:
    for item, percentage, percent in http.copies:
        share = _share(percentage, 100 if percent is None else percent)
        if share.numerator:  # none at all is no mirror, as istiod has it
            name, _ = destination(item, document.namespace, scope)
            policy = route_pb2.RouteAction.RequestMirrorPolicy(cluster=name, disable_shadow_host_suffix_append=True)
            policy.runtime_fraction.default_value.CopyFrom(share)
            policy.trace_sampled.value = False
            yield policy


def _limits(action: Any, timeout: float, retry: Any | None, *, grpc: bool) -> None:
    action.timeout.CopyFrom(duration(timeout))
    if retry is not None:
        action.retry_policy.CopyFrom(retry)
    if grpc:
        action.max_stream_duration.max_stream_duration.CopyFrom(duration(timeout))
    else:
        action.max_grpc_timeout.CopyFrom(duration(timeout))


def destination(item: Destination, namespace: str, scope: Scope) -> tuple[str, str]:
    """Return the cluster and the full host of a destination that a resource of ``namespace`` names."""
    host, port = address(item, namespace, scope)
    return cluster_name(host, port, item.subset), host


def _hash_policies(document: VirtualService, http: HTTPRoute, scope: Scope) -> Iterator[Any]:
    """Yield what the destinations of a route hash."""
    for item in http.route:
        if item.weight or len(http.route) == 1:
            host, port = address(item.destination, document.namespace, scope)
            hashed = hash_policy(scope.rules.get(host), port, item.destination.subset)
            if hashed is not None:
                yield hashed


def address(item: Destination, namespace: str, scope: Scope) -> tuple[str, int]:
    """Return host and port of a destination that names no port: to a gateway the service's only one, else the port
    of the listener. An ExternalName Service is what it stands for.
    """
    host = hosts.qualify(item.host, namespace, scope.options.domain)
    service = scope.registry.services.get(host)
    if service is not None and service.external_name:
        host = service.external_name
    if item.port is not None:
        port = item.port.number
    elif service is not None and len(service.ports) == 1 and (scope.node.kind is NodeKind.ROUTER or scope.layer4):
        port = service.ports[0].number
    else:
        port = scope.port
    return host, port


def _redirect(action: Any, redirect: Redirect, port: int, *, tls: bool) -> None:
    action.response_code = _REDIRECT_CODES[redirect.redirect_code]
    action.host_redirect = redirect.authority
    action.path_redirect = redirect.uri
    if redirect.scheme:
        action.scheme_redirect = redirect.scheme
    # Envoy cannot derive the request's port; routes are made for one port each.
    wanted = port if redirect.derive_port == "FROM_REQUEST_PORT" else redirect.port
    scheme = redirect.scheme or ("https" if tls else "http")
    if wanted is not None and wanted != {"http": 80, "https": 443}[scheme]:
        action.port_redirect = wanted


def _fault(fault: FaultInjection) -> Any:
    message = fault_pb2.HTTPFault()
    if fault.delay is not None:
        message.delay.fixed_delay.CopyFrom(duration(fault.delay.fixed_delay or 0.0))
        message.delay.percentage.CopyFrom(_share(fault.delay.percentage, fault.delay.percent))
    if fault.abort is not None:
        if fault.abort.percentage is not None or fault.abort.percent is not None:
            message.abort.percentage.CopyFrom(_share(fault.abort.percentage, fault.abort.percent))
        if fault.abort.http_status is not None:
            message.abort.http_status = fault.abort.http_status
        else:
            message.abort.grpc_status = GRPC_STATUS[fault.abort.grpc_status or "OK"]
    return message


def _share(percentage: Percentage | None, percent: int | None) -> Any:
    if percentage is not None:
        return percent_pb2.FractionalPercent(
            numerator=round(percentage.value * 10_000), denominator=percent_pb2.FractionalPercent.MILLION
        )
    return percent_pb2.FractionalPercent(numerator=percent or 0)


# ---------------------------------------------------------------- virtual hosts


def virtual_host(name: str, domains: list[str], made: list[Any]) -> Any:
    """Return a VirtualHost that tells upstreams which attempt they see."""
    return route_pb2.VirtualHost(name=name, domains=domains, routes=made, include_request_attempt_count=True)


def distinct(virtual_hosts: Iterator[Any]) -> list[Any]:
    """Return the virtual hosts without the domains that an earlier one has; Envoy refuses those."""
    seen: set[str] = set()
    kept = []
    for host in virtual_hosts:
        own = [domain for domain in host.domains if domain.lower() not in seen]
        seen.update(domain.lower() for domain in own)
        if own:
            del host.domains[:]
            host.domains.extend(own)
            kept.append(host)
    return kept
