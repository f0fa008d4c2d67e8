"""The command as a whole: its verbs, its help, and how errors reach people."""

import subprocess
import sys

import pytest

from meshlib.cli.demo import demo
from meshlib.cli.demo.processes import DemoError

VERBS = (
    "demo", "control-plane", "proxy-status", "proxy-config", "render", "analyze", "describe", "explain", "fault",
    "capabilities", "config-dump", "validate", "version",
)  # fmt: skip


def meshlib(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "meshlib", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_the_help_lists_every_verb():
    result = meshlib("--help")

    assert result.returncode == 0
    for verb in VERBS:
        assert f" {verb} " in result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    result = meshlib(verb, "--help")

    assert result.returncode == 0
    assert f"meshlib {verb}" in result.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from meshlib.cli.app import app\n"
        "print(*sorted({'grpc', 'google', 'httpx', 'opentelemetry', 'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert result.stdout.strip() == ""


def test_a_wrong_verb_is_a_usage_error():
    result = meshlib("exlpain")

    assert result.returncode == 64
    assert "exlpain" in result.stderr


def test_version_names_what_matters():
    lines = meshlib("version").stdout.splitlines()

    assert lines[0].startswith("meshlib ")
    assert any(line.startswith("grpcio ") for line in lines)


def test_an_error_of_ours_has_no_traceback(tmp_path):
    result = meshlib("demo", "--mesh", str(tmp_path / "nowhere"))

    assert result.returncode == 1
    assert result.stderr.startswith("meshlib: ")
    assert "nowhere is not a folder" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_demo_names_the_repair_where_spans_cannot_be_exported(monkeypatch):
    monkeypatch.setattr("meshlib.xds.protos.otlp_conflict", lambda: "To repair it: pip install it again")
    with pytest.raises(DemoError, match=r"the demo shows traces\. To repair it: pip install it again"):
        demo()
