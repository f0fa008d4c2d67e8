"""Every case file of the corpus, against what the real Envoy did."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

import pytest

import meshlib
from oracle import cases
from oracle.clients import Client
from oracle.comparing import differences
from oracle.not_yet import NOT_YET, Chance
from oracle.replaying import Replay
from transports.scripted import Upstreams

NAMES = cases.names()
# Both drivers and both modes share one engine: a sample in the other combinations is enough.
SAMPLE = [
    *(name for name in NAMES if name.startswith("routing/") and "validate" not in name and "stat" not in name),
    *(f"resilience/{name}" for name in ("retry-on-5xx", "timeout-basic", "timeout-per-try", "fault-config")),
    *(f"resilience/{name}" for name in ("num-retries", "previous-hosts", "cb-pending", "retry-vhost-level")),
]


def replayed(name, *, blocking=False, local_replies="response"):
    """Replay a file; returns the differences of each observation that differs."""
    case = cases.load(name)
    recorded = [o for o in case["observed"] if o.get("in_process") is not False]
    if case.get("kind") == "validate":
        observed = [{"id": step["id"], "accepted": accepted(case, step)} for step in case["requests"]]
    else:
        try:
            with fixed_addresses(case), Upstreams() as upstreams:
                replay = Replay(case, upstreams, blocking=blocking, local_replies=local_replies)
                observed = asyncio.run(replay.run())
        except meshlib.BootstrapError as error:
            return {observation["id"]: [str(error)] for observation in recorded}
    by_id = {observation["id"]: observation for observation in observed}
    found = {}
    for want in recorded:
        got = by_id[want["id"]]
        if "accepted" in want:
            differs = [] if want["accepted"] == got["accepted"] else [f"accepted: {want['accepted']}"]
        else:
            differs = differences(want, got)
        if differs:
            found[want["id"]] = differs
    return found


@contextlib.contextmanager
def fixed_addresses(case):
    """Where addresses are hashed, the ones recorded are listened on: one run of the tests at a time."""
    if not case.get("fixed_addresses"):
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has all of 127.0.0.0/8")
    import fcntl

    with (Path(tempfile.gettempdir()) / "meshlib-tests-fixed-addresses").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def accepted(case, step):
    """Whether the configuration of a validation step is taken."""
    base = {key: case.get(key, default) for key, default in (("route_config", {}), ("clusters", []))}
    config = cases.rendered(cases.merged(base, step["config"]), lambda _name: ("127.0.0.1", 9))
    try:
        client = Client(cases.bootstrap(config), blocking=True, local_replies="response")
        client.start()
    except meshlib.BootstrapError:
        return False
    asyncio.run(client.close())
    return True


def judge(name, found):
    """The differences are exactly those that are listed."""
    listed = NOT_YET.get(name, {})
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
    judge(name, replayed(name, blocking=True))


@pytest.mark.parametrize("name", SAMPLE)
def test_records_of_exceptions_as_envoy(name):
    """The same with exceptions in place of local replies: the record says what the reply would have said."""
    found = replayed(name, local_replies="raise")
    if name in NOT_YET:
        return  # what a reply alone would show may agree
    judge(name, found)


def test_the_table_names_what_is_there():
    assert set(NOT_YET) <= set(NAMES)
    for name, listed in NOT_YET.items():
        if isinstance(listed, dict):
            ids = {o["id"] for o in cases.load(name)["observed"] if o.get("in_process") is not False}
            assert set(listed) <= ids, name
