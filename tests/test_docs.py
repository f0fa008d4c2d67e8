"""The documentation does what it says: its Python runs, its YAML is valid, its commands exist."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from meshlib.cli.demo.addresses import assign
from meshlib.cli.demo.folder import MeshFolder
from meshlib.cli.demo.ports import Ports, any_free_port
from meshlib.cli.demo.processes import Processes

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language):
    """List every block of a language; the word no-run after it marks a fragment."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for fence in FENCE.finditer(text):
            if fence[1] == language:
                line = text.count("\n", 0, fence.start()) + 1
                found.append(pytest.param(fence[3], "no-run" in fence[2], id=f"{page.name}:{line}"))
    return found


def commands():
    """List every `meshlib` command line."""
    lines = [(block.id, line) for block in blocks("console") for line in block.values[0].splitlines()]
    return [pytest.param(shlex.split(line[2:]), id=f"{at} {line[2:]}") for at, line in lines if line[:9] == "$ meshlib"]


@pytest.fixture(scope="module")
def mesh_home(tmp_path_factory):
    """A folder with `mesh/` in it, as the pages suppose, and the catalog of that mesh running."""
    home = tmp_path_factory.mktemp("home")
    folder = MeshFolder(ROOT / "examples/mesh", home / "mesh", ROOT / "examples/changes")
    folder.assign_ports(lambda _field: any_free_port())  # other tests may want the study's
    addresses = assign(folder, Ports(lambda _message: None))
    with Processes(home) as processes:
        for version, port in addresses.catalog.items():
            program = ROOT / "examples/catalog/app.py"
            part = processes.start(
                f"catalog {version}", [sys.executable, program, "--port", str(port), "--version", version]
            )
            part.wait(lambda part=part: "Uvicorn running" in part.tail(), 20, "listening")
        yield home


@pytest.mark.parametrize(("source", "fragment"), blocks("python"))
def test_python_runs(mesh_home, source, fragment, monkeypatch):
    code = compile(source, "<docs>", "exec")
    if fragment:
        return
    result = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:meshlib", "-c", source],
        cwd=mesh_home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert code
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("source", "_fragment"), blocks("yaml"))
def test_yaml_is_valid(mesh_home, source, _fragment, tmp_path):
    shutil.copytree(mesh_home / "mesh", tmp_path / "mesh")
    (tmp_path / "mesh/from-the-docs.yaml").write_text(source)
    result = subprocess.run(
        [sys.executable, "-m", "meshlib", "validate", str(tmp_path / "mesh")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("command", commands())
def test_commands_are_as_written(mesh_home, command):
    """Those that end by themselves are run, those that serve or ask others are asked for their help."""
    serving = command[1] in ("demo", "control-plane", "proxy-status", "proxy-config", "fault")
    arguments = [*command[1:], "--help"] if serving else command[1:]
    result = subprocess.run(
        [sys.executable, "-m", "meshlib", *arguments],
        cwd=mesh_home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout or result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in requirements} - {"meshlib-proxyless"}
    reasons = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## Dependencies")[2]

    assert {name for name in names if f"`{name}`" not in reasons} == set()


def test_nobody_is_sent_to_the_other_meshlib():
    for page in PAGES:
        assert not re.search(r"(pip install|uvx|pipx run|uv add) meshlib\b(?!-)", page.read_text("utf-8"))
