"""Our translation beside istiod's, resource by resource: ``make parity`` (``CASES=dir``, ``BOOK=dir``).

A case is a folder as the captures are: ``config/`` and ``objects/`` with the YAML, ``book.txt`` with files of
the book, and one ``CLIENT.jsonl`` a client. Streams during which the configuration was changed (they have
notes) and delta streams, which say the same, are left out. What counts is a distinct content: what many
scenarios repeat counts once, and is equal when it is equal everywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane import captures
from controlplane.captures import PLACES, TESTS

BOOK = TESTS.parent.parent / "shared" / "book"
PAGE = TESTS.parent / "docs" / "istiod-parity.md"
FIXED = (
    "inbound",
    "Inbound",
    "Passthrough",
    "BlackHole",
    "virtualOutbound",
    "virtualInbound",
    "allow_any",
    "prometheus",
    "agent",
)


API_SERVER = "kubernetes.default"  # the cluster's own Service, which is not among a case's objects
INSTALLED = "defaultProviders: {metrics: [prometheus]}"  # what Istio's installation says, and every capture's mesh


# ---------------------------------------------------------------- what is not compared, and why


@dataclass(frozen=True)
class Normalisation:
    """What is changed in both before they are compared; ``types`` are those that have it."""

    types: str
    reason: str
    apply: Callable[[dict[str, Any]], None]


def _each(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a resource."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _each(item)
    elif isinstance(value, list):
        for item in value:
            yield from _each(item)


def _without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def apply(resource: dict[str, Any]) -> None:
        for item in _each(resource):
            for key in keys:
                item.pop(key, None)

    return apply


def _our_source(resource: dict[str, Any]) -> None:
    for item in _each(resource):
        metadata = item.get("filter_metadata")
        if isinstance(metadata, dict):
            metadata.pop("meshlib", None)
    for item in _each(resource):  # what held nothing else is not there with istiod
        if item.get("metadata") in ({}, {"filter_metadata": {}}):
            del item["metadata"]


def _sorted(key: str, by: str) -> Callable[[dict[str, Any]], None]:
    def apply(resource: dict[str, Any]) -> None:
        for item in _each(resource):
            if isinstance(item.get(key), list):
                item[key].sort(key=lambda entry: entry[by])

    return apply


NORMALISATIONS = (
    Normalisation("RDS", "the order of query parameters is that of a Go map", _sorted("query_parameters", "name")),
    Normalisation("RDS", "the order of virtual hosts means nothing", _sorted("virtual_hosts", "name")),
    Normalisation("LDS RDS CDS", "names of statistics", _without("stat_prefix", "alt_stat_name", "statPrefix")),
    Normalisation("LDS RDS CDS EDS", "ours alone: the file and line behind a policy", _our_source),
)


def normalised(short: str, resource: dict[str, Any]) -> dict[str, Any]:
    """Return a resource as it is compared."""
    resource = copy.deepcopy(resource)
    resource.pop("@type", None)
    for normalisation in NORMALISATIONS:
        if short in normalisation.types.split():
            normalisation.apply(resource)
    return resource


# ---------------------------------------------------------------- the comparison


@dataclass
class Case:
    """One client of one scenario, as files."""

    scenario: str
    path: Path

    @property
    def name(self) -> str:
        return f"{self.scenario}/{self.path.stem}"

    def load(self, book: Path) -> captures.Capture | str:
        """Return the capture with all of its YAML, or why it is left out."""
        capture = captures.load(self.path)
        listed = self.path.with_name("book.txt")
        for line in listed.read_text("utf-8").split() if listed.exists() else ():
            file = book / line
            if not file.exists():
                return "the book is not here"
            capture.files[f"book-{line.replace('/', '-')}"] = file.read_bytes()
        mesh = self.path.parent / "config" / "mesh.yaml.txt"
        capture.files["mesh.yaml"] = _config_map(mesh.read_text("utf-8") if mesh.exists() else INSTALLED)
        return capture


def _config_map(mesh: str) -> bytes:
    """Return the ConfigMap in which a cluster keeps this mesh configuration."""
    kind = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"}}
    return json.dumps({**kind, "data": {"mesh": mesh}}).encode()


def cases(folder: Path) -> Iterator[Case]:
    """Yield every client of every scenario below a folder."""
    for path in sorted(folder.rglob("*.jsonl")):
        if not (path.parent / "config").is_dir() or path.stem.endswith(".delta"):
            continue
        if '"dir":"note"' not in path.read_text("utf-8").replace('"dir": "note"', '"dir":"note"'):
            yield Case(str(path.parent.relative_to(folder)), path)


@dataclass
class Difference:
    """One resource that differs."""

    case: str
    short: str
    name: str
    paths: list[tuple[str, Any, Any]]


@dataclass
class Result:
    """What a comparison found.

    Attributes:
        verdicts: by type and content: whether it was equal wherever it occurred, and whether it is outbound.
        scenarios: equal and different resources by scenario.
        differences: each resource that differs.
        skipped: cases that could not be compared, with the reason.
    """

    verdicts: dict[tuple[str, str], tuple[bool, bool]] = field(default_factory=dict)
    scenarios: dict[str, Counter[str]] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return the counts, as the last line prints them."""
        verdicts = list(self.verdicts.values())
        return {
            "equal": sum(equal for equal, _ in verdicts),
            "different": sum(not equal for equal, _ in verdicts),
            "outbound_equal": sum(equal and outbound for equal, outbound in verdicts),
            "outbound_different": sum(not equal and outbound for equal, outbound in verdicts),
            "by_scenario": {name: dict(counts) for name, counts in sorted(self.scenarios.items())},
        }


