"""Configuration by hand: short builders of model values, for tests without xDS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshlib.model.balancing import Balancing
from meshlib.model.cluster import Cluster
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint, LocalityEndpoints
from meshlib.model.filter_chain import FilterChain, HttpConnectionManager
from meshlib.model.listener import Listener
from meshlib.model.match import PathMatch, RouteMatch, StringOp
from meshlib.model.request import RequestView
from meshlib.model.route import Route, RouteAction, RouteConfiguration, VirtualHost, WeightedCluster
from meshlib.model.snapshot import Snapshot, Style
from meshlib.model.traffic import RetryPolicy

ANY_PATH = RouteMatch(PathMatch(StringOp.PREFIX, "/"))


def endpoints(count: int, **fields: Any) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"10.0.0.{n + 1}", 80, **fields) for n in range(count))


def cluster(*groups: Sequence[Endpoint], name: str = "c", factor: int = 140, **fields: Any) -> Cluster:
    """A static cluster; each group of endpoints is one priority, from 0."""
    localities = tuple(LocalityEndpoints(tuple(group), priority=p) for p, group in enumerate(groups))
    if "lb_policy" in fields:
        fields["balancing"] = Balancing(fields.pop("lb_policy"))
    return Cluster(name, Discovery.STATIC, ClusterLoadAssignment(name, localities, factor), **fields)


def retry(*on: str, **fields: Any) -> RetryPolicy:
    return RetryPolicy(frozenset(on), **fields)


def forward(to: str = "c", *, match: RouteMatch = ANY_PATH, **fields: Any) -> Route:
    """A route to one cluster; ``fault``, ``name`` and ``source`` are the route's, the rest its action's."""
    own = {key: fields.pop(key) for key in ("fault", "name", "source") if key in fields}
    return Route(match, RouteAction((WeightedCluster(to),), **fields), **own)


def table(*routes: Route, **fields: Any) -> RouteConfiguration:
    return RouteConfiguration("table", (VirtualHost("host", ("*",), routes, **fields),))


def snapshot(
    *clusters: Cluster,
    routes: RouteConfiguration | Sequence[Route] | None = None,
    version: str = "1",
    **http: Any,
) -> Snapshot:
    """One listener for every port, over ``routes`` (by default everything to cluster ``c``)."""
    if not isinstance(routes, RouteConfiguration):
        routes = table(*(routes if routes is not None else [forward()]))
    chain = FilterChain(http=HttpConnectionManager(route_config=routes, **http))
    listener = Listener("listener", "0.0.0.0", 80, chains=(chain,))
    return Snapshot(version, Style.STATIC, {"listener": listener}, {}, {c.name: c for c in clusters})


def request(target: str = "/", *, method: str = "GET", host: str = "catalog", **fields: Any) -> RequestView:
    headers = fields.pop("headers", [])
    given = {"scheme": "http", "port": 80, "authority": host, **fields}
    return RequestView(method=method, host=host.partition(":")[0].lower(), target=target, headers=headers, **given)
