"""Snapshots written by hand, and a Runtime that runs on them: what transport tests stand on."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable

from meshlib.model.cluster import Cluster
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint, LocalityEndpoints
from meshlib.model.filter_chain import FilterChain, HttpConnectionManager
from meshlib.model.listener import Listener
from meshlib.model.match import PathMatch, StringOp
from meshlib.model.route import (
    Action,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from meshlib.model.snapshot import Snapshot, Style
from meshlib.model.traffic import RetryPolicy
from meshlib.policy.events import NullObserver, Observer
from meshlib.policy.retrying import plan_for
from meshlib.policy.state import MeshState
from meshlib.runtime.runtime import Runtime


def static_cluster(name: str, ports: Iterable[int], **settings) -> Cluster:
    """Return a STATIC cluster of endpoints on 127.0.0.1."""
    endpoints = tuple(Endpoint("127.0.0.1", port) for port in ports)
    assignment = ClusterLoadAssignment(name, (LocalityEndpoints(endpoints),))
    return Cluster(name, Discovery.STATIC, assignment, **settings)


def route(to: str | Action, *, prefix: str = "/", headers: tuple = (), fault=None, **action) -> Route:
    """Return a route to a cluster (``action`` are fields of its RouteAction), or with a whole action."""
    whole = RouteAction((WeightedCluster(to),), **action) if isinstance(to, str) else to
    return Route(RouteMatch(PathMatch(StringOp.PREFIX, prefix), headers=headers), whole, name=f"to-{to}", fault=fault)


def static_snapshot(
    *,
    clusters: Iterable[Cluster] = (),
    routes: Iterable[Route] = (),
    domains: tuple[str, ...] = ("*",),
    version: str = "1",
) -> Snapshot:
    """Return a snapshot with one listener that takes every port, and one virtual host.

    The fault filter is on, so that a route's ``fault`` applies.
    """
    table = RouteConfiguration("routes", (VirtualHost("vhost", domains, tuple(routes), attempt_count=True),))
    http = HttpConnectionManager(route_config=table, fault_filter=True)
    listener = Listener("listener", "0.0.0.0", 80, chains=(FilterChain(http=http),))
    return Snapshot(version, Style.STATIC, {"listener": listener}, {}, {each.name: each for each in clusters})


class HandSource:
    """A source of snapshots that publishes what a test gives it."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        self.snapshot = snapshot
        self.publish: Callable[[Snapshot], None]

    def start(self, publish: Callable[[Snapshot], None], usage: object = None) -> None:
        self.publish = publish
        if self.snapshot is not None:
            publish(self.snapshot)

    def close(self) -> None:
        pass

    def describe(self) -> str:
        return "the hand of a test"

    def demand(self, host: str, port: int) -> bool:
        return False

    def wake(self, cluster: str) -> None:
        pass

    def forked(self) -> None:
        pass


def runtime_on(snapshot: Snapshot | None, *, observer: Observer | None = None) -> Runtime:
    """Return a Runtime on real time and seeded chance; None leaves it without a configuration."""
    state = MeshState(time.monotonic, random.Random(7))
    return Runtime(HandSource(snapshot), state, observer or NullObserver(), plan_for)


def one_cluster(*ports: int, routing: dict | None = None, **settings) -> Runtime:
    """Return a runtime whose every call goes to one cluster."""
    return runtime_on(
        static_snapshot(clusters=[static_cluster("c", ports, **settings)], routes=[route("c", **(routing or {}))])
    )


def retries(on: str, number: int = 1, **more) -> dict:
    """Return a RouteAction's ``retry`` field, with back-offs of milliseconds."""
    return {"retry": RetryPolicy(frozenset(on.split(",")), number, base_interval=0.001, max_interval=0.01, **more)}


def no_counts(runtime: Runtime) -> bool:
    """Tell whether every slot was given back."""
    clusters = runtime.store.current.clusters.values()
    return all(
        not cluster.limits.requests
        and not cluster.limits.retries
        and not any(endpoint.active for endpoint in cluster.endpoints.values())
        for cluster in clusters
    )


def eventually(condition, seconds: float = 5.0) -> bool:
    """Poll what another thread brings about."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return condition()
