"""Route tables: virtual hosts, routes and where they lead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshlib.model.match import Predicate, RouteMatch
from meshlib.model.request import RequestView
from meshlib.model.traffic import FaultInjection, RetryPolicy

DEFAULT_ROUTE_TIMEOUT = 15.0  # RouteAction.timeout: "If not specified, the default is 15s."


@dataclass(frozen=True, slots=True)
class WeightedCluster:
    """One target of a route and its weight; weight 0 is legal and never drawn.

    ``fault`` takes the place of the route's when this target is drawn; None leaves that in force.
    """

    name: str
    weight: int = 1
    fault: FaultInjection | None = None


@dataclass(frozen=True, slots=True)
class RouteAction:
    """``RouteAction``: forward to a cluster.

    Attributes:
        clusters: one, or several drawn by weight once a request (divided by their sum).
        timeout: seconds over all attempts to the end of the response, 0 = off.
        retry: the policy in force (the route's, else the virtual host's), None = no retries.
        prefix_rewrite: replaces the matched path or prefix, when set.
        host_rewrite: replaces the authority, when set.
        cluster_not_found_code: status when the cluster does not exist.
    """

    clusters: tuple[WeightedCluster, ...]
    timeout: float = DEFAULT_ROUTE_TIMEOUT
    retry: RetryPolicy | None = None
    prefix_rewrite: str = ""
    host_rewrite: str = ""
    cluster_not_found_code: int = 503


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """``DirectResponseAction``: the configuration itself answers."""

    status: int
    body: str = ""


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


Action = RouteAction | DirectResponse | Redirect


@dataclass(frozen=True, slots=True)
class Route:
    """One route: first match wins.

    Attributes:
        match: what it takes, as a value (for ``explain``).
        action: what it does.
        name: its name in the configuration.
        fault: fault injection in force here (route, else virtual host, else filter).
        source: where it was configured (``catalog-vs.yaml:7``).
        unsupported: fields received that meshlib does not honour, for the capability report.
        matches: the compiled ``match``.
    """

    match: RouteMatch
    action: Action
    name: str = ""
    fault: FaultInjection | None = None
    source: str = ""
    unsupported: tuple[str, ...] = ()
    matches: Predicate = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matches", self.match.compile())


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """``VirtualHost``: domains and routes.

    Attributes:
        attempt_count: ``include_request_attempt_count``: send ``x-envoy-attempt-count``.
        require_tls: "", "ALL" or "EXTERNAL_ONLY".
    """

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...] = ()
    attempt_count: bool = False
    require_tls: str = ""


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
        longest = sorted(pairs, key=lambda pair: -len(pair[0]))
        set_ = object.__setattr__
        set_(self, "_exact", {d: vh for d, vh in pairs if "*" not in d})
        set_(self, "_suffixes", tuple((d[1:], vh) for d, vh in longest if d[:1] == "*" and len(d) > 1))
        set_(self, "_prefixes", tuple((d[:-1], vh) for d, vh in longest if d[-1:] == "*" and len(d) > 1))
        set_(self, "_any", next((vh for d, vh in pairs if d == "*"), None))

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
