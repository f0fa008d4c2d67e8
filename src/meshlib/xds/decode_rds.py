"""RouteConfigurations: virtual hosts, routes and where they lead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from meshlib.model.filters import RateLimitRule, Settings
from meshlib.model.headers import NO_MUTATIONS, FilterMutations, HeaderMutations
from meshlib.model.match import RouteMatch
from meshlib.model.matcher import TreeRoutes
from meshlib.model.metadata import Criteria, merged
from meshlib.model.route import (
    DEFAULT_ROUTE_TIMEOUT,
    Action,
    DirectResponse,
    GrpcTimeout,
    Redirect,
    Route,
    RouteAction,
    RouteConfiguration,
    StreamDuration,
    VirtualHost,
    WeightedCluster,
)
from meshlib.model.traffic import FaultInjection, MirrorPolicy, RetryPolicy
from meshlib.model.uri_template import UriTemplate
from meshlib.xds.decode_body import body_format, data_source
from meshlib.xds.decode_fault import per_filter_fault
from meshlib.xds.decode_filters import in_force, route_settings
from meshlib.xds.decode_hash_policy import hash_policies
from meshlib.xds.decode_headers import header_mutations, per_filter_mutations, regex_rewrite, template, template_rewrite
from meshlib.xds.decode_matcher_tree import matcher_tree
from meshlib.xds.decode_matchers import route_match
from meshlib.xds.decode_mirror import internal_redirects, mirror_policies
from meshlib.xds.decode_rate_limits import rate_limits, route_limits
from meshlib.xds.decode_retry import retry_policy
from meshlib.xds.decode_subsets import metadata_match
from meshlib.xds.decode_values import UINT32_MAX, choice, number, plain_metadata, seconds, source
from meshlib.xds.scope import Scope

# RouteConfiguration.max_direct_response_body_size_bytes: "If not specified the default is 4096."
_DEFAULT_BODY_LIMIT = 4096

# RouteAction.ClusterNotFoundResponseCode
_NOT_FOUND_CODES = {0: 503, 1: 404, 2: 500}
# RedirectAction.RedirectResponseCode
_REDIRECT_CODES = {0: 301, 1: 302, 2: 303, 3: 307, 4: 308}

_HIGH = 1  # core.v3.RoutingPriority

# VirtualHost.TlsRequirementType
_REQUIRE_TLS = {1: "EXTERNAL_ONLY", 2: "ALL"}


def route_configuration(scope: Scope, table: Any) -> RouteConfiguration:
    """Return a ``route.v3.RouteConfiguration``."""
    inherited = table_level(scope, table)
    check_domains(scope, [(host.name, host.domains) for host in table.virtual_hosts])
    hosts = tuple(virtual_host(scope.at("virtual_hosts", i), h, inherited) for i, h in enumerate(table.virtual_hosts))
    return RouteConfiguration(table.name, hosts, table.ignore_port_in_host_matching)


def table_level(scope: Scope, table: Any) -> Inherited:
    """Return what a table's virtual hosts have of it; does not look at them."""
    scope.audit(table)
    return Inherited(
        fault=per_filter_fault(scope, table.typed_per_filter_config),
        retry=None,
        body_limit=number(scope, table, "max_direct_response_body_size_bytes", _DEFAULT_BODY_LIMIT),
        hedge=False,
        buffers=(None, None),
        headers=_Headers.none(most_specific_wins=table.most_specific_header_mutations_wins).below(scope, table),
        mirrors=mirror_policies(scope, table),
        filters=route_settings(scope, table),
        plugins=frozenset(plugin.extension.name for plugin in table.cluster_specifier_plugins),
    )


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a route has of the levels above it.

    Attributes:
        fault: the fault in force.
        retry: the virtual host's policy.
        body_limit: bytes that a direct response may have.
        headers: mutations of the levels above, and in which order they go.
        mirrors: where copies of requests go.
        filters: what is said to filters.
        limits: the ``rate_limits`` of the virtual host.
        plugins: names of the table's ``cluster_specifier_plugins``.
        hedge: whether the virtual host hedges.
        buffers: bytes of a request body that are kept.
    """

    fault: FaultInjection | None
    retry: RetryPolicy | None
    body_limit: int
    headers: _Headers
    mirrors: tuple[MirrorPolicy, ...]
    filters: Settings
    plugins: frozenset[str]
    limits: tuple[RateLimitRule, ...] = ()
    hedge: bool = False
    buffers: _Buffers = (None, None)


# Bytes of a request body that are kept: ``request_body_buffer_limit``, ``per_request_buffer_limit_bytes``.
_Buffers = tuple[int | None, int | None]


def _buffers(level: Any, above: _Buffers) -> _Buffers:
    """Return the buffer limits in force at a level: each is its own, else that of the level above."""
    whole, lowering = above
    if level.HasField("request_body_buffer_limit"):
        whole = level.request_body_buffer_limit.value
    if level.HasField("per_request_buffer_limit_bytes"):
        lowering = level.per_request_buffer_limit_bytes.value
    return whole, lowering


class _Headers(NamedTuple):
    """The header mutations of the levels down to one, in the order in which they apply."""

    request: HeaderMutations
    response: HeaderMutations
    filtered: tuple[FilterMutations, ...]
    most_specific_wins: bool

    @classmethod
    def none(cls, *, most_specific_wins: bool) -> _Headers:
        return cls(NO_MUTATIONS, NO_MUTATIONS, (), most_specific_wins)

    def below(self, scope: Scope, level: Any) -> _Headers:
        """Return this with the mutations of the level below it, which apply first unless they are to win."""
        request, response = (header_mutations(scope, level, direction) for direction in ("request", "response"))
        own = per_filter_mutations(scope, level.typed_per_filter_config)
        wins = self.most_specific_wins
        return _Headers(
            self.request + request if wins else request + self.request,
            self.response + response if wins else response + self.response,
            self.filtered if own is None else (own, *self.filtered),
            wins,
        )


def check_domains(scope: Scope, hosts: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Fault domains that Envoy does not take: none at all, one with a line break, or one taken already.

    It takes no domain twice in a table, whatever its case, and one ``*`` alone.

    Args:
        scope: the table's.
        hosts: name and domains of each virtual host.
    """
    seen: dict[str, str] = {}
    for i, (name, domains) in enumerate(hosts):
        if not domains:
            scope.at("virtual_hosts", i).fault("domains", "must not be empty")
        for j, domain in enumerate(domains):
            key = domain.lower()
            if key in seen:
                fault = f"{domain!r} is taken already by virtual host {seen[key]!r}"
                scope.at("virtual_hosts", i).fault(f"domains[{j}]", fault)
            elif not key.isprintable() and any(char in key for char in "\0\r\n"):
                scope.at("virtual_hosts", i).fault(f"domains[{j}]", f"{domain!r} contains a line break or NUL")
            seen[key] = name


