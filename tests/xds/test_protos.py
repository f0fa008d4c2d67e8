"""The one door to xds-protos: an installation that cannot work is told of with its repair."""

import base64
import hashlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from meshlib.xds import protos

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError('no such thing')", "ImportError: no such thing"),
        ("raise TypeError('Couldn\\'t build proto file into descriptor pool')", "TypeError: Couldn't build proto file"),
    ],
)
def test_messages_that_cannot_be_imported(tmp_path, code, reason):
    package = tmp_path / "envoy"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    ran = subprocess.run(
        [sys.executable, "-c", "import meshlib.xds.bootstrap"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert f"meshlib.errors.ConfigError: the xDS messages cannot be imported: {reason}" in ran.stderr
    assert protos.XDS_REPAIR in ran.stderr
    assert protos.OTLP_REPAIR in ran.stderr


def test_an_overwritten_file_is_noticed_by_its_digest(tmp_path, monkeypatch):
    good = tmp_path / "a_pb2.py"
    good.write_text("mine")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"mine").digest()).rstrip(b"=").decode()
    info = tmp_path / "opentelemetry_proto-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: opentelemetry-proto\nVersion: 1\n")
    (info / "RECORD").write_text(f"a_pb2.py,sha256={digest},4\nother.py,sha256=x,1\n")
    monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(info))
    assert protos.otlp_conflict() == ""
    good.write_text("theirs")
    assert protos.OTLP_REPAIR in protos.otlp_conflict()
    good.unlink()
    assert "1 files of opentelemetry-proto" in protos.otlp_conflict()


def test_without_opentelemetry_proto_there_is_no_conflict(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    assert protos.otlp_conflict() == ""


def test_importing_meshlib_imports_none_of_it():
    code = "import meshlib, sys; print([m for m in sys.modules if m.split('.')[0] in ('envoy', 'grpc', 'google')])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"
