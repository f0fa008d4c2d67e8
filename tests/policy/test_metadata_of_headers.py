"""The header-to-metadata filter: what it makes of headers, and what reads it. Measured on Envoy 1.40."""

from __future__ import annotations

import pytest

from meshlib.model.balancing import Balancing, Fallback, LbPolicy, Subsets, SubsetSelector
from meshlib.model.endpoint import Endpoint
from meshlib.model.filters import HeaderToMetadata, MetadataRule, MetadataValue
from meshlib.model.headers import HeaderMutations, HeaderToAdd, MutationStep
from meshlib.model.metadata import criteria
from meshlib.model.rewrite import RegexRewrite
from meshlib.model.route import Route, RouteAction, WeightedCluster
from meshlib.model.template import Template
from policy.driving import Lab
from policy.snapshots import ANY_PATH, cluster, request, snapshot

HOSTS = [Endpoint(f"10.0.0.{n}", 80, metadata={"envoy.lb": {"version": f"v{n}", "stage": "dev"}}) for n in range(1, 4)]
SUBSETS = Subsets(
    selectors=(SubsetSelector(("version",)), SubsetSelector(("stage", "version"))), fallback=Fallback.NO_FALLBACK
)
VERSION = MetadataValue("envoy.lb", "version")
SEEN = "%DYNAMIC_METADATA(envoy.lb:version)%|%METADATA(DYNAMIC:own:n)%"


def run(*rules, subset=(), **fields):
    added = HeaderMutations((MutationStep(add=(HeaderToAdd("x-seen", Template(SEEN)),)),))
    action = RouteAction((WeightedCluster("c", subset=subset),))
    hosts = cluster(HOSTS, balancing=Balancing(LbPolicy.ROUND_ROBIN, subsets=SUBSETS))
    route = Route(ANY_PATH, action, request_headers=added)
    return Lab(snapshot(hosts, routes=[route], filters=(("f", HeaderToMetadata(rules)),))).run(view=request(**fields))


def seen(done):
    return [value for key, value in done.attempts[0].headers if key == "x-seen"]


BY_HEADER = MetadataRule("x-version", present=VERSION, missing=MetadataValue("envoy.lb", "version", "v1"), remove=True)


@pytest.mark.parametrize(("headers", "host"), [([("x-version", "v2")], 2), ([("x-version", "v3")], 3), ([], 1)])
def test_metadata_narrows_a_call_to_a_subset(headers, host):
    done = run(BY_HEADER, headers=headers)
    assert (done.hosts, seen(done)) == ([f"10.0.0.{host}"], [f"v{host}|"])
    assert ("x-version" in done.attempts[0].removed) is bool(headers)


@pytest.mark.parametrize("value", ["v9", ""])
def test_what_no_endpoint_has(value):
    assert run(BY_HEADER, headers=[("x-version", value)]).flags == "UH"


def test_what_the_route_asks_counts_as_well():
    asked = criteria({"stage": "dev"})
    assert run(BY_HEADER, subset=asked, headers=[("x-version", "v2")]).hosts == ["10.0.0.2"]
    assert run(BY_HEADER, subset=criteria({"stage": "prod"}), headers=[("x-version", "v2")]).flags == "UH"


def test_values_are_rewritten_and_fixed():
    rewrite = MetadataValue("envoy.lb", "version", rewrite=RegexRewrite("^ver-(.*)$", r"v\1"))
    assert run(MetadataRule("x", present=rewrite), headers=[("x", "ver-3")]).hosts == ["10.0.0.3"]
    fixed = MetadataValue("envoy.lb", "version", "v2")
    assert run(MetadataRule("x", present=fixed), headers=[("x", "any")]).hosts == ["10.0.0.2"]


def test_of_a_cookie():
    assert run(MetadataRule(cookie="c", present=VERSION), headers=[("cookie", "a=1; c=v2")]).hosts == ["10.0.0.2"]


@pytest.mark.parametrize(("value", "shown"), [("12", "12"), ("1.50", "1.5"), ("no", "")])
def test_numbers(value, shown):
    number = MetadataRule("x-n", present=MetadataValue("own", "n", number=True))
    done = run(BY_HEADER, number, headers=[("x-version", "v1"), ("x-n", value)])
    assert seen(done) == [f"v1|{shown}"]
