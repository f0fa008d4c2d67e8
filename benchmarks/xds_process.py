"""What a process costs: resident memory and CPU, read from outside or inside."""

from __future__ import annotations

import os
import time
from pathlib import Path

_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


def rss_mib(pid: int | str = "self") -> float:
    """Return the resident memory of a process now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MIB


def peak_mib(pid: int | str = "self") -> float:
    """Return the most a process ever held resident."""
    return _kib(Path(f"/proc/{pid}/status"), "VmHWM") / 1024


def pss_mib(pid: int) -> float:
    """Return a process's memory where a page shared by n processes counts 1/n."""
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss") / 1024


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of all threads of a process, those that ended too."""
    return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)


def _kib(file: Path, field: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


def quantile(values: list[float], q: float) -> float:
    """Return a quantile: the value that the fraction ``q`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
