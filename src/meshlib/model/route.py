"""Route tables: virtual hosts, routes and where they lead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol, cast

from meshlib.model.body_format import BodyFormat
from meshlib.model.filters import RouteLimits, Settings
from meshlib.model.headers import NO_MUTATIONS, FilterMutations, HeaderMutations
from meshlib.model.match import Predicate, RouteMatch
from meshlib.model.metadata import Criteria
from meshlib.model.request import RequestView
from meshlib.model.rewrite import RegexRewrite
from meshlib.model.template import Metadata, Template
from meshlib.model.traffic import FaultInjection, HashPolicy, InternalRedirects, MirrorPolicy, RetryPolicy

DEFAULT_ROUTE_TIMEOUT = 15.0  # RouteAction.timeout: "If not specified, the default is 15s."


@dataclass(frozen=True, slots=True)
class WeightedCluster:
    """One target of a route and its weight; weight 0 is legal and never drawn.

    ``fault`` takes the place of the route's when this target is drawn; None leaves that in force.

    Attributes:
        header: the request header that names the cluster (``cluster_header``); ``name`` is empty then.
        host_rewrite: the authority when this target is drawn, before the route's own rewrites.
        request_headers, response_headers: applied before the route's.
        filter_mutations: for the header_mutation filter, when this target is drawn.
        filters: what is said to other filters, when this target is drawn.
        subset: what is asked of its endpoints (``metadata_match``): the route's, and its own before that.
    """

    name: str
    weight: int = 1
    fault: FaultInjection | None = None
    header: str = ""
    host_rewrite: str = ""
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS
    filter_mutations: FilterMutations | None = None
    filters: Settings = ()
    subset: Criteria = ()


@dataclass(frozen=True, slots=True)
class StreamDuration:
    """``RouteAction.MaxStreamDuration``; seconds, 0.0 = off.

    Attributes:
        longest: of a call, None leaves it to the connection manager.
        grpc_header_max: the longest that ``grpc-timeout`` may ask for, None = it is not looked at.
        grpc_header_offset: taken off what it asks for.
    """

    longest: float | None = None
    grpc_header_max: float | None = None
    grpc_header_offset: float = 0.0


@dataclass(frozen=True, slots=True)
class GrpcTimeout:
    """``max_grpc_timeout`` and ``grpc_timeout_offset``, the older way; seconds.

    Attributes:
        longest: the longest that ``grpc-timeout`` may ask for, 0.0 = no bound.
        offset: taken off what it asks for.
        overruled: whether the request's own timeout header counts in its place.
    """

    longest: float
    offset: float = 0.0
    overruled: bool = False


@dataclass(frozen=True, slots=True)
class RouteAction:
    """``RouteAction``: forward to a cluster.

    Attributes:
        clusters: one, or several drawn by weight once a request (divided by their sum).
        timeout: seconds over all attempts to the end of the response, 0 = off.
        retry: the policy in force (the route's, else the virtual host's), None = no retries.
        prefix_rewrite: replaces the matched path or prefix, when set.
        regex_rewrite: rewrites the path without its query.
        path_rewrite: the path, with commands in it; kept as it is where nothing comes out.
        host_rewrite: replaces the authority, when set.
        host_rewrite_header: the request header whose value replaces the authority, when it is there.
        host_rewrite_path_regex: makes the authority out of the path.
        auto_host_rewrite: the authority is the endpoint's host name, where it has one.
        append_forwarded_host: whether a rewrite of the authority keeps what it was in ``x-forwarded-host``.
        cluster_not_found_code: status when the cluster does not exist.
        timeout_status: status when the timeout passes; only a request asks for another than 504.
        hash_policies: what of the request finds its endpoint, for RING_HASH and MAGLEV clusters.
        weights_by_hash: ``use_hash_policy``: that hash, where there is one, draws the cluster as well.
        internal_redirects: which redirects are followed here, None = none.
        mirrors: copies of requests that are sent elsewhere (the route's, else the virtual host's, else the table's).
        hedge: ``hedge_on_per_try_timeout``: an attempt goes on when its per-try timeout passes, beside the next.
        idle_timeout: seconds that the stream may be silent, 0 = off; None leaves it to the connection manager.
        stream_duration: ``max_stream_duration``, None where it is not set; else ``timeout`` is 0.
        grpc_timeout: for gRPC requests in place of ``timeout``, None where it is not set.
        upstream_duration: seconds of each attempt to the end of its response; only a request sets it, None leaves
            it to the cluster.
        high_priority: whether the thresholds of the HIGH priority count.
        body_limit: bytes of a request that are kept for a retry (``request_body_buffer_limit``), None leaves it
            to the listener.
        body_limit_min: the same by ``per_request_buffer_limit_bytes``, which can only lower the listener's.
        clocked: whether it has a timeout besides ``timeout`` and ``per_try_timeout``.
        sums: the weights, each added to those before it.
    """

    clusters: tuple[WeightedCluster, ...]
    timeout: float = DEFAULT_ROUTE_TIMEOUT
    retry: RetryPolicy | None = None
    prefix_rewrite: str = ""
    host_rewrite: str = ""
    cluster_not_found_code: int = 503
    regex_rewrite: RegexRewrite | None = None
    path_rewrite: Template | None = None
    host_rewrite_header: str = ""
    host_rewrite_path_regex: RegexRewrite | None = None
    auto_host_rewrite: bool = False
    append_forwarded_host: bool = False
    timeout_status: int = 504
    hash_policies: tuple[HashPolicy, ...] = ()
    weights_by_hash: bool = False
    internal_redirects: InternalRedirects | None = None
    mirrors: tuple[MirrorPolicy, ...] = ()
    hedge: bool = False
    idle_timeout: float | None = None
    stream_duration: StreamDuration | None = None
    grpc_timeout: GrpcTimeout | None = None
    upstream_duration: float | None = None
    high_priority: bool = False
    body_limit: int | None = None
    body_limit_min: int | None = None
    clocked: bool = field(init=False, compare=False, repr=False)
    sums: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        rare = (self.idle_timeout, self.stream_duration, self.grpc_timeout, self.upstream_duration)
        idle = self.retry is not None and self.retry.per_try_idle_timeout
        object.__setattr__(self, "sums", tuple(accumulate(target.weight for target in self.clusters)))
        object.__setattr__(self, "clocked", bool(idle) or any(each is not None for each in rare))


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """``DirectResponseAction``: the configuration itself answers; ``format`` makes something of the body."""

    status: int
    body: str = ""
    format: BodyFormat | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """``RedirectAction``: an HTTP redirect made here."""

    status: int = 301
    scheme: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    prefix: str = ""
    strip_query: bool = False
    regex_rewrite: RegexRewrite | None = None


Action = RouteAction | DirectResponse | Redirect


@dataclass(frozen=True, slots=True)
class Route:
    """One route: first match wins.

    Attributes:
        match: what it takes, as a value (for ``explain``).
        action: what it does.
        name: its name in the configuration.
        fault: fault injection in force here (route, else virtual host, else filter).
        request_headers, response_headers: of route, virtual host and table, in the order they apply.
        filter_mutations: for the header_mutation filter: the route's, the virtual host's, the table's.
        filters: what is said to other filters here (route, else virtual host, else table).
        metadata: of the route, for commands in headers.
        limits: its ``rate_limits`` and the virtual host's, None where there are none.
        source: where it was configured (``catalog-vs.yaml:7``).
        unsupported: fields received that meshlib does not honour, for the capability report.
        matches: the compiled ``match``.
        rewrites: whether it changes a request's headers, path or host before an endpoint is picked.
    """

    match: RouteMatch
    action: Action
    name: str = ""
    fault: FaultInjection | None = None
    source: str = ""
    unsupported: tuple[str, ...] = ()
    request_headers: HeaderMutations = NO_MUTATIONS
    response_headers: HeaderMutations = NO_MUTATIONS
    filter_mutations: tuple[FilterMutations, ...] = ()
    filters: Settings = ()
    limits: RouteLimits | None = None
    metadata: Metadata = field(default_factory=dict, hash=False)
    matches: Predicate = field(init=False, compare=False, repr=False)
    rewrites: bool = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matches", self.match.compile())
        object.__setattr__(self, "rewrites", bool(self.request_headers) or _rewrites(self.action))


def _rewrites(action: Action) -> bool:
    if not isinstance(action, RouteAction):
        return False
    path = action.prefix_rewrite or action.regex_rewrite or action.path_rewrite
    host = action.host_rewrite or action.host_rewrite_header or action.host_rewrite_path_regex
    drawn = any(target.host_rewrite or target.request_headers for target in action.clusters)
    return bool(path or host or drawn)


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """``VirtualHost``: domains and routes.

    Attributes:
        routes: in order; of a large table they may be decoded when they are first read.
        attempt_count: ``include_request_attempt_count``: send ``x-envoy-attempt-count``.
        attempt_count_in_response: ``include_attempt_count_in_response``: say it in the response as well.
        timeout_retry: ``include_is_timeout_retry_header``: send ``x-envoy-is-timeout-retry`` with retries.
        require_tls: "", "ALL" or "EXTERNAL_ONLY".
        metadata: of the virtual host, for commands in headers.
        by_tree: whether a matcher tree finds the routes for a request; they are :class:`Routes` then.
    """

    name: str
    domains: tuple[str, ...]
    routes: Sequence[Route] = ()
    attempt_count: bool = False
    attempt_count_in_response: bool = False
    timeout_retry: bool = False
    require_tls: str = ""
    by_tree: bool = False
    metadata: Metadata = field(default_factory=dict, hash=False)

    def candidates(self, view: RequestView) -> Sequence[Route]:
        """Return the routes that may take a request, in order."""
        return cast("Routes", self.routes).of(view) if self.by_tree else self.routes


class Routes(Protocol):
    """Routes that a matcher tree leads to."""

    def of(self, view: RequestView) -> Sequence[Route]:
        """Return those for a request, in order."""
        ...


@dataclass(frozen=True, slots=True)
class RouteConfiguration:
    """``RouteConfiguration``, with its domains indexed as Envoy searches them."""

    name: str
    virtual_hosts: tuple[VirtualHost, ...]
    ignore_port: bool = False
    _exact: Mapping[str, VirtualHost] = field(init=False, compare=False, repr=False)
    _suffixes: tuple[tuple[str, VirtualHost], ...] = field(init=False, compare=False, repr=False)
    _prefixes: tuple[tuple[str, VirtualHost], ...] = field(init=False, compare=False, repr=False)
    _any: VirtualHost | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        pairs = [(d.lower(), vh) for vh in self.virtual_hosts for d in vh.domains]
        wild = [pair for pair in pairs if "*" in pair[0]]
        longest = sorted(wild, key=lambda pair: -len(pair[0]))
        set_ = object.__setattr__
        set_(self, "_exact", {d: vh for d, vh in pairs if "*" not in d} if wild else dict(pairs))
        set_(self, "_suffixes", tuple((d[1:], vh) for d, vh in longest if d[:1] == "*" and len(d) > 1))
        set_(self, "_prefixes", tuple((d[:-1], vh) for d, vh in longest if d[-1:] == "*" and len(d) > 1))
        set_(self, "_any", next((vh for d, vh in wild if d == "*"), None))

    def virtual_host(self, view: RequestView) -> VirtualHost | None:
        """Return the virtual host for the authority.

        Envoy's order: exact, longest suffix ``*.x``, longest prefix ``x.*``, ``*``; case is
        ignored and the port is part of the string unless ``ignore_port_in_host_matching``.
        """
        authority = view.authority.lower()
        if self.ignore_port:
            authority = without_port(authority)
        found = self._exact.get(authority)
        if found is not None:
            return found
        for suffix, host in self._suffixes:
            if authority.endswith(suffix) and len(authority) > len(suffix):
                return host
        for prefix, host in self._prefixes:
            if authority.startswith(prefix) and len(authority) > len(prefix):
                return host
        return self._any


def without_port(authority: str) -> str:
    """Return an authority without its port; the brackets of an IPv6 address stay."""
    host, colon, port = authority.rpartition(":")
    return host if colon and port.isdecimal() and "]" not in port else authority