def virtual_host(scope: Scope, host: Any, above: Inherited) -> VirtualHost:
    """Return a ``VirtualHost``; its domains are checked with the table's others."""
    # Envoy demands a name; istiod sends none to gRPC servers, and it serves for explain alone.
    scope.audit(host)
    retry = retry_policy(scope.at("retry_policy"), host.retry_policy) if host.HasField("retry_policy") else None
    fault = per_filter_fault(scope, host.typed_per_filter_config)
    inherited = replace(
        above,
        fault=fault or above.fault,
        retry=retry,
        headers=above.headers.below(scope, host),
        mirrors=mirror_policies(scope, host) or above.mirrors,
        filters=in_force(above.filters, route_settings(scope, host)),
        limits=rate_limits(scope, host),
        hedge=_hedges(scope.at("hedge_policy"), host.hedge_policy) if host.HasField("hedge_policy") else False,
        buffers=_buffers(host, above.buffers),
    )
    choice(scope, host, "require_tls")
    if not host.HasField("matcher"):
        routes = (_route(scope.at("routes", i), route, inherited) for i, route in enumerate(host.routes))
        return host_of(host, tuple(route for route in routes if route is not None))
    if host.routes:
        scope.fault("matcher", "cannot go with routes")
    tree = matcher_tree(scope.at("matcher"), host.matcher, lambda place, route: _route(place, route, inherited))
    return host_of(host, TreeRoutes(tree))


def host_of(host: Any, routes: Sequence[Route]) -> VirtualHost:
    """Return a ``VirtualHost`` with ``routes`` in it; whether it is valid is for :func:`virtual_host` to say."""
    return VirtualHost(
        name=host.name,
        domains=tuple(host.domains[:]),  # a slice is one call, not one for each
        routes=routes,
        attempt_count=host.include_request_attempt_count,
        attempt_count_in_response=host.include_attempt_count_in_response,
        timeout_retry=host.include_is_timeout_retry_header,
        require_tls=_REQUIRE_TLS.get(host.require_tls, ""),
        by_tree=host.HasField("matcher"),
        metadata=plain_metadata(host.metadata) if host.HasField("metadata") else {},
    )


def _route(scope: Scope, route: Any, above: Inherited) -> Route | None:
    """Return one route; None for one that has a fault or that no request from here can meet."""
    found = len(scope.faults)
    noted = len(scope.notes)
    scope.audit(route)
    match = route_match(scope.at("match"), route.match)
    fault = per_filter_fault(scope, route.typed_per_filter_config)
    action = _action(scope, route, above, match)
    headers = above.headers.below(scope, route)
    if match is None or len(scope.faults) > found:
        return None
    return Route(
        match=match,
        action=action,
        name=route.name,
        fault=fault or above.fault,
        source=source(route.metadata),
        unsupported=tuple(note.field_path for note in scope.notes[noted:]),
        request_headers=headers.request,
        response_headers=headers.response,
        filter_mutations=headers.filtered,
        filters=in_force(above.filters, route_settings(scope, route)),
        metadata=plain_metadata(route.metadata),
        limits=route_limits(scope.at("route"), route.route, above.limits),
    )


