"""`meshlib explain`, over the examples' YAML."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MESH = Path(__file__).parents[2] / "examples/mesh"
EXTENSIONS = "type.googleapis.com/envoy.extensions"
HERE = ("--workload", "webapp", "--namespace", "istioinaction")


def explain(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "meshlib", "explain", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def mesh(tmp_path):
    """The examples' mesh with a VirtualService that sends testers to v2."""
    folder = tmp_path / "mesh"
    folder.mkdir()
    for file in MESH.glob("*.yaml"):
        (folder / file.name).write_text(file.read_text())
    (folder / "testers.yaml").write_text(
        """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: testers, namespace: istioinaction}
spec:
  hosts: [catalog]
  http:
  - name: for-testers
    match:
    - headers: {x-istio-cohort: {exact: internal}}
    route:
    - destination: {host: catalog, subset: version-v2}
  - name: for-all
    timeout: 7s
    retries: {attempts: 3, retryOn: 5xx, perTryTimeout: 2s}
    route:
    - destination: {host: catalog, subset: version-v1}
"""
    )
    return folder


def test_it_tells_the_whole_way(mesh):
    result = explain("GET", "http://catalog/items", "--config", str(mesh), *HERE)

    assert result.returncode == 0, result.stderr
    for part in ("catalog.istioinaction.svc.cluster.local", "version-v1", "127.0.0.1:3000", "7s", "testers.yaml:"):
        assert part in result.stdout
    assert "127.0.0.1:3001" not in result.stdout


def test_a_header_changes_the_way(mesh):
    arguments = ("GET", "http://catalog/items", "-H", "x-istio-cohort: internal", "--config", str(mesh), *HERE)
    result = explain(*arguments, "-o", "json")

    explanation = json.loads(result.stdout)
    assert "for-testers" in explanation["route"]
    assert [endpoint["address"] for endpoint in explanation["clusters"][0]["endpoints"]] == ["127.0.0.1:3001"]
    assert explanation["source"].startswith("testers.yaml:")


def test_the_environment_may_name_the_configuration(mesh):
    result = explain("GET", "http://catalog.istioinaction/items", MESHLIB_CONFIG=str(mesh))

    assert result.returncode == 0, result.stderr
    assert "version-v1" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-H", "no colon"), "'no colon' is not NAME:VALUE"),
        (("--config", "mesh", "--address", "127.0.0.1:1"), "give one of"),
        (("--config", "there/is/nothing"), "there/is/nothing"),
        (("--address", "127.0.0.1:1", "--timeout", "0.2"), "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_is_said_in_words(arguments, message):
    result = explain("GET", "http://catalog/items", *arguments)

    assert result.returncode != 0
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr


def test_a_url_needs_a_host(mesh):
    result = explain("GET", "catalog/items", "--config", str(mesh))

    assert result.returncode == 64
    assert "http:// or https:// URL" in " ".join(result.stderr.replace("│", " ").split())


def test_without_any_configuration_it_says_what_to_set():
    result = explain("GET", "http://catalog/items")

    assert result.returncode == 1
    assert "MESHLIB_CONFIG" in result.stderr


def test_faults_of_the_route_are_shown(mesh):
    file = mesh / "testers.yaml"
    file.write_text(
        file.read_text().replace("timeout: 7s", "fault: {abort: {httpStatus: 503, percentage: {value: 20}}}")
    )
    result = explain("GET", "http://catalog/items", "--config", str(mesh), *HERE)

    assert "fault         abort with 503 for 20%" in result.stdout


def test_faults_of_one_target_are_shown_with_it(tmp_path):
    abort = {
        "@type": f"{EXTENSIONS}.filters.http.fault.v3.HTTPFault",
        "abort": {"http_status": 418, "percentage": {"numerator": 30}},
    }
    targets = [
        {"name": "v1", "weight": 90},
        {"name": "v2", "weight": 10, "typed_per_filter_config": {"envoy.filters.http.fault": abort}},
    ]
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "out",
        "http_filters": [
            {"name": "envoy.filters.http.fault", "typed_config": {"@type": abort["@type"]}},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"},
            },
        ],
        "route_config": {
            "name": "catalog",
            "virtual_hosts": [
                {
                    "name": "catalog",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": targets}}}],
                }
            ],
        },
    }
    address = {"socket_address": {"address": "0.0.0.0", "port_value": 80}}
    listener = {"name": "out", "address": address}
    listener["filter_chains"] = [{"filters": [{"name": "http", "typed_config": manager}]}]
    clusters = [{"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name}} for name in ("v1", "v2")]
    file = tmp_path / "bootstrap.json"
    file.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}))
    result = explain("GET", "http://catalog/items", "--bootstrap", str(file), "-o", "json")

    assert result.returncode == 0, result.stderr
    assert [cluster["fault"] for cluster in json.loads(result.stdout)["clusters"]] == ["", "abort with 418 for 30%"]
