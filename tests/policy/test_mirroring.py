"""Request mirroring: which copies are made, of what, and how they end."""

from __future__ import annotations

import pytest

from meshlib.explain import explain
from meshlib.model.cluster import Thresholds
from meshlib.model.headers import HeaderMutations, HeaderToAdd, MutationStep
from meshlib.model.rewrite import RegexRewrite
from meshlib.model.template import Template
from meshlib.model.traffic import InternalRedirects, MirrorPolicy
from meshlib.policy.effects import Attempt, Mirror, Outcome
from meshlib.policy.mirroring import dropped, shadowed
from meshlib.policy.stack import mirrored
from policy.driving import Lab, ScriptedRandom
from policy.snapshots import cluster, endpoints, forward, request, retry, snapshot

TO_M = MirrorPolicy("m")


def lab(*policies, chance=None, m=None, **action):
    target = m or cluster(endpoints(1), name="m")
    route = forward(name="route", mirrors=policies, **action)
    return Lab(snapshot(cluster(endpoints(1)), target, routes=[route]), chance=chance)


def copies(run):
    return [effect for effect in run.effects if isinstance(effect, Mirror)]


@pytest.mark.parametrize(
    ("authority", "shadow"),
    [
        ("a.test", "a.test-shadow"),
        ("a.test:80", "a.test-shadow:80"),
        ("[::1]:80", "[::1]-shadow:80"),
        ("[::1]", "[::1]-shadow"),
    ],
)
def test_the_suffix_stands_before_the_port(authority, shadow):
    assert shadowed(authority) == shadow


def test_a_copy_is_what_is_sent():
    mutation = MutationStep(frozenset({"x-a"}), (HeaderToAdd("x-copy", Template("%REQ(x-b)% %UPSTREAM_CLUSTER%")),))
    policy = MirrorPolicy("m", request_headers=HeaderMutations((mutation,)))
    view = request("/old", method="POST", headers=[("x-a", "1"), ("x-b", "2"), ("x-envoy-max-retries", "1")])
    run = lab(policy, regex_rewrite=RegexRewrite("^/old", "/new"), timeout=3.0).run(view=view)
    (copy,) = copies(run)
    made = copy.call.view
    assert (made.method, made.target, made.authority) == ("POST", "/new", "catalog-shadow")
    assert dict(made.headers) == {
        "host": "catalog-shadow",
        "x-b": "2",
        "x-envoy-expected-rq-timeout-ms": "3000",
        "x-envoy-original-path": "/old",
        "x-copy": "2 c",
    }
    assert copy.action.timeout == 3.0
    assert run.record.mirrors == ("m",)


@pytest.mark.parametrize(
    ("policy", "host"),
    [
        (TO_M, "catalog-shadow"),
        (MirrorPolicy("m", suffix=False), "catalog"),
        (MirrorPolicy("m", host_rewrite="h:90"), "h:90"),
    ],
)
def test_the_host_of_a_copy(policy, host):
    (copy,) = copies(lab(policy).run())
    assert copy.call.view.authority == host


def test_explain_says_where_copies_go():
    policies = TO_M, MirrorPolicy(header="x-m", percentage=5.0)
    mesh = lab(*policies, internal_redirects=InternalRedirects(limit=2))
    assert explain(mesh.live, request(), mesh.chance).notes == (
        "a copy goes to m",
        "a copy of 5 % of the requests goes to the cluster that x-m names",
        "up to 2 redirect(s) (302) are followed here",
    )


def test_one_copy_however_often_it_is_tried():
    run = lab(TO_M, retry=retry("5xx", num_retries=3)).run(503)
    assert (len(run.attempts), len(copies(run))) == (4, 1)


def test_copies_are_drawn_one_by_one():
    never, always = MirrorPolicy("m", percentage=0.0), MirrorPolicy("c")
    assert [c.action.clusters[0].name for c in copies(lab(never, always).run())] == ["c"]
    half = MirrorPolicy("m", percentage=50.0)
    assert copies(lab(half, chance=ScriptedRandom(0.49)).run())
    assert not copies(lab(half, chance=ScriptedRandom(0.5)).run())


@pytest.mark.parametrize(("value", "made"), [("m", 1), ("nowhere", 0), ("", 0), (None, 0)])
def test_a_header_names_the_cluster(value, made):
    view = request(headers=[] if value is None else [("x-m", value)])
    assert len(copies(lab(MirrorPolicy(header="x-m")).run(view=view))) == made


def test_what_has_no_endpoint_is_not_mirrored():
    empty = Lab(snapshot(cluster(), cluster(endpoints(1), name="m"), routes=[forward(mirrors=(TO_M,))]))
    assert not copies(empty.run())


def drive(copy, outcome):
    policy, effects, answer = mirrored(copy.call, copy.action), [], None
    try:
        while True:
            effects.append(policy.send(answer))
            answer = outcome if isinstance(effects[-1], Attempt) else None
    except StopIteration:
        return effects


def test_a_copy_has_one_attempt_and_tells_its_end_alone():
    mesh = lab(TO_M, retry=retry("5xx"))
    (copy,) = copies(mesh.run())
    before = dict(mesh.journal.events)
    effects = drive(copy, Outcome(503))
    assert [type(effect).__name__ for effect in effects] == ["Attempt", "Respond"]
    assert effects[0].cluster.name == "m"
    assert mesh.journal.events.pop("mirror_ended") == 1
    assert dict(mesh.journal.events) == before
    assert (copy.call.record.status, copy.call.record.cluster_name) == (503, "m")
    mesh.assert_idle()


def test_a_copy_has_the_limits_of_its_own_cluster():
    full = cluster(endpoints(1), name="m", thresholds=Thresholds(max_requests=0))
    (copy,) = copies(lab(TO_M, m=full).run())
    drive(copy, Outcome(200))
    assert copy.call.record.response_flags == "UO"


def test_a_copy_that_is_dropped_is_told_of():
    mesh = lab(TO_M)
    (copy,) = copies(mesh.run())
    dropped(copy.call)
    assert mesh.journal.events["mirror_ended"] == 1
    assert copy.call.record.detail == "mirror_overflow"
