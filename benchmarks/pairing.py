"""Paired timing: engines take turns in short slices, ratios are medians over pairs.

On a shared machine absolutes wander by a factor of two between runs; a ratio of neighbours in
time does not. CPU is this process's on-CPU time, not wall time.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Slice:
    """One engine's turn: calls made, CPU and wall seconds, each call's seconds."""

    calls: int
    cpu: float
    wall: float
    latencies: list[float]

    @property
    def cpu_us(self) -> float:
        return 1e6 * self.cpu / self.calls

    def quantile_us(self, q: float) -> float:
        ordered = sorted(self.latencies)
        return 1e6 * ordered[min(len(ordered) - 1, int(q * len(ordered)))]


# Runs an engine for about so many seconds and returns each call's latency.
Turn = Callable[[float], list[float]]


def take_turns(engines: Mapping[str, Turn], rounds: int, seconds: float) -> dict[str, list[Slice]]:
    """Warm every engine up, then let them take turns; returns each one's slices in order."""
    for run in engines.values():
        run(min(seconds, 0.3))
    slices: dict[str, list[Slice]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, run in engines.items():
            cpu, wall = time.process_time(), time.perf_counter()
            latencies = run(seconds)
            slices[name].append(Slice(len(latencies), time.process_time() - cpu, time.perf_counter() - wall, latencies))
    return slices


def summary(slices: list[Slice], base: list[Slice]) -> dict[str, float]:
    """Return the medians of one engine and its paired ratios to the base engine."""

    def median(values: list[float]) -> float:
        return round(statistics.median(values), 3)

    pairs = list(zip(slices, base, strict=True))
    return {
        "cpu_us": median([s.cpu_us for s in slices]),
        "p50_us": median([s.quantile_us(0.5) for s in slices]),
        "p99_us": median([s.quantile_us(0.99) for s in slices]),
        "per_s": median([s.calls / s.wall for s in slices]),
        "cpu_ratio": median([s.cpu_us / b.cpu_us for s, b in pairs]),
        "p50_ratio": median([s.quantile_us(0.5) / b.quantile_us(0.5) for s, b in pairs]),
        "per_s_ratio": median([(s.calls / s.wall) / (b.calls / b.wall) for s, b in pairs]),
    }


def report(title: str, results: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table of one comparison."""
    print(f"\n{title}")
    columns = ("CPU µs", "p50 µs", "p99 µs", "calls/s", "CPU ×", "p50 ×", "calls/s ×")
    print(f"  {'engine':<24}" + "".join(f"{column:>11}" for column in columns))
    for name, row in results.items():
        figures = [f"{row[key]:.0f}" for key in ("cpu_us", "p50_us", "p99_us", "per_s")]
        figures += [f"{row[key]:.2f}" for key in ("cpu_ratio", "p50_ratio", "per_s_ratio")]
        print(f"  {name:<24}" + "".join(f"{figure:>11}" for figure in figures))


def last_line(results: Mapping[str, object]) -> None:
    """Print the one JSON object that every bench ends with."""
    print(json.dumps(results, sort_keys=True))
