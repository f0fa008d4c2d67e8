"""`meshlib config-dump`."""

import json

from typer.testing import CliRunner

from meshlib.cli.app import app


def run(*arguments):
    return CliRunner().invoke(app, ["config-dump", *map(str, arguments)])


def test_a_folder_is_dumped(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    result = run("--config", tmp_path, "--workload", "w", "-n", "team")
    assert result.exit_code == 0
    bootstrap, clusters, *_ = json.loads(result.stdout)["configs"]
    assert bootstrap["bootstrap"]["node"]["metadata"]["NAMESPACE"] == "team"
    assert clusters["dynamic_active_clusters"]


def test_without_a_control_plane_what_is_known_is_dumped_all_the_same():
    result = run("--xds", "127.0.0.1:1", "--timeout", "0.2")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["configs"][0]["@type"].endswith("BootstrapConfigDump")
    assert "127.0.0.1:1" in result.stderr
