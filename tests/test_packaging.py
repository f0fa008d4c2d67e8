"""The package as it is installed: what it imports, what the wheel holds, how its setup fails."""

import ast
import importlib.metadata
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("google", "grpc", "httpx", "opentelemetry", "tenacity", "pybreaker", "typer", "yaml", "asyncio")


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_import_is_light():
    code = "import sys, meshlib; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(run("-c", code).stdout.split())

    assert "meshlib" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_import_is_quick():
    """Below 50 ms over a bare interpreter, best of five."""

    def import_us():
        trace = run("-X", "importtime", "-c", "import meshlib").stderr
        lines = [re.match(r"import time:\s+\d+ \|\s+(\d+) \| meshlib$", line) for line in trace.splitlines()]
        return next(int(found[1]) for found in lines if found)

    best = min(import_us() for _ in range(5))
    print(f"import meshlib: {best / 1000:.1f} ms")

    assert best < 50_000


def test_every_import_is_declared():
    """What the package imports comes from a dependency it names, not from one of a dependency's."""
    provided = importlib.metadata.packages_distributions()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in requirements}
    imported = {
        name.partition(".")[0]
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    # trio is only imported where the caller already runs on it.
    third_party = imported - set(sys.stdlib_module_names) - {"meshlib", "trio"}
    undeclared = {
        name: provided.get(name)
        for name in third_party
        if not declared & {distribution.lower().replace("_", "-") for distribution in provided.get(name, ())}
    }

    assert undeclared == {}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dist")
    result = run("-m", "hatchling", "build", "-t", "wheel", "-d", str(directory), cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return next(directory.glob("*.whl"))


def test_the_wheel_is_pure_and_named(wheel):
    assert re.fullmatch(r"meshlib_proxyless-[\d.]+-py3-none-any\.whl", wheel.name)


def test_the_wheel_holds_the_package_and_the_examples(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())

    assert "meshlib/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    examples = {str(path.relative_to(ROOT / "examples")) for path in (ROOT / "examples").rglob("*.yaml")}
    assert examples
    assert {f"meshlib/_examples/{name}" for name in examples} <= names
    assert not any(
        name.startswith(("tests/", "meshlib/tests", "benchmarks/")) or "__pycache__" in name for name in names
    )


def test_the_command_says_what_it_needs():
    code = "import sys; sys.modules['typer'] = None; from meshlib.cli import main; main()"
    result = run("-c", code)

    assert result.returncode == 1
    assert "pip install 'meshlib-proxyless[cli]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_setup_tells_an_old_interpreter():
    complaint = load_script("setup_venv").complaint((3, 9, 2))

    assert complaint.startswith("meshlib needs Python 3.11 or newer")
    assert "make PYTHON=" in complaint


def test_setup_names_the_package_behind_a_missing_ensurepip(tmp_path):
    """A real run of the script, with an interpreter that has no ensurepip."""
    (tmp_path / "ensurepip.py").write_text("raise ModuleNotFoundError(\"No module named 'ensurepip'\")")
    result = run(str(ROOT / "scripts/setup_venv.py"), "demo", env={**os.environ, "PYTHONPATH": str(tmp_path)})

    assert result.returncode == 1
    assert f"apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in result.stderr


def test_setup_knows_every_group_it_installs():
    script = load_script("setup_venv")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for extras, groups in script.TASKS.values():
        assert set(extras) <= set(project["project"]["optional-dependencies"])
        assert set(groups) <= set(project["dependency-groups"])


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ("  Downloading grpcio-1.85.1-cp311.whl (7.4 MB)", ("Downloading", "grpcio-1.85.1-cp311.whl", "7.4", "MB")),
        ("Using cached PyYAML-6.0.3.whl (750 kB)", ("Using cached", "PyYAML-6.0.3.whl", "750", "kB")),
        ("Requirement already satisfied: httpx", None),
    ],
)
def test_setup_reads_download_sizes(line, want):
    found = load_script("setup_venv").DOWNLOAD.match(line)

    assert (found and found.group("how", "what", "size", "unit")) == want


@pytest.mark.parametrize(
    ("source", "count", "fails"),
    [
        ("x = 1\n", "type: ignore: 0, noqa: 0, no cover: 0", False),
        ("x = 1  # type: ignore[misc]  # grpc has no stubs\n", "type: ignore: 1, noqa: 0, no cover: 0", False),
        ("x = 1  # noqa: BLE001  telemetry never fails a call\n", "type: ignore: 0, noqa: 1, no cover: 0", False),
        ("x = 1  # noqa: E501, F401\n", "type: ignore: 0, noqa: 1, no cover: 0", True),
        ("x = 1  # type: ignore[misc]\n", "type: ignore: 1, noqa: 0, no cover: 0", True),
        ("x = 1  # pragma: no cover\n", "type: ignore: 0, noqa: 0, no cover: 1", True),
        ("x = '# noqa'\n", "type: ignore: 0, noqa: 0, no cover: 0", False),
    ],
)
def test_exemptions_need_their_reason(tmp_path, source, count, fails):
    (tmp_path / "module.py").write_text(source)
    result = run(str(ROOT / "scripts/count_exemptions.py"), str(tmp_path))

    assert result.stdout.splitlines()[-1] == count
    assert result.returncode == (1 if fails else 0)
    assert ("module.py:1:" in result.stdout) is fails
