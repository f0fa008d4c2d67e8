"""The decision trace of one call: why it went where it went, step by step.

Made only for calls that ask for it (``extensions={"meshlib": {"trace": True}}``) or that are
sampled (``trace_decisions=``); for all others each step costs one look at None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from meshlib.clock import Randomness
from meshlib.model.endpoint import Locality
from meshlib.model.match import is_grpc
from meshlib.model.metadata import Criteria
from meshlib.model.request import RequestView
from meshlib.model.route import Route, RouteAction, VirtualHost, WeightedCluster
from meshlib.model.snapshot import Destination
from meshlib.policy.deadlines import Deadlines
from meshlib.policy.effects import Outcome
from meshlib.policy.record import AttemptRecord, CallRecord

if TYPE_CHECKING:
    from meshlib.policy.balancing.view import BalancingView, PriorityView
    from meshlib.policy.cluster_state import ClusterState, EndpointState
    from meshlib.policy.limits import Limits

_SHOWN = 20  # virtual hosts, endpoints or routes of one step; a table may have thousands


class Step(NamedTuple):
    """One decision.

    Attributes:
        kind: ``virtual host``, ``route``, ``weights``, ``fault``, ``load``, ``excluded``, ``attempt`` or ``retry``.
        text: what was decided, and why.
    """

    kind: str
    text: str


class Listening:
    """Hands chance on, and keeps the last draw."""

    __slots__ = ("_chance", "last")

    def __init__(self, chance: Randomness) -> None:
        self._chance = chance
        self.last: float | None = None

    def random(self) -> float:
        """Return the next draw."""
        self.last = self._chance.random()
        return self.last


class Trace:
    """What policy decided of one call. Written by the call's own task or thread only; picklable.

    Attributes:
        steps: in the order in which they were decided.
    """

    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def note(self, kind: str, text: str) -> None:
        """Take note of a decision."""
        self.steps.append(Step(kind, text))

    def routed(
        self, destination: Destination | None, host: VirtualHost | None, route: Route | None, view: RequestView
    ) -> None:
        """Say which virtual host and route a request took, and why not those before."""
        if destination is None or destination.routes is None:
            self.note("virtual host", f"none: no route table for {view.host}:{view.port}")
            return
        table = destination.routes
        if host is None:
            tried = [domain for each in table.virtual_hosts for domain in each.domains]
            self.note("virtual host", f"none of {_listed(tried)} takes {view.authority!r}")
            return
        via = next((d for d in host.domains if domain_takes(d, view.authority)), "")
        self.note("virtual host", f"{host.name} takes {view.authority!r}" + (f" by {via!r}" if via else ""))
        for number, candidate in enumerate(host.routes):
            if candidate is route:
                self.note("route", f"{named(route)}: matches {route.match}")
                return
            if number < _SHOWN:
                self.note("route", f"{named(candidate)}: no, {why_not(candidate, view)}")
        self.note("route", named(route) if route is not None else "none matches")

    def weights(self, action: RouteAction, target: WeightedCluster, draw: float | None) -> None:
        """Say which cluster was drawn."""
        if len(action.clusters) == 1:
            self.note("weights", f"{target.name or target.header}: the only one")
            return
        total = sum(each.weight for each in action.clusters)
        shares = ", ".join(f"{each.name or each.header} {each.weight}" for each in action.clusters)
        how = "by the request's hash" if draw is None else f"{draw * total:.3g} of {total}"
        self.note("weights", f"{target.name or target.header} of {shares}; drew {how}")

    def picking(
        self, cluster: ClusterState, avoid: Callable[[EndpointState], bool] | None, subset: Criteria
    ) -> Callable[[EndpointState], bool] | None:
        """Say how the load is shared out and who gets none; returns ``avoid`` that says whom it passes over."""
        view = cluster.describe(subset)
        for row in view.priorities:
            self.note("load", load_row(view, row))
        for excluded in view.excluded[:_SHOWN]:
            self.note("excluded", f"{excluded.address}: {excluded.reason}")
        if avoid is None:
            return None

        def noting(state: EndpointState) -> bool:
            passed = avoid(state)
            if passed:
                self.note("excluded", f"{state.endpoint}: retry_host_predicate passes it over")
            return passed

        return noting

    def attempt(self, attempt: AttemptRecord, deadlines: Deadlines, limits: Limits) -> None:
        """Say where an attempt goes, which timer bounds it, and how full the cluster is."""
        timer = "no timeout"
        if attempt.timeout is not None:
            timer = f"{1000 * attempt.timeout:.0f}ms ({deadlines.expiry.value})"
        allowed = limits.thresholds
        self.note(
            "attempt",
            f"{attempt.number} to {attempt.endpoint}, {timer}; requests {limits.requests}/{allowed.max_requests}, "
            f"connections {limits.connections}/{allowed.max_connections}, "
            f"pending {len(limits.pending)}/{allowed.max_pending_requests}",
        )

    def retry(self, outcome: Outcome, wait: float | None, record: CallRecord, limits: Limits) -> None:
        """Say whether a wanted retry is made, and what the budget was."""
        met = outcome.error.value if outcome.error is not None else str(outcome.status)
        budget = f"retries {limits.retries}/{limits.retries_allowed()} ({limits.retry_limit})"
        if wait is not None:
            self.note("retry", f"after {met}: in {1000 * wait:.0f}ms; {budget}")
        else:
            self.note("retry", f"after {met}: not made, {record.retry_skipped or 'num_retries are used up'}; {budget}")

    def to_list(self) -> list[dict[str, str]]:
        """Return the steps as plain dicts."""
        return [step._asdict() for step in self.steps]

    def __str__(self) -> str:
        return "\n".join(f"{step.kind:<13} {step.text}" for step in self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)


def domain_takes(domain: str, authority: str) -> bool:
    """Tell whether a virtual host's domain is one for an authority, whatever its port."""
    domain, names = domain.lower(), (authority.lower(), authority.lower().rpartition(":")[0])
    if domain == "*":
        return True
    if domain[:1] == "*":
        return any(name.endswith(domain[1:]) for name in names if name)
    if domain[-1:] == "*":
        return any(name.startswith(domain[:-1]) for name in names if name)
    return domain in names


