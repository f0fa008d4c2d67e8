"""`meshlib render` and `meshlib proxy-config`, beside the real istioctl where it is built."""

import json
import subprocess
from pathlib import Path

import grpc
import pytest
import yaml
from typer.testing import CliRunner

from controlplane.serving import AdsClient, DeltaClient
from meshlib import Mesh
from meshlib.cli.app import app
from meshlib.controlplane.directory import Directory
from meshlib.controlplane.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meshlib.controlplane.server import Server
from meshlib.errors import ConfigError, MeshError

ROOT = Path(__file__).parents[2]
MESH = ROOT / "examples/mesh"
ISTIOCTL = next(
    (path for path in (ROOT / "build/interop/istioctl", ROOT.parent / "main/build/interop/istioctl") if path.exists()),
    None,
)
WEBAPP = "sidecar~127.0.0.1~webapp-x.istioinaction~istioinaction.svc.cluster.local"
CATALOG = "outbound|80||catalog.istioinaction.svc.cluster.local"
INSIDE = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "defaultProviders: {metrics: [prometheus]}"}
"""


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def rows(text):
    header, *lines = text.splitlines()
    return header.split("  ")[0], lines


@pytest.fixture(scope="module", params=["sidecar", "router", "grpc"])
def dump(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "dump.json"
    who = {"router": "istio-ingressgateway.istio-system"}.get(request.param, "webapp-v1.istioinaction")
    path.write_text(run("render", MESH, "--node", request.param, "--workload", who, "-o", "dump"))
    return path


@pytest.mark.skipif(ISTIOCTL is None, reason="istioctl is not built (make istiod)")
class TestAsIstioctl:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("cluster",),
            ("cluster", "--fqdn", "catalog.istioinaction.svc.cluster.local"),
            ("cluster", "--port", "80", "--direction", "outbound"),
            ("cluster", "--subset", "version-v1"),
            ("listener",),
            ("listener", "--verbose=false"),
            ("listener", "--port", "80"),
            ("listener", "--type", "TCP"),
            ("listener", "--address", "0.0.0.0"),
            ("route",),
            ("route", "--verbose=false"),
            ("route", "--name", "80"),
            ("eds",),
            ("eds", "--port", "3001"),
            ("eds", "--cluster", CATALOG),
            ("eds", "--address", "127.0.0.1:3000"),
            ("eds", "--status", "healthy"),
        ],
        ids=" ".join,
    )
    def test_columns_rows_and_exit_codes_are_the_same(self, dump, arguments):
        real = subprocess.run(
            [ISTIOCTL, "proxy-config", *arguments, "-f", dump], capture_output=True, text=True, timeout=60, check=False
        )
        mine = ["--no-verbose" if item == "--verbose=false" else item for item in arguments]
        result = CliRunner().invoke(app, ["proxy-config", *mine, "-f", str(dump)])
        assert result.exit_code == real.returncode, (result.output, real.stderr)
        # Its order of routes and listeners of one rank changes from run to run.
        assert sorted(line.rstrip() for line in real.stdout.splitlines()) == sorted(result.stdout.splitlines())

    @pytest.mark.parametrize("kind", ["cluster", "listener", "route", "eds"])
    def test_json_holds_the_same(self, dump, kind):
        command = [ISTIOCTL, "proxy-config", kind, "-f", dump, "-o", "json"]
        real = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        result = CliRunner().invoke(app, ["proxy-config", kind, "-f", str(dump), "-o", "json"])
        assert result.exit_code == real.returncode
        if real.returncode == 0:
            name = "name" if kind != "eds" else "clusterName"
            ours = [item.get("name") or item.get("cluster_name") for item in json.loads(result.stdout)]
            assert sorted(item[name] for item in json.loads(real.stdout)) == sorted(ours)


class TestRender:
    def test_every_type_as_json_and_as_yaml(self):
        command = ("render", MESH, "--workload", "webapp-v1.istioinaction")
        found = json.loads(run(*command))
        assert set(found) == {"clusters", "endpoints", "listeners", "routes", "names"}
        assert CATALOG in [item["name"] for item in found["clusters"]]
        assert yaml.safe_load(run(*command, "-o", "yaml")) == found

    def test_istio_s_own_messages_are_written_out(self, tmp_path):
        for path in MESH.glob("*.yaml"):
            (tmp_path / path.name).write_text(path.read_text())
        (tmp_path / "inside.yaml").write_text(INSIDE)
        text = run("render", tmp_path, "--workload", "webapp-v1.istioinaction")
        assert "stats.PluginConfig" in text
        assert "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" in text

    def test_labels_come_from_the_folder_or_from_the_command(self):
        command = ("render", MESH, "--node", "router", "--workload")
        assert json.loads(run(*command, "istio-ingressgateway.istio-system"))["listeners"]
        assert not json.loads(run(*command, "nobody.istio-system"))["listeners"]
        assert json.loads(run(*command, "nobody.istio-system", "-l", "istio=ingressgateway"))["listeners"]

    def test_an_error_in_the_folder_is_told_and_exits_with_1(self, tmp_path):
        (tmp_path / "x.yaml").write_text("kind: [\n")
        result = CliRunner().invoke(app, ["render", str(tmp_path)])
        assert result.exit_code == 1
        assert "x.yaml:2:1" in result.stderr
        assert json.loads(result.stdout)["clusters"]


class TestLive:
    @pytest.fixture
    def server(self):
        with Directory(MESH) as directory, Server(directory, port=0) as server:
            yield server

    @pytest.mark.parametrize("client", [AdsClient, DeltaClient])
    def test_what_the_control_plane_sent(self, server, client):
        with grpc.insecure_channel(server.address) as channel:
            one = client(channel, WEBAPP)
            other = client(channel, WEBAPP.replace("webapp", "other"))
            for url, names in ((CLUSTER, ()), (ENDPOINT, (CATALOG,)), (LISTENER, ()), (ROUTE, ("80",))):
                one.get(url, *names)
            other.get(CLUSTER)
            at = ("--xds", server.address)
            assert "catalog.istioinaction" in run("pc", "c", "webapp-x.istioinaction", *at)
            assert "127.0.0.1:3001" in run("proxy-config", "endpoint", "webapp", *at)
            assert "0.0.0.0" in run("proxy-config", "listener", "webapp-x", *at)
            assert "catalog" in run("proxy-config", "route", "webapp-x", *at)
            assert len(json.loads(run("proxy-config", "all", "webapp-x", *at, "-o", "json"))["configs"]) == 6
            with pytest.raises(ConfigError, match="name one of the clients"):
                CliRunner().invoke(app, ["proxy-config", "cluster", *at], catch_exceptions=False)
            with pytest.raises(MeshError, match="has no client 'nobody'"):
                CliRunner().invoke(app, ["proxy-config", "cluster", "nobody", *at], catch_exceptions=False)
            one.close()
            other.close()

    def test_what_a_process_has(self, server):
        with Mesh.connect(server.address, workload="web", namespace="istioinaction", on_demand=False) as mesh:
            mesh.wait_ready(10)
            with mesh.serve_csds() as csds:
                assert "catalog.istioinaction" in run("proxy-config", "cluster", "--xds", csds.address)
                assert "127.0.0.1:3000" in run("proxy-config", "endpoint", "--xds", csds.address)

    def test_our_own_config_dump_is_read(self, tmp_path):
        with Mesh.from_directory(MESH, workload="web", namespace="istioinaction") as mesh:
            mesh.wait_ready(10)
            (tmp_path / "dump.json").write_text(json.dumps(mesh.config_dump()))
        assert "catalog.istioinaction" in run("proxy-config", "cluster", "-f", tmp_path / "dump.json")


class TestFiles:
    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"configs": 1}'])
    def test_what_is_no_dump(self, tmp_path, content):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ConfigError, match=r"config dump|/config_dump"):
            CliRunner().invoke(app, ["proxy-config", "cluster", "-f", str(tmp_path / "x.json")], catch_exceptions=False)

    def test_types_nobody_knows_and_camel_case_are_read(self, tmp_path):
        cluster = {
            "@type": CLUSTER, "name": "x|1||y", "type": "STATIC",
            "transportSocket": {"name": "a", "typedConfig": {"@type": "type.googleapis.com/who.Knows", "value": 1}},
        }  # fmt: skip
        section = {
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "dynamicActiveClusters": [{"cluster": cluster}],
        }
        (tmp_path / "x.json").write_text(json.dumps({"configs": [section]}))
        assert "STATIC" in run("proxy-config", "cluster", "-f", tmp_path / "x.json")
        assert "who.Knows" in run("proxy-config", "cluster", "-f", tmp_path / "x.json", "-o", "yaml")