def _action(scope: Scope, route: Any, above: Inherited, match: RouteMatch | None) -> Action:
    kind = route.WhichOneof("action")
    template = match.path.template if match is not None else None
    if kind == "route":
        return _forward(scope.at("route"), route.route, above, template, _buffers(route, above.buffers))
    if kind == "redirect":
        if template is not None and route.redirect.prefix_rewrite:
            scope.fault("redirect.prefix_rewrite", "cannot go with path_match_policy")
        return _redirect(scope.at("redirect"), route.redirect)
    if kind == "direct_response":
        return _direct_response(scope.at("direct_response"), route.direct_response, above.body_limit)
    if kind is None:
        scope.fault("action", "is missing: expected route, redirect or direct_response")
        return _nowhere("")
    return _nowhere(kind)  # noted by the audit


def _nowhere(reason: str) -> RouteAction:
    """Lead to a cluster that cannot exist: the call fails, named and closed, and goes nowhere else."""
    return RouteAction((WeightedCluster(f"({reason} is not supported)"),))


def _forward(
    scope: Scope, action: Any, above: Inherited, template: UriTemplate | None, buffers: _Buffers
) -> RouteAction:
    scope.audit(action)
    own = retry_policy(scope.at("retry_policy"), action.retry_policy) if action.HasField("retry_policy") else None
    return RouteAction(
        clusters=_clusters(scope, action, above.plugins),
        **_timeouts(scope, action),
        retry=own or above.retry,  # the route's policy replaces the virtual host's whole (semantics 4.4)
        **_rewrites(scope, action, template),
        cluster_not_found_code=_NOT_FOUND_CODES[choice(scope, action, "cluster_not_found_response_code")],
        hash_policies=hash_policies(scope, action),
        weights_by_hash=action.weighted_clusters.use_hash_policy.value,
        internal_redirects=internal_redirects(scope, action),
        mirrors=mirror_policies(scope, action) or above.mirrors,
        hedge=_hedges(scope.at("hedge_policy"), action.hedge_policy)
        if action.HasField("hedge_policy")
        else above.hedge,
        high_priority=choice(scope, action, "priority") == _HIGH,
        body_limit=buffers[0],
        body_limit_min=buffers[1],
    )


def _timeouts(scope: Scope, action: Any) -> dict[str, Any]:
    """Return the fields of a :class:`RouteAction` about time; ``max_stream_duration`` does away with ``timeout``."""
    route = seconds(scope, action, "timeout", DEFAULT_ROUTE_TIMEOUT)
    found: dict[str, Any] = {"timeout": route}
    if action.HasField("idle_timeout"):
        found["idle_timeout"] = seconds(scope, action, "idle_timeout", 0.0)
    offset = seconds(scope, action, "grpc_timeout_offset", 0.0)
    if action.HasField("max_grpc_timeout"):
        found["grpc_timeout"] = GrpcTimeout(seconds(scope, action, "max_grpc_timeout", 0.0), offset)
    if action.HasField("max_stream_duration"):
        place, limit = scope.at("max_stream_duration"), action.max_stream_duration
        place.audit(limit)

        def given(field: str) -> float | None:
            return seconds(place, limit, field, 0.0) if limit.HasField(field) else None

        found["stream_duration"] = StreamDuration(
            given("max_stream_duration"), given("grpc_timeout_header_max"), given("grpc_timeout_header_offset") or 0.0
        )
        found.update(timeout=0.0, grpc_timeout=None)
    return found


def _hedges(scope: Scope, policy: Any) -> bool:
    scope.audit(policy)
    if policy.HasField("initial_requests") and policy.initial_requests.value < 1:
        scope.fault("initial_requests", "must be at least 1")
    return bool(policy.hedge_on_per_try_timeout)


