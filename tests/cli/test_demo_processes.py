import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from meshlib.cli.demo.processes import DemoError, Processes

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


def test_parts_end_with_the_context(tmp_path):
    with Processes(tmp_path) as processes:
        part = processes.start("sleeper", SLEEP)
        part.wait(lambda: "up" in part.tail(), 10, "start")
        assert part.process.poll() is None

    assert part.process.poll() is not None
    assert not psutil.pid_exists(part.process.pid)


def test_a_part_that_ignores_sigterm_is_killed(tmp_path):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    with Processes(tmp_path) as processes:
        part = processes.start("stubborn", [sys.executable, "-c", code])
        part.wait(lambda: "up" in part.tail(), 10, "start")
        part.stop(grace=0.2)

        assert part.process.returncode == -signal.SIGKILL


def test_a_part_that_ends_early_tells_its_last_lines(tmp_path):
    with Processes(tmp_path) as processes:
        part = processes.start("broken", [sys.executable, "-c", "raise SystemExit('no such thing')"])
        with pytest.raises(DemoError, match=r"(?s)broken ended with exit code 1.*no such thing"):
            part.wait(lambda: False, 10, "readiness")


def test_waiting_names_what_did_not_happen(tmp_path):
    with Processes(tmp_path) as processes:
        part = processes.start("sleeper", SLEEP)
        with pytest.raises(DemoError, match=r"sleeper: the first answer did not happen within 0\.05 s"):
            part.wait(lambda: False, 0.05, "the first answer")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_parts_die_with_a_demo_that_was_killed(tmp_path):
    demo = textwrap.dedent(
        f"""
        import sys, time, pathlib
        from meshlib.cli.demo.processes import Processes
        with Processes(pathlib.Path({str(tmp_path)!r})) as processes:
            part = processes.start("sleeper", {SLEEP!r})
            part.wait(lambda: "up" in part.tail(), 10, "start")
            print(part.process.pid, flush=True)
            time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", demo], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the part outlived the demo"
        time.sleep(0.01)
