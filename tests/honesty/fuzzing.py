"""Feeds damaged responses to what the client's thread runs, and checks that nothing good is lost.

``python tests/honesty/fuzzing.py --seeds 100000`` (``make fuzz``) prints a summary; a seed that
fails is printed with its traceback and can be run alone by ``--first SEED --seeds 1``.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
import traceback
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest's `pythonpath` does

import psutil
from google.protobuf.message import DecodeError

from honesty.captured import captures, resources
from honesty.mutating import damaged_response
from honesty.samples import samples
from meshlib.clock import system_clock, system_randomness
from meshlib.explain import explain
from meshlib.model.request import RequestView
from meshlib.model.snapshot import Snapshot, Style
from meshlib.policy.state import MeshState
from meshlib.xds.assembly import Assembly
from meshlib.xds.faults import Fault
from meshlib.xds.protos import discovery_pb2
from meshlib.xds.resource_type import RESOURCE_TYPES
from meshlib.xds.type_urls import SECRET, TYPE_URLS

_TYPES = (*TYPE_URLS, SECRET)
Good = dict[str, dict[str, Any]]  # type URL -> name -> Any


class Target:
    """The client's core, reduced to what the fuzz needs of it: the one place that knows how it is called."""

    def __init__(self) -> None:
        self._assembly = Assembly(Style.SIDECAR)

    def take(self, url: str, packed: Iterable[Any]) -> tuple[tuple[str, ...], tuple[Fault, ...]]:
        """Offer the resources of a response; returns the names that were read, and every fault."""
        offered = self._assembly.offer(url, "1", [each.SerializeToString() for each in packed])
        self._assembly.complete(url)
        return tuple(offered.names), offered.faults

    def forget(self, url: str, names: Iterable[str]) -> None:
        """Remove resources."""
        for name in names:
            self._assembly.absent(url, name)

    def snapshot(self) -> Snapshot:
        """Return what is in force."""
        return self._assembly.snapshot()


class Subject:
    """A target with a good configuration in force, and what that answers."""

    def __init__(self, good: Good) -> None:
        self.good = good
        self.target = Target()
        self.state = MeshState(system_clock, system_randomness())
        for url in _TYPES:
            _, faults = self.target.take(url, good[url].values())
            assert faults == (), faults
        self.snapshot = self.target.snapshot()
        self.views = tuple(_views(self.snapshot))
        self.answers = self.answered(self.snapshot)

    def answered(self, snapshot: Snapshot) -> list[str]:
        """Return where requests would go, once the snapshot is bound to live state as a mesh does."""
        live = self.state.bind(snapshot)
        return [str(explain(live, view, self.state.chance)) for view in self.views]

    def unchanged(self, snapshot: Snapshot) -> bool:
        """Tell whether all that was good is in force as it was."""
        was = self.snapshot
        return snapshot is was or (
            snapshot.clusters == was.clusters and snapshot.listeners == was.listeners and snapshot.routes == was.routes
        )


def _views(snapshot: Snapshot) -> Iterable[RequestView]:
    for host, port in (("catalog", 80), ("catalog.istioinaction.svc.cluster.local", 80), ("a.example", 80)):
        for target in ("/", "/a/items?q=1"):
            yield RequestView(
                method="GET", scheme="http", host=host, port=port, authority=host, target=target, headers=()
            )


def _packed(message: Any) -> Any:
    response = discovery_pb2.DiscoveryResponse()
    response.resources.add().Pack(message)
    return response.resources[0]


def corpus(*, everything: bool) -> list[Subject]:
    """Return a subject for each capture that has something to decode, and one of the samples."""
    streams: list[list[tuple[str, list[Any]]]] = [[(url, [_packed(message)]) for url, message in samples()]]
    streams += [list(resources(path)) for path in captures(everything=everything)]
    found = []
    for stream in streams:
        good: Good = {url: {} for url in _TYPES}
        for url, packed in stream:
            for each in packed:
                good[url][RESOURCE_TYPES[url].examine(each.SerializeToString()).name] = each
        if any(good.values()):
            found.append(Subject(good))
    return found


