"""Which route a request takes, and which cluster it draws."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from meshlib.clock import Randomness
from meshlib.model.match import StringOp
from meshlib.model.request import RequestView
from meshlib.model.route import Redirect, Route, RouteAction, RouteConfiguration, VirtualHost, WeightedCluster
from meshlib.model.snapshot import Destination, Snapshot


@dataclass(frozen=True, slots=True)
class Choice:
    """What routing found; fields stay None from where it found nothing.

    Attributes:
        destination: the listener and its route table, or a TCP cluster.
        virtual_host: whose domains match.
        route: the first route that matches.
    """

    destination: Destination | None = None
    virtual_host: VirtualHost | None = None
    route: Route | None = None


def choose(snapshot: Snapshot, view: RequestView, chance: Randomness) -> Choice:
    """Return the destination, virtual host and route of a request; first match wins."""
    destination = snapshot.destination(view.host, view.port, tls=view.scheme == "https")
    if destination is None or destination.routes is None:
        return Choice(destination)
    host = destination.routes.virtual_host(view)
    if host is None:
        return Choice(destination)
    for route in host.routes:
        if route.matches(view) and _drawn(route, chance):
            return Choice(destination, host, route)
    return Choice(destination, host)


def _drawn(route: Route, chance: Randomness) -> bool:
    fraction = route.match.runtime_fraction
    return fraction is None or chance.random() * 100.0 < fraction


def draw_cluster(clusters: tuple[WeightedCluster, ...], chance: Randomness) -> str:
    """Draw a cluster by weight, divided by the *sum* of weights; once a request (semantics 4.9)."""
    if len(clusters) == 1:
        return clusters[0].name
    sums = list(accumulate(target.weight for target in clusters))
    return clusters[bisect_right(sums, int(chance.random() * sums[-1]))].name


def rewritten_target(route: Route, action: RouteAction, view: RequestView) -> str:
    """Return path and query as sent upstream (``prefix_rewrite``)."""
    if not action.prefix_rewrite:
        return view.target
    return action.prefix_rewrite + view.target[_matched_length(route, view) :]


def _matched_length(route: Route, view: RequestView) -> int:
    """Return how much of the path the route's path specifier took: for a regex, all of it."""
    path = route.match.path
    return len(view.path) if path.op is StringOp.REGEX else len(path.value)


def location(redirect: Redirect, route: Route, view: RequestView) -> str:
    """Return the ``Location`` of a redirect, as Envoy composes it."""
    scheme = redirect.scheme or view.scheme
    host = redirect.host or view.host
    port = redirect.port
    if not port and not redirect.host and ":" in view.authority and not redirect.scheme:
        port = view.port
    target = view.target
    if redirect.path:
        query = "" if "?" in redirect.path or not view.query else f"?{view.query}"
        target = redirect.path + query
    elif redirect.prefix:
        target = redirect.prefix + target[_matched_length(route, view) :]
    if redirect.strip_query:
        target = target.partition("?")[0]
    default = {"http": 80, "https": 443}.get(scheme)
    authority = host if not port or port == default else f"{host}:{port}"
    return f"{scheme}://{authority}{target}"


def table_summary(routes: RouteConfiguration) -> list[str]:
    """Return the domains a table serves, for "did you mean" messages."""
    return [domain for host in routes.virtual_hosts for domain in host.domains if domain != "*"]