ABSENT = "(absent)"


def differing(theirs: Any, ours: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield each place where two values differ, with both values."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            yield from differing(theirs.get(key, ABSENT), ours.get(key, ABSENT), f"{path}.{key}" if path else key)
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            yield from differing(one, other, f"{path}[{index}]")
    elif theirs != ours:
        yield path, theirs, ours


def _of_the_api_server(short: str, name: str, resource: dict[str, Any]) -> bool:
    """Tell whether a resource is of the API server's Service; its listener is named after an address."""
    return API_SERVER in name or (short == "LDS" and f"outbound|443||{API_SERVER}" in json.dumps(resource))


def compare(case: Case, capture: captures.Capture, result: Result) -> None:
    """Compare one client's resources."""
    ours_by_type = capture.translated()
    grpc = capture.node.kind.value == "grpc"
    counts = result.scenarios.setdefault(case.scenario, Counter(equal=0, different=0))
    for short, everything in capture.resources.items():
        theirs_by_name = {name: one for name, one in everything.items() if not _of_the_api_server(short, name, one)}
        ours_by_name = ours_by_type[short]
        names = [*theirs_by_name]
        if theirs_by_name and not grpc:  # a gRPC node asked for some names; ours has all
            names += [name for name in ours_by_name if name not in theirs_by_name and short in ("CDS", "LDS")]
        for name in names:
            theirs, ours = (by.get(name) for by in (theirs_by_name, ours_by_name))
            theirs = None if theirs is None else normalised(short, theirs)
            ours = None if ours is None else normalised(short, ours)
            content = json.dumps(ours if theirs is None else theirs, sort_keys=True)
            equal = theirs == ours
            before = result.verdicts.get((short, content), (True, True))
            result.verdicts[short, content] = (before[0] and equal, not any(word in name for word in FIXED))
            counts["equal" if equal else "different"] += 1
            if not equal:
                places = list(differing(ABSENT if theirs is None else theirs, ABSENT if ours is None else ours))
                result.differences.append(Difference(case.name, short, name, places))


def run(folders: list[Path], book: Path, only: str = "") -> Result:
    """Compare every case of some folders."""
    result = Result()
    for folder in folders:
        for case in cases(folder):
            if only not in case.name:
                continue
            capture = case.load(book)
            if isinstance(capture, str):
                result.skipped[case.name] = capture
                continue
            try:
                compare(case, capture, result)
            except Exception as error:  # noqa: BLE001  one case that cannot be translated must not hide the others
                result.skipped[case.name] = f"{type(error).__name__}: {error}"
                result.scenarios.setdefault(case.scenario, Counter())["failed"] += 1
    return result


# ---------------------------------------------------------------- what is explained


@dataclass(frozen=True)
class Explanation:
    """One row of docs/istiod-parity.md: where ours differs deliberately."""

    short: str
    nodes: str
    field: str

    def covers(self, short: str, client: str, path: str) -> bool:
        """Tell whether a difference is what the row is about."""
        grpc = client.rpartition("/")[2].startswith("grpc")
        return short == self.short and grpc == (self.nodes == "gRPC nodes") and _pattern(path).startswith(self.field)


def explanations() -> list[Explanation]:
    """Return the rows of the table of differences."""
    rows = (line.split("|") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| "))
    cells = ([cell.strip() for cell in row[1:-1]] for row in rows)
    return [Explanation(short, nodes, path.strip("`")) for short, nodes, path, _ in cells if path.startswith("`")]


def unexplained(result: Result) -> list[tuple[str, str, str, str]]:
    """Return case, type, name and path of each difference that no row is about."""
    rows = explanations()
    return [
        (each.case, each.short, each.name, path)
        for each in result.differences
        for path, _, _ in each.paths
        if not any(row.covers(each.short, each.case, path) for row in rows)
    ]


# ---------------------------------------------------------------- the report


def _short(value: Any) -> str:
    text = value if value == ABSENT else json.dumps(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _pattern(path: str) -> str:
    return "".join("[]" if part.isdigit() else part for part in path.replace("]", "[").split("["))


def report(result: Result, most: int) -> None:
    """Print what differs: first the kinds of differences, then each resource."""
    kinds = Counter((each.short, _pattern(path)) for each in result.differences for path, _, _ in each.paths)
    for (short, pattern), count in kinds.most_common(most):
        print(f"{count:6}  {short}  {pattern}")
    for each in result.differences[:most]:
        print(f"\n{each.case}  {each.short}  {each.name}")
        for path, theirs, ours in each.paths[:20]:
            print(f"    {path}\n      istiod:  {_short(theirs)}\n      meshlib: {_short(ours)}")
    for name, reason in result.skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of scenarios; default: the captures at hand")
    parser.add_argument("--book", type=Path, default=Path(os.environ.get("BOOK") or BOOK))
    parser.add_argument("--only", default="", help="scenario/client that contain this")
    parser.add_argument("--most", type=int, default=40, help="differences to print")
    options = parser.parse_args()
    whole = [PLACES[1] / name for name in ("istiod", "istiod-book") if (PLACES[1] / name).is_dir()]
    folders = options.folders or whole or [PLACES[0] / "parity"]
    result = run(folders, options.book, options.only)
    with contextlib.suppress(BrokenPipeError):
        report(result, options.most)
        print(json.dumps(result.summary()))


if __name__ == "__main__":
    main()
