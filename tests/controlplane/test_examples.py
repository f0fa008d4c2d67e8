"""The YAML that newcomers read first is right, and says what its comments say."""

from pathlib import Path

import pytest

from meshlib.controlplane.documents import read
from meshlib.controlplane.node import Node, NodeKind
from meshlib.controlplane.translate import translate
from meshlib.controlplane.validate import validate

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
HOST = "catalog.istioinaction.svc.cluster.local"
WEBAPP = Node(kind=NodeKind.SIDECAR, namespace="istioinaction", labels={"app": "webapp"})
INGRESS = Node(kind=NodeKind.ROUTER, namespace="istio-system", labels={"istio": "ingressgateway"})


def folder(name):
    return {file.name: file.read_bytes() for file in sorted((EXAMPLES / name).glob("*.yaml"))}


def mesh(**changes):
    """The mesh with files copied from ``changes`` as the comments there say."""
    files = {**folder("mesh"), **{name: folder("changes")[source] for name, source in changes.items()}}
    assert [str(fault) for fault in validate(files)] == []
    return read(files)[0]


def test_the_mesh_is_right_and_one_file_a_resource():
    assert validate(folder("mesh")) == ()
    for content in folder("mesh").values():
        assert content.count(b"\nkind: ") == 1


@pytest.mark.parametrize("name", sorted(folder("changes")))
def test_every_change_says_what_to_copy_and_replaces_one_resource(name):
    content = folder("changes")[name].decode()
    target = content.partition(f"cp examples/changes/{name} examples/mesh/")[2].split()[0]
    mesh(**{target: name})


def endpoints(resources, cluster):
    groups = resources.endpoints[cluster].endpoints
    sockets = [item.endpoint.address.socket_address for group in groups for item in group.lb_endpoints]
    return [(item.address, item.port_value) for item in sockets]


def test_where_requests_go():
    resources, _ = translate(mesh(), WEBAPP)
    assert endpoints(resources, f"outbound|80||{HOST}") == [("127.0.0.1", 3000), ("127.0.0.1", 3001)]
    assert endpoints(resources, f"outbound|80|version-v1|{HOST}") == [("127.0.0.1", 3000)]
    assert endpoints(resources, f"outbound|80|version-v2|{HOST}") == [("127.0.0.1", 3001)]


def test_the_ingress_gateway():
    resources, _ = translate(mesh(), INGRESS)
    assert list(resources.listeners) == ["127.0.0.1_30000"]
    ((host,),) = [table.virtual_hosts for table in resources.routes.values()]
    (route,) = host.routes
    assert list(host.domains) == ["*"]
    assert endpoints(resources, route.route.cluster) == [("127.0.0.1", 8080)]


@pytest.mark.parametrize(
    ("name", "timeout"), [("catalog-retries.yaml", (2, 0)), ("catalog-retries-fast.yaml", (0, 500_000_000))]
)
def test_retries(name, timeout):
    resources, _ = translate(mesh(**{"catalog-virtualservice.yaml": name}), WEBAPP)
    (route,) = next(host for host in resources.routes["80"].virtual_hosts if host.name == f"{HOST}:80").routes
    policy = route.route.retry_policy
    assert (policy.num_retries.value, policy.retry_on) == (3, "5xx")
    assert (policy.per_try_timeout.seconds, policy.per_try_timeout.nanos) == timeout
    source = route.metadata.filter_metadata["meshlib"].fields["source"].string_value
    assert source.startswith("catalog-virtualservice.yaml:")


def test_outliers():
    resources, _ = translate(mesh(**{"catalog-destinationrule.yaml": "catalog-outlier.yaml"}), WEBAPP)
    for subset in ("", "version-v1", "version-v2"):
        outlier = resources.clusters[f"outbound|80|{subset}|{HOST}"].outlier_detection
        assert (outlier.consecutive_5xx.value, outlier.max_ejection_percent.value) == (2, 100)
        assert (outlier.interval.seconds, outlier.base_ejection_time.seconds) == (1, 30)
