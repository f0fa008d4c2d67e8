"""Processes that fork under load: nobody hangs, aborts or fails, and every child follows the configuration.

MESHLIB_FORKS=20 forks so many children instead of a few, and asks every kind with every setting of grpcio's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from waiting import until

SOAK = int(os.environ.get("MESHLIB_FORKS", "0"))
CHILDREN = SOAK or 3
SETTINGS = ("unset", "0", "1")
PROGRAM = Path(__file__).with_name("program.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform"),
]

FEW = [("sidecar", "fork", setting) for setting in SETTINGS] + [
    ("grpc", "fork", "unset"),
    ("folder", "fork", "unset"),
    ("sidecar", "multiprocessing", "unset"),
]
ALL = [
    (kind, method, setting)
    for kind in ("sidecar", "grpc", "folder")
    for method in ("fork", "multiprocessing")
    for setting in SETTINGS
]


def run(home, kind, setting, *arguments, method="fork", whole=True):
    """Run the program; returns its report and what it wrote to stderr."""
    where = {
        "sidecar": ["--connect", home.server.address],
        "grpc": ["--bootstrap", home.bootstrap()],
        "folder": ["--folder", home.folder],
    }[kind]
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_ENABLE_FORK_SUPPORT"}
    if setting != "unset":
        environment["GRPC_ENABLE_FORK_SUPPORT"] = setting
    command = [sys.executable, PROGRAM, *where, "--method", method, *arguments]
    with (
        open(home.path / "stderr", "w+") as stderr,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
        ) as process,
    ):
        try:
            assert process.stdout.readline() == "forked\n", (home.path / "stderr").read_text()
            if whole:
                until(
                    lambda: kind == "folder" or home.streams == family(CHILDREN),
                    lambda: f"{home.streams} streams\n{(home.path / 'stderr').read_text()}: a stream for every process",
                    timeout=40,
                )
            home.move("new")
            output, _ = process.communicate(timeout=100)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    said = (home.path / "stderr").read_text()
    assert process.returncode == 0, said
    return json.loads(output), said


def family(children):
    """Parent, children, and a grandchild for every fourth child."""
    return 1 + children + (children + 3) // 4


@pytest.mark.parametrize(("kind", "method", "setting"), ALL if SOAK else FEW)
def test_nobody_hangs_aborts_or_fails(home, kind, method, setting):
    report, said = run(home, kind, setting, "--children", str(CHILDREN), method=method)
    everyone = [report["parent"], *report["children"]]
    print(  # the table of a soak: pytest -s
        f"{kind:8} {method:16} {setting:6} forks={CHILDREN} exits={set(report['ended'])} "
        f"reports={len(everyone)}/{family(CHILDREN)} requests={sum(sum(one['counts'].values()) for one in everyone)} "
        f"failed={sum(one['failed'] for one in everyone)} slowest={max(one['slowest'] for one in everyone)} "
        f"longest_fork={report['stall']}"
    )
    assert report["ended"] == [0] * CHILDREN
    assert len(everyone) == family(CHILDREN), said
    assert [one["failures"] for one in everyone if one["failed"]] == [], said
    assert all(one["counts"]["new"] for one in everyone)
    assert "fork() handlers" not in said  # grpcio's words when it met a thread of ours


def test_gRPC_over_a_fork_that_it_cannot_survive_is_refused(home):
    """With GRPC_ENABLE_FORK_SUPPORT=0 and channels open at the fork, a child's gRPC would hang or abort."""
    report, said = run(home, "sidecar", "0", "--children", "2", "--grpc", whole=False)
    assert report["parent"]["counts"]["grpc hello"] > 0
    for child in report["children"]:
        assert child["counts"]["new"] > 0  # HTTP goes on, and follows the configuration
        refused = [failure for failure in child["failures"] if "MeshError" in failure]
        assert refused, child
        assert "GRPC_ENABLE_FORK_SUPPORT=0" in refused[0]
    assert "gRPC is refused in the child" in said


def test_a_spawned_child_makes_its_own_mesh(home):
    """Nothing of the parent is there, and a Mesh is not to be pickled: the child's module makes one."""
    report, _ = run(home, "sidecar", "unset", "--children", "2", method="spawn", whole=False)
    assert report["ended"] == [0, 0]
    assert [one["failures"] for one in (report["parent"], *report["children"]) if one["failed"]] == []
    assert len(report["children"]) == 2


ORPHANS = """
import os, sys, time
import httpx, meshlib
how, where = sys.argv[1:]
mesh = getattr(meshlib.Mesh, how)(where, workload="webapp", namespace="outdoor")
client = httpx.Client(transport=mesh.transport(), timeout=5)
assert client.get("http://catalog/").text == "old"
print("ready", flush=True)
sys.stdin.readline()
child = os.fork()
if not child:
    try:
        give_up = time.monotonic() + 2  # the control plane is asked for meanwhile, in vain
        while time.monotonic() < give_up:
            assert client.get("http://catalog/").text == "old"
            time.sleep(0.05)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert client.get("http://catalog/").text == "old"
sys.exit(code)
"""


@pytest.mark.parametrize("kind", ["sidecar", "grpc"])
def test_a_child_serves_without_a_control_plane(home, kind):
    where = ["connect", home.server.address] if kind == "sidecar" else ["from_bootstrap", home.bootstrap()]
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS, *where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        home.server.close()
        _, said = process.communicate("go\n", timeout=60)
    assert process.returncode == 0, said
