"""xds-protos and the OTLP exporter in one environment, installed in either order.

xds-protos carries old copies of opentelemetry-proto's files. Installed last, they break the
exporter; meshlib names the command that mends it, and after that command both work.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

XDS = ["xds-protos", "google-re2", "pyyaml", "xxhash"]
OTLP = ["opentelemetry-exporter-otlp-proto-http"]

DECODERS = """
from meshlib.xds.protos import cluster_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import CLUSTER
assert RESOURCE_TYPES[CLUSTER].decode("a", cluster_pb2.Cluster(name="a")).value.name == "a"
"""
EXPORTER = """
import opentelemetry.exporter.otlp.proto.http.trace_exporter
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
span = TracerProvider().get_tracer("t").start_span("catalog")
span.end()
assert b"catalog" in encode_spans([span]).SerializeToString()
"""


class Environment:
    """A virtual environment with nothing in it but what is installed here."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
        self._python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"

    def pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self._python, *arguments]
        ran = subprocess.run([*command, "-q"], capture_output=True, text=True, timeout=60, check=False)
        if ran.returncode != 0 and re.search("No module named pip|Connection|Temporary failure", ran.stderr):
            pytest.skip(f"pip cannot install here: {ran.stderr[-200:]}")
        assert ran.returncode == 0, ran.stderr

    def run(self, code: str) -> str:
        """Run Python code; return what it wrote to stderr, and ``failed`` before it when it failed."""
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        ran = subprocess.run(
            [self._python, "-c", code], capture_output=True, text=True, env=env, timeout=60, check=False
        )
        return ("failed\n" if ran.returncode else "") + ran.stderr


def assert_both_work(environment: Environment) -> None:
    assert environment.run(DECODERS + EXPORTER) == ""
    assert environment.run(EXPORTER + DECODERS) == ""


def test_the_exporter_installed_last_works(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.pip("install", *XDS)
    environment.pip("install", *OTLP)
    assert_both_work(environment)


def test_the_exporter_installed_first_is_broken_and_mended_by_the_command_that_is_named(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.pip("install", *OTLP)
    environment.pip("install", *XDS)
    assert environment.run(EXPORTER).startswith("failed"), "xds-protos no longer overwrites: drop the repair"
    warning = environment.run(DECODERS)
    assert not warning.startswith("failed"), warning
    assert "so OTLP export cannot work" in warning
    named = re.search(r"To repair it: pip (install [\w\- ]+)", warning)
    assert named, warning
    environment.pip(*named[1].split())
    assert_both_work(environment)
