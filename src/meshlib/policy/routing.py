"""Which route a request takes, and which cluster it draws."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from difflib import get_close_matches
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple

from meshlib.clock import Randomness
from meshlib.model.intake import AS_IT_IS
from meshlib.model.match import PathMatch, RouteMatch, StringOp, is_grpc
from meshlib.model.request import RequestView
from meshlib.model.route import (
    DirectResponse,
    Redirect,
    Route,
    RouteAction,
    VirtualHost,
    WeightedCluster,
    without_port,
)
from meshlib.model.snapshot import Destination, Snapshot
from meshlib.policy.intake import Redirected, Refused, taken


class Choice(NamedTuple):
    """What routing found; fields stay None from where it found nothing.

    Attributes:
        destination: the listener and its route table, or TCP clusters.
        virtual_host: whose domains match.
        route: the first route that matches.
        view: the request as the connection manager takes it in; None where it has no word in it.
    """

    destination: Destination | None = None
    virtual_host: VirtualHost | None = None
    route: Route | None = None
    view: RequestView | None = None

    @property
    def turned_away(self) -> bool:
        """Whether the connection manager answers by itself, before any filter."""
        return self.virtual_host is None and self.route is not None


# What Envoy does for plaintext where ``VirtualHost.require_tls`` is ALL. EXTERNAL_ONLY concerns callers from
# elsewhere; this process is none.
_NO_RUNTIME: Mapping[str, float] = MappingProxyType({})
_ANY = RouteMatch(path=PathMatch(StringOp.PREFIX, ""))
TO_TLS = Route(_ANY, Redirect(scheme="https"))
_REFUSED = Route(_ANY, DirectResponse(400))


def choose(snapshot: Snapshot, view: RequestView, chance: Randomness) -> Choice:
    """Return the destination, virtual host and route of a request; first match wins."""
    destination = snapshot.destination(view.host, view.port, tls=view.tls, http2=is_grpc(view), chance=chance)
    if destination is None or destination.routes is None:
        return Choice(destination)
    if (destination.http is not None and destination.http.intake is not AS_IT_IS) or "#" in view.target:
        try:
            view = taken(destination.http.intake if destination.http else AS_IT_IS, view)
        except Refused:
            return Choice(destination, route=_REFUSED)
        except Redirected as to:
            # Nobody redirects gRPC.
            sent = _REFUSED if is_grpc(view) else Route(_ANY, DirectResponse(307, location=to.target))
            moved = view.changed(target=to.target, authority=view.authority)
            return Choice(destination, route=sent, view=moved)
    host = destination.routes.virtual_host(view)
    if host is None:
        return Choice(destination, view=view)
    if host.require_tls == "ALL" and view.scheme != "https":
        return Choice(destination, host, TO_TLS, view)
    matched = view.without_parameters() if destination.routes.ignore_parameters else view
    for route in host.candidates(matched) if host.by_tree else host.routes:
        if route.matches(matched) and (route.match.runtime_fraction is None or _drawn(route, chance, snapshot.runtime)):
            return Choice(destination, host, route, view)
    return Choice(destination, host, view=view)


def _drawn(route: Route, chance: Randomness, runtime: Mapping[str, float]) -> bool:
    fraction = route.match.runtime_fraction
    if runtime and fraction is not None:
        fraction = runtime.get(route.match.runtime_key, fraction)
    return fraction is None or chance.random() * 100.0 < fraction


def draw_cluster(
    action: RouteAction,
    chance: Randomness,
    key: int | None = None,
    view: RequestView | None = None,
    runtime: Mapping[str, float] = _NO_RUNTIME,
) -> WeightedCluster:
    """Draw a cluster by weight, divided by the *sum* of weights; once a request (semantics 4.9).

    Args:
        action: of the route.
        chance: draws where nothing else does.
        key: the request's hash, which ``use_hash_policy`` draws by.
        view: the request, whose header ``header_name`` draws before all else.
        runtime: the numbers that take the place of weights.
    """
    clusters = action.clusters
    if len(clusters) == 1:
        return clusters[0]
    sums = action.sums
    if runtime:
        sums = tuple(accumulate(int(runtime.get(target.runtime_key, target.weight)) for target in clusters))
    if action.weights_by_header and view is not None:
        given = view.whole(action.weights_by_header)
        if given is not None and given < 1 << 64:
            return clusters[bisect_right(sums, given % sums[-1])]
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
    if route is TO_TLS:
        return f"https://{view.authority}{view.target}"
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
    else:
        target = redirected_target(redirect, route, view, target)
    slash = "" if target[:1] in ("/", "") else "/"  # for a regex rewrite may leave none
    return f"{scheme}://{authority}{slash}{target}"


def redirected_target(redirect: Redirect, route: Route, view: RequestView, target: str) -> str:
    """Return ``target``, the request's with or without its query, as the redirect's rewrite makes it."""
    if redirect.prefix:
        return redirect.prefix + target[matched_length(route, view) :]
    if redirect.regex_rewrite is not None:
        return redirect.regex_rewrite.replace(view.path) + target[len(view.path) :]
    return target


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
