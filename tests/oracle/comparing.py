"""Compares what was observed with what the real Envoy did; returns the differences, in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from oracle.replaying import Observation

Pairs = Iterable[tuple[str, str]]
EXPECTED_TIMEOUT = "x-envoy-expected-rq-timeout-ms"

# What every answer says; and what an exception, in place of a reply, does not.
TOLD = ("status", "route", "cluster", "flags", "attempts", "host_pattern", "client_aborted")
TOLD_BY_REPLIES = ("body", "body_truncated")


def differences(want: Observation, got: Observation) -> list[str]:
    """Return how ``got`` differs from the recorded ``want``."""
    if "unsendable" in got:
        return [got["unsendable"]]
    if "map" in want:
        return [f"map[{k}]: {v!r}, not {got['map'].get(k)!r}" for k, v in want["map"].items() if got["map"].get(k) != v]
    if "outcomes" in want:
        return [*_exact(want, got), *_ranges(want, got)]
    return [*_answer(want, got), *_attempts(want, got), *_timing(want, got)]


def _answer(want: Observation, got: Observation) -> Iterator[str]:
    replied = "headers" in got
    for key in (*TOLD, *(TOLD_BY_REPLIES if replied else ())):
        if key in want and not _varies(want, key) and want[key] != got.get(key):
            yield f"{key}: {want[key]!r}, not {got.get(key)!r}"
    # Of a request that was redirected the recorder wrote down the first of its hops.
    hop = want.get("details") == "internal_redirect"
    if (
        not hop
        and got.get("upstream_host") is not None
        and want.get("upstream_host") not in (None, got["upstream_host"])
    ):
        yield f"upstream_host: {want['upstream_host']!r}, not {got['upstream_host']!r}"
    if "attempts_range" in want and not want["attempts_range"][0] <= got["attempts"] <= want["attempts_range"][1]:
        yield f"attempts: {want['attempts_range']}, not {got['attempts']}"
    if "headers" in want and replied:
        yield from _headers("response headers", want["headers"], got["headers"], loose=_varies(want, "headers"))


def _attempts(want: Observation, got: Observation) -> Iterator[str]:
    for i, (asked, sent) in enumerate(zip(want.get("attempt_log", []), got["attempt_log"], strict=False)):
        for key in ("upstream", "method", "path", "host", "body_len"):
            if key in asked and asked[key] != sent.get(key):
                yield f"attempt {i} {key}: {asked[key]!r}, not {sent.get(key)!r}"
        if "headers" in asked:
            loose = _varies(want, f"attempt_log.{i}.headers")
            yield from _headers(f"attempt {i} headers", asked["headers"], sent["headers"], loose=loose)
    if "mirrors" in want and len(want["mirrors"]) != len(got["mirrors"]):
        yield f"mirrors: {len(want['mirrors'])}, not {len(got['mirrors'])}"


def _timing(want: Observation, got: Observation) -> Iterator[str]:
    took = want.get("elapsed_ms")
    # The upper bound is generous: a busy machine is slow, and that is no difference.
    if took and not took["min"] * 0.75 - 100 <= got["elapsed_ms"] <= took["max"] * 1.25 + 500:
        yield f"elapsed_ms: {took['min']} to {took['max']}, not {got['elapsed_ms']}"


def _headers(what: str, want: Pairs, got: Pairs, *, loose: bool) -> Iterator[str]:
    wanted, given = _multiset(want), _multiset(got)
    missing, extra = wanted - given, given - wanted
    if not missing:  # recorded only where its value is certain
        extra = Counter({pair: n for pair, n in extra.items() if pair[0] != EXPECTED_TIMEOUT})
    if missing or (extra and not loose):
        yield f"{what}: missing {dict(missing)}, extra {dict(extra)}"


def _multiset(pairs: Pairs) -> Counter[tuple[str, str]]:
    return Counter((key.lower(), value) for key, value in pairs)


def _exact(want: Observation, got: Observation) -> Iterator[str]:
    for key in want["exact"]:
        if key == "bodies" and not got["bodies"]:
            continue  # exceptions have none
        recorded, counted = _comparable(key, want, got)
        if recorded is None or recorded == counted:
            continue
        if key == "sequence":
            if not any(recorded == counted[i:] + counted[:i] for i in range(len(counted))):
                yield f"sequence: {recorded[:8]}, not {counted[:8]}"
        elif not (key.startswith("by_") and _rotated(recorded, counted)):
            yield f"{key}: {recorded}, not {_plain(counted)}"


def _rotated(want: Mapping[str, int], got: Mapping[str, int]) -> bool:
    """A rotation may start anywhere: one request more or less per host."""
    hosts = set(want) | set(got)
    return sum(want.values()) == sum(got.values()) and all(abs(want.get(h, 0) - got.get(h, 0)) <= 1 for h in hosts)


def _comparable(key: str, want: Observation, got: Observation) -> tuple[Any, Any]:
    recorded, counted = want[key], got.get(key)
    if key == "by_upstream":
        if any(not outcome.startswith("200") for outcome in want["outcomes"]):
            return None, None  # which host a failed request was meant for is not told
        recorded, counted = ({k: v for k, v in each.items() if k != "None"} for each in (recorded, counted))
    return recorded, counted


def _ranges(want: Observation, got: Observation) -> Iterator[str]:
    for key in want["ranges"]:
        recorded, counted = _comparable(key, want, got)
        if recorded is None:
            continue
        if not isinstance(counted, Mapping):
            recorded, counted = {"": recorded}, {"": counted}
        for name in {*recorded, *counted}:
            if not _near(counted.get(name, 0), recorded.get(name, {"min": 0, "max": 0, "mean": 0}), want["count"]):
                yield f"{key}[{name}]: {recorded.get(name)}, not {counted.get(name, 0)}"


def _near(count: float, recorded: Mapping[str, float], total: int) -> bool:
    """Within four sigma of a binomial, and at least three."""
    mean = recorded.get("mean", (recorded["min"] + recorded["max"]) / 2)
    share = min(1.0, max(0.0, mean / max(total, 1)))
    slack = max(4 * math.sqrt(total * share * (1 - share)), 3, 0.02 * total)
    return min(recorded["min"], mean) - slack <= count <= max(recorded["max"], mean) + slack


def _varies(want: Observation, path: str) -> bool:
    return any(value == path or value.startswith(f"{path}.") for value in want.get("varies", []))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Counter) else value
