"""``explain``: where a request would go, and why, from the configuration in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile

from meshlib.clock import Randomness
from meshlib.model.cluster import ServiceRef
from meshlib.model.discovery import Discovery
from meshlib.model.endpoint import Endpoint, HealthStatus
from meshlib.model.filter_chain import HttpConnectionManager
from meshlib.model.request import RequestView
from meshlib.model.route import DirectResponse, Redirect, Route, RouteAction
from meshlib.model.snapshot import Destination
from meshlib.model.traffic import FaultInjection
from meshlib.policy import routing
from meshlib.policy.cluster_state import ClusterState, EndpointState
from meshlib.policy.deadlines import Deadlines
from meshlib.policy.state import LiveSnapshot
from meshlib.policy.trace import load_row, why_not


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One endpoint as ``explain`` shows it."""

    address: str
    health: str
    ejected: bool
    active: int
    weight: int
    workload: str


@dataclass(frozen=True, slots=True)
class ClusterView:
    """One target cluster.

    Attributes:
        name: of the cluster.
        weight: its share of the route's requests, relative to the others'.
        exists: False where the route names a cluster that is not there.
        lb_policy: how its endpoints are balanced.
        source: the YAML file and line behind it, where the control plane says it.
        fault: faults injected, in place of the route's, when this target is drawn; empty for none.
        endpoints: of the cluster.
        loads: how the load is shared out among its priorities, where there is more to say than that all share it.
    """

    name: str
    weight: int
    exists: bool
    lb_policy: str = ""
    source: str = ""
    fault: str = ""
    endpoints: tuple[EndpointView, ...] = ()
    loads: tuple[str, ...] = ()