def named(route: Route) -> str:
    """Return what a route is called, and where it was configured."""
    return (route.name or f"route {route.match}") + (f"  ({route.source})" if route.source else "")


def why_not(route: Route, view: RequestView) -> str:
    """Return the first thing of a request that a route does not match."""
    match = route.match
    if not match.path.compile()(view.path):
        return f"the path {view.path} is not {match.path}"
    for header in match.headers:
        if not header.compile()(view):
            found = ", ".join(view.values(header.name.lower()))
            return f"header {header}: it is {found!r}" if found else f"header {header}: there is none"
    for parameter in match.query:
        if not parameter.compile()(view):
            return f"query {parameter}: it is {view.query!r}"
    if match.grpc and not is_grpc(view):
        return "the content-type is not gRPC's"
    if match.runtime_fraction is not None:
        return f"runtime_fraction {match.runtime_fraction:g}% did not draw it"
    return f"{match} does not match"


def load_row(view: BalancingView, row: PriorityView) -> str:
    """Return what one priority gets, and its localities where they matter."""
    text = f"priority {row.priority}: {row.load}% over {row.healthy} of {row.endpoints} endpoints, {view.policy}"
    if row.degraded_load:
        text += f", {row.degraded_load}% to {row.degraded} that are degraded"
    if row.panic:
        text += ", in panic: all are used, whatever their health"
    if view.locality_weighted:
        shares = ", ".join(f"{_place(each.locality)} {each.effective_weight:g}" for each in row.localities)
        text += f"; localities weigh {shares}"
    return text + (f"; subset {dict(view.subset)}" if view.subset else "")


def _place(locality: Locality) -> str:
    return "/".join(part for part in (locality.region, locality.zone, locality.sub_zone) if part) or "(none)"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "no domain"
