"""Which route a request takes, and which cluster it draws."""

from __future__ import annotations

from bisect import bisect_right
from difflib import get_close_matches
from typing import NamedTuple

from meshlib.clock import Randomness
from meshlib.model.match import PathMatch, RouteMatch, StringOp, is_grpc
from meshlib.model.request import RequestView
from meshlib.model.route import (
    Redirect,
    Route,
    RouteAction,
    VirtualHost,
    WeightedCluster,
    without_port,
)
from meshlib.model.snapshot import Destination, Snapshot


class Choice(NamedTuple):
    """What routing found; fields stay None from where it found nothing.

    Attributes:
        destination: the listener and its route table, or TCP clusters.
        virtual_host: whose domains match.
        route: the first route that matches.
    """

    destination: Destination | None = None
    virtual_host: VirtualHost | None = None
    route: Route | None = None


# What Envoy does for plaintext where ``VirtualHost.require_tls`` is ALL. EXTERNAL_ONLY concerns callers from
# elsewhere; this process is none.
TO_TLS = Route(RouteMatch(path=PathMatch(StringOp.PREFIX, "")), Redirect(scheme="https"))


def choose(snapshot: Snapshot, view: RequestView, chance: Randomness) -> Choice:
    """Return the destination, virtual host and route of a request; first match wins."""
    destination = snapshot.destination(view.host, view.port, tls=view.tls, http2=is_grpc(view), chance=chance)
    if destination is None or destination.routes is None:
        return Choice(destination)
    host = destination.routes.virtual_host(view)
    if host is None:
        return Choice(destination)
    if host.require_tls == "ALL" and view.scheme != "https":
        return Choice(destination, host, TO_TLS)
    for route in host.candidates(view) if host.by_tree else host.routes:
        if route.matches(view) and (route.match.runtime_fraction is None or _drawn(route, chance)):
            return Choice(destination, host, route)
    return Choice(destination, host)


def _drawn(route: Route, chance: Randomness) -> bool:
    fraction = route.match.runtime_fraction
    return fraction is None or chance.random() * 100.0 < fraction


def draw_cluster(action: RouteAction, chance: Randomness, key: int | None = None) -> WeightedCluster:
    """Draw a cluster by weight, divided by the *sum* of weights; once a request (semantics 4.9).

    ``use_hash_policy`` draws by ``key``, the request's hash, where it has one.
    """
    clusters = action.clusters
    if len(clusters) == 1:
        return clusters[0]
    sums = action.sums
    if action.weights_by_hash and key is not None:
        return clusters[bisect_right(sums, key % sums[-1])]
    return clusters[bisect_right(sums, int(chance.random() * sums[-1]))]


def cluster_of(target: WeightedCluster, view: RequestView) -> str:
    """Return the cluster a target leads to; empty where the header that names it is missing."""
    return target.name if not target.header else next(iter(view.values(target.header)), "").strip()


def matched_length(route: Route, view: RequestView) -> int:
    """Return how much of the path the route's path specifier took: for a regex, all of it."""
    path = route.match.path
    return len(view.path) if path.op is StringOp.REGEX else len(path.value)


def location(redirect: Redirect, route: Route, view: RequestView) -> str:
    """Return the ``Location`` of a redirect, as Envoy composes it.

    The request's own port goes where another is given, and where it is the default of the scheme
    that is left; any other stays. ``path_redirect`` with a query keeps that one whatever else.
    """
    scheme = redirect.scheme or view.scheme
    authority = redirect.host
    if not authority:
        default = {"http": ":80", "https": ":443"}.get(view.scheme, ":")
        leaves_default = scheme != view.scheme and view.authority.endswith(default)
        authority = without_port(view.authority) if redirect.port or leaves_default else view.authority
    if redirect.port:
        authority += f":{redirect.port}"
    target = view.target.partition("?")[0] if redirect.strip_query else view.target
    if redirect.path:
        target = redirect.path + ("" if "?" in redirect.path else target[len(view.path) :])
    elif redirect.prefix:
        target = redirect.prefix + target[matched_length(route, view) :]
    elif redirect.regex_rewrite is not None:
        target = redirect.regex_rewrite.replace(view.path) + target[len(view.path) :]
    return f"{scheme}://{authority}{target}"


def dead_end(view: RequestView, destination: Destination) -> str:
    """Say why a filter chain that is neither HTTP nor TCP for this call cannot take it."""
    chain = f"filter chain {destination.chain!r}" if destination.chain else "the filter chain"
    why = "reads HTTP and cannot read TLS of the application's own" if view.scheme == "https" else "has no end run here"
    return f"{chain} of listener {destination.listener!r} {why}"


def near_miss(view: RequestView, choice: Choice) -> str:
    """Return "; did you mean 'catalog'?" where the table has a domain close to the host, else the empty string."""
    routes = choice.destination.routes if choice.destination else None
    known = [domain for host in routes.virtual_hosts for domain in host.domains if domain != "*"] if routes else []
    near = [domain for domain in get_close_matches(view.host, known, n=1) if domain != view.host]
    return f"; did you mean {near[0]!r}?" if near else ""