@dataclass
class Summary:
    """What came of the seeds that were run."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[int] = field(default_factory=list)
    times: array[float] = field(default_factory=lambda: array("d"))  # of the seeds that did not fail
    slowest: list[tuple[float, int]] = field(default_factory=list)
    grown_mib: float = 0.0

    def percentile(self, share: float) -> float:
        """Return the seconds within which ``share`` of the responses were applied."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def __str__(self) -> str:
        slowest = ", ".join(f"{1000 * took:.0f} ms (seed {seed})" for took, seed in self.slowest)
        return "\n".join(
            (
                f"seeds       {sum(self.outcomes.values())}",
                *(f"{name:11} {count}" for name, count in sorted(self.outcomes.items())),
                f"exceptions  {len(self.failed)} {self.failed[:20] or ''}",
                f"per reply   p50 {1000 * self.percentile(0.5):.1f} ms, p99 {1000 * self.percentile(0.99):.1f} ms",
                f"slowest     {slowest}",
                f"memory      {self.grown_mib:+.1f} MiB after the first tenth",
            )
        )


def run_seed(seed: int, subjects: list[Subject]) -> tuple[str, float]:
    """Damage one response, apply it, check, and put what was good back; returns outcome and seconds."""
    chance = Random(seed)
    subject = chance.choice(subjects)
    url = chance.choice([url for url in _TYPES if subject.good[url]])
    good = subject.good[url]
    data = damaged_response(url, list(good.values()), chance, RESOURCE_TYPES[url].message.FromString)
    started = time.perf_counter()
    try:
        response = discovery_pb2.DiscoveryResponse.FromString(data)
    except DecodeError:
        return "unreadable", time.perf_counter() - started
    if response.type_url != url:
        return "other type", time.perf_counter() - started
    names, faults = subject.target.take(url, response.resources)
    after = subject.target.snapshot()
    took = time.perf_counter() - started
    _check(subject, url, names, faults, after)
    subject.target.forget(url, [name for name in names if name not in good])
    _, again = subject.target.take(url, good.values())
    assert again == (), again
    assert subject.unchanged(subject.target.snapshot()), "what was good did not come back"
    return ("rejected" if faults else "accepted"), took


def _check(subject: Subject, url: str, names: tuple[str, ...], faults: tuple[Fault, ...], after: Snapshot) -> None:
    for fault in faults:
        assert fault.message
        assert fault.type_url == url
        assert fault.resource or fault.field_path or "pars" in fault.message or "expected" in fault.message, fault
        assert "could not be decoded" not in fault.message, fault
        assert len(str(fault)) < 20_000, "a fault quotes too much"
    bad = {fault.resource for fault in faults}
    if not set(names) - bad:  # nothing was taken
        assert subject.unchanged(after), "a rejected response changed what is in force"
    elif not subject.unchanged(after):
        subject.answered(after)  # must not raise
        assert subject.answered(subject.snapshot) == subject.answers, "the snapshot taken before answers otherwise"


def run(first: int, seeds: int, subjects: list[Subject], *, stop_at_first: bool = False) -> Summary:
    """Run seeds in order."""
    summary, process, before = Summary(), psutil.Process(), 0
    for seed in range(first, first + seeds):
        if seed - first == seeds // 10:
            before = process.memory_info().rss
        try:
            outcome, took = run_seed(seed, subjects)
        except Exception:
            summary.failed.append(seed)
            summary.outcomes["failed"] += 1
            print(f"seed {seed}", file=sys.stderr)
            if stop_at_first:
                raise
            if len(summary.failed) <= 20:
                traceback.print_exc(limit=-4)
            subjects[:] = [Subject(subject.good) for subject in subjects]
            continue
        summary.outcomes[outcome] += 1
        summary.times.append(took)
        summary.slowest = heapq.nlargest(5, [*summary.slowest, (took, seed)])
    summary.grown_mib = (process.memory_info().rss - before) / 2**20
    return summary


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--ours", action="store_true", help="the captures of the repository alone")
    options = parser.parse_args()
    started = time.monotonic()
    summary = run(options.first, options.seeds, corpus(everything=not options.ours))
    print(f"{summary}\ntook        {time.monotonic() - started:.0f} s")
    return 1 if summary.failed else 0


if __name__ == "__main__":
    sys.exit(main())
