"""Every case file of the corpus, against what the real Envoy did."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oracle import cases
from oracle.not_yet import CANNOT, NOT_YET, Chance
from oracle.verdicts import MODES, Mode, judged, recorded

NAMES = cases.names()
# Both drivers and both modes share one engine: a sample in the other combinations is enough.
SAMPLE = [
    *(name for name in NAMES if name.startswith("routing/") and "validate" not in name and "stat" not in name),
    *(f"resilience/{name}" for name in ("retry-on-5xx", "timeout-basic", "timeout-per-try", "fault-config")),
    *(f"resilience/{name}" for name in ("num-retries", "previous-hosts", "cb-pending", "retry-vhost-level")),
]


LISTED = NOT_YET | CANNOT
# A busy machine is slow, and that is no difference.
PATIENCE = 0.5


def replayed(name, mode=MODES[0]):
    """Replay a file; returns the differences of each observation that differs."""
    try:
        return judged(cases.load(name), mode, late=PATIENCE)
    except NotImplementedError as error:
        pytest.skip(str(error))


def judge(name, found):
    """The differences are exactly those that are listed."""
    listed = LISTED.get(name, {})
    if isinstance(listed, str):
        assert found, f"{name} agrees with Envoy now: delete its line in not_yet.py ({listed})"
        return
    unexpected = {key: value for key, value in found.items() if key not in listed}
    assert not unexpected, "\n".join(f"{name}/{key}: {line}" for key, lines in unexpected.items() for line in lines)
    agreeing = [key for key, reason in listed.items() if key not in found and not isinstance(reason, Chance)]
    assert not agreeing, f"{name} agrees with Envoy now in {agreeing}: delete these lines in not_yet.py"


@pytest.mark.parametrize("name", NAMES)
def test_as_envoy(name):
    judge(name, replayed(name))


@pytest.mark.parametrize("name", SAMPLE)
def test_blocking_as_envoy(name):
    judge(name, replayed(name, Mode(blocking=True)))


@pytest.mark.parametrize("name", SAMPLE)
def test_records_of_exceptions_as_envoy(name):
    """The same with exceptions in place of local replies: the record says what the reply would have said."""
    found = replayed(name, Mode(local_replies="raise"))
    if name in LISTED:
        return  # what a reply alone would show may agree
    judge(name, found)


def test_the_table_names_what_is_there():
    assert set(LISTED) <= set(NAMES)
    assert not NOT_YET.keys() & CANNOT.keys()
    for name, listed in LISTED.items():
        if isinstance(listed, dict):
            ids = {observation["id"] for observation in recorded(cases.load(name))}
            assert set(listed) <= ids, name


def test_the_page_says_what_cannot_be_equal():
    page = (Path(__file__).parents[2] / "docs" / "envoy-parity.md").read_text()
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", page, re.MULTILINE))
    said = {}
    for name, listed in CANNOT.items():
        said |= {name: listed} if isinstance(listed, str) else {f"{name}/{key}": why for key, why in listed.items()}
    assert rows == said