def _rewrites(scope: Scope, action: Any, matched: UriTemplate | None) -> dict[str, Any]:
    """Return the fields of a :class:`RouteAction` about path and host."""
    ways = [f for f in ("prefix_rewrite", "path_rewrite") if getattr(action, f)]
    ways += [f for f in ("regex_rewrite", "path_rewrite_policy") if action.HasField(f)]
    if len(ways) > 1:
        scope.fault(ways[0], f"cannot go with {ways[1]}")
    regexes = {
        field: regex_rewrite(scope.at(field), getattr(action, field))
        for field in ("regex_rewrite", "host_rewrite_path_regex")
        if action.HasField(field)
    }
    if action.HasField("path_rewrite_policy"):
        regexes["regex_rewrite"] = template_rewrite(
            scope.at("path_rewrite_policy"), action.path_rewrite_policy, matched
        )
    elif matched is not None and action.prefix_rewrite:
        scope.fault("prefix_rewrite", "cannot go with path_match_policy")
    return {
        "prefix_rewrite": action.prefix_rewrite,
        "path_rewrite": template(scope, "path_rewrite", action.path_rewrite) if action.path_rewrite else None,
        "host_rewrite": action.host_rewrite_literal,
        "host_rewrite_header": action.host_rewrite_header.lower(),
        "auto_host_rewrite": action.auto_host_rewrite.value,
        "append_forwarded_host": action.append_x_forwarded_host,
        **regexes,
    }


def _clusters(scope: Scope, action: Any, plugins: frozenset[str]) -> tuple[WeightedCluster, ...]:
    kind = action.WhichOneof("cluster_specifier")
    if kind == "cluster":
        if not action.cluster:
            scope.fault("cluster", "must not be empty")
        return (WeightedCluster(action.cluster, subset=metadata_match(action)),)
    if kind == "weighted_clusters":
        return _weighted(scope.at("weighted_clusters"), action.weighted_clusters, metadata_match(action))
    if kind == "cluster_header":
        return (WeightedCluster("", header=_cluster_header(scope, action), subset=metadata_match(action)),)
    if kind is None:
        scope.fault("cluster", "is missing, and so is weighted_clusters")
        return ()
    if kind == "cluster_specifier_plugin" and action.cluster_specifier_plugin not in plugins:
        scope.fault(kind, f"{action.cluster_specifier_plugin!r} is none of the table's cluster_specifier_plugins")
    return _nowhere(kind).clusters  # noted by the audit


def _cluster_header(scope: Scope, message: Any) -> str:
    name: str = message.cluster_header
    if not name or any(char in name for char in "\0\r\n"):
        scope.fault("cluster_header", f"{name!r} is not the name of a header")
    return name.lower()


def _weighted(scope: Scope, weighted: Any, subset: Criteria) -> tuple[WeightedCluster, ...]:
    scope.audit(weighted)
    targets = []
    for i, target in enumerate(weighted.clusters):
        place = scope.at("clusters", i)
        place.audit(target)
        if not target.HasField("weight"):
            place.fault("weight", "is missing")
        if target.name and target.cluster_header:
            place.fault("name", "cannot go with cluster_header")
        elif not target.name and not target.cluster_header:
            place.fault("name", "must not be empty")
        targets.append(
            WeightedCluster(
                name=target.name,
                weight=target.weight.value,
                fault=per_filter_fault(place, target.typed_per_filter_config),
                header=_cluster_header(place, target) if target.cluster_header else "",
                host_rewrite=target.host_rewrite_literal,
                request_headers=header_mutations(place, target, "request"),
                response_headers=header_mutations(place, target, "response"),
                filter_mutations=per_filter_mutations(place, target.typed_per_filter_config),
                filters=route_settings(place, target),
                subset=merged(subset, metadata_match(target)),
            )
        )
    total = sum(target.weight for target in targets)
    if not 0 < total <= UINT32_MAX:
        scope.fault("clusters", f"the weights sum to {total}, which is not in 1 to {UINT32_MAX}")
    return tuple(targets)


def _direct_response(scope: Scope, response: Any, limit: int) -> DirectResponse:
    scope.audit(response)
    if not 200 <= response.status < 600:
        scope.fault("status", f"{response.status} is not an HTTP status of 200 to 599")
    raw = data_source(scope.at("body"), response.body) if response.HasField("body") else b""
    if len(raw) > limit:
        scope.fault("body", f"has {len(raw)} bytes, the limit is {limit} (max_direct_response_body_size_bytes)")
    made = body_format(scope.at("body_format"), response.body_format) if response.HasField("body_format") else None
    return DirectResponse(response.status, raw.decode("utf-8", "replace"), made)


def _redirect(scope: Scope, redirect: Any) -> Redirect:
    scope.audit(redirect)
    regex = redirect.HasField("regex_rewrite")
    rewrite = regex_rewrite(scope.at("regex_rewrite"), redirect.regex_rewrite) if regex else None
    return Redirect(
        status=_REDIRECT_CODES[choice(scope, redirect, "response_code")],
        scheme="https" if redirect.https_redirect else redirect.scheme_redirect,
        host=redirect.host_redirect,
        port=redirect.port_redirect,
        path=redirect.path_redirect,
        prefix=redirect.prefix_rewrite,
        strip_query=redirect.strip_query,
        regex_rewrite=rewrite,
    )
