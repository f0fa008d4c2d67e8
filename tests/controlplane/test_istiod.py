"""The same YAML through istiod and through us gives the same resources, but for a fixed list of differences."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from controlplane import captures

# ---------------------------------------------------------------- what is not compared, and why


def without_names(*prefixes):
    def apply(resources):
        for name in [name for name in resources if name.startswith(prefixes)]:
            del resources[name]

    return apply


def every(change):
    def apply(resources):
        for resource in resources.values():
            change(resource)

    return apply


def drop(*keys):
    return every(lambda resource: [resource.pop(key, None) for key in keys])


def istio_filters(value):
    """Remove filters by name, wherever a list of filters stands."""
    gone = (
        "istio.",
        *(f"envoy.filters.{name}" for name in ("http.grpc_stats", "http.cors", "http.grpc_web", "network.mongo_proxy")),
    )
    if isinstance(value, dict):
        for item in value.values():
            istio_filters(item)
    elif isinstance(value, list):
        value[:] = [item for item in value if not (isinstance(item, dict) and item.get("name", "").startswith(gone))]
        for item in value:
            istio_filters(item)


def tracing(value):
    if isinstance(value, dict):
        value.pop("tracing", None)
        for item in value.values():
            tracing(item)
    elif isinstance(value, list):
        for item in value:
            tracing(item)


def source(resource):
    holders = [resource, *(route for host in resource.get("virtual_hosts", ()) for route in host.get("routes", ()))]
    for holder in holders:
        holder.get("metadata", {}).get("filter_metadata", {}).pop("meshlib", None)


def query_order(resource):
    for host in resource.get("virtual_hosts", ()):
        for route in host.get("routes", ()):
            route["match"].get("query_parameters", []).sort(key=lambda item: item["name"])


def tls_mode(resource):
    for group in resource.get("endpoints", ()):
        for endpoint in group["lb_endpoints"]:
            endpoint["metadata"]["filter_metadata"].pop("envoy.transport_socket_match", None)


@dataclass
class Normalisation:
    types: str
    reason: str
    apply: Callable[[dict[str, Any]], None]


NORMALISATIONS = [
    Normalisation("CDS LDS", "inbound: no workload is behind a sidecar here",
                  without_names("inbound|", "InboundPass", "virtualInbound")),
    Normalisation("CDS EDS LDS", "the API server, which Kubernetes has and a folder has not",
                  without_names("outbound|443||kubernetes.default", "10.96.0.1_443", "kubernetes.default")),
    Normalisation("RDS", "the API server, again", without_names("outbound|443||kubernetes.default")),
    Normalisation("CDS", "istio.metadata_exchange is a filter of Istio's own Envoy", drop("filters")),
    Normalisation("LDS", "filters of Istio's own Envoy, and those that watch a protocol", every(istio_filters)),
    Normalisation("LDS", "tracing: Istio's tags; ours is there only with a collector", every(tracing)),
    Normalisation("CDS", "auto mTLS: ours is meshConfig.enableAutoMtls false", drop("transport_socket_matches")),
    Normalisation("EDS", "auto mTLS: without it istiod does not mark endpoints either", every(tls_mode)),
    Normalisation("RDS CDS", "ours alone: the file and line behind a route or policy", every(source)),
    Normalisation("RDS", "istiod's order of query parameters is that of a Go map", every(query_order)),
]  # fmt: skip


def normalised(resources):
    resources = copy.deepcopy(resources)
    for short, by_name in resources.items():
        for resource in by_name.values():
            resource.pop("@type", None)
        for normalisation in NORMALISATIONS:
            if short in normalisation.types.split():
                normalisation.apply(by_name)
    return resources


# ---------------------------------------------------------------- the comparison

SIDECAR, GRPC, ROUTER = "sidecar-webapp", "grpc-webapp", "router-ingress"

# (scenario, client, names in which we differ, each with its reason)
CASES = [
    *((f"istiod/{scenario}", client, {})
      for scenario in ("default", "retry", "subsets", "all-v1", "dark-launch", "match", "fault", "timeout", "outlier")
      for client in (SIDECAR, GRPC, ROUTER)),
    *((f"istiod/{scenario}", client, {})
      for scenario in ("conflict", "visibility", "http-settings", "sniffed")
      for client in (SIDECAR, GRPC)),
    ("istiod/conflict", ROUTER, {}),
    ("istiod/subset-missing", SIDECAR, {}),
    ("istiod/locality-none", SIDECAR, {}),
    ("istiod/external-dns", GRPC, {}),
    ("istiod/external-dns", SIDECAR, {"outbound|80||secure.example.com": "system CAs by path, not by Istio's agent"}),
    ("istiod/lb-policies", SIDECAR, {
        "|passthrough|": "auto mTLS stands in transport_socket here",
    }),
    ("istiod/lb-policies", GRPC, {
        "|least|": "gRPC refuses LEAST_REQUEST",
        "|hash-source|": "gRPC refuses MAGLEV",
        "|hash-maglev|": "gRPC refuses MAGLEV",
    }),
    ("istiod/lb-policies", ROUTER, {"|passthrough|": "auto mTLS stands in transport_socket here"}),
    ("istiod/consistent-hash", SIDECAR, {}),
    ("istiod/consistent-hash", GRPC, {"80||forum": "gRPC refuses MAGLEV"}),
    ("istiod/consistent-hash", ROUTER, {}),
    ("istiod/proof", ROUTER, {}),
    ("istiod/proof", GRPC, {}),
    ("istiod-book/ch2-base", SIDECAR, {}),
    ("istiod-book/ch2-base", GRPC, {}),
    ("istiod-book/k8s-ports", SIDECAR, {}),
    ("istiod-book/ch6-base", "sidecar-simple-web", {}),
]  # fmt: skip


def everywhere():
    """Every case, wherever it is found: in the selection, in the whole set, in both."""
    for scenario, client, differing in CASES:
        found = captures.find(scenario, client)
        for path in found:
            yield pytest.param(path, differing, id=f"{path.parent.parent.parent.name}-{scenario}-{client}")
        if not found:
            skip = pytest.mark.skip(reason="only a selection of the captures is part of the checkout")
            yield pytest.param(None, differing, id=f"{scenario}-{client}", marks=skip)


@pytest.mark.parametrize(("path", "differing"), [*everywhere()])
def test_equal_to_istiod(path, differing):
    capture = captures.load(path)
    assert compare(capture, capture.translated(), differing) >= 1


def compare(capture, ours, differing):
    """Assert equality; return how many resources were compared."""
    theirs, ours = normalised(capture.resources), normalised(ours)
    compared = 0
    for short in theirs:
        if not theirs[short]:
            continue
        if capture.node.kind.value == "grpc":  # istiod was asked for some names; ours has all
            ours[short] = {name: ours[short].get(name) for name in theirs[short]}
        assert sorted(ours[short]) == sorted(theirs[short]), short
        for name in theirs[short]:
            if not any(part in name for part in differing):
                assert ours[short][name] == theirs[short][name], f"{short} {name}"
                compared += 1
    return compared


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"attempts: 3", b"attempts: 4"),
        (b"retryOn: 5xx", b"retryOn: gateway-error"),
        (b"perTryTimeout: 2s", b"perTryTimeout: 3s"),
        (b'hosts: ["catalog"]', b'hosts: ["forum"]'),
        (b"name: catalog\n", b"name: other\n"),
    ],
)
def test_a_difference_is_seen(old, new):
    capture = captures.load(captures.find("istiod/retry", SIDECAR)[0])
    changed = {**capture.files, "vs-catalog.yaml": capture.files["vs-catalog.yaml"].replace(old, new)}
    assert changed != capture.files
    with pytest.raises(AssertionError):
        compare(capture, capture.translated(changed), {})


def changes(normalisation, resources):
    for short in normalisation.types.split():
        after = copy.deepcopy(resources[short])
        normalisation.apply(after)
        if after != resources[short]:
            return True
    return False


def test_every_normalisation_is_needed():
    """A line of the table that changes nothing in any capture at hand would hide a difference to come."""
    unused = list(NORMALISATIONS)
    for scenario, client, _ in CASES:
        for path in captures.find(scenario, client):
            capture = captures.load(path)
            unused = [
                item for item in unused if not (changes(item, capture.resources) or changes(item, capture.translated()))
            ]
    book = captures.find("istiod-book/ch2-base", SIDECAR)
    assert [item.reason for item in unused if book or "API server" not in item.reason] == []
