"""What the policy of a call costs in the process, without a network: ``make bench NAME=policy``.

- *Policy*: a first-try success through the whole stack: match among 10 routes, a weighted cluster,
  least request among 50 endpoints, limits, outlier detection, an armed retry policy.
- *Whole*: the mesh around it: the httpx request read, header mutations, the request id, Istio's
  metrics, the record, the headers of the attempt.
- The same policy at 1,000 virtual hosts of 10 routes each, and at 5,000 endpoints.
- *Call*: a bare Python function call in the same run, to know the machine by.

All figures are CPU microseconds a call: the median over short slices that take turns. The
drivers of the transports do nothing else on a first-try success than send and receive.

``ARGS="--rounds 40 --seconds 0.1"`` takes longer.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import httpx

import meshlib
from meshlib.clock import system_clock
from meshlib.model.balancing import Balancing, LbPolicy
from meshlib.model.cluster import Cluster, Discovery, OutlierDetection
from meshlib.model.endpoint import ClusterLoadAssignment, Endpoint, LocalityEndpoints
from meshlib.model.filter_chain import FilterChain, HttpConnectionManager
from meshlib.model.headers import HeaderMutations, HeaderToAdd, MutationStep
from meshlib.model.listener import Listener
from meshlib.model.match import HeaderMatch, PathMatch, RouteMatch, StringMatch, StringOp
from meshlib.model.route import Route, RouteAction, RouteConfiguration, VirtualHost, WeightedCluster
from meshlib.model.snapshot import Snapshot, Style
from meshlib.model.template import Template
from meshlib.model.traffic import RetryPolicy
from meshlib.policy.call import Call
from meshlib.policy.effects import Attempt, BodyEnd, Outcome
from meshlib.policy.events import NullObserver
from meshlib.policy.record import CallRecord
from meshlib.policy.stack import execute
from meshlib.policy.state import LiveSnapshot, MeshState
from meshlib.settings import Identity
from meshlib.transports.httpx_exchange import Exchange, Timeouts
from meshlib.transports.httpx_translate import attempt_headers, view_of
from pairing import last_line

ROUTES = 10
ENDPOINTS = 50
RETRY = RetryPolicy(frozenset({"5xx", "reset", "connect-failure"}), num_retries=2, previous_hosts=True)
OUTLIERS = OutlierDetection(consecutive_5xx=5)
ANSWER = Outcome(200, {}, response="a response")
END = BodyEnd(None, 2)
CALLS = 200  # between two looks at the clock
GOALS = {"policy_us": 8.0, "whole_us": 20.0}
GROWTH_GOAL = 2.0


def routes(*, mutating: bool) -> tuple[Route, ...]:
    """Ten routes: the last takes the request, and draws one of two clusters; the one before it asks for a header."""
    tester = HeaderMatch("x-user", StringMatch(StringOp.EXACT, "tester"))
    misses = [RouteMatch(PathMatch(StringOp.PREFIX, f"/other-{n}")) for n in range(ROUTES - 2)]
    misses.append(RouteMatch(PathMatch(StringOp.PREFIX, "/items"), (tester,)))
    added = (
        HeaderMutations((MutationStep(add=(HeaderToAdd("x-added", Template("yes")),)),))
        if mutating
        else HeaderMutations()
    )
    action = RouteAction((WeightedCluster("v1", 90), WeightedCluster("v2", 10)), retry=RETRY)
    taken = Route(RouteMatch(PathMatch(StringOp.PREFIX, "/items")), action, "items", request_headers=added)
    return (*(Route(match, RouteAction((WeightedCluster("v1"),))) for match in misses), taken)


def mesh_of(hosts: int, endpoints: int, *, mutating: bool = False) -> Snapshot:
    """One listener over ``hosts`` virtual hosts and two clusters of ``endpoints``."""
    made = tuple(
        VirtualHost(f"svc-{n}", (f"svc-{n}", f"svc-{n}.default.svc.cluster.local"), routes(mutating=mutating))
        for n in range(hosts)
    )
    where = tuple(Endpoint(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 80) for n in range(endpoints))
    clusters = {
        name: Cluster(
            name,
            Discovery.STATIC,
            ClusterLoadAssignment(name, (LocalityEndpoints(where),)),
            Balancing(LbPolicy.LEAST_REQUEST),
            outlier=OUTLIERS,
        )
        for name in ("v1", "v2")
    }
    http = HttpConnectionManager(route_config=RouteConfiguration("80", made))
    listener = Listener("0.0.0.0_80", "0.0.0.0", 80, chains=(FilterChain(http=http),))
    return Snapshot("1", Style.STATIC, {listener.name: listener}, {}, clusters)


def request() -> httpx.Request:
    """The request, with the headers that an httpx client sends."""
    return httpx.Client().build_request("GET", "http://svc-0/items/42", headers={"x-user": "someone"})


def finish(policy: object, answers: tuple[object, object]) -> None:
    """Drive a policy to the end of its call."""
    send = policy.send  # type: ignore[attr-defined]  # a Policy; the annotation would cost an import for nothing
    send(None)
    try:
        for answer in answers:
            send(answer)
    except StopIteration:
        return
    raise RuntimeError("the call did not end")


def policy_call(hosts: int, endpoints: int) -> Callable[[], None]:
    """Return one first-try success through the policy stack alone."""
    chance = random.Random(7)
    live = MeshState(system_clock, chance).bind(mesh_of(hosts, endpoints))
    view, observer = view_of(request()), NullObserver()

    def call() -> None:
        record = CallRecord(view, system_clock())
        finish(execute(Call(view, live, record, system_clock, chance, observer)), (ANSWER, END))

    return call


class _Still:
    """A source whose configuration never changes."""

    def start(self, publish: Callable[[Snapshot], None], _usage: object = None) -> None:
        publish(mesh_of(10, ENDPOINTS, mutating=True))

    def close(self) -> None: ...

    def describe(self) -> str:
        return "the benchmark"

    def demand(self, _host: str, _port: int) -> bool:
        return False

    def forked(self) -> None: ...


def whole_call(mesh: meshlib.Mesh) -> Callable[[], None]:
    """Return one first-try success with all that the mesh does around the policy, but for the network."""
    runtime, asked = mesh._runtime, request()

    def call() -> None:
        view = view_of(asked)
        live = runtime.live(view)
        assert isinstance(live, LiveSnapshot)
        made = runtime.call(view, live)
        exchange = Exchange(made, asked, Timeouts(asked))
        policy = execute(made)
        effect = next(policy)
        assert isinstance(effect, Attempt), effect
        attempt_headers(exchange, effect)
        policy.send(ANSWER)
        try:
            policy.send(END)
        except StopIteration:
            return

    return call


def bare() -> None:
    """Do nothing."""


def take_turns(subjects: dict[str, Callable[[], None]], rounds: int, seconds: float) -> dict[str, float]:
    """Return the median CPU microseconds of a call of each."""
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 1):
        for name, call in subjects.items():
            cost = _slice(call, seconds)
            if number:  # the first round warms up
                taken[name].append(cost)
    return {name: round(statistics.median(costs), 3) for name, costs in taken.items()}


def _slice(call: Callable[[], None], seconds: float) -> float:
    calls, began, until = 0, time.process_time(), time.perf_counter() + seconds
    turns = range(CALLS)
    while time.perf_counter() < until:
        for _ in turns:
            call()
        calls += CALLS
    return 1e6 * (time.process_time() - began) / calls


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each slice")
    given = parser.parse_args()
    mesh = meshlib.Mesh(_Still(), Identity(), tracing=False)
    with mesh:
        mesh.wait_ready(5.0)
        subjects = {
            "call_us": bare,
            "policy_us": policy_call(10, ENDPOINTS),
            "whole_us": whole_call(mesh),
            "vhosts_1000_us": policy_call(1000, ENDPOINTS),
            "endpoints_5000_us": policy_call(10, 5000),
        }
        figures = take_turns(subjects, given.rounds, given.seconds)
    figures["call_us"] = round(figures["call_us"], 4)
    print("CPU microseconds of one first-try success")
    goals = {**GOALS, **dict.fromkeys(("vhosts_1000_us", "endpoints_5000_us"), figures["policy_us"] + GROWTH_GOAL)}
    for name, cost in figures.items():
        goal = f"   goal {goals[name]:.1f}" if name in goals else ""
        print(f"  {name:<20}{cost:>9.3f}   {cost / figures['call_us']:>6.0f} bare calls{goal}")
    last_line(figures)


if __name__ == "__main__":
    main()