_PASSED = "no service has this name: passed through to where the URL says"
DEFAULT_ROUTE = "default"  # istiod's name for the route of a host that no VirtualService names


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a request would go, and why. ``str()`` is for people, :meth:`to_dict` for programs.

    Attributes:
        request: method and URL.
        config_version: the version of the configuration asked.
        listener, route_config, virtual_host, route: names; empty from where nothing matched.
        matched: what the route matches on.
        skipped: routes before it that did not match, with what they match on.
        source: the YAML file and line behind the route, where the control plane says it.
        action: what the route does, in words.
        timeout: seconds, 0 = off.
        retries: the retry policy in words, empty for none.
        fault: faults injected on the route in words, empty for none.
        clusters: the targets, with their endpoints.
        notes: what does not apply, is missing, or would surprise.
    """

    request: str
    config_version: str
    listener: str = ""
    route_config: str = ""
    virtual_host: str = ""
    route: str = ""
    matched: str = ""
    skipped: tuple[str, ...] = ()
    source: str = ""
    action: str = ""
    timeout: float = 0.0
    retries: str = ""
    fault: str = ""
    clusters: tuple[ClusterView, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return it as plain dicts and lists."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield self.request
        table = f"{self.listener}  (route table {self.route_config})" if self.route_config else self.listener
        yield f"  listener      {table or '- none takes it'}"
        yield f"  virtual host  {self.virtual_host or '-'}"
        for text in self.skipped:
            yield f"    no match    {text}"
        yield f"  route         {self.route or '-'}  {self.matched}".rstrip()
        yield f"  configured    {self.source or self._unsourced()}"
        yield f"  action        {self.action or '-'}"
        if self.clusters:
            yield f"  timeout       {f'{self.timeout:g}s' if self.timeout else 'off'}"
            yield f"  retries       {self.retries or 'none'}"
        if self.fault:
            yield f"  fault         {self.fault}"
        for cluster in self.clusters:
            policy = f"  {cluster.lb_policy}" if cluster.exists else "  DOES NOT EXIST"
            yield f"  cluster       {cluster.name}  weight {cluster.weight}{policy}" + (
                f"  ({cluster.source})" if cluster.source else ""
            )
            if cluster.fault:
                yield f"    fault       {cluster.fault}"
            for load in cluster.loads:
                yield f"    load        {load}"
            for endpoint in cluster.endpoints:
                state = "ejected" if endpoint.ejected else endpoint.health.lower()
                yield f"    endpoint    {endpoint.address}  {state}  {endpoint.workload}".rstrip()
        for note in self.notes:
            yield f"  note          {note}"

    def _unsourced(self) -> str:
        if not self.route:
            return "-"
        return "no VirtualService names this host" if self.route == DEFAULT_ROUTE else "the control plane does not say"


def explain(live: LiveSnapshot, view: RequestView, chance: Randomness) -> Explanation:
    """Explain ``view`` against ``live``; draws nothing but ``runtime_fraction``."""
    choice = routing.choose(live.snapshot, view, chance)
    destination = choice.destination
    request = f"{view.method} {view.scheme}://{view.authority}{view.target}"
    base = Explanation(request, live.snapshot.version)
    if destination is None:
        return replace(base, notes=(f"no listener takes {view.host}:{view.port}: NR, 404",))
    base = replace(base, listener=destination.listener)
    found = _explain(live, view, choice, base, destination)
    addresses = live.snapshot.resolve(view.host)
    if len(addresses) == 1:
        return found
    several = f"{view.host} has the addresses {', '.join(addresses)}; one is drawn a call"
    return replace(found, notes=(*found.notes, several))


def _explain(
    live: LiveSnapshot, view: RequestView, choice: routing.Choice, base: Explanation, destination: Destination
) -> Explanation:
    host, route = choice.virtual_host, choice.route
    if destination.tcp is not None:
        clusters = tuple(_cluster(live, each.name, each.weight, destination, view) for each in destination.tcp.clusters)
        what = "TLS of the application's own" if view.scheme == "https" else "a TCP filter chain"
        note = f"{what}: HTTP policies (routes, retries, timeouts, faults) do not apply"
        passed = any(_passes_through(live, cluster.name) for cluster in clusters)
        notes = (note, *_trouble(clusters, 503), *((_PASSED,) if passed else ()))
        return replace(base, action="bytes to a cluster", clusters=clusters, notes=notes)
    if destination.routes is None:
        return replace(base, notes=(f"{routing.dead_end(view, destination)}: NR, 404",))
    base = replace(base, route_config=destination.routes.name)
    if host is None:
        return replace(base, notes=("no virtual host takes this authority: NR, 404",))
    base = replace(base, virtual_host=host.name)
    if route is None:
        return replace(base, skipped=_skipped(host.candidates(view), view), notes=("no route matches: NR, 404",))
    tried = host.candidates(view)
    base = replace(
        base,
        route=route.name,
        matched=str(route.match),
        skipped=_skipped([*takewhile(lambda each: each is not route, tried)], view) if route in tried else (),
        source=route.source,
        action=_action(route),
        fault=_fault(route.fault or (destination.http.fault if destination.http else None), destination.http),
    )
    if route is routing.TO_TLS:
        return replace(base, notes=("require_tls: this virtual host sends plaintext to https",))
    if not isinstance(route.action, RouteAction):
        return base
    forwarding = _forwarding(base, live, route.action, view, destination)
    passed = any(_passes_through(live, cluster.name) for cluster in forwarding.clusters)
    if not passed:
        return forwarding
    return replace(forwarding, notes=(*forwarding.notes, _PASSED + routing.near_miss(view, choice)))


def _forwarding(
    base: Explanation, live: LiveSnapshot, action: RouteAction, view: RequestView, destination: Destination
) -> Explanation:
    clusters = tuple(
        replace(
            _cluster(live, routing.cluster_of(target, view), target.weight, destination, view),
            fault=_fault(target.fault, destination.http),
        )
        for target in action.clusters
    )
    notes = [*_trouble(clusters, action.cluster_not_found_code), *_security(live, clusters)]
    deadlines = Deadlines(action, 0.0)
    if action.retry is not None and action.retry.per_try_timeout and not deadlines.per_try:
        notes.append(
            f"perTryTimeout {action.retry.per_try_timeout:g}s is ignored: not below the timeout {action.timeout:g}s"
        )
    for mirror in action.mirrors:
        share = "a copy" if mirror.percentage >= 100 else f"a copy of {mirror.percentage:g} % of the requests"
        notes.append(f"{share} goes to {mirror.cluster or f'the cluster that {mirror.header} names'}")
    redirects = action.internal_redirects
    if redirects is not None:
        codes = ", ".join(map(str, sorted(redirects.codes)))
        notes.append(f"up to {redirects.limit} redirect(s) ({codes}) are followed here")
    limit = action.stream_duration
    timeout = action.timeout or (limit.longest if limit is not None and limit.longest is not None else 0.0)
    return replace(base, timeout=timeout, retries=_retries(action), clusters=clusters, notes=tuple(notes))


def _trouble(clusters: Sequence[ClusterView], not_found: int) -> list[str]:
    """Say of each cluster why it could not take a call."""
    missing = [f"cluster {c.name!r} does not exist: NC, {not_found}" for c in clusters if not c.exists]
    return missing + [f"cluster {c.name!r} has no endpoints: UH, 503" for c in clusters if c.exists and not c.endpoints]


def _skipped(routes: Sequence[Route], view: RequestView) -> tuple[str, ...]:
    """Say of each route what it matches on, and what of the request is not so, as a decision trace does."""
    return tuple(f"{_named(route)}: {why_not(route, view)}" for route in routes)


def _security(live: LiveSnapshot, clusters: Sequence[ClusterView]) -> Iterator[str]:
    """Say which clusters are called by TLS, and which endpoints cannot be for want of something."""
    for cluster in clusters:
        state = live.clusters.get(cluster.name)
        if state is None:
            continue
        sockets = Counter(state.transport_socket(each.endpoint) for each in state.endpoints.values())
        for socket, count in sockets.items():
            if socket is not None and socket.refusal:
                yield f"{count} endpoint(s) of cluster {cluster.name!r} are not called: {socket.refusal}: UF, 503"
            elif socket is not None and socket.secure:
                yield f"{count} endpoint(s) of cluster {cluster.name!r} are called by {socket.detail}"


def _named(route: Route) -> str:
    return f"{route.name or 'route'}: {route.match}" + (f"  ({route.source})" if route.source else "")


def _action(route: Route) -> str:
    action = route.action
    if isinstance(action, DirectResponse):
        return f"direct response {action.status}"
    if isinstance(action, Redirect):
        return f"redirect {action.status}"
    parts = ["forward"]
    if action.prefix_rewrite:
        parts.append(f"rewriting the path to {action.prefix_rewrite}")
    if action.regex_rewrite:
        parts.append(f"rewriting {action.regex_rewrite.pattern} in the path to {action.regex_rewrite.substitution}")
    if action.path_rewrite:
        parts.append(f"rewriting the path to {action.path_rewrite}")
    if action.host_rewrite:
        parts.append(f"rewriting the host to {action.host_rewrite}")
    if action.host_rewrite_header:
        parts.append(f"rewriting the host to that of the header {action.host_rewrite_header}")
    if action.host_rewrite_path_regex:
        parts.append("rewriting the host to a part of the path")
    if action.auto_host_rewrite:
        parts.append("rewriting the host to the endpoint's name")
    changed = sorted(route.request_headers.names)
    if changed:
        parts.append(f"changing the request headers {', '.join(changed)}")
    changed = sorted(route.response_headers.names)
    if changed:
        parts.append(f"changing the response headers {', '.join(changed)}")
    return ", ".join(parts)


def _retries(action: RouteAction) -> str:
    retry = action.retry
    if retry is None:
        return ""
    text = f"up to {retry.num_retries} after the first attempt, on {','.join(sorted(retry.retry_on)) or 'nothing'}"
    if retry.retriable_status_codes:
        text += f" ({','.join(str(code) for code in sorted(retry.retriable_status_codes))})"
    if retry.per_try_timeout:
        text += f", perTryTimeout {retry.per_try_timeout:g}s"
    text += f", back-off {1000 * retry.base_interval:g}–{1000 * retry.max_interval:g}ms"
    if retry.per_try_idle_timeout:
        text += f", perTryIdleTimeout {retry.per_try_idle_timeout:g}s"
    text += ", avoiding hosts already tried" if retry.previous_hosts else ""
    text += ", avoiding priorities already tried" if retry.previous_priorities else ""
    return text + (", side by side with an attempt that is late" if action.hedge else "")


def _fault(fault: FaultInjection | None, http: HttpConnectionManager | None) -> str:
    if fault is None or http is None or not http.fault_filter:
        return ""
    parts = []
    if fault.delay is not None:
        parts.append(f"delay {fault.delay.seconds:g}s for {fault.delay.percentage:g}%")
    if fault.abort is not None:
        status = fault.abort.status if fault.abort.status is not None else f"gRPC {fault.abort.grpc_status}"
        parts.append(f"abort with {status} for {fault.abort.percentage:g}%")
    if fault.rate is not None:
        parts.append(f"responses slowed to {fault.rate.kbps} KiB/s for {fault.rate.percentage:g}%")
    return ", ".join(parts)


def _cluster(live: LiveSnapshot, name: str, weight: int, destination: Destination, view: RequestView) -> ClusterView:
    state = live.clusters.get(name)
    if state is None:
        return ClusterView(name, weight, exists=False)
    config = state.config
    members = [live.clusters.get(member) for member in config.members]
    clusters = [state] if not config.members else [member for member in members if member is not None]
    endpoints = tuple(view for each in clusters for view in _endpoints(each))
    endpoints = endpoints or _original(state, destination, view)
    balancing = state.describe()
    rows = balancing.priorities
    telling = len(rows) > 1 or balancing.locality_weighted or any(row.panic for row in rows)
    loads = tuple(load_row(balancing, row) for row in rows) if telling and endpoints else ()
    return ClusterView(name, weight, True, config.lb_policy.value, config.source, endpoints=endpoints, loads=loads)


def _passes_through(live: LiveSnapshot, cluster: str) -> bool:
    """Tell whether a cluster is PassthroughCluster or its like, rather than a service that has no endpoints."""
    state = live.clusters.get(cluster)
    if state is None or state.config.service != ServiceRef():
        return False
    return state.config.discovery is Discovery.ORIGINAL_DST


def _original(state: ClusterState, destination: Destination, view: RequestView) -> tuple[EndpointView, ...]:
    if state.config.discovery is not Discovery.ORIGINAL_DST:
        return ()
    return (EndpointView(str(Endpoint(destination.address, view.port)), "UNKNOWN", False, 0, 1, "passed through"),)


def _endpoints(state: ClusterState) -> Iterator[EndpointView]:
    yield from (_endpoint(each) for each in list(state.endpoints.values()))
    if not state.endpoints and state.config.discovery.by_name and state.config.assignment is not None:
        why = state.upkeep.trouble if state.upkeep is not None else "names are not looked up"
        for locality in state.config.assignment.localities:
            for each in locality.endpoints:
                yield EndpointView(str(each), "UNKNOWN", False, 0, each.weight, why or "looked up by the first call")


def _endpoint(state: EndpointState) -> EndpointView:
    endpoint = state.endpoint
    workload = endpoint.workload
    name = "" if workload.name == "unknown" else f"{workload.name}.{workload.namespace}"
    if name and workload.version != "unknown":
        name += f" ({workload.version})"
    told = endpoint.health if state.probe is HealthStatus.HEALTHY else state.probe
    health = "UNCHECKED" if told is state.probe is HealthStatus.UNKNOWN else told.name
    return EndpointView(str(endpoint), health, state.ejected, state.active, endpoint.weight, name)
