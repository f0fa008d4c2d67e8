"""`meshlib capabilities`."""

import json

from typer.testing import CliRunner

from meshlib.cli.app import app

TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
BOOTSTRAP = {
    "static_resources": {
        "listeners": [
            {
                "name": "l",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}},
                "filter_chains": [
                    {
                        "filters": [
                            {
                                "name": "tcp",
                                "typed_config": {
                                    "@type": TCP_PROXY,
                                    "cluster": "a",
                                },
                            }
                        ]
                    }
                ],
            }
        ],
        "clusters": [{"name": name, "type": "STATIC", "preconnect_policy": {}} for name in ("a", "b")],
    }
}


def run(*arguments):
    return CliRunner().invoke(app, ["capabilities", *map(str, arguments)])


def test_a_table(tmp_path):
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(BOOTSTRAP))
    result = run("--bootstrap", path)
    assert result.exit_code == 0
    lines = [line.split(maxsplit=6) for line in result.stdout.splitlines()]
    assert lines[0] == ["STATUS", "TYPE", "RESOURCE", "FIELD", "COUNT", "CONSEQUENCE"]
    assert lines[1] == ["NOT", "HONOURED", "CDS", "a", "preconnect_policy", "2", "no connection is made ahead"]
    assert result.stderr.splitlines()[-1] == "0 refused, 2 not honoured, 0 approximated"


def test_json(tmp_path):
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(BOOTSTRAP))
    data = json.loads(run("--bootstrap", path, "-o", "json").stdout)
    assert data["counts"] == {"refused": 0, "not honoured": 2, "approximated": 0}
    assert [entry["resource"] for entry in data["entries"]] == ["a", "b"]


def test_a_control_plane_that_is_not_there():
    result = run("--xds", "127.0.0.1:1", "--timeout", "0.1")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in str(result.exception)
