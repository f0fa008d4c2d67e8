"""Replays every case of a folder in every mode, and counts: ``make conformance``.

A case is one observation of a case file, or one configuration to validate. It passes when all modes agree with
what the real Envoy did: sync and async, with local replies and with exceptions in their place, whose record is
compared. Nothing is excused; what cannot be equal (``docs/envoy-parity.md``) counts as failed. The exit status is
0 when every file could be read, whatever failed: the last line says what did.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest's `pythonpath` does

from oracle import cases
from oracle.verdicts import MODES, Mode, judged, recorded


@dataclass(slots=True)
class Result:
    """What came of a file.

    Attributes:
        failures: id of an observation -> mode and difference, one a line.
        passed: how many observations agree in all modes.
        skipped: how many mean nothing in the process.
    """

    name: str
    topic: str
    passed: int = 0
    skipped: int = 0
    failures: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0


def result_of(name: str, folder: Path, modes: tuple[Mode, ...]) -> Result:
    """Judge a file in every mode; whatever goes wrong in one is a failure of its cases."""
    began = time.monotonic()
    try:
        case = cases.load(name, folder)
        wanted = recorded(case)
        result = Result(name, str(case.get("topic", "?")), skipped=len(case["observed"]) - len(wanted))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        return Result(name, "?", failures={"": [f"is no case file: {type(error).__name__}: {error}"]})
    alike = case.get("kind") == "validate"
    for mode in modes[:1] if alike else modes:
        found = _judged(case, mode) if wanted else {}
        if found and all(line.startswith("elapsed_ms") for lines in found.values() for line in lines):
            found = _judged(case, mode)  # nothing but late: a busy machine gets a second chance
        for key, lines in found.items():
            result.failures.setdefault(key, []).extend(f"{'' if alike else f'[{mode}] '}{line}" for line in lines)
    result.passed = len(wanted) - len(result.failures)
    result.seconds = time.monotonic() - began
    return result


def _judged(case: cases.Case, mode: Mode) -> dict[str, list[str]]:
    try:
        return judged(case, mode)
    except Exception as error:  # noqa: BLE001  a case that cannot be replayed has failed, and the others go on
        at = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"could not be replayed: {type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})"
        return {observation["id"]: [reason] for observation in recorded(case)}


def run(folder: Path, names: list[str], modes: tuple[Mode, ...], jobs: int) -> list[Result]:
    """Judge files side by side; says on stderr how far it is."""
    results = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=logging.disable) as pool:
        waiting = [pool.submit(result_of, name, folder, modes) for name in names]
        for done in as_completed(waiting):
            result = done.result()
            results.append(result)
            said = f"{len(results)}/{len(names)} {result.name}: {result.passed} passed"
            if result.failures:
                said += f", {len(result.failures)} failed"
            print(f"{said} ({result.seconds:.1f} s)", file=sys.stderr, flush=True)
    return sorted(results, key=lambda each: each.name)


def summary(results: list[Result]) -> dict[str, object]:
    """Return what the last line says."""
    failed = [f"{result.name}/{key}".rstrip("/") for result in results for key in result.failures]
    return {
        "passed": sum(result.passed for result in results),
        "failed": len(failed),
        "not_in_process": sum(result.skipped for result in results),
        "failed_cases": failed,
    }


def table(results: list[Result]) -> str:
    """Return cases passed, by topic."""
    passed, of = Counter[str](), Counter[str]()
    for result in results:
        passed[result.topic] += result.passed
        of[result.topic] += result.passed + len(result.failures)
    width = max(map(len, of), default=0)
    return "\n".join(f"{topic:{width}}  {passed[topic]:>4} of {of[topic]:>4}" for topic in sorted(of) if of[topic])


def main() -> int:
    parser = argparse.ArgumentParser(prog="make conformance", description=__doc__)
    parser.add_argument("--cases", type=Path, default=cases.FOLDER, help="a folder of case files (with folders)")
    parser.add_argument("--only", default="", help="files with this in their name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="files at a time")
    options = parser.parse_args()
    names = [name for name in cases.names(options.cases) if options.only in name]
    if not names:
        parser.error(f"no case file (*.json) in {options.cases}")
    results = run(options.cases, names, MODES, options.jobs)
    for result in results:
        for key, lines in result.failures.items():
            print("\n".join(f"{result.name}/{key}: {line:.400}" for line in lines))
    print(table(results))
    print(json.dumps(summary(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
